"""Numerals of every script become the digits that converters read."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from stepaudiod.text.normalize import clean, normalize_chinese, normalize_english
from stepaudiod.text.plain import plain_text


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("① first, ⑴ second, ⒈ third", "1 first, 1 second, 1 third"),
        ("①②⑩㊿", "1 2 10 50"),
        ("❶ and ➁ and 🄂", "1 and 2 and 1"),
        ("Chapter Ⅳ, Ⅻ", "Chapter 4, 12"),
        ("٣٤ and ०१२ and 𝟗𝟠", "34 and 012 and 98"),
        ("x² and y³ and z¹⁰", "x squared and y cubed and z to the power of 10"),
        ("10⁻⁶", "10 to the power of minus 6"),
        ("H₂O", "H2O"),
        ("1½ cups, ⅔ full, 2⅓", "1 and 1/2 cups, 2/3 full, 2 and 1/3"),
        ("3⁄4", "3/4"),
        ("1'000'000 and 1'2", "1,000,000 and 1 2"),
    ],
)
def test_numerals_of_any_form_are_spelled_in_english(written: str, spoken: str) -> None:
    assert normalize_english(clean(written)) == spoken


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("第①章", "第一章"),
        ("⑴首先", "一首先"),
        ("Ⅳ期", "四期"),
        ("气温３２℃", "气温三十二摄氏度"),
        ("x²+y³", "x的平方加y的立方"),
        ("10⁶个", "十的六次方个"),
        ("面积5m²", "面积五平方米"),
        ("1½杯", "一又二分之一杯"),
        ("二〇二四年", "二零二四年"),
    ],
)
def test_numerals_of_any_form_are_spelled_in_chinese(written: str, spoken: str) -> None:
    assert normalize_chinese(clean(written)) == spoken


def test_only_digits_that_int_accepts_reach_the_english_converter() -> None:
    digits = [sign for sign in map(chr, range(sys.maxunicode + 1)) if sign.isdigit()]
    for text in (f"a {sign} b{sign}c {sign}{sign} 4{sign}" for sign in digits):
        spelled = normalize_english(clean(text))
        assert all(sign.isascii() for sign in spelled if sign.isdigit()), text
        assert any(sign.isdigit() for sign in clean(text)), text


def test_a_plain_text_has_letters_digits_and_common_marks_alone() -> None:
    assert plain_text("Ångström ﬁne №5 — x²/y… ok!\ud800\x00") == "Angstrom fine No5 x2 y... ok!"
    assert plain_text("你好，①⑴！") == "你好,1 1 !"
    for sign in map(chr, range(0, sys.maxunicode + 1, 7)):
        left = plain_text(sign)
        assert all(
            each.isalpha() or each.isspace() or each in "0123456789.,!?;:'。，！？；：、" for each in left
        )
        assert not any(each.isdigit() and not each.isascii() for each in left), unicodedata.name(sign, "")
