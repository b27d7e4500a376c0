"""The six formats: the output decodes, has the input's duration, and starts early."""

from __future__ import annotations

import shutil
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest

from stepaudiod.audio.decode import decode
from stepaudiod.audio.encode import make_encoder, to_pcm16
from stepaudiod.audio.formats import MEDIA_TYPES
from stepaudiod.errors import InvalidRequest

RATE = 24_000
PADDING_S = {"mp3": 0.11, "aac": 0.09}
"""What the codec adds at the ends; without a Xing header no decoder removes it from an mp3."""


def tone(seconds: float, rate: int = RATE) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)


def encoded(response_format: str, parts: list[np.ndarray], rate: int = RATE) -> bytes:
    encoder = make_encoder(response_format, rate)
    return b"".join([*(encoder.encode(part) for part in parts), encoder.finish()])


def heard(data: bytes, response_format: str) -> tuple[np.ndarray, int]:
    if response_format == "pcm":
        return np.frombuffer(data, "<i2").astype(np.float32) / 32767, RATE
    return decode(data)


@pytest.mark.parametrize("rate", [24_000, 22_050, 44_100])
@pytest.mark.parametrize("response_format", MEDIA_TYPES)
def test_each_format_decodes_to_the_duration_and_pitch_that_went_in(response_format: str, rate: int) -> None:
    data = encoded(response_format, [tone(1.0, rate), tone(0.31, rate), tone(0.003, rate)], rate)
    waveform, heard_rate = heard(data, response_format)
    assert len(waveform) / heard_rate == pytest.approx(1.313, abs=0.01 + PADDING_S.get(response_format, 0))
    middle = waveform[heard_rate // 4 : heard_rate // 4 + heard_rate // 2]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * heard_rate / len(middle) == pytest.approx(440, abs=3)
    assert np.abs(middle).max() == pytest.approx(0.4, abs=0.06)


@pytest.mark.parametrize("response_format", MEDIA_TYPES)
def test_most_of_each_chunk_can_be_sent_before_the_next_one_comes(response_format: str) -> None:
    encoder = make_encoder(response_format, RATE)
    sizes = [len(encoder.encode(tone(1.0))) for _ in range(4)]
    rest = len(encoder.finish())
    usual = max(sizes[1:])  # the first has the header
    assert min(sizes) > 0.6 * usual
    assert rest < 0.25 * usual


@pytest.mark.parametrize("response_format", MEDIA_TYPES)
def test_what_was_sent_so_far_is_playable(response_format: str) -> None:
    encoder = make_encoder(response_format, RATE)
    waveform, rate = heard(encoder.encode(tone(2.0)), response_format)
    assert len(waveform) / rate > 1.7


@pytest.mark.parametrize("response_format", [name for name in MEDIA_TYPES if name != "pcm"])
def test_a_stream_without_samples_is_still_a_file(response_format: str) -> None:
    assert encoded(response_format, []) != b""
    assert encoded(response_format, [np.zeros(0, np.float32)]) != b""


def test_a_wav_of_unknown_length_opens_in_python(tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    path.write_bytes(encoded("wav", [tone(0.5), tone(0.25)]))
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        assert len(file.readframes(10 * RATE)) == 2 * round(0.75 * RATE)


@pytest.mark.parametrize("program", ["sox", "ffmpeg"])
def test_a_wav_of_unknown_length_opens_in_other_programs(program: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    path = tmp_path / "speech.wav"
    path.write_bytes(encoded("wav", [tone(0.75)]))
    command = (
        ["sox", str(path), "-t", "raw", "-"]
        if program == "sox"
        else ["ffmpeg", "-i", str(path), "-f", "s16le", "-"]
    )
    output = subprocess.run(command, capture_output=True, check=True).stdout
    assert len(output) == 2 * round(0.75 * RATE)


def test_opus_is_48_khz_in_ogg() -> None:
    data = encoded("opus", [tone(1.0)])
    assert data.startswith(b"OggS")
    assert decode(data)[1] == 48_000


def test_mp3_begins_with_sound_and_no_index() -> None:
    data = encoded("mp3", [tone(1.0)])
    assert data[0] == 0xFF
    assert b"Xing" not in data[:2_000]
    assert b"Info" not in data[:2_000]


def test_flac_and_pcm_keep_every_sample() -> None:
    original = to_pcm16(tone(0.5))
    assert np.array_equal(np.frombuffer(encoded("pcm", [tone(0.5)]), "<i2"), original)
    waveform, _ = decode(encoded("flac", [tone(0.5)]))
    assert np.array_equal(np.rint(waveform * 32768).astype(np.int16), original)


def test_samples_beyond_full_scale_are_clipped_and_nonsense_is_silent() -> None:
    samples = np.array([2.0, -2.0, np.nan, np.inf, -np.inf, 0.5], np.float32)
    assert to_pcm16(samples).tolist() == [32767, -32767, 0, 32767, -32767, 16384]


def test_an_unknown_format_names_those_that_exist() -> None:
    with pytest.raises(InvalidRequest, match="mp3, opus, aac, flac, wav, pcm") as raised:
        make_encoder("ape", RATE)
    assert raised.value.param == "response_format"


def test_encoders_leave_nothing_behind_when_a_client_goes_away() -> None:
    for response_format in MEDIA_TYPES:
        assert make_encoder(response_format, RATE).encode(tone(1.0))  # never finished; warnings are errors
