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
from functools import partial
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
from stepaudiod.editx.segments import TimeRange, fade
from stepaudiod.editx.tokenizers.features import SAMPLE_RATE
from stepaudiod.errors import SynthesisFailed

log = logging.getLogger(__name__)

ATTEMPTS = 2
SEED_BITS = 48
UNREAD_SAMPLES = 5 * SAMPLE_RATE
"""With more sound than this that is not read, the next piece of a text does not begin."""
_ATTEMPT_STRIDE = 0x9E3779B97F4A7C15


Call = Callable[[list[int]], tuple[list[int], Bounds]]
"""Makes the prompt of a call of the language model, and the bounds of its output's length, from the last
call's ids, at first the reference's."""


@dataclass
class RequestStats:
    """Filled in while a request runs.

    Args:
        seed: with which the request gives the same result again.
        reference_range: the part of a long reference that was used.
        output_tokens: of all calls, discarded ones included.
        pieces: that a long text or recording was cut into.
    """

    seed: int
    reference_range: TimeRange | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    retries: int = 0
    pieces: int = 1


Script = Generator[Generation | Callable[[], Any] | None, Any, Any]
"""Yields a generation; a function, to have it run beside the engine and to get its result; or None, to wait
until most of the sound has been read."""


def new_seed() -> int:
    return secrets.randbits(SEED_BITS)


class Synthesis:
    """One request's sound, in chunks of `(samples,)` float32 at 24 kHz; `stats` is complete at the end.

    Iterating it runs the scheduler until there is a chunk. A caller that runs the scheduler itself asks
    `is_ready` first. Closing it ends the request.

    Args:
        script: given this, it says what is to be done, by `say` and `emit`.
        is_streamed: whether the client plays the sound as it comes.
        is_checked: whether silent, runaway and truncated output is detected.
        forced_tokens: the length of every output, for measurements; None lets the model choose.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        script: Callable[[Synthesis], Script],
        stats: RequestStats,
        is_streamed: bool,
        is_checked: bool,
        forced_tokens: int | None = None,
    ) -> None:
        self.stats = stats
        self._listener = Listener(is_streamed)
        self._scheduler = scheduler
        self._script = script(self)
        self._is_checked, self._forced_tokens = is_checked, forced_tokens
        self._chunks: deque[Waveform] = deque()
        self._error: BaseException | None = None
        self._generation: Generation | None = None
        self._is_done = self._is_begun = self._waits_for_room = False

    # ---- its client

    def start(self) -> None:
        """Begin; called by the first of `is_ready` and `next`."""
        if not self._is_begun:
            self._is_begun = True
            self._advance()

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
        if self._waits_for_room and self._has_room:
            self._waits_for_room = False
            self._advance()
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

    # ---- its script

    @property
    def _has_room(self) -> bool:
        return sum(chunk.size for chunk in self._chunks) < UNREAD_SAMPLES

    def _advance(self, result: Any = None, error: BaseException | None = None) -> None:
        """Resume the script with what it waited for, until it waits for something that is still to come."""
        try:
            step = self._script.throw(error) if error is not None else self._script.send(result)
            while step is None and self._has_room:
                step = next(self._script)
            if step is None:
                self._waits_for_room = True
            elif isinstance(step, Generation):
                self._generation = step
                self._scheduler.submit(step)
            else:
                # a request that was closed meanwhile keeps no other one waiting
                function = step
                self._scheduler.run(lambda: None if self._is_done else function(), self._after_background)
        except StopIteration:
            self._is_done = True
        except Exception as error:
            self._error, self._is_done = error, True

    def _after_background(self, future: Future[Any]) -> None:
        if not self._is_done:
            error = future.exception()
            self._advance(None if error is not None else future.result(), error)

    def _after_generation(self, error: BaseException | None) -> None:
        self._generation = None
        self._advance(error=error)

    def emit(self, sound: Waveform) -> None:
        """Pass on a chunk."""
        if sound.size:
            self._chunks.append(sound)

    def say(self, calls: list[Call], reference: Reference, piece: int, is_joined: bool) -> Script:
        """Run all calls for a piece of the request, and decode the last; the first reads the reference.

        The sound of a piece that is joined to others fades in and out.

        Raises:
            SynthesisFailed: the output can't be used, twice.
        """
        ids = reference.ids

        def hear(sound: Waveform, is_first: bool, is_last: bool) -> None:
            self.emit(fade(sound, SAMPLE_RATE, is_first, is_last) if is_joined else sound)

        for number, call in enumerate(calls):
            is_heard = number + 1 == len(calls)
            for attempt in range(ATTEMPTS):
                prompt, bounds = call(ids)
                sequence = self._sequence(prompt, bounds, _seed(self.stats.seed + piece + number, attempt))
                generation = Generation(
                    sequence,
                    self._listener,
                    self._after_generation,
                    reference.acoustics if is_heard else None,
                    sequence.seed,
                    self._listener.chunk_frames(piece == 0),
                    hear,
                    partial(self._problem, bounds),
                )
                yield generation
                self.stats.output_tokens += len(sequence.ids)
                if (problem := self._problem(bounds, generation)) is None:
                    break
                has_sound = is_heard and (generation.has_first_chunk or generation.peak is not None)
                self._complain(problem, has_sound or attempt + 1 == ATTEMPTS)
            ids = sequence.ids[: len(sequence.ids) // GROUP * GROUP]

    def _sequence(self, prompt: list[int], bounds: Bounds, seed: int) -> Sequence:
        self.stats.input_tokens += len(prompt)
        if self._forced_tokens is None:
            return Sequence(prompt, seed, TEMPERATURE, bounds.max_tokens)
        return Sequence(prompt, seed, TEMPERATURE, self._forced_tokens, least_tokens=self._forced_tokens)

    def _problem(self, bounds: Bounds, generation: Generation) -> str | None:
        """What is wrong with the codes, and with the sound if there is any."""
        sequence, peak = generation.sequence, generation.peak
        if generation.acoustics is None and len(sequence.ids) < GROUP:
            return "it gave nothing"  # the next call would have nothing to read
        if not self._is_checked:
            return None
        problem = complaint(len(sequence.ids), sequence.has_ended, bounds)
        is_silent = peak is not None and peak < SILENT_RMS
        return "it was silent" if problem is None and is_silent else problem

    def _complain(self, problem: str, is_final: bool) -> None:
        """Count a failed attempt; the last one is an error."""
        if is_final:
            raise SynthesisFailed(
                f"the speech can't be used: {problem}; it was tried with {self.stats.retries + 1} seeds; "
                "try a shorter or plainer text, or another reference"
            )
        self.stats.retries += 1
        log.warning("an attempt can't be used: %s; trying another seed", problem)


def _seed(seed: int, attempt: int) -> int:
    return (seed + attempt * _ATTEMPT_STRIDE) % (1 << 63)
