r"""Converts digits of other scripts, enclosed numbers, superscripts and fractions to ASCII digits.

Python's `\d` and `isdigit` accept many characters that `int` or a number speller rejects. After
`plain_numerals` the only digits of a text are ASCII digits and superscripts.

    "第①章" ──► "第1章"    "⑴first" ──► "1 first"    "٣٤" ──► "34"    "H₂O" ──► "H2O"    "Ⅳ" ──► "4"
"""

from __future__ import annotations

import re
import unicodedata

SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉"
_POWER = re.compile(rf"⁻?[{SUPERSCRIPTS}]+")
_UNIT_WITH_POWER = re.compile(r"[0-9]\s?[a-zμµ]{0,2}m$")
_VULGAR = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
_FRACTION = re.compile(f"([0-9]?)([{_VULGAR}])")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_POWERS_IN_ENGLISH = {"2": " squared", "3": " cubed"}
_POWERS_IN_CHINESE = {"2": "的平方", "3": "的立方"}


def plain_numerals(text: str) -> str:
    """Convert numerals to ASCII digits, except superscripts and vulgar fractions (language-dependent)."""
    if text.isascii():
        return text
    return _NOT_ASCII.sub(_plain, text)


def _plain(match: re.Match[str]) -> str:
    symbol = match.group()
    if symbol in SUPERSCRIPTS or symbol in _VULGAR or not symbol.isnumeric():
        return symbol
    if symbol.isdecimal() or symbol in _SUBSCRIPTS:
        return str(unicodedata.digit(symbol))
    value = unicodedata.numeric(symbol)
    if symbol in "〇⅟" or unicodedata.category(symbol) not in ("No", "Nl") or value != int(value):
        return symbol
    # two adjacent symbols are two numbers
    before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
    return f"{' ' * _needs_space(before)}{int(value)}{' ' * _needs_space(after)}"


def _needs_space(neighbour: str) -> bool:
    """Whether a number written as one symbol needs a space between it and its neighbour."""
    return neighbour.isnumeric() or (neighbour.isascii() and neighbour.isalpha())


def english_powers_and_fractions(text: str) -> str:
    """Spell superscripts and vulgar fractions: "x¹⁰" is "x to the power of 10", "2⅓" is "2 and 1/3"."""

    def power(match: re.Match[str]) -> str:
        number = _number(match.group())
        spoken = _POWERS_IN_ENGLISH.get(number, f" to the power of {number}")
        return spoken + " " * match.string[match.end() :][:1].isalnum()

    return _FRACTION.sub(lambda match: _fraction(match, " and "), _POWER.sub(power, text))


def chinese_powers_and_fractions(text: str) -> str:
    """The same in Chinese: "x²" is "x的平方", "1½" is "1又1/2"; wetext's grammar handles "5m²" itself."""

    def power(match: re.Match[str]) -> str:
        number = _number(match.group())
        before = match.string[max(0, match.start() - 5) : match.start()]
        if number in _POWERS_IN_CHINESE and _UNIT_WITH_POWER.search(before):
            return match.group()
        return _POWERS_IN_CHINESE.get(number, f"的{number.replace('minus ', '负')}次方")

    return _FRACTION.sub(lambda match: _fraction(match, "又"), _POWER.sub(power, text))


def _number(superscripts: str) -> str:
    return unicodedata.normalize("NFKC", superscripts).replace("\u2212", "minus ")


def _fraction(match: re.Match[str], joiner: str) -> str:
    """Make "⅓" "1/3", joined to a whole number before it and separated from other neighbours."""
    whole, symbol = match.groups()
    ratio = unicodedata.normalize("NFKC", symbol).replace("\u2044", "/")
    before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
    ratio = f"{whole}{joiner}{ratio}" if whole else " " * _needs_space(before) + ratio
    return ratio + " " * _needs_space(after)
