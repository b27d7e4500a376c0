"""Makes the runners that suit the networks' device: eager on a processor, CUDA graphs on a GPU."""

from __future__ import annotations

from stepaudiod.editx.decoder.eager import EagerDecoder
from stepaudiod.editx.decoder.flow import Flow
from stepaudiod.editx.decoder.runner import DecoderRunner
from stepaudiod.editx.decoder.vocoder import Vocoder
from stepaudiod.editx.lm.eager_runner import EagerRunner
from stepaudiod.editx.lm.runner import LMRunner
from stepaudiod.editx.lm.step1 import Step1ForCausalLM

DEFAULT_ROWS = 4
"""Sequences that decode at once on a processor."""


def make_lm_runner(model: Step1ForCausalLM, rows: int | None, length: int, positions: int) -> LMRunner:
    """Make a runner of the language model.

    `rows` are for a processor, None for the default. `length` is the most positions of one sequence,
    `positions` those of all together, on a GPU.
    """
    if model.device.type == "cuda":
        from stepaudiod.editx.lm.cuda_runner import CudaRunner  # Triton comes with PyTorch's CUDA build only

        return CudaRunner(model, length, positions)
    return EagerRunner(model, rows or DEFAULT_ROWS, length)


def make_decoder_runner(flow: Flow, vocoder: Vocoder) -> DecoderRunner:
    if flow.device.type == "cuda":
        from stepaudiod.editx.decoder.cuda_runner import CudaDecoder  # the same

        return CudaDecoder(flow, vocoder)
    return EagerDecoder(flow, vocoder)
