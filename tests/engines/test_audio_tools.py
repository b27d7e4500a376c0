"""Recordings edited without the large model: less noise, less silence, another pace, and the same words."""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from stepaudiod.audio.resample import resample
from stepaudiod.edits import Edit
from stepaudiod.engines.audio_tools import TEMPOS, AudioToolsEngine
from stepaudiod.engines.base import Clip
from stepaudiod.engines.hibari import HibariEngine
from stepaudiod.errors import InvalidRequest, Unsupported
from stepaudiod.requests import EditRequest, Facts, Recording
from tests import judges
from tests.engines.conftest import Say

RATE = 48_000
VOICE_RATE = 24_000
TEXT = "The salt breeze came across from the sea. The girl at the booth sold fifty bonds."

Edited = tuple[np.ndarray, dict[str, str | int | float]]
RunEdit = Callable[..., Edited]


@pytest.fixture(scope="module")
def studio(cache_dir: Path) -> AudioToolsEngine:
    engine = AudioToolsEngine(cache_dir=cache_dir, threads=1)
    engine.load(lambda stage, done: None)
    return engine


@pytest.fixture(scope="module")
def edit(studio: AudioToolsEngine) -> RunEdit:
    """All of an edit's samples, and what it told."""

    def run(
        waveform: np.ndarray, mode: str, info: str | None = None, iterations: int = 1, rate: int = VOICE_RATE
    ) -> Edited:
        samples, facts = [np.zeros(0, np.float32)], {}
        for part in studio.edit(request(mode, info, iterations), Clip(waveform, rate)):
            if isinstance(part, Facts):
                facts.update(part.values)
            else:
                samples.append(part)
        return np.concatenate(samples), facts

    return run


@pytest.fixture(scope="module")
def speech(hibari: HibariEngine, say: Say) -> np.ndarray:
    return say(hibari, TEXT, "heart")


def request(mode: str, info: str | None = None, iterations: int = 1) -> EditRequest:
    return EditRequest(Recording("clip.wav"), Edit(mode, info, iterations=iterations))


def with_noise(clean: np.ndarray, decibels: float) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32)
    noise *= np.sqrt((clean**2).mean() / (noise**2).mean() / 10 ** (decibels / 10))
    return clean + noise


def scale_invariant_ratio(found: np.ndarray, clean: np.ndarray) -> float:
    """SI-SDR in decibels."""
    target = (found @ clean) / (clean @ clean) * clean
    return float(10 * np.log10((target**2).sum() / ((found - target) ** 2).sum()))


def test_noise_is_reduced_by_several_decibels_and_nothing_is_shifted(
    edit: RunEdit, speech: np.ndarray
) -> None:
    clean = resample(speech, VOICE_RATE, RATE)
    noisy = with_noise(clean, 5)
    denoised, facts = edit(noisy, "denoise", rate=RATE)
    assert len(denoised) == len(clean)
    before, after = scale_invariant_ratio(noisy, clean), scale_invariant_ratio(denoised, clean)
    print(f"SI-SDR {before:.1f} → {after:.1f} dB")
    assert before == pytest.approx(5, abs=0.3)
    assert after > before + 4
    assert facts == {"noise_reduction": "rnnoise"}


@pytest.mark.slow
def test_a_clean_voice_survives_denoising(edit: RunEdit, speech: np.ndarray) -> None:
    denoised, _ = edit(speech, "denoise")
    assert judges.word_errors(TEXT, judges.transcribe(denoised, RATE)) <= 2


def test_silence_is_cut_where_it_was_put_and_a_short_pause_stays(edit: RunEdit, speech: np.ndarray) -> None:
    half = len(speech) // 2
    first, second = edit(speech[:half], "vad")[0], edit(speech[half:], "vad")[0]
    silence = np.zeros(3 * VOICE_RATE, np.float32)
    padded = np.concatenate([silence, speech[:half], silence, speech[half:], silence])
    shorter, facts = edit(padded, "vad")
    alone = (len(first) + len(second)) / RATE
    print(f"{len(padded) / VOICE_RATE:.2f} s → {len(shorter) / RATE:.2f} s, alone {alone:.2f} s")
    assert alone - 0.1 < len(shorter) / RATE < alone + 0.8
    assert facts["removed_seconds"] == pytest.approx(
        len(padded) / VOICE_RATE - len(shorter) / RATE, abs=0.002
    )
    assert longest_silence_s(shorter) < 0.45
    assert judges.word_errors(TEXT, judges.transcribe(shorter, RATE)) <= 2


