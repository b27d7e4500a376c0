"""From prompts to sound: turns of the language model, then the decoder, watched over and tried again once.

A request is a chain of turns. Each turn's codes go into the next turn's prompt; only the last one's are
decoded, whole or as they come. What is silent, runs on or stops short is noticed and tried once more with
another seed. A stream can only be tried again while nothing of it has been heard.

Long work without sound shows itself: every few tokens an empty part is given, so that whoever iterates sees
that it moves, can end it, and can step other requests meanwhile.
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

from stepaudiod.editx.codes import (
    AUDIO_BASE,
    AUDIO_CODES,
    GROUP,
    GROUP_FRAMES,
    MEL_FRAMES_PER_FRAME,
    id_codes,
    to_columns,
)
from stepaudiod.editx.decoder.audio_stream import AudioStream, ChunkDecoder
from stepaudiod.editx.decoder.flow import NOISE_FRAMES, Acoustics, Flow, make_noise, round_to_bfloat16
from stepaudiod.editx.decoder.prefix_cache import PrefixCache, Reservation
from stepaudiod.editx.decoder.reference_prefix import ReferencePrefix
from stepaudiod.editx.decoder.source import HOP, PhaseArithmetic
from stepaudiod.editx.decoder.token_encoder import LOOKAHEAD
from stepaudiod.editx.decoder.vocoder import Vocoder, make_source_noise
from stepaudiod.editx.lengths import Bounds, complaint, is_silent
from stepaudiod.editx.lm.sampling import SamplingOptions
from stepaudiod.editx.lm.scheduler import Batch, Sequence
from stepaudiod.editx.reference import Reference
from stepaudiod.editx.segments import TimeRange
from stepaudiod.errors import SynthesisFailed

log = logging.getLogger(__name__)

ATTEMPTS = 2
HEARTBEAT_TOKENS = 8
"""So many tokens without sound, and an empty part is given."""
SEED_BITS = 48
_ATTEMPT_STRIDE = 0x9E3779B97F4A7C15
_NOISE_STREAM, _SOURCE_STREAM = 0x51ED2701, 0x2F8A6C3B

IsCancelled = Callable[[], bool]
Got = TypeVar("Got")


@dataclass(frozen=True)
class LMCall:
    """One call of the language model.

    Args:
        prompt: makes the prompt from the last turn's ids, the reference's at first.
        bounds: how long the output may be, from the same ids.
    """

    prompt: Callable[[list[int]], list[int]]
    bounds: Callable[[list[int]], Bounds]


@dataclass
class RequestStats:
    """What a request took; filled in while it runs.

    Args:
        seed: asked for again, it gives the same.
        reference_stretch: which part of a long reference was used.
        input_tokens: of all prompts.
        output_tokens: of all turns, thrown away ones too.
        retries: how often something was tried again.
        pieces: how many a long text or recording was cut into.
        complaints: why something was tried again.
    """

    seed: int
    reference_stretch: TimeRange | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    retries: int = 0
    pieces: int = 1
    complaints: tuple[str, ...] = ()


class Cancelled(Exception):
    """Somebody no longer wants the result. Never leaves this module."""


def new_seed() -> int:
    """Draw a seed for a request that brought none."""
    return secrets.randbits(SEED_BITS)


@contextmanager
def faster_products() -> Iterator[None]:
    """Let a GPU round float32 products to TF32, as it does convolutions: a tenth of the time, unheard."""
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
    """Turns prompts into sound.

    Args:
        batch: of the language model.
        flow: codes to mel.
        memory: of the decoder, for streams.
        vocoder: mel to sound.
        sampling: how ids are chosen.
        is_checked: notice unusable output.
        is_mel_rounded: round mel and embedding as the reference does.
        arithmetic: of the vocoder's phases.
    """

    def __init__(
        self,
        batch: Batch,
        flow: Flow,
        memory: PrefixCache,
        vocoder: Vocoder,
        sampling: SamplingOptions,
        *,
        is_checked: bool = True,
        is_mel_rounded: bool = False,
        arithmetic: PhaseArithmetic = PhaseArithmetic.EXACT,
    ) -> None:
        self._batch = batch
        self._flow = flow
        self._memory = memory
        self._vocoder = vocoder
        self._chunks = ChunkDecoder(flow, vocoder)
        self._sampling = sampling
        self._is_checked = is_checked
        self._is_mel_rounded = is_mel_rounded
        self._arithmetic = arithmetic

    def speak(
        self,
        turns: list[LMCall],
        reference: Reference,
        seed: int,
        stream: bool,
        report: RequestStats,
        is_cancelled: IsCancelled | None = None,
    ) -> Iterator[Tensor]:
        """Run all turns and decode the last.

        Args:
            turns: at least one.
            reference: whose voice it is, and what the first turn starts from.
            seed: of this piece.
            stream: decode while codes come.
            report: counted in.
            is_cancelled: asked between tokens; ends the iteration.

        Yields:
            `(samples,)` at 24 kHz; `(0,)` now and then while there is no sound yet.

        Raises:
            SynthesisFailed: what came out can't be used, twice.
        """
        never: IsCancelled = lambda: False  # noqa: E731 (a default, named for its meaning)
        cancelled = is_cancelled or never
        acoustics = reference.acoustics
        acoustics = round_to_bfloat16(acoustics) if self._is_mel_rounded else acoustics
        try:
            ids = reference.ids
            for number, turn in enumerate(turns[:-1]):
                ids = yield from self._turn(turn, ids, seed + number, report, cancelled)
            last_seed = seed + len(turns) - 1
            run = self._streamed if stream else self._whole
            yield from run(turns[-1], ids, acoustics, last_seed, report, cancelled)
        except Cancelled:
            return

    def _turn(
        self, turn: LMCall, ids: list[int], seed: int, report: RequestStats, cancelled: IsCancelled
    ) -> Generator[Tensor, None, list[int]]:
        """Run a turn whose codes only feed another; gives signs of life, and returns the codes."""
        for attempt in range(ATTEMPTS):
            found, problem = yield from self._collect(turn, ids, _seed(seed, attempt), report, cancelled)
            if problem is None:
                return found
            self._complain(problem, attempt, report)
        raise AssertionError("unreachable")

    def _whole(
        self,
        turn: LMCall,
        ids: list[int],
        acoustics: Acoustics,
        seed: int,
        report: RequestStats,
        cancelled: IsCancelled,
    ) -> Iterator[Tensor]:
        for attempt in range(ATTEMPTS):
            this_seed = _seed(seed, attempt)
            found, problem = yield from self._collect(turn, ids, this_seed, report, cancelled)
            if problem is None:
                waveform = self._decode(found, acoustics, this_seed)
                problem = "it was silent" if self._is_checked and is_silent(waveform) else None
                if problem is None:
                    yield waveform
                    return
            self._complain(problem, attempt, report)

    def _streamed(
        self,
        turn: LMCall,
        ids: list[int],
        acoustics: Acoustics,
        seed: int,
        report: RequestStats,
        cancelled: IsCancelled,
    ) -> Iterator[Tensor]:
        for attempt in range(ATTEMPTS):
            this_seed = _seed(seed, attempt)
            problem = yield from self._stream_once(turn, ids, acoustics, this_seed, report, cancelled)
            if problem is None:
                return
            self._complain(problem, attempt, report)

    def _stream_once(
        self,
        turn: LMCall,
        ids: list[int],
        acoustics: Acoustics,
        seed: int,
        report: RequestStats,
        cancelled: IsCancelled,
    ) -> Generator[Tensor, None, str | None]:
        """Run a turn and decode it as it goes; returns what is wrong if nothing of it has been heard yet."""
        bounds = turn.bounds(ids)
        most = min(bounds.max_tokens, self._batch.length)
        with self._memory.reserve(acoustics, stream_frames(most)) as place:
            prompt = yield from self._take(place, cancelled)
            with closing(self._open_stream(acoustics, prompt, seed, bounds.max_tokens)) as stream:
                with (yield from self._begin(turn, ids, seed, report, cancelled)) as sequence:
                    tokens, loudness = yield from self._play(stream, sequence, report, cancelled)
                problem = self._problem(tokens, sequence, bounds)
                if problem is not None and not loudness:
                    return problem
                with faster_products():
                    last = stream.finish()
            loudness.append(float(last.abs().max()) if last.numel() else 0.0)
            if problem is None and self._is_checked and max(loudness) < 1e-3:
                problem = "it was silent"
            yield last
        if problem is not None:
            self._complain(problem, ATTEMPTS - 1, report)
        return None

    def _play(
        self, stream: AudioStream, sequence: Sequence, report: RequestStats, cancelled: IsCancelled
    ) -> Generator[Tensor, None, tuple[int, list[float]]]:
        """Decode what the language model gives; returns how many tokens, and how loud each chunk was."""
        count, loudness = 0, []
        for count, token in enumerate(sequence, 1):
            report.output_tokens += 1
            self._check_id(token)
            with faster_products():
                is_complete = stream.push(token - AUDIO_BASE)
            if is_complete:
                if stream.has_time:
                    yield torch.zeros(0)  # others' chunks may become complete, and be decoded along
                    if cancelled():
                        raise Cancelled
                with faster_products():
                    part = stream.take()
                loudness.append(float(part.abs().max()))
                yield part
            elif count % HEARTBEAT_TOKENS == 0:
                yield torch.zeros(0)
            if cancelled():
                raise Cancelled
        return count, loudness

    def _take(self, place: Reservation, cancelled: IsCancelled) -> Generator[Tensor, None, ReferencePrefix]:
        """Wait for the decoder's memory; gives signs of life, and returns the reference, taken in."""

        def attempt() -> ReferencePrefix | None:
            with faster_products():
                return place.try_take()

        return (yield from self._wait_for(attempt, cancelled))

    def _begin(
        self, turn: LMCall, ids: list[int], seed: int, report: RequestStats, cancelled: IsCancelled
    ) -> Generator[Tensor, None, Sequence]:
        """Take a place in the batch; gives signs of life while there is none, and returns it."""
        prompt, most = turn.prompt(ids), turn.bounds(ids).max_tokens
        report.input_tokens += len(prompt)
        who = object()
        try:
            return (
                yield from self._wait_for(
                    lambda: self._batch.try_join(prompt, self._sampling, seed, most, who), cancelled
                )
            )
        finally:
            self._batch.stop_asking(who)

    def _wait_for(
        self, attempt: Callable[[], Got | None], cancelled: IsCancelled
    ) -> Generator[Tensor, None, Got]:
        """Try until it gives something, and serve the others meanwhile; gives signs of life."""
        taken = 0
        while (got := attempt()) is None:
            if cancelled():
                raise Cancelled
            taken = self._batch.help_others(taken)
            yield torch.zeros(0)
        return got

    def _collect(
        self, turn: LMCall, ids: list[int], seed: int, report: RequestStats, cancelled: IsCancelled
    ) -> Generator[Tensor, None, tuple[list[int], str | None]]:
        """Run a turn to its end; gives signs of life, and returns whole groups of ids and what is wrong."""
        found: list[int] = []
        with (yield from self._begin(turn, ids, seed, report, cancelled)) as sequence:
            for token in sequence:
                report.output_tokens += 1
                self._check_id(token)
                found.append(token)
                if len(found) % HEARTBEAT_TOKENS == 0:
                    yield torch.zeros(0)
                if cancelled():
                    raise Cancelled
        problem = self._problem(len(found), sequence, turn.bounds(ids))
        if problem is None and len(found) < GROUP:
            problem = "it gave nothing"
        whole = len(found) // GROUP * GROUP if self._sampling.is_pattern_enforced else len(found)
        return found[:whole], problem

    def _problem(self, tokens: int, sequence: Sequence, bounds: Bounds) -> str | None:
        return complaint(tokens, sequence.has_ended, bounds) if self._is_checked else None

    def _check_id(self, token: int) -> None:
        if not AUDIO_BASE <= token < AUDIO_BASE + AUDIO_CODES:
            raise SynthesisFailed(f"id {token} came out, which is no sound; enforce the code pattern")

    @faster_products()
    def _decode(self, ids: list[int], acoustics: Acoustics, seed: int) -> Tensor:
        columns = to_columns(id_codes(ids))
        frames = 2 * (columns.shape[0] + acoustics.columns.shape[0])
        noise = make_noise(seed ^ _NOISE_STREAM, frames).to(self._flow.device)
        mel = self._flow(columns, acoustics, noise).float()
        source = make_source_noise(HOP * mel.shape[1], torch.Generator().manual_seed(seed ^ _SOURCE_STREAM))
        waveform: Tensor = self._vocoder(mel, source.to(mel.device), self._arithmetic)
        return waveform

    def _open_stream(
        self, acoustics: Acoustics, prompt: ReferencePrefix, seed: int, tokens: int
    ) -> AudioStream:
        frames = MEL_FRAMES_PER_FRAME * (acoustics.columns.shape[0] + stream_frames(tokens))
        device = self._flow.device
        generator = torch.Generator().manual_seed(seed ^ _SOURCE_STREAM)
        noise = make_noise(seed ^ _NOISE_STREAM, min(frames, NOISE_FRAMES)).to(device)
        return AudioStream(
            self._chunks,
            acoustics,
            noise,
            lambda n: make_source_noise(n, generator),
            prompt=prompt,
        )

    def _complain(self, problem: str, attempt: int, report: RequestStats) -> None:
        """Note a failed attempt; the last one is an error."""
        report.complaints = (*report.complaints, problem)
        if attempt + 1 >= ATTEMPTS:
            raise SynthesisFailed(
                f"the speech can't be used: {problem}; it was tried with {len(report.complaints)} seeds; "
                "try a shorter or plainer text, or another reference"
            )
        report.retries += 1
        log.warning("an attempt can't be used: %s; trying another seed", problem)


def _seed(seed: int, attempt: int) -> int:
    """Give an attempt its own seed, in the range that generators take."""
    return (seed + attempt * _ATTEMPT_STRIDE) % (1 << 63)
