"""Encoders whose weights stay on the host: on the device they are while their modules run, and only then."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.host_weights import run_from_host
from stepaudiod.editx.network_files import NetworkFiles

META = torch.device("meta")
"""A device on which operations with tensors of the host fail."""


@torch.inference_mode()
def test_every_weight_that_an_encoder_uses_is_brought_to_the_device(micro: Checkpoint) -> None:
    encoders = NetworkFiles(micro, META, None, keeps_encoders=False).encoders()
    waveform = torch.zeros(48000, device=META)
    made = encoders.linguistic(waveform), encoders.semantic(waveform), encoders.speaker.embed(waveform)
    assert all(each.device == META for each in made)
    for encoder in encoders:
        assert not any(tensor.is_meta for tensor in encoder.state_dict().values())


def test_an_error_leaves_nothing_on_the_device() -> None:
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(9, 8))
    run_from_host(network, META)
    with pytest.raises(RuntimeError):
        network(torch.zeros(2, 8, device=META))
    assert not any(parameter.is_meta for parameter in network.parameters())
