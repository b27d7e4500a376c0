"""Decides what the language model and the decoder do next: one loop for all requests.

    submit ──▶ waiting ──▶ admitted ──────────────▶ prompt ──▶ groups of codes ──▶ chunks
               in order    pages, a row, memory:    │ language model │             │ decoder │
                           all at once, or none

`step` collects what the two lanes have done, admits requests, and gives each free lane its next work: a
batch of prompts, a group of five codes for every sequence, or a batch of chunks. It never waits. Chunks are
decoded in the order in which their listeners run out of sound. Everything is called from one thread.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from itertools import takewhile
from typing import Any

import torch

from stepaudiod.audio.types import Waveform
from stepaudiod.editx.codes import GROUP
from stepaudiod.editx.decoder.runner import Chunk, DecoderRunner, DecoderStream
from stepaudiod.editx.generation import Generation
from stepaudiod.editx.lanes import Lane, Lanes
from stepaudiod.editx.lm.runner import LMRunner
from stepaudiod.editx.voice_memory import Voice, VoiceMemory
from stepaudiod.errors import InvalidRequest

log = logging.getLogger(__name__)

PROMPT_TOKENS = 512
"""Prompt positions that are read before running sequences get their next codes."""
PROMPT_ALIGNMENT = 256
"""A prompt is divided at multiples of this."""
CAPTURE_S = 0.25
"""Sound that each listener has unheard when a capture begins; it takes 0.05 s, beside others up to 0.16."""


class Scheduler:
    def __init__(
        self, language_model: LMRunner, decoder: DecoderRunner, lanes: Lanes, decoder_bytes: int | None
    ) -> None:
        self.lanes = lanes
        self._language_model = language_model
        self._decoder = decoder
        self._memory = VoiceMemory(decoder.costs, decoder_bytes)
        self._waiting: deque[Generation] = deque()
        self._admitted: list[Generation] = []
        self._background: deque[tuple[Callable[[], Any], Callable[[Future[Any]], None]]] = deque()
        self._has_read = False
        """Whether the language model's last task was to read prompts."""
        self._captures: dict[Lane, bool | None] = {lanes.language_model: None, lanes.decoder: None}
        """Whether a lane may have graphs to capture; None before its first task."""

    @property
    def is_working(self) -> bool:
        return bool(self._waiting or self._admitted) or self._is_recording

    @property
    def is_warm(self) -> bool:
        """Whether all graphs have been captured."""
        return all(may is False for may in self._captures.values())

    @property
    def _is_recording(self) -> bool:
        return bool(self._background) or not self.lanes.recordings.is_free

    def submit(self, generation: Generation) -> None:
        """Queue a generation.

        Raises:
            InvalidRequest: it can never fit.
        """
        sequence, runner = generation.sequence, self._language_model
        # the last id of a prompt is the first input of decoding, and codes come in whole groups
        capacity = (runner.length - len(sequence.prompt) + 1) // GROUP * GROUP
        if capacity < GROUP:
            raise InvalidRequest(
                f"expected a prompt below {runner.length} tokens, found {len(sequence.prompt)}; shorten it",
                "text",
            )
        sequence.max_tokens = min(sequence.max_tokens, capacity)
        if not runner.pages.fits(sequence.positions):
            raise InvalidRequest(
                f"a prompt of {len(sequence.prompt)} tokens for up to {sequence.max_tokens} more exceeds the "
                "memory for requests; shorten the text or the recording, or raise step_audio.gpu_memory",
                "text",
            )
        if generation.acoustics is not None:
            self._memory.check(generation.acoustics, generation.frames)
        self._waiting.append(generation)
        self.lanes.notify()

    def cancel(self, generation: Generation) -> None:
        """Leave; what a lane is working on is released when that has ended."""
        generation.has_ended = True
        if generation in self._waiting:
            self._waiting.remove(generation)
        self._release()

    def run(self, function: Callable[[], Any], then: Callable[[Future[Any]], None]) -> None:
        """Run a function beside the engine, one at a time in order; its future goes to `then`."""
        self._background.append((function, then))
        self.lanes.notify()

    def step(self) -> int:
        """Collect what has been done and start what comes next; returns the number of tasks that ended."""
        count = self.lanes.collect()
        self._release()
        # in order, until one has to wait
        while self._waiting and self._admit(self._waiting[0]):
            self._admitted.append(self._waiting.popleft())
        # the decoder first: where both share a thread, sound comes before more codes
        if self.lanes.decoder.is_free:
            self._start_decoder()
        if self.lanes.language_model.is_free:
            self._start_language_model()
        if self._background and self.lanes.recordings.is_free:
            self.lanes.recordings.start(*self._background.popleft())
        return count

    def _admit(self, generation: Generation) -> bool:
        """Give a generation its row, pages and decoder's memory, all at once; False if it must wait."""
        runner, sequence, acoustics = self._language_model, generation.sequence, generation.acoustics
        free = set(range(runner.rows)) - {each.sequence.slot for each in self._in_language_model}
        if not free:
            return False
        if acoustics is not None:
            generation.voice = self._memory.reserve(acoustics, generation.frames)
            if generation.voice is None:
                return False
        allocation = runner.pages.allocate(sequence.prompt, sequence.positions)
        if allocation is None:
            self._release_voice(generation)
            return False
        sequence.slot, sequence.allocation, sequence.read = min(free), allocation, allocation.known
        return True

    @property
    def _in_language_model(self) -> list[Generation]:
        return [each for each in self._admitted if not each.is_written]

    def _start_language_model(self) -> None:
        """Read prompts and decode in turn, so that neither waits long for the other."""
        lane, runner = self.lanes.language_model, self._language_model
        running = self._in_language_model
        pieces, decoding = _prompt_pieces(running), _decodable(running)
        if not running:
            self._capture(lane, runner.capture_next)
            return
        self._has_read = bool(pieces) and not (self._has_read and decoding)
        if self._has_read:
            users = [each for each, _ in pieces]
            task = partial(runner.prefill, [(each.sequence, count) for each, count in pieces])
        else:
            users = decoding
            task = partial(runner.decode, [each.sequence for each in decoding])
        lane.start(task, partial(self._after_language_model, users), users)

    def _after_language_model(self, stepped: list[Generation], future: Future[Any]) -> None:
        if (error := future.exception()) is not None:
            running = self._in_language_model
            # what is still to be read may share pages with a prompt that could not be read
            unread = running[len(_decodable(running)) :] if self._has_read else []
            for each in {*stepped, *unread}:
                self._leave_language_model(each)
                self._end(each, error)
            return
        self._captures[self.lanes.language_model] = True
        for each in stepped:
            sequence = each.sequence
            if sequence.has_ended or len(sequence.ids) >= sequence.max_tokens:
                self._leave_language_model(each)
                if each.acoustics is None or not (each.has_first_chunk or each.problem(each) is None):
                    self._end(each)

    def _start_decoder(self) -> None:
        """Compute the voice, or decode the chunks, whose listener runs out of sound first."""
        ready = {
            each: size
            for each in self._admitted
            if each.voice and not each.has_ended and not each.lacks_memory
            if (size := each.next_size() if each.voice.prefix else 0) is not None
        }
        if not ready:
            self._capture(self.lanes.decoder, self._decoder.capture_next)
            return
        order = sorted(ready, key=lambda each: each.listener.deadline)
        voice = order[0].voice
        assert voice is not None
        if voice.prefix is None:
            self._read_voice(voice)
            return
        # longer chunks than the first would make it late
        group = [
            each for each in order if each.voice and each.voice.prefix and ready[each] <= ready[order[0]]
        ]
        self._decode(group[: self._decoder.slots])

    def _read_voice(self, voice: Voice) -> None:
        def then(future: Future[Any]) -> None:
            if (error := future.exception()) is None:
                voice.prefix = future.result()
                return
            self._fail({each: error for each in self._admitted if each.voice is voice})

        users = [each for each in self._admitted if each.voice is voice]
        self.lanes.decoder.start(partial(self._decoder.prefill, voice.acoustics), then, users)

    def _decode(self, group: list[Generation]) -> None:
        taken = {each: each.next_chunk() for each in group}
        failed: dict[Generation, BaseException] = {}

        def decode() -> list[Waveform]:
            chunks = []
            for each, (codes, is_last) in taken.items():
                try:
                    chunks.append(Chunk(self._stream(each), codes, is_last))
                except Exception as error:  # for want of memory, which the others have
                    failed[each] = error
            return self._decoder.decode(chunks) if chunks else []

        def then(future: Future[list[Waveform]]) -> None:
            self._captures[self.lanes.decoder] = True
            error = future.exception()
            sounds = future.result() if error is None else []
            problems = {each: problem for each in group if (problem := failed.get(each, error)) is not None}
            self._fail(problems)  # before others end, for which these may wait
            # what the decoder left out is ready again
            for each, sound in zip((each for each in group if each not in problems), sounds, strict=False):
                codes, is_last = taken[each]
                if not each.has_ended:
                    each.hear(sound, codes, is_last)
                if is_last:
                    self._end(each)

        self.lanes.decoder.start(decode, then, group)

    def _stream(self, each: Generation) -> DecoderStream:
        """A generation's stream in the decoder, which begins with its first chunk."""
        assert each.voice is not None
        assert each.voice.prefix is not None
        if each.stream is None:
            each.stream = self._decoder.open(each.voice.prefix, each.seed, each.frames)
        return each.stream

    def _capture(self, lane: Lane, capture_next: Callable[[], bool]) -> None:
        """Capture one of the graphs that were missed, if no request waits and no listener has to."""
        until = time.monotonic() + CAPTURE_S
        is_busy = any(each.peak is None or each.listener.deadline < until for each in self._admitted)
        if not self._captures[lane] or self._waiting or self._is_recording or is_busy:
            return

        def then(future: Future[bool]) -> None:
            if (error := future.exception()) is not None:
                log.warning("a graph can't be captured before it is needed: %s", error)
            self._captures[lane] = error is None and future.result()

        lane.start(capture_next, then)

    def _fail(self, problems: Mapping[Generation, BaseException]) -> None:
        """End generations; those that only lack memory on a GPU that other processes fill wait for ours."""
        lacking = {
            each: error
            for each, error in problems.items()
            if isinstance(error, torch.OutOfMemoryError) and each.stream is None
        }
        for each, error in problems.items():
            if each not in lacking:
                self._end(each, error)
        if lacking and self._memory.drop_unused():
            return  # they are tried again
        for each, error in lacking.items():
            each.lacks_memory = any(other.stream is not None for other in self._admitted)
            if not each.lacks_memory:
                self._end(each, error)

    def _end(self, each: Generation, error: BaseException | None = None) -> None:
        """Tell a generation that it has ended, and release what it holds."""
        if not each.has_ended:
            each.has_ended = True
            self._release()
            each.on_end(error)

    def _release(self) -> None:
        """Release what those that have ended hold, if no lane needs it.

        The language model may still compute codes of one, see `LMRunner`.
        """
        used = [*self.lanes.language_model.users, *self.lanes.decoder.users]
        for each in list(self._admitted):
            # other prompts may share the pages of one that has begun
            if each.has_ended and each not in used and (each.is_written or each.sequence.is_read):
                self._leave_language_model(each)
                self._release_voice(each)
                self._admitted.remove(each)
                for other in self._admitted:
                    other.lacks_memory = False

    def _leave_language_model(self, each: Generation) -> None:
        if not each.is_written:
            assert each.sequence.allocation is not None
            self._language_model.pages.release(each.sequence.allocation, is_known=each.sequence.is_read)
            each.is_written = True

    def _release_voice(self, each: Generation) -> None:
        if each.voice is not None:
            self._memory.release(each.voice, each.frames)
            each.voice = each.stream = None


def _decodable(running: list[Generation]) -> list[Generation]:
    """Those whose prompts were read; one may consist of pages that one before it is still to fill."""
    return list(takewhile(lambda each: each.sequence.is_read, running))


def _prompt_pieces(running: list[Generation]) -> list[tuple[Generation, int]]:
    """Prompts in the order of admission, up to the tokens of one step.

    A later prompt may share pages with an earlier one, so it is read after that or with it.
    """
    pieces, room = [], PROMPT_TOKENS
    for each in running:
        left = len(each.sequence.prompt) - 1 - each.sequence.read
        count = left if left <= room else room // PROMPT_ALIGNMENT * PROMPT_ALIGNMENT
        if count > 0:
            pieces.append((each, count))
            room -= count
        if count < left:
            break
    return pieces
