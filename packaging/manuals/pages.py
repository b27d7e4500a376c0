"""Generates manual pages in roff, man(7), from the code and from the texts in *.roff."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stepaudiod import __version__
from stepaudiod.config import ENV_PREFIX, NESTED, Settings
from tree import Command, Option

HERE = Path(__file__).parent
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def heading(names: tuple[str, ...], section: int, summary: str) -> str:
    """The title and the names under which the page is found, the first of which is its own."""
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    title = f'.TH {escape(names[0])} {section} {date} "stepaudiod {__version__}"'
    keep_names_whole = ".nh\n.ad l"
    return f"{title}\n{keep_names_whole}\n.SH NAME\n{escape(', '.join(names))} \\- {escape(summary)}\n"


def escape(text: str) -> str:
    """Text for roff; what stands between backquotes is bold, as it is typed."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq").replace("…", "...")
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", text)
    return re.sub(r"(?m)^([.'])", r"\\&\1", text)


def prose(name: str) -> str:
    return (HERE / f"{name}.roff").read_text()


def page_of_program(command: Command, units: tuple[str, ...], summary: str, body: str) -> str:
    """The page of a program without commands, and of its units."""
    own = [option for option in command.options if option.names]
    return "".join(
        [
            heading((*command.words, *units), 8, summary),
            f".SH SYNOPSIS\n{_synopsis(command)}",
            ".br\n".join(["", *(f".B {escape(unit)}\n" for unit in units)]),
            f".SH DESCRIPTION\n{prose('stepaudiod-description')}",
            ".SH OPTIONS\n",
            *map(_item, own),
            body,
        ]
    )


def page_of_commands(root: Command, shared: tuple[Option, ...], exit_codes: str, body: str) -> str:
    """The page of a program with commands, each with its own options."""
    below = [command for command in root.all()[1:] if not command.commands]
    parts = [
        heading(root.words, 1, "speak through stepaudiod, and manage it"),
        ".SH SYNOPSIS\n",
        ".br\n".join(map(_synopsis, below)),
        f".SH DESCRIPTION\n{prose('stepaudioctl-description')}",
        ".SH COMMANDS\n",
    ]
    for command in below:
        parts += [f".SS {escape(' '.join(command.words[1:]))}\n", f"{escape(command.description)}\n"]
        parts += [_item(option) for option in command.options]
    parts += [".SH OPTIONS OF EVERY COMMAND\n", *map(_item, shared)]
    parts += [_item(option) for option in root.options if option.names]
    parts += [".SH EXIT STATUS\n", *_exit_codes(exit_codes), body]
    return "".join(parts)


def page_of_settings(body: str) -> str:
    """The page of the configuration file."""
    parts = [heading(("stepaudiod.toml",), 5, "the configuration of stepaudiod"), prose("toml-description")]
    parts += [".SH KEYS\n", *_keys(Settings, ())]
    for key, field in Settings.model_fields.items():
        if _is_table(field):
            table: Any = field.annotation
            about = " ".join((table.__doc__ or "").split())
            parts += [f".SH THE TABLE [{key}]\n{escape(about)}\n", *_keys(table, (key,))]
    return "".join([*parts, body])


def _keys(model: type[BaseModel], above: tuple[str, ...]) -> Iterator[str]:
    """Each key with its default, meaning, values and variable."""
    for key, field in model.model_fields.items():
        if _is_table(field):
            continue
        default = json.dumps(field.default if not isinstance(field.default, tuple) else list(field.default))
        variable = ENV_PREFIX + NESTED.join((*above, key)).upper()
        yield f".TP\n.B {escape(key)} = {escape(default)}\n{escape(_sentence(field.description or ''))}\n"
        if bounds := _bounds(field):
            yield f"{escape(bounds)}.\n"
        yield f".br\nVariable: {escape(variable)}\n"


def _is_table(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _sentence(text: str) -> str:
    """With a capital, unless the first word is a name such as mp3."""
    if re.match(r"[a-z]+([\s,.;]|: |$)", text):
        text = text[0].upper() + text[1:]
    return f"{text}." if text else ""


def _bounds(field: FieldInfo) -> str:
    """The allowed values, as far as the type has them."""
    if get_origin(field.annotation) is Literal:
        return "One of " + ", ".join(json.dumps(value) for value in get_args(field.annotation))
    found = []
    for constraint in field.metadata:
        for name, words in BOUNDS.items():
            if (limit := getattr(constraint, name, None)) is not None:
                found.append(f"{words} {limit:g}")
    return " and ".join(found).capitalize()


def _synopsis(command: Command) -> str:
    named = [f"[\\fB{escape(o.names[-1])}\\fR{_value(o, ' ')}]" for o in command.options if o.names]
    rest = [_value(o) if o.is_required else f"[{_value(o)}]" for o in command.options if not o.names]
    return f".B {escape(' '.join(command.words))}\n{' '.join(named + rest)}\n"


def _value(option: Option, before: str = "") -> str:
    """The value of an option: choices in bold, since they are typed so, and names of values in italics."""
    if not option.value:
        return ""
    if option.value == "|".join(option.choices):
        return before + "|".join(f"\\fB{escape(choice)}\\fR" for choice in option.choices)
    return f"{before}\\fI{escape(option.value)}\\fR"


def _item(option: Option) -> str:
    names = ", ".join(f"\\fB{escape(name)}\\fR" for name in option.names)
    return f".TP\n{names}{_value(option, ' ' if names else '')}\n{escape(_sentence(option.help))}\n"


def _exit_codes(text: str) -> Iterator[str]:
    for line in text.splitlines()[1:]:
        code, _, meaning = line.strip().partition(" ")
        yield f".TP\n.B {code}\n{escape(meaning.strip())}\n"
