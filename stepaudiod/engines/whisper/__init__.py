"""Whisper, by ctranslate2 and by transformers."""
