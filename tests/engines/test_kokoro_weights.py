"""The weights: joined once, checked each time, mended when damaged, safe for several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stepaudiod.engines.kokoro.engine import KokoroEngine
from stepaudiod.engines.kokoro.weights import FILE_NAME, SIZE_BYTES, is_intact, joined_weights
from stepaudiod.engines.registry import KOKORO, Catalog
from stepaudiod.errors import EngineUnavailable

pytestmark = pytest.mark.skipif(KOKORO not in Catalog().installed(), reason="kokoro is not installed")


def test_the_weights_are_joined_once(tmp_path: Path) -> None:
    path = joined_weights(tmp_path / "new")
    before = path.stat().st_mtime_ns
    assert is_intact(path)
    assert joined_weights(tmp_path / "new") == path
    assert path.stat().st_mtime_ns == before
    assert os.listdir(path.parent) == [FILE_NAME]


def test_several_processes_may_join_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from stepaudiod.engines.kokoro.weights import *\n"
        "sys.exit(not is_intact(joined_weights(pathlib.Path(sys.argv[1]))))"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert os.listdir(tmp_path) == [FILE_NAME]


@pytest.mark.parametrize("damage", ["truncated", "changed", "no model"])
def test_a_damaged_file_is_mended_while_loading(damage: str, tmp_path: Path) -> None:
    path = joined_weights(tmp_path)
    with path.open("r+b") as file:
        if damage == "truncated":
            file.truncate(SIZE_BYTES // 2)
        elif damage == "changed":
            file.seek(SIZE_BYTES // 2)
            file.write(b"\x00" * 1_000)
        else:
            file.write(b"\xff" * 1_000)
    KokoroEngine(cache_dir=tmp_path, threads=1).load(lambda stage, done: None)
    assert is_intact(path)


def test_a_cache_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(EngineUnavailable, match="must be writable"):
        joined_weights(tmp_path / "cache")
