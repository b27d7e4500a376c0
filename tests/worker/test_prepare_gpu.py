"""What a GPU needs, made beside the imports."""

from __future__ import annotations

import pytest

from stepaudiod.worker.prepare_gpu import make_triton_key, prepare_gpu


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda", "cuda:63", "cuda:x"])
def test_a_missing_gpu_is_no_error_here(device: str) -> None:
    prepare_gpu(device)


def test_triton_remembers_the_key_that_was_made() -> None:
    cache = pytest.importorskip("triton.runtime.cache", reason="Triton comes with PyTorch's CUDA build")
    cache.triton_key.cache_clear()
    make_triton_key()
    assert cache.triton_key.cache_info().currsize == 1
