"""Mutated recordings of every container that can be written: no worker dies, and no response is 500."""

from __future__ import annotations

import asyncio
import io
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import av
import httpx
import numpy as np
import pytest

from stepaudiod.errors import InvalidRequest
from stepaudiod.worker.decoder_process import Decoders
from tests.activation import DaemonProcess
from tests.attack.conftest import Tally
from tests.checkpoints import write_checkpoint
from tests.conftest import StartDaemon
from tests.web.damage import WAYS

FORMATS = (
    *[("adts", "aac", layout) for layout in ("mono", "stereo", "7.1")],
    *[("ac3", "ac3", "5.1"), ("eac3", "eac3", "mono")],
    *[("aiff", "pcm_s16be", "mono"), ("amr", "libopencore_amrnb", "mono"), ("asf", "wmav2", "stereo")],
    *[("au", "pcm_mulaw", "mono"), ("avi", "mp2", "stereo"), ("avi", "pcm_s16le", "mono")],
    *[
        ("caf", "alac", "stereo"),
        ("caf", "pcm_s16le", "mono"),
        ("flac", "flac", "mono"),
        ("flac", "flac", "7.1"),
    ],
    *[("flv", "aac", "mono"), ("flv", "nellymoser", "mono"), ("flv", "libmp3lame", "stereo")],
    *[("matroska", "wavpack", "mono"), ("matroska", "tta", "mono"), ("matroska", "vorbis", "stereo")],
    *[("webm", "libopus", "mono"), ("mov", "adpcm_ima_qt", "mono"), ("mov", "pcm_s24le", "mono")],
    *[("mp4", "aac", "mono"), ("mp4", "aac", "7.1"), ("ipod", "alac", "mono"), ("3gp", "aac", "mono")],
    *[("ismv", "aac", "mono"), ("mp3", "libmp3lame", "mono"), ("mp3", "libmp3lame", "stereo")],
    *[("mp2", "mp2", "mono"), ("mpeg", "mp2", "mono"), ("vob", "ac3", "stereo")],
    *[("mpegts", "aac", "mono"), ("mpegts", "mp2", "mono"), ("mpegts", "libopus", "mono")],
    *[
        ("ogg", "libopus", "mono"),
        ("ogg", "libopus", "7.1"),
        ("ogg", "flac", "mono"),
        ("ogg", "vorbis", "stereo"),
    ],
    *[("rm", "ac3", "mono"), ("tta", "tta", "mono"), ("voc", "pcm_u8", "mono"), ("w64", "pcm_s16le", "mono")],
    *[("wav", f"pcm_{kind}", "mono") for kind in ("s16le", "f32le", "alaw")],
    *[("wav", f"adpcm_{kind}", "mono") for kind in ("ms", "ima_wav", "yamaha")],
    *[
        ("wav", "pcm_s16le", "7.1"),
        ("wav", "g722", "mono"),
        ("wav", "g726", "mono"),
        ("wv", "wavpack", "stereo"),
    ],
)
"""Container, codec and layout by FFmpeg's names."""
RATES = (24_000, 48_000, 44_100, 8_000)
SECONDS = 0.4
DIRECTLY, OVER_HTTP = 950, 50
AT_ONCE = 4
OLD_EDIT = '{"input": "", "step_audio": {"mode": "speed", "edit_info": "faster"}}'


def recording(container: str, codec: str, layout: str, rate: int) -> bytes:
    """Noise in that form.

    Raises:
        av.FFmpegError: the encoder doesn't know that rate.
    """
    output = io.BytesIO()
    with av.open(output, "w", format=container) as file:
        stream = cast(Any, file.add_stream(codec, rate=rate, layout=layout, options={"strict": "-2"}))
        stream.bit_rate = 64_000 * stream.layout.nb_channels
        noise = np.random.default_rng(1).uniform(-0.1, 0.1, (int(rate * SECONDS), stream.layout.nb_channels))
        frame = av.AudioFrame.from_ndarray(
            noise.astype(np.float32).reshape(1, -1), format="flt", layout=layout
        )
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(stream.format.name, layout, rate, frame_size=stream.frame_size or 4096)
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            file.mux(stream.encode(part))
    return output.getvalue()


@pytest.fixture(scope="module")
def sound() -> dict[str, bytes]:
    """A valid recording in each format, at the first sample rate of its codec."""
    made: dict[str, bytes] = {}
    for container, codec, layout in FORMATS:
        for rate in RATES:
            try:
                made[f"{container} {codec} {layout}"] = recording(container, codec, layout, rate)
                break
            except (av.FFmpegError, ValueError):
                continue
        else:
            raise AssertionError((container, codec, layout))
    return made


