"""The checks of `stepaudioctl doctor`, by subject. None of them connects to a sleeping daemon."""
