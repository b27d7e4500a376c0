"""`stepaudioctl`, the command line client of the daemon: one module for each command."""
