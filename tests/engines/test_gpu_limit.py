"""The limit of what PyTorch holds of a GPU: what is cached makes room, and no more is taken."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from stepaudiod.engines.gpu_limit import full, limit, raise_limit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
MIB = 1 << 20


@pytest.fixture
def held() -> Iterator[int]:
    """Bytes that PyTorch holds at the beginning of a limit of 100 MiB more."""
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()
    limit("cuda", 100 * MIB)
    yield held
    torch.cuda.set_per_process_memory_fraction(1.0)


def allocate(mebibytes: int) -> torch.Tensor:
    return torch.empty(mebibytes * MIB, dtype=torch.uint8, device="cuda")


def test_what_one_stream_has_cached_makes_room_for_another(held: int) -> None:
    for _ in range(3):
        with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
            allocate(80)
        assert torch.cuda.memory_reserved() <= held + 100 * MIB


def test_what_another_engine_takes_comes_on_top(held: int) -> None:
    with pytest.raises(torch.cuda.OutOfMemoryError):
        allocate(160)
    assert "step_audio.gpu_memory allows no more" in full().message
    raise_limit("cuda", 100 * MIB)
    allocate(160)
    assert torch.cuda.memory_reserved() <= held + 200 * MIB
