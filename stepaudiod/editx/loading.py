"""All networks of a checkpoint, loaded with progress.

    first     vocabulary, flow decoder, vocoder; the language model in threads of its own
    behind    the encoders of recordings: at their first use, or when `Networks.finish` is called

Independent of requests.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stepaudiod.editx.checkpoint.file_copies import FileCopies
from stepaudiod.editx.checkpoint.headers import mend
from stepaudiod.editx.checkpoint.layout import QUANTIZED, Checkpoint
from stepaudiod.editx.checkpoint.weights import (
    Progress,
    SafetensorsFolder,
    Stored,
    install,
    install_copied,
    stored_tensors,
)
from stepaudiod.editx.codes import AUDIO_BASE
from stepaudiod.editx.decoder.flow import Flow
from stepaudiod.editx.decoder.vocoder import Vocoder
from stepaudiod.editx.lazy import Lazy
from stepaudiod.editx.lm.config import ON_HOST, Quantization, Step1Config
from stepaudiod.editx.lm.quantize import prepare, quantize, read_saved, save
from stepaudiod.editx.lm.step1 import Step1ForCausalLM
from stepaudiod.editx.lm.text_tokenizer import TextTokenizer
from stepaudiod.editx.network_files import NetworkFiles
from stepaudiod.editx.reference import Encoders
from stepaudiod.errors import ModelFileError, StepaudiodError

log = logging.getLogger(__name__)

NEIGHBOURS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Matrices of the language model that read the same input: on a GPU they are stored as one."""
TURN_S = 1e-4
"""How long a thread holds the interpreter while others want it; usually 5 ms, while they could read 25 MB."""


@dataclass(frozen=True)
class LoadProgress:
    """The state of loading; `stage` names the network that is being read."""

    stage: str
    done_bytes: int
    total_bytes: int


OnProgress = Callable[[LoadProgress], None]


@dataclass(frozen=True)
class Networks:
    """The networks.

    Args:
        encoders: loaded at their first use.
        finish: starts loading them, and preparing the next start, in a thread; does so once, and returns at
            once. To be called when no request waits.
    """

    tokenizer: TextTokenizer
    step1: Step1ForCausalLM
    flow: Flow
    vocoder: Vocoder
    encoders: Lazy[Encoders]
    finish: Callable[[], None]


class _Meter:
    def __init__(self, total: int, report: OnProgress | None) -> None:
        self._total, self._report, self._done, self._stage = total, report, 0, ""
        self._lock = threading.Lock()

    def begin(self, stage: str) -> None:
        with self._lock:
            self._stage = stage
            self._update(0)

    def add(self, size: int) -> None:
        with self._lock:
            self._update(size)

    def _update(self, size: int) -> None:
        self._done = min(self._done + size, self._total)
        if self._report is not None:
            self._report(LoadProgress(self._stage, self._done, self._total))