def mutated(sound: dict[str, bytes], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` mutations with their descriptions, reproducible by the seed."""
    chance = random.Random(seed)
    names, ways = sorted(sound), sorted(WAYS)
    for number in range(count):
        name, way = chance.choice(names), chance.choice(ways)
        yield f"{seed}:{number}: {name} {way}", WAYS[way](chance, sound[name], sound)


def test_mutated_recordings_are_decoded_or_refused(
    sound: dict[str, bytes], tmp_path: Path, scale: int, tally: Tally
) -> None:
    files, drawing = mutated(sound, DIRECTLY * scale, seed=11), threading.Lock()
    answers: Counter[str] = Counter()
    faults: list[tuple[str, BaseException]] = []
    decoders = Decoders()

    def decode(path: Path) -> None:
        while True:
            with drawing:
                how, data = next(files, ("", b""))
            if not how:
                return
            path.write_bytes(data)
            try:
                decoders.decode(path)
                answer = "decoded"
            except InvalidRequest as error:
                answer = "its decoder died" if "the decoder" in error.message else "refused"
            except BaseException as error:
                faults.append((how, error))
                continue
            if answer == "its decoder died":
                print(how, "ended its decoder twice")
            with drawing:
                answers[answer] += 1

    threads = [threading.Thread(target=decode, args=(tmp_path / str(number),)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    decoders.close()
    tried = DIRECTLY * scale
    print(dict(answers))
    tally("mutated recordings are decoded, or refused with a reason", tried, answers.total())
    assert faults == []
    assert answers["decoded"] > tried * 0.2
    assert answers["refused"] > tried * 0.2


FIELDS = {
    "/v1/audio/voices": ("audio_sample", {"consent": "mine", "transcript": "x"}),
    "/v1/audio/speech/upload": ("input_audio_file", {"payload": OLD_EDIT}),
    "/v1/audio/edits": ("file", {"mode": "speed", "edit_info": "faster"}),
    "/api/edit": ("audio", {"mode": "speed", "speed": "faster"}),
}
"""Paths that take a recording, their fields, and what else they want. No model works on what can be read."""


def test_mutated_recordings_cost_no_worker_and_no_500(
    sound: dict[str, bytes], start_daemon: StartDaemon, tmp_path: Path, scale: int, tally: Tally
) -> None:
    daemon = speaking(start_daemon, tmp_path)
    files = enumerate(mutated(sound, OVER_HTTP * scale, seed=12))
    answers: Counter[int] = Counter()

    async def sender(client: httpx.AsyncClient) -> None:
        for number, (how, data) in files:
            path = list(FIELDS)[number % len(FIELDS)]
            field, more = FIELDS[path]
            form = more | {"name": f"voice {number}"} if path.endswith("voices") else more
            response = await client.post(path, data=form, files={field: (how.split()[1], data)})
            if response.status_code == 200:
                await client.delete(f"{path}/{response.json()['id']}")
            elif response.status_code != 400:
                print(how, path, response.status_code, response.text)
            answers[response.status_code] += 1

    async def send_all() -> None:
        async with httpx.AsyncClient(base_url=daemon.url, timeout=120) as client:
            await asyncio.gather(*(sender(client) for _ in range(AT_ONCE)))

    with daemon.client() as client:
        good = {"audio_sample": ("a.wav", sound["wav pcm_s16le mono"])}
        form = {"name": "good", "consent": "mine", "transcript": "x"}
        assert client.post("/v1/audio/voices", data=form, files=good).status_code in (200, 400)
    worker = daemon.worker_pid()
    asyncio.run(send_all())
    print(dict(answers))
    tried = OVER_HTTP * scale
    tally("mutated recordings over HTTP are answered with 200 or 400", tried, answers[200] + answers[400])
    assert set(answers) <= {200, 400}
    assert daemon.worker_pid() == worker, "a worker died"


def speaking(start_daemon: StartDaemon, tmp_path: Path) -> DaemonProcess:
    """A daemon with Step-Audio-EditX on the smallest weights, which accepts recordings."""
    (tmp_path / "models").mkdir()
    write_checkpoint(tmp_path / "models")
    settings: dict[str, object] = {"engine": "auto", "threads": 1, "data_dir": tmp_path}
    return start_daemon(settings | {"step_audio.dtype": "fp32", "step_audio.check_output": "false"})
