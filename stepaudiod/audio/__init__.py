"""Samples and bytes: joining, tempo, encoding, decoding. Independent of the models."""
