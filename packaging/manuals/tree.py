"""A command line as data: what argparse knows of it. Knows neither manuals nor shells."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Option:
    """One option or argument.

    Attributes:
        names: `-o`, `--output`; none where it is an argument without a name.
        value: what stands for its value in the help; "" where it takes none.
        help: what it does.
        choices: the values that there are; none where any will do.
        is_path: whether a file's name is wanted.
        is_required: whether it can't be left out.
    """

    names: tuple[str, ...]
    value: str
    help: str
    choices: tuple[str, ...]
    is_path: bool
    is_required: bool


@dataclass(frozen=True)
class Command:
    """One command, with the commands below it.

    Attributes:
        words: how it is called: `stepaudioctl`, `models`, `pull`.
        summary: one line.
        description: the paragraph of its own help.
        options: its own, without those that every command has.
        commands: those below it.
    """

    words: tuple[str, ...]
    summary: str
    description: str
    options: tuple[Option, ...]
    commands: tuple[Command, ...]

    def all(self) -> list[Command]:
        """This one and everything below it."""
        return [self, *(each for command in self.commands for each in command.all())]


def read(
    parser: argparse.ArgumentParser,
    shared: tuple[Option, ...] = (),
    words: tuple[str, ...] = (),
    summary: str = "",
) -> Command:
    """What a parser takes.

    Args:
        parser: the program's, or a command's.
        shared: options that are told elsewhere.
        words: how it is called; nothing is the program's name.
        summary: what the list of commands says of it.
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
    """The options of a parser that others have as their parent."""
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
