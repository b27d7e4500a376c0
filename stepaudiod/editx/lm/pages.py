"""Which pages of the cache hold which sequence's keys and values. Imports no torch.

    page        0      1      2      3      4      5
             │ P0   │ P1   │ A2   │ B2   │ A3   │ free │      prompts A and B begin alike: P0, P1
    A          0 ────── 1 ───── 2 ──────────── 4
    B          0 ────── 1 ───────────── 3

A sequence gets all pages that it may need, or none: it never runs out of memory midway. A page that a prompt
fills is known by the prompt up to its end; a prompt that begins so shares it. Pages that no sequence has
any more stay known until they are needed, the least recently used first.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b


@dataclass(eq=False)
class Allocation:
    """The pages of one sequence.

    Args:
        pages: in the order of their positions.
        known: prompt positions in shared pages: whole pages, and never the whole prompt.
    """

    pages: list[int]
    known: int


class Pages:
    """`count` pages of `size` positions each."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self._free = list(range(count - 1, -1, -1))
        self._users = [0] * count
        self._contents: dict[int, bytes] = {}
        self._known: dict[bytes, int] = {}
        self._unused: OrderedDict[int, None] = OrderedDict()  # known, without users, the oldest first

    def fits(self, positions: int) -> bool:
        """Whether so many positions can ever be allocated."""
        return self._pages(positions) <= self.count

    def allocate(self, prompt: list[int], positions: int) -> Allocation | None:
        """Allocate pages for a prompt and its output, or None while there are too few.

        The pages that the prompt fills are shared from now on, so prompts must be read in the order of their
        allocation. The prompt's last id isn't part of them: it is the first input of decoding.
        """
        contents = self._digests(prompt[:-1])
        shared: list[int] = []
        for digest in contents:
            if digest not in self._known:
                break
            shared.append(self._known[digest])
        fresh = self._pages(positions) - len(shared)
        if fresh > len(self._free) + sum(page not in shared for page in self._unused):
            return None
        for page in shared:
            self._unused.pop(page, None)
        pages = shared + [self._take() for _ in range(fresh)]
        for page, digest in list(zip(pages, contents, strict=False))[len(shared) :]:
            if digest in self._known:  # behind a page that was forgotten
                self._forget(self._known[digest])
            self._contents[page], self._known[digest] = digest, page
        for page in pages:
            self._users[page] += 1
        return Allocation(pages, len(shared) * self.size)

    def release(self, allocation: Allocation, is_known: bool = True) -> None:
        """Give an allocation's pages back.

        Those that the prompt fills stay known, unless it could not be read: then `is_known` is False, and no
        page but those that were shared before is known any more.
        """
        for page in reversed(allocation.pages):  # so that a prompt's beginning outlives what follows it
            self._users[page] -= 1
            if not self._users[page]:
                if page in self._contents:
                    self._unused[page] = None
                else:
                    self._free.append(page)
        for page in [] if is_known else allocation.pages[allocation.known // self.size :]:
            self._forget(page)

    def _take(self) -> int:
        if not self._free:
            self._forget(next(iter(self._unused)))
        return self._free.pop()

    def _forget(self, page: int) -> None:
        """Share a page no more, once those that have it are gone."""
        if page in self._contents:
            del self._known[self._contents.pop(page)]
        if page in self._unused:
            del self._unused[page]
            self._free.append(page)

    def _pages(self, positions: int) -> int:
        return -(-positions // self.size)

    def _digests(self, ids: list[int]) -> list[bytes]:
        """What each page that ids fill is known by: a digest of the ids in it and before it."""
        digest, found = b"", []
        for end in range(self.size, len(ids) + 1, self.size):
            digest = blake2b(
                digest + array("q", ids[end - self.size : end]).tobytes(), digest_size=16
            ).digest()
            found.append(digest)
        return found
