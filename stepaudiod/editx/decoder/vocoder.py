"""HiFT: mel to waveform at 24 kHz.

    mel ──┬─ pitch ── harmonic source ── short spectra ─┐ (18 channels, 6 kHz)
          └─ conv ─ x8 ──(+)── x5 ──(+)── x3 ──(+)── magnitude and phase ── inverse transform ── waveform

At each (+) the source is added, downsampled to that stage's rate. Independent of codes and requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepaudiod.editx.checkpoint.headers import shape_of
from stepaudiod.editx.checkpoint.weights import install, read_torch_file, without_values
from stepaudiod.editx.decoder.dit import MELS
from stepaudiod.editx.decoder.source import HarmonicSource

FFT, FFT_HOP = 16, 4
BINS = FFT // 2 + 1
RATES, KERNELS = (8, 5, 3), (16, 11, 7)
RESIDUAL_KERNELS, SOURCE_KERNELS, DILATIONS = (3, 7, 11), (7, 7, 11), (1, 3, 5)
DOWN_STRIDES = (15, 3, 1)
LIMIT = 0.99
MAX_MAGNITUDE = 100.0


class Snake(nn.Module):
    """x + sin²(ax)/a, with one a for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to `(batch, channels, samples)`."""
        alpha = self.alpha[:, None]
        return x + (1.0 / (alpha + 1e-9)) * (x * alpha).sin().square()


class ResidualBlock(nn.Module):
    """Three pairs of convolutions, the first of each pair dilated."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=d, padding=(kernel - 1) * d // 2)
            for d in DILATIONS
        )
        self.convs2 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, padding=kernel // 2) for _ in DILATIONS
        )
        self.activations1 = nn.ModuleList(Snake(channels) for _ in DILATIONS)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in DILATIONS)

    def forward(self, x: Tensor) -> Tensor:
        """Run over `(batch, channels, samples)`."""
        for conv1, conv2, snake1, snake2 in zip(
            self.convs1, self.convs2, self.activations1, self.activations2, strict=True
        ):
            x = x + conv2(snake2(conv1(snake1(x))))
        return x


class PitchPredictor(nn.Module):
    """Five convolutions and a linear layer; pitch is its magnitude."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.condnet = nn.ModuleDict(
            {str(2 * i): nn.Conv1d(MELS if i == 0 else channels, channels, 3, padding=1) for i in range(5)}
        )
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """Predict the pitch in Hz: `(80, frames)` to `(frames,)`."""
        x = mel[None]
        for conv in self.condnet.values():
            x = F.elu(conv(x))
        pitch: Tensor = self.classifier(x.transpose(1, 2))[0, :, 0].abs()  # (1, frames, 1) -> (frames,)
        return pitch


class Vocoder(nn.Module):
    """The whole vocoder; parameter names are the checkpoint's after its weight norms are folded."""

    _window: Tensor

    def __init__(self, base: int, pitch_channels: int) -> None:
        super().__init__()
        self.f0_predictor = PitchPredictor(pitch_channels)
        self.m_source = HarmonicSource()
        self.conv_pre = nn.Conv1d(MELS, base, 7, padding=3)
        widths = [base >> (i + 1) for i in range(len(RATES))]
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(2 * width, width, k, u, padding=(k - u) // 2)
            for width, k, u in zip(widths, KERNELS, RATES, strict=True)
        )
        self.source_downs = nn.ModuleList(
            nn.Conv1d(2 * BINS, width, 1 if s == 1 else 2 * s, s, padding=s // 2)
            for width, s in zip(widths, DOWN_STRIDES, strict=True)
        )
        self.source_resblocks = nn.ModuleList(
            ResidualBlock(width, k) for width, k in zip(widths, SOURCE_KERNELS, strict=True)
        )
        self.resblocks = nn.ModuleList(ResidualBlock(width, k) for width in widths for k in RESIDUAL_KERNELS)
        self.conv_post = nn.Conv1d(widths[-1], 2 * BINS, 7, padding=3)
        self.register_buffer("_window", torch.hann_window(FFT, device="cpu"), persistent=False)

    def decode(self, mel: Tensor, source: Tensor) -> Tensor:
        """Turn mels and their excitations into sound.

        Args:
            mel: `(batch, 80, frames)`.
            source: `(batch, 480 * frames)`.

        Returns:
            `(batch, 480 * frames)` at 24 kHz within ±0.99.

        Source: HiFTNet (arXiv 2309.09493).
        """
        window = self._window.to(source)
        stft = torch.stft(source, FFT, FFT_HOP, window=window, return_complex=True)
        excitation = torch.cat((stft.real, stft.imag), dim=1)  # (batch, 18, 120 * frames + 1)
        x = self.conv_pre(mel)
        for stage, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            if stage == len(RATES) - 1:
                x = F.pad(x, (1, 0), mode="reflect")
            x = x + self.source_resblocks[stage](self.source_downs[stage](excitation))
            blocks = self.resblocks[stage * 3 : stage * 3 + 3]
            x = torch.stack([block(x) for block in blocks]).sum(0) / len(RESIDUAL_KERNELS)
        spectrum = self.conv_post(F.leaky_relu(x, 0.01))  # (batch, 18, 120 * frames + 1)
        magnitude = spectrum[:, :BINS].exp().clamp_max(MAX_MAGNITUDE)
        phase = spectrum[:, BINS:].sin()
        waveform = torch.istft(torch.polar(magnitude, phase), FFT, FFT_HOP, window=window)
        return waveform.clamp(-LIMIT, LIMIT)


def read_vocoder(path: Path) -> dict[str, Tensor]:
    """Memory-map the tensors of `hift.pt` and fold their weight norms."""
    state = fold_weight_norms(read_torch_file(path))
    for name, tensor in state.items():
        if name.endswith(".alpha"):
            state[name] = tensor.flatten()
    return state


def build_vocoder(state: Mapping[str, Tensor], source: Path, device: torch.device) -> Vocoder:
    """Build the vocoder from the tensors that `read_vocoder` names; it runs in float32."""
    base, _, _ = shape_of(state, "conv_pre.weight", source)
    _, pitch_channels = shape_of(state, "f0_predictor.classifier.weight", source)
    with without_values():
        vocoder = Vocoder(base, pitch_channels)
    install(vocoder, state, source, device, torch.float32)
    return vocoder


def fold_weight_norms(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace each weight norm's pair by g·v/‖v‖, the norm taken over all dimensions but the first."""
    folded = {name: tensor for name, tensor in state.items() if ".parametrizations." not in name}
    for name, scale in state.items():
        if name.endswith(".parametrizations.weight.original0"):
            stem = name.removesuffix(".parametrizations.weight.original0")
            direction = state[f"{stem}.parametrizations.weight.original1"]
            folded[f"{stem}.weight"] = torch._weight_norm(direction, scale, 0)
    return folded
