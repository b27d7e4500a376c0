"""Linguistic codes ("vq02", 16.67 Hz): a speech recogniser's encoder, then the nearest of 1024 centroids.

The reference reads 240 ms chunks with caches. A chunk needs of its past only the keys and values of the four
windows before it *at the same layer*, so here the chunk index is the batch dimension and each layer is one
call over the whole recording:

    rows      . . . . . 0 1 2 3 4 5 6 7 8 9 …      (zeros before the first)
    window 0  └───────5 before──┘└ 4 new ┘         attends to itself
    window 1          └─5 before──┘└ 4 new ┘       … and to the first 4 rows of at most 4 windows before

The 16 cached rows are each window's *first* four rows at the same layer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepaudiod.editx.checkpoint.headers import count, mend, shape_of
from stepaudiod.editx.checkpoint.weights import install, read_torch_file, without_values
from stepaudiod.editx.cuda_graphs import BatchGraphs
from stepaudiod.editx.tokenizers.features import kaldi_filter_bank
from stepaudiod.errors import ModelFileError

CHUNK_SAMPLES = 3840
"""240 ms at 16 kHz: four rows."""
CHUNK_ROWS, CONTEXT_ROWS, CACHED_CHUNKS = 4, 5, 4
WINDOW_ROWS = CONTEXT_ROWS + CHUNK_ROWS
STACK, STRIDE = 7, 6
FEATURE_SIZE, HEAD_SIZE, KERNEL = 560, 128, 11
CENTROIDS = 1024
FIRST = "encoder.encoders0.0"
"""The first layer in the checkpoint, whose input has another size."""


def row_count(samples: int) -> int:
    """The number of codes of a recording of `samples` at 16 kHz.

    A last piece too short for a whole stack of frames is dropped, as in the streaming front end.
    """
    pieces, rest = divmod(samples, CHUNK_SAMPLES)
    fresh = pieces == 0
    frames = (rest - 400 + (0 if fresh else 320)) // 160 + 1
    stackable = frames + (3 if fresh else 1)
    tail = 0 if rest == 0 or frames < 1 or stackable < STACK else -(-(stackable - 3) // STRIDE)
    return CHUNK_ROWS * pieces + tail


def stack_frames(frames: Tensor, rows: int) -> Tensor:
    """Stack 7 frames every 6, the first repeated three times in front and the last as often as needed behind.

    Turns `(frames, 80)` into `(rows, 560)`; see `row_count`.
    """
    if rows == 0:
        return frames.new_zeros(0, FEATURE_SIZE)
    needed = STRIDE * (rows - 1) + STACK
    padded = torch.cat((frames[:1].expand(3, -1), frames))[:needed]
    padded = torch.cat((padded, padded[-1:].expand(needed - padded.shape[0], -1)))
    return (
        padded.unfold(0, STACK, STRIDE).transpose(1, 2).reshape(rows, FEATURE_SIZE)
    )  # (rows, 80, 7) -> (rows, 560)


class SanmLayer(nn.Module):
    """Pre-norm self-attention with a depthwise memory branch, then a feed-forward block."""

    def __init__(self, size_in: int, size: int, inner: int) -> None:
        super().__init__()
        self.heads = size // HEAD_SIZE
        self.residual = size_in == size
        self.norm1 = nn.LayerNorm(size_in, eps=1e-12)
        self.norm2 = nn.LayerNorm(size, eps=1e-12)
        self.self_attn = nn.ModuleDict(
            {
                "linear_q_k_v": nn.Linear(size_in, 3 * size),
                "linear_out": nn.Linear(size, size),
                "fsmn_block": nn.Conv1d(size, size, KERNEL, padding=KERNEL // 2, groups=size, bias=False),
            }
        )
        self.feed_forward = nn.ModuleDict({"w_1": nn.Linear(size, inner), "w_2": nn.Linear(inner, size)})

    def forward(self, x: Tensor, is_row: Tensor, mask: Tensor) -> Tensor:
        """Run all windows of a recording.

        Args:
            x: `(chunks, 9, size_in)`.
            is_row: `(chunks, 9, 1)`, 0.0 for the rows that pad the last window.
            mask: `(chunks, 1, 1, 25)`, True for the 16 cached and 9 own keys that exist.

        Returns:
            `(chunks, 9, size)`.
        """
        q, k, v = self.self_attn["linear_q_k_v"](self.norm1(x)).chunk(3, dim=-1)
        v = v * is_row
        attended = F.scaled_dot_product_attention(
            self._split(q), self._with_cache(self._split(k)), self._with_cache(self._split(v)), attn_mask=mask
        )
        attended = attended.transpose(1, 2).flatten(2)  # (chunks, heads, 9, 128) -> (chunks, 9, size)
        memory = self.self_attn["fsmn_block"](v.transpose(1, 2)).transpose(1, 2)
        y: Tensor = self.self_attn["linear_out"](attended) + memory + v
        x = x + y if self.residual else y
        y = self.feed_forward["w_2"](torch.relu_(self.feed_forward["w_1"](self.norm2(x))))
        return x + y

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, HEAD_SIZE).transpose(1, 2)  # (chunks, heads, 9, 128)

    def _with_cache(self, x: Tensor) -> Tensor:
        """Prepend the first 4 rows of the 4 windows before each: (chunks, heads, 25, 128)."""
        chunks = x.shape[0]
        first = F.pad(x[:, :, :CHUNK_ROWS], (0, 0, 0, 0, 0, 0, CACHED_CHUNKS, 0))
        return torch.cat([*(first[i : i + chunks] for i in range(CACHED_CHUNKS)), x], dim=2)


class SanmEncoder(nn.Module):
    """The recogniser's encoder; parameter names are the checkpoint's, without their `encoder.` prefix."""

    def __init__(self, size: int, inner: int, layers: int) -> None:
        super().__init__()
        self.size = size
        self.encoders0 = nn.ModuleList([SanmLayer(FEATURE_SIZE, size, inner)])
        self.encoders = nn.ModuleList([SanmLayer(size, size, inner) for _ in range(layers - 1)])
        self.after_norm = nn.LayerNorm(size, eps=1e-12)
        self._graphs = BatchGraphs(self.run)

    def forward(self, features: Tensor) -> Tensor:
        """Encode all rows of a recording, `(rows, 560)`, to all rows of all windows, `(chunks, 9, size)`."""
        rows = features.shape[0]
        chunks = -(-rows // CHUNK_ROWS)
        x = features * math.sqrt(self.size) + _positions(rows).to(features)
        x = F.pad(x, (0, 0, CONTEXT_ROWS, chunks * CHUNK_ROWS - rows))
        x = x.unfold(0, WINDOW_ROWS, CHUNK_ROWS).transpose(1, 2)  # (chunks, 560, 9) -> (chunks, 9, 560)
        is_row, mask = _window_masks(rows, chunks, features.device)
        windows = x, is_row.to(x.dtype), mask
        if not x.is_cuda:
            return self.run(*windows)
        return self._graphs.run(*windows, is_recorded=self.after_norm.weight.is_cuda)  # or see `host_weights`

    def run(self, x: Tensor, is_row: Tensor, mask: Tensor) -> Tensor:
        """Run all layers over windows `(chunks, 9, 560)`; see `SanmLayer`."""
        for layer in [*self.encoders0, *self.encoders]:
            x = layer(x, is_row, mask)
        encoded: Tensor = self.after_norm(x)
        return encoded


def _positions(rows: int) -> Tensor:
    """(rows, 560): sines then cosines of positions counted from 1 over the whole utterance."""
    half = FEATURE_SIZE // 2
    rates = torch.exp(torch.arange(half) * (-math.log(10000.0) / (half - 1)))
    angles = torch.arange(1, rows + 1)[:, None] * rates[None]
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def _window_masks(rows: int, chunks: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which rows of each window exist, (chunks, 9, 1), and which keys, (chunks, 1, 1, 25)."""
    chunk = torch.arange(chunks, device=device)[:, None]
    own = chunk * CHUNK_ROWS + torch.arange(WINDOW_ROWS, device=device) - CONTEXT_ROWS < rows  # (chunks, 9)
    cached_row = torch.arange(CACHED_CHUNKS * CHUNK_ROWS, device=device) // CHUNK_ROWS
    cached = chunk - CACHED_CHUNKS + cached_row >= 0  # (chunks, 16)
    return own[..., None], torch.cat((cached, own), dim=1)[:, None, None]


