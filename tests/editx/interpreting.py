"""Triton's interpreter, where it needs mending: import this before kernels."""

from __future__ import annotations

import os
from typing import Any

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if IS_INTERPRETED:
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        """Scalars are arrays of one value, which NumPy 2.4 no longer takes for a loop's bound."""
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched
