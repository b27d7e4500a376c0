"""The worker process: frames, the child process, and the front's side of it."""
