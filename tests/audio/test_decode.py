"""Recordings from strangers: what can be read is read, the rest is refused with a reason."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from stepaudiod.audio.decode import Limits, decode
from stepaudiod.audio.encode import make_encoder
from stepaudiod.errors import InvalidRequest, TooLarge
from tests.audio.bombs import BOMBS


def noise(seconds: float, rate: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)


def flac(seconds: float = 1.0, rate: int = 24_000) -> bytes:
    encoder = make_encoder("flac", rate)
    return encoder.encode(noise(seconds, rate)) + encoder.finish()


def stereo_wav(left: np.ndarray, right: np.ndarray, rate: int) -> bytes:
    output = io.BytesIO()
    with av.open(output, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout="stereo")
        samples = (np.stack([left, right], axis=1).reshape(1, -1) * 32767).astype(np.int16)  # interleaved
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return output.getvalue()


def test_the_channels_are_mixed_to_their_mean() -> None:
    left, right = noise(0.5, 16_000), np.zeros(8_000, np.float32)
    waveform, rate = decode(stereo_wav(left, right, 16_000))
    assert rate == 16_000
    assert np.allclose(waveform, left / 2, atol=1e-3)


def test_a_file_is_read_as_its_bytes_are(tmp_path: Path) -> None:
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
def test_what_is_no_recording_or_a_damaged_one_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest) as raised:
        decode(data, param="ref_audio")
    assert raised.value.param == "ref_audio"


@pytest.mark.parametrize(
    "playlist",
    ["#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n"],
)
def test_a_playlist_never_makes_us_open_another_file(playlist: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.flac"
    secret.write_bytes(flac())
    listing = tmp_path / "listing.wav"
    listing.write_text(playlist.format(secret))
    for source in (listing, listing.read_bytes()):
        with pytest.raises(InvalidRequest):
            decode(source)


def test_the_limits_hold() -> None:
    with pytest.raises(TooLarge, match=r"longer than the 0\.5 s"):
        decode(flac(1.0), Limits(max_seconds=0.5))
    with pytest.raises(InvalidRequest, match="24000 samples a second"):
        decode(flac(), Limits(max_sample_rate=16_000))
    with pytest.raises(InvalidRequest, match="2 channels"):
        decode(stereo_wav(noise(0.1, 8_000), noise(0.1, 8_000), 8_000), Limits(max_channels=1))


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
        pictures = container.add_stream("ffv1", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=24_000, layout="mono")
        for _ in range(5):
            picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(pictures.encode(picture.reformat(format="yuv420p")))
        frame = av.AudioFrame.from_ndarray(np.full((1, 12_000), 900, np.int16), format="s16", layout="mono")
        frame.sample_rate = 24_000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    waveform, rate = decode(output.getvalue())
    assert (len(waveform), rate) == (12_000, 24_000)
