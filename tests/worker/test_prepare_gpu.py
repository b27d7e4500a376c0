"""The GPU's context, made beside the imports."""

from __future__ import annotations

import pytest

from stepaudiod.worker.cuda_context import make_context


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda", "cuda:63"])
def test_a_missing_gpu_is_no_error_here(device: str) -> None:
    make_context(device)
