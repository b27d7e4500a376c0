"""Generates the manual pages and completions from the code: `python3 packaging/manuals FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parent.parent.parent))

import completions
import pages
import tree
from stepaudiod import daemon
from stepaudiod.ctl import main as ctl
from stepaudiod.ctl.options import global_options

UNITS = tuple(sorted(path.name for path in Path(__file__).parent.parent.glob("systemd/*.s[eo]*")))


def main(folder: Path) -> None:
    shared = tree.options_of(global_options())
    stepaudioctl = tree.read(ctl.build_parser(), shared)
    stepaudiod = tree.read(daemon.build_parser())
    files = {
        "stepaudiod.8": pages.page_of_program(
            stepaudiod, UNITS, "speech server that runs only while it is used", pages.prose("stepaudiod")
        ),
        "stepaudioctl.1": pages.page_of_commands(
            stepaudioctl, shared, ctl.EXIT_CODES, pages.prose("stepaudioctl")
        ),
        "stepaudiod.toml.5": pages.page_of_settings(pages.prose("toml")),
    }
    for program, own in ((stepaudioctl, shared), (stepaudiod, ())):
        name = program.words[0]
        files[f"{name}.bash"] = completions.bash(program, own)
        files[f"_{name}"] = completions.zsh(program, own)
        files[f"{name}.fish"] = completions.fish(program, own)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
