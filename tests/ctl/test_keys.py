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


KEPT = f"# ours\r\nold:{'0' * 64}  # the first\n\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A key file with the keys old and laptop, comments and an unusual mode."""
    path = tmp_path / "api-keys"
    path.write_bytes(f"{KEPT} laptop:{'a1' * 32} # lent\n# laptop: returned\n".encode())
    path.chmod(0o604)
    return path


def test_keys_are_listed_without_their_digests(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "list", "--file", str(path)]) == 0
    text = capfd.readouterr().out
    assert [line.split() for line in text.splitlines()] == [
        ["NAME", "DIGEST"],
        ["old", "0" * 12],
        ["laptop", "a1" * 6],
    ]
    assert main(["keys", "list", "--file", str(path), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)[1] == {"name": "laptop", "digest": "a1" * 6}


def test_a_missing_file_has_no_keys(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "list", "--file", str(tmp_path / "absent")]) == 0
    assert "has no keys" in capfd.readouterr().out


def test_a_removed_key_is_gone_and_all_else_is_kept(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() == 0:
        os.chown(path, 4242, 4343)
    before = path.stat()
    assert main(["keys", "remove", "laptop", "--file", str(path)]) == 0
    assert "systemctl try-reload-or-restart 'stepaudiod*.service'" in capfd.readouterr().err
    assert path.read_bytes().decode() == f"{KEPT}# laptop: returned\n"
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino, "a reader sees the old file or the new one, never a part"
    assert os.listdir(path.parent) == [path.name]


def test_a_key_that_does_not_exist_is_an_error_that_lists_those_that_do(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = path.read_bytes()
    for name in ("lap", "laptop2", "# ours"):
        assert main(["keys", "remove", name, "--file", str(path)]) == 2
        error = capfd.readouterr().err
        assert f"no key named {name!r}" in error
        assert "It has old, laptop." in error
    assert path.read_bytes() == before


@pytest.mark.parametrize("action", [("list",), ("remove", "laptop")])
@pytest.mark.parametrize("kind", ["link", "pipe", "hard link", "folder"])
def test_only_a_regular_file_is_used(
    tmp_path: Path, path: Path, action: tuple[str, ...], kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    if kind == "link":
        other.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(other)
    elif kind == "folder":
        other.mkdir()
    else:
        other.hardlink_to(path)
    assert main(["keys", *action, "--file", str(other)]) == 2
    assert str(other) in capfd.readouterr().err
    assert "laptop" in path.read_text()


def test_a_file_that_cannot_be_replaced_stays(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = path.read_bytes()
    path.write_bytes(before + b"not a key\n")
    assert main(["keys", "remove", "laptop", "--file", str(path)]) == 2
    assert "this isn't name:sha256-hex" in capfd.readouterr().err
    assert path.read_bytes() == before + b"not a key\n"
