"""The packages' wheel of PyAV: FFmpeg for audio, under the LGPL, with every format that is promised."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.packages.conftest import CHECKOUT

WHEELS = CHECKOUT / "build" / "wheelhouse"
PROGRAM = Path(__file__).parent / "codecs_program.py"


@pytest.fixture(scope="module")
def unpacked(repository: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel's files; `repository` has built it."""
    folder = tmp_path_factory.mktemp("av")
    [wheel] = WHEELS.glob("av-*+stepaudiod*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(unpacked: Path, part: str) -> str:
    done = subprocess.run(
        [sys.executable, PROGRAM, part],
        env={"PYTHONPATH": f"{unpacked}:{CHECKOUT}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ffmpeg_is_under_the_lgpl_and_brings_its_text(unpacked: Path) -> None:
    assert run(unpacked, "licence") == "LGPL version 2.1 or later\n"
    names = {path.name for path in unpacked.glob("av-*.dist-info/licenses/*")}
    assert {"LICENSE.txt", "COPYING.FFmpeg.LGPLv2.1", "LICENSE.FFmpeg.md"} <= names


def test_nothing_else_is_bundled(unpacked: Path) -> None:
    libraries = {path.name.partition(".")[0] for path in unpacked.rglob("*.so.*")}
    assert libraries == {f"lib{name}" for name in LIBRARIES}


LIBRARIES = ("avcodec", "avdevice", "avfilter", "avformat", "avutil", "swresample", "swscale")


@pytest.mark.parametrize("part", ["decoders", "demuxers", "filters", "formats", "book"])
def test_what_is_promised_is_there(unpacked: Path, part: str) -> None:
    assert run(unpacked, part) == "none is missing\n"
