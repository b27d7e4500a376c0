"""Text normalization before the libraries' own, for written forms that they misread.

English numbers, dates, times and units are read by hibari's converter, Chinese ones by wetext's grammars.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

from stepaudiod.text.numerals import (
    chinese_powers_and_fractions,
    english_powers_and_fractions,
    plain_numerals,
)

_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u20e3\ufe00-\ufe0f\ufeff\ud800-\udfff]"
)
_PICTOGRAPHS = re.compile(
    "[\u2190\u2191\u2193-\u21ff\u2300-\u23ff\u2500-\u27bf\u2b00-\u2bff\ue000-\uf8ff\ufffc-\uffff"
    "\U0001f000-\U0001faff\U000e0000-\U0010ffff]+"
)
_EMPHASIS = re.compile(r"(?<![A-Za-z0-9_*])(\*\*|__|\*|_|~~|`)(?=\S)(.{1,400}?)(?<=\S)\1(?![A-Za-z0-9_])")
_HEADING = re.compile(r"^\s*#{1,6}\s+|`")
_FULL_WIDTH_CODES = (*range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))
_FULL_WIDTH = {code: code - 0xFEE0 for code in _FULL_WIDTH_CODES}
_FULL_WIDTH |= {
    ord("％"): "%",
    ord("．"): ".",
    ord("\u2044"): "/",
    ord("İ"): "I",  # two characters in lower case, which the English converter fails on
    ord("＄"): "$",
    ord("￥"): "¥",
    ord("＋"): "+",
    ord("－"): "-",
}


def clean(text: str) -> str:
    """Remove what is not pronounced: control characters, emoji, pictographs, Markdown emphasis.

    Numerals of every script become ASCII digits, except superscripts and fractions.
    """
    text = plain_numerals(text)
    text = _PICTOGRAPHS.sub(" ", _INVISIBLE.sub("", text))
    text = _HEADING.sub("", _EMPHASIS.sub(r"\2", text))
    return " ".join(unicodedata.normalize("NFC", text).translate(_FULL_WIDTH).split())


# ---- English

_NUMBER = r"\d+(?:,\d{3})*"
_WITH_COMMAS = re.compile(r"[0-9]+(?:,[0-9]+)+")
_GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+")
_WITH_APOSTROPHES = re.compile(r"(?<!\d)\d+(?:['‘’]\d+)+")
MAX_DIGITS = 36
"""The longest number that hibari's converter can spell."""

_MONEY = re.compile(
    rf"(?:US|CA|AU|NZ|HK)?([$£€])\s?({_NUMBER})(?:\.(\d+))?"
    r"(?:\s?(hundred|thousand|million|billion|trillion|bn|tn|[kKmMbB])\b)?(?![\d,.]*\d)"
)
_YUAN = re.compile(rf"(?:CN¥|RMB|CNY)\s?({_NUMBER}(?:\.\d+)?)")
_YEN = re.compile(rf"¥\s?({_NUMBER}(?:\.\d+)?)")
_UNITS_OF_MONEY = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
}
_SCALES = {"k": "thousand", "m": "million", "b": "billion", "bn": "billion", "tn": "trillion"}
_VERSION = re.compile(r"(?<![\w.])([vV]?\d+(?:\.\d+){2,})(?![\w]*\.\d)")
_PHONE = re.compile(r"(?<![\w.])(\+\d{1,3}[ -])?(?:\(\d{2,4}\) ?|\d{2,3}[ -])\d{3,4}[ -]\d{4}(?![\w-])")
_LONG_NUMBER = re.compile(r"(?<![\d,.])\d{13,}")
_TOO_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGITS + 1},}}")
_HEIGHT = re.compile(r"(\d)['’′](\d{1,2})[\"”″]")
_TIMES = re.compile(r"(?<=\d)(\s?)[x×](\s?)(?=\d)")
_RANGE_OF_PERCENT = re.compile(r"(?<![\w.-])(\d+(?:\.\d+)?)%?\s?[-–]\s?(\d+(?:\.\d+)?)%")
_ADDRESS = re.compile(r"\b(?:https?|ftp)://(?:www\.)?|\bwww\.(?=\w)")
_LONG_WORD = re.compile(r"\S{41,}")
_WORD_PARTS = re.compile(r"\S{1,39}\W|\S{1,40}")
"""The converter's time is cubic in a word's parts: 240 characters of "a/" take 5 s."""
_GREEK_LETTER = re.compile(r"(?<![\u0370-\u03ff])[\u0391-\u03a9\u03b1-\u03c9](?![\u0370-\u03ff])")


