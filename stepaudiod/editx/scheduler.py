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
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from stepaudiod.audio.types import Waveform
from stepaudiod.editx.codes import GROUP
from stepaudiod.editx.decoder.runner import Chunk, DecoderRunner
from stepaudiod.editx.generation import Generation
from stepaudiod.editx.lanes import Lane, Lanes
from stepaudiod.editx.lm.runner import LMRunner, Sequence
from stepaudiod.editx.voice_memory import Voice, VoiceMemory
from stepaudiod.errors import InvalidRequest

log = logging.getLogger(__name__)

PROMPT_TOKENS = 512
"""Prompt positions that are read before running sequences get their next codes."""
PROMPT_ALIGNMENT = 256
"""A prompt is divided at multiples of this."""


@dataclass(eq=False)
class _Admitted:
    """A generation with what it holds; each part is released as soon as it isn't needed."""

    generation: Generation
    voice: Voice | None
    is_in_language_model: bool = True

    @property
    def sequence(self) -> Sequence:
        return self.generation.sequence


class Scheduler:
    def __init__(
        self, language_model: LMRunner, decoder: DecoderRunner, lanes: Lanes, decoder_bytes: int | None
    ) -> None:
        self.lanes = lanes
        self._language_model = language_model
        self._decoder = decoder
        self._memory = VoiceMemory(decoder.costs, decoder_bytes)
        self._waiting: deque[Generation] = deque()
        self._admitted: list[_Admitted] = []
        self._stepped: list[_Admitted] = []
        """What the language model's lane works on."""
        self._decoded: list[_Admitted] = []
        self._prefilled: Voice | None = None
        """What the decoder's lane works on, as `_decoded`."""
        self._background: deque[tuple[Callable[[], Any], Callable[[Future[Any]], None]]] = deque()
        self._has_read = False
        self._captures = {lanes.language_model: False, lanes.decoder: False}
        """Whether a lane may have graphs to capture."""

    @property
    def is_working(self) -> bool:
        lanes = self.lanes
        return bool(self._waiting or self._admitted or self._background) or not lanes.recordings.is_free

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
        self._admit()
        # the decoder first: where both share a thread, sound comes before more codes
        self._start_decoder()
        self._start_language_model()
        if self._background and self.lanes.recordings.is_free:
            self.lanes.recordings.start(*self._background.popleft())
        return count

    def _admit(self) -> None:
        """Admit waiting generations in order, until one has to wait for pages, a row or memory."""
        while self._waiting and (admitted := self._reserve(self._waiting[0])) is not None:
            self._waiting.popleft()
            self._admitted.append(admitted)

    def _reserve(self, generation: Generation) -> _Admitted | None:
        runner, sequence, acoustics = self._language_model, generation.sequence, generation.acoustics
        taken = {each.sequence.slot for each in self._admitted if each.is_in_language_model}
        slot = next((slot for slot in range(runner.rows) if slot not in taken), None)
        if slot is None:
            return None
        voice = None
        if acoustics is not None and (voice := self._memory.reserve(acoustics, generation.frames)) is None:
            return None
        allocation = runner.pages.allocate(sequence.prompt, sequence.positions)
        if allocation is None:
            if voice is not None:
                self._memory.release(voice, generation.frames)
            return None
        sequence.slot, sequence.allocation, sequence.read = slot, allocation, allocation.known
        return _Admitted(generation, voice)

    def _start_language_model(self) -> None:
        """Read prompts and decode in turn, so that neither waits long for the other."""
        lane = self.lanes.language_model
        if not lane.is_free:
            return
        running = [each for each in self._admitted if each.is_in_language_model]
        pieces, decoding = self._prompt_pieces(running), self._decodable(running)
        if pieces and not (self._has_read and decoding):
            self._has_read = True
            self._stepped = [each for each, _ in pieces]
            given = [(each.sequence, count) for each, count in pieces]
            lane.start(lambda: self._language_model.prefill(given), self._after_language_model)
        elif decoding:
            self._has_read = False
            self._stepped = decoding
            sequences = [each.sequence for each in decoding]
            lane.start(lambda: self._language_model.decode(sequences), self._after_language_model)
        else:
            self._capture(lane, self._language_model.capture_next)

    def _decodable(self, running: list[_Admitted]) -> list[_Admitted]:
        """Those whose prompts were read; one may consist of pages that one before it is still to fill."""
        return list(takewhile(lambda each: each.sequence.is_read, running))

    def _prompt_pieces(self, running: list[_Admitted]) -> list[tuple[_Admitted, int]]:
        """Prompts in the order of admission, up to the tokens of one step.

        A later prompt may share pages with an earlier one, so it is read after that or with it.
        """
        pieces, room = [], PROMPT_TOKENS
        for each in running:
            left = len(each.sequence.prompt) - 1 - each.sequence.read
            if left <= 0:
                continue
            count = left if left <= room else room // PROMPT_ALIGNMENT * PROMPT_ALIGNMENT
            if not count:
                break
            pieces.append((each, count))
            room -= count
            if count < left:
                break
        return pieces

    def _after_language_model(self, future: Future[Any]) -> None:
        stepped, self._stepped = self._stepped, []
        if (error := future.exception()) is not None:
            running = [each for each in self._admitted if each.is_in_language_model]
            # what is still to be read may share pages with a prompt that could not be read
            unread = running[len(self._decodable(running)) :] if self._has_read else []
            for each in {*stepped, *unread}:
                self._leave_language_model(each)
                self._end(each, error)
            return
        self._captures[self.lanes.language_model] = True
        for each in stepped:
            generation, sequence = each.generation, each.sequence
            if sequence.has_ended or len(sequence.ids) >= sequence.max_tokens:
                generation.is_written = True
                self._leave_language_model(each)
                is_wanted = generation.has_first_chunk or generation.is_usable(sequence)
                if generation.acoustics is None or not is_wanted:
                    self._end(each, None)

    def _start_decoder(self) -> None:
        """Compute the voice, or decode the chunks, whose listener runs out of sound first."""
        lane = self.lanes.decoder
        if not lane.is_free:
            return
        ready = [each for each in self._admitted if each.voice and not each.generation.has_ended]
        unread = [each for each in ready if each.voice and each.voice.prefix is None]
        sizes = {
            each: size
            for each in ready
            if each not in unread and (size := each.generation.next_size()) is not None
        }
        order = sorted([*unread, *sizes], key=lambda each: each.generation.listener.deadline)
        if not order:
            self._capture(lane, self._decoder.capture_next)
        elif (voice := order[0].voice) is not None and voice.prefix is None:
            self._read_voice(voice)
        else:
            # longer chunks than the first would make it late
            group = [each for each in order if each in sizes and sizes[each] <= sizes[order[0]]]
            self._decode(group[: self._decoder.slots])

    def _read_voice(self, voice: Voice) -> None:
        self._prefilled = voice

        def then(future: Future[Any]) -> None:
            self._prefilled = None
            if (error := future.exception()) is None:
                voice.prefix = future.result()
                return
            for each in list(self._admitted):
                if each.voice is voice:
                    self._end(each, error)

        self.lanes.decoder.start(lambda: self._decoder.prefill(voice.acoustics), then)

    def _decode(self, group: list[_Admitted]) -> None:
        self._decoded = group
        taken = {each: each.generation.take_chunk() for each in group}
        failed: dict[_Admitted, Exception] = {}

        def decode() -> list[Waveform]:
            for each in group:
                try:
                    self._open(each)
                except Exception as error:  # for want of memory, which the others have
                    failed[each] = error
            chunks = [
                Chunk(each.generation.stream, *taken[each])
                for each in group
                if each.generation.stream is not None
            ]
            return self._decoder.decode(chunks) if chunks else []

        def then(future: Future[list[Waveform]]) -> None:
            self._decoded = []
            self._captures[self.lanes.decoder] = True
            error = future.exception()
            sounds = iter(future.result() if error is None else ())
            for each in group:
                if (problem := failed.get(each, error)) is not None:
                    self._end(each, problem)
                elif not each.generation.has_ended:
                    self._pass_on(each, next(sounds), taken[each][1])
                else:
                    next(sounds)

        self.lanes.decoder.start(decode, then)

    def _open(self, each: _Admitted) -> None:
        """Give a generation its stream in the decoder, before its first chunk."""
        generation, voice = each.generation, each.voice
        assert voice is not None
        assert voice.prefix is not None
        if generation.stream is None:
            generation.stream = self._decoder.open(voice.prefix, generation.seed, generation.frames)

    def _pass_on(self, each: _Admitted, sound: Waveform, is_last: bool) -> None:
        generation = each.generation
        generation.has_sounded = generation.has_sounded or sound.size > 0
        generation.listener.hear(sound.size)
        generation.on_sound(sound, is_last)
        if is_last:
            self._end(each, None)

    def _capture(self, lane: Lane, capture_next: Callable[[], bool]) -> None:
        """Capture one of the graphs that were missed, if every request has its first sound."""
        if not self._captures[lane] or self._waiting:
            return
        if not all(each.generation.has_sounded for each in self._admitted):
            return

        def then(future: Future[bool]) -> None:
            if (error := future.exception()) is not None:
                log.warning("a graph could not be captured, and its kernels run one by one: %s", error)
            self._captures[lane] = error is None and future.result()

        lane.start(capture_next, then)

    def _end(self, each: _Admitted, error: BaseException | None) -> None:
        """Tell a generation that it has ended, and release what it holds."""
        generation = each.generation
        if generation.has_ended or each not in self._admitted:
            return
        generation.has_ended = True
        self._release()
        if error is not None and not isinstance(error, Exception):
            raise error
        generation.on_end(error)

    def _release(self) -> None:
        """Release what cancelled generations hold, if no lane is working on it."""
        for each in list(self._admitted):
            if not each.generation.has_ended or each in self._stepped or each in self._decoded:
                continue
            if each.voice is not None and each.voice is self._prefilled:
                continue
            # other prompts may share the pages of one that has begun
            if each.is_in_language_model and not each.sequence.is_read:
                continue
            self._leave_language_model(each)
            if each.voice is not None:
                self._memory.release(each.voice, each.generation.frames)
            self._admitted.remove(each)

    def _leave_language_model(self, each: _Admitted) -> None:
        if each.is_in_language_model:
            pages, sequence = self._language_model.pages, each.sequence
            assert sequence.allocation is not None
            pages.release(sequence.allocation, is_known=sequence.is_read)
            each.is_in_language_model = False
