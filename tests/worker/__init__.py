"""The worker's own parts, without a front."""
