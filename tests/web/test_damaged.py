"""Damaged recordings in every field that accepts one: each gets a response, and nothing is left behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.activation import DaemonProcess
from tests.bench.measure import resident_mb
from tests.web.damage import Damaged, damaged, good

AT_ONCE = 8
FRONT_GROWTH_MB, WORKER_GROWTH_MB = 16, 48
"""What an allocator keeps of the second half, when the first has been through already."""
AGAIN = 2
"""How often the second half is sent again, if a process has grown by more."""

OLD_EDIT = '{"input": "", "step_audio": {"mode": "speed", "edit_info": "faster"}}'
FIELDS: dict[str, tuple[str, dict[str, str]]] = {
    "/v1/audio/edits": ("file", {"mode": "speed", "edit_info": "faster"}),
    "/v1/audio/transcriptions": ("file", {"model": "whisper-1"}),
    "/v1/audio/speech/upload": ("input_audio_file", {"payload": OLD_EDIT}),
    "/api/clone": ("audio", {"text": "x", "prompt_text": "x"}),
    "/api/edit": ("audio", {"mode": "speed", "speed": "faster"}),
    "/v1/audio/voices": ("audio_sample", {"name": "x", "consent": "mine", "transcript": "x"}),
}
"""Every path that takes a recording, its field and what else it wants.

The edit wants a transcript, and asks for it when it has read the recording: no model works on all of them.
"""


async def send(client: httpx.AsyncClient, path: str, file: Damaged, number: int) -> tuple[int, str]:
    """Upload one; return its status and code. A resulting voice is deleted."""
    field, more = FIELDS[path]
    data = more | ({"name": f"voice {number}"} if "name" in more else {})
    response = await client.post(path, data=data, files={field: (file.name, file.data)})
    if response.status_code == 200:
        if path.endswith("voices"):
            await client.delete(f"{path}/{response.json()['id']}")
        return 200, ""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}, (file.how, error)
    return response.status_code, error["code"]


async def send_all(url: str, files: list[Damaged]) -> Counter[tuple[int, str]]:
    """Upload all of them concurrently, to one field after the other; count the responses."""
    answers: Counter[tuple[int, str]] = Counter()
    queue = iter(enumerate(files))
    paths = [*sorted(FIELDS), *["/v1/audio/voices"] * 5]  # the others work on what can be read

    async def sender(client: httpx.AsyncClient) -> None:
        for number, file in queue:
            path = paths[number % len(paths)]
            answer = await send(client, path, file, number)
            assert answer[0] < 500 or answer == (503, "engine_unavailable"), (path, file.how, answer)
            answers[answer] += 1

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await asyncio.gather(*(sender(client) for _ in range(AT_ONCE)))
    return answers


def grown(before: tuple[float, float], after: tuple[float, float]) -> str | None:
    """Which process has grown too much, the front or its worker."""
    front, worker = after[0] - before[0], after[1] - before[1]
    return "front" if front >= FRONT_GROWTH_MB else "worker" if worker >= WORKER_GROWTH_MB else None


def survive(daemon: DaemonProcess, spool: Path, count: int, seed: int) -> Counter[tuple[int, str]]:
    """Send that many, and check that the daemon still works."""
    whole = [Damaged(name, data, name) for name, data in good().items()]
    files = list(damaged(count, seed))
    asyncio.run(send_all(daemon.url, whole))
    answers = asyncio.run(send_all(daemon.url, files[: count // 2]))
    worker, front = daemon.worker_pid(), daemon.process.pid
    before = resident_mb(front), resident_mb(worker)
    answers += asyncio.run(send_all(daemon.url, files[count // 2 :]))
    growth = grown(before, after := (resident_mb(front), resident_mb(worker)))
    for _ in range(AGAIN):
        if growth is None:
            break
        # an allocator may reach its peak so late, once; what is lost is lost each time
        asyncio.run(send_all(daemon.url, files[count // 2 :]))
        growth = grown(after, after := (resident_mb(front), resident_mb(worker)))
    assert daemon.worker_pid() == worker
    assert growth is None, (before, after)
    daemon.shared_client.get("/healthz")  # by its answer, what the last response left has been cleared away
    assert list(spool.glob("stepaudiod-*")) == []
    return answers


@pytest.mark.slow
def test_damaged_recordings_are_refused_and_leave_nothing(step_audio: DaemonProcess, spool: Path) -> None:
    answers = survive(step_audio, spool, 300, seed=1)
    assert answers[400, "invalid_value"] > 100


@pytest.mark.slow
def test_two_thousand_damaged_recordings_leave_nothing(step_audio: DaemonProcess, spool: Path) -> None:
    assert sum(survive(step_audio, spool, 1700, seed=2).values()) == 1700


def test_every_path_that_takes_a_recording_is_asked(step_audio: DaemonProcess) -> None:
    paths: dict[str, Any] = step_audio.shared_client.get("/openapi.json").json()["paths"]
    taking = {
        path
        for path, methods in paths.items()
        for operation in methods.values()
        if "multipart/form-data" in operation.get("requestBody", {}).get("content", {})
    }
    assert taking == set(FIELDS)
