"""English spelling to phonemes: hibari's converter, shared by the engines, loaded quickly."""

from __future__ import annotations

from typing import Any


class _Later:
    """hibari's second lexicon, read when the first one lacks a word: most sentences never need it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._entries: dict[str, Any] | None = None

    def get(self, word: str) -> Any:
        if self._entries is None:
            from hibari.g2p import _load_json

            self._entries = _load_json(self._name)
        return self._entries.get(word)


def load_g2p(british: bool = False) -> Any:
    """Hibari's `G2P`, less its rarely needed half.

    The same as `G2P(british=british)`, in about two thirds of the time.
    """
    from hibari import g2p

    accent = "gb" if british else "us"
    converter = g2p.G2P.__new__(g2p.G2P)
    converter.lexicon = g2p.Lexicon(
        g2p._load_json(f"lexicon_{accent}_gold.json.gz"), _Later(f"lexicon_{accent}_silver.json.gz"), british
    )
    converter.tokenizer = g2p.Tokenizer(g2p._load_json("tokenizer_exceptions.json"))
    converter.tagger = g2p.Tagger(g2p._load_json("tagger.json.gz"))
    converter._oov, converter.unk, converter.british = None, "", british
    return converter
