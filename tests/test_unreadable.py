"""Folders and files that the daemon's user may not read, or of the wrong kind."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from stepaudiod.editx.checkpoint.layout import Checkpoint
from tests.activation import DaemonProcess
from tests.checkpoints import write_checkpoint
from tests.web.conftest import wav

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a daemon of another user")

DAEMON = 64001
AS_DAEMON = ("setpriv", f"--reuid={DAEMON}", f"--regid={DAEMON}", "--clear-groups")
TONE = wav(np.sin(np.arange(48_000, dtype=np.float32) / 20) / 4)
SPEECH = {"model": "hibari", "voice": "heart", "input": "One.", "response_format": "pcm"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the smallest checkpoint and a voice."""
    data = tmp_path_factory.mktemp("tree") / "data"
    write_checkpoint(data / "models")
    (data / "voices" / "mei").mkdir(parents=True)
    voice = {"id": "mei", "name": "Mei", "transcript": "", "consent": "hers", "created": 1}
    (data / "voices" / "mei" / "voice.json").write_text(json.dumps(voice))
    return data


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="unreadable-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def data(tree: Path, place: Path) -> Path:
    """A copy of the tree that every user may read."""
    copied = Path(shutil.copytree(tree, place / "data"))
    for path in copied.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return copied


Start = Callable[..., DaemonProcess]


@pytest.fixture
def start(place: Path) -> Iterator[Start]:
    """Start the daemon as another user, with its own cache."""
    started: list[DaemonProcess] = []

    def start(settings: dict[str, object], within: tuple[str, ...] = (), **environ: str) -> DaemonProcess:
        (place / "cache").mkdir()
        os.chown(place / "cache", DAEMON, DAEMON)
        (folder := place / "daemon").mkdir()
        defaults = {"engine": "auto", "cache_dir": place / "cache"}
        before = os.umask(0)  # the socket for its messages has to let that user write
        daemon = DaemonProcess(folder, defaults | settings, within=(*within, *AS_DAEMON), environ=environ)
        os.umask(before)
        started.append(daemon)
        daemon.notify.wait_for("READY=1")
        return daemon

    yield start
    for daemon in started:
        daemon.end()


def models_shut(data: Path) -> str:
    (data / "models").chmod(0o700)
    return f"may not read {data}/models (mode 0700). To mend it: sudo chown -R {DAEMON}: {data}/models"


def data_shut(data: Path) -> str:
    data.chmod(0o700)
    return f"may not enter {data} (mode 0700). To mend it: sudo chmod o+x {data}"


def voices_shut(data: Path) -> str:
    (data / "voices").chmod(0o700)
    return f"may not read {data}/voices (mode 0700). To mend it: sudo chown -R {DAEMON}: {data}/voices"


def weights_shut(data: Path) -> str:
    Checkpoint(data / "models").flow.chmod(0o600)
    return f"may not read {Checkpoint(data / 'models').flow} (mode 0600). To mend it: sudo chown {DAEMON}: "


def index_is_a_folder(data: Path) -> str:
    index = Checkpoint(data / "models").model / "model.safetensors.index.json"
    index.unlink()
    index.mkdir()
    return "is no readable JSON: [Errno 21] Is a directory"


def index_is_a_list(data: Path) -> str:
    index = Checkpoint(data / "models").model / "model.safetensors.index.json"
    index.write_text('{"weight_map": [1]}')
    return "expected a weight_map of file names"


def data_is_a_file(data: Path) -> str:
    shutil.rmtree(data)
    data.write_text("mine")
    return "can't be read: Not a directory"


def models_is_a_file(data: Path) -> str:
    shutil.rmtree(data / "models")
    (data / "models").write_text("mine")
    return "can't be read: Not a directory"


def voices_is_a_file(data: Path) -> str:
    shutil.rmtree(data / "voices")
    (data / "voices").write_text("mine")
    return f"{data}/voices can't be read: Not a directory"


def voices_is_a_link_to_nothing(data: Path) -> str:
    shutil.rmtree(data / "voices")
    (data / "voices").symlink_to(data / "nothing")
    return ""


def model_is_not_there(data: Path) -> str:
    shutil.rmtree(Checkpoint(data / "models").model)
    return "isn't there; run `stepaudioctl models pull step-audio-editx`"


def configuration_is_broken(data: Path) -> str:
    Checkpoint(data / "models").config.write_text("{")
    return "config.json is no readable JSON"


def header_is_broken(data: Path) -> str:
    (Checkpoint(data / "models").model / "model-00001.safetensors").write_bytes(
        (11).to_bytes(8, "little") + b'{"a": [[1]]}'
    )
    return "is no safetensors file"


def links_go_in_a_circle(data: Path) -> str:
    model = Checkpoint(data / "models").model
    shutil.rmtree(model)
    model.symlink_to(model)
    return "Too many levels of symbolic links"


WITHOUT_VOICES = (data_shut, voices_shut, data_is_a_file, voices_is_a_file)


