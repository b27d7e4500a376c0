"""Kokoro-82M by onnxruntime, English and Mandarin."""
