"""What an edit in the old containers' form means. Its words were free; the model knows a list of names.

A synonym, or a name in a longer text, becomes the model's name. Where `edit_info` names nothing known, the
text of `input` may: the old manual's examples have the wish there. What is changed or not followed is told in
warnings, never refused.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple
from urllib.parse import quote

from stepaudiod.edits import (
    EMOTIONS,
    INTENSITIES,
    MAX_INTENSITY,
    MAX_ITERATIONS,
    MIN_INTENSITY,
    REMOVE,
    SPEEDS,
    STYLES,
    Edit,
)
from stepaudiod.engines.instructions import follow, known_name
from stepaudiod.tags import has_tag
from stepaudiod.web.legacy_schemas import StepAudioForm

FEELINGS = {"emotion": EMOTIONS, "style": STYLES}
REMOVING = (REMOVE, "none", "neutral", "normal", "移除", "去除", "无")
MUCH_SLOWER, MUCH_FASTER = 0.7, 1.5
FACTOR = re.compile(r"(?<![\d.])x?(\d{1,2}(?:\.\d{1,3})?|\.\d{1,3})(?: ?(x|×|times|倍)|(?![\d.%]))", re.I)
PERCENT = re.compile(r"(?:(?<![\w.])([+−-]))?(\d{1,3}) ?%")
FAST = re.compile(r"\b(?:fast|faster|fastest|quick|quicker|quickly|speed up)\b|快|加速", re.I)
SLOW = re.compile(r"\b(?:slow|slower|slowest|slowly|slow down)\b|慢|减速", re.I)
MUCH = re.compile(r"\b(?:more|much|very|far|fastest|slowest)\b|非常|很|更加|最", re.I)
LISTED = "GET /v1/tags lists those that are known"
MAX_SHOWN = 40


class FoundEdit(NamedTuple):
    """What of the request's words can be followed.

    Attributes:
        edit: None if nothing can.
        used: the fields of `step_audio` that it follows, and `input`.
        warnings: ASCII, for a header.
    """

    edit: Edit | None
    used: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()


def find_edit(options: StepAudioForm, text: str) -> FoundEdit:
    """The edit of a recording; without one the recording is returned as it is.

    Raises:
        InvalidRequest: `paralinguistic` has no text.
    """
    iterations, warnings = _iterations(options.n_edit_iter)
    if options.mode in FEELINGS:
        found = _feeling(options, text)
    elif options.mode == "speed":
        found = _speed(options.edit_info, text)
    elif options.mode == "paralinguistic":
        told = () if has_tag(text) else ("the input has no tag and is spoken as it is; " + LISTED,)
        found = FoundEdit(Edit("paralinguistic", text=text), frozenset({"input"}), told)
    else:
        found = FoundEdit(Edit(options.mode))
    if found.edit is None:
        return found._replace(warnings=(*found.warnings, "the recording is unchanged"))
    edit = Edit(found.edit.kind, found.edit.info, found.edit.text, found.edit.intensity, iterations)
    return FoundEdit(edit, found.used | {"n_edit_iter"}, (*found.warnings, *warnings))


def find_feeling(options: StepAudioForm) -> FoundEdit:
    """The emotion or style of `edit_info` for speech; None without one."""
    if not options.edit_info or not options.edit_info.strip():
        return FoundEdit(None)
    found = _feeling(options, "")
    if found.edit is None or found.edit.info == REMOVE:
        return FoundEdit(None, warnings=(_unknown("emotion or style", options.edit_info),))
    iterations, warnings = _iterations(options.n_edit_iter)
    edit = Edit(found.edit.kind, found.edit.info, None, found.edit.intensity, iterations)
    return FoundEdit(edit, found.used | {"n_edit_iter"}, (*found.warnings, *warnings))


def _feeling(options: StepAudioForm, text: str) -> FoundEdit:
    """An emotion or a style."""
    info = options.edit_info or ""
    kind = "style" if options.mode == "style" else "emotion"
    if _without_translation(info).lower() in REMOVING:
        return FoundEdit(Edit(kind, REMOVE), frozenset({"edit_info"}))
    for source, words in (("edit_info", info), ("input", text)):
        if (named := _named_feeling(words, kind)) is not None:
            said = _shown(info) if source == "edit_info" else "what the input says"
            is_exact = _without_translation(words).lower() == named[1] and options.mode in (named[0], "clone")
            told = () if is_exact else (f"{said} is taken as the {named[0]} {named[1]}",)
            intensity, more = _intensity(options.intensity)
            edit = Edit(*named, intensity=intensity)
            return FoundEdit(edit, frozenset({source, "edit_info", "intensity"}), (*told, *more))
    return FoundEdit(None, warnings=(_unknown(kind, info),))


def _named_feeling(words: str, kind: str) -> tuple[str, str] | None:
    """A kind and one of its names: of the wanted kind first, then of the other."""
    written = _without_translation(words)
    for each in sorted(FEELINGS, key=lambda each: each != kind):
        if (name := known_name(FEELINGS[each], written)) in FEELINGS[each]:
            return each, name
    heard = follow(words).edit
    return None if heard is None else (heard.kind, heard.info or "")


def _without_translation(words: str) -> str:
    """The name in an option of the old page: `happy (开心)`."""
    return words.partition("(")[0].strip()


def _speed(info: str | None, text: str) -> FoundEdit:
    """One of the model's four speeds, from its name, a factor (`0.8x`) or other words."""
    for source, words in (("edit_info", info or ""), ("input", text)):
        if (name := pace(words)) is not None:
            told = () if source == "edit_info" else (f"what the input says is taken as the speed {name}",)
            return FoundEdit(Edit("speed", name) if name else None, frozenset({source, "edit_info"}), told)
    return FoundEdit(None, warnings=(_unknown("speed", info),))


