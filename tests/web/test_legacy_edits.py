"""The words of an edit in the old containers' form, to names that the model knows."""

from __future__ import annotations

from typing import Any

import pytest

from stepaudiod.edits import EMOTIONS, SPEEDS, STYLES
from stepaudiod.web.legacy_edits import find_edit, find_feeling, pace
from stepaudiod.web.legacy_schemas import StepAudioForm


def options(mode: str, info: object = None, **more: Any) -> StepAudioForm:
    return StepAudioForm.model_validate({"mode": mode, "edit_info": info, **more})


@pytest.mark.parametrize("kind", ["emotion", "style"])
def test_every_name_of_the_model_is_taken_without_a_warning(kind: str) -> None:
    for name in EMOTIONS if kind == "emotion" else STYLES:
        for written in (name, name.upper(), f" {name} ", f"{name} (开心)"):
            edit, used, warnings = find_edit(options(kind, written), "")
            assert edit is not None
            assert (edit.kind, edit.info) == (kind, name)
            assert "edit_info" in used
            assert warnings == ()


@pytest.mark.parametrize(
    ("mode", "info", "text", "found"),
    [
        ("style", "formal", "", ("style", "serious")),
        ("emotion", "formal", "", ("style", "serious")),
        ("emotion", "a bit sad", "", ("emotion", "sad")),
        ("emotion", "", "把这段录音调整成更开心的语气。", ("emotion", "happy")),
        ("style", "xyzzy", "Whisper it, please.", ("style", "whisper")),
        ("style", "移除", "", ("style", "remove")),
        ("emotion", "None", "", ("emotion", "remove")),
        ("emotion", "xyzzy", "Hello there.", None),
        ("emotion", None, "", None),
        ("speed", "xyzzy", "放慢到0.8x。", ("speed", "slower")),
        ("speed", None, "", None),
    ],
)
def test_other_words_are_taken_as_the_nearest_name_or_nothing(
    mode: str, info: str | None, text: str, found: tuple[str, str] | None
) -> None:
    edit, _, warnings = find_edit(options(mode, info), text)
    assert (None if edit is None else (edit.kind, edit.info)) == found
    assert warnings or (edit is not None and edit.info == "remove")
    assert all(warning.isascii() for warning in warnings)


@pytest.mark.parametrize(
    ("words", "speed"),
    [
        *((name, name) for name in SPEEDS),
        *((words, "slower") for words in ("0.8x", "x0.9", ".9x", "80%", "0.8", "0.8倍", "slow", "慢一点")),
        *((words, "more slower") for words in ("0.5x", "50%", "much slower", "very slowly", "非常慢")),
        *((words, "faster") for words in ("1.2X", "1.25", "120%", "20% faster", "Faster (更快)", "加快")),
        *((words, "more faster") for words in ("2x", "1.5", "3 times", "far faster", "99x")),
        *((words, "") for words in ("1x", "1", "1.0", "100%")),
        *((words, "slower") for words in ("-10%", "80-90%", "减速")),
        *((words, "faster") for words in ("+20%", "speed +5%", "加速")),
        ("−40%", "more slower"), ("More_Faster", "more faster"), ("+0%", ""),
        *((words, None) for words in ("", "xyzzy", "1.2.3", "in 2026", "page 2 of 3")),
    ],
)  # fmt: skip
def test_a_speed_may_be_a_factor_or_words(words: str, speed: str | None) -> None:
    assert pace(words) == speed


@pytest.mark.parametrize(
    ("given", "taken", "is_warned"),
    [
        (1.5, 1.5, False), ("2", 2.0, False), ("Dramatically", 3.0, False), (0, 0.1, True), (-1, 0.1, True),
        (9, 3.0, True), ("1e400", 3.0, True), ("nan", 1.0, True), ("very", 1.0, True), ("强", 1.0, True),
    ],
)  # fmt: skip
def test_an_intensity_is_limited(given: float | str, taken: float, is_warned: bool) -> None:
    edit, _, warnings = find_edit(options("emotion", "sad", intensity=given), "")
    assert edit is not None
    assert edit.intensity == taken
    assert bool(warnings) is is_warned


def test_speech_has_an_emotion_only_if_it_is_named() -> None:
    assert find_feeling(options("clone", " ")) == (None, frozenset(), ())
    for info in ("xyzzy", "remove"):
        edit, used, warnings = find_feeling(options("clone", info))
        assert edit is None
        assert used == frozenset()
        assert info in warnings[0]
    edit, _, warnings = find_feeling(options("clone_with_style", "whisper"))
    assert edit is not None
    assert (edit.kind, edit.info, warnings) == ("style", "whisper", ())


def test_a_long_value_makes_a_short_warning() -> None:
    _, _, warnings = find_edit(options("style", "绿" * 10_000), "")
    assert len("; ".join(warnings)) < 600
