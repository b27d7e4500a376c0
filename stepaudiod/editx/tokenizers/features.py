"""The networks' inputs: level, trimming, and three kinds of spectrogram. Independent of the networks.

    waveform ── stage A: mono, peak at most 0.6 ──┬── 24 kHz ── prompt mel ──────────────── flow decoder
                                                  ├── 16 kHz ── Kaldi filter bank ───────── CAM++
                                                  └── 16 kHz ── stage B: trimmed ──┬─────── linguistic codes
                                                                                   └─ mel ─ semantic codes

Every function is deterministic and works on the device of its input.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stepaudiod.audio.mel import mel_filters

PEAK_LIMIT = 0.6
CODE_RATE = 16000
"""Sample rate of everything that is tokenised or identified, in Hz."""
SAMPLE_RATE = 24000
"""Sample rate of the prompt mel and of all output, in Hz."""
HOP = 480
"""Samples at 24 kHz per mel frame."""
MEL_WINDOW = 4 * HOP
FLOAT32_EPSILON = 1.1920928955078125e-07

TRIM_FRAME, TRIM_HOP, TRIM_DB = 512, 128, 20.0
TRIM_STEP = 240
TRIM_LEAD = 800
TRIM_TAIL = 4320


def to_mono(waveform: Tensor) -> Tensor:
    """Mix channels down: `(channels, samples)` or `(samples,)` to `(samples,)`."""
    return waveform.mean(dim=0) if waveform.dim() > 1 else waveform


def limit_peak(waveform: Tensor) -> Tensor:
    """Stage A: scale down to a peak of 0.6; quieter audio is left unchanged."""
    peak = waveform.abs().max()
    return waveform / peak * PEAK_LIMIT if peak > PEAK_LIMIT else waveform


def voiced_bounds(waveform: Tensor) -> tuple[int, int]:
    """The first and the last frame of `(samples,)` within 20 dB of the loudest.

    Returns:
        Start and end in samples, both 0 if there is none. Pure silence counts as sound.

    Source: librosa's `effects.trim` with frames of 512, a hop of 128 and `top_db` 20.
    """
    padded = F.pad(waveform.double(), (TRIM_FRAME // 2, TRIM_FRAME // 2))
    power = padded.unfold(-1, TRIM_FRAME, TRIM_HOP).square().mean(-1)  # (frames,)
    level = 10.0 * torch.log10(power.clamp_min(1e-10))
    loud = torch.nonzero(level > level.max() - TRIM_DB).flatten()
    if loud.numel() == 0:
        return 0, 0
    return int(loud[0]) * TRIM_HOP, min(waveform.shape[-1], (int(loud[-1]) + 1) * TRIM_HOP)


def trim_for_codes(waveform: Tensor) -> Tensor:
    """Stage B: full level, and silence at the ends only as long as the tokenisers were trained with.

    Returns:
        `(240 * ceil(voiced / 240) + 4320,)` at 16 kHz: 0.05 s before the sound, then 0.22 s after it.
    """
    loud = waveform / waveform.abs().max().clamp_min(0.01) * 0.999
    start, end = voiced_bounds(loud)
    length = -(-(end - start) // TRIM_STEP) * TRIM_STEP + TRIM_TAIL
    first = start - TRIM_LEAD
    loud = loud[first:] if first > 0 else F.pad(loud, (-first, 0))
    return F.pad(loud, (0, max(0, length - loud.shape[-1])))[:length]


def kaldi_filter_bank(waveform: Tensor, window: Literal["hamming", "povey"]) -> Tensor:
    """Kaldi's 80-bin log mel filter bank at 16 kHz: 25 ms frames every 10 ms, no padding, no dither.

    The samples have the scale that the consumer expects (CAM++ -1..1, Paraformer times 32768); the window
    `povey` is Hann to the power of 0.85.

    Returns:
        `(frames, 80)`, natural logarithm floored at float32's epsilon; no rows for less than 400 samples.

    Source: `torchaudio.compliance.kaldi.fbank`.
    """
    if waveform.shape[-1] < 400:
        return waveform.new_zeros(0, 80)
    frames = waveform.unfold(-1, 400, 160)  # (frames, 400)
    frames = frames - frames.mean(dim=1, keepdim=True)
    previous = torch.cat((frames[:, :1], frames[:, :-1]), dim=1)
    frames = (frames - 0.97 * previous) * _kaldi_window(window).to(frames)
    power = torch.fft.rfft(F.pad(frames, (0, 112))).abs().pow(2.0)  # (frames, 257)
    energies: Tensor = power @ _kaldi_mel_bank().to(power)
    return energies.clamp_min(FLOAT32_EPSILON).log()


@lru_cache(maxsize=2)
def _kaldi_window(name: str) -> Tensor:
    if name == "hamming":
        return torch.hamming_window(400, periodic=False, alpha=0.54, beta=0.46)
    return torch.hann_window(400, periodic=False).pow(0.85)


@lru_cache(maxsize=1)
def _kaldi_mel_bank() -> Tensor:
    """(257, 80): triangles in the mel domain from 20 Hz to 8 kHz, the Nyquist bin unused."""
    low, high = 1127.0 * math.log(1.0 + 20.0 / 700.0), 1127.0 * math.log(1.0 + 8000.0 / 700.0)
    step = (high - low) / 81
    left, centre, right = (low + (torch.arange(80)[:, None] + i) * step for i in (0.0, 1.0, 2.0))
    mel = (1127.0 * (1.0 + (16000 / 512) * torch.arange(256) / 700.0).log())[None]
    up, down = (mel - left) / (centre - left), (right - mel) / (right - centre)
    bank = torch.minimum(up, down).clamp_min(0.0)  # (80, 256)
    return F.pad(bank, (0, 1)).T.contiguous()


def semantic_mel(waveform: Tensor) -> Tensor:
    """Whisper's 128-bin log mel, without padding to 30 s: `(128, samples // 160)`, from at least 201.

    Source: openai-whisper, `log_mel_spectrogram`.
    """
    window = torch.hann_window(400, device=waveform.device)
    stft = torch.stft(waveform, 400, 160, window=window, return_complex=True)
    power = stft[..., :-1].abs().square()  # (201, samples // 160)
    mel = (_mel_bank(128).to(power) @ power).clamp_min(1e-10).log10()
    return (torch.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0


@lru_cache(maxsize=2)
def _mel_bank(*shape: int) -> Tensor:
    return torch.from_numpy(mel_filters(*shape, dtype=np.float64))


def prompt_mel(waveform: Tensor) -> Tensor:
    """The acoustic prompt of the flow decoder: 80-bin log mel, 50 frames a second.

    Turns `(samples,)` at 24 kHz, more than 720, into `(samples // 480, 80)`.

    Source: HiFi-GAN's `mel_spectrogram`: 1920-point frames, hop 480, reflected by 720, not centred.
    """
    margin = (MEL_WINDOW - HOP) // 2
    padded = F.pad(waveform[None], (margin, margin), mode="reflect")[0]
    window = torch.hann_window(MEL_WINDOW, device=waveform.device)
    stft = torch.stft(padded, MEL_WINDOW, HOP, window=window, center=False, return_complex=True)
    magnitude = torch.view_as_real(stft).square().sum(-1).add(1e-9).sqrt()  # (961, frames)
    return (_mel_bank(80, MEL_WINDOW, SAMPLE_RATE).to(magnitude) @ magnitude).clamp_min(1e-5).log().T


def speaker_filter_bank(waveform: Tensor) -> Tensor:
    """CAM++'s input: the filter bank of `(samples,)` at 16 kHz less its mean over time, `(frames, 80)`."""
    bank = kaldi_filter_bank(waveform, "povey")
    return bank - bank.mean(dim=0, keepdim=True)
