"""Commands run as root in a folder whose owner plants links: files of other users are not changed."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.checkpoints import write_checkpoint
from tests.ctl.conftest import Ctl, control
from tests.ctl.hub import Hub

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can take another user's rights"),
    pytest.mark.skipif(
        not os.stat(__file__).st_mode & stat.S_IROTH, reason="this checkout is hidden from other users"
    ),
]

DAEMON, VICTIM = 64001, 64002
"""Two users, neither of them with an account."""


@dataclass
class Machine:
    """A data folder of the daemon's user, and files of another user.

    Attributes:
        data: belongs to the daemon's user.
        victim: belongs to another user, has files with the names of a model's files, and is world-readable.
    """

    data: Path
    victim: Path

    @property
    def models(self) -> Path:
        """The folder of all models."""
        return self.data / "models"

    def plant(self, link: Path, target: Path) -> None:
        """Make a link that belongs to the daemon's user."""
        for folder in reversed(link.relative_to(self.data).parents):
            (self.data / folder).mkdir(exist_ok=True)
            os.chown(self.data / folder, DAEMON, DAEMON)
        link.symlink_to(target)
        os.chown(link, DAEMON, DAEMON, follow_symlinks=False)

    def precious(self) -> dict[str, tuple[int, int, bytes]]:
        """The owner, the mode and the content of the victim's files."""
        found = {}
        for path in (self.victim, *sorted(self.victim.rglob("*"))):
            known = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[str(path.relative_to(self.victim))] = (known.st_uid, known.st_mode, content)
        return found


