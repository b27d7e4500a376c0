"""Names of voices and texts that can't be said, settled without an engine."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stepaudiod.engines.registry import HIBARI, KOKORO
from stepaudiod.engines.voice_names import require_speakable, resolve_voice
from stepaudiod.errors import InvalidRequest, Unsupported
from stepaudiod.requests import EngineDescription

OPENAI = sorted(HIBARI.openai_voices)


def test_openais_names_are_all_known() -> None:
    known = "alloy ash ballad cedar coral echo fable marin nova onyx sage shimmer verse"
    assert " ".join(OPENAI) == known


@pytest.mark.parametrize("name", OPENAI)
@pytest.mark.parametrize("engine", [HIBARI, KOKORO], ids=lambda engine: engine.name)
def test_each_of_openais_names_is_a_voice_of_each_engine(engine: EngineDescription, name: str) -> None:
    ids = {voice.id for voice in engine.voices}
    assert resolve_voice(engine, name, "Hello there.") in ids
    assert resolve_voice(engine, name.title(), "你好，世界。") in ids


def test_the_language_of_the_text_decides_whom_a_name_means() -> None:
    assert resolve_voice(KOKORO, "alloy", "Hello there.") == "af_heart"
    assert resolve_voice(KOKORO, "alloy", "你好，world。今天天气很好。") == "zf_xiaoxiao"
    assert resolve_voice(KOKORO, "zm_yunxi", "Hello there.") == "zm_yunxi"


def test_an_unknown_voice_is_told_whom_to_ask_for() -> None:
    with pytest.raises(InvalidRequest, match="Its voices: heart") as raised:
        resolve_voice(HIBARI, "bob", "Hello there.")
    assert raised.value.param == "voice"


@pytest.mark.parametrize("text", ["", "  \n", "😀🎉", "…！？"])
def test_nothing_to_say_is_the_inputs_fault(text: str) -> None:
    with pytest.raises(InvalidRequest, match="nothing to say") as raised:
        require_speakable(HIBARI, text)
    assert raised.value.param == "text"


def test_chinese_for_the_english_voice_says_what_would_make_it_possible() -> None:
    with pytest.raises(Unsupported, match=r"stepaudiod\[kokoro\]") as raised:
        require_speakable(HIBARI, "Hello 世界")
    assert raised.value.param == "text"


@pytest.mark.parametrize(
    "text", ["①", "5²", "½", "3⅞", "12 ① 3", "❶", "Ⅷ", "ﬁ", "𝐇𝐞𝐥𝐥𝐨", "㎏", "5 Ω", "π", "µ"]
)
@pytest.mark.parametrize("engine", [HIBARI, KOKORO])
def test_signs_that_stand_for_letters_or_digits_are_spoken(engine: EngineDescription, text: str) -> None:
    require_speakable(engine, text)


@pytest.mark.parametrize("text", ["Αλφα και ωμέγα", "привет", "안녕", "ℵ"])
def test_a_language_without_a_name_here_is_called_another_one(text: str) -> None:
    with pytest.raises(Unsupported, match="the input is in another language"):
        require_speakable(HIBARI, text)


@pytest.mark.parametrize("text", ["Привет, мир", "こんにちは、世界", "안녕하세요", "مرحبا"])
def test_other_languages_are_refused_by_both(text: str) -> None:
    for engine in (HIBARI, KOKORO):
        with pytest.raises(Unsupported):
            require_speakable(engine, text)


def test_asking_costs_no_heavy_import() -> None:
    code = (
        "import sys, stepaudiod.engines.voice_names, stepaudiod.engines.registry, stepaudiod.text.speakable\n"
        "print(sorted({'numpy', 'av', 'onnxruntime', 'hibari', 'wetext', 'jieba'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"
