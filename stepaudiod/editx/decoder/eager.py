"""The decoder kernel by kernel, one chunk at a time: what a processor runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from stepaudiod.audio.types import Waveform
from stepaudiod.editx.decoder.config import FlowCosts
from stepaudiod.editx.decoder.flow import Acoustics, Flow
from stepaudiod.editx.decoder.reference_prefix import EagerPrefix, prefill
from stepaudiod.editx.decoder.runner import Chunk, mel_noise, source_noise
from stepaudiod.editx.decoder.streaming import FlowStream, VocoderStream
from stepaudiod.editx.decoder.vocoder import Vocoder
from stepaudiod.editx.interleaving import to_columns


class EagerStream:
    def __init__(self, flow: FlowStream, vocoder: VocoderStream) -> None:
        self.flow, self.vocoder = flow, vocoder


class EagerDecoder:
    """See `DecoderRunner`."""

    slots = 1

    def __init__(self, flow: Flow, vocoder: Vocoder) -> None:
        self._flow, self._vocoder = flow, vocoder
        self.costs = FlowCosts.of(flow.config, flow.dtype.itemsize)

    def prefill(self, acoustics: Acoustics) -> EagerPrefix:
        return prefill(self._flow, acoustics)

    def open(self, prefix: EagerPrefix, seed: int, frames: int) -> EagerStream:
        """Its memory grows with the stream, up to what so many frames need."""
        device = self._flow.device
        flow = FlowStream(self._flow, prefix, lambda first, n: mel_noise(seed, first, n, device))
        vocoder = VocoderStream(self._vocoder, lambda first, n: source_noise(seed, first, n, device))
        return EagerStream(flow, vocoder)

    def decode(self, chunks: Sequence[Chunk]) -> list[Waveform]:
        return [self._decode(chunk) for chunk in chunks]

    def capture_next(self) -> bool:
        return False

    def launches(self) -> Iterable[Callable[[], None]]:
        return ()

    def _decode(self, chunk: Chunk) -> Waveform:
        stream: EagerStream = chunk.stream
        flow, vocoder = stream.flow.fork(), stream.vocoder.fork()
        if chunk.codes:
            mel = flow.decode(to_columns(torch.tensor(chunk.codes, dtype=torch.int64)), chunk.is_last)
            sound = vocoder.decode(mel, chunk.is_last)
        else:
            sound = vocoder.finish()
        stream.flow, stream.vocoder = flow, vocoder  # only now: an error leaves the stream as it was
        return sound.float().cpu().numpy()
