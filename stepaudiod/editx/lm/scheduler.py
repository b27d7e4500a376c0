"""Sequences of ids, several at a time in one batch that they join and leave as they please.

Whoever needs a token takes a step for everybody in the batch; the others find theirs waiting. So requests
share each reading of the weights, without a scheduler, whether they run in threads of their own or one thread
turns from one to the other. Knows no audio.

A row that was left keeps what it read. A prompt that begins like it, as all prompts of one voice do, is read
from where they part; in whole blocks, so that the numbers are the same to the last bit whether or not it was
there.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType

import torch
from torch import Tensor

from stepaudiod.editx.codes import END_OF_TURN
from stepaudiod.editx.lm.admission import AdmissionQueue
from stepaudiod.editx.lm.kv_cache import common
from stepaudiod.editx.lm.sampling import Sampler, SamplingOptions
from stepaudiod.editx.lm.step1 import PROMPT_BLOCK, KVCache, Step1ForCausalLM
from stepaudiod.errors import InvalidRequest

DEFAULT_ROWS, DEFAULT_LENGTH = 4, 8192
DEFAULT_POSITIONS = 16384
"""Of all sequences together, on a GPU: half a gigabyte of keys and values."""
KEY_BLOCK = 64
MAX_BUFFERED_TOKENS = 8
"""Tokens that may wait for their reader while others need theirs."""
WAIT_S = 0.005


@dataclass(eq=False)
class Sequence:
    """One request's place in a batch. Iterating gives its ids, the end not among them.

    Args:
        batch: where it runs.
        sampler: chooses its ids.
        max_tokens: how many it may have.
    """

    batch: Batch
    sampler: Sampler
    max_tokens: int
    row: int = -1
    position: int = 0
    has_ended: bool = False
    _scores: Tensor | None = None
    _waiting: deque[int] = field(default_factory=deque)

    def __enter__(self) -> Sequence:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.batch.leave(self)

    def __iter__(self) -> Iterator[int]:
        return self.tokens

    @cached_property
    def tokens(self) -> Iterator[int]:
        """Its ids, each once, however often iterating begins."""
        return self._tokens()

    def _tokens(self) -> Iterator[int]:
        for _ in range(self.max_tokens):
            token = self.batch.next_token(self)
            if token == END_OF_TURN:
                self.has_ended = True
                return
            yield token


class Batch:
    """The running batch of one language model.

    Args:
        model: the language model.
        rows: sequences at a time; one more waits until a row is free.
        length: positions each, prompt and output together.
    """

    def __init__(
        self, model: Step1ForCausalLM, rows: int = DEFAULT_ROWS, length: int = DEFAULT_LENGTH
    ) -> None:
        self.model = model
        self.rows = rows
        self.length = min(length, model.config.max_seq_len)
        self._cache: KVCache | None = None
        self._active: dict[int, Sequence] = {}
        self._read: list[list[int]] = [[] for _ in range(rows)]
        self._taken, self._taker = 0, 0
        self._line = AdmissionQueue()
        self._lock = threading.Lock()
        self._row_is_free = threading.Condition(self._lock)

    def join(self, prompt: list[int], options: SamplingOptions, seed: int, max_tokens: int) -> Sequence:
        """Read a prompt and take a place, as soon as there is one; see `try_join`."""
        who, taken = object(), 0
        try:
            while True:
                sequence = self.try_join(prompt, options, seed, max_tokens, who)
                if sequence is not None:
                    return sequence
                taken = self.help_others(taken)
        finally:
            self.stop_asking(who)

    def try_join(
        self, prompt: list[int], options: SamplingOptions, seed: int, max_tokens: int, who: object
    ) -> Sequence | None:
        """Read a prompt and take a place; whoever asked first comes first.

        Use the result in a `with` statement, which gives the place back.

        Args:
            prompt: ids.
            options: how ids are chosen.
            seed: of the sampling.
            max_tokens: how many there may be.
            who: the same each time that the same request asks; `stop_asking` in the end.

        Returns:
            None if there is no place now: `help_others`, and try again.

        Raises:
            InvalidRequest: the prompt leaves no room.
        """
        room = self.length - len(prompt)
        if room < 1:
            raise InvalidRequest(
                f"expected a prompt below {self.length} tokens, found {len(prompt)}; shorten it"
            )
        sequence = Sequence(self, Sampler(options, seed, prompt), min(max_tokens, room))
        with self._lock, torch.inference_mode():
            if not self._line.ask(who) or not self._admit(sequence, prompt):
                return None
            self._line.leave(who)
            return sequence

    def stop_asking(self, who: object) -> None:
        """Leave the line, if one still stands in it."""
        with self._lock:
            self._line.leave(who)

    def _admit(self, sequence: Sequence, prompt: list[int]) -> bool:
        """Read the prompt into a free row, if there is one."""
        if len(self._active) >= self.rows:
            return False
        if self._cache is None:
            self._cache = self.model.new_cache(self.rows, self.length)
        sequence.row, known = self._best_row(prompt)
        self._active[sequence.row] = sequence
        try:
            self._read[sequence.row] = prompt[:known]
            hidden = self.model.prefill(prompt[known:], self._cache, sequence.row, known)[-1]
            self._read[sequence.row] = list(prompt)
            is_pattern_enforced = sequence.sampler.options.is_pattern_enforced
            sequence._scores = self._score(hidden[None], is_pattern_enforced)[0]
        except BaseException:
            self._drop(sequence)
            raise
        sequence.position = len(prompt)
        return True

    def _best_row(self, prompt: list[int]) -> tuple[int, int]:
        """Find the free row that has read most of a prompt, and how much: whole blocks, never all."""
        free = [row for row in range(self.rows) if row not in self._active]
        shared = {row: common(self._read[row], prompt[:-1]) // PROMPT_BLOCK * PROMPT_BLOCK for row in free}
        # where nothing is shared, the row with the least to lose
        row = max(free, key=lambda row: (shared[row], -len(self._read[row])))
        return row, shared[row]

    def help_others(self, taken: int) -> int:
        """Take a step for those who have a place, or wait a moment: for whoever waits for one, or for memory.

        A thread that runs those inside too is not kept waiting while they go on.

        Args:
            taken: what this gave the last time; 0 at first.
        """
        with self._lock, torch.inference_mode():
            goes_on = self._taken != taken and self._taker == threading.get_ident()
            if not self._step(None) and not goes_on:
                self._row_is_free.wait(WAIT_S)
            return self._taken

    def leave(self, sequence: Sequence) -> None:
        """Give a place back; leaving twice does nothing."""
        with self._lock:
            self._drop(sequence)

    def next_token(self, sequence: Sequence) -> int:
        """Give a sequence's next id, taking a step for the whole batch if it has none waiting."""
        with self._lock:
            if not sequence._waiting:
                if self._active.get(sequence.row) is not sequence:
                    raise RuntimeError("the sequence has left its batch")
                with torch.inference_mode():
                    self._step(sequence)
            self._taken, self._taker = self._taken + 1, threading.get_ident()
            return sequence._waiting.popleft()

    def _drop(self, sequence: Sequence) -> None:
        if self._active.get(sequence.row) is sequence:
            del self._active[sequence.row]
            self._row_is_free.notify()

    def _step(self, wanted: Sequence | None) -> bool:
        """Choose an id for everyone who has scores and may be ahead of its reader.

        The model is run first if `wanted`, or without it anyone, has used its scores up. False if there was
        nothing to do.
        """
        ready = [s for s in self._active.values() if s is wanted or len(s._waiting) < MAX_BUFFERED_TOKENS]
        if wanted is None:
            ready = [s for s in ready if not self._is_done(s)]
        needs_scores = ready if wanted is None else [wanted]
        if any(s._scores is None for s in needs_scores):
            self._run_model()
        chosen = [s for s in ready if s._scores is not None]
        for sequence in chosen:
            assert sequence._scores is not None
            token = sequence.sampler.choose(sequence._scores)
            sequence._scores = None
            sequence._waiting.append(token)
        return bool(chosen)

    def _run_model(self) -> None:
        """Feed everyone's last id whose scores are used up and who isn't done.

        All rows go along each time, those with nothing to feed at a position where nothing is lost, and whole
        blocks of keys are looked at: a product of another size may round otherwise, and then a request's
        codes would depend on who is beside it. Reading the weights takes the time, and that is done once
        anyway.
        """
        assert self._cache is not None
        live = {row: s for row, s in self._active.items() if s._scores is None and not self._is_done(s)}
        ids = [live[row].sampler.history[-1] if row in live else 0 for row in range(self.rows)]
        at = [live[row].position if row in live else self._idle_position(row) for row in range(self.rows)]
        longest = max(live[row].position for row in live) + 1
        seen = min(-(-longest // KEY_BLOCK) * KEY_BLOCK, self.length)
        device = self.model.device
        hidden = self.model.decode(
            torch.tensor(ids, device=device), torch.tensor(at, device=device), self._cache, seen
        )
        for row, sequence in live.items():
            self._read[row].append(ids[row])
            sequence.position += 1
            sequence._scores = self._score(hidden[row], sequence.sampler.options.is_pattern_enforced)

    def _idle_position(self, row: int) -> int:
        """Where a row that has nothing to feed may be written to: behind what it has read."""
        position = min(len(self._read[row]), self.length - 1)
        del self._read[row][position:]
        return position

    def _is_done(self, sequence: Sequence) -> bool:
        history = sequence.sampler.history
        ended = sequence.sampler.produced > 0 and history[-1] == END_OF_TURN
        return ended or sequence.position >= self.length

    def _score(self, hidden: Tensor, is_pattern_enforced: bool) -> Tensor:
        return self.model.audio_logits(hidden) if is_pattern_enforced else self.model.logits(hidden)
