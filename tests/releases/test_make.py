"""The README's first steps on a bare root: git, make, a clone, `make run`, speech; then `make test`."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.releases.conftest import HOME, USER, Release

pytestmark = [pytest.mark.systemd, pytest.mark.slow]

INSTALL_S = 1800.0
TESTS_S = 5400.0
DEADLINE_S = 180.0
ASLEEP = "asleep until the next connection"
SENTENCES = {"en": "Hello. I was asleep until you called.", "zh": "你好。我一直在睡觉，直到你来。"}
SOCKET = f"{HOME}/stepaudiod.sock"


@dataclass
class Running:
    """`make run` and its output.

    Attributes:
        release: where it runs.
        process: it, seen from the host.
        port: where it listens.
    """

    release: Release
    process: subprocess.Popen[bytes]
    port: int
    lines: list[str] = field(default_factory=list)
    _grown: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._grown:
                self.lines.append(line.decode())
                self._grown.notify_all()
        with self._grown:
            self.lines.append("")
            self._grown.notify_all()

    def end(self) -> None:
        """Wait until all its processes have exited."""
        self._thread.join(DEADLINE_S)

    def count(self, text: str) -> int:
        return sum(text in line for line in self.lines)

    def wait_for(self, text: str, count: int = 1, timeout_s: float = DEADLINE_S) -> None:
        """Wait until that many lines contain the text, or the process has exited."""
        with self._grown:
            self._grown.wait_for(lambda: self.count(text) >= count or self.lines[-1:] == [""], timeout_s)
            assert self.count(text) >= count, "".join(self.lines[-60:])

    def speak(self, language: str, over: str) -> None:
        """Speak the README's sentence to a WAV file."""
        body = json.dumps(
            {"model": "tts-1", "voice": "alloy", "input": SENTENCES[language], "response_format": "wav"}
        )
        self.release.run(f"curl -sS --fail-with-body {over}/v1/audio/speech -d '{body}' -o {language}.wav")


@pytest.fixture(scope="module")
def running(release: Release) -> Iterator[Running]:
    """Install everything and run a daemon with an idle timeout of one second."""
    release.run("sudo apt-get -qq update && sudo apt-get -qq -y install git make", timeout_s=INSTALL_S)
    release.run("git clone --quiet stepaudiod.bundle stepaudiod")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    script = (
        f"cd stepaudiod; exec setsid --wait make run LISTEN=127.0.0.1:{port} SOCKET={SOCKET} "
        "STEPAUDIOD_IDLE_TIMEOUT=1 2>&1"
    )
    with release.machine.spawn(*release.command(script), user="reader") as process:
        made = Running(release, process, port)
        made.wait_for(f"listening on 127.0.0.1:{port}, {SOCKET}", timeout_s=INSTALL_S)
        yield made
        process.kill()
        made.end()


@pytest.mark.parametrize("language", SENTENCES)
@pytest.mark.parametrize("over_unix", [False, True], ids=["tcp", "unix"])
def test_it_speaks(running: Running, language: str, over_unix: bool) -> None:
    over = f"--unix-socket {SOCKET} http://localhost" if over_unix else f"http://127.0.0.1:{running.port}"
    running.speak(language, over)
    size = int(running.release.run(f"head -c 4 {language}.wav | grep -q RIFF; stat -c %s {language}.wav"))
    assert size > 24_000 * 2 * 1.5, "at least a second and a half"
    if language == "en":
        heard = running.release.run(
            f"curl -sS --fail-with-body http://127.0.0.1:{running.port}/v1/audio/transcriptions "
            "-F model=whisper-1 -F file=@en.wav"
        )
        assert "asleep" in json.loads(heard)["text"].lower()


def test_no_connection_is_refused_while_daemons_come_and_go(running: Running) -> None:
    """Bursts of connections during the exit, the pause and the next start."""
    for _ in range(3):
        exits = running.count(ASLEEP)  # before the request: the daemon may exit before curl has ended
        running.release.run(f"curl -sS --fail-with-body http://127.0.0.1:{running.port}/healthz")
        running.wait_for(ASLEEP, exits + 1)
        for _ in range(300):
            running.release.machine.connect(("127.0.0.1", running.port)).close()


def test_ctrl_c_ends_all_of_it(running: Running) -> None:
    """The last test with it: the whole process group gets the signal, as from a terminal."""
    machine = running.release.machine
    running.speak("en", f"http://127.0.0.1:{running.port}")
    find = "grep -l 'stepaudiod[.]activate' /proc/[0-9]*/cmdline | sed 's/[^0-9]*//g' | head -1"
    activator = machine.run("sh", "-c", find).stdout.strip()
    group = machine.run("cut", "-d ", "-f5", f"/proc/{activator}/stat").stdout.strip()
    machine.run("bash", "-c", f"kill -INT -- -{group}")
    running.process.wait(DEADLINE_S)
    left = machine.run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '", check=False).stdout
    assert "-m stepaudiod" not in left
    assert not machine.path(SOCKET).exists()


def test_the_part_of_the_tests_for_this_release_passes(release: Release, running: Running) -> None:
    del running  # what it has installed is here
    if release.suite == "bookworm":
        pytest.skip("on Debian 12 that part is all of them, which continuous integration runs")
    script = "cd stepaudiod; exec make test-all PYTEST='-q -p no:cacheprovider' 2>&1"
    done = release.machine.run(*release.command(script), user=USER, check=False, timeout_s=TESTS_S)
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stdout[-8000:]
