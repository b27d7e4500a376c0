"""When a transcript of a recogniser is not used."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepaudiod.audio.decode import decode
from stepaudiod.engines.base import Clip
from stepaudiod.engines.kokoro.engine import KokoroEngine
from stepaudiod.engines.registry import WHISPER_TINY
from stepaudiod.engines.step_audio.recogniser import Recogniser
from stepaudiod.engines.whisper.certainty import is_guess
from stepaudiod.errors import InvalidRequest
from stepaudiod.requests import Segment
from stepaudiod.worker.loaded import LoadedEngines
from tests.engines.conftest import Say


@pytest.mark.slow
def test_the_transcript_of_a_recording_in_another_language_is_asked_for(
    kokoro: KokoroEngine, say: Say, tmp_path: Path
) -> None:
    engines = LoadedEngines(tmp_path, 1, lambda frame: None, decode)
    order = {"name": WHISPER_TINY.name, "factory": WHISPER_TINY.factory, "options": {}, "files": []}
    chinese = Clip(say(kokoro, "我总觉得，有人在跟着我。", "zf_xiaobei"), kokoro.sample_rate)
    with pytest.raises(InvalidRequest, match=r"Send what the recording says.*English only") as refusal:
        Recogniser(order | {"languages": ["en"]}, engines).transcribe(chinese)
    assert (type(refusal.value), refusal.value.param) == (InvalidRequest, "transcript")


def test_a_guess_is_judged_by_all_of_its_tokens() -> None:
    def segment(average_logprob: float, tokens: int) -> Segment:
        return Segment("text", 0, 1, tokens=tuple(range(tokens)), average_logprob=average_logprob)

    assert not is_guess([])
    assert not is_guess([segment(-0.7, 5)])
    assert is_guess([segment(-0.8, 5)])
    assert is_guess([segment(-0.2, 1), segment(-1.5, 20)])
    assert not is_guess([segment(-0.2, 20), segment(-1.5, 1)])
