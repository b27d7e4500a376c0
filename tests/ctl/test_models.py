"""Installed models: list, verify, repair, remove; and the owner of their files."""

from __future__ import annotations

import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ctl.conftest import DEADLINE_S, Ctl, StartHub, control
from tests.ctl.hub import COMMIT, Hub


def flip(path: Path) -> None:
    """Change one byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_list_tells_where_each_came_from(hub_ctl: Ctl, models: Path) -> None:
    assert hub_ctl.ok("models", "list") == f"no models in {models}\n".encode()
    hub_ctl.ok("models", "pull", "whisper-tiny")
    header, line = hub_ctl.ok("models", "list").decode().splitlines()
    assert header.split() == ["MODEL", "FROM", "REVISION", "SIZE", "STATE", "WHERE"]
    wanted = ["whisper-tiny", "huggingface", COMMIT[:12], "5.4", "kB", "complete", f"{models}/whisper-tiny"]
    assert line.split()[:3] + line.split()[4:] == wanted[:3] + wanted[4:]


def test_a_flipped_byte_is_found_and_only_that_file_is_repaired(hub_ctl: Ctl, hub: Hub, models: Path) -> None:
    hub_ctl.ok("models", "pull", "step-audio-editx")
    assert b"13 files, all digests are correct" in hub_ctl.ok("models", "verify")
    damaged = models / "Step-Audio-EditX" / "CosyVoice-300M-25Hz" / "flow.pt"
    flip(damaged)
    (models / "Step-Audio-EditX-quantized").mkdir()
    hub_ctl.ok("models", "verify", "--quick")
    done = hub_ctl.run("models", "verify", "step-audio-editx")
    assert done.returncode == 4
    (line,) = done.stdout.decode().splitlines()
    assert line.startswith(f"{damaged}: expected sha256 ")
    assert b"stepaudioctl models pull step-audio-editx\n" in done.stderr
    hub.forget()
    hub_ctl.ok("models", "pull", "step-audio-editx")
    assert hub.fetched() == {"CosyVoice-300M-25Hz/flow.pt"}
    assert not (models / "Step-Audio-EditX-quantized").exists()
    assert b"all digests are correct" in hub_ctl.ok("models", "verify")


def test_quick_looks_at_sizes(hub_ctl: Ctl, models: Path) -> None:
    hub_ctl.ok("models", "pull", "whisper-tiny")
    (models / "whisper-tiny" / "vocab.json").unlink()
    with (models / "whisper-tiny" / "config.json").open("ab") as file:
        file.write(b"x")
    done = hub_ctl.run("models", "verify", "--quick", "--json")
    assert done.returncode == 4
    (model,) = json.loads(done.stdout)
    assert [Path(problem["file"]).name for problem in model["problems"]] == ["config.json", "vocab.json"]
    assert "expected 2 bytes, found 3" in model["problems"][0]["message"]
    assert json.loads(done.stderr)["error"]["code"] == "model_incomplete"


def test_a_folder_without_a_manifest_is_checked_by_its_headers(hub_ctl: Ctl, hub: Hub, models: Path) -> None:
    folder = models / "whisper-tiny"
    folder.mkdir(parents=True)
    for name, data in hub.repositories["openai/whisper-tiny"].items():
        (folder / name).write_bytes(data)
    assert json.loads(hub_ctl.ok("models", "list", "--json"))[0]["state"] == "by hand"
    assert b"copied by hand, without a manifest" in hub_ctl.ok("models", "verify")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert hub_ctl.run("models", "verify").returncode == 4
    assert json.loads(hub_ctl.ok("models", "list", "--json"))[0]["state"] == "incomplete"


def test_a_broken_manifest_is_named_and_repaired(hub_ctl: Ctl, models: Path) -> None:
    hub_ctl.ok("models", "pull", "whisper-tiny")
    manifest = models / "whisper-tiny" / ".stepaudiod.json"
    manifest.write_text("{")
    assert str(manifest).encode() in hub_ctl.run("models", "verify").stdout
    hub_ctl.ok("models", "pull", "whisper-tiny")
    assert b"all digests are correct" in hub_ctl.ok("models", "verify")


# ---- removing


def test_remove_takes_everything_of_a_model(
    start_hub: StartHub, hub_environ: dict[str, str], programs: Path, models: Path
) -> None:
    hub = start_hub()
    ctl = control(hub.url, hub_environ, programs)
    ctl.ok("models", "pull", "step-audio-editx")
    (models / "Step-Audio-EditX-quantized").mkdir()
    hub.spoiled.add("model.safetensors")
    assert ctl.run("models", "pull", "whisper-tiny").returncode == 4
    assert ctl.ok("models", "remove", "whisper-tiny", "--yes", "--quiet") == b"removed whisper-tiny\n"
    done = ctl.run("models", "remove", "step-audio-editx", "--yes")
    assert (done.returncode, done.stdout) == (0, b"removed step-audio-editx\n")
    assert b"stepaudioctl unload" in done.stderr
    assert [path.name for path in models.iterdir()] == [".pulling"]
    assert not list((models / ".pulling").iterdir())


def test_remove_never_follows_a_link(hub_ctl: Ctl, models: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "model.safetensors").write_bytes(b"precious")
    models.mkdir(parents=True)
    (models / "whisper-tiny").symlink_to(elsewhere)
    (models / "whisper-base").mkdir()
    (models / "whisper-base" / "more").symlink_to(elsewhere)
    hub_ctl.ok("models", "remove", "whisper-tiny", "--yes", "--quiet")
    hub_ctl.ok("models", "remove", "whisper-base", "--yes", "--quiet")
    assert list(models.iterdir()) == []
    assert (elsewhere / "model.safetensors").read_bytes() == b"precious"


@pytest.mark.parametrize(("answer", "is_kept"), [("y\n", False), ("\n", True)])
def test_remove_asks_on_a_terminal(hub_ctl: Ctl, models: Path, answer: str, is_kept: bool) -> None:
    (models / "whisper-tiny").mkdir(parents=True)
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())
    removing = hub_ctl.start("models", "remove", "whisper-tiny", stdin=theirs)
    _, asked = removing.communicate(timeout=DEADLINE_S)
    os.close(ours)
    os.close(theirs)
    assert removing.returncode == 0
    assert asked.startswith(b"Delete whisper-tiny (0 bytes) from ")
    assert (models / "whisper-tiny").exists() == is_kept


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("pull", "nothing"),
        ("pull", "whisper-tiny", "--endpoint", "hf-mirror.com"),
        ("verify", "whisper-tiny"),
        ("remove", "whisper-tiny", "--yes"),
    ],
)
def test_wrong_usage_of_models_is_2(hub_ctl: Ctl, arguments: tuple[str, ...]) -> None:
    done = hub_ctl.run("models", *arguments)
    assert done.returncode == 2
    assert done.stderr


def test_without_a_terminal_remove_wants_yes(hub_ctl: Ctl, models: Path) -> None:
    (models / "whisper-tiny").mkdir(parents=True)
    done = hub_ctl.run("models", "remove", "whisper-tiny")
    assert done.returncode == 2
    assert b"--yes" in done.stderr
    assert (models / "whisper-tiny").exists()


# ---- whose files they are


@pytest.mark.parametrize(
    "arguments", [("pull", "whisper-tiny"), ("list",), ("remove", "whisper-tiny", "--yes")]
)
def test_without_rights_the_command_says_which_one_has_them(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    program = """
import os, sys
import stepaudiod.ctl.hub.huggingface, stepaudiod.ctl.hub.installed
from stepaudiod.ctl.main import main
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.exit(main(sys.argv[1:]))
"""
    data = tmp_path / "data"
    (data / "models" / "whisper-tiny").mkdir(parents=True)
    for folder in (*tmp_path.parents[:3], tmp_path):
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    data.chmod(0)
    option = "--to" if arguments[0] == "pull" else "--in"
    command = [sys.executable, "-c", program, "models", *arguments, option, str(data / "models")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    data.chmod(0o755)
    assert done.returncode == 1
    assert f"sudo stepaudioctl models {' '.join(arguments[:2])} " in done.stderr
