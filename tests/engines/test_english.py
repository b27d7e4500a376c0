"""The converter's tables are searched as they are: everything in them is found as a parser finds it."""

from __future__ import annotations

import json

import pytest

from stepaudiod.engines.kokoro.english import load_g2p, read_table
from stepaudiod.engines.kokoro.sorted_json import SortedJson
from tests import judges


@pytest.mark.parametrize("name", ["us_gold", "us_silver", "gb_gold", "gb_silver"])
def test_every_word_of_a_lexicon_is_found(name: str) -> None:
    data = read_table(f"lexicon_{name}.json.gz")
    searched, parsed = SortedJson(data), json.loads(data)
    words = [*list(parsed)[:50], *list(parsed)[::7], *list(parsed)[-50:]]
    words += [word for word, value in parsed.items() if not isinstance(value, str)]
    assert {word: searched.get(word) for word in words} == {word: parsed[word] for word in words}
    assert hasattr(searched.get, "cache_info"), "it was parsed"


@pytest.mark.parametrize(
    "word", ["", "!", "zzzz", "aaaa", "DEFAULT", "VERB", "canoe\0", "été", "\ud800", '","a']
)
def test_a_word_that_is_not_there_is_not_found(word: str) -> None:
    assert SortedJson(read_table("lexicon_us_gold.json.gz")).get(word) is None


@pytest.mark.parametrize(
    "value", [{}, {"a": "1"}, {"a": {"X": "1", "Y": None}, "b": "2"}, {"b": "1", "a": "2"}]
)
def test_small_and_unsorted_objects_are_read_too(value: dict[str, object]) -> None:
    searched = SortedJson(json.dumps(value, separators=(",", ":")).encode())
    assert {key: searched.get(key) for key in ("a", "b", "c")} == {
        key: value.get(key) for key in ("a", "b", "c")
    }


def test_every_weight_of_the_tagger_is_found() -> None:
    tagger = load_g2p().tagger
    parsed = json.loads(read_table("tagger.json.gz"))
    assert (tagger.tagdict, tagger.tags, tagger.vocab) == (
        parsed["tagdict"],
        parsed["tags"],
        set(parsed["vocab"]),
    )
    assert {feature: tagger.weights.get(feature) for feature in parsed["weights"]} == parsed["weights"]
    assert [tagger.weights.get(feature) for feature in ("", "w=\ud800", 'w="', "no")] == [None] * 4


@pytest.mark.parametrize("british", [False, True])
def test_it_converts_as_the_library_does(british: bool) -> None:
    from hibari.g2p import G2P

    ours, theirs = load_g2p(british), G2P(british=british)
    for text in (
        *judges.HARVARD,
        "I read what she had read; Dr. Smith's lead pipe, 3.5 m of it!",
        "Zyrgl qwop.",
    ):
        assert ours(text) == theirs(text)
