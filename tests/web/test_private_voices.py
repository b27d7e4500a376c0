"""Voices that only the API key that made them may use."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.activation import DaemonProcess
from tests.conftest import StartDaemon
from tests.web.conftest import hum, wav

HUM = wav(hum())
KEYS = {"alice": "sk-alice", "bob": "sk-bob"}


@pytest.fixture(scope="module")
def settings(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Two keys, and a data folder with the smallest checkpoint."""
    folder = tmp_path_factory.mktemp("private")
    keys = folder / "keys"
    keys.write_text("".join(f"{n}:{hashlib.sha256(k.encode()).hexdigest()}\n" for n, k in KEYS.items()))
    (folder / "data").mkdir()
    (folder / "data" / "models").symlink_to(data / "models")
    return {
        "engine": "auto",
        "threads": 1,
        "data_dir": folder / "data",
        "step_audio.dtype": "fp32",
        "step_audio.check_output": "false",
        "access.keys_file": keys,
        "access.private_voices": "true",
    }


@pytest.fixture(scope="module")
def daemon(start_module_daemon: StartDaemon, settings: dict[str, object]) -> DaemonProcess:
    return start_module_daemon(settings)


def client_of(daemon: DaemonProcess, name: str) -> httpx.Client:
    """A client with that key; "" sends none."""
    client = daemon.client()
    if name:
        client.headers["Authorization"] = f"Bearer {KEYS[name]}"
    return client


@pytest.fixture(scope="module")
def clients(daemon: DaemonProcess) -> Iterator[dict[str, httpx.Client]]:
    made = {name: client_of(daemon, name) for name in ("alice", "bob", "")}
    yield made
    for client in made.values():
        client.close()


def make(client: httpx.Client, name: str) -> str:
    form = {"name": name, "consent": "mine", "transcript": "a hum"}
    answer = client.post("/v1/audio/voices", data=form, files={"audio_sample": ("hum.wav", HUM)})
    return str(answer.raise_for_status().json()["id"])


def listed(client: httpx.Client) -> set[str]:
    voices = client.get("/v1/audio/voices").raise_for_status().json()["data"]
    return {voice["id"] for voice in voices if voice["type"] == "audio_sample"}


def speak(client: httpx.Client, voice: str, path: str = "/v1/audio/speech", **more: object) -> httpx.Response:
    form = {"model": "step-audio-editx", "voice": voice, "input": "Hi there.", "seed": 1} | more
    return client.post(path, json={**form, "response_format": "wav"}, timeout=300)


@pytest.fixture(scope="module")
def hers(clients: dict[str, httpx.Client]) -> str:
    return make(clients["alice"], "Aunt Mei")


@pytest.fixture(scope="module")
def shared(clients: dict[str, httpx.Client]) -> str:
    return make(clients[""], "Town Crier")


@pytest.mark.slow
def test_the_key_that_made_a_voice_has_it_in_every_list_and_speaks_with_it(
    clients: dict[str, httpx.Client], hers: str, shared: str
) -> None:
    alice = clients["alice"]
    assert {hers, shared} <= listed(alice)
    assert re.fullmatch("aunt-mei-[0-9a-f]{8}", hers)
    speakers = alice.get("/v1/voices", params={"model": "step-audio-editx"}).json()
    assert {hers, shared} <= {each["id"] for each in speakers}
    assert alice.get(f"/v1/audio/voices/{hers}/recording").content == HUM
    assert speak(alice, hers).headers["X-StepAudio-Voice"] == hers
    assert speak(alice, "Aunt Mei").headers["X-StepAudio-Voice"] == hers
    old = speak(alice, hers, step_audio={"mode": "clone"})
    assert (old.status_code, old.headers["X-StepAudio-Voice"]) == (200, hers)


