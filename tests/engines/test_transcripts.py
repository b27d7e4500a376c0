"""Where the recogniser of a model on a GPU runs, and what it isn't sure of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stepaudiod.engines.base import Clip
from stepaudiod.engines.kokoro.engine import KokoroEngine
from stepaudiod.engines.registry import WHISPER_TINY
from stepaudiod.engines.whisper.certainty import is_guess
from stepaudiod.engines.whisper.transcripts import TRANSCRIPT, Listener
from stepaudiod.errors import InvalidRequest
from stepaudiod.requests import Segment
from stepaudiod.worker.protocol import EngineOrder
from tests.engines.conftest import Say

SIZE = 1_000_000


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(SIZE))
    return path


def order_of(weights: Path, **options: Any) -> dict[str, Any]:
    return {
        "name": "whisper-tiny",
        "factory": "stepaudiod.engines.whisper.transformers:WhisperEngine",
        "options": options,
        "files": [str(weights)],
        "languages": ["en", "zh"],
    }


def listener(weights: Path, **options: Any) -> Listener:
    return Listener(order_of(weights, **options), weights.parent, 1)


def test_a_recogniser_on_the_gpu_is_reckoned_with(weights: Path) -> None:
    assert listener(weights, device="auto").find_place(SIZE) == SIZE


def test_a_full_gpu_leaves_it_the_processor_and_says_so(
    weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        full = listener(weights, device="cuda")
        assert full.find_place(SIZE - 1) == 0
    assert full._order["options"]["device"] == "cpu"
    assert "whisper-tiny will run on the processor" in caplog.text


def test_the_model_stays_the_variant_that_it_was_ordered_as(weights: Path) -> None:
    """Else it would be loaded anew for each request."""
    options = {"recogniser": order_of(weights, device="auto")}
    order = EngineOrder("model", "some:engine", options, ())
    key = order.key
    assert Listener(options["recogniser"], weights.parent, 1).find_place(0) == 0
    assert order.key == key


def test_what_runs_on_the_processor_anyway_takes_nothing(weights: Path) -> None:
    assert listener(weights).find_place(0) == listener(weights, device="cpu").find_place(0) == 0


def test_the_transcript_of_a_recording_in_another_language_is_asked_for(
    kokoro: KokoroEngine, say: Say, cache_dir: Path
) -> None:
    order = {"name": WHISPER_TINY.name, "factory": WHISPER_TINY.factory, "options": {}, "files": []}
    chinese = Clip(say(kokoro, "我总觉得，有人在跟着我。", "zf_xiaobei"), kokoro.sample_rate)
    with pytest.raises(InvalidRequest, match=r"Send what the recording says.*English only") as refusal:
        Listener(order | {"languages": ["en"]}, cache_dir, 2).write_down(chinese)
    assert (type(refusal.value), refusal.value.param) == (InvalidRequest, TRANSCRIPT)


def test_a_guess_is_judged_by_all_of_its_tokens() -> None:
    def segment(average_logprob: float, tokens: int) -> Segment:
        return Segment("text", 0, 1, tokens=tuple(range(tokens)), average_logprob=average_logprob)

    assert not is_guess([])
    assert not is_guess([segment(-0.7, 5)])
    assert is_guess([segment(-0.8, 5)])
    assert is_guess([segment(-0.2, 1), segment(-1.5, 20)])
    assert not is_guess([segment(-0.2, 20), segment(-1.5, 1)])
