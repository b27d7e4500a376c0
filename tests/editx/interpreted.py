"""Triton's interpreter with NumPy 2.4, which no longer turns an array of one number into a number."""

from __future__ import annotations

from typing import Any

from triton.runtime import interpreter


def allow_computed_ranges() -> None:
    """Let kernels loop over ranges whose ends are computed."""
    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched
