"""Step-Audio-EditX behind the whole daemon, on random weights: voices of the library, codes kept."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest

from stepaudiod.audio.decode import decode
from stepaudiod.audio.types import Waveform
from stepaudiod.edits import Edit
from stepaudiod.editx.memory_plan import MemoryPlan
from stepaudiod.engines.base import Clip
from stepaudiod.engines.hibari import HibariEngine
from stepaudiod.engines.local_models import LocalEngines
from stepaudiod.engines.registry import WHISPER_TINY
from stepaudiod.engines.step_audio.engine import StepAudioEngine
from stepaudiod.errors import EngineUnavailable, InvalidRequest, NotFound
from stepaudiod.requests import EditRequest, Facts, Recording, SpeechRequest
from stepaudiod.voice_library import VoiceLibrary
from stepaudiod.worker.job import Job, Recordings
from stepaudiod.worker.loaded import LoadedEngines
from stepaudiod.worker.protocol import EngineOrder, StartJob
from tests.conftest import StartDaemon
from tests.engines.step_audio import recording, settings, write_data

STEP_AUDIO: dict[str, object] = {
    "engine": "step-audio-editx",
    "step_audio.dtype": "fp32",
    "step_audio.check_output": "false",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def engine(data: Path) -> StepAudioEngine:
    (description,) = LocalEngines(data, settings()).describe()
    assert description.problem == ""
    loaded = StepAudioEngine(cache_dir=data, threads=1, **description.options)
    loaded.load(lambda stage, fraction: None)
    return loaded


@pytest.fixture(scope="module")
def loaded(data: Path) -> StepAudioEngine:
    return engine(data)


@pytest.fixture(scope="module")
def clip(data: Path) -> Clip:
    return Clip(*decode(recording(data / "clip.wav")))


def sound(results: Iterable[Waveform | Facts]) -> tuple[np.ndarray, dict[str, object]]:
    parts, facts = [np.zeros(0, np.float32)], dict[str, object]()
    for result in results:
        if isinstance(result, Facts):
            facts |= result.values
        else:
            parts.append(result)
    return np.concatenate(parts), facts


def test_a_voice_is_encoded_once_and_kept_beside_its_recording(data: Path, loaded: StepAudioEngine) -> None:
    request = SpeechRequest("Hello there.", "hum", seed=1)
    first, facts = sound(loaded.speak(request))
    kept = list((data / "voices" / "hum").glob("*.safetensors"))
    assert len(kept) == 1
    before = kept[0].stat().st_mtime_ns
    again, _ = sound(engine(data).speak(request))
    assert np.array_equal(first, again)
    assert kept[0].stat().st_mtime_ns == before
    assert facts["seed"] == 1
    assert int(str(facts["output_tokens"])) > 0


SPEAKS = """
import json, sys
from pathlib import Path
from stepaudiod.engines.step_audio.engine import StepAudioEngine
from stepaudiod.requests import Facts, SpeechRequest
engine = StepAudioEngine(cache_dir=Path("/nowhere"), threads=1, **json.loads(sys.argv[1]))
engine.load(lambda stage, fraction: None)
sound = engine.speak(SpeechRequest("Hello there.", "hum", seed=1))
assert any(not isinstance(part, Facts) and part.size for part in sound)
print(json.dumps([name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules]))
"""


def test_no_compiler_is_imported_on_the_way_to_the_first_sound(data: Path) -> None:
    """PyTorch's takes as long to import as PyTorch itself, and would delay the first sound."""
    (description,) = LocalEngines(data, settings()).describe()
    command = [sys.executable, "-c", SPEAKS, json.dumps(description.options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert json.loads(done.stdout) == []


def test_a_recording_with_the_request_is_cloned_and_no_trace_of_it_stays(
    data: Path, loaded: StepAudioEngine, clip: Clip
) -> None:
    before = sorted(data.rglob("*"))
    request = SpeechRequest("Hello there.", "", seed=1, reference=Recording("unused.wav", "a hum"))
    cloned, _ = sound(loaded.clone(request, clip))
    assert np.array_equal(cloned, sound(loaded.speak(SpeechRequest("Hello there.", "hum", seed=1)))[0])
    assert sorted(data.rglob("*")) == before


def test_a_clone_may_have_a_feeling(loaded: StepAudioEngine, clip: Clip) -> None:
    request = SpeechRequest("Hello there.", "", seed=1, reference=Recording("unused.wav", "a hum"))
    plain, _ = sound(loaded.clone(request, clip))
    happy, _ = sound(loaded.clone(request._replace(edit=Edit("emotion", "happy")), clip))
    assert not np.array_equal(plain, happy)
    with pytest.raises(InvalidRequest, match="can't be combined"):
        next(loaded.clone(request._replace(edit=Edit("denoise")), clip))


def test_iterations_go_on_from_the_last_result(loaded: StepAudioEngine, clip: Clip) -> None:
    once, twice = (
        sound(
            loaded.edit(EditRequest(Recording("unused.wav", "a hum"), Edit("denoise", iterations=n), 1), clip)
        )
        for n in (1, 2)
    )
    assert not np.array_equal(once[0], twice[0])
    assert int(str(twice[1]["input_tokens"])) > int(str(once[1]["input_tokens"]))


def test_speed_changes_the_length(loaded: StepAudioEngine) -> None:
    request = SpeechRequest("Hello there.", "hum", seed=1)
    plain, fast = (sound(loaded.speak(request._replace(speed=speed)))[0] for speed in (1.0, 1.6))
    assert len(fast) == round(len(plain) / 1.6)


def test_work_without_sound_yet_still_shows_that_it_moves(loaded: StepAudioEngine, clip: Clip) -> None:
    edit = Edit("emotion", "happy", iterations=2)
    results = loaded.edit(EditRequest(Recording("unused.wav", "a hum"), edit, 1), clip)
    tasks = 0
    while not results.is_ready:
        assert loaded.is_working
        loaded._pipeline.scheduler.lanes.wait(30)
        tasks += loaded.step()
    assert tasks > 3
    results.close()


def finish(engine: StepAudioEngine) -> int:
    """Run the engine until it has no work; returns the number of tasks that took."""
    tasks = 0
    while engine.is_working:
        if not (done := engine.step()):
            engine._pipeline.scheduler.lanes.wait(30)
        tasks += done
    return tasks


def test_a_known_voice_waits_for_no_others_recording(
    loaded: StepAudioEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, scheduler = SpeechRequest("Hello there.", "hum", seed=1), loaded._pipeline.scheduler
    right, _ = sound(loaded.speak(request))
    other, is_done = ThreadPoolExecutor(1), threading.Event()
    monkeypatch.setattr(scheduler.lanes.recordings, "_thread", other)  # as on a GPU
    scheduler.run(partial(is_done.wait, 60), lambda future: None)
    made, _ = sound(loaded.speak(request))
    assert not scheduler.lanes.recordings.is_free
    is_done.set()
    finish(loaded)
    other.shutdown()
    assert np.array_equal(made, right)


def test_a_voice_that_is_deleted_or_changed_while_it_is_used(
    data: Path, loaded: StepAudioEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, request = VoiceLibrary(data / "voices"), SpeechRequest("Hello there.", "brief", seed=1)
    library.create("brief", recording(data / "brief.wav"), "a short hum", "mine")

    def deleting(path: Path) -> tuple[Waveform, int]:
        library.delete("brief")
        return decode(path)

    with monkeypatch.context() as patch:
        patch.setattr(loaded, "decode", deleting)
        with pytest.raises(NotFound, match="has just been deleted"):
            next(loaded.speak(request))
    library.create("brief", data / "brief.wav", "a short hum", "mine")
    first, _ = sound(loaded.speak(request))
    library.delete("brief")
    with pytest.raises(NotFound):
        next(loaded.speak(request))
    library.create("brief", data / "brief.wav", "something else", "mine")
    assert not np.array_equal(first, sound(loaded.speak(request))[0])
    library.delete("brief")


def test_the_first_sound_waits_for_no_other(loaded: StepAudioEngine) -> None:
    results = loaded.speak(SpeechRequest("Hello there, this is a longer one.", "hum", seed=1))
    while not results.is_ready:
        loaded._pipeline.scheduler.lanes.wait(30)
        loaded.step()
    assert isinstance(next(results), Facts)
    assert results.is_ready
    first = next(results)
    assert not isinstance(first, Facts)
    assert 0 < first.size < 24000
    results.close()
    assert finish(loaded) < 5


def test_a_request_that_is_cancelled_before_its_first_sound_holds_nothing(
    data: Path, loaded: StepAudioEngine
) -> None:
    (description,) = LocalEngines(data, settings()).describe()
    work = SpeechRequest("A sentence of some words. " * 20, "hum", seed=1)
    order = StartJob(1, EngineOrder.of(description), work, "pcm", {})
    job = Job(order, lambda _: loaded, Recordings(), lambda: None)
    next(job.results)
    assert not job.can_step  # it has begun
    scheduler = loaded._pipeline.scheduler
    while not scheduler._admitted:
        scheduler.lanes.wait(30)
        loaded.step()
    job.close()
    assert finish(loaded) < 5
    assert not scheduler._admitted


def test_a_gpus_memory_is_divided_before_loading_and_too_little_is_said(data: Path) -> None:
    def planned(gpu_memory: str) -> MemoryPlan:
        (description,) = LocalEngines(data, settings(gpu_memory=gpu_memory)).describe()
        return StepAudioEngine(cache_dir=data, threads=1, **description.options)._planned(80_000_000_000)

    assert planned("2G").positions == planned("auto").positions
    with pytest.raises(EngineUnavailable, match=r"allows 0\.30 GB, and the model needs \d\.\d\d GB: "):
        planned("300M")


def test_what_it_cannot_do_is_said(data: Path, loaded: StepAudioEngine, clip: Clip) -> None:
    with pytest.raises(NotFound, match="hum"):
        next(loaded.speak(SpeechRequest("Hello.", "nobody")))
    library = VoiceLibrary(data / "voices")
    library.create("mute", recording(data / "mute.wav"), "", "mine")
    with pytest.raises(InvalidRequest, match="transcript"):
        next(loaded.speak(SpeechRequest("Hello.", "mute")))
    library.delete("mute")
    with pytest.raises(InvalidRequest, match="transcript"):
        next(loaded.edit(EditRequest(Recording("unused.wav"), Edit("emotion", "happy")), clip))
    with pytest.raises(InvalidRequest, match="happy"):
        next(loaded.edit(EditRequest(Recording("unused.wav"), Edit("emotion", "glad")), clip))


def test_a_missing_transcript_is_made_by_the_recogniser(data: Path, hibari: HibariEngine) -> None:
    """The packaged recogniser hears the packaged voice."""
    said = "The boy was there when the sun rose."
    spoken = Clip(
        np.concatenate(list(hibari.speak(SpeechRequest(said, "heart", seed=1)))), hibari.sample_rate
    )
    (description,) = LocalEngines(data, settings(), (WHISPER_TINY,)).describe()
    order = EngineOrder.of(description)
    listening = LoadedEngines(data, 1, lambda header: None, decode).get(order)
    assert isinstance(listening, StepAudioEngine)
    request = SpeechRequest("Hello.", "", seed=1, reference=Recording("unused.wav"))
    facts = next(listening.clone(request, spoken))
    assert isinstance(facts, Facts)
    assert "sun rose" in str(facts.values["transcript"])
    assert facts.values["transcript_by"] == WHISPER_TINY.name


def test_the_daemon_loads_it_and_tells_how_far(start_daemon: StartDaemon, data: Path) -> None:
    daemon = start_daemon(STEP_AUDIO | {"data_dir": data})
    with daemon.client() as client:
        assert [voice["id"] for voice in client.get("/v1/voices").json()] == ["hum"]
        said = {"model": "tts-1", "voice": "alloy", "input": "Hello.", "response_format": "wav", "seed": 1}
        answer = client.post("/v1/audio/speech", json=said, timeout=300)
        assert answer.status_code == 200
        assert answer.headers["X-StepAudio-Seed"] == "1"
        loaded = client.get("/api/v1/models/status").json()["step-audio-editx"]
        assert loaded["loaded"] is True
        assert loaded["device"] == "cpu"
    # which of the tiny checkpoint's short stages are caught differs from run to run
    daemon.notify.wait_for("STATUS=speaking to 1 · loading step-audio-editx: imports")
    told = re.compile(r"loading step-audio-editx: [a-z ]+, \d\.\d of \d\.\d GB \d+%")
    assert any(told.search(message) for message in daemon.notify.messages), daemon.notify.messages


@pytest.mark.slow
def test_one_variant_at_a_time_and_no_request_is_cut_off(start_daemon: StartDaemon, data: Path) -> None:
    daemon = start_daemon(STEP_AUDIO | {"data_dir": data})
    said = {
        "voice": "hum",
        "input": "Hello there, this is a longer one.",
        "response_format": "wav",
        "seed": 1,
    }
    variants = ["step-audio-editx", "step-audio-editx-int4"] * 3
    with daemon.client() as client, ThreadPoolExecutor(len(variants)) as pool:

        def ask(model: str) -> httpx.Response:
            return client.post("/v1/audio/speech", json=said | {"model": model}, timeout=300)

        answers = list(pool.map(ask, variants))
        assert [answer.status_code for answer in answers] == [200] * len(variants)
        plain, other = ({answer.content for answer in answers[i::2]} for i in (0, 1))
        assert len(plain) == len(other) == 1
        assert plain != other
        status = client.get("/api/v1/models/status").json()
        own = {name: model["loaded"] for name, model in status.items() if name.startswith("step-audio")}
        assert sum(own.values()) == 1


def test_a_damaged_cache_of_a_voice_is_made_anew(data: Path, loaded: StepAudioEngine) -> None:
    request = SpeechRequest("Hello there.", "hum", seed=1)
    first, _ = sound(loaded.speak(request))
    (kept,) = (data / "voices" / "hum").glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:100])
    again, _ = sound(engine(data).speak(request))
    assert np.array_equal(first, again)
    assert kept.stat().st_size > 100
