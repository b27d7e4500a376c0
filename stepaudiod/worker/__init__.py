"""The process border: frames, the child, and the child as the front sees it."""
