"""The HTTP edge: every path of the service, what it reads and what it answers."""
