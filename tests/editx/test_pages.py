"""Which pages of the cache hold which sequence."""

from __future__ import annotations

import random

from stepaudiod.editx.lm.pages import Allocation, Pages

PROMPT = list(range(100, 140))


def allocate(pages: Pages, prompt: list[int], positions: int) -> Allocation:
    allocation = pages.allocate(prompt, positions)
    assert allocation is not None
    return allocation


def test_a_sequence_gets_all_that_it_may_need_or_nothing() -> None:
    pages = Pages(4, 16)
    assert pages.fits(64)
    assert not pages.fits(65)
    first = allocate(pages, [1], 33)
    assert len(first.pages) == 3
    assert pages.allocate([2], 17) is None
    second = allocate(pages, [2], 16)
    assert not set(first.pages) & set(second.pages)
    pages.release(first)
    assert len(allocate(pages, [2], 48).pages) == 3


def test_prompts_share_the_pages_that_their_common_beginning_fills() -> None:
    pages = Pages(6, 16)
    first = allocate(pages, PROMPT, 60)
    second = allocate(pages, [*PROMPT[:36], 7, 8], 60)
    assert first.known == 0
    assert second.known == 32
    assert second.pages[:2] == first.pages[:2]
    assert not set(first.pages[2:]) & set(second.pages[2:])
    pages.release(first)
    assert pages.allocate([5], 33) is None  # what is shared isn't free
    assert len(allocate(pages, [5], 32).pages) == 2


def test_a_prompts_last_id_is_never_in_a_shared_page() -> None:
    pages = Pages(8, 16)
    allocate(pages, PROMPT[:32], 40)
    assert allocate(pages, PROMPT[:32], 40).known == 16
    assert allocate(pages, PROMPT[:33], 40).known == 16  # its second page lacks an id


def test_equal_pages_behind_another_beginning_are_not_shared() -> None:
    pages = Pages(8, 16)
    allocate(pages, PROMPT, 40)
    assert allocate(pages, [0, *PROMPT[1:]], 40).known == 0


def test_released_pages_are_known_until_they_are_needed_the_oldest_first() -> None:
    pages = Pages(4, 16)
    pages.release(allocate(pages, PROMPT, 40))
    other = [5] * 20
    pages.release(allocate(pages, other, 20))
    again = allocate(pages, PROMPT, 40)
    assert again.known == 32
    pages.release(again)
    pages.release(allocate(pages, [6], 32))  # a page was free, and the oldest that is known was `other`'s
    assert allocate(pages, other, 16).known == 0
    assert allocate(pages, PROMPT, 40).known == 32


def test_a_prompt_that_could_not_be_read_is_not_shared() -> None:
    pages = Pages(8, 16)
    first = allocate(pages, PROMPT[:20], 30)
    failed, longer = allocate(pages, PROMPT, 40), allocate(pages, [*PROMPT, *PROMPT], 80)
    assert longer.known == 32
    pages.release(failed, is_known=False)
    assert allocate(pages, PROMPT, 40).known == 16  # which `first` has read
    pages.release(longer)
    pages.release(first)
    assert len(allocate(pages, [9], 64).pages) == 4


def test_no_page_is_ever_lost_or_given_twice() -> None:
    draw, pages = random.Random(0), Pages(20, 4)
    prompts = [[draw.randrange(2) for _ in range(draw.randrange(1, 30))] for _ in range(40)]
    held: list[tuple[list[int], Allocation]] = []
    for _ in range(3000):
        prompt = draw.choice(prompts)
        made = pages.allocate(prompt, len(prompt) + draw.randrange(12))
        if made is not None:
            held.append((prompt, made))
        if made is None or draw.random() < 0.4:
            pages.release(held.pop(draw.randrange(len(held)))[1], is_known=draw.random() < 0.9)
        content: dict[int, list[int]] = {}
        for known, allocation in held:
            for index, page in enumerate(allocation.pages):
                is_full = (index + 1) * 4 < len(known)
                ids = known[: (index + 1) * 4] if is_full else [-1, *map(id, [allocation])]
                assert content.setdefault(page, ids) == ids
    while held:
        pages.release(held.pop()[1])
    assert len(allocate(pages, [9], 80).pages) == 20
