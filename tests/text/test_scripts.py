"""Language detection and runs of one language."""

from __future__ import annotations

import pytest

from stepaudiod.text.scripts import main_language, runs
from stepaudiod.text.speakable import is_speakable
from stepaudiod.text.spoken import spoken_runs


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Hello there.", "en"),
        ("Café Zoë naïve", "en"),
        ("你好，世界。", "zh"),
        ("我的iPhone坏了", "zh"),
        ("速度120km/h，重5kg", "zh"),
        ("U盘，T恤", "zh"),
        ("The city of 北京 is large and very old.", "en"),
        ("こんにちは、世界", "ja"),
        ("Привет, мир", "other"),
        ("12345", "en"),
        ("", "en"),
    ],
)
def test_the_main_language_is_what_most_of_the_text_is_in(text: str, language: str) -> None:
    assert main_language(text) == language


def test_digits_belong_to_the_language_around_them() -> None:
    assert [(run.language, run.text) for run in runs("我有3个apples and 4 pears。", "zh")] == [
        ("zh", "我有3个"),
        ("en", "apples and 4 pears。"),
    ]


@pytest.mark.parametrize(
    "text", ["我有3个apples and 4 pears。", "a1中2b3文4", "  ", "！？", "x 中", "（hello）你好"]
)
def test_runs_lose_nothing(text: str) -> None:
    assert "".join(run.text for run in runs(text)) == text


def test_several_english_words_keep_their_number_and_a_single_one_does_not() -> None:
    phrase = [(run.language, run.text) for run in spoken_runs("我用iPhone 15 Pro Max拍照", "zh")]
    assert phrase == [("zh", "我用"), ("en", "iPhone 15 Pro Max"), ("zh", "拍照")]
    lone = [(run.language, run.text) for run in spoken_runs("一块H100显卡", "zh")]
    assert lone == [("zh", "一块"), ("en", "H"), ("zh", "一百显卡")]


@pytest.mark.parametrize("text", ["", " \n\t", "😀😀", "…!?。，", "🇨🇳👍🏽", "___", "$ € %"])
def test_text_without_a_letter_or_digit_is_not_speakable(text: str) -> None:
    assert not is_speakable(text)


@pytest.mark.parametrize("text", ["a", "1", "好", "😀 ok", "½", "é"])
def test_a_letter_or_a_digit_makes_it_speakable(text: str) -> None:
    assert is_speakable(text)
