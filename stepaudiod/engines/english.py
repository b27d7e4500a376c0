"""English spelling to phonemes: hibari's converter, shared by the engines, loaded quickly."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from pydantic_core import from_json


class _Later:
    """hibari's second lexicon, read when the first one lacks a word: most sentences never need it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._entries: dict[str, Any] | None = None

    def get(self, word: str) -> Any:
        if self._entries is None:
            self._entries = _read(self._name)
        return self._entries.get(word)


def load_g2p(british: bool = False) -> Any:
    """Hibari's `G2P`, less its rarely needed half.

    The same as `G2P(british=british)` without its second lexicon, in about half the time.
    """
    from hibari import g2p

    accent = "gb" if british else "us"
    converter = g2p.G2P.__new__(g2p.G2P)
    converter.lexicon = g2p.Lexicon(
        _read(f"lexicon_{accent}_gold.json.gz"), _Later(f"lexicon_{accent}_silver.json.gz"), british
    )
    converter.tokenizer = g2p.Tokenizer(_read("tokenizer_exceptions.json"))
    converter.tagger = g2p.Tagger(_read("tagger.json.gz"))
    converter._oov, converter.unk, converter.british = None, "", british
    return converter


def _read(name: str) -> Any:
    """One of hibari's tables: megabytes of strings, which pydantic's parser reads faster than `json`."""
    import hibari

    data = (Path(hibari.__file__).parent / "assets" / name).read_bytes()
    return from_json(gzip.decompress(data) if name.endswith(".gz") else data, cache_strings="none")
