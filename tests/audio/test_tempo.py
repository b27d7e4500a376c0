from __future__ import annotations

import numpy as np
import pytest

from stepaudiod.audio.tempo import TempoStream, change_tempo

RATE = 24_000


def voice(seconds: float) -> np.ndarray:
    """A gliding tone with a beat."""
    t = np.arange(int(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * (150 * t + 20 * np.sin(3 * t))) * (0.5 + 0.5 * np.sin(5 * t))
    return np.asarray(tone, dtype=np.float32)


@pytest.mark.parametrize("factor", [0.25, 0.8, 1.0, 1.3, 4.0])
def test_in_pieces_or_at_once_is_the_same_and_exactly_as_long_as_it_should_be(factor: float) -> None:
    waveform = voice(3.0)
    whole = change_tempo(waveform, factor, RATE)
    stream = TempoStream(factor, RATE)
    pieces = [*(stream.push(piece) for piece in np.array_split(waveform, 41)), stream.finish()]
    assert len(whole) == round(len(waveform) / factor)
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_most_of_it_comes_before_the_end() -> None:
    stream = TempoStream(1.5, RATE)
    given = len(stream.push(voice(3.0)))
    assert given > 0.95 * 3.0 * RATE / 1.5


def test_the_pitch_stays() -> None:
    t = np.arange(2 * RATE) / RATE
    fast = change_tempo(np.sin(2 * np.pi * 220 * t).astype(np.float32), 1.5, RATE)
    spectrum = np.abs(np.fft.rfft(fast * np.hanning(len(fast))))
    assert np.argmax(spectrum) * RATE / len(fast) == pytest.approx(220, abs=3)


@pytest.mark.parametrize("samples", [0, 1, 700])
def test_a_snippet_shorter_than_a_frame_is_only_cut_or_padded(samples: int) -> None:
    assert len(change_tempo(voice(1.0)[:samples], 2.0, RATE)) == round(samples / 2)
