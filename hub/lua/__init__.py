"""Scripts that Redis runs as one step, one per file. Each begins with KEYS, ARGV, what it returns and why it is one."""
