"""The GPU: is there one, has it a driver and device nodes, how much of its memory is free. Loads no CUDA."""

from __future__ import annotations

import csv
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from stepaudiod.ctl.checks.finding import Finding, note, ok, problem, unknown
from stepaudiod.ctl.checks.permissions import DAEMON, Account

NVIDIA = "0x10de"
DISPLAY_CLASSES = ("0x0300", "0x0302")
"""What a graphics card and a card without outputs say they are: pci.ids."""
CARD = re.compile(r"nvidia\d+")
TIMEOUT_S = 15.0
GIB = 1 << 30

DRIVER_FOR_CUDA = {11: 450, 12: 525, 13: 580}
"""The oldest driver for programs of a CUDA release. Source: CUDA Compatibility, table of minor versions."""


@dataclass(frozen=True)
class Card:
    """One GPU as its driver tells.

    Attributes:
        index: its number.
        name: the product.
        free_bytes: memory that nobody uses at this moment.
        total_bytes: all of its memory.
    """

    index: int
    name: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Gpus:
    """What this machine has of NVIDIA's.

    Args:
        root: the folder whose `proc`, `sys` and `dev` are looked at.
    """

    root: Path = Path("/")

    @property
    def driver(self) -> str | None:
        """The version of the loaded driver; None where none is."""
        try:
            text = (self.root / "proc/driver/nvidia/version").read_text()
        except OSError:
            return None
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text)
        return found.group(1) if found else "of an unknown version"

    @property
    def nodes(self) -> list[Path]:
        """The device nodes of the cards."""
        try:
            names = os.listdir(self.root / "dev")
        except OSError:
            return []
        return sorted(self.root / "dev" / name for name in names if CARD.fullmatch(name))

    def pci_cards(self) -> int:
        """How many cards are plugged in, driver or not."""
        count = 0
        for device in (self.root / "sys/bus/pci/devices").glob("*"):
            vendor, kind = _line(device / "vendor"), _line(device / "class")
            count += vendor == NVIDIA and kind.startswith(DISPLAY_CLASSES)
        return count

    def findings(self, cards: list[Card] | None, needed_bytes: int, reason: str) -> Iterator[Finding]:
        """What there is to say.

        Args:
            cards: what the driver tells of them; None where it couldn't be asked.
            needed_bytes: the GPU memory that the model needs; 0 where it wouldn't use a GPU.
            reason: what it needs it for, or why it wouldn't use one.
        """
        driver = self.driver
        if driver is None:
            yield from self._without_driver()
            return
        yield ok("GPU driver", f"NVIDIA {driver}")
        yield from self._about_nodes()
        yield from about_torch(driver)
        if not cards:
            yield unknown("GPU memory", "can't be told: nvidia-smi isn't here or doesn't answer")
        elif not needed_bytes:
            for card in cards:
                yield ok(_title(card), f"{_memory(card)}; {reason}")
        else:
            yield from _about_memory(cards, needed_bytes, reason)

    def _without_driver(self) -> Iterator[Finding]:
        if count := self.pci_cards():
            yield note(
                "GPU driver",
                f"{count} NVIDIA GPU{'s' if count > 1 else ''} without a loaded driver: nothing can use it",
                "apt install nvidia-driver (Debian: contrib and non-free), then restart",
            )
        else:
            yield ok("GPU", "no NVIDIA GPU here; the embedded voices don't need one")

    def _about_nodes(self) -> Iterator[Finding]:
        wanted = [self.root / "dev/nvidiactl", self.root / "dev/nvidia-uvm"]
        missing = [path for path in wanted if not path.exists()]
        if not self.nodes:
            missing.insert(0, self.root / "dev/nvidia0")
        if missing:
            names = ", ".join(f"/{path.relative_to(self.root)}" for path in missing)
            yield problem(
                "GPU nodes",
                f"missing: {names}; a sandboxed daemon can't make them itself",
                "apt install nvidia-modprobe, which the unit calls, or: nvidia-modprobe -c0 -u",
            )
            return
        account = Account.find(DAEMON)
        shut = [
            node
            for node in (*self.nodes, *wanted)
            if account is not None and account.may(node, os.R_OK | os.W_OK) is False
        ]
        if shut:
            names = ", ".join(f"/{path.relative_to(self.root)}" for path in shut)
            yield problem(
                "GPU nodes", f"the user {DAEMON} may not use {names}", f"ls -l {names}: add it to that group"
            )
        else:
            yield ok("GPU nodes", ", ".join(f"/{path.relative_to(self.root)}" for path in self.nodes))


def about_torch(driver: str) -> Iterator[Finding]:
    """Whether the torch that is installed can use that driver."""
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return
    if "+cpu" in version:
        yield note(
            "torch",
            f"{version} can't use a GPU",
            "apt install stepaudiod-runtime-cuda, or torch from the default package index",
        )
        return
    cuda = _cuda_release()
    major = int(driver.split(".")[0]) if driver[0].isdigit() else 0
    if cuda in DRIVER_FOR_CUDA and 0 < major < DRIVER_FOR_CUDA[cuda]:
        yield problem(
            "torch",
            f"{version} is built for CUDA {cuda}, which needs a driver from {DRIVER_FOR_CUDA[cuda]} on; "
            f"here is {driver}",
            f"install a driver from {DRIVER_FOR_CUDA[cuda]} on",
        )
    else:
        yield ok("torch", f"{version}{f', CUDA {cuda}' if cuda else ''}")


def _cuda_release() -> int | None:
    """The CUDA that came with torch, by its package."""
    for name in ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12"):
        try:
            return int(metadata.version(name).split(".")[0])
        except metadata.PackageNotFoundError:
            continue
    return None


def ask_driver() -> list[Card] | None:
    """The cards by nvidia-smi(1), which starts no CUDA and takes no GPU memory; None where it can't tell."""
    query = "--query-gpu=index,name,memory.free,memory.total"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        rows = [[cell.strip() for cell in row] for row in csv.reader(done.stdout.splitlines())]
        return [Card(int(i), name, int(free) << 20, int(total) << 20) for i, name, free, total in rows]
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def visible(cards: list[Card] | None, setting: str | None) -> list[Card] | None:
    """Those that CUDA_VISIBLE_DEVICES leaves, where it names them by number."""
    if cards is None or setting is None or not re.fullmatch(r"\d+(,\d+)*", setting):
        return cards
    wanted = [int(number) for number in setting.split(",")]
    return [card for number in wanted for card in cards if card.index == number]


def _about_memory(cards: list[Card], needed_bytes: int, reason: str) -> Iterator[Finding]:
    best = max(cards, key=lambda card: card.free_bytes)
    for card in cards:
        yield ok(_title(card), _memory(card))
    needs = f"{reason} needs about {needed_bytes / GIB:.1f} GiB"
    if best.free_bytes >= needed_bytes:
        yield ok("GPU memory", f"{needs}; there is room")
    elif best.total_bytes >= needed_bytes:
        yield problem(
            "GPU memory",
            f"{needs}, and at this moment {best.free_bytes / GIB:.1f} GiB are free at most",
            "nvidia-smi lists the processes that use it",
        )
    else:
        yield problem(
            "GPU memory",
            f"{needs}, and the largest card here has {best.total_bytes / GIB:.1f} GiB",
            'quantization = "int8" or "int4" under [step_audio] needs less',
        )


def _title(card: Card) -> str:
    return f"GPU {card.index}"


def _memory(card: Card) -> str:
    return f"{card.name}, {card.free_bytes / GIB:.1f} of {card.total_bytes / GIB:.1f} GiB free"


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
