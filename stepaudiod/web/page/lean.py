"""Lets gradio be imported in half the time: it doesn't write down, for editors, what its components can do.

gradio parses the source of each of its seventy components at every import, to keep an interface file beside
it up to date. Nobody edits programs where a page is drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

WRITER = "gradio.component_meta"
"""The module that writes them, and its function."""
WRITES = "create_or_modify_pyi"


class _Quiet(SourceFileLoader):
    """Loads the module, and takes the function out of it."""

    def exec_module(self, module: ModuleType) -> None:
        """Run it.

        Raises:
            AttributeError: another version of gradio has no such function.
        """
        super().exec_module(module)
        getattr(module, WRITES)
        setattr(module, WRITES, lambda *_: None)


class _Finder(MetaPathFinder):
    """Finds that one module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where it is, with our loader."""
        if fullname != WRITER:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.origin is not None:
            spec.loader = _Quiet(fullname, spec.origin)
        return spec


def install() -> None:
    """From here on; to be called before gradio is imported."""
    sys.meta_path.insert(0, _Finder())
