"""Language detection by script: English, Chinese, Japanese or other; and runs of one language.

Letters decide: Han is Chinese (Japanese if there are kana as well), Latin is English. Digits, symbols and
spaces belong to their neighbours:

    "我买了3个apples and 4 pears。"  ──►  zh "我买了3个"  en "apples and 4 pears"  zh "。"
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

SAMPLE = 20_000
"""Number of characters that are examined for language detection."""

HAN = r"\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
LATIN = (
    r"A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0300-\u036f\u1e00-\u1eff"
    r"\uff21-\uff3a\uff41-\uff5a"
)
KANA = r"\u3041-\u3096\u30a1-\u30fa\u31f0-\u31ff\uff66-\uff9d"
GREEK = r"\u0370-\u03ff"

# strings, which `re` compiles at first use: the front imports this module and rarely needs them
_HAN = f"[{HAN}]"
_LATIN_WORD = rf"(?<![{LATIN}\d/'’])(?:[AaI](?![{LATIN}\d])|[{LATIN}]{{2,}}(?!\d))"
_LATIN = f"[{LATIN}]"
_KANA = f"[{KANA}]"
_LETTER = r"[^\W\d_]"
_FOREIGN = rf"[^\W\d_{HAN}{LATIN}{GREEK}\u00b5\u2100-\u214f]"
_LONE_GREEK = rf"(?<![{GREEK}])[\u0391-\u03a9\u03b1-\u03c9](?![{GREEK}])"
_STRONG = rf"(?P<zh>[{HAN}]+)|(?P<en>[{LATIN}]+)"


class Run(NamedTuple):
    language: str
    text: str


def main_language(text: str) -> str:
    """The language of most of the text: "en", "zh", "ja" or "other".

    Four Chinese characters count as much as three Latin words; units and single letters ("5kg", "U盘") don't
    count. Text without letters is English.
    Compatibility characters are decomposed: "①" is a digit, "㎏" is Latin.
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
    """Replace compatibility characters by the letters and digits that they stand for."""
    compatible = unicodedata.normalize("NFKC", text)[:SAMPLE]  # one character may become eighteen
    return "".join(
        "1" if character.isnumeric() and not character.isalpha() else character for character in compatible
    )


def has_chinese(text: str) -> bool:
    return not text.isascii() and re.search(_HAN, text) is not None


def has_letters(text: str) -> bool:
    return re.search(_LETTER, _compatible(text)) is not None


def has_letters_of(text: str, languages: tuple[str, ...]) -> bool:
    """Whether the text has letters of one of the languages, or only digits and symbols.

    Single Greek letters count as English, which has names for them.
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
    """Split a sentence into runs of one language, which together are the text; `main` is its main language.

    Digits and symbols between two runs of one language belong to it; between an English and a Chinese run
    they belong to the main language, as in reading aloud.
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
    """Where the first run ends in the neutral characters between two runs."""
    between = text[left:right]
    if not any(character.isdigit() for character in between):
        # opening brackets and quotes belong to the second run, everything else to the first
        while right > left and text[right - 1] in "\"'“‘«(（[【《「『〔":
            right -= 1
        return right
    return right if before == main else left
