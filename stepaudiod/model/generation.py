"""Sequences of ids, several at a time in one batch that they join and leave as they please.

Whoever needs a token takes a step for everybody in the batch; the others find theirs waiting. So requests in
threads of their own share each reading of the weights, without a scheduler. Knows no audio.

A row that was left keeps what it read. A prompt that begins like it, as all prompts of one voice do, is read
from where they part; in whole blocks, so that the numbers are the same to the last bit whether or not it was
there.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType

import torch
from torch import Tensor

from stepaudiod.errors import InvalidRequest
from stepaudiod.model.sampling import Sampler, SamplingOptions
from stepaudiod.model.step1 import PROMPT_BLOCK, KVCache, Step1ForCausalLM
from stepaudiod.model.tokenizer import END_OF_TURN

DEFAULT_ROWS, DEFAULT_LENGTH = 4, 8192
KEY_BLOCK = 64


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
        self._lock = threading.Lock()
        self._row_is_free = threading.Condition(self._lock)

    def join(self, prompt: list[int], options: SamplingOptions, seed: int, max_tokens: int) -> Sequence:
        """Read a prompt and take a place; use the result in a `with` statement, which gives the place back.

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
            while len(self._active) >= self.rows:
                self._row_is_free.wait()
            if self._cache is None:
                self._cache = self.model.new_cache(self.rows, self.length)
            sequence.row, known = self._best_row(prompt)
            self._active[sequence.row] = sequence
            try:
                self._read[sequence.row] = prompt[:known]
                hidden = self.model.prefill(prompt[known:], self._cache, sequence.row, known)[-1]
                self._read[sequence.row] = list(prompt)
                sequence._scores = self._score(hidden[None], options.is_pattern_enforced)[0]
            except BaseException:
                self._drop(sequence)
                raise
            sequence.position = len(prompt)
        return sequence

    def _best_row(self, prompt: list[int]) -> tuple[int, int]:
        """Find the free row that has read most of a prompt, and how much: whole blocks, never all."""
        free = [row for row in range(self.rows) if row not in self._active]
        shared = {row: _common(self._read[row], prompt[:-1]) // PROMPT_BLOCK * PROMPT_BLOCK for row in free}
        # where nothing is shared, the row with the least to lose
        row = max(free, key=lambda row: (shared[row], -len(self._read[row])))
        return row, shared[row]

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
            return sequence._waiting.popleft()

    def _drop(self, sequence: Sequence) -> None:
        if self._active.get(sequence.row) is sequence:
            del self._active[sequence.row]
            self._row_is_free.notify()

    def _step(self, wanted: Sequence) -> None:
        """Choose an id for everyone who has scores, after running the model if `wanted` has none."""
        if wanted._scores is None:
            self._run_model()
        for sequence in self._active.values():
            # nobody runs ahead of its reader by more than the others need
            if sequence._scores is not None and (sequence is wanted or not sequence._waiting):
                token = sequence.sampler.choose(sequence._scores)
                sequence._scores = None
                sequence._waiting.append(token)

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


def _common(first: list[int], second: list[int]) -> int:
    """Count the ids that two lists begin with alike."""
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
