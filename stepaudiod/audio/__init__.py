"""Samples and bytes: joining, tempo, encoding, decoding. Knows no model."""
