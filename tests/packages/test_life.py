"""The packages in a Debian without a network, from installation to purge. The tests depend on their order."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest

from stepaudiod import __version__
from tests.packages.repository import Repository
from tests.packages.steps import (
    SERVICE,
    SOCKET,
    SPEECH,
    fall_asleep,
    install,
    running_version,
    snapshot,
    speak,
    under_load,
)
from tests.systemd.machine import TCP4, Machine

OVERRIDE = "/etc/systemd/system/stepaudiod.socket.d/override.conf"
"""What `systemctl edit stepaudiod.socket` writes."""
INSTALL_S = 45
"""What an installation with voices may take."""


@pytest.fixture(scope="module", autouse=True)
def before(machine: Machine) -> dict[str, str]:
    """Every file of the machine, and the users' and groups' files."""
    return snapshot(machine)


@pytest.fixture
def short_sleep(machine: Machine) -> Iterator[None]:
    """A daemon with an idle timeout of one second."""
    machine.write("/etc/stepaudiod/conf.d/90-test.toml", "idle_timeout = 1\n")
    yield
    machine.remove("/etc/stepaudiod/conf.d/90-test.toml")


def test_it_installs_without_a_network_and_without_pip(machine: Machine, repository: Repository) -> None:
    assert machine.run("python3", "-m", "pip", "--version", check=False).returncode != 0
    start = time.monotonic()

    install(machine, "stepaudiod")

    took_s = time.monotonic() - start
    print(f"installed in {took_s:.1f} s")
    assert took_s < INSTALL_S
    status = machine.run(
        "dpkg-query", "--show", "--showformat=${Package} ${db:Status-Abbrev}\n", "stepaudiod*"
    )
    for package in ("stepaudiod", "stepaudiod-runtime-lite", "stepaudiod-voices"):
        assert f"{package} ii" in status.stdout
    assert machine.run("dpkg", "--audit").stdout == ""


def test_the_sockets_listen_and_nothing_runs(machine: Machine) -> None:
    assert machine.show(SOCKET, "ActiveState") == "active"
    assert machine.show(SOCKET, "UnitFileState") == "enabled"
    assert machine.show("stepaudiod-api.socket", "ActiveState") == "inactive"
    assert machine.show(SERVICE, "ActiveState") == "inactive"
    assert machine.processes(SERVICE) == []


def test_the_first_connection_is_answered(machine: Machine) -> None:
    start = time.monotonic()
    assert machine.request("GET", "/healthz").status == 200
    print(f"connect to /healthz: {time.monotonic() - start:.3f} s")
    assert len(machine.processes(SERVICE)) == 1
    machine.systemctl("stop", SERVICE)


def test_its_bytecode_comes_with_it(machine: Machine) -> None:
    """Bytecode can't be written to a read-only /usr."""
    modules = "stepaudiod.daemon", "uvicorn", "jieba"
    program = f"import {', '.join(modules)}, sys; print(*(sys.modules[m].__cached__ for m in {modules}))"
    done = machine.run("/usr/lib/stepaudiod/venv/bin/python3", "-B", "-c", program)

    for path in done.stdout.split():
        assert machine.path(path).exists(), path


@pytest.mark.usefixtures("short_sleep")
def test_a_connection_wakes_it_and_it_speaks_and_sleeps_again(machine: Machine) -> None:
    done = machine.run(
        *("curl", "-sS", "http://127.0.0.1:7860/v1/audio/speech", "-d", SPEECH.decode()),
        *("-o", "/run/hello.mp3", "-w", "%{http_code} %{content_type} %{size_download}"),
    )
    status, kind, size = done.stdout.split()

    assert (status, kind) == ("200", "audio/mpeg")
    assert int(size) > 5_000
    fall_asleep(machine)


