"""The language model: weights, decode steps, KV cache and scheduling."""
