"""Kernels are compiled before the first request: Triton's compiler needs no GPU."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from itertools import count
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

from stepaudiod.editx.compiling import _compile, _launcher, _missing, compile_missing, load_compiled
from stepaudiod.editx.lm.cuda_runner import CudaRunner

pytestmark = pytest.mark.gpu


class NoGpu:
    """A driver that can't launch, of a device for which no other test has compiled anything."""

    numbers = count(50)

    def __init__(self) -> None:
        self.device = next(self.numbers)
        self.launchers: set[str] = set()

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, src: ASTSource, metadata: object) -> Callable[..., None]:
        self.launchers.add(src.fn.__name__)
        return lambda *_: None

    @property
    def utils(self) -> NoGpu:
        return self

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448}

    def load_binary(self, *_: object) -> tuple[object, object, int, int, int]:
        return object(), object(), 0, 0, 1024

    def unload_module(self, module: object) -> None:
        """Triton 3.9 calls it."""


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
    assert {"_begin", "_multiply", "_attend", "_choose", "_pick"} <= driver.active.launchers
    kernels = len(list(tmp_path.rglob("*.cubin")))
    assert kernels > 10
    assert told[-1] == (f"compiling kernels, {kernels} of {kernels}", 1.0)
    assert len(told) == kernels
    compile_missing(runner.launches(), "bf16", lambda *each: told.append(each))
    assert len(told) == kernels


def test_a_start_loads_all_that_was_compiled(
    runner: CudaRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    load_compiled("bf16", torch.device("cpu"))
    assert not driver.active.launchers
    compile_missing(runner.launches(), "bf16", lambda *each: None)
    compile_missing(runner.launches(), "another", lambda *each: None)
    one, another = tmp_path.glob("stepaudiod-*")
    assert len(json.loads(one.read_text())) == len(json.loads(another.read_text())) > 10
    launchers = driver.active.launchers
    driver.set_active(NoGpu())  # as in another process
    load_compiled("bf16", torch.device("cpu"))
    assert driver.active.launchers == launchers
    assert not _missing(runner.launches())
    assert not caplog.text


def test_launchers_of_the_same_source_are_made_one_after_the_other() -> None:
    """A pointer is a pointer there, whatever it points to."""
    half, single = (
        json.dumps({"signature": {"x": kind, "count": "i32", "SIZE": "constexpr"}})
        for kind in ("*fp16", "*fp32")
    )
    assert _launcher(half) == _launcher(single)
    lock, is_held = threading.Lock(), list[bool]()

    class Kernel:
        @property
        def run(self) -> None:
            is_held.append(lock.locked())

        def preload(self, data: str) -> Kernel:
            return self

    _compile(Kernel(), half, lock)
    assert is_held == [True]


def test_a_damaged_list_is_made_again(
    runner: CudaRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compile_missing(runner.launches(), "bf16", lambda *each: None)
    (listed,) = tmp_path.glob("stepaudiod-*")
    whole = listed.read_text()
    for damaged in (whole[:100], "[]", "", '[["stepaudiod.editx.lm.kernels", "_no_such", "{}"]]'):
        caplog.clear()
        listed.write_text(damaged)
        load_compiled("bf16", torch.device("cpu"))
        assert "kernels are not loaded beforehand: " in caplog.text
        compile_missing(runner.launches(), "bf16", lambda *each: None)
        assert sorted(json.loads(listed.read_text())) == sorted(json.loads(whole))


def test_a_cache_that_cannot_be_written_is_told_and_nothing_worse(
    runner: CudaRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file"))
    compile_missing(runner.launches(), "bf16", lambda *each: None)
    assert "kernels are not compiled beforehand: " in caplog.text
