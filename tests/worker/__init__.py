"""The worker's parts, without a front."""
