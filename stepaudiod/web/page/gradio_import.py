"""Halves the time of gradio's import, by leaving out what a page does not need.

At every import gradio parses the source of each of its seventy components, to update an interface file for
editors. And it imports pandas for tables.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import LazyLoader
from types import ModuleType

WRITER = "gradio.component_meta"
"""The module and function that write the interface files."""
WRITES = "create_or_modify_pyi"
FOR_TABLES = "pandas"


class _Quiet(SourceFileLoader):
    """Loads the module, and replaces the function."""

    def exec_module(self, module: ModuleType) -> None:
        """Load the module.

        Raises:
            AttributeError: this version of gradio has no such function.
        """
        super().exec_module(module)
        getattr(module, WRITES)
        setattr(module, WRITES, lambda *_: None)


class _Finder(MetaPathFinder):
    """Finds that module, and pandas, which is imported at its first use."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in (WRITER, FOR_TABLES):
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.origin is None or spec.loader is None:
            return None
        spec.loader = _Quiet(fullname, spec.origin) if fullname == WRITER else LazyLoader(spec.loader)
        return spec


def install() -> None:
    """Take effect; call it before gradio is imported."""
    sys.meta_path.insert(0, _Finder())
