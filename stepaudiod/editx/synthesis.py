"""From prompts to sound: calls of the language model, then the decoder, with checks and one retry.

A request is a chain of calls. Each call's codes go into the next call's prompt; only those of the last are
decoded, as they arrive. Output that is silent, runs on or stops short is tried once more with another seed,
if its first chunk is incomplete.

A request is written as a script: a generator that yields what it waits for, and is resumed with the result.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepaudiod.audio.types import Waveform
from stepaudiod.editx.codes import GROUP
from stepaudiod.editx.generation import Generation, Listener
from stepaudiod.editx.lengths import SILENT_RMS, Bounds, complaint
from stepaudiod.editx.lm.runner import Sequence
from stepaudiod.editx.lm.sampling import TEMPERATURE
from stepaudiod.editx.reference import Reference
from stepaudiod.editx.scheduler import Scheduler
from stepaudiod.editx.segments import TimeRange
from stepaudiod.editx.tokenizers.features import SAMPLE_RATE
from stepaudiod.errors import SynthesisFailed

log = logging.getLogger(__name__)

ATTEMPTS = 2
SEED_BITS = 48
UNREAD_SAMPLES = 5 * SAMPLE_RATE
"""With more sound than this that is not read, the next piece of a text does not begin."""
_ATTEMPT_STRIDE = 0x9E3779B97F4A7C15


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


@dataclass(frozen=True)
class Background:
    """A step of a script: a function that runs beside the engine; the script gets its result."""

    function: Callable[[], Any]


@dataclass(frozen=True)
class Room:
    """A step of a script: waits until most of the sound has been read."""


Script = Generator[Generation | Background | Room, Any, Any]


def new_seed() -> int:
    return secrets.randbits(SEED_BITS)


class Synthesis:
    """One request's sound, in chunks of `(samples,)` float32 at 24 kHz; `stats` is complete at the end.

    Iterating it runs the scheduler until there is a chunk. A caller that runs the scheduler itself asks
    `is_ready` first. Closing it ends the request.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        script: Callable[[Synthesis], Script],
        stats: RequestStats,
        is_streamed: bool,
    ) -> None:
        self.stats = stats
        self.listener = Listener(is_streamed)
        self._scheduler = scheduler
        self._script = script(self)
        self._chunks: deque[Waveform] = deque()
        self._error: Exception | None = None
        self._generation: Generation | None = None
        self._is_done = self._is_begun = self._waits_for_room = False

    def start(self) -> None:
        """Begin; called by the first of `is_ready` and `next`."""
        if not self._is_begun:
            self._is_begun = True
            self._advance(lambda: self._script.send(None))

    @property
    def is_ready(self) -> bool:
        """Whether `next` returns at once."""
        self.start()
        return bool(self._chunks) or self._is_done

    def __iter__(self) -> Iterator[Waveform]:
        return self

    def __next__(self) -> Waveform:
        while not self.is_ready:
            if not self._scheduler.step() and not self.is_ready:
                self._scheduler.lanes.wait()
        if not self._chunks:
            error, self._error = self._error, None
            raise error or StopIteration
        chunk = self._chunks.popleft()
        if self._waits_for_room and self._has_room():
            self._waits_for_room = False
            self._advance(lambda: self._script.send(None))
        return chunk

    def waveform(self) -> Waveform:
        """The whole sound: `(samples,)`."""
        return np.concatenate([np.zeros(0, dtype=np.float32), *self])

    def close(self) -> None:
        """End the request; its sound is dropped."""
        self._is_done = self._is_begun = True
        self._chunks.clear()
        if self._generation is not None:
            self._scheduler.cancel(self._generation)
        self._script.close()

    def emit(self, sound: Waveform) -> None:
        """Pass on a chunk, from the script."""
        if sound.size:
            self._chunks.append(sound)

    def _has_room(self) -> bool:
        return sum(chunk.size for chunk in self._chunks) < UNREAD_SAMPLES

    def _advance(self, resume: Callable[[], Generation | Background | Room]) -> None:
        """Resume the script until it waits for something that is still to come."""
        try:
            while isinstance(step := resume(), Room):
                if not self._has_room():
                    self._waits_for_room = True
                    return
                resume = lambda: self._script.send(None)  # noqa: E731
            if isinstance(step, Background):
                function = step.function
                # a request that was closed meanwhile keeps no other one waiting
                self._scheduler.run(lambda: None if self._is_done else function(), self._after_background)
            else:
                step.on_end = self._after_generation
                self._generation = step
                self._scheduler.submit(step)
        except StopIteration:
            self._is_done = True
        except Exception as error:
            self._error, self._is_done = error, True

    def _after_background(self, future: Future[Any]) -> None:
        if self._is_done:
            return
        error = future.exception()
        if error is None:
            self._advance(lambda: self._script.send(future.result()))
        else:
            self._advance(lambda: self._script.throw(error))

    def _after_generation(self, error: Exception | None) -> None:
        self._generation = None
        if error is None:
            self._advance(lambda: self._script.send(None))
        else:
            self._advance(lambda: self._script.throw(error))


