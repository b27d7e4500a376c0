"""No text ends a request: what a converter refuses is said as well as it can be, and the rest goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from stepaudiod.engines.hibari import HibariEngine
from stepaudiod.engines.kokoro.engine import KokoroEngine
from stepaudiod.engines.kokoro.tolerant import Convert, TolerantG2P
from stepaudiod.requests import SpeechRequest
from stepaudiod.text.scripts import main_language
from stepaudiod.text.sentences import split_sentences
from tests.odd_texts import odd_texts

Engines = Callable[[str], HibariEngine | KokoroEngine]
BOTH = [("hibari", "heart"), ("kokoro", "af_heart")]

REFUSED = ("⑴ ⒈ ⑽", "፪፫", "x¹⁰ and ²ing", "1'" * 40 + "1", "a⁴b", "٣٤ and ०१२", "①st")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "voice"), BOTH)
def test_a_sentence_that_was_refused_is_spoken_and_the_next_one_too(
    name: str, voice: str, engines: Engines
) -> None:
    odd = REFUSED if name == "hibari" else REFUSED[:1]
    text = "".join(f"Now {each} is what it says.\n\n" for each in odd) + "This is the last one."
    chunks = list(engines(name).speak(SpeechRequest(text, voice, speed=2.0, seed=0)))
    assert [chunk.size > 2_000 for chunk in chunks] == [True] * (len(odd) + 1)


@pytest.mark.parametrize("character", ["兙", "㐂", "𠀂"])
def test_a_chinese_character_without_a_reading_is_left_out(character: str, kokoro: KokoroEngine) -> None:
    convert = kokoro._converter("zh")
    assert convert(f"今天{character}，天气很好。") == convert("今天，天气很好。")


def phonemes_of(engine: HibariEngine | KokoroEngine, text: str) -> list[str]:
    """What each piece of a text is converted to, without the guard around the converters."""
    if isinstance(engine, HibariEngine):
        return [engine._phonemes(piece.text) for piece in split_sentences(text, 240, 140)]
    return [
        engine._phonemes(piece.text, main=main, voice=voice)
        for piece in split_sentences(text, 96, 56)
        for main, voice in (("en", "bf_emma"), ("zh", "zf_xiaobei"), (main_language(piece.text), "af_heart"))
    ]


@pytest.mark.parametrize("name", ["hibari", "kokoro"])
def test_no_converter_fails_on_odd_texts(name: str, engines: Engines) -> None:
    engine = engines(name)

    @settings(
        max_examples=100 if name == "hibari" else 40,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(odd_texts(max_pieces=4))
    def convert(text: str) -> None:
        phonemes_of(engine, text)

    convert()


def test_a_capital_of_two_characters_in_lower_case_is_converted(hibari: HibariEngine) -> None:
    assert hibari._phonemes("5kg. İ₫。İ₫。") == hibari._phonemes("5kg. I₫。I₫。")


def refuse(words: set[str]) -> Convert:
    """A converter that raises wherever one of the words is part of a text."""

    def convert(text: str) -> str:
        if any(word in text for word in words):
            raise ValueError(f"secret {text}")
        return text

    return convert


def test_what_a_converter_refuses_is_said_in_simpler_forms(caplog: pytest.LogCaptureFixture) -> None:
    tolerant = TolerantG2P("a voice", set(" .,'abcdefghijklmnopqrstuvwxyz1234567890"))
    assert tolerant(refuse(set()), "it stays, as it is.") == "it stays, as it is."
    assert tolerant(refuse({"①", "\u0301"}), "number ① ok, caf\u0301e.") == "number 1 ok, cafe."
    assert tolerant(refuse({"bad"}), "a bad word") == "a b a d word"
    assert tolerant(refuse({"b"}), "a bad word") == "a a d word"
    assert tolerant(refuse({""}), "nothing at all") == ""
    assert tolerant(refuse(set()), "ЖЖ.") == ""
    assert "secret" not in caplog.text
    assert "number" not in caplog.text
    assert len(caplog.records) == 2, "each kind of failure is told once"


def test_what_is_wrong_with_the_machine_is_not_hidden() -> None:
    def convert(text: str) -> str:
        raise ImportError("no such package")

    with pytest.raises(ImportError):
        TolerantG2P("a voice", "abc")(convert, "abc")


def test_a_sentence_without_a_sound_is_a_step_without_a_sound(hibari: HibariEngine) -> None:
    text = "This is English. வணக்கம் நண்பர்களே எப்படி இருக்கிறீர்கள். This is English again, and all of it."
    chunks = list(hibari.speak(SpeechRequest(text, "alloy", seed=0)))
    assert [chunk.size > 0 for chunk in chunks] == [True, False, True]
