"""Resampling, trimming, spectrograms, and stretches of recordings."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepaudiod.editx import segments
from stepaudiod.editx.tokenizers import features
from stepaudiod.editx.tokenizers.resample import resample
from stepaudiod.errors import InvalidRequest


def tone(hertz: float, seconds: float, sample_rate: int) -> Tensor:
    return 0.3 * torch.sin(2 * math.pi * hertz * torch.arange(int(seconds * sample_rate)) / sample_rate)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000])
def test_any_rate_comes_to_16_and_24_khz(rate: int) -> None:
    for target in (16000, 24000):
        made = resample(tone(440, 0.5, rate), rate, target)
        assert made.shape[-1] == math.ceil(target * int(0.5 * rate) / rate)
        inside = slice(target // 20, -target // 20)
        assert (made - tone(440, 0.5, target)[: made.shape[-1]])[inside].abs().max() < 2e-3


def test_resampling_keeps_channels_apart() -> None:
    stereo = torch.stack((tone(200, 0.1, 48000), tone(900, 0.1, 48000)))
    both = resample(stereo, 48000, 24000)
    assert torch.allclose(both[1], resample(stereo[1], 48000, 24000), atol=1e-6)


def test_rates_without_a_common_divisor_need_no_huge_filter_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = resample(tone(440, 0.5, 44101), 44101, 24000)
    assert (odd - tone(440, 0.5, 24000)[: odd.shape[-1]])[1000:-1000].abs().max() < 2e-3
    signal = torch.stack((tone(440, 0.2, 22050), tone(1440, 0.2, 22050)))
    bank = resample(signal, 22050, 16000, torch.float64)
    monkeypatch.setattr("stepaudiod.editx.tokenizers.resample.LARGEST_BANK", 0)
    assert (resample(signal, 22050, 16000) - bank).abs().max() < 1e-5


def test_a_senseless_rate_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="positive"):
        resample(torch.zeros(10), 0, 16000)


def test_only_what_is_too_loud_is_scaled_down() -> None:
    assert float(features.limit_peak(torch.tensor([0.5, -1.0])).abs().max()) == pytest.approx(0.6)
    quiet = torch.tensor([0.5, -0.6])
    assert torch.equal(features.limit_peak(quiet), quiet)


def test_silence_counts_as_sound_when_there_is_nothing_else() -> None:
    assert features.voiced_bounds(torch.zeros(16000)) == (0, 16000)


def test_too_short_a_waveform_has_no_filter_bank_rows() -> None:
    assert features.kaldi_filter_bank(torch.zeros(399), "povey").shape == (0, 80)


def test_mel_codes_and_embedding_describe_the_same_sound() -> None:
    silent = torch.zeros(24000)
    recording = torch.cat((silent, tone(220, 2.0, 24000), silent))
    cut = segments.cut_silence(recording, 24000)
    assert cut.shape[-1] / 24000 == pytest.approx(2.27, abs=0.03)
    codes_hear = features.trim_for_codes(resample(cut, 24000, 16000, torch.float64))
    assert codes_hear.shape[-1] / 16000 == pytest.approx(cut.shape[-1] / 24000, abs=0.03)
    first_loud = int(torch.nonzero(cut.abs() > 0.05)[0])
    assert first_loud / 24000 == pytest.approx(segments.LEAD_SECONDS, abs=0.03)


def test_a_recording_without_margins_gets_them() -> None:
    cut = segments.cut_silence(tone(220, 1.0, 16000), 16000)
    assert cut.shape[-1] == pytest.approx(16000 * 1.27, abs=600)


def speech_with_pauses(sample_rate: int, bursts: int) -> Tensor:
    silence = torch.zeros(int(0.6 * sample_rate))
    return torch.cat(
        [part for i in range(bursts) for part in (tone(200 + 20 * i, 3.4, sample_rate), silence)]
    )


def test_long_recordings_are_cut_in_pauses() -> None:
    recording = speech_with_pauses(16000, 20)
    pieces = segments.cut_points(recording, 16000)
    assert pieces[0].start == 0
    assert pieces[-1].end == pytest.approx(80.0)
    assert all(before.end == after.start for before, after in pairwise(pieces))
    assert all(piece.seconds <= segments.PIECE_SECONDS + 0.1 for piece in pieces)
    for piece in pieces[:-1]:
        around = segments.take(recording, 16000, segments.TimeRange(piece.end - 0.05, piece.end + 0.05))
        assert float(around.abs().max()) < 1e-3


def test_a_recording_without_pauses_is_cut_all_the_same() -> None:
    pieces = segments.cut_points(tone(200, 70.0, 8000), 8000)
    assert [piece.seconds <= segments.PIECE_SECONDS + 0.1 for piece in pieces] == [True] * len(pieces)


def test_the_best_stretch_is_where_the_speech_is() -> None:
    recording = torch.cat((torch.zeros(20 * 8000), speech_with_pauses(8000, 4), torch.zeros(20 * 8000)))
    time_range = segments.loudest_range(recording, 8000)
    assert time_range.seconds <= segments.REFERENCE_SECONDS + 0.1
    assert time_range.start == pytest.approx(20.0, abs=1.0)


def test_the_ends_fade_and_inner_parts_do_not() -> None:
    whole = np.ones(1000, np.float32)
    first, inner, last = (
        segments.fade(whole, 24000, *ends) for ends in ((True, False), (False, False), (False, True))
    )
    assert max(first[0], last[-1]) < 1e-3
    assert np.array_equal(np.concatenate([first[300:], inner, last[:700]]), np.ones(2400))
    assert np.array_equal(whole, np.ones(1000))
    assert segments.fade(np.zeros(0, np.float32), 24000, True, True).size == 0


def test_cut_off_silence_is_measured() -> None:
    recording = torch.cat((torch.zeros(16000), tone(220, 1.0, 16000), torch.zeros(8000)))
    before, after = segments.surrounding_silence(recording, 16000)
    assert before == pytest.approx(1.0 - segments.LEAD_SECONDS, abs=0.03)
    assert after == pytest.approx(0.5 - segments.TAIL_SECONDS, abs=0.04)


def test_spectrograms_have_their_frame_rates(voice: NDArray[np.float32]) -> None:
    waveform = torch.from_numpy(voice)
    assert features.prompt_mel(waveform).shape == (150, 80)
    assert features.semantic_mel(resample(waveform, 24000, 16000)).shape == (128, 300)
