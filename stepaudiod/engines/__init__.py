"""The engines, and their catalog."""
