"""Joined pieces don't click and have pauses; tempo changes only the duration."""

from __future__ import annotations

import numpy as np
import pytest

from stepaudiod.audio.crossfade import Joiner
from stepaudiod.audio.resample import Resampler, resample
from stepaudiod.audio.tempo import change_tempo
from stepaudiod.errors import SynthesisFailed

RATE = 24_000


def tone(seconds: float, frequency: float = 200, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.cos(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def test_pieces_begin_and_end_in_silence_whatever_the_voice_gives() -> None:
    joiner = Joiner(RATE)
    stream = np.concatenate([joiner.join(tone(0.3), 0.1) for _ in range(3)])
    within = np.abs(np.diff(tone(0.3))).max()
    assert stream[0] == 0
    assert stream[-1] == 0
    assert np.abs(np.diff(stream)).max() <= 1.1 * within


def test_the_silence_of_the_voice_is_replaced_by_the_pause_that_was_asked_for() -> None:
    joiner = Joiner(RATE)
    padded = np.concatenate([np.zeros(RATE), tone(0.3), np.zeros(RATE)]).astype(np.float32)
    first, second = joiner.join(padded, 0.5), joiner.join(padded, 0.5)
    assert 0.3 < len(first) / RATE < 0.45
    assert len(second) - len(first) == 0.5 * RATE


def test_pauses_shrink_with_the_speed() -> None:
    joiner = Joiner(RATE, speed=2.0)
    assert len(joiner.join(tone(0.3), 0.5)) + 0.25 * RATE == len(joiner.join(tone(0.3), 0.5))


def test_silence_alone_gives_nothing() -> None:
    assert Joiner(RATE).join(np.zeros(RATE, np.float32), 0.5).size == 0


def test_samples_that_are_not_numbers_are_a_failure() -> None:
    with pytest.raises(SynthesisFailed):
        Joiner(RATE).join(np.full(RATE, np.nan, np.float32), 0.5)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.25, 2.0])
def test_tempo_changes_the_duration_and_keeps_pitch_and_loudness(factor: float) -> None:
    changed = change_tempo(tone(2.0), factor, RATE)
    assert len(changed) == round(2.0 * RATE / factor)
    middle = changed[RATE // 4 : RATE // 4 + RATE // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * RATE / len(middle) == pytest.approx(200, abs=5)
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("length", [0, 1, 500, 1_500])
def test_tempo_takes_the_shortest_of_sounds(length: int) -> None:
    assert len(change_tempo(np.ones(length, np.float32), 2.0, RATE)) == round(length / 2)


def test_resampling_by_pieces_is_resampling_at_once() -> None:
    whole = resample(tone(1.0), RATE, 16_000)
    resampler = Resampler(RATE, 16_000)
    parts = [*(resampler(part) for part in np.array_split(tone(1.0), 7)), resampler(None)]
    assert len(whole) == pytest.approx(16_000, abs=2)
    assert np.allclose(np.concatenate(parts), whole, atol=1e-4)