@pytest.mark.parametrize("other", ["bob", ""])
def test_for_other_keys_a_private_voice_does_not_exist(
    clients: dict[str, httpx.Client], hers: str, shared: str, other: str
) -> None:
    client, absent = clients[other], "aunt-mei-00000000"
    assert shared in listed(client)
    asked: list[Callable[[str], httpx.Response]] = [
        lambda id: client.get(f"/v1/audio/voices/{id}"),
        lambda id: client.get(f"/v1/audio/voices/{id}/recording"),
        lambda id: client.delete(f"/v1/audio/voices/{id}"),
        lambda id: speak(client, id),
        lambda id: speak(client, id, model="step-audio-editx-int8"),
        lambda id: speak(client, id, model="tts-1"),
        lambda id: speak(client, id, step_audio={"mode": "clone"}),
        lambda id: speak(client, id, step_audio={"mode": "clone", "edit_info": "happy"}),
    ]
    for ask in asked:
        of_hers, of_none = ask(hers), ask(absent)
        assert of_hers.status_code == of_none.status_code
        assert of_hers.status_code in (400, 404)
        assert of_hers.text.replace(hers, absent) == of_none.text
    for path in ("/v1/audio/voices", "/v1/voices", "/v1/voices?model=step-audio-editx", "/v1/models",
                 "/api/v1/models/status", "/page/state", "/openapi.json", "/metrics", "/readyz"):  # fmt: skip
        assert "aunt-mei-" not in client.get(path).text
    assert "Aunt Mei" not in speak(client, "missing").text


@pytest.mark.slow
def test_two_keys_may_give_the_same_name_and_one_key_may_not(
    clients: dict[str, httpx.Client], hers: str
) -> None:
    his, common = make(clients["bob"], "Aunt Mei"), make(clients[""], "Aunt Mei")
    assert len({hers, his, common}) == 3
    assert common == "aunt-mei"
    again = {"name": "aunt mei", "consent": "mine", "transcript": "a hum"}
    for name, mine in (("alice", hers), ("bob", his), ("", common)):
        files = {"audio_sample": ("hum.wav", HUM)}
        refused = clients[name].post("/v1/audio/voices", data=again, files=files)
        assert refused.status_code == 400
        assert mine in refused.json()["error"]["message"]
    assert speak(clients["bob"], his).status_code == 200
    assert clients["bob"].delete(f"/v1/audio/voices/{his}").status_code == 200
    assert hers in listed(clients["alice"])


def test_a_key_is_used_over_the_unix_socket_too(daemon: DaemonProcess, hers: str) -> None:
    transport = httpx.HTTPTransport(uds=daemon.unix_path)
    with httpx.Client(base_url="http://localhost", transport=transport) as client:
        assert hers not in listed(client)
        client.headers["Authorization"] = f"Bearer {KEYS['alice']}"
        assert hers in listed(client)


def test_a_voice_without_an_owner_is_public_and_a_damaged_one_is_hidden(
    clients: dict[str, httpx.Client], settings: dict[str, object], hers: str
) -> None:
    voices = Path(str(settings["data_dir"])) / "voices"
    old = json.loads((voices / hers / "voice.json").read_text())
    assert old.pop("owner") == "alice"
    (voices / "old").mkdir()
    (voices / "old" / "voice.json").write_text(json.dumps(old))
    (voices / "old" / "reference.wav").write_bytes(HUM)
    assert all("old" in listed(client) for client in clients.values())
    (voices / "broken").mkdir()
    (voices / "broken" / "voice.json").write_text("{")
    answers = [clients["bob"].get(f"/v1/audio/voices/{id}") for id in ("broken", "absent")]
    assert answers[0].text.replace("broken", "absent") == answers[1].text


def test_voices_are_public_without_the_setting(
    start_daemon: StartDaemon, settings: dict[str, object], hers: str
) -> None:
    daemon = start_daemon(settings | {"access.private_voices": "false"})
    with client_of(daemon, "bob") as bob, client_of(daemon, "alice") as alice:
        assert hers in listed(bob)
        made = make(alice, "Open")
        assert made == "open"
        assert made in listed(bob)


def test_the_journal_names_no_voice(daemon: DaemonProcess, hers: str) -> None:
    assert hers not in daemon.log()
    assert "Aunt Mei" not in daemon.log()
