"""A command line as data, read from argparse."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Option:
    """An option or a positional argument.

    Attributes:
        names: `-o`, `--output`; none for a positional argument.
        value: the value's name in the help; "" without a value.
        help: its description.
        choices: the allowed values; none if any value is allowed.
        is_path: whether the value is a path.
        is_required: whether it must be given.
    """

    names: tuple[str, ...]
    value: str
    help: str
    choices: tuple[str, ...]
    is_path: bool
    is_required: bool


@dataclass(frozen=True)
class Command:
    """A command with its subcommands.

    Attributes:
        words: its words: `stepaudioctl`, `models`, `pull`.
        summary: one line.
        description: the paragraph of its help.
        options: its options, without those of every command.
        commands: its subcommands.
    """

    words: tuple[str, ...]
    summary: str
    description: str
    options: tuple[Option, ...]
    commands: tuple[Command, ...]

    def all(self) -> list[Command]:
        return [self, *(each for command in self.commands for each in command.all())]


def read(
    parser: argparse.ArgumentParser,
    shared: tuple[Option, ...] = (),
    words: tuple[str, ...] = (),
    summary: str = "",
) -> Command:
    """Read a parser.

    Args:
        parser: the parser of a program or of a command.
        shared: options of every command, which are left out.
        words: the command's words; by default the program's name.
        summary: the command's summary.
    """
    words = words or (parser.prog,)
    known = {name for option in shared for name in option.names}
    options, commands = [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            commands = [
                read(below, shared, (*words, name), helps[name]) for name, below in action.choices.items()
            ]
        elif not known & set(action.option_strings) and not isinstance(action, argparse._HelpAction):
            options.append(_option(action, parser))
    return Command(words, summary, parser.description or "", tuple(options), tuple(commands))


def options_of(parser: argparse.ArgumentParser) -> tuple[Option, ...]:
    return tuple(_option(action, parser) for action in parser._actions)


def _option(action: argparse.Action, parser: argparse.ArgumentParser) -> Option:
    takes_value = action.nargs != 0
    metavar = action.metavar if isinstance(action.metavar, str) else None
    value = metavar or (action.dest.upper() if takes_value and not action.choices else "")
    choices = tuple(map(str, action.choices or ()))
    help_text = parser._get_formatter()._expand_help(action) if action.help else ""
    return Option(
        names=tuple(action.option_strings),
        value=(value or "|".join(choices)) if takes_value else "",
        help=help_text,
        choices=choices,
        is_path=takes_value and (action.type is Path or metavar in ("FILE", "PATH", "DIR")),
        is_required=bool(action.required),
    )
