"""All networks of a checkpoint, loaded with progress.

    first     vocabulary, flow decoder, vocoder; the language model in threads of its own
    behind    the encoders of recordings: at their first use, or when `Networks.finish` is called

Independent of requests.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stepaudiod.editx.checkpoint.file_copies import FileCopies
from stepaudiod.editx.checkpoint.headers import mend
from stepaudiod.editx.checkpoint.layout import QUANTIZED, Checkpoint
from stepaudiod.editx.checkpoint.prepared import NAMES, PreparedFile
from stepaudiod.editx.checkpoint.weights import (
    Progress,
    SafetensorsFolder,
    Stored,
    install,
    install_copied,
    stored_tensors,
    without_values,
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
WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", ":4096:2"
"""cuBLAS's memory for each CUDA stream in which it runs: 8 MiB, a quarter of what PyTorch takes there. An
environment variable, which is read at the first product."""
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
        wait: returns when the language model has its weights; raises a `ModelFileError` if it can't get them.
        finish: loads the encoders, and prepares the next start. Nothing waits for that: what fails is logged.
    """

    tokenizer: TextTokenizer
    step1: Step1ForCausalLM
    flow: Flow
    vocoder: Vocoder
    encoders: Lazy[Encoders]
    wait: Callable[[], None]
    finish: Callable[[], object]


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


def _finish(steps: Sequence[Callable[[], object]]) -> None:
    for step in steps:
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

    The language model can be used after `Networks.wait`, which must be called; the other networks at once, on
    the current stream.
    `dtype` is the language model's; everything else is float32, on which the codes depend. Quantized weights
    are read instead of the full model if `quantized_folder` contains them, or `prepared_folder` those that an
    earlier load made for a GPU. `progress` is called from several threads, one at a time; the stage is the
    other networks'. The encoders' weights stay on the host, unless `keeps_encoders`.

    Raises:
        ModelFileError: a file is missing, cut short or wrong.
    """
    checkpoint.verify()
    first = (*checkpoint.shards(), checkpoint.flow, checkpoint.vocoder)
    meter = _Meter(sum(path.stat().st_size for path in first), progress)
    meter.begin("language model")
    if device.type != "cuda":
        prepared_folder = None
    kept = None
    if quantization and prepared_folder and not _saved(quantization, quantized_folder):
        kept = kept_quantized(checkpoint, dtype, quantization, prepared_folder)
    with _short_turns(), ExitStack() as on_failure:
        step1, copies = begin_step1(
            checkpoint, device, dtype, quantization, quantized_folder, meter.add, kept
        )
        wait = partial(_wait, copies, device, kept)
        on_failure.callback(wait)
        meter.begin("text vocabulary")
        files = NetworkFiles(checkpoint, device, prepared_folder, keeps_encoders)
        tokenizer = files.tokenizer()
        meter.begin("flow decoder")
        flow = files.flow()
        meter.add(checkpoint.flow.stat().st_size)
        meter.begin("vocoder")
        vocoder = files.vocoder()
        meter.add(checkpoint.vocoder.stat().st_size)
        meter.begin("language model")
        on_failure.pop_all()
    encoders = Lazy(files.encoders)
    behind: list[Callable[[], object]] = [encoders.get, files.prepare]
    if kept is not None:
        behind.append(partial(keep_quantized, step1, kept))
    return Networks(tokenizer, step1, flow, vocoder, encoders, wait, partial(_finish, behind))


def _wait(copies: FileCopies, device: torch.device, kept: PreparedFile | None) -> None:
    with _mending(kept):
        copies.wait()
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # from here on all networks are used by other streams


@contextmanager
def _short_turns() -> Iterator[None]:
    """Let threads that read files wait shortly for the interpreter, which this one uses most of the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def load_kernels(key: str, device: torch.device) -> None:
    """Import what runs on a GPU only, load its compiled kernels (see `compile_missing`), and start cuBLAS.

    To be called by a thread of its own, while files are read.
    """
    try:
        compiling = import_module("stepaudiod.editx.compiling")
        for module in ("lm.cuda_runner", "decoder.cuda_runner"):
            import_module(f"stepaudiod.editx.{module}")
        compiling.load_compiled(key, device)
        F.linear(torch.zeros(2, 64, device=device), torch.zeros(64, 64, device=device))
    except Exception as error:  # the runner that needs it reports it, unless another thread was importing it
        log.warning("not loaded beforehand: %s: %s", type(error).__name__, error)


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
    kept: PreparedFile | None = None,
) -> tuple[Step1ForCausalLM, FileCopies]:
    """Begin to load the language model; it can be used when the copies are done. For `kept` see below."""
    on_host = ON_HOST if device.type == "cuda" else ()
    config = Step1Config.read(checkpoint.config)
    if config.vocab_size <= AUDIO_BASE:
        raise ModelFileError(
            f"{checkpoint.config}: expected vocab_size over {AUDIO_BASE}, found {config.vocab_size}; {mend()}"
        )
    with without_values():
        model = Step1ForCausalLM(config)

    def fill(mapped: Mapping[str, Tensor], stored: Mapping[str, Stored], source: Path) -> FileCopies:
        if device.type == "cuda":
            return install_copied(
                model, mapped, stored, source, device, dtype, progress, on_host, _neighbours
            )
        install(model, mapped, source, device, dtype, progress)
        return FileCopies((), device)

    if quantization is not None and (saved := _saved(quantization, quantized_folder)) is not None:
        prepare(model, quantization)
        return model, fill(read_saved(saved, quantization), stored_tensors(saved), saved)
    folder = SafetensorsFolder(checkpoint.model)
    if quantization is None:
        return model, fill(folder, folder.stored, checkpoint.model)
    if kept is not None and (stored := kept.find()) is not None:
        prepare(model, quantization)
        stored |= {name: folder.stored[name] for name in ON_HOST}
        with _mending(kept):
            return model, install_copied(
                model, folder, stored, kept.path, device, dtype, progress, ON_HOST, _neighbours
            )
    install(model, folder, checkpoint.model, torch.device("cpu"), None, progress)
    quantize(model, quantization, device, dtype, on_host)
    return model, FileCopies((), device)


def _saved(quantization: Quantization | None, folder: Path | None) -> Path | None:
    """The file that `write_quantized` wrote; None if there is none."""
    if quantization is None or folder is None:
        return None
    path = folder / QUANTIZED.format(quantization.value)
    return path if path.exists() else None


def kept_quantized(
    checkpoint: Checkpoint, dtype: torch.dtype, quantization: Quantization, folder: Path
) -> PreparedFile:
    """The file of what `keep_quantized` keeps of the language model; it may not exist."""
    published = [checkpoint.config, *checkpoint.shards()]
    return PreparedFile(folder, published, f"quantized-{quantization.value}-{NAMES[dtype]}-")


def keep_quantized(model: Step1ForCausalLM, kept: PreparedFile) -> None:
    """Write what was quantized at a load, for the next one; the tables of the whole vocabulary aren't.

    Raises:
        OSError: it can't be written, or the disk has too little room.
    """
    if not kept.path.exists():
        kept.write({name: tensor for name, tensor in model.state_dict().items() if name not in ON_HOST})
        log.info("wrote %s: the next start reads it instead of quantizing", kept.path)


@contextmanager
def _mending(kept: PreparedFile | None) -> Iterator[None]:
    """Remove a file of `keep_quantized` that can't be read, so that the next load makes it again."""
    try:
        yield
    except ModelFileError as error:
        if kept is not None and kept.path.exists():
            kept.remove(error)
        raise


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
