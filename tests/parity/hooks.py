"""What passes through a module while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

Calls = list[tuple[tuple[Any, ...], Any]]


@contextmanager
def recorded(module: nn.Module) -> Iterator[Calls]:
    """Collect a module's calls: positional arguments and result."""
    calls: Calls = []
    handle = module.register_forward_hook(lambda _, given, made: calls.append((given, made)))
    try:
        yield calls
    finally:
        handle.remove()