def pace(words: str) -> str | None:
    """A speed in the model's words: 0.85x is `slower`; "" for 1x, None for no speed."""
    plain = " ".join(_without_translation(words).lower().replace("_", " ").split())
    if plain in SPEEDS:
        return plain
    factor = FACTOR.search(plain)
    if factor is not None and (factor[2] or factor[0] in (plain, "x" + factor[1])):
        return _named(float(factor[1]))
    for pattern, name in ((FAST, "faster"), (SLOW, "slower")):
        if pattern.search(plain):
            return f"more {name}" if MUCH.search(plain) else name
    percent = PERCENT.search(plain)
    if percent is None:
        return None
    sign, number = percent[1], int(percent[2])
    return _named((number if sign is None else 100 + number if sign == "+" else 100 - number) / 100)


def _named(factor: float) -> str:
    if factor == 1:
        return ""
    if factor < 1:
        return "slower" if factor > MUCH_SLOWER else "more slower"
    return "faster" if factor < MUCH_FASTER else "more faster"


def _intensity(given: float | str) -> tuple[float, tuple[str, ...]]:
    """The intensity within its limits."""
    try:
        number = INTENSITIES.get(str(given).strip().lower()) or float(given)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        return 1.0, (f"unknown intensity {_shown(str(given))}, taken as 1; words: {', '.join(INTENSITIES)}",)
    limited = min(max(number, MIN_INTENSITY), MAX_INTENSITY)
    return limited, () if limited == number else (f"the intensity {number:g} is taken as {limited:g}",)


def _iterations(given: int) -> tuple[int, tuple[str, ...]]:
    """The number of iterations within its limits."""
    limited = min(max(given, 1), MAX_ITERATIONS)
    return limited, () if limited == given else (f"n_edit_iter is taken as {limited}",)


def _unknown(what: str, value: str | None) -> str:
    if not value or not value.strip():
        return f"no {what} is named in edit_info; {LISTED}"
    return f"unknown {what} {_shown(value)}; {LISTED}"


def _shown(value: str) -> str:
    return f"'{quote(value.strip()[:MAX_SHOWN], safe=' ', errors='replace')}'"
