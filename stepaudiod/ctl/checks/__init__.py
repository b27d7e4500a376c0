"""What `stepaudioctl doctor` looks at: one subject a module. Nothing here connects to a sleeping daemon."""
