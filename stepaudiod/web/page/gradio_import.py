"""Halves gradio's import time by skipping what the page doesn't need.

At every import gradio parses the source of its seventy components to update their interface files for
editors. It also imports pandas for tables.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import LazyLoader
from types import ModuleType

PYI_MODULE = "gradio.component_meta"
PYI_FUNCTION = "create_or_modify_pyi"
"""Writes the interface files."""
LAZY = "pandas"


class _WithoutPyi(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        getattr(module, PYI_FUNCTION)  # fails where this version of gradio has no such function
        setattr(module, PYI_FUNCTION, lambda *_: None)


class _Finder(MetaPathFinder):
    """Replaces the loaders of the two modules; pandas is loaded at its first use."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in (PYI_MODULE, LAZY):
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.origin is None or spec.loader is None:
            return None
        if fullname == PYI_MODULE:
            spec.loader = _WithoutPyi(fullname, spec.origin)
        else:
            spec.loader = LazyLoader(spec.loader)
        return spec


def install() -> None:
    """Install the import hook; call this before gradio is imported."""
    sys.meta_path.insert(0, _Finder())
