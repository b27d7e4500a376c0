"""`stepaudioctl keys`: the daemon reads the lines that it writes."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from stepaudiod import api_keys as keys
from stepaudiod.ctl.main import main


def test_a_new_key_is_printed_once_and_its_digest_stored(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "api-keys"
    umask = os.umask(0o077)
    try:
        assert main(["keys", "add", "laptop", "--file", str(path)]) == 0
    finally:
        os.umask(umask)
    key = capfd.readouterr().out.strip()
    assert key.startswith("sk-stepaudio-")
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert keys.read(path).name_of(key.encode()) == "laptop"
    assert keys.read(path).name_of(key.encode() + b"x") is None


def test_keys_are_added_to_what_is_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "api-keys"
    path.write_text(f"# ours\nold:{'0' * 64}")
    path.chmod(0o600)
    made = []
    for name in ("a", "b"):
        assert main(["keys", "add", name, "--file", str(path), "--json"]) == 0
        made.append(json.loads(capfd.readouterr().out)["key"])
    known = keys.read(path)
    assert [known.name_of(key.encode()) for key in made] == ["a", "b"]
    assert list(known.digests) == ["old", "a", "b"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_line_can_be_printed_for_another_machine(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "add", "laptop", "--print-line"]) == 0
    key, line = capfd.readouterr().out.split()
    assert keys.ApiKeys(keys.parse(line, "here")).name_of(key.encode()) == "laptop"


def test_two_keys_never_have_one_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "api-keys"
    path.write_text(f"laptop:{'0' * 64}\n")
    before = path.read_text()
    assert main(["keys", "add", "laptop", "--file", str(path)]) == 2
    assert "laptop" in capfd.readouterr().err
    assert path.read_text() == before


@pytest.mark.parametrize("name", ["", "two words", "a:b", "é", "x" * 65])
def test_a_name_that_the_file_cannot_hold_is_refused(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "add", name, "--file", str(tmp_path / "api-keys")]) == 2
    assert not (tmp_path / "api-keys").exists()
    assert "a key's name" in capfd.readouterr().err


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "add", "laptop", "--file", str(tmp_path / "absent" / "api-keys")]) == 2
    assert "absent" in capfd.readouterr().err
    (tmp_path / "broken").write_text("laptop\n")
    assert main(["keys", "add", "laptop", "--file", str(tmp_path / "broken")]) == 2
    assert "broken:1" in capfd.readouterr().err
