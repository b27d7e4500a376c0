"""The fair queue: the order of turns, and the shares of callers."""

from __future__ import annotations

import pytest

from stepaudiod.config import Limits
from stepaudiod.fair_queue import FairQueue, Turn, has_share


@pytest.fixture
def turns() -> FairQueue:
    return FairQueue(Limits(concurrency=2, max_queue=4))


def ask(turns: FairQueue, *callers: str) -> list[Turn]:
    """Request a turn for each caller, in this order."""
    asked = [Turn(caller) for caller in callers]
    for turn in asked:
        turns.ask(turn, lambda: None)
    return asked


def held(turns: FairQueue, asked: list[Turn]) -> list[bool]:
    return [turns.is_held(turn) for turn in asked]


def test_requests_of_one_caller_come_in_their_order(turns: FairQueue) -> None:
    asked = ask(turns, "a", "a", "a", "a")
    assert held(turns, asked) == [True, True, False, False]
    turns.drop(asked[0])
    assert held(turns, asked) == [False, True, True, False]


def test_the_caller_with_the_fewest_turns_comes_first(turns: FairQueue) -> None:
    asked = ask(turns, "a", "a", "a", "a", "b")
    turns.drop(asked[0])
    assert held(turns, asked) == [False, True, False, False, True]
    assert turns.queued == 2


def test_a_caller_with_all_turns_must_yield_to_one_with_none(turns: FairQueue) -> None:
    first, second, _ = ask(turns, "a", "a", "a")
    assert not turns.must_yield(first)
    (other,) = ask(turns, "b")
    assert turns.must_yield(first)
    turns.drop(first)
    assert turns.is_held(other)
    assert not turns.must_yield(second)


def test_a_full_queue_is_full_for_the_caller_that_fills_it(turns: FairQueue) -> None:
    ask(turns, *"aaaaaa")
    assert turns.is_full("a")
    assert not turns.is_full("b")
    ask(turns, "b", "b")
    assert turns.is_full("b")


def test_a_request_that_has_had_a_turn_does_not_fill_the_queue(turns: FairQueue) -> None:
    paused = ask(turns, "a")[0]
    ask(turns, *"aaaaaa")
    turns.drop(paused)
    turns.ask(paused, lambda: None)
    assert turns.queued == 4
    assert not turns.is_held(paused)


def test_a_higher_limit_lets_waiting_requests_in(turns: FairQueue) -> None:
    asked = ask(turns, "a", "a", "a")
    turns.reconfigure(Limits(concurrency=3))
    assert held(turns, asked) == [True, True, True]


@pytest.mark.parametrize(
    ("caller", "taken", "limit", "expected"),
    [
        ("a", "", 1, True),
        ("a", "a", 1, False),
        ("b", "a", 1, False),
        ("b", "aaaa", 4, True),
        ("b", "aaaabb", 4, False),
        ("c", "aaaabb", 4, True),
        ("d", "aaaabbcc", 4, False),
        ("a", "", 0, False),
    ],
)
def test_beyond_the_limit_a_caller_has_its_share(caller: str, taken: str, limit: int, expected: bool) -> None:
    assert has_share(caller, taken, limit) is expected
