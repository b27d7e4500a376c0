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
            self._contents[page], self._known[digest] = digest, page
        for page in pages:
            self._users[page] += 1
        return Allocation(pages, len(shared) * self.size)

    def release(self, allocation: Allocation) -> None:
        """Give an allocation's pages back; those that a prompt fills stay known."""
        for page in reversed(allocation.pages):  # so that a prompt's beginning outlives what follows it
            self._users[page] -= 1
            if self._users[page]:
                continue
            if page in self._contents:
                self._unused[page] = None
            else:
                self._free.append(page)

    def forget(self, allocation: Allocation, read: int) -> None:
        """Share no page behind the first `read` positions any more, because reading the prompt failed."""
        for page in allocation.pages[read // self.size :]:
            if page in self._contents:
                del self._known[self._contents.pop(page)]

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        page, _ = self._unused.popitem(last=False)
        del self._known[self._contents.pop(page)]
        return page

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
