"""All networks of a checkpoint, loaded with progress. Independent of requests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from stepaudiod.editx.checkpoint.headers import mend
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.checkpoint.weights import Progress, SafetensorsFolder, install
from stepaudiod.editx.codes import AUDIO_BASE
from stepaudiod.editx.decoder.flow import Flow, load_flow
from stepaudiod.editx.decoder.step_graphs import StepGraphs
from stepaudiod.editx.decoder.vocoder import Vocoder, load_vocoder
from stepaudiod.editx.lm.config import ON_HOST, Quantization, Step1Config
from stepaudiod.editx.lm.quantize import FILE_NAME, prepare, quantize, read_saved, save
from stepaudiod.editx.lm.scheduler import DEFAULT_ROWS, Batch
from stepaudiod.editx.lm.step1 import Step1ForCausalLM
from stepaudiod.editx.lm.text_tokenizer import TextTokenizer
from stepaudiod.editx.tokenizers.linguistic import LinguisticTokenizer, load_linguistic
from stepaudiod.editx.tokenizers.semantic import SemanticTokenizer, load_semantic
from stepaudiod.editx.tokenizers.speaker import SpeakerEncoder, load_speaker_encoder
from stepaudiod.errors import ModelFileError


@dataclass(frozen=True)
class LoadProgress:
    """The state of loading; `stage` names the network that is being read."""

    stage: str
    done_bytes: int
    total_bytes: int


OnProgress = Callable[[LoadProgress], None]


@dataclass(frozen=True)
class Networks:
    tokenizer: TextTokenizer
    step1: Step1ForCausalLM
    linguistic: LinguisticTokenizer
    semantic: SemanticTokenizer
    speaker: SpeakerEncoder
    flow: Flow
    vocoder: Vocoder


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


def load_networks(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization | None = None,
    quantized_folder: Path | None = None,
    progress: OnProgress | None = None,
) -> Networks:
    """Load every network; the language model, which has most bytes, in a thread beside the others.

    `dtype` is the language model's; everything else is float32, on which the codes depend. Quantized weights
    are read instead of the full model if `quantized_folder` contains them. `progress` is called from two
    threads, one at a time; the stage is the other networks'.

    Raises:
        ModelFileError: a file is missing, cut short or wrong.
    """
    checkpoint.verify()
    meter = _Meter(checkpoint.size_bytes(), progress)
    is_inference = torch.is_inference_mode_enabled()

    def language_model() -> Step1ForCausalLM:
        with torch.inference_mode(is_inference):  # the mode is per thread
            return load_step1(checkpoint, device, dtype, quantization, quantized_folder, meter.add)

    meter.begin("text vocabulary")
    with ThreadPoolExecutor(1, "language model") as beside:
        return _load_beside(beside.submit(language_model), checkpoint, device, meter)


def _load_beside(
    language_model: Future[Step1ForCausalLM], checkpoint: Checkpoint, device: torch.device, meter: _Meter
) -> Networks:
    tokenizer = TextTokenizer(checkpoint.vocabulary)
    meter.begin("linguistic tokenizer")
    linguistic = load_linguistic(checkpoint.linguistic, checkpoint.centroids, device)
    meter.add((checkpoint.linguistic / "model.pt").stat().st_size)
    meter.begin("semantic tokenizer")
    semantic = load_semantic(checkpoint.semantic, device)
    meter.add(checkpoint.semantic.stat().st_size)
    meter.begin("speaker encoder")
    speaker = load_speaker_encoder(checkpoint.speaker_encoder, device)
    meter.add(checkpoint.speaker_encoder.stat().st_size)
    meter.begin("flow decoder")
    flow = load_flow(checkpoint.flow, device, progress=meter.add)
    flow.schedule()
    flow.graphs = StepGraphs(flow.estimator) if device.type == "cuda" else None
    meter.begin("vocoder")
    vocoder = load_vocoder(checkpoint.vocoder, device, progress=meter.add)
    meter.begin("language model")
    return Networks(tokenizer, language_model.result(), linguistic, semantic, speaker, flow, vocoder)


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
    on_host = ON_HOST if device.type == "cuda" else ()
    config = Step1Config.read(checkpoint.config)
    if config.vocab_size <= AUDIO_BASE:
        raise ModelFileError(
            f"{checkpoint.config}: expected vocab_size over {AUDIO_BASE}, found {config.vocab_size}; {mend()}"
        )
    with torch.device("meta"):
        model = Step1ForCausalLM(config)
    if quantization is None:
        folder = SafetensorsFolder(checkpoint.model)
        install(model, folder, checkpoint.model, device, dtype, progress, on_host)
        return model
    saved = quantized_folder / FILE_NAME.format(quantization.value) if quantized_folder else None
    if saved is not None and saved.exists():
        prepare(model, quantization)
        install(model, read_saved(saved, quantization), saved, device, dtype, progress, on_host)
        return model
    install(model, SafetensorsFolder(checkpoint.model), checkpoint.model, torch.device("cpu"), None, progress)
    quantize(model, quantization, device, dtype, on_host)
    return model


def write_quantized(checkpoint: Checkpoint, quantization: Quantization, folder: Path) -> Path:
    """Quantize a checkpoint's language model and write it to a folder; returns the file."""
    return save(
        load_step1(checkpoint, torch.device("cpu"), torch.bfloat16, quantization), quantization, folder
    )


def make_batch(model: Step1ForCausalLM, rows: int | None, length: int, positions: int) -> Batch:
    """Make the batch that suits the device, with the rows that suit it if they are None.

    `length` is of each sequence, `positions` of all together, on a GPU.
    """
    if model.device.type == "cuda":
        # Triton comes with PyTorch's CUDA build only
        from stepaudiod.editx.lm.cuda_scheduler import CudaBatch

        return CudaBatch(model, rows or CudaBatch.MAX_ROWS, length, positions)
    return Batch(model, rows or DEFAULT_ROWS, length)
