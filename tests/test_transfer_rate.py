"""The transfer rate: a transfer at the minimum rate is never far behind, a slower one is at some time."""

from __future__ import annotations

from stepaudiod.transfer_rate import TransferRate
from tests.test_idle import Clock


def test_a_transfer_that_stops_is_behind_by_the_time_since() -> None:
    clock = Clock()
    pace = TransferRate(1000, clock)
    pace.start()
    clock.time_s += 2
    pace.count(1_000_000)
    clock.time_s += 7
    assert pace.behind_s == 7


def test_a_transfer_below_the_minimum_rate_falls_behind() -> None:
    clock = Clock()
    trickle, steady = TransferRate(3000, clock), TransferRate(3000, clock)
    trickle.start()
    steady.start()
    for _ in range(90):
        clock.time_s += 1
        trickle.count(2000)
        steady.count(3000)
    assert round(trickle.behind_s) == 30
    assert steady.behind_s == 0


def test_time_in_which_it_is_not_waited_for_does_not_count() -> None:
    clock = Clock()
    pace = TransferRate(1000, clock)
    pace.start()
    clock.time_s += 3
    pace.stop()
    clock.time_s += 100
    assert pace.behind_s == 3
    assert not pace.is_running