class _Behind:
    """Work that nothing waits for: a thread does it, once."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self._steps = steps
        self._is_started = threading.Lock()

    def start(self) -> None:
        if self._is_started.acquire(blocking=False):
            threading.Thread(target=self._run, name="load behind", daemon=True).start()

    def _run(self) -> None:
        for step in self._steps:
            try:
                step()
            except (OSError, RuntimeError, ValueError, StepaudiodError) as error:
                log.warning("not done beforehand: %s", error)  # the request that needs it gets the error


def load_networks(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization | None = None,
    quantized_folder: Path | None = None,
    progress: OnProgress | None = None,
    prepared_folder: Path | None = None,
    keeps_encoders: bool = True,
) -> Networks:
    """Load the networks; to a GPU, the language model, which has most bytes, is copied beside the others.

    `dtype` is the language model's; everything else is float32, on which the codes depend. Quantized weights
    are read instead of the full model if `quantized_folder` contains them. `progress` is called from several
    threads, one at a time; the stage is the other networks'. The encoders' weights stay on the host, unless
    `keeps_encoders`.

    Raises:
        ModelFileError: a file is missing, cut short or wrong.
    """
    checkpoint.verify()
    first = (*checkpoint.shards(), checkpoint.flow, checkpoint.vocoder)
    meter = _Meter(sum(path.stat().st_size for path in first), progress)
    meter.begin("language model")
    with _short_turns():
        step1, copies = begin_step1(checkpoint, device, dtype, quantization, quantized_folder, meter.add)
        try:
            meter.begin("text vocabulary")
            files = NetworkFiles(
                checkpoint, device, prepared_folder if device.type == "cuda" else None, keeps_encoders
            )
            tokenizer = files.tokenizer()
            meter.begin("flow decoder")
            flow = files.flow()
            meter.add(checkpoint.flow.stat().st_size)
            meter.begin("vocoder")
            vocoder = files.vocoder()
            meter.add(checkpoint.vocoder.stat().st_size)
            meter.begin("language model")
            if device.type == "cuda":
                _start_kernels(device)
        finally:
            copies.wait()
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # from here on they are used by other streams
    encoders = Lazy(files.encoders)
    return Networks(tokenizer, step1, flow, vocoder, encoders, _Behind(encoders.get, files.prepare).start)


@contextmanager
def _short_turns() -> Iterator[None]:
    """Let threads that read files wait shortly for the interpreter, which this one uses most of the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _start_kernels(device: torch.device) -> None:
    """Import what runs on a GPU only, and have cuBLAS and Triton start, while files are read."""
    with suppress(ImportError):  # the runner that needs it reports it
        for module in ("lm.cuda_runner", "decoder.cuda_runner"):
            import_module(f"stepaudiod.editx.{module}")
        import_module("triton.runtime").driver.active.get_current_target()
    F.linear(torch.zeros(2, 64, device=device), torch.zeros(64, 64, device=device))


def load_step1(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization | None = None,
    quantized_folder: Path | None = None,
    progress: Progress | None = None,
) -> Step1ForCausalLM:
    """Load the language model; see `load_networks`.

    On the CPU, in the file's own bfloat16, its weights stay memory-mapped and use only the page cache. On a
    GPU this holds for the tables of the whole vocabulary.
    """
    model, copies = begin_step1(checkpoint, device, dtype, quantization, quantized_folder, progress)
    copies.wait()
    return model


def begin_step1(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization | None,
    quantized_folder: Path | None,
    progress: Progress | None,
) -> tuple[Step1ForCausalLM, FileCopies]:
    """Begin to load the language model; it can be used when the copies are done."""
    on_host = ON_HOST if device.type == "cuda" else ()
    config = Step1Config.read(checkpoint.config)
    if config.vocab_size <= AUDIO_BASE:
        raise ModelFileError(
            f"{checkpoint.config}: expected vocab_size over {AUDIO_BASE}, found {config.vocab_size}; {mend()}"
        )
    with torch.device("meta"):
        model = Step1ForCausalLM(config)

    def fill(mapped: Mapping[str, Tensor], stored: Mapping[str, Stored], source: Path) -> FileCopies:
        if device.type == "cuda":
            return install_copied(
                model, mapped, stored, source, device, dtype, progress, on_host, _neighbours
            )
        install(model, mapped, source, device, dtype, progress)
        return FileCopies((), device)

    if quantization is not None and quantized_folder is not None:
        saved = quantized_folder / QUANTIZED.format(quantization.value)
        if saved.exists():
            prepare(model, quantization)
            return model, fill(read_saved(saved, quantization), stored_tensors(saved), saved)
    folder = SafetensorsFolder(checkpoint.model)
    if quantization is None:
        return model, fill(folder, folder.stored, checkpoint.model)
    install(model, folder, checkpoint.model, torch.device("cpu"), None, progress)
    quantize(model, quantization, device, dtype, on_host)
    return model, FileCopies((), device)


def _neighbours(name: str) -> tuple[str, ...]:
    """The tensors that belong beside this one, and itself; see `NEIGHBOURS`."""
    for group in NEIGHBOURS:
        for part in group:
            if f".{part}." in name:
                return tuple(name.replace(f".{part}.", f".{other}.") for other in group)
    return (name,)


def write_quantized(checkpoint: Checkpoint, quantization: Quantization, folder: Path) -> Path:
    """Quantize a checkpoint's language model and write it to a folder; returns the file."""
    return save(
        load_step1(checkpoint, torch.device("cpu"), torch.bfloat16, quantization), quantization, folder
    )