def longest_silence_s(waveform: np.ndarray) -> float:
    frame = RATE // 100
    loud = np.abs(waveform[: len(waveform) // frame * frame].reshape(-1, frame)).max(axis=1) > 0.003
    edges = np.flatnonzero(np.diff(np.concatenate([[1], loud, [1]]).astype(int)))
    return max((end - start for start, end in edges.reshape(-1, 2)), default=0) / 100


def test_joints_do_not_click(edit: RunEdit, speech: np.ndarray) -> None:
    # silence that drifts, so that what is on both sides of the joint lies far apart
    drift = np.interp(np.arange(4 * VOICE_RATE) / VOICE_RATE, [0, 3.9, 4], [0, 0.8, 0]).astype(np.float32)
    joined, facts = edit(np.concatenate([speech, drift, speech]), "vad")
    assert float(facts["removed_seconds"]) > 2
    steps = np.abs(np.diff(joined))
    assert steps.max() <= np.abs(np.diff(resample(speech, VOICE_RATE, RATE))).max() * 1.05


def test_natural_pauses_are_left_alone(edit: RunEdit, speech: np.ndarray) -> None:
    shorter, facts = edit(speech, "vad")
    assert float(facts["removed_seconds"]) < 0.5
    assert len(shorter) / RATE > len(speech) / VOICE_RATE - 0.5


def test_a_recording_without_speech_is_refused(edit: RunEdit) -> None:
    for waveform in (np.zeros(3 * VOICE_RATE, np.float32), np.zeros(0, np.float32)):
        with pytest.raises(InvalidRequest, match="no speech") as refusal:
            edit(waveform, "vad")
        assert refusal.value.param == "recording"


@pytest.mark.parametrize("info", TEMPOS)
def test_speed_changes_the_duration_exactly_and_keeps_the_words(
    info: str, edit: RunEdit, speech: np.ndarray
) -> None:
    changed, facts = edit(speech, "speed", info)
    assert len(changed) / RATE == pytest.approx(len(speech) / VOICE_RATE / TEMPOS[info], abs=0.001)
    assert facts == {"tempo": TEMPOS[info]}
    assert judges.word_errors(TEXT, judges.transcribe(changed, RATE)) <= 3


def test_iterations_apply_an_edit_to_its_own_result(edit: RunEdit, speech: np.ndarray) -> None:
    twice, facts = edit(speech, "speed", "faster", 2)
    once, _ = edit(speech, "speed", "faster")
    again, _ = edit(once, "speed", "faster", rate=RATE)
    assert np.array_equal(twice, again)
    assert facts == {"tempo": 1.5625}


def test_any_rate_goes_in_and_the_same_length_comes_out(edit: RunEdit) -> None:
    for rate in (8_000, 22_050, 44_100, 96_000):
        waveform = np.random.default_rng(0).normal(0, 0.1, 2 * rate + 7).astype(np.float32)
        denoised, _ = edit(waveform, "denoise", rate=rate)
        assert len(denoised) / RATE == pytest.approx(len(waveform) / rate, abs=0.001), rate


@pytest.mark.parametrize("mode", ["denoise", "vad"])
def test_a_long_recording_comes_in_short_steps_and_can_be_left(
    mode: str, studio: AudioToolsEngine, speech: np.ndarray
) -> None:
    long = Clip(np.tile(speech, 600 * VOICE_RATE // len(speech)), VOICE_RATE)
    steps = studio.edit(request(mode), long)
    assert isinstance(steps, Generator)
    parts = [part for part in islice(steps, 4) if not isinstance(part, Facts)]
    assert all(len(part) <= 2.5 * RATE for part in parts)
    assert sum(len(part) for part in parts) > 2 * RATE
    steps.close()


def test_recordings_can_be_edited_in_turn(
    studio: AudioToolsEngine, edit: RunEdit, speech: np.ndarray
) -> None:
    alone, _ = edit(speech, "denoise")
    both = zip(*(studio.edit(request("denoise"), Clip(speech, VOICE_RATE)) for _ in range(2)), strict=True)
    one, other = zip(*((a, b) for a, b in both if not isinstance(a, Facts)), strict=True)
    assert np.array_equal(np.concatenate(one), alone)
    assert np.array_equal(np.concatenate(other), alone)


def test_what_takes_the_large_model_says_so(edit: RunEdit, speech: np.ndarray) -> None:
    with pytest.raises(Unsupported, match="step-audio-editx"):
        edit(speech, "emotion", "happy")
    with pytest.raises(InvalidRequest, match="speed of the edit must be one of"):
        edit(speech, "speed", "quickest")
