"""Published models: which there are, how they come from a model hub, and what of them lies here.

Only `stepaudioctl models` uses this; the daemon never calls out.
"""