@pytest.mark.usefixtures("short_sleep")
def test_the_page_comes_with_its_scripts(machine: Machine) -> None:
    def scripts() -> list[str]:
        page = machine.request("GET", "/", timeout_s=60)
        assert page.status == 200
        return re.findall(r'(?:src|href)="\.?(/[^":]+\.(?:js|css))"', page.body.decode())

    found = machine.wait_until(
        scripts, "the page is there, and no longer the one that says wait", timeout_s=60
    )
    for path in found:
        assert machine.request("GET", path).status == 200, path
    fall_asleep(machine)


@pytest.mark.usefixtures("short_sleep")
def test_the_voices_package_speaks_chinese_over_the_unix_socket(machine: Machine) -> None:
    machine.run(
        *("stepaudioctl", "say", "你好，世界。Version 2.", "--voice", "zf_xiaoxiao", "-o", "/run/hello.wav"),
    )

    assert machine.path("/run/hello.wav").stat().st_size > 20_000
    fall_asleep(machine)


def test_an_upgrade_while_awake_loses_no_request(machine: Machine, repository: Repository) -> None:
    assert speak(machine).status == 200
    later = repository.add_later(
        "stepaudiod", {"usr/lib/stepaudiod/stepaudiod/__init__.py": (__version__, "9.1")}
    )
    before, sockets = machine.main_process(SERVICE), machine.show(SOCKET, "InvocationID")
    machine.run("apt-get", "update")
    reports = ("/var/cache/stepaudiod/Microsoft", "/var/lib/stepaudiod/.cache/Microsoft")
    for folder in reports:
        machine.run(
            "runuser", "-u", "_stepaudio", "--", "mkdir", "-p", f"{folder}/DeveloperTools/.onnxruntime"
        )

    statuses = under_load(machine, lambda: install(machine, f"stepaudiod={later}"))

    assert set(statuses) == {200}
    print(f"{len(statuses)} requests")
    assert running_version(machine) == "9.1"
    assert machine.main_process(SERVICE) not in (0, before)
    assert machine.show(SOCKET, "InvocationID") == sockets
    assert not [folder for folder in reports if machine.path(folder).exists()]


def test_a_new_runtime_and_voices_while_awake_lose_no_request(
    machine: Machine, repository: Repository
) -> None:
    heavy = ("stepaudiod-runtime-lite", "stepaudiod-voices")
    versions = [f"{package}={repository.add_later(package)}" for package in heavy]
    before = machine.main_process(SERVICE)
    machine.run("apt-get", "update")

    statuses = under_load(machine, lambda: install(machine, *versions))

    assert set(statuses) == {200}
    print(f"{len(statuses)} requests")
    assert machine.main_process(SERVICE) not in (0, before)


@pytest.mark.parametrize("package", ["stepaudiod", "stepaudiod-runtime-lite", "stepaudiod-voices"])
def test_an_upgrade_that_fails_leaves_it_serving(
    machine: Machine, repository: Repository, package: str
) -> None:
    broken = repository.add_later(package, is_broken=True)
    machine.run("apt-get", "update")

    failed = machine.run("apt-get", "install", "--yes", f"{package}={broken}", check=False, timeout_s=120)

    assert failed.returncode != 0
    assert speak(machine).status == 200
    assert not machine.path("/run/stepaudiod-upgrade").exists()
    assert machine.run("dpkg", "--audit").stdout == ""
    repository.remove(package, broken)
    machine.run("apt-get", "update")


@pytest.mark.usefixtures("short_sleep")
def test_an_upgrade_while_asleep_wakes_nothing(machine: Machine, repository: Repository) -> None:
    machine.systemctl("reload", SERVICE)
    fall_asleep(machine)
    sockets = machine.show(SOCKET, "InvocationID")
    later = repository.add_later(
        "stepaudiod", {"usr/lib/stepaudiod/stepaudiod/__init__.py": (__version__, "9.2")}
    )
    machine.run("apt-get", "update")
    mark = machine.journal.mark()

    install(machine, f"stepaudiod={later}")

    assert machine.journal.since(mark, UNIT=SERVICE) == []
    assert machine.processes(SERVICE) == []
    assert machine.show(SOCKET, "InvocationID") == sockets
    assert running_version(machine) == "9.2"


