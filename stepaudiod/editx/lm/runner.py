"""What runs the language model for a scheduler: prompts in pieces, and decode steps of five codes.

A runner is called from one thread at a time, on one CUDA stream, in inference mode, and blocks until its
results are on the host. A GPU may still write to pages of sequences that it was given, also after their
release: what is launched later on that stream comes after that. Independent of requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Sequences
from dataclasses import dataclass, field
from typing import Protocol

from stepaudiod.editx.codes import END_OF_TURN, GROUP
from stepaudiod.editx.lm.pages import Allocation, Pages


@dataclass(eq=False)
class Sequence:
    """A prompt and its output; the runner only reads what is above the empty line.

    Args:
        prompt: its last id is the first input of decoding.
        seed: of the random numbers.
        temperature: 0 takes the most likely.
        max_tokens: most ids of the output.
        least_tokens: no end comes before so many.
        allocation: set before it is read, for `positions`.
        slot: its row in decode steps, the same for all of them.
        read: positions of the prompt that were read, those in shared pages included.
        ids: the output without the end.
        has_ended: whether the end came.
    """

    prompt: list[int]
    seed: int
    temperature: float
    max_tokens: int
    least_tokens: int = GROUP
    allocation: Allocation | None = None
    slot: int = -1

    read: int = 0
    ids: list[int] = field(default_factory=list)
    has_ended: bool = False

    @property
    def is_read(self) -> bool:
        return self.read >= len(self.prompt) - 1

    @property
    def last(self) -> int:
        """The next step's input."""
        return self.ids[-1] if self.ids else self.prompt[-1]

    @property
    def position(self) -> int:
        """The position of `last`."""
        return len(self.prompt) - 1 + len(self.ids)

    @property
    def positions(self) -> int:
        """All that it may need: the prompt, and whole groups of output."""
        return len(self.prompt) - 1 + -(-self.max_tokens // GROUP) * GROUP

    def add(self, group: Sequences[int]) -> None:
        """Append a decode step's ids, up to an end or the most that was asked for."""
        self.has_ended = END_OF_TURN in group
        end = group.index(END_OF_TURN) if self.has_ended else GROUP
        self.ids += group[: min(end, self.max_tokens - len(self.ids))]


class LMRunner(Protocol):
    """Runs prompts and decode steps.

    Attributes:
        rows: most sequences in a decode step; a sequence's slot is below it.
        pages: of the cache.
        length: most positions of one sequence.
    """

    rows: int
    pages: Pages
    length: int

    def prefill(self, pieces: Sequences[tuple[Sequence, int]]) -> None:
        """Read the next so many positions of each prompt, or a little more: up to a whole page."""

    def decode(self, sequences: Sequences[Sequence]) -> None:
        """Run a decode step: a group of five ids for each, whose prompts were read.

        One that wasn't in the call before may get its first group in the next call.
        """

    def capture_next(self) -> bool:
        """Capture a graph that was missed; False if there is none."""

    def launches(self) -> Iterable[Callable[[], None]]:
        """What its graphs record, one after the other; while it is idle they change nothing that is read."""
