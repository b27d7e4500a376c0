"""NVIDIA GPUs: driver, device nodes, torch, free memory. Loads no CUDA."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from stepaudiod.config import Settings
from stepaudiod.ctl.checks.finding import Finding, note, ok, problem, unknown
from stepaudiod.ctl.checks.permissions import Account, lacks
from stepaudiod.ctl.options import ACCOUNT
from stepaudiod.nvml import GIB, Card, Nvml

NVIDIA = "0x10de"
DISPLAY_CLASSES = ("0x0300", "0x0302")
"""PCI classes of VGA and 3D controllers: pci.ids."""
CARD = re.compile(r"nvidia\d+")

DRIVER_FOR_CUDA = {11: 450, 12: 525, 13: 580}
"""The minimum driver of each CUDA release. Source: CUDA Compatibility, table of minor versions."""
DRIVER_FOR_CHECKPOINTS = 570
"""The first driver with the functions that `worker.checkpoint` calls. Source: CUDA Driver API."""


@dataclass(frozen=True)
class Gpus:
    root: Path = Path("/")

    @property
    def driver(self) -> str | None:
        """The version of the loaded driver; None if none is loaded."""
        try:
            text = (self.root / "proc/driver/nvidia/version").read_text()
        except OSError:
            return None
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text)
        return found.group(1) if found else "of an unknown version"

    @property
    def nodes(self) -> list[Path]:
        return sorted(path for path in (self.root / "dev").glob("nvidia*") if CARD.fullmatch(path.name))

    def pci_cards(self) -> int:
        devices = (self.root / "sys/bus/pci/devices").glob("*")
        nvidia = [device for device in devices if _line(device / "vendor") == NVIDIA]
        return sum(_line(device / "class").startswith(DISPLAY_CLASSES) for device in nvidia)

    def findings(self, cards: list[Card] | None, needed_bytes: int, reason: str) -> Iterator[Finding]:
        """Check the GPUs.

        Args:
            cards: from the driver; None if it couldn't be asked.
            needed_bytes: the GPU memory that the model needs; 0 if it wouldn't use a GPU.
            reason: the model that needs it, or why no GPU would be used.
        """
        driver = self.driver
        if driver is None:
            yield from self._no_driver_findings()
            return
        yield ok("GPU driver", f"NVIDIA {driver}")
        yield from self._node_findings()
        yield from torch_findings(driver)
        if not cards:
            yield unknown("GPU memory", "unknown: NVIDIA's management library isn't installed or failed")
        elif not needed_bytes:
            for card in cards:
                yield ok(f"GPU {card.number}", f"{card}; {reason}")
        else:
            yield from _memory_findings(cards, needed_bytes, reason)

    def _no_driver_findings(self) -> Iterator[Finding]:
        if count := self.pci_cards():
            yield note(
                "GPU driver",
                f"{count} NVIDIA GPU{'s' if count > 1 else ''} without a loaded driver: unusable",
                "apt install nvidia-driver (Debian: contrib and non-free), then restart",
            )
        else:
            yield ok("GPU", "no NVIDIA GPU; the embedded voices don't need one")

    def _node_findings(self) -> Iterator[Finding]:
        wanted = [self.root / "dev/nvidiactl", self.root / "dev/nvidia-uvm"]
        missing = [path for path in wanted if not path.exists()]
        if not self.nodes:
            missing.insert(0, self.root / "dev/nvidia0")
        if missing:
            yield problem(
                "GPU nodes",
                f"missing: {self._names(missing)}; the sandboxed daemon can't create them",
                "apt install nvidia-modprobe, which the unit calls, or: nvidia-modprobe -c0 -u",
            )
            return
        account = Account.find(ACCOUNT)
        if forbidden := [node for node in (*self.nodes, *wanted) if lacks(account, node, os.R_OK | os.W_OK)]:
            names = self._names(forbidden)
            yield problem(
                "GPU nodes",
                f"the user {ACCOUNT} may not use {names}",
                f"add it to the group that ls -l {names} shows",
            )
        else:
            yield ok("GPU nodes", self._names(self.nodes))

    def _names(self, paths: list[Path]) -> str:
        return ", ".join(f"/{path.relative_to(self.root)}" for path in paths)


def torch_findings(driver: str) -> Iterator[Finding]:
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
            f"{version} is built for CUDA {cuda}, which needs driver {DRIVER_FOR_CUDA[cuda]} or newer; "
            f"found {driver}",
            f"install driver {DRIVER_FOR_CUDA[cuda]} or newer",
        )
    else:
        yield ok("torch", f"{version}{f', CUDA {cuda}' if cuda else ''}")


def _cuda_release() -> int | None:
    """The CUDA release that torch was installed with, from the CUDA package's version."""
    for name in ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12"):
        try:
            return int(metadata.version(name).split(".")[0])
        except metadata.PackageNotFoundError:
            continue
    return None


def ask_driver() -> list[Card] | None:
    """The cards of this machine, or None if the driver doesn't tell."""
    try:
        return Nvml().cards()
    except OSError:
        return None


def doze_finding(driver: str, cards: list[Card] | None, settings: Settings) -> Finding:
    """Whether an idle model leaves the GPU before the daemon sleeps."""
    doze_after_s, idle_timeout_s = settings.step_audio.doze_after_s, settings.idle_timeout_s
    if doze_after_s is None:
        return ok("dozing", 'never, since step_audio.doze_after = "never"')
    if settings.step_audio.device == "cpu":
        return ok("dozing", "never, since the model runs on a processor")
    if idle_timeout_s is not None and idle_timeout_s <= doze_after_s:
        return ok("dozing", "never, since idle_timeout isn't longer than step_audio.doze_after")
    if driver[0].isdigit() and int(driver.split(".")[0]) < DRIVER_FOR_CHECKPOINTS:
        text = f"never: it needs driver {DRIVER_FOR_CHECKPOINTS} or newer; found {driver}"
        return note("dozing", text, "install a newer driver, or ignore it: the idle exit frees the GPU too")
    if any(card.has_mig for card in cards or ()):
        return note("dozing", "not on a divided card (MIG): the idle exit frees the GPU")
    return ok("dozing", f"after {doze_after_s:g} s without work the model leaves the GPU")


def visible(cards: list[Card] | None, setting: str | None) -> list[Card] | None:
    """The cards that CUDA_VISIBLE_DEVICES selects by number; all if it is unset or uses UUIDs."""
    if cards is None or setting is None or not re.fullmatch(r"\d+(,\d+)*", setting):
        return cards
    wanted = [int(number) for number in setting.split(",")]
    return [card for number in wanted for card in cards if card.number == number]


def _memory_findings(cards: list[Card], needed_bytes: int, reason: str) -> Iterator[Finding]:
    best = max(cards, key=lambda card: card.free_bytes)
    for card in cards:
        yield ok(f"GPU {card.number}", str(card))
    needs = f"{reason} needs about {needed_bytes / GIB:.1f} GiB"
    if best.free_bytes >= needed_bytes:
        yield ok("GPU memory", f"{needs}, which is free")
    elif best.total_bytes >= needed_bytes:
        yield problem(
            "GPU memory",
            f"{needs}, and at most {best.free_bytes / GIB:.1f} GiB are free now",
            "nvidia-smi shows the processes that use it",
        )
    else:
        yield problem(
            "GPU memory",
            f"{needs}, and the largest GPU has {best.total_bytes / GIB:.1f} GiB",
            'quantization = "int8" or "int4" under [step_audio] needs less',
        )


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