def test_a_downgrade_keeps_what_was_configured(machine: Machine, repository: Repository) -> None:
    machine.write("/etc/stepaudiod/stepaudiod.toml", "idle_timeout = 2\n")

    install(
        machine, "-o", "Dpkg::Options::=--force-confold", f"stepaudiod={repository.version('stepaudiod')}"
    )

    assert machine.path("/etc/stepaudiod/stepaudiod.toml").read_text() == "idle_timeout = 2\n"
    assert running_version(machine) == __version__
    fall_asleep(machine)


def test_a_pin_holds_a_version(machine: Machine, repository: Repository) -> None:
    first = repository.version("stepaudiod")
    pin = f"Package: stepaudiod\nPin: version {first}\nPin-Priority: 1001\n"
    machine.write("/etc/apt/preferences.d/stepaudiod", pin)

    machine.run("apt-get", "upgrade", "--yes", timeout_s=120)

    assert f"Installed: {first}\n" in machine.run("apt-cache", "policy", "stepaudiod").stdout
    machine.remove("/etc/apt/preferences.d/stepaudiod")


def test_a_modified_repository_is_refused(machine: Machine, repository: Repository) -> None:
    index = repository.signed
    sound = index.read_text()
    try:
        index.write_text(sound.replace("Label: stepaudiod", "Label: stepaudioD"))
        refused = machine.run("apt-get", "update", "--error-on=any", check=False)
    finally:
        index.write_text(sound)
    assert refused.returncode != 0
    assert "signature" in refused.stderr.lower()


def test_its_manual_pages_and_completions_are_there(machine: Machine) -> None:
    listed = machine.run("dpkg-query", "--listfiles", "stepaudiod").stdout
    for path in (
        "/usr/share/man/man8/stepaudiod.8.gz",
        "/usr/share/man/man1/stepaudioctl.1.gz",
        "/usr/share/man/man5/stepaudiod.toml.5.gz",
        "/usr/share/bash-completion/completions/stepaudioctl",
        "/usr/share/zsh/vendor-completions/_stepaudioctl",
        "/usr/share/fish/vendor_completions.d/stepaudioctl.fish",
    ):
        assert path in listed


def test_the_doctor_finds_it_well_and_asleep(machine: Machine) -> None:
    fall_asleep(machine)
    report = json.loads(machine.run("stepaudioctl", "doctor", "--json").stdout)

    found = {finding["subject"]: finding for finding in report["findings"]}
    assert report["is_well"]
    assert found[SERVICE]["text"].startswith("asleep")
    assert found["engine"]["text"].startswith('"auto" selects kokoro')
    assert machine.processes(SERVICE) == []


