"""A JSON object with sorted keys, searched without parsing, which would take longer than its use."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic_core import from_json

SAMPLES = 64
"""Keys that are compared to check the order."""
LONGEST = 1000
"""Size of the longest object that is a value."""
REMEMBERED = 32_768
"""Keys whose values are cached."""


class SortedJson:
    """`dict.get` on the bytes of a compact JSON object of strings and of objects of strings.

    The first lookup of a key takes some 20 µs. If the keys aren't in order, the whole object is parsed. The
    data is in UTF-8, without whitespace between its parts and without escapes in its keys.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        starts = (self._entry(len(data) * part // SAMPLES) for part in range(SAMPLES))
        keys = [self._key(start) for start in starts if start < len(data)]
        is_sorted = data.startswith(b'{"') and keys == sorted(keys)
        self.get = (
            lru_cache(REMEMBERED)(self._search) if is_sorted else from_json(data, cache_strings="none").get
        )

    def _search(self, key: str) -> Any:
        """The value of a key, None if there is none, by bisection."""
        wanted = key.encode("utf-8", "surrogatepass")
        low, high = 0, len(self._data)
        while low < high:
            middle = (low + high) // 2
            start = self._entry(middle)
            if start < high and self._key(start) < wanted:
                low = start + 1
            else:
                high = middle
        start = self._entry(low)
        if start == len(self._data) or self._key(start) != wanted:
            return None
        entry = self._data[start : self._entry(start + 1)].rstrip(b",}")
        return from_json(b"{" + entry + (b"}}" if b"{" in entry else b"}"))[key]

    def _entry(self, at: int) -> int:
        """The opening quote of the first entry at or after a position; the end if there is none."""
        if at <= 1:
            return 1 if self._data.startswith(b'{"') else len(self._data)
        found = self._data.find(b',"', at - 1)
        while found >= 0 and self._is_inside(found):
            found = self._data.find(b',"', self._data.index(b"}", found))
        return len(self._data) if found < 0 else found + 1

    def _is_inside(self, at: int) -> bool:
        """Whether a position is inside an object that is a value."""
        first = max(1, at - LONGEST)
        return self._data.rfind(b"{", first, at) > self._data.rfind(b"}", first, at)

    def _key(self, start: int) -> bytes:
        return self._data[start + 1 : self._data.index(b'"', start + 1)]