class LinguisticTokenizer(nn.Module):
    """Waveform to linguistic codes, always in float32: codes are near ties."""

    shift: Tensor
    scale: Tensor
    centroids: Tensor
    half_norms: Tensor

    def __init__(self, encoder: SanmEncoder, size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("shift", torch.empty(FEATURE_SIZE))
        self.register_buffer("scale", torch.empty(FEATURE_SIZE))
        self.register_buffer("centroids", torch.empty(CENTROIDS, size))
        self.register_buffer("half_norms", torch.empty(CENTROIDS))

    def features(self, waveform: Tensor) -> Tensor:
        """Turn `(samples,)` at 16 kHz into normalised rows `(rows, 560)`.

        Source: FunASR's `WavFrontendOnline`, with its dither off.
        """
        frames = kaldi_filter_bank(waveform * 32768, "hamming")
        rows = stack_frames(frames, row_count(waveform.shape[-1]))
        return (rows + self.shift) * self.scale

    def forward(self, waveform: Tensor) -> Tensor:
        """Tokenise `(samples,)` at 16 kHz, trimmed by `features.trim_for_codes`.

        Returns:
            `(n,)` int64 in 0..1023; n is `row_count`.

        Source: Step-Audio (arXiv 2502.11946), section 3.1; the encoder is Paraformer's (arXiv 2206.08317).
        """
        if row_count(waveform.shape[-1]) == 0:
            return torch.zeros(0, dtype=torch.int64, device=waveform.device)
        features = self.features(waveform)
        windows = self.encoder(features)
        # (chunks, 4, size) -> (rows, size)
        rows = windows[:, CONTEXT_ROWS:].flatten(0, 1)[: features.shape[0]]
        # the nearest centroid has the largest x·c - |c|²/2
        codes: Tensor = (rows @ self.centroids.T - self.half_norms).argmax(dim=1)
        return codes


def read_linguistic(folder: Path, centroids: Path) -> dict[str, Tensor]:
    """Memory-map the tokeniser's tensors, in its published files.

    The folder holds `model.pt`, whose decoder is not read, and `am.mvn`; the centroids are `(1024, size)`
    float32.
    """
    path = folder / "model.pt"
    state = {name: t for name, t in read_torch_file(path).items() if name.startswith("encoder.")}
    size, _ = shape_of(state, f"{FIRST}.feed_forward.w_2.weight", path)
    state["shift"], state["scale"] = _read_normalisation(folder / "am.mvn")
    state["centroids"] = _read_centroids(centroids, size)
    state["half_norms"] = state["centroids"].square().sum(1) / 2
    return state


def build_linguistic(state: Mapping[str, Tensor], source: Path, device: torch.device) -> LinguisticTokenizer:
    """Build the tokeniser from the tensors that `read_linguistic` names."""
    size, inner = shape_of(state, f"{FIRST}.feed_forward.w_2.weight", source)
    later = "encoder.encoders.{}.norm1.weight"
    layers = 1 + (count(state, later, source) if later.format(0) in state else 0)
    with without_values():
        tokenizer = LinguisticTokenizer(SanmEncoder(size, inner, layers), size)
    install(tokenizer, state, source, device, torch.float32)
    return tokenizer


def _read_normalisation(path: Path) -> tuple[Tensor, Tensor]:
    """Read the shift and the scale from a Kaldi network text, 560 numbers each between brackets."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelFileError(f"{path} can't be read: {error.strerror}; {mend()}") from error
    found = []
    for tag in ("AddShift", "Rescale"):
        match = re.search(rf"<{tag}>[^\[]*\[[^\]]*\]", text)
        numbers = match.group(0).split("[")[1].rstrip("]").split() if match else []
        if len(numbers) != FEATURE_SIZE:
            raise ModelFileError(
                f"{path}: expected {FEATURE_SIZE} numbers in <{tag}>, found {len(numbers)}; {mend()}"
            )
        found.append(torch.tensor([float(number) for number in numbers]))
    return found[0], found[1]


def _read_centroids(path: Path, size: int) -> Tensor:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} can't be read: {error}; {mend()}") from error
    if array.shape != (CENTROIDS, size):
        raise ModelFileError(f"{path}: expected shape ({CENTROIDS}, {size}), found {array.shape}; {mend()}")
    return torch.from_numpy(array.astype(np.float32))
