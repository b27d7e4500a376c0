"""The smallest checkpoint of random weights, for other tests; they are skipped without torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepaudiod.editx.checkpoint.layout import Checkpoint


def write_checkpoint(models: Path) -> Checkpoint:
    """Write it to a folder of models."""
    pytest.importorskip("torch")
    from tests.editx.trees import write_tree

    return write_tree(models, "micro")
