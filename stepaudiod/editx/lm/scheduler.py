"""Continuous batching: sequences of ids join and leave one running batch at any time.

The first consumer that needs a token runs one decode step for the whole batch; tokens of the other sequences
are buffered. So requests share each reading of the weights, whether they run in threads of their own or one
thread steps them in turn. Independent of audio.

A row keeps the keys and values of the sequence that left it. A prompt with the same beginning, as all prompts
of one voice have, is read from where they differ; in whole blocks, so that the last bits don't depend on it.
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
from stepaudiod.editx.lm.config import DEFAULT_LENGTH
from stepaudiod.editx.lm.kv_cache import common
from stepaudiod.editx.lm.sampling import Sampler
from stepaudiod.editx.lm.step1 import PROMPT_BLOCK, KVCache, Step1ForCausalLM
from stepaudiod.errors import InvalidRequest

DEFAULT_ROWS = 4
MAX_BUFFERED_TOKENS = 8
"""Tokens of a sequence that may be buffered while other sequences need theirs."""
WAIT_S = 0.005


@dataclass(eq=False)
class Sequence:
    """One request's row in a batch. Iterating yields its ids without the end."""

    batch: Batch
    sampler: Sampler
    max_tokens: int
    row: int = -1
    position: int = 0
    has_ended: bool = False
    _scores: Tensor | None = None
    _buffered: deque[int] = field(default_factory=deque)

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
        """Its ids, each once, even if iterated several times."""
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

    More sequences than `rows` wait until a row is free; each has `length` positions for prompt and output.
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
        self._consumed, self._consumer = 0, 0
        self._queue = AdmissionQueue()
        self._lock = threading.Lock()
        self._row_is_free = threading.Condition(self._lock)

    def try_join(
        self, prompt: list[int], temperature: float, seed: int, max_tokens: int, waiter: object
    ) -> Sequence | None:
        """Read a prompt and take a row; waiters are served in the order of their first call.

        The result is a context manager, which frees the row; None if there is no row now: call `step_others`,
        and try again. The waiter is the same at each call of one request, which ends with `stop_waiting`.

        Raises:
            InvalidRequest: the prompt fills the whole length.
        """
        capacity = self.length - len(prompt)
        if capacity < 1:
            raise InvalidRequest(
                f"expected a prompt below {self.length} tokens, found {len(prompt)}; shorten it", "text"
            )
        sequence = Sequence(self, Sampler(temperature, seed, prompt), min(max_tokens, capacity))
        with self._lock, torch.inference_mode():
            if not self._queue.is_first(waiter) or not self._admit(sequence, prompt):
                return None
            self._queue.leave(waiter)
            return sequence

    def stop_waiting(self, waiter: object) -> None:
        with self._lock:
            self._queue.leave(waiter)

    def _admit(self, sequence: Sequence, prompt: list[int]) -> bool:
        """Read the prompt into a free row; False if there is none."""
        if len(self._active) >= self.rows:
            return False
        if self._cache is None:
            self._cache = self.model.new_cache(self.rows * self.length)
        sequence.row, known = self._best_row(prompt)
        self._active[sequence.row] = sequence
        try:
            self._read[sequence.row] = prompt[:known]
            hidden = self.model.prefill(prompt[known:], self._cache, self._places(sequence.row), known)[-1]
            self._read[sequence.row] = list(prompt)
            sequence._scores = self.model.audio_logits(hidden[None])[0]
        except BaseException:
            self._drop(sequence)
            raise
        sequence.position = len(prompt)
        return True

    def _best_row(self, prompt: list[int]) -> tuple[int, int]:
        """The free row that shares most with a prompt, and how much: whole blocks, never the whole prompt."""
        free = [row for row in range(self.rows) if row not in self._active]
        shared = {row: common(self._read[row], prompt[:-1]) // PROMPT_BLOCK * PROMPT_BLOCK for row in free}
        # if nothing is shared, the row with the least content
        row = max(free, key=lambda row: (shared[row], -len(self._read[row])))
        return row, shared[row]

    def step_others(self, consumed: int) -> int:
        """While waiting for a row or for memory: run a step for the running sequences, or sleep briefly.

        It doesn't sleep if this thread consumes the running sequences too, and has since the last call, whose
        result is `consumed`; 0 at first.
        """
        with self._lock, torch.inference_mode():
            is_consumer = self._consumed != consumed and self._consumer == threading.get_ident()
            if not self._step(None) and not is_consumer:
                self._row_is_free.wait(WAIT_S)
            return self._consumed

    def leave(self, sequence: Sequence) -> None:
        """Free a sequence's row; leaving twice does nothing."""
        with self._lock:
            self._drop(sequence)

    def next_token(self, sequence: Sequence) -> int:
        """A sequence's next id; runs a step for the whole batch if none is buffered."""
        with self._lock:
            if not sequence._buffered:
                if self._active.get(sequence.row) is not sequence:
                    raise RuntimeError("the sequence has left its batch")
                with torch.inference_mode():
                    self._step(sequence)
            self._consumed, self._consumer = self._consumed + 1, threading.get_ident()
            return sequence._buffered.popleft()

    def _drop(self, sequence: Sequence) -> None:
        if self._active.get(sequence.row) is sequence:
            del self._active[sequence.row]
            self._row_is_free.notify()

    def _step(self, wanted: Sequence | None) -> bool:
        """Choose an id for every sequence that has scores and space in its buffer.

        The model is run first if `wanted`, or any sequence if it is None, has no scores. False if there was
        nothing to do.
        """
        ready = [s for s in self._active.values() if s is wanted or len(s._buffered) < MAX_BUFFERED_TOKENS]
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
            sequence._buffered.append(token)
        return bool(chosen)

    def _run_model(self) -> None:
        """Feed the last id of every sequence that has no scores and isn't done.

        All rows are computed each time, idle ones at an unused position, over whole blocks of keys: a product
        of another size may round differently, and a request's codes would depend on its neighbours. The time
        goes into reading the weights, which is done once anyway.
        """
        assert self._cache is not None
        live = {row: s for row, s in self._active.items() if s._scores is None and not self._is_done(s)}
        ids = [live[row].sampler.history[-1] if row in live else 0 for row in range(self.rows)]
        pieces = [
            self.model.piece(slice(row, row + 1), sequence.position, self._places(row))
            for row, sequence in live.items()
        ]
        hidden = self.model.model(torch.tensor(ids), self._cache, pieces)
        for row, sequence in live.items():
            self._read[row].append(ids[row])
            sequence.position += 1
            sequence._scores = self.model.audio_logits(hidden[row])

    def _places(self, row: int) -> Tensor:
        return torch.arange(row * self.length, (row + 1) * self.length, device=self.model.device)

    def _is_done(self, sequence: Sequence) -> bool:
        history = sequence.sampler.history
        ended = sequence.sampler.produced > 0 and history[-1] == END_OF_TURN
        return ended or sequence.position >= self.length
