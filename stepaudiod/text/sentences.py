"""Splits a text of any length into pieces that an engine can synthesize at a time.

    text ──► sentence marks, newlines ──► short ones joined ──► long ones cut at clauses, spaces, characters

The splitter is lazy and linear: the first piece of 10 MB comes at once, and no input makes it slow.
Lengths are *spoken lengths*: a Chinese character is a syllable and counts as four Latin letters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from stepaudiod.text.speakable import is_speakable

WIDE_COST = 4
"""Spoken length of a character of a syllabic or logographic script."""

SHORT = 14
"""A sentence of less spoken length is joined with the next one: voices pronounce single words badly."""

LOOK_BACK = 24
"""Number of characters before a full stop that are searched for an abbreviation."""

LONG = 2_000
"""After more characters than this, the next mark ends the sentence, whatever it means."""

WRAPPED_LINE = 55
"""A line of at least this length without an end mark was probably wrapped by an editor."""


class Break(Enum):
    """What follows a piece; determines the silence after it."""

    NONE = "none"
    CLAUSE = "clause"
    SENTENCE = "sentence"
    PARAGRAPH = "paragraph"


class Piece(NamedTuple):
    text: str
    after: Break


_CLOSING = "\"'”’»)\\]】）》」』〕"
_MARKS = re.compile(rf"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*|[.!?;…。！？；｡]+[{_CLOSING}]*", re.UNICODE)
_NEWLINE = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_WIDE = re.compile(
    r"[\u1100-\u11ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff01-\uff60\U00020000-\U0003ffff]"
)
_CLAUSE_MARK = re.compile(
    r"[,:][\"'”’)\]]*(?=\s)|[，、：][”’」』）】》]*|[—–]+|(?<=\s)-(?=\s)|[)）\]】](?=\s)"
)
_OPENING = "\"'“‘«(（[【《「『〔"
_PHRASE_START = re.compile(
    r"\s(?=(?:and|but|or|because|which|that|who|when|while|where|if|so|then|with|for|to|in|on|at|from|as)\s)"
    r"|(?<=[\u4e00-\u9fff])(?=然后|但是|所以|因为|而且|如果|虽然|接着|并且|或者|可是|以及|最后|不过|因此)"
    r"|(?<=[\u4e00-\u9fff][了的着过吗呢吧])(?=[\u4e00-\u9fff])"
)
"""The best places to cut a sentence without punctuation: before a conjunction, after a particle."""

_BULLET = re.compile(r"^[-*•–·]\s+")
_FULL_WIDTH_MARKS = frozenset("。！？；｡")
_ABBREVIATIONS = frozenset(
    """
    mr mrs ms dr prof st mt ft gen gov sen rep capt lt col sgt cmdr rev hon pres supt cpl maj adm fr msgr sr
    jr messrs mme mlle vs etc eg ie cf al approx est dept fig figs no nos vol vols ed eds pp ch sec art
    inc ltd co corp bros jan feb mar apr jun jul aug sep sept oct nov dec
    mon tue tues wed thu thur thurs fri sat sun ave blvd rd hwy
    """.split()  # noqa: SIM905
)
_MAY_END = frozenset("etc inc ltd co corp bros jr sr al ave blvd rd hwy est".split())  # noqa: SIM905
"""Abbreviations that may also end a sentence, if a capital letter follows."""


def split_sentences(text: str, limit: int = 240, first_limit: int = 100) -> Iterator[Piece]:
    """Cut a text into speakable pieces in order, with whitespace collapsed.

    A piece's spoken length is at most `limit`; the first one's is smaller, so that audio starts early.
    """
    allowed = first_limit = min(first_limit, limit)
    for sentence in _joined(_sentences(text), first_limit, limit):
        for piece in _cut(sentence, allowed, limit):
            yield piece
            allowed = limit


def spoken_length(text: str) -> int:
    """The length of a text when spoken, in Latin letters."""
    return len(text) if text.isascii() else len(text) + (WIDE_COST - 1) * sum(1 for _ in _WIDE.finditer(text))


def _sentences(text: str) -> Iterator[Piece]:
    """Split at every mark that ends a sentence; omit empty and unspeakable ones."""
    start = 0
    line_start = 0
    for mark in _MARKS.finditer(text):
        end = mark.end()
        if _NEWLINE.match(mark.group()):
            after = _after_newline(text, line_start, mark)
            line_start = end
        else:
            after = _after_mark(text, mark, line_start)
        if after is Break.NONE and end - start < LONG:
            continue
        yield from _tidy(text, start, end, after)
        start = end
    yield from _tidy(text, start, len(text), Break.PARAGRAPH)


def _tidy(text: str, start: int, end: int, after: Break) -> Iterator[Piece]:
    sentence = _BULLET.sub("", " ".join(text[start:end].split()))
    if is_speakable(sentence):
        yield Piece(sentence, after)


def _after_newline(text: str, line_start: int, mark: re.Match[str]) -> Break:
    if len(_NEWLINE.findall(mark.group())) > 1:
        return Break.PARAGRAPH
    before, following = text[mark.start() - 1 : mark.start()], text[mark.end() : mark.end() + 1]
    wrapped = mark.start() - line_start >= WRAPPED_LINE and before.isalnum() and not _WIDE.match(before)
    if following.islower() or before in (",", "，", "、", "-") or wrapped:
        return Break.NONE
    return Break.SENTENCE


def _after_mark(text: str, mark: re.Match[str], line_start: int) -> Break:
    """What a run of end marks, with closing quotes after it, ends."""
    marks = mark.group()
    last = marks.rstrip("\"'”’»)]】）》」』〕")[-1]
    if last in _FULL_WIDTH_MARKS:
        return Break.CLAUSE if last == "；" else Break.SENTENCE
    following = text[mark.end() : mark.end() + 1]
    letter_like = following.isalnum() or following.isascii()  # not an emoji
    if following and letter_like and not following.isspace() and not _WIDE.match(following):
        return Break.NONE
    if last == ";":
        return Break.CLAUSE
    if following and _continues(text, mark.end()):
        return Break.NONE
    if marks == "." and (
        _is_abbreviation(text, mark.start(), following) or _is_list_number(text, line_start, mark.start())
    ):
        return Break.NONE  # "Dr." and the numbers of a list
    return Break.SENTENCE


def _is_list_number(text: str, line_start: int, stop: int) -> bool:
    return stop - line_start < LOOK_BACK and text[line_start:stop].strip().isdecimal()


def _continues(text: str, position: int) -> bool:
    """Whether the text after `position` begins in lower case, and so belongs to the same sentence."""
    following = text[position : position + 4].lstrip().lstrip(_OPENING)
    return following[:1].islower()


def _is_abbreviation(text: str, stop: int, following: str) -> bool:
    """Whether the full stop at `stop` belongs to an abbreviation or an initial."""
    words = text[max(0, stop - LOOK_BACK) : stop].split()
    if not words or text[stop - 1].isspace() or not following.isspace():
        return False
    word = words[-1].lstrip(_OPENING)
    if len(word) == 1:
        return (word.isupper() and word != "I") or word == "p"
    bare = word.replace(".", "")
    if "." in word:  # e.g. U.S. Ph.D. a.m.: a capital after the lower-case ones ends the sentence
        return bare.isalpha() and len(bare) <= 4 and bare.lower() not in ("am", "pm")
    if bare.lower() in ("no", "nos"):  # "No. 5", and the answer "No."
        return text[stop + 1 : stop + 3].strip()[:1].isdigit()
    return bare.lower() in _ABBREVIATIONS and bare.lower() not in _MAY_END


def _joined(sentences: Iterator[Piece], first_limit: int, limit: int) -> Iterator[Piece]:
    """Join a short sentence with the next one of its paragraph."""
    held: Piece | None = None
    bound = first_limit
    for sentence in sentences:
        if held is not None:
            together = Piece(_join(held.text, sentence.text), sentence.after)
            if spoken_length(together.text) <= bound:
                sentence = together
            else:
                yield held
                bound = limit
            held = None
        if sentence.after is not Break.PARAGRAPH and spoken_length(sentence.text) < SHORT:
            held = sentence
            continue
        yield sentence
        bound = limit
    if held is not None:
        yield held


def _join(left: str, right: str) -> str:
    """Join two sentences; add a full stop if the first ends without a mark."""
    wide = _WIDE.match(left[-1]) is not None
    if left[-1].isalnum():
        left += "。" if wide else "."
    return left + right if wide else f"{left} {right}"


def _cut(sentence: Piece, first_limit: int, limit: int) -> Iterator[Piece]:
    """Cut a sentence that is longer than the limit at the best place before it."""
    text = sentence.text
    start = 0
    allowed = first_limit
    while True:
        window = _window(text, start, allowed)
        if start + window >= len(text):
            if is_speakable(text[start:]):
                yield sentence._replace(text=text[start:].strip())
            return
        cut, after = _best_cut(text, start, start + window)
        if is_speakable(text[start:cut]):
            yield Piece(text[start:cut].strip(), after)
            allowed = limit
        start = cut


def _window(text: str, start: int, limit: int) -> int:
    """The number of characters from `start` whose spoken length is at most `limit`."""
    candidate = text[start : start + limit]
    if candidate.isascii():
        return len(candidate)
    length = 0
    for count, character in enumerate(candidate):
        length += WIDE_COST if _WIDE.match(character) else 1
        if length > limit:
            return max(count, 1)
    return len(candidate)


def _best_cut(text: str, start: int, end: int) -> tuple[int, Break]:
    """Where to cut `text[start:end]`: after a clause, else before a phrase, at a space, between letters."""
    earliest = start + (end - start) // 3
    clause = -1
    for mark in _CLAUSE_MARK.finditer(text, start, min(end + 1, len(text))):
        if earliest < mark.end() <= end:
            clause = mark.end()
    if clause > 0:
        return clause, Break.CLAUSE
    phrases = [mark.start() for mark in _PHRASE_START.finditer(text, earliest + 1, end)]
    if phrases:
        return phrases[-1], Break.NONE
    space = text.rfind(" ", earliest, end + 1)
    if space > start:
        return space, Break.NONE
    for position in range(end, earliest, -1):
        if _WIDE.match(text[position - 1]) or _WIDE.match(text[position]):
            return position, Break.NONE
    return end, Break.NONE
