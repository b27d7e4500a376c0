"""doctor's findings about the GPU: driver, device nodes, cards and their free memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepaudiod.config import Settings, StepAudio
from stepaudiod.ctl.checks.finding import Finding
from stepaudiod.ctl.checks.gpu import Gpus, doze_finding, visible
from stepaudiod.nvml import GIB, Card


def gpu_machine(root: Path, *, driver: bool = True, nodes: bool = True, card: bool = True) -> Gpus:
    """The files that an NVIDIA GPU, its driver and its device nodes have."""
    if card:
        device = root / "sys/bus/pci/devices/0000:65:00.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x10de\n")
        (device / "class").write_text("0x030200\n")
    if driver:
        (root / "proc/driver/nvidia").mkdir(parents=True)
        (root / "proc/driver/nvidia/version").write_text(
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:08:48 UTC 2025\n"
        )
    (root / "dev").mkdir(parents=True)
    for name in ("nvidia0", "nvidiactl", "nvidia-uvm") if nodes else ():
        (root / "dev" / name).touch(0o666)
    root.chmod(0o755)
    return Gpus(root)


def look(gpus: Gpus, cards: list[Card] | None = None, needed: int = 0) -> dict[str, Finding]:
    return {f.subject: f for f in gpus.findings(cards, needed, "the model")}


def test_a_machine_without_a_gpu_is_well(tmp_path: Path) -> None:
    found = look(gpu_machine(tmp_path, driver=False, nodes=False, card=False))
    assert [f.level for f in found.values()] == ["ok"]


def test_a_gpu_without_a_driver_is_noted(tmp_path: Path) -> None:
    found = look(gpu_machine(tmp_path, driver=False, nodes=False))
    assert found["GPU driver"].level == "note"
    assert found["GPU driver"].text.startswith("1 NVIDIA GPU without a loaded driver")


def test_missing_device_nodes_are_named(tmp_path: Path) -> None:
    found = look(gpu_machine(tmp_path, nodes=False))
    assert found["GPU driver"].text == "NVIDIA 580.65.06"
    assert "/dev/nvidia0, /dev/nvidiactl, /dev/nvidia-uvm" in found["GPU nodes"].text
    assert found["GPU nodes"].level == "problem"


@pytest.mark.parametrize(
    ("free", "total", "level", "text"),
    [
        (20, 24, "ok", "which is free"),
        (3, 24, "problem", "at most 3.0 GiB are free"),
        (7, 8, "problem", "the largest GPU has 8.0 GiB"),
    ],
)
def test_free_memory_is_compared_with_the_models_need(
    tmp_path: Path, free: int, total: int, level: str, text: str
) -> None:
    card = Card(0, "NVIDIA GeForce RTX 4090", free * GIB, total * GIB)
    found = look(gpu_machine(tmp_path), [card], 10 * GIB)["GPU memory"]
    assert found.level == level
    assert text in found.text
    assert "about 10.0 GiB" in found.text


def test_only_the_cards_that_the_unit_sees_count() -> None:
    cards = [Card(0, "first", 1, 2), Card(1, "second", 1, 2)]
    assert visible(cards, "1") == [cards[1]]
    assert visible(cards, None) == cards
    assert visible(cards, "GPU-4f2a") == cards


@pytest.mark.parametrize(
    ("driver", "device", "idle", "level", "text"),
    [
        ("580.65.06", "auto", 300, "ok", "after 60 s"),
        ("565.57.01", "auto", 300, "note", "570"),
        ("580.65.06", "cpu", 300, "ok", "processor"),
        ("580.65.06", "auto", 30, "ok", "idle_timeout"),
    ],
)
def test_it_says_whether_the_model_dozes(
    driver: str, device: str, idle: float, level: str, text: str
) -> None:
    settings = Settings(idle_timeout=idle, step_audio=StepAudio(device=device))
    finding = doze_finding(driver, [Card(0, "NVIDIA H200", 1, 2)], settings)
    assert finding.level == level
    assert text in finding.text


def test_a_divided_card_does_not_doze() -> None:
    finding = doze_finding("580.65.06", [Card(0, "NVIDIA H200", 1, 2, "GPU-1", True)], Settings())
    assert finding.level == "note"
    assert "MIG" in finding.text


# ---- models and folders
