"""Live delivery to connected clients, on one node and across nodes."""
