"""`models move`: files, configuration and drop-ins. systemd is a script that reports properties."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepaudiod.ctl import moving
from stepaudiod.ctl.errors import CtlError, IncompleteModel, InsufficientSpace, NotPermitted, WrongUsage
from stepaudiod.ctl.hub.progress import Progress
from stepaudiod.ctl.move import Move, Moved
from stepaudiod.ctl.privileges import with_rights_of
from stepaudiod.ctl.terminal import Terminal
from tests.ctl.conftest import Ctl, add_program

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may move the models of the daemon")

USER = "daemon"
TERMINAL = Terminal(as_json=False, is_quiet=True)
SYSTEMCTL = """\
case "$*" in
*list-units*) ;;
*daemon-reload*|*restart*) echo "$*" >> {calls} ;;
*) for unit; do case $unit in *.service) cat <<END
Id=$unit
LoadState=loaded
ActiveState=inactive
User={user}
Environment=STEPAUDIOD_DATA_DIR={data} STEPAUDIOD_CACHE_DIR={data}/cache
ProtectSystem=strict
ProtectHome={home}
ReadWritePaths={data}

END
;; esac; done ;;
esac"""


class Place:
    """A data folder of the daemon's user with models, on its own, and a systemd that knows two units."""

    def __init__(self, root: Path, programs: Path) -> None:
        self.root, self.programs = root, programs
        self.data, self.etc, self.units = root / "data", root / "etc", root / "units"
        self.models, self.calls = self.data / "models", root / "calls"
        self.files = {
            "Step-Audio-EditX/a.bin": b"a" * 5000,
            "Step-Audio-EditX/deep/b.bin": b"b",
            "whisper-x/c": b"",
        }
        for name, data in self.files.items():
            (self.models / name).parent.mkdir(parents=True, exist_ok=True)
            (self.models / name).write_bytes(data)
        (self.data / "cache").mkdir()
        for path in (self.data, *self.data.rglob("*")):
            shutil.chown(path, USER, USER)
        self.etc.mkdir()
        (self.etc / "stepaudiod.toml").touch()
        self.systemd()

    def systemd(self, home: str = "yes") -> None:
        script = SYSTEMCTL.format(calls=self.calls, user=USER, data=self.data, home=home)
        add_program(self.programs, "systemctl", script)

    def move(self, target: Path | str) -> Moved:
        return Move(Path(target), TERMINAL, self.etc, self.units).run()

    def refused(self, target: Path | str) -> str:
        """The message of a refusal that changes nothing."""
        before = sorted(self.root.rglob("*"))
        with pytest.raises(CtlError) as refusal:
            self.move(target)
        assert sorted(self.root.rglob("*")) == before
        return refusal.value.message

    def found(self, folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    @property
    def setting(self) -> str:
        return (self.etc / "conf.d/50-models.toml").read_text()


@pytest.fixture
def place(programs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """In a folder that every user may enter, and that PrivateTmp= doesn't replace."""
    monkeypatch.setenv("PATH", str(programs))
    with tempfile.TemporaryDirectory(dir="/srv") as name:
        Path(name).chmod(0o755)
        yield Place(Path(name), programs)


def test_models_are_moved_and_the_daemons_use_them(place: Place) -> None:
    target = place.root / "disk" / "models"
    assert place.move(target).moved_bytes == 5001
    assert place.found(target) == place.found(target) | place.files
    assert sorted(os.listdir(target)) == ["Step-Audio-EditX", "whisper-x"]
    found = target.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (pwd.getpwnam(USER).pw_uid, 0o750)
    assert not place.models.exists()
    assert place.setting.endswith(f'models_dir = "{target}"\n')
    assert (place.etc / "instances/conf.d/50-models.toml").read_text() == place.setting
    assert not place.units.exists()  # reading takes no drop-in
    assert place.calls.read_text().split()[:1] == ["try-reload-or-restart"]
    assert place.move(target) == Moved(target, 0, ())
    back = place.move(place.models)
    assert back.moved_bytes == 5001
    assert place.found(place.models) == place.files
    assert not (place.etc / "conf.d/50-models.toml").exists()


def test_models_that_are_there_are_used_as_they_are(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    old = place.root / "old containers"
    shutil.copytree(place.models, old / "models")
    (old / "models/Step-Audio-EditX/a.bin").chmod(0o600)
    assert f"sudo chmod -R a+rX '{old}/models'" in place.refused(old)
    (old / "models/Step-Audio-EditX/a.bin").chmod(0o644)
    moved = Move(old, Terminal(as_json=False, is_quiet=False), place.etc, place.units).run()
    assert (moved.folder, moved.moved_bytes) == (old / "models", 0)
    assert place.found(place.models) == place.files
    assert f"sudo rm -r {place.models}" in capfd.readouterr().err


@pytest.mark.parametrize("at", ["copy", "after the copy", "removal"])
def test_an_interrupted_move_loses_nothing_and_continues(
    place: Place, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interruption is a file system that fails once, as a full or removed disk does."""
    target = place.root / "models"
    if at == "copy":
        (obstacle := place.root / "models/.moving/files/whisper-x").parent.mkdir(parents=True)
        obstacle.write_bytes(b"")  # a file where a folder has to be
        for path in (target, *target.rglob("*")):
            shutil.chown(path, USER, USER)
        (target / ".moving/source").write_text(str(place.models))
        shutil.chown(target / ".moving/source", USER, USER)
    elif at == "after the copy":
        (place.etc / "conf.d").write_text("no folder")
    else:
        (place.models / "whisper-x").chmod(0o755)
        os.chown(place.models / "whisper-x", 0, 0)
    with pytest.raises((CtlError, OSError)):
        place.move(target)
    assert place.found(place.models) == place.files
    if at == "copy":
        obstacle.unlink()
    elif at == "after the copy":
        (place.etc / "conf.d").unlink()
    else:
        shutil.chown(place.models / "whisper-x", USER, USER)
    assert place.move(target).folder == target
    assert place.found(target) == place.files
    assert not (target / ".moving").exists()
    assert not place.models.exists()


def test_a_move_that_was_given_up_can_begin_again(place: Place) -> None:
    target = place.root / "first"
    moving.copy(place.models, target, Progress(TERMINAL))
    (target / ".moving/files/whisper-x").mkdir()
    (target / ".moving/files/whisper-x/cut").write_bytes(b"half")
    for path in (target, *target.rglob("*"), *place.models.iterdir()):
        shutil.chown(path, USER)
    place.move(place.root / "second")
    place.move(target)
    assert place.found(target) == place.files
    assert not place.found(place.root / "second")


def test_the_data_folder_of_an_instance_gets_what_its_unit_needs(place: Place) -> None:
    (place.etc / "instances").mkdir()
    (data := place.root / "gpu1").mkdir()
    (place.etc / "instances/gpu1.toml").write_text(f'data_dir = "{data}"\n')
    script = place.programs / "systemctl"
    script.write_text(re.sub("^Environment=.*", "Environment=", script.read_text(), flags=re.M))
    (place.etc / "stepaudiod.toml").write_text(f'data_dir = "{place.data}"\n')
    with pytest.raises(NotPermitted, match=f"{data} is read-only"):  # this systemd never applies a drop-in
        place.move(data)
    drop_in = (place.units / "stepaudiod@.service.d/models.conf").read_text()
    assert f"ReadWritePaths=-{data}\n" in drop_in
    assert data.stat().st_uid == pwd.getpwnam(USER).pw_uid
    assert place.found(place.models) == place.files


def test_between_file_systems_files_are_copied_and_the_space_is_checked_first(tmp_path: Path) -> None:
    source, target = tmp_path / "source", Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        (source / "whisper-x").mkdir(parents=True)
        (source / "whisper-x/weights").write_bytes(os.urandom(100_000))
        (source / "whisper-x/link").symlink_to("../../elsewhere")
        with (source / "whisper-x/huge").open("wb") as file:
            file.truncate(1 << 42)
        with pytest.raises(InsufficientSpace, match="Nothing was moved"):
            moving.copy(source, target, Progress(TERMINAL))
        assert moving.models_in(target) == []
        (source / "whisper-x/huge").unlink()
        moving.copy(source, target, Progress(TERMINAL))
        for name in ("weights", "link"):
            assert (source / "whisper-x" / name).lstat().st_dev != (
                target / "whisper-x" / name
            ).lstat().st_dev
        assert (target / "whisper-x/weights").read_bytes() == (source / "whisper-x/weights").read_bytes()
        assert os.readlink(target / "whisper-x/link") == str(tmp_path / "elsewhere")
        moving.remove_source(source, target)
        assert not source.exists()
        assert os.listdir(target) == ["whisper-x"]
    finally:
        shutil.rmtree(target)


def test_a_move_leaves_mount_points_and_what_mkfs_made(place: Place) -> None:
    disks = place.models, place.models / "whisper-disk"
    disks[1].mkdir()
    (lost := place.models / "lost+found").mkdir(mode=0o700)
    try:
        for disk in disks:
            subprocess.run(["/usr/bin/mount", "--bind", disk, disk], check=True)
        (disks[1] / "weights").write_bytes(b"w")
        for path in (disks[1], disks[1] / "weights"):
            shutil.chown(path, USER)
        assert place.move(place.root / "models").moved_bytes == 5002
        assert sorted(place.models.rglob("*")) == [lost, disks[1]]
        assert not (place.root / "models/.moving").exists()
    finally:
        for disk in reversed(disks):
            subprocess.run(["/usr/bin/umount", disk], check=False)
    assert "has no models" in place.refused(place.models)  # an empty folder isn't one


def test_a_folder_of_voices_or_of_the_cache_is_refused(place: Place) -> None:
    (place.data / "voices").mkdir()
    for target in (place.data / "voices", place.data / "voices/models", place.data / "cache/models"):
        assert "stepaudiod uses" in place.refused(target)


def test_a_target_of_root_in_the_data_folder_is_named(place: Place) -> None:
    place.move(place.root / "models")
    place.models.mkdir(mode=0o755, exist_ok=True)
    os.chown(place.models, 0, 0)
    assert f"sudo chown -R {USER}: {place.models}" in place.refused(place.models)


def test_a_read_only_file_system_is_named(place: Place, programs: Path) -> None:
    (disk := place.root / "disk").mkdir()
    subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "-o", "ro,mode=755", "none", disk], check=True)
    try:
        done = Ctl((), str(programs)).run("models", "move", str(disk / "models"))
    finally:
        subprocess.run(["/usr/bin/umount", disk], check=True)
    assert done.returncode == IncompleteModel.exit_code
    assert b"Read-only file system" in done.stderr


def test_nothing_that_has_changed_since_is_removed(tmp_path: Path) -> None:
    (weights := tmp_path / "source/whisper-x/weights").parent.mkdir(parents=True)
    weights.write_bytes(b"old")
    moving.copy(tmp_path / "source", tmp_path / "target", Progress(TERMINAL))
    (weights.parent / "new").write_bytes(b"new")
    with pytest.raises(CtlError, match="has changed since"):
        moving.remove_source(tmp_path / "source", tmp_path / "target")
    assert weights.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("srv/models", "isn't an absolute path"),
        ("/", "Name a folder"),
        ("/tmp/models", "lost or hidden"),
        ("/run/user/1000/models", "lost or hidden"),
        ("/etc/passwd", "isn't a folder"),
        ("/srv/a:b", "characters that a unit file can't have"),
        ("/usr/bin", "isn't empty, and has no models"),
    ],
)
def test_a_target_that_cannot_have_models_is_refused(place: Place, target: str, reason: str) -> None:
    assert reason in place.refused(target)


def test_a_folder_in_the_models_or_around_them_is_refused(place: Place) -> None:
    for target in (place.models / "inner", place.data, place.root):
        if target != place.data:  # naming data_dir allows the unit to use it
            assert "one has the other in it" in place.refused(target)
    (place.root / "link").symlink_to(place.models)
    assert "one has the other in it" in place.refused(place.root / "link" / "inner")


def test_a_folder_that_another_user_controls_is_refused(place: Place) -> None:
    (place.root / "home").mkdir()
    os.chown(place.root / "home", 65534, 65534)
    target = place.root / "home" / "models"
    assert "sudo install -d -m 750 -o daemon" in place.refused(target)
    target.mkdir()
    shutil.chown(target, USER)
    assert place.move(target).folder == target
    assert place.found(target) == place.files
    place.move(place.models)
    os.chown(place.data, 65534, 65534)
    os.chown(place.models, 65534, 65534)
    assert "Give them to the daemon's user" in place.refused(place.root / "models")


def test_root_s_folder_on_the_way_is_named(place: Place) -> None:
    (place.root / "shut").mkdir(mode=0o700)
    assert f"sudo chmod o+x {place.root}/shut" in place.refused(place.root / "shut" / "models")
    # the copy is made outside of the sandbox, which would show a folder there
    (Path("/root") / place.root.name).mkdir()
    try:
        assert "may not enter /root" in place.refused(Path("/root") / place.root.name / "models")
    finally:
        (Path("/root") / place.root.name).rmdir()


def test_a_data_folder_gets_what_the_unit_needs(place: Place) -> None:
    (place.etc / "conf.d").mkdir()
    place.data.rename(place.root / "other")
    place.programs.joinpath("systemctl").write_text(
        place.programs.joinpath("systemctl").read_text().replace(f"ReadWritePaths={place.data}\n", "")
    )
    with pytest.raises(NotPermitted, match="is read-only"):  # this systemd never applies a drop-in
        place.move(place.data)
    assert place.data.stat().st_uid == pwd.getpwnam(USER).pw_uid
    for unit in ("stepaudiod", "stepaudiod@"):
        text = (place.units / f"{unit}.service.d/models.conf").read_text()
        assert f"[Service]\nReadWritePaths=-{place.data}\n" in text
    assert "daemon-reload" in place.calls.read_text()


def test_instances_with_models_of_their_own_are_named(place: Place) -> None:
    (place.etc / "instances").mkdir()
    (place.etc / "instances/gpu1.toml").write_text(f'models_dir = "{place.root}/gpu1"\n')
    (place.root / "gpu1/whisper-x").mkdir(parents=True)
    (place.root / "gpu1/whisper-x/weights").touch()
    assert "stepaudiod@gpu1 has models of its own" in place.refused(place.root / "models")
    shutil.rmtree(place.root / "gpu1/whisper-x")
    place.move(place.root / "models")
    assert (place.etc / "instances/conf.d/50-models.toml").exists()


def test_a_setting_that_overrides_it_is_reported_before_anything_is_removed(place: Place) -> None:
    (place.etc / "conf.d").mkdir()
    (place.etc / "conf.d/99-site.toml").write_text(f'models_dir = "{place.models}"\n')
    with pytest.raises(CtlError, match="still uses"):
        place.move(place.root / "models")
    assert place.found(place.models) == place.files


def test_without_the_unit_the_setting_is_named(place: Place) -> None:
    add_program(place.programs, "systemctl", "echo no systemd here >&2; exit 1")
    assert "set models_dir" in place.refused(place.root / "models")


def test_another_user_is_told_to_use_sudo(programs: Path) -> None:
    with pytest.raises(NotPermitted, match="sudo stepaudioctl models move '/srv/my models'"):
        with_rights_of(65534, 65534, [], lambda: Move(Path("/srv/my models"), TERMINAL).run())
    assert Ctl((), str(programs)).run("models", "move", "here").returncode == WrongUsage.exit_code
