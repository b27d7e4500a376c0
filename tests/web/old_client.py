"""The API of the old containers as its clients use it: a request, and the expected response."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np

from tests.web.conftest import hum, samples, wav

HUM = wav(hum())

IN_BASE64 = base64.b64encode(HUM).decode()
EMOTION = {"mode": "emotion", "edit_info": "happy", "audio_text": "a hum"}
SPEECH, UPLOAD = "/v1/audio/speech", "/v1/audio/speech/upload"
CLONE = {"mode": "clone", "prompt_audio_base64": IN_BASE64, "prompt_text": "a hum"}


def ask(client: httpx.Client, step_audio: dict[str, Any] | None = None, **fields: Any) -> httpx.Response:
    """A request as an old client sends it."""
    body = {"model": "step-audio-editx", "input": "Hello there.", "seed": 1} | fields
    if step_audio is not None:
        body["step_audio"] = step_audio
    return client.post(SPEECH, json=body, timeout=300)


def change(client: httpx.Client, **step_audio: Any) -> httpx.Response:
    return ask(client, {"input_audio_base64": IN_BASE64} | step_audio)


def refused(response: httpx.Response, status: int, param: str | None, *words: str) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["param"] == param, error
    for word in words:
        assert word in error["message"]


def same(one: httpx.Response, other: httpx.Response) -> bool:
    return np.array_equal(samples(one), samples(other))