def _split_commas(match: re.Match[str]) -> str:
    """Separate a list at commas that don't group thousands; spell a too long number digit by digit."""
    written = match.group()
    if not _GROUPED.fullmatch(written):
        return written.replace(",", ", ")
    digits = written.replace(",", "")
    return written if len(digits) <= MAX_DIGITS else " ".join(digits)


def _replace_apostrophes(match: re.Match[str]) -> str:
    """Replace apostrophes by commas if they group thousands, else by spaces; the converter joins both."""
    with_commas = re.sub("['‘’]", ",", match.group())
    return with_commas if _GROUPED.fullmatch(with_commas) else with_commas.replace(",", " ")


def normalize_english(text: str) -> str:
    """Normalize English text, the output of `clean`, for hibari's converter."""
    text = english_powers_and_fractions(text)
    text = _ADDRESS.sub("", text).replace("№", "number ")
    text = _GREEK_LETTER.sub(_greek_name, text)
    if any(character.isdigit() for character in text):
        text = _english_numbers(text)
    return _LONG_WORD.sub(lambda word: " ".join(_WORD_PARTS.findall(word.group())), text)


def _english_numbers(text: str) -> str:
    """Rewrite numbers that the converter misreads or fails on."""
    text = _HEIGHT.sub(r"\1 foot \2", text)
    text = _WITH_APOSTROPHES.sub(_replace_apostrophes, text)
    text = _WITH_COMMAS.sub(_split_commas, text)
    text = _PHONE.sub(lambda phone: _spell_phone(phone.group()), text)
    text = _VERSION.sub(_version, text)
    text = _MONEY.sub(_money, text)
    text = _YUAN.sub(r"\1 yuan", text)
    text = _YEN.sub(r"\1 yen", text)
    text = _RANGE_OF_PERCENT.sub(r"\1 to \2%", text)
    text = _TIMES.sub(lambda sign: " times " if sign.group(1) else " by ", text)
    text = _LONG_NUMBER.sub(lambda number: " ".join(number.group()), text)
    return _TOO_LONG_NUMBER.sub(lambda number: " ".join(number.group()), text)


def _greek_name(match: re.Match[str]) -> str:
    name = unicodedata.name(match.group()).split()[3].lower()
    before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
    return f"{' ' * before.isalnum()}{name}{' ' * after.isalnum()}"


def _money(match: re.Match[str]) -> str:
    """Make "$1,234.50" "1,234 dollars and 50 cents": the converter applies a sign to the next number too."""
    sign, whole, fraction, scale = match.groups()
    one, many, small_one, small_many = _UNITS_OF_MONEY[sign]
    if scale:
        number = f"{whole}.{fraction}" if fraction else whole
        return f"{number} {_SCALES.get(scale.lower(), scale)} {many}"
    if fraction and len(fraction) != 2:
        return f"{whole}.{fraction} {many}"
    units = f"{whole} {one if whole == '1' else many}"
    cents = int(fraction or 0)
    if not cents:
        return units
    change = f"{cents} {small_one if cents == 1 else small_many}"
    return change if whole == "0" else f"{units} and {change}"


def _version(match: re.Match[str]) -> str:
    """Make "2.13.0" "2 point 13 point 0"; four numbers are an IP address and are read with "dot"."""
    parts = match.group().split(".")
    return (" dot " if len(parts) == 4 else " point ").join(parts)


def _spell_phone(phone: str) -> str:
    plus = "plus " if phone.startswith("+") else ""
    return plus + ", ".join(" ".join(group) for group in re.findall(r"\d+", phone))


# ---- Chinese