def test_the_doctor_reports_unknown_without_permissions(machine: Machine) -> None:
    done = machine.run("stepaudioctl", "doctor", "--json", user="nobody", check=False)

    found = {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 6
    assert "usermod -aG _stepaudio" in found["/run/stepaudiod.sock"]["advice"]
    assert found["model files"]["level"] == "unknown"
    assert machine.processes(SERVICE) == []


def test_an_upgrade_leaves_no_files(machine: Machine) -> None:
    assert not machine.path("/run/stepaudiod-upgrade").exists()
    assert not machine.path("/run/systemd/system/stepaudiod.service.d").exists()
    assert machine.show(SERVICE, "NeedDaemonReload") == "no"
    assert machine.show(SERVICE, "ExecStartPre") == ""


def test_removing_the_package_keeps_configuration_and_state(machine: Machine) -> None:
    assert machine.request("GET", "/healthz").status == 200
    machine.write("/var/lib/stepaudiod/voices/mine.wav", "a voice of a user")
    machine.write(OVERRIDE, "[Socket]\nBacklog=99\n")
    machine.systemctl("enable", "--now", "stepaudiod@other.socket")

    machine.run("apt-get", "remove", "--yes", "stepaudiod", "stepaudiod-runtime-lite", "stepaudiod-voices")

    assert machine.systemctl("list-units", "--plain", "--no-legend", "--state=active", "stepaudiod*") == ""
    assert machine.processes(SERVICE) == []
    with pytest.raises(OSError, match="refused"):
        machine.connect(TCP4)
    assert machine.path("/etc/stepaudiod/stepaudiod.toml").exists()
    assert machine.path("/var/lib/stepaudiod/voices/mine.wav").exists()
    assert not machine.path("/usr/lib/stepaudiod").exists()


def test_reinstalling_restores_everything(machine: Machine) -> None:
    install(machine, "stepaudiod")

    assert machine.show(SOCKET, "Backlog") == "99"
    assert machine.path("/etc/stepaudiod/stepaudiod.toml").read_text() == "idle_timeout = 2\n"
    assert machine.path("/var/lib/stepaudiod/voices/mine.wav").exists()
    assert machine.processes(SERVICE) == []
    assert speak(machine).status == 200
    fall_asleep(machine)


def test_a_purge_keeps_voices_models_drop_ins_and_file_systems(machine: Machine) -> None:
    machine.run("mkdir", "-p", "/var/lib/stepaudiod/models/disk")
    machine.run("mount", "-t", "tmpfs", "disk", "/var/lib/stepaudiod/models/disk")
    machine.write("/var/lib/stepaudiod/models/disk/weights", "on another file system")
    machine.write("/etc/stepaudiod/conf.d/mine.toml", "idle_timeout = 1\n")
    others = ("/var/lib/stepaudiod/gpu1/voices/hers.wav", "/var/lib/stepaudiod/weights/whisper-x/weights")
    for path in others:
        machine.write(path, "below data_dir of an instance, or in models_dir")

    done = machine.run("apt-get", "purge", "--yes", "stepaudiod")
    said = done.stdout + done.stderr

    assert "models and voices are kept in /var/lib/stepaudiod" in said
    assert f"{OVERRIDE.rpartition('/')[0]} was left as it is" in said
    assert machine.path("/var/lib/stepaudiod/voices/mine.wav").exists()
    assert machine.path("/var/lib/stepaudiod/models/disk/weights").exists()
    assert all(machine.path(path).exists() for path in others)
    assert machine.path(OVERRIDE).exists()
    assert "deleted /etc/stepaudiod/conf.d/mine.toml" in said
    assert not machine.path("/etc/stepaudiod").exists()
    assert not machine.path("/var/cache/stepaudiod").exists()


def test_what_a_purge_kept_is_used_again(machine: Machine) -> None:
    install(machine, "stepaudiod")

    assert machine.run("stat", "--format=%U", "/var/lib/stepaudiod").stdout == "_stepaudio\n"
    assert speak(machine).status == 200
    assert machine.path("/var/lib/stepaudiod/voices/mine.wav").exists()


def test_a_purge_that_may_delete_all_leaves_the_account_only(
    machine: Machine, before: dict[str, str]
) -> None:
    machine.run("debconf-set-selections", stdin="stepaudiod stepaudiod/purge-data boolean true\n")

    machine.run("apt-get", "purge", "--yes", "--autoremove", "stepaudiod")

    assert machine.path("/var/lib/stepaudiod/models/disk/weights").exists()
    machine.run("umount", "/var/lib/stepaudiod/models/disk")
    for path in ("/var/lib/stepaudiod", "/etc/systemd/system/stepaudiod.socket.d"):
        machine.remove(path)
    after = snapshot(machine)
    left = [name for name, what in after.items() if before.get(name) != what]
    assert all("_stepaudio" in name for name in left), left  # the account, and its place in the group video
    assert not list(machine.path("/run").glob("stepaudiod*"))
