"""Lets gradio be imported in half the time: without what a page doesn't need.

gradio parses the source of each of its seventy components at every import, to keep an interface file for
editors beside it up to date. Nobody edits programs where a page is drawn. And it imports pandas for tables.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import LazyLoader
from types import ModuleType

WRITER = "gradio.component_meta"
"""The module that writes them, and its function."""
WRITES = "create_or_modify_pyi"
FOR_TABLES = "pandas"


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
    """Finds that module, and pandas, which isn't run before somebody uses it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where it is, with our loader."""
        if fullname not in (WRITER, FOR_TABLES):
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.origin is None or spec.loader is None:
            return None
        spec.loader = _Quiet(fullname, spec.origin) if fullname == WRITER else LazyLoader(spec.loader)
        return spec


def install() -> None:
    """From here on; to be called before gradio is imported."""
    sys.meta_path.insert(0, _Finder())