_HAN_DIGITS = str.maketrans("0123456789", "零一二三四五六七八九")
_THOUSANDS = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])")
_AMOUNT = r"(\d+(?:\.\d+)?)(?:\.00)?\s?([十百千万亿]*)"
_CURRENCIES = {
    "(?:CN)?¥|RMB|CNY": "元",
    "HK[$]": "港元",
    "(?:US)?[$]": "美元",
    "€": "欧元",
    "£": "英镑",
    "₩": "韩元",
}
_CURRENCY_BEFORE = [
    (re.compile(rf"(?:{sign})\s?{_AMOUNT}"), rf"\1\2{name}") for sign, name in _CURRENCIES.items()
]
_CURRENCY_AFTER = [(re.compile(rf"(?<=\d)\s?(?:{sign})"), name) for sign, name in _CURRENCIES.items()]
_WHOLE_AMOUNT = re.compile(r"(?<=\d)\.00(?=元|美元|欧元|英镑|港元)")
_MOBILE = re.compile(r"(?<!\d)(?:\+?(86)[- ]?)?(1[3-9]\d)[- ]?(\d{4})[- ]?(\d{4})(?!\d)")
_CODE = re.compile(r"((?:号码?|密码|验证码|编号|邮编|代码|尾号)(?:是|为|：|:)?\s?)(\d{4,})(?![\d.年月])")
_DISCOUNT = re.compile(r"(\d+)\.(\d+)折")
_LETTER_HYPHEN = re.compile(r"(?<=[A-Za-z])-(?=\d)")
_FLOOR = re.compile(r"(?<=[A-Za-z])2(?=[层楼座栋单号口])")
_DECADE = re.compile(r"(?<=\d{4})s(?![A-Za-z])")
_HAN_SYMBOLS = {
    "㎡": "平方米", "㎏": "千克", "㎜": "毫米", "㎝": "厘米", "㎞": "千米",
    "°C": "摄氏度", "℉": "华氏度", "°F": "华氏度", "№": "第", "〇": "零", "&": "和", "@": "艾特",
    "÷": "除以", "±": "正负", "≈": "约等于", "≥": "大于等于", "≤": "小于等于",
}  # fmt: skip
_REMAINING_SYMBOLS = str.maketrans(
    {"¥": "元", "$": "美元", "€": "欧元", "£": "英镑", "%": "百分号", "+": "加", "=": "等于"}
)


@cache
def _chinese_grammar() -> Any:
    from wetext import Normalizer

    return Normalizer(lang="zh", operator="tn")


def normalize_chinese(text: str) -> str:
    """Spell every number, date, amount and unit of a Chinese text, the output of `clean`.

    Latin words are left unchanged.
    """
    text = chinese_powers_and_fractions(text)
    for sign, name in _HAN_SYMBOLS.items():
        text = text.replace(sign, name)
    if any(character.isdigit() for character in text):
        text = _prepare_chinese(text)
        text = str(_chinese_grammar().normalize(text))
    text = text.translate(_REMAINING_SYMBOLS)
    return "".join(_digit(character) for character in text)


def _prepare_chinese(text: str) -> str:
    """Rewrite forms that wetext misreads or ignores."""
    text = _THOUSANDS.sub(lambda number: number.group().replace(",", ""), text)
    for sign, words in _CURRENCY_BEFORE:
        text = sign.sub(words, text)
    for sign, words in _CURRENCY_AFTER:
        text = sign.sub(words, text)
    text = _WHOLE_AMOUNT.sub("", text)
    text = _MOBILE.sub(_mobile, text)
    text = _CODE.sub(lambda code: code.group(1) + code.group(2).translate(_HAN_DIGITS), text)
    text = _DISCOUNT.sub(lambda cut: f"{cut.group(1)}点{cut.group(2).translate(_HAN_DIGITS)}折", text)
    text = _LETTER_HYPHEN.sub(" ", text)
    text = _FLOOR.sub("二", text)
    text = _DECADE.sub("年代", text)
    text = _TIMES.sub("乘", text)
    return _LONG_NUMBER.sub(lambda number: number.group().translate(_HAN_DIGITS), text)


def _mobile(match: re.Match[str]) -> str:
    """Spell a mobile number digit by digit; 1 is read "yāo", which can't be confused with 7."""
    country, *groups = match.groups()
    spoken = "".join(groups).translate(_HAN_DIGITS).replace("一", "幺")
    return f"加八六，{spoken}" if country else spoken


def _digit(character: str) -> str:
    """Spell a remaining digit, which the engine would drop."""
    if not character.isdigit():
        return character
    return str(unicodedata.digit(character)).translate(_HAN_DIGITS)
