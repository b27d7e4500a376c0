"""What is around CUDA graphs, and needs no GPU."""

from __future__ import annotations

import pytest
import torch

from stepaudiod.editx.cuda_graphs import BatchGraphs, with_memory


def test_a_batch_has_one_size_with_graphs_and_without() -> None:
    """Products of another size would round in another way."""
    sizes = []

    def run(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return x

    x = torch.arange(33.0)
    assert torch.equal(BatchGraphs(run).run(x, is_recorded=False), x)
    assert sizes == [64]


def test_what_lacks_memory_is_tried_once_more() -> None:
    tries = iter([torch.OutOfMemoryError(), None, torch.OutOfMemoryError(), torch.OutOfMemoryError()])

    def run() -> str:
        if (error := next(tries)) is not None:
            raise error
        return "done"

    assert with_memory(run) == "done"
    with pytest.raises(torch.OutOfMemoryError):
        with_memory(run)