@contextmanager
def shared_machine() -> Iterator[Machine]:
    """A machine in a world-readable folder, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="links-"))
    folder.chmod(0o755)
    made = Machine(folder / "data", folder / "victim")
    made.data.mkdir()
    os.chown(made.data, DAEMON, DAEMON)
    for name in ("whisper-tiny", "files", "parts", "Step-Audio-EditX"):
        (made.victim / name).mkdir(parents=True)
        for file in ("config.json", "model.safetensors", "notes", "vocab.json", "quantized-int8.part"):
            (made.victim / name / file).write_bytes(b"precious")
    for path in (made.victim, *made.victim.rglob("*")):
        os.chown(path, VICTIM, VICTIM)
    yield made
    shutil.rmtree(folder)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with shared_machine() as made:
        yield made


@pytest.fixture
def root_ctl(hub: Hub, hub_environ: dict[str, str], programs: Path, machine: Machine) -> Ctl:
    """`sudo stepaudioctl`, with a home folder of root."""
    return control(hub.url, hub_environ, programs, STEPAUDIOD_DATA_DIR=str(machine.data))


Plant = Callable[[Machine], None]

LINKS: dict[str, Plant] = {
    "the folder of all models": lambda m: m.plant(m.models, m.victim),
    "a model": lambda m: m.plant(m.models / "whisper-tiny", m.victim / "whisper-tiny"),
    "a file of a model": lambda m: m.plant(
        m.models / "whisper-tiny" / "config.json", m.victim / "whisper-tiny" / "config.json"
    ),
    "a manifest's unfinished form": lambda m: m.plant(
        m.models / "whisper-tiny" / ".stepaudiod.json.part", m.victim / "whisper-tiny" / "notes"
    ),
    "where pulls come together": lambda m: m.plant(m.models / ".pulling", m.victim),
    "a model's part of it": lambda m: m.plant(m.models / ".pulling" / "whisper-tiny", m.victim),
    "its whole files": lambda m: m.plant(
        m.models / ".pulling" / "whisper-tiny" / "files", m.victim / "files"
    ),
    "its unfinished files": lambda m: m.plant(
        m.models / ".pulling" / "whisper-tiny" / "parts", m.victim / "parts"
    ),
    "what a removal has left": lambda m: m.plant(m.models / ".gone-x", m.victim),
    "what is in that": lambda m: m.plant(m.models / ".gone-x" / "whisper-tiny", m.victim / "whisper-tiny"),
}
COMMANDS = (
    ("pull", "whisper-tiny"),
    ("pull", "whisper-tiny", "--from", "modelscope"),
    ("remove", "whisper-tiny", "--yes"),
)


@pytest.mark.parametrize(
    ("link", "command"),
    [
        ("the folder of all models", COMMANDS[2]),
        ("its whole files", COMMANDS[0]),
        ("its unfinished files", COMMANDS[0]),
        ("a manifest's unfinished form", COMMANDS[1]),
    ],
)
def test_no_link_leads_root_to_files_of_others(
    root_ctl: Ctl, machine: Machine, link: str, command: tuple[str, ...]
) -> None:
    LINKS[link](machine)
    before = machine.precious()
    done = root_ctl.run("models", *command)
    assert machine.precious() == before
    assert b"Traceback" not in done.stderr


@pytest.mark.slow
def test_quantize_writes_through_no_link(root_ctl: Ctl, machine: Machine) -> None:
    machine.models.mkdir()
    write_checkpoint(machine.models)
    for path in (machine.models, *machine.models.rglob("*")):
        os.chown(path, DAEMON, DAEMON)
    machine.plant(machine.models / "Step-Audio-EditX-quantized", machine.victim / "Step-Audio-EditX")
    before = machine.precious()
    done = root_ctl.run("models", "quantize", "int8")
    assert machine.precious() == before
    assert done.returncode == 1
    assert f"chown -R {DAEMON}:".encode() in done.stderr


def test_what_root_pulls_belongs_to_the_owner_of_the_data(root_ctl: Ctl, hub: Hub, machine: Machine) -> None:
    """The token is sent to the hub, and root's home folder isn't needed."""
    hub.token = "secret"
    root_ctl.environ |= {"HOME": "/root", "HF_TOKEN": "secret"}
    del root_ctl.environ["HF_HOME"]
    root_ctl.ok("models", "pull", "step-audio-editx")
    assert {path.lstat().st_uid for path in (machine.models, *machine.models.rglob("*"))} == {DAEMON}
    assert json.loads(root_ctl.ok("models", "list", "--json"))[0]["state"] == "complete"
    assert b"all digests are correct" in root_ctl.ok("models", "verify")
    root_ctl.ok("models", "remove", "step-audio-editx", "--yes", "--quiet")
    assert [path.name for path in machine.models.iterdir()] == [".pulling"]


def test_a_link_on_the_way_is_followed_only_where_root_made_it(root_ctl: Ctl, machine: Machine) -> None:
    way = machine.data.parent / "way"
    way.symlink_to(machine.data)
    root_ctl.ok("models", "pull", "whisper-tiny", "--to", str(way / "models"))
    assert (machine.models / "whisper-tiny").stat().st_uid == DAEMON
    os.chown(way, DAEMON, DAEMON, follow_symlinks=False)
    done = root_ctl.run("models", "remove", "whisper-tiny", "--yes", "--in", str(way / "models"))
    assert done.returncode == 1
    assert b"has a link to" in done.stderr
    assert (machine.models / "whisper-tiny").exists()


def test_in_a_folder_of_roots_nothing_of_others_is_touched(root_ctl: Ctl, machine: Machine) -> None:
    own = machine.data.parent / "own"
    root_ctl.ok("models", "pull", "whisper-tiny", "--to", str(own))
    os.chown(own / "whisper-tiny", DAEMON, DAEMON)
    for command in (("pull", "whisper-tiny", "--to"), ("remove", "whisper-tiny", "--yes", "--in")):
        done = root_ctl.run("models", *command, str(own))
        assert done.returncode == 1
        assert b"other users can change it" in done.stderr
    os.chown(own / "whisper-tiny", 0, 0)
    own.chmod(0o777)
    assert root_ctl.run("models", "remove", "whisper-tiny", "--yes", "--in", str(own)).returncode == 1
    own.chmod(0o755)
    root_ctl.ok("models", "remove", "whisper-tiny", "--yes", "--quiet", "--in", str(own))


@pytest.mark.parametrize("kind", ["folder", "link", "second name", "device"])
def test_keys_are_written_only_where_root_alone_can_change_anything(
    root_ctl: Ctl, machine: Machine, kind: str
) -> None:
    precious = machine.victim / "whisper-tiny" / "notes"
    path = machine.data.parent / "api-keys"
    if kind == "folder":
        path = machine.data / "api-keys"
    elif kind == "link":
        path.symlink_to(precious)
    elif kind == "second name":
        os.link(precious, path)
    else:
        os.mkfifo(path)
    before = machine.precious()
    done = root_ctl.run("keys", "add", "laptop", "--file", str(path))
    assert machine.precious() == before
    assert done.returncode in (1, 2)
    assert str(path.parent).encode() in done.stderr
    assert b"Traceback" not in done.stderr


def test_sound_is_not_written_through_a_link_of_another_user(shared_ctl: Ctl, machine: Machine) -> None:
    precious = machine.victim / "whisper-tiny" / "notes"
    machine.plant(machine.data / "sound.wav", precious)
    before = machine.precious()
    done = shared_ctl.run("say", "Hello.", "--output", str(machine.data / "sound.wav"))
    assert machine.precious() == before
    assert done.returncode == 2
    assert b"made by another user" in done.stderr
