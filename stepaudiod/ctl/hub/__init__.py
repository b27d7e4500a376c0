"""Published models: the catalog, downloading from a model hub, and the installed models.

Only `stepaudioctl models` uses this; the daemon never downloads models.
"""
