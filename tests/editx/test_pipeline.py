"""Whole requests, on random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stepaudiod.editx.codes import GROUP, SECONDS_PER_GROUP
from stepaudiod.editx.lengths import Bounds
from stepaudiod.editx.loading import Networks
from stepaudiod.editx.pipeline import Edit, Pipeline, PipelineOptions, Reference
from stepaudiod.editx.synthesis import RequestStats
from stepaudiod.errors import InvalidRequest, SynthesisFailed

TEXT = "The quick brown fox jumps over the lazy dog, and then it goes on for a little while."
Voice = NDArray[np.float32]


@pytest.fixture
def reference(pipeline: Pipeline, voice: Voice) -> Reference:
    return pipeline.encode_reference(voice, 24000, "the quick brown fox")


def test_a_reference_survives_its_cache(reference: Reference) -> None:
    again = Reference.from_tensors(reference.to_tensors())
    assert again.ids == reference.ids
    assert again.transcript == "the quick brown fox"
    assert again.time_range == reference.time_range
    assert torch.equal(again.mel, reference.mel)
    assert torch.equal(again.embedding, reference.embedding)
    with pytest.raises(InvalidRequest, match="encode it again"):
        Reference.from_tensors(reference.to_tensors() | {"version": torch.tensor(0)})


def test_silence_around_a_voice_changes_nothing(pipeline: Pipeline, voice: Voice) -> None:
    padded = np.concatenate([np.zeros(24000, np.float32), voice, np.zeros(12000, np.float32)])
    plain, other = pipeline.encode_reference(voice, 24000), pipeline.encode_reference(padded, 24000)
    assert abs(len(plain.ids) - len(other.ids)) <= 5
    assert abs(plain.mel.shape[0] - other.mel.shape[0]) <= 2
    assert plain.mel.shape[0] == pytest.approx(6 * len(plain.ids) / 5, abs=12)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_any_rate_and_channels_are_taken(pipeline: Pipeline, rate: int) -> None:
    t = np.arange(2 * rate) / rate
    stereo = np.stack([0.2 * np.sin(2 * np.pi * 200 * t)] * 2)
    groups = pipeline.encode_reference(stereo, rate).codes.shape[0] / GROUP
    assert groups * SECONDS_PER_GROUP == pytest.approx(2.2, abs=0.3)


def test_what_holds_no_voice_is_refused(pipeline: Pipeline) -> None:
    for waveform, reason in (
        (np.zeros(24000), "silent"),
        (np.zeros(0), "no samples"),
        (np.full(24000, np.nan), "no numbers"),
    ):
        with pytest.raises(InvalidRequest, match=reason):
            pipeline.encode_reference(waveform, 24000)
    with pytest.raises(InvalidRequest, match=r"0\.4 s or more"):
        pipeline.encode_reference(0.1 * np.ones(2400), 24000)


def test_a_clone_is_reproducible_and_a_new_seed_is_told(pipeline: Pipeline, reference: Reference) -> None:
    first = pipeline.clone(reference, TEXT)
    waveform = first.waveform()
    assert waveform.dtype == np.float32
    assert waveform.shape[0] % 480 == 0
    again = pipeline.clone(reference, TEXT, seed=first.stats.seed)
    assert np.array_equal(again.waveform(), waveform)
    assert again.stats.output_tokens == first.stats.output_tokens > 0
    assert not np.array_equal(pipeline.clone(reference, TEXT, seed=first.stats.seed + 1).waveform(), waveform)


@pytest.mark.slow
def test_long_texts_are_spoken_in_pieces(pipeline: Pipeline, reference: Reference) -> None:
    result = pipeline.clone(reference, "A sentence of some words. " * 25, seed=3)
    assert result.waveform().shape[0] > 0
    assert result.stats.pieces > 1


@pytest.mark.slow
def test_a_clone_with_an_emotion_is_one_request(pipeline: Pipeline, reference: Reference) -> None:
    plain = pipeline.clone(reference, TEXT, seed=6)
    plain.waveform()
    edited = pipeline.clone(reference, TEXT, seed=6, edit=Edit("emotion", "happy", iterations=2))
    edited.waveform()
    assert edited.stats.input_tokens > 2 * plain.stats.input_tokens
    with pytest.raises(InvalidRequest, match="emotion and style can"):
        pipeline.clone(reference, TEXT, edit=Edit("denoise"))
    with pytest.raises(InvalidRequest, match="no text"):
        pipeline.clone(reference, "  ")


@pytest.mark.parametrize(
    "edit",
    [
        Edit("emotion", "sad", intensity=2.0),
        Edit("style", "remove"),
        Edit("speed", "more slower"),
        Edit("denoise"),
        Edit("vad"),
        Edit("paralinguistic", text="[Laughter] the fox"),
    ],
)
def test_every_edit_gives_sound(pipeline: Pipeline, voice: Voice, edit: Edit) -> None:
    result = pipeline.edit(voice, 24000, "the fox", edit, seed=1)
    assert result.waveform().shape[0] > 0
    assert result.stats.input_tokens > 100


def test_each_iteration_edits_what_the_last_one_gave(pipeline: Pipeline, voice: Voice) -> None:
    inputs = []
    for iterations in (1, 2, 3):
        result = pipeline.edit(voice, 24000, "", Edit("denoise", iterations=iterations), seed=1)
        result.waveform()
        inputs.append((result.stats.input_tokens, result.stats.output_tokens))
    assert inputs[0] < inputs[1] < inputs[2]


def test_an_edit_that_quotes_needs_a_transcript(pipeline: Pipeline, voice: Voice) -> None:
    with pytest.raises(InvalidRequest, match="denoise and vad don't"):
        pipeline.edit(voice, 24000, " ", Edit("emotion", "sad"))
    heard: list[int] = []

    def transcribe(_: torch.Tensor, rate: int) -> str:
        heard.append(rate)
        return "fox"

    result = pipeline.edit(voice, 24000, "", Edit("emotion", "sad"), transcribe=transcribe)
    assert result.waveform().shape[0] > 0
    assert heard == [24000]


@pytest.mark.slow
def test_long_recordings_are_edited_in_pieces(pipeline: Pipeline, voice: Voice) -> None:
    long = np.tile(voice, 14)
    result = pipeline.edit(long, 24000, "", Edit("denoise"), seed=1)
    waveform = result.waveform()
    assert result.stats.pieces == 2
    assert np.abs(np.diff(waveform)).max() < 0.5
    silent = np.concatenate([np.zeros(24000 * 30, np.float32), voice])
    kept = pipeline.edit(silent, 24000, "", Edit("denoise"), seed=1).waveform()
    cut = pipeline.edit(silent, 24000, "", Edit("vad"), seed=1).waveform()
    assert kept.shape[0] > 24000 * 20 > cut.shape[0]
    with pytest.raises(InvalidRequest, match="up to 30 s"):
        pipeline.edit(long, 24000, "fox", Edit("paralinguistic", text="[Sigh] fox"))


def test_of_a_long_reference_the_best_stretch_is_used_and_named(pipeline: Pipeline, voice: Voice) -> None:
    long = np.concatenate([np.zeros(24000 * 20, np.float32), np.tile(voice, 5)])
    found = pipeline.encode_reference(long, 24000, "a b c d e f g h i j k l m n o p q r s t u v w x y z")
    assert found.time_range.start > 15
    assert found.time_range.seconds < 16
    assert ("z" in found.transcript, "a" in found.transcript) == (True, False)
    stats = pipeline.clone(found, TEXT).stats
    assert stats.reference_range == found.time_range
    asked = pipeline.encode_reference(
        long, 24000, transcribe=lambda waveform, rate: f"{len(waveform) / rate:.0f} s"
    )
    assert asked.transcript == "15 s"


def failing(
    pipeline: Pipeline, bounds: Bounds, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> tuple[RequestStats, Exception]:
    monkeypatch.setattr("stepaudiod.editx.pipeline.bounds_for_text", lambda text: bounds)
    checked = Pipeline(pipeline.networks, PipelineOptions(rows=1, length=2048))
    result = checked.clone(reference, TEXT, seed=1)
    with pytest.raises(SynthesisFailed) as caught:
        result.waveform()
    return result.stats, caught.value


def test_speech_that_runs_on_is_tried_again_and_then_an_error(
    pipeline: Pipeline, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats, error = failing(pipeline, Bounds(0.0, 0.12), reference, monkeypatch)
    assert "ran on" in str(error)
    assert "2 seeds" in str(error)
    assert stats.retries == 1


def test_speech_that_runs_on_behind_its_first_chunk_is_an_error_at_once(
    pipeline: Pipeline, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client has, or will have, sound of the first attempt, however fast the decoder is."""
    stats, error = failing(pipeline, Bounds(0.0, 0.48), reference, monkeypatch)
    assert "ran on" in str(error)
    assert stats.retries == 0


def test_speech_that_stops_short_is_an_error(
    pipeline: Pipeline, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, error = failing(pipeline, Bounds(80.0, 100.0), reference, monkeypatch)
    assert "cut short" in str(error) or "ran on" in str(error)


def test_silent_speech_is_an_error(
    networks: Networks, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepaudiod.editx.synthesis.SILENT_RMS", 2.0)
    pipeline = Pipeline(networks, PipelineOptions(rows=1, length=2048))
    with pytest.raises(SynthesisFailed, match="silent"):
        pipeline.clone(reference, TEXT, seed=1).waveform()
