"""Pulling models from a hub through its client, with interruptions, and only as a whole."""

from __future__ import annotations

import json
import os
import pty
import resource
import signal
from pathlib import Path

import pytest

from stepaudiod.editx.checkpoint.layout import Checkpoint
from tests.ctl.conftest import DEADLINE_S, Ctl, StartHub, control
from tests.ctl.hub import Hub

MEGABYTE = 1 << 20
LARGE_BYTES = 32 * MEGABYTE
"""Hugging Face's client writes received data in chunks of 10 MB."""

BOTH = pytest.mark.parametrize("source", ["huggingface", pytest.param("modelscope", marks=pytest.mark.slow)])


def files_of(folder: Path) -> set[str]:
    """The files in a model's folder, without the manifest."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found - {".stepaudiod.json"}


@BOTH
def test_a_pull_downloads_the_files_of_the_loader_and_no_code(
    hub_ctl: Ctl, hub: Hub, models: Path, source: str
) -> None:
    said = json.loads(hub_ctl.ok("models", "pull", "step-audio-editx", "--from", source, "--json"))
    assert list(Checkpoint(models).problems()) == []
    assert files_of(models / "Step-Audio-EditX") == {
        "LICENSE",
        "config.json",
        "model.safetensors.index.json",
        "model-00001.safetensors",
        "tokenizer.model",
        "tokenizer_config.json",
        "CosyVoice-300M-25Hz/flow.pt",
        "CosyVoice-300M-25Hz/hift.pt",
        "CosyVoice-300M-25Hz/campplus.onnx",
    }
    assert len(files_of(models / "Step-Audio-Tokenizer")) == 4
    for repository, folder in (("EditX", "Step-Audio-EditX"), ("Tokenizer", "Step-Audio-Tokenizer")):
        for name in files_of(models / folder):
            published_bytes = hub.repositories[f"stepfun-ai/Step-Audio-{repository}"][name]
            assert (models / folder / name).read_bytes() == published_bytes
    assert (said["files"], said["source"], said["endpoint"]) == (13, source, hub.url)
    assert said["fetched_bytes"] == said["size_bytes"] == sum(asked.sent_bytes for asked in hub.asked)


@BOTH
def test_whisper_comes_in_one_format(hub_ctl: Ctl, hub: Hub, models: Path, source: str) -> None:
    assert b"whisper-tiny is complete" in hub_ctl.ok("models", "pull", "whisper-tiny", "--from", source)
    wanted = {"config.json", "preprocessor_config.json", "tokenizer.json", "vocab.json", "model.safetensors"}
    assert files_of(models / "whisper-tiny") == wanted


@BOTH
def test_an_interrupted_pull_is_resumed(
    start_hub: StartHub, hub_environ: dict[str, str], programs: Path, models: Path, source: str
) -> None:
    hub = start_hub(LARGE_BYTES)
    ctl = control(hub.url, hub_environ, programs)
    hub.stall_at["model.safetensors"] = 24 * MEGABYTE
    pulling = ctl.start("models", "pull", "whisper-tiny", "--from", source)
    assert hub.stalled.wait(DEADLINE_S)
    pulling.send_signal(signal.SIGINT)
    _, said = pulling.communicate(timeout=DEADLINE_S)
    assert pulling.returncode == 130
    assert said == b"Interrupted. The downloaded part is kept: run the same command to continue.\n"

    assert not (models / "whisper-tiny").exists()
    listed = json.loads(ctl.ok("models", "list", "--json"))
    assert [(model["model"], model["state"]) for model in listed] == [("whisper-tiny", "incomplete")]

    hub.go_on.set()
    hub.forget()
    ctl.ok("models", "pull", "whisper-tiny", "--from", source)
    weights = hub.repositories["openai/whisper-tiny"]["model.safetensors"]
    (asked,) = [asked for asked in hub.asked if asked.path == "model.safetensors"]
    assert asked.first_byte >= 10 * MEGABYTE
    assert hub.sent_bytes("model.safetensors") == len(weights) - asked.first_byte
    assert hub.fetched() == {"model.safetensors"}
    assert (models / "whisper-tiny" / "model.safetensors").read_bytes() == weights
    assert not list((models / ".pulling").iterdir())


@BOTH
def test_a_broken_connection_is_resumed(
    start_hub: StartHub, hub_environ: dict[str, str], programs: Path, models: Path, source: str
) -> None:
    hub = start_hub(LARGE_BYTES)
    hub.cut_once["model.safetensors"] = 24 * MEGABYTE
    ctl = control(hub.url, hub_environ, programs, MODELSCOPE_DOWNLOAD_MAX_RETRIES="1")
    ctl.ok("models", "pull", "whisper-tiny", "--from", source)
    first, second = [asked.first_byte for asked in hub.asked if asked.path == "model.safetensors"]
    assert first == 0
    assert second >= 10 * MEGABYTE


def test_an_incomplete_model_is_never_in_its_folder(hub_ctl: Ctl, hub: Hub, models: Path) -> None:
    hub.stall_at["speech_tokenizer_v1.onnx"] = 0
    pulling = hub_ctl.start("models", "pull", "step-audio-editx")
    assert hub.stalled.wait(DEADLINE_S)
    assert list(Checkpoint(models).problems())
    assert [path.name for path in models.iterdir()] == [".pulling"]
    again = hub_ctl.run("models", "pull", "step-audio-editx")
    assert again.returncode == 2
    assert b"Another pull" in again.stderr
    hub.go_on.set()
    pulling.communicate(timeout=DEADLINE_S)
    assert pulling.returncode == 0
    assert list(Checkpoint(models).problems()) == []


@BOTH
def test_a_second_pull_fetches_nothing(hub_ctl: Ctl, hub: Hub, source: str) -> None:
    hub_ctl.ok("models", "pull", "step-audio-editx", "--from", source)
    hub.forget()
    said = json.loads(hub_ctl.ok("models", "pull", "step-audio-editx", "--from", source, "--json"))
    assert (said["fetched_bytes"], hub.asked) == (0, [])


def test_a_folder_that_was_copied_by_hand_is_completed(hub_ctl: Ctl, hub: Hub, models: Path) -> None:
    folder = models / "whisper-tiny"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes(hub.repositories["openai/whisper-tiny"][name])
    (folder / "notes.txt").write_text("mine")
    hub_ctl.ok("models", "pull", "whisper-tiny")
    assert hub.fetched() == {"preprocessor_config.json", "tokenizer.json", "vocab.json"}
    assert (folder / "notes.txt").read_text() == "mine"
    assert json.loads(hub_ctl.ok("models", "list", "--json"))[0]["state"] == "complete"


def test_files_of_another_revision_are_removed(hub_ctl: Ctl, hub: Hub, models: Path) -> None:
    folder, files = models / "Step-Audio-EditX", hub.repositories["stepfun-ai/Step-Audio-EditX"]
    hub_ctl.ok("models", "pull", "step-audio-editx")
    (folder / "notes.txt").write_text("mine")
    files["model.safetensors"] = files.pop("model-00001.safetensors")
    del files["model.safetensors.index.json"]
    hub_ctl.ok("models", "pull", "step-audio-editx")
    assert [path.name for path in Checkpoint(models).shards()] == ["model.safetensors"]
    assert (folder / "notes.txt").exists()
    assert b"all digests are correct" in hub_ctl.ok("models", "verify")


def test_downloaded_files_of_another_revision_are_not_used(hub_ctl: Ctl, hub: Hub, models: Path) -> None:
    folder, files = models / "whisper-tiny", hub.repositories["openai/whisper-tiny"]
    hub.spoiled.add("model.safetensors")
    assert hub_ctl.run("models", "pull", "whisper-tiny").returncode == 4
    hub.spoiled.clear()
    del files["vocab.json"]
    files["config.json"] = b"[]"
    hub_ctl.ok("models", "pull", "whisper-tiny")
    assert (folder / "config.json").read_bytes() == b"[]"
    assert not (folder / "vocab.json").exists()


@BOTH
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_file_is_deleted(hub_ctl: Ctl, hub: Hub, models: Path, source: str, name: str) -> None:
    hub.spoiled.add(name)
    done = hub_ctl.run("models", "pull", "whisper-tiny", "--from", source)
    assert done.returncode == 4
    assert f"{name} of ".encode() in done.stderr
    assert b"It was deleted." in done.stderr
    assert not (models / "whisper-tiny").exists()
    hub.spoiled.clear()
    hub.forget()
    hub_ctl.ok("models", "pull", "whisper-tiny", "--from", source)
    assert hub.sent_bytes(name) == len(hub.repositories["openai/whisper-tiny"][name])


@BOTH
def test_free_space_is_checked_before_the_download(hub_ctl: Ctl, hub: Hub, models: Path, source: str) -> None:
    hub.listed_sizes["model.safetensors"] = 7 * 10**18
    done = hub_ctl.run("models", "pull", "whisper-tiny", "--from", source)
    assert done.returncode == 4
    assert b"needs 7000000.0 TB more" in done.stderr
    assert b"B are free. Nothing was downloaded." in done.stderr
    assert hub.asked == []


@BOTH
def test_a_full_disk_keeps_the_downloaded_part(
    start_hub: StartHub, hub_environ: dict[str, str], programs: Path, models: Path, source: str
) -> None:
    hub = start_hub(LARGE_BYTES)
    ctl = control(hub.url, hub_environ, programs)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (15 * MEGABYTE, 15 * MEGABYTE))

    pulling = ctl.start("models", "pull", "whisper-tiny", "--from", source, preexec_fn=limit)
    _, said = pulling.communicate(timeout=DEADLINE_S)
    assert pulling.returncode == 4
    assert b"could not be written: File too large." in said
    hub.forget()
    ctl.ok("models", "pull", "whisper-tiny", "--from", source)
    (asked,) = [asked for asked in hub.asked if asked.path == "model.safetensors"]
    assert asked.first_byte >= 10 * MEGABYTE


def test_progress_is_one_line(hub_ctl: Ctl, hub: Hub) -> None:
    ours, theirs = pty.openpty()
    pulling = hub_ctl.start("models", "pull", "step-audio-editx", stderr=theirs)
    pulling.communicate(timeout=DEADLINE_S)
    os.close(theirs)
    shown = os.read(ours, 1 << 20).decode()
    os.close(ours)
    assert f"\r\x1b[Kasking {hub.url} for stepfun-ai/Step-Audio-EditX" in shown
    assert "downloading " in shown
    assert "\n" not in shown
