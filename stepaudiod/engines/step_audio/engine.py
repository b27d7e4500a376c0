"""Step-Audio-EditX as an engine: voices cloned from recordings, recordings edited.

What the model makes of a library voice's recording is kept beside it, named by the recording, its transcript
and the checkpoint: a second request with the same voice encodes nothing. References that come with a request
are remembered while the worker lives.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stepaudiod.audio.decode import decode
from stepaudiod.audio.tempo import TempoStream
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.lm.quantize import Quantization, size_bytes
from stepaudiod.editx.memory_plan import MemoryNeeds
from stepaudiod.editx.pipeline import (
    SAMPLE_RATE,
    Edit,
    LoadProgress,
    Pipeline,
    PipelineOptions,
    Reference,
    RequestStats,
    Synthesis,
)
from stepaudiod.editx.segments import MAX_SECONDS
from stepaudiod.engines.base import Clip, Decode, Progress, Waveform
from stepaudiod.engines.whisper.transcripts import NO_RECOGNISER, TRANSCRIPT, Listener, renaming_params
from stepaudiod.errors import EngineUnavailable, InvalidRequest
from stepaudiod.requests import (
    EditRequest,
    Facts,
    Recording,
    SpeechRequest,
)
from stepaudiod.temp_dirs import UNFINISHED, TempDir, sweep
from stepaudiod.text.sentences import split_sentences
from stepaudiod.voice_library import VoiceLibrary

log = logging.getLogger(__name__)

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
REMEMBERED = 32
"""References in memory; each is some hundred kilobytes."""


class StepAudioEngine:
    """The engine `step-audio-editx`.

    Args:
        cache_dir: handed on to the recogniser.
        threads: processor threads for PyTorch.
        models_dir: holds both published folders.
        voices_dir: the voice library.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        dtype: `bf16`, `fp16` or `fp32`: the language model's.
        quantization: `none`, `int8` or `int4`.
        gpu_memory: bytes of a GPU that may be used; None for what is good, as far as it is free.
        check_output: notice silent, runaway and truncated speech.
        recogniser: `name`, `factory`, `options`, `files` and `languages` of the engine that writes down
            what a recording says where nobody told; None where there is none.
    """

    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        *,
        cache_dir: Path,
        threads: int,
        models_dir: str,
        voices_dir: str,
        device: str,
        dtype: str,
        quantization: str,
        gpu_memory: int | None,
        check_output: bool,
        recogniser: dict[str, Any] | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        self._checkpoint = Checkpoint(Path(models_dir))
        self._voices = VoiceLibrary(Path(voices_dir))
        self.decode: Decode = decode
        self._device = device
        self._dtype = dtype
        self._quantization = quantization
        self._gpu_memory = gpu_memory
        self._options = PipelineOptions(is_output_checked=check_output)
        self._references: OrderedDict[str, Reference] = OrderedDict()
        self._listener = None if recogniser is None else Listener(recogniser, cache_dir, threads)

    def load(self, progress: Progress) -> None:
        """Read the weights.

        Raises:
            EngineUnavailable: CUDA was asked for and isn't there, or there is too little of its memory.
            ModelFileError: a file is missing, cut short or wrong.
        """

        def tell(loaded: LoadProgress) -> None:
            done, total = (size / 1e9 for size in (loaded.done_bytes, loaded.total_bytes))
            stage = f"{loaded.stage}, {done:.1f} of {total:.1f} GB"
            progress(stage, loaded.done_bytes / max(loaded.total_bytes, 1))

        device = _device(self._device)
        quantization = None if self._quantization == "none" else self._quantization
        options = self._options
        if device.startswith("cuda"):
            progress("GPU", 0.0)
            if torch.device(device).index is not None:
                torch.cuda.set_device(device)  # graphs and Triton's kernels go to the thread's own device
            options = self._planned(torch.cuda.mem_get_info(device)[0])
        self._encoder_key = self._checkpoint.encoder_key()
        self._pipeline = Pipeline.load(
            self._checkpoint.root,
            device,
            DTYPES[self._dtype],
            quantization,
            tell,
            options,
            quantized_folder=self._checkpoint.quantized,
        )

    def _planned(self, free_bytes: int) -> PipelineOptions:
        """Divide the GPU's memory before anything is loaded; what is in use later never exceeds it.

        Raises:
            EngineUnavailable: there is too little.
            ModelFileError: a file is missing, cut short or wrong.
        """
        self._checkpoint.verify()
        kind = Quantization.named(self._quantization)
        needs = MemoryNeeds.of(self._checkpoint, DTYPES[self._dtype], kind)
        if self._listener is not None:
            free_bytes -= self._listener.find_place(free_bytes - needs.wanted_bytes(self._gpu_memory))
        plan = needs.plan(self._gpu_memory, free_bytes)
        log.info(
            "GPU memory: %.2f GB for weights, %d positions for all requests, %.2f GB for voices and streams; "
            "voices up to %.0f s",
            plan.weights_bytes / 1e9,
            plan.positions,
            plan.decoder_bytes / 1e9,
            plan.longest_voice_s,
        )
        return replace(self._options, positions=plan.positions, decoder_bytes=plan.decoder_bytes)

    def about(self) -> dict[str, str | int]:
        """Where it runs and what its language model weighs."""
        step1 = self._pipeline.networks.step1
        return {
            "device": str(step1.device),
            "dtype": self._dtype,
            "quantization": self._quantization,
            "language_model_bytes": size_bytes(step1),
        }

    def speak(self, request: SpeechRequest) -> Iterator[Waveform | Facts]:
        """Say the text in the voice of the library that the request names, as it is made.

        Raises:
            NotFound: the library has no such voice.
            InvalidRequest: nobody knows what the voice's recording says, or a change doesn't fit.
            SynthesisFailed: what came out can't be used, twice.
        """
        change = request.edit
        with renaming_params(Recording("", param="voice", transcript_param="voice")):
            yield from self._say(request, self._library_voice(request.voice), change, {})

    def clone(self, request: SpeechRequest, reference: Clip) -> Iterator[Waveform | Facts]:
        """Say the text in the voice of a recording that came with the request, as it is made.

        Raises:
            InvalidRequest: the recording is silent or too short, nobody knows what it says, or a change
                doesn't fit.
            SynthesisFailed: what came out can't be used, twice.
        """
        change = request.edit
        recording = request.reference
        assert recording is not None
        key = self._key(reference.waveform.tobytes() + recording.transcript.encode(errors="replace"))
        if key not in self._references:
            with renaming_params(recording):
                self._remember(key, self._encode(reference, recording.transcript.strip()))
        encoded = self._recall(key)
        facts = {} if recording.transcript.strip() else self._heard(encoded.transcript)
        with renaming_params(recording):
            yield from self._say(request, encoded, change, facts)

    def edit(self, request: EditRequest, clip: Clip) -> Iterator[Waveform | Facts]:
        """Change a recording; a long one in pieces.

        Raises:
            InvalidRequest: the recording is silent or too short, nobody knows what it says, or the change
                doesn't fit.
            SynthesisFailed: what came out can't be used, twice.
        """
        edit = request.edit
        facts: dict[str, str | int | float] = {}
        said = request.recording.transcript.strip()
        if edit.needs_transcript and not said and clip.duration_s <= MAX_SECONDS:
            with renaming_params(request.recording):
                said = self._listen(clip)
            facts = self._heard(said)
        with renaming_params(request.recording):
            synthesis = self._pipeline.edit(
                clip.waveform,
                clip.sample_rate,
                said,
                edit,
                seed=request.seed,
                stream=True,
                transcribe=self._transcriber(request.recording.transcript),
            )
            yield from _results(synthesis, facts)

    def _say(
        self, request: SpeechRequest, reference: Reference, change: Edit | None, facts: dict[str, Any]
    ) -> Iterator[Waveform | Facts]:
        synthesis = self._pipeline.clone(
            reference,
            request.text,
            language=request.language,
            edit=change,
            seed=request.seed,
            stream=True,
            splitter=_sentences,
        )
        yield from _at_speed(_results(synthesis, facts), request.speed)

    def _library_voice(self, voice_id: str) -> Reference:
        """What the model made of a voice: from memory, from beside the recording, or made now."""
        voice, path = self._voices.get(voice_id), self._voices.recording(voice_id)
        key = self._key(path.read_bytes() + voice.transcript.encode(errors="replace"))
        if key in self._references:
            return self._recall(key)
        kept = path.parent / f"{key}.safetensors"
        reference = _read(kept)
        if reference is None:
            with renaming_params(Recording(str(path), param="voice", transcript_param="voice")):
                reference = self._encode(Clip(*self.decode(path)), voice.transcript)
            _keep(reference, kept)
        self._remember(key, reference)
        return reference

    def _encode(self, clip: Clip, transcript: str) -> Reference:
        """Encode a recording; of a long one the model takes a stretch, and only that is written down."""
        if not transcript and clip.duration_s <= MAX_SECONDS:
            transcript = self._listen(clip)
        write_down = self._transcriber(transcript)
        if not transcript and write_down is None:
            raise InvalidRequest(NO_RECOGNISER, TRANSCRIPT)
        return self._pipeline.encode_reference(clip.waveform, clip.sample_rate, transcript, write_down)

    def _key(self, content: bytes) -> str:
        """Names what the model makes of a recording and its transcript."""
        return hashlib.sha256(content + self._encoder_key.encode()).hexdigest()[:32]

    def _remember(self, key: str, reference: Reference) -> None:
        self._references[key] = reference
        if len(self._references) > REMEMBERED:
            self._references.popitem(last=False)

    def _recall(self, key: str) -> Reference:
        self._references.move_to_end(key)
        return self._references[key]

    def _listen(self, clip: Clip) -> str:
        """Write down what a recording says.

        Raises:
            InvalidRequest: there is nothing to listen with, nothing was heard, or what was heard is a guess.
        """
        if self._listener is None:
            raise InvalidRequest(NO_RECOGNISER, TRANSCRIPT)
        said = self._listener.write_down(clip)
        if not said:
            raise InvalidRequest(
                f"The recogniser {self._listener.name} heard no words in the recording. Send its transcript.",
                TRANSCRIPT,
            )
        return said

    def _heard(self, transcript: str) -> dict[str, str | int | float]:
        """The facts about a transcript that nobody gave."""
        by = "" if self._listener is None else self._listener.name
        return {"transcript": transcript, "transcript_by": by}

    def _transcriber(self, given: str) -> Callable[[Tensor, int], str] | None:
        """Writes down pieces of a long recording, which is better than dealing a transcript out.

        A recogniser of one language is trusted only where nobody gave a transcript, and so the language.
        """
        listener = self._listener
        if listener is None or (given.strip() and not listener.is_multilingual):
            return None
        may_guess = bool(given.strip())
        return lambda waveform, rate: listener.write_down(
            Clip(waveform.cpu().numpy(), rate), may_guess=may_guess
        )


def _device(setting: str) -> str:
    """What `auto` means here."""
    if setting == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if setting.startswith("cuda") and not torch.cuda.is_available():
        raise EngineUnavailable(
            f'step_audio.device = "{setting}" is configured, and PyTorch sees no GPU. Install its CUDA '
            'build and the driver, or set it to "auto" or "cpu".'
        )
    index, count = torch.device(setting).index or 0, torch.cuda.device_count()
    if setting.startswith("cuda") and index >= count:
        raise EngineUnavailable(
            f'step_audio.device = "{setting}" is configured, and PyTorch sees {count} GPUs, counted '
            'from 0. Set another, "auto" or "cpu".'
        )
    return setting


def _results(synthesis: Synthesis, facts: dict[str, Any]) -> Iterator[Waveform | Facts]:
    """What is known, then the sound, then what it took."""
    report: RequestStats = synthesis.report
    facts = facts | {"seed": report.seed, "pieces": report.pieces}
    if (stretch := report.reference_stretch) is not None:
        facts["reference_stretch"] = f"{stretch.start:.2f}-{stretch.end:.2f}"
    yield Facts(facts)
    yield from synthesis
    yield Facts(
        {
            "input_tokens": report.input_tokens,
            "output_tokens": report.output_tokens,
            "retries": report.retries,
        }
    )


def _at_speed(results: Iterator[Waveform | Facts], speed: float) -> Iterator[Waveform | Facts]:
    """The sound faster or slower at the same pitch; the model itself speaks at the pace of its voice."""
    tempo = TempoStream(speed, SAMPLE_RATE)
    for result in results:
        yield result if isinstance(result, Facts) else tempo.push(result)
    yield tempo.finish()


def _read(path: Path) -> Reference | None:
    """The encoded voice; None where there is none, a damaged one, or one of another version."""
    if not path.exists():
        return None
    try:
        return Reference.from_tensors(load_file(path))
    except (InvalidRequest, SafetensorError, KeyError):
        return None


def _keep(reference: Reference, path: Path) -> None:
    """Keep an encoded voice; a folder that can't be written costs the next time."""
    sweep(path.parent)
    try:
        with TempDir(path.parent, UNFINISHED) as folder:
            unfinished = folder / path.name
            save_file(reference.to_tensors(), unfinished)
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())  # or a power cut could leave the name without the contents
            unfinished.rename(path)
    except (OSError, SafetensorError) as error:
        log.warning("the encoded voice can't be kept in %s: %s", path.parent, error)


def _sentences(text: str) -> Sequence[str]:
    """The text in pieces that the model speaks well."""
    return [piece.text for piece in split_sentences(text)]
