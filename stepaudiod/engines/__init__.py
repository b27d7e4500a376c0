"""What turns text into audio, and the catalog of it."""
