"""`stepaudioctl`, the command line of whoever talks to the daemon: one module a command."""
