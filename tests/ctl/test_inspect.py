"""The marks of all formats, and files without a mark."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import av
import numpy as np
import pytest

from stepaudiod.audio.ai_marking import EDITED, GENERATED, IPTC, Mark
from stepaudiod.audio.encode import make_encoder
from stepaudiod.ctl.errors import WrongUsage
from stepaudiod.ctl.inspect import inspect
from tests.ctl.conftest import Ctl

RATE = 24_000
TONE = (0.3 * np.sin(np.arange(RATE) / 9)).astype(np.float32)
EXTENSIONS = {"mp3": "mp3", "opus": "ogg", "flac": "flac", "wav": "wav"}


@pytest.fixture
def alone(programs: Path) -> Ctl:
    """`stepaudioctl` without a daemon."""
    return Ctl(("--socket", "/nonexistent/socket"), str(programs))


def encoded(response_format: str, mark: Mark | None) -> bytes:
    encoder = make_encoder(response_format, RATE, mark)
    return encoder.encode(TONE) + encoder.finish()


def m4a(metadata: dict[str, str]) -> bytes:
    """A file of another program."""
    file = io.BytesIO()
    options = {"movflags": "use_metadata_tags"}
    with av.open(file, "w", format="ipod", container_options=options) as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        container.metadata.update(metadata)
        frame = av.AudioFrame.from_ndarray(TONE.reshape(1, -1), format="fltp", layout="mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("response_format", EXTENSIONS)
@pytest.mark.parametrize("how", [GENERATED, EDITED])
def test_the_mark_of_each_format_is_read(alone: Ctl, tmp_path: Path, response_format: str, how: str) -> None:
    path = tmp_path / f"a.{response_format}"
    path.write_bytes(encoded(response_format, Mark(how, "step-audio-editx-int8")))
    found = json.loads(alone.ok("inspect", str(path), "--json"))
    assert found["is_marked"] is True
    assert (found["how"], found["model"]) == (how, "step-audio-editx-int8")
    assert found["format"] == EXTENSIONS[response_format]
    assert found["duration_s"] == pytest.approx(1.0, abs=0.11)
    assert found["digital_source_type"].lower().endswith("trainedalgorithmicmedia")
    assert b"step-audio-editx-int8" in alone.ok("inspect", str(path))


@pytest.mark.parametrize("response_format", [*EXTENSIONS, "aac"])
def test_a_file_without_a_mark_has_an_exit_code_of_its_own(
    alone: Ctl, tmp_path: Path, response_format: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(encoded(response_format, None))
    done = alone.run("inspect", str(path), "--json")
    assert done.returncode == 7
    assert json.loads(done.stdout)["is_marked"] is False
    assert json.loads(done.stdout)["model"] is None
    assert json.loads(done.stderr)["error"]["code"] == "not_marked"


def test_the_atoms_of_m4a_are_read(alone: Ctl, tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(m4a(Mark(GENERATED, "kokoro").fields()))
    found = json.loads(alone.ok("inspect", str(path), "--json"))
    assert (found["codec"], found["model"], found["how"]) == ("aac", "kokoro", GENERATED)


def test_the_source_type_of_another_program_is_a_mark_too(alone: Ctl, tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(m4a({"DigitalSourceType": f"{IPTC}trainedAlgorithmicMedia"}))
    found = json.loads(alone.ok("inspect", str(path), "--json"))
    assert (found["is_marked"], found["model"]) == (True, None)
    path.write_bytes(
        m4a({"DigitalSourceType": f"{IPTC}digitalCapture", "SYNTHETIC": "generated; model=\x1b[2J"})
    )
    assert alone.run("inspect", str(path)).returncode == 7


def test_invalid_files_are_reported(alone: Ctl, tmp_path: Path) -> None:
    good = encoded("flac", Mark(GENERATED, "kokoro"))
    junk = {"empty": b"", "text": b"#EXTM3U\n/etc/passwd\n", "short": good[:30], "zeros": bytes(5000)}
    for name, data in junk.items():
        (tmp_path / name).write_bytes(data)
    for name in (*junk, "missing", "."):
        done = alone.run("inspect", str(tmp_path / name))
        assert (done.returncode, done.stdout) == (2, b""), name
        assert done.stderr.startswith(b"stepaudioctl: ")
        assert b"Traceback" not in done.stderr


def test_damaged_tags_end_in_an_answer(alone: Ctl, tmp_path: Path) -> None:
    """In this process, since two hundred interpreters would take minutes."""
    path = tmp_path / "a"
    random = np.random.default_rng(1)
    files = [encoded(name, Mark(GENERATED, "kokoro")) for name in EXTENSIONS]
    files.append(m4a(Mark(GENERATED, "kokoro").fields()))
    answers = 0
    for data in files * 40:
        damaged = bytearray(data[: random.integers(1, len(data) + 1)])
        for at in random.integers(0, min(len(damaged), 600), random.integers(1, 9)):
            damaged[at] = random.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(WrongUsage):
            inspect(str(path))
        answers += 1
    assert answers == 200
