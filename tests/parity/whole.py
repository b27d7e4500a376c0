"""Whole utterances through the decoder, in one go; the product decodes in chunks only."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stepaudiod.editx.codes import MEL_FRAMES_PER_FRAME
from stepaudiod.editx.decoder.config import STEPS
from stepaudiod.editx.decoder.dit import EstimatorState
from stepaudiod.editx.decoder.flow import Acoustics, Flow, FlowPart, align_mel
from stepaudiod.editx.decoder.source import HARMONICS, HarmonicSource
from stepaudiod.editx.decoder.token_encoder import EncoderState
from stepaudiod.editx.decoder.vocoder import Vocoder
from stepaudiod.editx.tokenizers.features import HOP, SAMPLE_RATE


def whole_part(flow: Flow, columns: Tensor, acoustics: Acoustics, noise: Tensor) -> FlowPart:
    """The inputs of a solve of reference and utterance; noise `(80, n)` of at least their frames."""
    everything = torch.cat((acoustics.columns.to(flow.device), columns.to(flow.device)))
    total = MEL_FRAMES_PER_FRAME * everything.shape[0]
    prompt = MEL_FRAMES_PER_FRAME * acoustics.columns.shape[0]
    encoded = flow.encoder.encode_chunk(flow.embed(everything), EncoderState(), is_last=True)
    mu = flow.encoder_proj(encoded)[0].T.contiguous()  # (80, total)
    condition = F.pad(align_mel(acoustics.mel, prompt).T.to(mu), (0, total - prompt))
    states = [EstimatorState() for _ in range(STEPS)]
    return FlowPart(noise[:, :total].to(mu), mu, condition, flow.speaker(acoustics.embedding), states)


def whole_mel(flow: Flow, columns: Tensor, acoustics: Acoustics, noise: Tensor) -> Tensor:
    """Codes to mel: `(frames, 2)` to `(80, 2 * frames)`."""
    solved = flow.solve(whole_part(flow, columns, acoustics, noise))
    return solved[:, MEL_FRAMES_PER_FRAME * acoustics.columns.shape[0] :]


def whole_sound(vocoder: Vocoder, mel: Tensor, noise: Tensor, *, is_reference: bool = False) -> Tensor:
    """Mel to sound: `(80, frames)` and `(480 * frames, 9)` of noise to `(480 * frames,)`."""
    pitch = vocoder.f0_predictor(mel)
    excite = reference_source if is_reference else HarmonicSource.__call__
    return vocoder.decode(mel[None], excite(vocoder.m_source, pitch, noise)[None])[0]


def reference_source(source: HarmonicSource, pitch: Tensor, noise: Tensor) -> Tensor:
    """The source with phases in float32, as the reference computes them."""
    harmonics = torch.arange(1, HARMONICS + 1, device=pitch.device, dtype=pitch.dtype)[:, None]
    summed = torch.cumsum(pitch * harmonics / SAMPLE_RATE % 1, dim=1)
    phase = F.interpolate((summed * 2 * math.pi * HOP)[None], scale_factor=HOP, mode="linear")[0]
    return source.mix(torch.sin(phase), pitch, noise)
