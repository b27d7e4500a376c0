"""Sentence splitting: the cuts, completeness, and linear time."""

from __future__ import annotations

import time

import pytest

from stepaudiod.text.sentences import Break, split_sentences, spoken_length


def pieces(text: str, limit: int = 240, first_limit: int = 240) -> list[str]:
    return [piece.text for piece in split_sentences(text, limit, first_limit)]


def test_english_and_chinese_marks_end_sentences_alike() -> None:
    assert pieces(
        "The first one is here. Is the second one here? The third one is! Done now; really so."
    ) == [
        "The first one is here.",
        "Is the second one here?",
        "The third one is!",
        "Done now; really so.",
    ]
    assert pieces("今天天气很好。我们出去玩吗？好的，马上就走！这是第一条；这是第二条。") == [
        "今天天气很好。",
        "我们出去玩吗？",
        "好的，马上就走！",
        "这是第一条；",
        "这是第二条。",
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "Dr. Smith and Mrs. Jones met Prof. Brown on St. Mark's Square.",
        "It was written by J. R. R. Tolkien in the U.K. a long time ago.",
        "It costs 3.50 dollars and version 2.13.0 weighs .5 grams, e.g. in Fig. 3 of it.",
        "We left at 5 p.m. and came back at noon, i.e. too late.",
        "He said... nothing at all… and left us there.",
        "“Stop right there!” she said to the man.",
        "The address is example.com and the file is called notes.txt today.",
        "价格是3.5元，版本是2.13.0，不贵。",
    ],
)
def test_a_mark_that_ends_no_sentence_cuts_nothing(sentence: str) -> None:
    assert pieces(sentence) == [sentence]


def test_a_closing_quote_stays_with_its_sentence() -> None:
    assert pieces("“这是真的吗，先生？”他轻轻地问了一句。") == ["“这是真的吗，先生？”", "他轻轻地问了一句。"]
    assert pieces('She asked: "Is it really true?" Then no one answered.') == [
        'She asked: "Is it really true?"',
        "Then no one answered.",
    ]


def test_an_empty_line_ends_a_paragraph_and_a_wrapped_line_does_not() -> None:
    text = (
        "A heading of some length\n\nThe text under it was\nwrapped by an editor.\nAnd here is the next line."
    )
    assert [(piece.text, piece.after) for piece in split_sentences(text)] == [
        ("A heading of some length", Break.PARAGRAPH),
        ("The text under it was wrapped by an editor.", Break.SENTENCE),
        ("And here is the next line.", Break.SENTENCE),
    ]


def test_single_words_join_the_next_sentence() -> None:
    assert pieces("Yes. No. Well, I am not so sure about that.") == [
        "Yes. No. Well, I am not so sure about that."
    ]


def test_the_numbers_of_a_list_stay_with_their_items() -> None:
    assert pieces("1. Take the large bowl out\n2. Pour in the milk slowly\n- Stir it for a minute") == [
        "1. Take the large bowl out",
        "2. Pour in the milk slowly",
        "Stir it for a minute",
    ]


def test_all_pieces_are_speakable() -> None:
    assert pieces("😀😀! ... ？！ \n\n —— ** \t") == []
    assert pieces("...! Hello there, my friend. ???") == ["Hello there, my friend."]


@pytest.mark.parametrize(
    "text",
    [
        "word " * 500,
        "没有标点的长句子" * 200,
        "mixed 中文 and English words " * 100,
        "x" * 5_000,
        "one, two, three, " * 200,
        "逗号，" * 500,
    ],
)
def test_a_run_without_end_marks_is_cut_under_the_limit_and_loses_nothing(text: str) -> None:
    parts = pieces(text, limit=100, first_limit=40)
    assert all(spoken_length(part) <= 100 for part in parts)
    assert spoken_length(parts[0]) <= 40
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_a_long_sentence_is_cut_at_its_clauses_first() -> None:
    text = "When the rain had stopped at last, they walked along the river, and no one said a word."
    assert pieces(text, limit=50) == [
        "When the rain had stopped at last,",
        "they walked along the river,",
        "and no one said a word.",
    ]


def test_a_number_is_never_cut() -> None:
    text = "They counted 1,234,567,890 grains and 9,876,543,210 stones in 1,000,000 boxes " * 3
    assert [word for part in pieces(text, limit=30) for word in part.split()] == text.split()


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "汉",
        ".",
        "a. ",
        "Dr. ",
        "\n",
        "\n ",
        " ",
        "hello world ",
        "a,",
        '."',
        "好。",
        "1234567890",
        " - ",
        "a) ",
        "😀",
    ],
)
def test_time_grows_no_faster_than_the_text(unit: str) -> None:
    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        start = time.process_time()
        for _ in split_sentences(text):
            pass
        return time.process_time() - start

    small, large = min(seconds(100_000) for _ in range(3)), seconds(800_000)
    assert large < 8 * 3 * small + 0.2


def test_the_first_piece_of_ten_megabytes_comes_at_once() -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 230_000
    start = time.process_time()
    first = next(split_sentences(text))
    assert first.text == "The quick brown fox jumps over the lazy dog."
    assert time.process_time() - start < 0.1
