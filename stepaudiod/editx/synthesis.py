"""From prompts to sound: calls of the language model, then the decoder, with checks and one retry.

A request is a chain of calls. Each call's codes go into the next call's prompt; only those of the last are
decoded, as they arrive. Output that is silent, runs on or stops short is tried once more with another seed,
as long as none of its sound has been returned.

Every few tokens without sound an empty part is yielded, so that the consumer sees progress, can close the
iterator, and can step other requests meanwhile.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from stepaudiod.editx.codes import AUDIO_BASE, GROUP, GROUP_FRAMES, MEL_FRAMES_PER_FRAME
from stepaudiod.editx.decoder.audio_stream import AudioStream, ChunkDecoder
from stepaudiod.editx.decoder.config import LOOKAHEAD
from stepaudiod.editx.decoder.flow import NOISE_FRAMES, Acoustics, Flow, make_noise
from stepaudiod.editx.decoder.prefix_cache import PrefixCache, Reservation
from stepaudiod.editx.decoder.reference_prefix import ReferencePrefix
from stepaudiod.editx.decoder.vocoder import Vocoder, make_source_noise
from stepaudiod.editx.lengths import SILENT_RMS, Bounds, complaint
from stepaudiod.editx.lm.sampling import TEMPERATURE
from stepaudiod.editx.lm.scheduler import Batch, Sequence
from stepaudiod.editx.reference import Reference
from stepaudiod.editx.segments import TimeRange
from stepaudiod.errors import SynthesisFailed

log = logging.getLogger(__name__)

ATTEMPTS = 2
HEARTBEAT_TOKENS = 8
"""After so many tokens without sound an empty part is yielded."""
SEED_BITS = 48
_ATTEMPT_STRIDE = 0x9E3779B97F4A7C15
_NOISE_STREAM, _SOURCE_STREAM = 0x51ED2701, 0x2F8A6C3B

T = TypeVar("T")


@dataclass(frozen=True)
class LMCall:
    """One call of the language model.

    The prompt, and the bounds of the output's length, are made from the last call's ids, at first the
    reference's.
    """

    prompt: Callable[[list[int]], list[int]]
    bounds: Callable[[list[int]], Bounds]


@dataclass
class RequestStats:
    """Filled in while a request runs.

    Args:
        seed: with which the request gives the same result again.
        reference_range: the part of a long reference that was used.
        output_tokens: of all calls, discarded ones included.
        pieces: that a long text or recording was cut into.
        complaints: the reasons for the retries.
    """

    seed: int
    reference_range: TimeRange | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    retries: int = 0
    pieces: int = 1
    complaints: tuple[str, ...] = ()


def new_seed() -> int:
    return secrets.randbits(SEED_BITS)


@contextmanager
def tf32_matmul() -> Iterator[None]:
    """Let a GPU round float32 products to TF32, as it does convolutions: a tenth of the time, inaudible."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def stream_frames(tokens: int) -> int:
    """Count the frames at 25 Hz of a stream of so many tokens, with the reference's last three."""
    return -(-tokens // GROUP) * GROUP_FRAMES + LOOKAHEAD


class Synthesizer:
    def __init__(
        self, batch: Batch, flow: Flow, prefixes: PrefixCache, vocoder: Vocoder, is_checked: bool
    ) -> None:
        self._batch = batch
        self._flow = flow
        self._prefixes = prefixes
        self._chunks = ChunkDecoder(flow, vocoder)
        self._is_checked = is_checked

    def run(
        self, calls: list[LMCall], reference: Reference, seed: int, stats: RequestStats
    ) -> Iterator[Tensor]:
        """Run all calls, the first of which reads the reference, and decode the last.

        Yields:
            `(samples,)` at 24 kHz; `(0,)` while there is no sound yet.

        Raises:
            SynthesisFailed: the output can't be used, twice.
        """
        ids = reference.ids
        for number, call in enumerate(calls[:-1]):
            ids = yield from self._codes(call, ids, seed + number, stats)
        acoustics, last_seed = reference.acoustics, seed + len(calls) - 1
        for attempt in range(ATTEMPTS):
            problem = yield from self._stream(calls[-1], ids, acoustics, _seed(last_seed, attempt), stats)
            if problem is None:
                return
            self._complain(problem, attempt, stats)

    def _codes(
        self, call: LMCall, ids: list[int], seed: int, stats: RequestStats
    ) -> Generator[Tensor, None, list[int]]:
        """Run a call whose codes are the input of another; returns the codes."""
        for attempt in range(ATTEMPTS):
            found, problem = yield from self._collect(call, ids, _seed(seed, attempt), stats)
            if problem is None:
                return found
            self._complain(problem, attempt, stats)
        raise AssertionError("unreachable")

    def _stream(
        self, call: LMCall, ids: list[int], acoustics: Acoustics, seed: int, stats: RequestStats
    ) -> Generator[Tensor, None, str | None]:
        """Run a call and decode its codes as they arrive; returns a problem found before any sound."""
        bounds = call.bounds(ids)
        most = min(bounds.max_tokens, self._batch.length)
        with self._prefixes.reserve(acoustics, stream_frames(most)) as reservation:
            prefix = yield from self._reserve(reservation)
            with closing(self._open_stream(acoustics, prefix, seed, bounds.max_tokens)) as stream:
                with (yield from self._join(call, ids, seed, stats)) as sequence:
                    tokens, peaks = yield from self._play(stream, sequence, stats)
                problem = self._problem(tokens, sequence, bounds)
                if problem is not None and not peaks:
                    return problem
                with tf32_matmul():
                    last = stream.finish()
            peaks.append(float(last.abs().max()) if last.numel() else 0.0)
            if problem is None and self._is_checked and max(peaks) < SILENT_RMS:
                problem = "it was silent"
            yield last
        if problem is not None:
            self._complain(problem, ATTEMPTS - 1, stats)
        return None

    def _play(
        self, stream: AudioStream, sequence: Sequence, stats: RequestStats
    ) -> Generator[Tensor, None, tuple[int, list[float]]]:
        """Decode a sequence; returns the number of tokens and each chunk's peak."""
        count, peaks = 0, []
        for count, token in enumerate(sequence, 1):
            stats.output_tokens += 1
            with tf32_matmul():
                is_complete = stream.push(token - AUDIO_BASE)
            if is_complete:
                if stream.has_time:
                    yield torch.zeros(0)  # meanwhile other chunks may become complete and join this one
                with tf32_matmul():
                    part = stream.take()
                peaks.append(float(part.abs().max()))
                yield part
            elif count % HEARTBEAT_TOKENS == 0:
                yield torch.zeros(0)
        return count, peaks

    def _reserve(self, reservation: Reservation) -> Generator[Tensor, None, ReferencePrefix]:
        """Wait for the decoder's memory; returns the prefilled reference."""

        def attempt() -> ReferencePrefix | None:
            with tf32_matmul():
                return reservation.try_take()

        return (yield from self._wait_for(attempt))

    def _join(
        self, call: LMCall, ids: list[int], seed: int, stats: RequestStats
    ) -> Generator[Tensor, None, Sequence]:
        """Wait for a row in the batch; returns the sequence."""
        prompt, most = call.prompt(ids), call.bounds(ids).max_tokens
        stats.input_tokens += len(prompt)
        waiter = object()
        try:
            return (
                yield from self._wait_for(
                    lambda: self._batch.try_join(prompt, TEMPERATURE, seed, most, waiter)
                )
            )
        finally:
            self._batch.stop_waiting(waiter)

    def _wait_for(self, attempt: Callable[[], T | None]) -> Generator[Tensor, None, T]:
        """Try until there is a result, stepping other requests meanwhile."""
        consumed = 0
        while (result := attempt()) is None:
            consumed = self._batch.step_others(consumed)
            yield torch.zeros(0)
        return result

    def _collect(
        self, call: LMCall, ids: list[int], seed: int, stats: RequestStats
    ) -> Generator[Tensor, None, tuple[list[int], str | None]]:
        """Run a call to its end; returns whole groups of ids, and a problem."""
        found: list[int] = []
        with (yield from self._join(call, ids, seed, stats)) as sequence:
            for token in sequence:
                stats.output_tokens += 1
                found.append(token)
                if len(found) % HEARTBEAT_TOKENS == 0:
                    yield torch.zeros(0)
        problem = self._problem(len(found), sequence, call.bounds(ids))
        if problem is None and len(found) < GROUP:
            problem = "it gave nothing"
        return found[: len(found) // GROUP * GROUP], problem

    def _problem(self, tokens: int, sequence: Sequence, bounds: Bounds) -> str | None:
        return complaint(tokens, sequence.has_ended, bounds) if self._is_checked else None

    def _open_stream(
        self, acoustics: Acoustics, prefix: ReferencePrefix, seed: int, tokens: int
    ) -> AudioStream:
        frames = MEL_FRAMES_PER_FRAME * (acoustics.columns.shape[0] + stream_frames(tokens))
        generator = torch.Generator().manual_seed(seed ^ _SOURCE_STREAM)
        noise = make_noise(seed ^ _NOISE_STREAM, min(frames, NOISE_FRAMES)).to(self._flow.device)
        return AudioStream(self._chunks, prefix, noise, lambda n: make_source_noise(n, generator))

    def _complain(self, problem: str, attempt: int, stats: RequestStats) -> None:
        """Count a failed attempt; the last one is an error."""
        stats.complaints = (*stats.complaints, problem)
        if attempt + 1 >= ATTEMPTS:
            raise SynthesisFailed(
                f"the speech can't be used: {problem}; it was tried with {len(stats.complaints)} seeds; "
                "try a shorter or plainer text, or another reference"
            )
        stats.retries += 1
        log.warning("an attempt can't be used: %s; trying another seed", problem)


def _seed(seed: int, attempt: int) -> int:
    return (seed + attempt * _ATTEMPT_STRIDE) % (1 << 63)
