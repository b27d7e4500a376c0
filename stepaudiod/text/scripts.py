"""Which languages a text is in, and its runs by language. Knows English, Chinese, and "something else".

Letters decide: Han is Chinese (unless kana stand beside it: then it is Japanese), Latin is English. Digits,
symbols and spaces belong to their neighbours:

    "我买了3个apples and 4 pears。"  ──►  zh "我买了3个"  en "apples and 4 pears"  zh "。"
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

SAMPLE = 20_000
"""How many characters are looked at to tell a text's main language, and what its signs stand for."""

HAN = r"\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
LATIN = (
    r"A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0300-\u036f\u1e00-\u1eff"
    r"\uff21-\uff3a\uff41-\uff5a"
)
KANA = r"\u3041-\u3096\u30a1-\u30fa\u31f0-\u31ff\uff66-\uff9d"
GREEK = r"\u0370-\u03ff"

# strings, which `re` compiles at their first use: the front imports this module and seldom needs them
_HAN = f"[{HAN}]"
_LATIN_WORD = rf"(?<![{LATIN}\d/'’])(?:[AaI](?![{LATIN}\d])|[{LATIN}]{{2,}}(?!\d))"
_LATIN = f"[{LATIN}]"
_KANA = f"[{KANA}]"
_LETTER = r"[^\W\d_]"
_FOREIGN = rf"[^\W\d_{HAN}{LATIN}{GREEK}\u00b5\u2100-\u214f]"
_LONE_GREEK = rf"(?<![{GREEK}])[\u0391-\u03a9\u03b1-\u03c9](?![{GREEK}])"
_STRONG = rf"(?P<zh>[{HAN}]+)|(?P<en>[{LATIN}]+)"


class Run(NamedTuple):
    """A stretch of text in one language."""

    language: str
    text: str


def main_language(text: str) -> str:
    """The language that most of the text is in: "en", "zh", "ja" or "other".

    Four Chinese characters weigh as much as three Latin words; units and lone letters ("5kg", "U盘") weigh
    nothing. Text without letters is English. Signs count as what they stand for: "①" is a digit, "㎏" Latin.
    """
    if text.isascii():
        return "en"
    sample = _compatible(text[:SAMPLE])
    han = len(re.findall(_HAN, sample))
    words = len(re.findall(_LATIN_WORD, sample))
    kana = len(re.findall(_KANA, sample))
    foreign = len(re.findall(_FOREIGN, sample)) - kana
    latin = len(re.findall(_LATIN, sample))
    if kana > 0.1 * (han + kana) and han + kana > words:
        return "ja"
    if foreign > han + latin:
        return "other"
    return "zh" if han and 0.75 * han >= words else "en"


def _compatible(text: str) -> str:
    """The text with letters and digits in place of signs that stand for them; any number is a digit."""
    compatible = unicodedata.normalize("NFKC", text)[:SAMPLE]  # one sign may stand for eighteen
    return "".join("1" if sign.isnumeric() and not sign.isalpha() else sign for sign in compatible)


def has_chinese(text: str) -> bool:
    """Whether there is any Han character."""
    return not text.isascii() and re.search(_HAN, text) is not None


def has_letters(text: str) -> bool:
    """Whether there is a letter of any script."""
    return re.search(_LETTER, _compatible(text)) is not None


def has_letters_of(text: str, languages: tuple[str, ...]) -> bool:
    """Whether anything here can be said in one of the languages: their letters, or digits.

    English has names for Greek letters that stand alone.
    """
    if text.isascii():
        return "en" in languages or not re.search(_LETTER, text)
    if ("en" in languages and re.search(_LATIN, text)) or ("zh" in languages and has_chinese(text)):
        return True
    text = _compatible(text[:SAMPLE])
    if "en" in languages and re.search(f"{_LATIN}|{_LONE_GREEK}", text):
        return True
    return ("zh" in languages and has_chinese(text)) or not re.search(_LETTER, text)


def runs(text: str, main: str | None = None) -> Iterator[Run]:
    """Split text into runs by language, nothing lost.

    Digits and symbols between two Chinese runs are Chinese, between two English ones English; between one
    of each they belong to the main language, since that is how people read them aloud.

    Args:
        text: one sentence, say.
        main: its main language; found out if not given.
    """
    main = main or main_language(text)
    marks = [(match.start(), match.lastgroup or main) for match in re.finditer(_STRONG, text)]
    if not marks:
        if text:
            yield Run("zh" if main == "zh" else "en", text)
        return
    start, language = 0, marks[0][1]
    end = 0
    for match in re.finditer(_STRONG, text):
        if (found := match.lastgroup) != language:
            border = _border(text, end, match.start(), language, main)
            yield Run(language, text[start:border])
            start, language = border, found or main
        end = match.end()
    yield Run(language, text[start:])


def _border(text: str, left: int, right: int, before: str, main: str) -> int:
    """Where in the neutral stretch between two runs the one ends and the other begins."""
    between = text[left:right]
    if not any(character.isdigit() for character in between):
        # opening brackets and quotes go with what they open, everything else stays behind
        while right > left and text[right - 1] in "\"'“‘«(（[【《「『〔":
            right -= 1
        return right
    return right if before == main else left
