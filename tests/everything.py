"""One request of each kind to each engine, the page, and a program that imports hub clients."""

from __future__ import annotations

import os
from pathlib import Path

import httpx

from tests.web.test_page import state, wait_until

CI_MARKS = (
    "CI",
    "TF_BUILD",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "CIRCLECI",
    "TRAVIS",
    "JENKINS_URL",
    "CODEBUILD_BUILD_ID",
    "BUILDKITE",
    "TEAMCITY_VERSION",
    "APPVEYOR",
    "BITBUCKET_BUILD_NUMBER",
)
"""onnxruntime sends nothing where one of these is set, and a test there would prove nothing."""
TEXTS = {
    "hibari": ("Good evening.",),
    "kokoro": ("Good evening.", "晚上好。"),
    "step-audio-editx": ("Good evening.",),
}
WRITERS = ("whisper-tiny.en",)
CHANGES = {"denoise": "", "vad": "", "speed": "more faster"}
CLIENTS = """
import stepaudiod
import huggingface_hub, modelscope_hub, hf_xet, transformers, gradio_client, safehttpx
from huggingface_hub import HfApi
from huggingface_hub.utils import build_hf_headers
from stepaudiod.ctl.hub.modelscope import ModelScope
HfApi(library_name="stepaudioctl", library_version=stepaudiod.__version__)
build_hf_headers(library_name="stepaudioctl", library_version=stepaudiod.__version__)
ModelScope(None)
"""
"""As `stepaudioctl models` makes them, before it asks for anything."""


def a_users_environ(home: Path) -> dict[str, str]:
    """The environment of a user outside continuous integration, with the libraries' default settings."""
    unset = {*CI_MARKS, "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY", "DO_NOT_TRACK"}
    unset |= {"GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "HF_HUB_OFFLINE"}
    return {k: v for k, v in os.environ.items() if k not in unset} | {"HOME": str(home)}


def ask_everything(client: httpx.Client, text: str | None = None) -> set[str]:
    """Speak, transcribe and edit with each installed engine; returns their names.

    Args:
        client: of the daemon.
        text: instead of a greeting in each language.
    """
    models = {each["id"] for each in client.get("/v1/models").raise_for_status().json()["data"]}
    used = set()
    recording = {}
    for model in sorted(models & TEXTS.keys()):
        for said in TEXTS[model] if text is None else (text,):
            form = {"model": model, "input": said, "voice": "alloy", "seed": 1, "response_format": "wav"}
            spoken = client.post("/v1/audio/speech", json=form, timeout=300).raise_for_status()
            used.add(model)
            if model == "hibari":
                recording = {"file": ("spoken.wav", spoken.content)}
    for model in models & set(WRITERS):
        client.post("/v1/audio/transcriptions", data={"model": model}, files=recording).raise_for_status()
        used.add(model)
    for mode, how in CHANGES.items():
        form = {"model": "studio", "mode": mode} | ({"edit_info": how} if how else {})
        client.post("/v1/audio/edits", data=form, files=recording).raise_for_status()
        used.add("studio")
    return used


def open_page(client: httpx.Client) -> None:
    """Make the page with gradio, and open it."""
    client.get("/").raise_for_status()
    wait_until(lambda: state(client)["ready"] is True)
    for path in ("/", "/theme.css", "/v1/voices", "/v1/tags", "/metrics", "/openapi.json", "/docs"):
        client.get(path).raise_for_status()
