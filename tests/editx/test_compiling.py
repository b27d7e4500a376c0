"""Kernels are compiled before the first request: Triton's compiler needs no GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.loading import load_step1

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA build")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import driver

from stepaudiod.editx.compiling import compile_missing
from stepaudiod.editx.lm.cuda_runner import CudaRunner

pytestmark = pytest.mark.gpu


class NoGpu:
    """A driver that can't launch, of a device for which no other test has compiled anything."""

    def __init__(self) -> None:
        self.launchers: dict[str, str] = {}

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 99

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, src: ASTSource, metadata: object) -> str:
        return self.launchers.setdefault(src.fn.__name__, "launches it")

    @property
    def utils(self) -> NoGpu:
        return self

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448}

    def load_binary(self, *_: object) -> tuple[object, object, int, int, int]:
        return object(), object(), 0, 0, 1024


@pytest.fixture(autouse=True)
def _no_gpu() -> Iterator[None]:
    driver.set_active(NoGpu())
    with torch.inference_mode():
        yield
    driver._active = None


@pytest.fixture
def runner(micro: Checkpoint) -> CudaRunner:
    return CudaRunner(load_step1(micro, torch.device("cpu"), torch.bfloat16), 1024, 4096)


def test_all_kernels_are_compiled_once_a_machine(
    runner: CudaRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    told: list[tuple[str, float]] = []
    compile_missing(runner.launches(), "bf16", lambda *each: told.append(each))
    assert {"_begin", "_multiply", "_attend", "_choose", "_pick"} <= driver.active.launchers.keys()
    count = len(list(tmp_path.rglob("*.cubin")))
    assert count > 10
    assert told[-1] == (f"compiling kernels, {count} of {count}", 1.0)
    assert len(told) == count
    compile_missing(runner.launches(), "bf16", lambda *each: told.append(each))
    assert len(told) == count


def test_a_cache_that_cannot_be_written_is_told_and_nothing_worse(
    runner: CudaRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file"))
    compile_missing(runner.launches(), "bf16", lambda *each: None)
    assert "kernels are not compiled beforehand: " in caplog.text
