"""Step-Audio-EditX as an engine: voices cloned from recordings, and recordings edited.

The encoded recording of a library voice is stored beside it, under a digest of the recording, its transcript
and the checkpoint, so a voice is encoded once. References that come with a request stay in memory.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepaudiod.audio.decode import decode
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.lengths import MAX_SECONDS
from stepaudiod.editx.lm.config import DTYPES, Quantization
from stepaudiod.editx.lm.quantize import size_bytes
from stepaudiod.editx.memory_plan import CONTEXT_BYTES, DRIVER_BYTES, MemoryNeeds, MemoryPlan
from stepaudiod.editx.pipeline import (
    SAMPLE_RATE,
    LoadProgress,
    Pipeline,
    PipelineOptions,
    Reference,
)
from stepaudiod.engines.base import Clip, Decode, Progress, Recognisers
from stepaudiod.engines.gpu_limit import limit
from stepaudiod.engines.step_audio.recogniser import NO_RECOGNISER, Recogniser, renaming_params
from stepaudiod.engines.step_audio.references import References, read_encoded, write_encoded
from stepaudiod.engines.step_audio.results import Results
from stepaudiod.errors import EngineUnavailable, InvalidRequest, NotFound
from stepaudiod.requests import EditRequest, SpeechRequest
from stepaudiod.voice_library import StoredVoice, VoiceLibrary

log = logging.getLogger(__name__)

_Signature = tuple[StoredVoice, int, int]
"""A library voice's metadata, and its recording's inode and time."""


class StepAudioEngine:
    """The engine `step-audio-editx`.

    Args:
        models_dir: contains both published folders.
        dtype: `bf16`, `fp16` or `fp32`, of the language model.
        quantization: `none`, `int8` or `int4`.
        gpu_memory: the most bytes of a GPU to use; None for as many as are useful and free.
        recogniser: `name`, `factory`, `options`, `files` and `languages` of the engine that transcribes
            recordings without a transcript; None if there is none.
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
        self._cache_dir = cache_dir
        self._checkpoint = Checkpoint(Path(models_dir))
        self._voices = VoiceLibrary(Path(voices_dir))
        self._device = device
        self._dtype = dtype
        self._quantization = quantization
        self._gpu_memory = gpu_memory
        self._options = PipelineOptions(is_output_checked=check_output)
        self._references = References()
        self._library_keys: dict[str, tuple[_Signature, str]] = {}
        """By the id of a voice: what its files looked like, and its reference's key."""
        self.decode: Decode = decode
        self.engines: Recognisers | None = None
        self._recogniser_order = recogniser

    def load(self, progress: Progress) -> None:
        """Read the weights.

        Raises:
            EngineUnavailable: CUDA is configured and missing, or has too little memory.
            ModelFileError: a file is missing, cut short or wrong.
        """

        def report(loaded: LoadProgress) -> None:
            done, total = (size / 1e9 for size in (loaded.done_bytes, loaded.total_bytes))
            stage = f"{loaded.stage}, {done:.1f} of {total:.1f} GB"
            progress(stage, loaded.done_bytes / max(loaded.total_bytes, 1))

        device = _device(self._device)
        quantization = None if self._quantization == "none" else self._quantization
        options = self._options
        if device.startswith("cuda"):
            progress("GPU", 0.0)
            if torch.device(device).index is not None:
                torch.cuda.set_device(device)  # graphs and Triton's kernels run on the thread's device
            plan = self._planned(_free_bytes(device))
            limit(device, plan.allocated_bytes)
            options = replace(
                options,
                positions=plan.positions,
                decoder_bytes=plan.decoder_bytes,
                keeps_encoders=plan.keeps_encoders,
            )
        self._encoder_key = self._checkpoint.encoder_key()
        self._pipeline = Pipeline.load(
            self._checkpoint.root,
            device,
            getattr(torch, DTYPES[self._dtype]),
            quantization,
            report,
            options,
            quantized_folder=self._checkpoint.quantized,
            prepared_folder=self._cache_dir,
        )
        self._pipeline.compile_kernels(progress)

    def _planned(self, free_bytes: int) -> MemoryPlan:
        """Divide the GPU's memory before anything is loaded; later use never exceeds it.

        `free_bytes` are those before this process used it.

        Raises:
            EngineUnavailable: there is too little.
            ModelFileError: a file is missing, cut short or wrong.
        """
        self._checkpoint.verify()
        kind = Quantization.named(self._quantization)
        needs = MemoryNeeds.of(self._checkpoint, self._dtype, kind)
        if self._recogniser is not None:
            free_bytes -= self._recogniser.reserve_gpu(free_bytes - needs.wanted_bytes(self._gpu_memory))
        plan = needs.plan(self._gpu_memory, free_bytes)
        log.info(
            "GPU memory: %.2f GB, of which %.2f for the driver and %.2f for weights; %d positions for all "
            "requests, %.2f GB for voices and streams; voices up to %.0f s; encoders on the %s",
            plan.total_bytes / 1e9,
            DRIVER_BYTES / 1e9,
            plan.weights_bytes / 1e9,
            plan.positions,
            plan.decoder_bytes / 1e9,
            plan.longest_voice_s,
            "GPU" if plan.keeps_encoders else "host",
        )
        return plan

    @property
    def _recogniser(self) -> Recogniser | None:
        if self._recogniser_order is None or self.engines is None:
            return None
        return Recogniser(self._recogniser_order, self.engines)

    def about(self) -> dict[str, str | int | bool]:
        step1 = self._pipeline.networks.step1
        return {
            "device": str(step1.device),
            "dtype": self._dtype,
            "quantization": self._quantization,
            "warm": False,
            "language_model_bytes": size_bytes(step1),
        }

    def attach(self, on_change: Callable[[], None]) -> None:
        """Have a function called, from another thread, whenever `step` has something to do."""
        self._pipeline.scheduler.lanes.on_change = on_change

    def step(self) -> int:
        """Advance all requests; returns the number of tasks that have ended."""
        return self._pipeline.scheduler.step()

    @property
    def is_working(self) -> bool:
        return self._pipeline.scheduler.is_working

    @property
    def is_warm(self) -> bool:
        return self._pipeline.is_warm

    def settle(self) -> None:
        """Wait for what is running; nothing starts before the next `step`."""
        self._pipeline.scheduler.lanes.settle()

    def close(self) -> None:
        """Wait for all that uses its memory, before it is freed."""
        self._pipeline.close()

    def speak(self, request: SpeechRequest) -> Results:
        """Speak the text in a voice of the library, streamed.

        Raises:
            NotFound: the library has no such voice.
            InvalidRequest: the voice has no transcript, or the change can't be applied.
            SynthesisFailed: the output can't be used, twice.
        """
        known = self._known_voice(request.voice)
        reference = partial(self._library_voice, request.voice) if known is None else known
        return self._say(request, reference, {}, ("voice", "voice"))

    def clone(self, request: SpeechRequest, reference: Clip) -> Results:
        """Speak the text in the voice of a recording that came with the request, streamed.

        Raises:
            InvalidRequest: the recording is silent, too short or has no transcript, or the change can't be
                applied.
            SynthesisFailed: the output can't be used, twice.
        """
        recording = request.reference
        assert recording is not None
        said = recording.transcript
        facts: dict[str, Any] = {}

        def encoded() -> Reference:
            key = self._key(reference.waveform.tobytes() + said.encode(errors="replace"))
            if (found := self._references.recall(key)) is None:
                found = self._references.remember(key, self._encode(reference, said.strip()))
            if not said.strip():
                facts.update(self._transcript_facts(found.transcript))
            return found

        return self._say(request, encoded, facts, ())

    def edit(self, request: EditRequest, clip: Clip) -> Results:
        """Change a recording; a long one in pieces.

        Raises:
            InvalidRequest: the recording is silent, too short or has no transcript, or the change can't be
                applied.
            SynthesisFailed: the output can't be used, twice.
        """
        edit = request.edit
        assert edit is not None
        facts: dict[str, Any] = {}
        said = request.recording.transcript.strip()
        transcribe = self._transcriber(said)
        is_whole = clip.duration_s <= MAX_SECONDS

        def heard(waveform: Tensor, sample_rate: int) -> str:
            if transcribe is not None and not is_whole:
                return transcribe(waveform, sample_rate)
            words = self._transcribe(clip)
            facts.update(self._transcript_facts(words))
            return words

        with renaming_params():
            synthesis = self._pipeline.edit(
                clip.waveform,
                clip.sample_rate,
                said,
                edit,
                seed=request.seed,
                transcribe=heard if transcribe is not None or (is_whole and not said) else None,
                is_streamed=request.is_streamed,
            )
        return Results(synthesis, facts, self._pipeline.finish)

    def _say(
        self,
        request: SpeechRequest,
        reference: Reference | Callable[[], Reference],
        facts: dict[str, Any],
        names: tuple[str, ...],
    ) -> Results:
        with renaming_params(*names):
            synthesis = self._pipeline.clone(
                reference,
                request.text,
                language=request.language,
                edit=request.edit,
                seed=request.seed,
                is_streamed=request.is_streamed,
            )
        return Results(synthesis, facts, self._pipeline.finish, request.speed, names)

    def _known_voice(self, voice_id: str) -> Reference | None:
        """A library voice in memory: its request waits for no other one's recording. None if it changed."""
        try:
            signature, key = self._library_keys.get(voice_id, (None, ""))
            return self._references.recall(key) if signature == self._signature(voice_id) else None
        except (NotFound, OSError):
            return None  # `_library_voice` says so

    def _library_voice(self, voice_id: str) -> Reference:
        """An encoded voice: from memory, from its file, or encoded now."""
        voice, path = self._voices.get(voice_id), self._voices.recording(voice_id)
        try:
            signature = self._signature(voice_id)
            key = self._key(path.read_bytes() + voice.transcript.encode(errors="replace"))
            file = path.parent / f"{key}.safetensors"
            reference = self._references.recall(key) or read_encoded(file)
            clip = Clip(*self.decode(path)) if reference is None else None
        except FileNotFoundError:
            raise NotFound(f"The voice {voice_id!r} has just been deleted.", "voice") from None
        if clip is not None:
            with renaming_params("voice", "voice"):
                reference = self._encode(clip, voice.transcript)
            write_encoded(reference, file)
        assert reference is not None
        self._library_keys[voice_id] = signature, key
        return self._references.remember(key, reference)

    def _signature(self, voice_id: str) -> _Signature:
        """What changes when a voice is made anew, without reading its recording."""
        status = self._voices.recording(voice_id).stat()
        return self._voices.get(voice_id), status.st_ino, status.st_mtime_ns

    def _encode(self, clip: Clip, transcript: str) -> Reference:
        """Encode a recording; of a long one, only the range that the model uses is transcribed."""
        if not transcript and clip.duration_s <= MAX_SECONDS:
            transcript = self._transcribe(clip)
        transcribe = self._transcriber(transcript)
        if not transcript and transcribe is None:
            raise InvalidRequest(NO_RECOGNISER, "transcript")
        return self._pipeline.encode_reference(clip.waveform, clip.sample_rate, transcript, transcribe)

    def _key(self, content: bytes) -> str:
        return hashlib.sha256(content + self._encoder_key.encode()).hexdigest()[:32]

    def _transcribe(self, clip: Clip) -> str:
        """Transcribe a recording of up to 30 s.

        Raises:
            InvalidRequest: there is no recogniser, there are no words, or the transcript is uncertain.
        """
        recogniser = self._recogniser
        if recogniser is None:
            raise InvalidRequest(NO_RECOGNISER, "transcript")
        transcript = recogniser.transcribe(clip)
        if not transcript:
            raise InvalidRequest(
                f"The recogniser {recogniser.name} found no words in the recording. Send its transcript.",
                "transcript",
            )
        return transcript

    def _transcript_facts(self, transcript: str) -> dict[str, str | int | float]:
        return {
            "transcript": transcript,
            "transcript_by": "" if self._recogniser is None else self._recogniser.name,
        }

    def _transcriber(self, given: str) -> Callable[[Tensor, int], str] | None:
        """A function that transcribes parts of a long recording, which is better than dividing a transcript.

        A recogniser of one language is used only if no transcript, and so no language, was given.
        """
        recogniser = self._recogniser
        if recogniser is None or (given.strip() and not recogniser.is_multilingual):
            return None
        may_guess = bool(given.strip())
        return lambda waveform, rate: recogniser.transcribe(
            Clip(waveform.cpu().numpy(), rate), may_guess=may_guess
        )


def _free_bytes(device: str) -> int:
    """What is free of a GPU, with what the driver holds of it for this process."""
    has_allocated = torch.cuda.memory_stats(device).get("segment.all.allocated", 0) > 0
    return torch.cuda.mem_get_info(device)[0] + (DRIVER_BYTES if has_allocated else CONTEXT_BYTES)


def _device(setting: str) -> str:
    """The configured device; resolves `auto`."""
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
