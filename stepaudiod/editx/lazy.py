"""A value that is made at its first use. Independent of what it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lazy(Generic[T]):
    """What `make` returns, made once; an error is raised at each use until it succeeds."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: list[T] = []
        self._making = threading.Lock()

    def get(self) -> T:
        """Return the value; if another thread is making it, wait for that."""
        with self._making:
            if not self._made:
                self._made.append(self._make())
            return self._made[0]