@dataclass(frozen=True)
class Speaker:
    """Runs the calls of one piece of a request.

    Args:
        stats: of the request.
        listener: of the request.
        is_checked: whether silent, runaway and truncated output is detected.
        forced_tokens: the length of every output, for measurements; None lets the model choose.
    """

    stats: RequestStats
    listener: Listener
    is_checked: bool
    forced_tokens: int | None = None

    def run(
        self, calls: list[LMCall], reference: Reference, piece: int, emit: Callable[[Waveform, bool], None]
    ) -> Script:
        """Run all calls for a piece, the first of which reads the reference, and decode the last.

        Raises:
            SynthesisFailed: the output can't be used, twice.
        """
        ids, seed = reference.ids, self.stats.seed + piece
        chunk_frames = self.listener.chunk_frames(piece == 0)
        for number, call in enumerate(calls[:-1]):
            ids = yield from self._codes(call, ids, seed + number)
        for attempt in range(ATTEMPTS):
            last_seed = _seed(seed + len(calls) - 1, attempt)
            problem = yield from self._sound(calls[-1], ids, reference, last_seed, chunk_frames, emit)
            if problem is None:
                return
            self._complain(problem, attempt)

    def _codes(self, call: LMCall, ids: list[int], seed: int) -> Script:
        """Run a call whose codes are the input of another; returns whole groups of ids."""
        for attempt in range(ATTEMPTS):
            bounds = call.bounds(ids)
            generation = Generation(self._sequence(call, ids, bounds, _seed(seed, attempt)), self.listener)
            yield generation
            found = generation.sequence.ids
            self.stats.output_tokens += len(found)
            problem = self._problem(generation.sequence, bounds)
            if problem is None and len(found) < GROUP:
                problem = "it gave nothing"
            if problem is None:
                return found[: len(found) // GROUP * GROUP]
            self._complain(problem, attempt)
        raise AssertionError("unreachable")

    def _sound(
        self,
        call: LMCall,
        ids: list[int],
        reference: Reference,
        seed: int,
        chunk_frames: tuple[int, ...],
        emit: Callable[[Waveform, bool], None],
    ) -> Script:
        """Run a call and decode its codes as they arrive; returns a problem found before any sound."""
        bounds, peaks = call.bounds(ids), [0.0]

        def on_sound(sound: Waveform, is_last: bool) -> None:
            peaks.append(float(np.abs(sound).max(initial=0.0)))
            emit(sound, is_last)

        generation = Generation(
            self._sequence(call, ids, bounds, seed),
            self.listener,
            reference.acoustics,
            seed,
            chunk_frames,
            on_sound,
            lambda sequence: self._problem(sequence, bounds) is None,
        )
        yield generation
        self.stats.output_tokens += len(generation.sequence.ids)
        problem = self._problem(generation.sequence, bounds)
        if problem is not None and not generation.has_first_chunk:
            return problem
        if problem is None and self.is_checked and max(peaks) < SILENT_RMS:
            problem = "it was silent"
        if problem is not None:
            self._complain(problem, ATTEMPTS - 1)
        return None

    def _sequence(self, call: LMCall, ids: list[int], bounds: Bounds, seed: int) -> Sequence:
        prompt = call.prompt(ids)
        self.stats.input_tokens += len(prompt)
        if self.forced_tokens is None:
            return Sequence(prompt, seed, TEMPERATURE, bounds.max_tokens)
        return Sequence(prompt, seed, TEMPERATURE, self.forced_tokens, least_tokens=self.forced_tokens)

    def _problem(self, sequence: Sequence, bounds: Bounds) -> str | None:
        if not self.is_checked:
            return None
        return complaint(len(sequence.ids), sequence.has_ended, bounds)

    def _complain(self, problem: str, attempt: int) -> None:
        """Count a failed attempt; the last one is an error."""
        stats = self.stats
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
