"""The idle clock: what counts as work, and the exit."""

from __future__ import annotations

import pytest

from stepaudiod.idle import IdleClock, Phase


class Clock:
    """A clock that is set by the test."""

    def __init__(self) -> None:
        self.time_s = 1000.0

    def __call__(self) -> float:
        return self.time_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_period_counts_from_the_end_of_work_not_from_its_start(clock: Clock) -> None:
    idle = IdleClock(300, clock)
    idle.begin()
    clock.time_s += 1000
    assert not idle.is_due
    idle.end()
    assert idle.remaining_s == 300
    clock.time_s += 299
    assert not idle.is_due
    clock.time_s += 1
    assert idle.is_due


def test_one_of_two_requests_that_ends_does_not_start_the_period(clock: Clock) -> None:
    idle = IdleClock(10, clock)
    idle.begin()
    idle.begin()
    idle.end()
    clock.time_s += 60
    assert not idle.is_due
    assert idle.idle_s == 0


def test_never_is_never_due(clock: Clock) -> None:
    idle = IdleClock(None, clock)
    clock.time_s += 1e9
    assert not idle.is_due
    assert idle.remaining_s is None


def test_work_cancels_an_exit_in_preparation(clock: Clock) -> None:
    idle = IdleClock(10, clock)
    clock.time_s += 10
    idle.drain()
    idle.begin()
    assert idle.phase is Phase.AWAKE
    idle.end()
    assert not idle.is_due


def test_a_late_connection_calls_the_exit_off_and_it_is_tried_again(clock: Clock) -> None:
    idle = IdleClock(10, clock)
    clock.time_s += 10
    idle.drain()
    assert not idle.is_due
    idle.cancel_exit()
    assert idle.is_due


def test_a_final_exit_is_not_cancelled(clock: Clock) -> None:
    idle = IdleClock(10, clock)
    clock.time_s += 10
    idle.drain()
    idle.exit()
    idle.begin()
    assert idle.phase is Phase.GONE
