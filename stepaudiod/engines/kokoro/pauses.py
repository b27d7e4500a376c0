"""Pauses after pieces of text."""

from stepaudiod.text.sentences import Break

PAUSES_S = {Break.NONE: 0.03, Break.CLAUSE: 0.15, Break.SENTENCE: 0.35, Break.PARAGRAPH: 0.7}
"""Seconds at speed 1.0."""
