"""Untrusted recordings: valid ones are decoded, others are rejected with a reason."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest

from stepaudiod.audio.decode import Limits, decode
from stepaudiod.audio.encode import make_encoder
from stepaudiod.errors import InvalidRequest, TooLarge
from tests.audio.bombs import BOMBS, encoded
from tests.web.damage import WAYS


def noise(seconds: float, rate: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)


def flac(seconds: float = 1.0, rate: int = 24_000) -> bytes:
    encoder = make_encoder("flac", rate)
    return encoder.encode(noise(seconds, rate)) + encoder.finish()


def wav(channels: list[np.ndarray], rate: int) -> bytes:
    output = io.BytesIO()
    with wave.open(output, "wb") as file:
        file.setparams((len(channels), 2, rate, 0, "NONE", "not compressed"))
        file.writeframes((np.stack(channels, axis=1) * 32767).astype("<i2").tobytes())
    return output.getvalue()


def compressed(container: str, codec: str, layout: str, rate: int = 48_000) -> bytes:
    """Noise in the first channel of the layout."""
    output = io.BytesIO()
    with av.open(output, "w", format=container) as file:
        stream = cast(Any, file.add_stream(codec, rate=rate, layout=layout))
        samples = np.zeros((rate, stream.layout.nb_channels), np.float32)
        samples[:, 0] = noise(1, rate)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(stream.format.name, layout, rate, frame_size=stream.frame_size or 4096)
        for part in (*resampler.resample(frame), None):
            file.mux(stream.encode(part))
    return output.getvalue()


def test_the_channels_are_mixed_to_their_mean() -> None:
    left, right = noise(0.5, 16_000), np.zeros(8_000, np.float32)
    waveform, rate = decode(wav([left, right], 16_000))
    assert rate == 16_000
    assert np.allclose(waveform, left / 2, atol=1e-3)


@pytest.mark.parametrize("channels", range(1, 9))
def test_up_to_eight_channels_are_mixed_down(channels: int) -> None:
    sound = [noise(0.5, 16_000) * (number == 0) for number in range(channels)]
    waveform, _ = decode(wav(sound, 16_000))
    assert np.allclose(waveform, sound[0] / channels, atol=1e-3)
    with pytest.raises(InvalidRequest, match=r"limits\.max_channels"):
        decode(wav(sound, 16_000), Limits(max_channels=channels - 1))


def test_more_channels_are_mixed_down_where_they_are_allowed() -> None:
    waveform, _ = decode(wav([noise(0.5, 16_000)] * 24, 16_000), Limits(max_channels=24))
    assert np.allclose(waveform, noise(0.5, 16_000), atol=1e-3)


@pytest.mark.parametrize(
    ("container", "codec"), [("flac", "flac"), ("mp4", "aac"), ("ogg", "libopus"), ("matroska", "pcm_s16le")]
)
def test_codecs_of_eight_channels_are_mixed_down(container: str, codec: str) -> None:
    waveform, rate = decode(compressed(container, codec, "7.1"))
    assert rate == 48_000
    assert abs(len(waveform) - 48_000) < 4800
    assert 0.01 < np.abs(waveform).mean() < 0.1


def test_opposite_phases_are_heard_by_the_stronger_channel() -> None:
    sound = noise(5, 16_000)
    waveform, _ = decode(wav([sound * 0.8, -sound], 16_000))
    assert np.allclose(waveform, -sound, atol=1e-3)
    surround = [sound, -sound * 0.9, sound * 0.0, sound * 0.0, sound * 0.1, -sound * 0.1]
    waveform, _ = decode(wav(surround, 16_000))
    assert np.allclose(waveform, sound, atol=1e-3)


@pytest.mark.parametrize("part", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("is_first", [True, False])
def test_phases_that_are_opposite_for_a_while_lose_nothing(part: float, is_first: bool) -> None:
    sound = noise(4, 16_000)
    other, length = sound * 0.9, round(64_000 * part)
    opposite = slice(0, length) if is_first else slice(64_000 - length, 64_000)
    other[opposite] *= -1
    waveform, _ = decode(wav([sound, other], 16_000))
    assert np.allclose(waveform, sound, atol=1e-3)


def test_silence_of_two_channels_is_silence() -> None:
    waveform, _ = decode(wav([np.zeros(8000, np.float32)] * 2, 16_000))
    assert not waveform.any()
    assert len(waveform) == 8000


@pytest.mark.parametrize(
    ("layout", "rate", "found"),
    [
        ("stereo", 48_000, "2 at 48000 Hz"),
        ("7.1", 48_000, "8 at 48000 Hz"),
        ("mono", 24_000, "1 at 24000 Hz"),
    ],
)
def test_a_stream_that_changes_midway_is_refused(layout: str, rate: int, found: str) -> None:
    mono = compressed("adts", "aac", "mono")
    with pytest.raises(InvalidRequest, match=f"changes midway from 1 channels at 48000 Hz to {found}"):
        decode(mono * 4 + compressed("adts", "aac", layout, rate))


def test_ogg_streams_in_a_chain_may_not_change_their_channels() -> None:
    mono, stereo = compressed("ogg", "libopus", "mono"), compressed("ogg", "libopus", "stereo")
    with pytest.raises(InvalidRequest, match="channels or its codec change midway"):
        decode(mono + stereo)


@pytest.mark.parametrize(("container", "codec"), [("mpegts", "mp2"), ("mpegts", "aac"), ("flv", "aac")])
def test_a_damaged_stream_that_seems_to_begin_another_one_is_refused(container: str, codec: str) -> None:
    sound = encoded(container, codec, 0.6, 44_100, seed=1)
    chance, refused = random.Random(3), 0
    for _ in range(25):
        try:
            decode(WAYS["flipped"](chance, sound, {}))
        except InvalidRequest:
            refused += 1
    assert refused


def test_a_format_is_detected_by_content(tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(flac())
    from_file, rate = decode(tmp_path / "clip")
    from_bytes, _ = decode(flac())
    assert rate == 24_000
    assert np.array_equal(from_file, from_bytes)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, world " * 100,
        bytes(range(256)) * 20,
        b"\x89PNG\r\n\x1a\n" + bytes(200),
        flac()[:50],
        flac()[: len(flac()) // 2 - 7][::-1],
        bytes(byte ^ 0x5A if index > 500 else byte for index, byte in enumerate(flac())),
    ],
    ids=["empty", "text", "bytes", "picture", "header", "backwards", "scrambled"],
)
def test_invalid_and_damaged_recordings_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest) as raised:
        decode(data, param="ref_audio")
    assert raised.value.param == "ref_audio"


@pytest.mark.parametrize(
    "playlist",
    ["#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n"],
)
def test_a_playlist_opens_no_other_file(playlist: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.flac"
    secret.write_bytes(flac())
    listing = tmp_path / "listing.wav"
    listing.write_text(playlist.format(secret))
    for source in (listing, listing.read_bytes()):
        with pytest.raises(InvalidRequest):
            decode(source)


def test_the_limits_are_enforced() -> None:
    with pytest.raises(TooLarge, match=r"longer than the 0\.5 s .*limits\.max_audio"):
        decode(flac(1.0), Limits(max_seconds=0.5))
    with pytest.raises(InvalidRequest, match=r"24000 samples a second; .*limits\.max_sample_rate"):
        decode(flac(), Limits(max_sample_rate=16_000))
    with pytest.raises(InvalidRequest, match="2 channels"):
        decode(wav([noise(0.1, 8_000)] * 2, 8_000), Limits(max_channels=1))


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_never_takes_much_memory(name: str, tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(BOMBS[name]())
    assert (tmp_path / "bomb").stat().st_size < 2_000_000
    code = """if True:
        import resource, sys, warnings
        from pathlib import Path
        from stepaudiod.audio.decode import Limits, decode
        from stepaudiod.errors import InvalidRequest
        import av
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            decode(Path(sys.argv[1]), Limits(max_seconds=60))
        except InvalidRequest as error:
            pass
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    command = [sys.executable, "-c", code, str(tmp_path / "bomb")]
    grown_mb = int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    assert grown_mb < 60


def test_the_sound_of_a_film_is_read_without_its_pictures() -> None:
    output = io.BytesIO()
    with av.open(output, "w", format="matroska") as container:
        pictures = container.add_stream("mjpeg", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuvj420p"
        sound = container.add_stream("pcm_s16le", rate=24_000, layout="mono")
        for _ in range(5):
            picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(pictures.encode(picture.reformat(format="yuvj420p")))
        frame = av.AudioFrame.from_ndarray(np.full((1, 12_000), 900, np.int16), format="s16", layout="mono")
        frame.sample_rate = 24_000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    waveform, rate = decode(output.getvalue())
    assert (len(waveform), rate) == (12_000, 24_000)
