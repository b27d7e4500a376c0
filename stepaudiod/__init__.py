"""stepaudiod: speech that isn't running until you connect."""

__version__ = "0.1.0"