@pytest.mark.parametrize(
    "damage",
    [
        models_shut,
        *(
            pytest.param(damage, marks=pytest.mark.slow)
            for damage in (
                data_shut,
                voices_shut,
                data_is_a_file,
                models_is_a_file,
                voices_is_a_file,
                model_is_not_there,
                weights_shut,
                index_is_a_folder,
                index_is_a_list,
                configuration_is_broken,
                header_is_broken,
                links_go_in_a_circle,
            )
        ),
    ],
)
def test_an_unreadable_engine_says_why_and_the_others_serve(
    start: Start, data: Path, damage: Callable[[Path], str]
) -> None:
    expected = damage(data)
    daemon = start({"data_dir": data, "idle_timeout": 2})
    with daemon.client() as client:
        assert client.get("/healthz").status_code == 200
        assert "hibari" in [model["id"] for model in client.get("/v1/models").json()["data"]]
        refused = client.get("/v1/models/step-audio-editx")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
        assert expected in refused.json()["error"]["message"]
        assert client.get("/api/v1/models/status").status_code == 200
        listed = client.get("/v1/audio/voices")
        assert listed.status_code == (503 if damage in WITHOUT_VOICES else 200)
        assert client.post("/v1/audio/speech", json=SPEECH).status_code == 200
    assert daemon.wait() == 0
    assert "Traceback" not in daemon.log()


@pytest.mark.slow
@pytest.mark.parametrize("damage", [data_is_a_file, voices_is_a_file, voices_is_a_link_to_nothing])
def test_voices_that_have_no_folder_are_refused_with_its_name(
    start: Start, data: Path, damage: Callable[[Path], str]
) -> None:
    damage(data)
    daemon = start({"data_dir": data, "idle_timeout": 2})
    form = {"name": "Mei", "consent": "hers", "transcript": "Hello."}
    with daemon.client() as client:
        for refused in (
            client.post("/v1/audio/voices", data=form, files={"audio_sample": ("a.wav", TONE, "audio/wav")}),
            *([] if damage is voices_is_a_link_to_nothing else [client.delete("/v1/audio/voices/mei")]),
        ):
            assert refused.status_code == 503, refused.text
            assert f"can't use {data}" in refused.json()["error"]["message"]
    assert daemon.wait() == 0
    assert "Traceback" not in daemon.log()


def test_a_home_of_another_user_and_no_cache_leave_what_needs_neither(start: Start, place: Path) -> None:
    home = place / "home"
    home.mkdir(mode=0o700)
    daemon = start({"cache_dir": "auto", "idle_timeout": 2, "data_dir": "auto"}, HOME=str(home))
    with daemon.client() as client:
        assert client.post("/v1/audio/speech", json=SPEECH).status_code == 200
        refused = client.post("/v1/audio/speech", json=SPEECH | {"model": "kokoro", "voice": "alloy"})
        assert refused.status_code == 503
        message = refused.json()["error"]["message"]
        assert "cache folder must be writable" in message
        assert f"may not enter {home} (mode 0700). To mend it: sudo chmod o+x {home}" in message
        assert client.get("/").status_code == 200
    assert daemon.wait() == 0
    assert "Traceback" not in daemon.log()


def test_a_folder_that_stops_the_way_is_named_with_its_mend(start: Start, data: Path, place: Path) -> None:
    """Root's 0700 above the data folder, the folder of the cache, and a file of the configuration."""
    shut = place / "shut"
    shut.mkdir(mode=0o700)
    data.rename(shut / "data")
    daemon = start({"data_dir": shut / "data", "cache_dir": shut / "cache", "idle_timeout": 2})
    mend = f"may not enter {shut} (mode 0700). To mend it: sudo chmod o+x {shut}"
    form = {"name": "Mei", "consent": "hers", "transcript": "Hello."}
    with daemon.client() as client:
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert mend in ready.json()["why"]
        assert [each for each in ready.json()["problems"] if mend in each] == ready.json()["problems"]
        assert mend in client.get("/api/v1/models/status").json()["daemon"]["reason"]
        sample = {"audio_sample": ("a.wav", TONE, "audio/wav")}
        refused = client.post("/v1/audio/voices", data=form, files=sample)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
        assert mend in refused.json()["error"]["message"]
        shut.chmod(0o755)
        assert "may not enter" not in client.get("/readyz").text
    assert daemon.wait() == 0
    assert mend in daemon.log()


def test_a_link_to_a_folder_that_may_not_be_entered(start: Start, data: Path, place: Path) -> None:
    (place / "shut").mkdir(mode=0o700)
    (data / "models").rename(place / "shut" / "models")
    (data / "models").symlink_to("../shut/models")
    daemon = start({"data_dir": data, "engine": "step-audio-editx", "idle_timeout": 1})
    with daemon.client() as client:
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert f"may not enter {place}/shut (mode 0700)" in ready.json()["reasons"][0]
    assert daemon.wait() == 0


def test_errors_at_startup_are_answered_with_their_reason(start: Start) -> None:
    """A user without a passwd(5) entry and without HOME has no home folder."""
    daemon = start({"cache_dir": "auto", "data_dir": "auto"}, ("env", "--unset=HOME"))
    for path in ("/healthz", "/v1/models", "/"):
        with daemon.client() as client:
            answer = client.get(path)
        assert answer.status_code == 503
        assert "can't start. RuntimeError: Could not determine home" in answer.json()["error"]["message"]
    assert daemon.wait() == 0
    assert daemon.log().count("Traceback") == 1


def test_unreadable_keys_are_reported(start: Start, place: Path) -> None:
    shut = place / "etc"
    shut.mkdir(mode=0o700)
    daemon = start({"access.keys_file": shut / "api-keys", "access.auth": "keys", "idle_timeout": 1})
    with daemon.client() as client:
        assert client.get("/v1/models").status_code == 503
    assert daemon.wait() == 0
    assert "can't be read: Permission denied" in daemon.log()
