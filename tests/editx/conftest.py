"""Checkpoints and pipelines with random weights, made once a session."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.loading import Networks, load_networks
from stepaudiod.editx.pipeline import Pipeline, PipelineOptions
from tests.editx.trees import write_tree

CPU = torch.device("cpu")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The smallest checkpoint; not to be written to."""
    return write_tree(tmp_path_factory.mktemp("micro"), "micro")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The checkpoint that the golden was made with, but for vocabulary and centroids."""
    return write_tree(tmp_path_factory.mktemp("tiny"), "tiny")


@pytest.fixture(scope="session")
def networks(micro: Checkpoint) -> Networks:
    """The smallest networks, in float32."""
    with torch.inference_mode():
        return load_networks(micro, CPU, torch.float32)


@pytest.fixture
def pipeline(networks: Networks) -> Pipeline:
    """A pipeline that takes what random weights give it for speech."""
    return Pipeline(networks, PipelineOptions(is_output_checked=False, rows=3, length=2048))


@pytest.fixture(scope="session")
def voice() -> NDArray[np.float32]:
    """Three seconds at 24 kHz of something with a pitch, pauses around it."""
    t = np.arange(72000) / 24000
    pitch = 140 + 30 * np.sin(2 * np.pi * 0.7 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / 24000
    sound = sum(np.sin(k * phase) / k for k in range(1, 8)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))
    sound[:7000] = sound[-7000:] = 0.0
    return (0.1 * sound + 1e-4 * np.random.default_rng(0).standard_normal(t.size)).astype(np.float32)
