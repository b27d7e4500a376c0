"""Step-Audio-EditX as an engine: its voices are those of the library, cloned from their recordings.

What the model makes of a recording is kept beside it, named by the recording, its transcript and the
checkpoint: a second request with the same voice encodes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from stepaudiod.audio.decode import decode
from stepaudiod.engines.base import Progress, Waveform
from stepaudiod.errors import EngineUnavailable, InvalidRequest, Unsupported
from stepaudiod.model.checkpoint import Checkpoint
from stepaudiod.model.pipeline import SAMPLE_RATE, LoadProgress, Pipeline, Reference
from stepaudiod.speech import SpeechRequest
from stepaudiod.text.sentences import split_sentences
from stepaudiod.voices import VoiceLibrary

log = logging.getLogger(__name__)

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class StepAudioEngine:
    """The engine `step-audio-editx`.

    Args:
        cache_dir: unused; what is cached lies beside the voices.
        threads: processor threads for PyTorch.
        models_dir: holds both published folders.
        voices_dir: the voice library.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        dtype: `bf16`, `fp16` or `fp32`: the language model's.
        quantization: `none`, `int8` or `int4`.
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
    ) -> None:
        torch.set_num_threads(threads)
        self._checkpoint = Checkpoint(Path(models_dir))
        self._voices = VoiceLibrary(Path(voices_dir))
        self._device = device
        self._dtype = DTYPES[dtype]
        self._quantization = None if quantization == "none" else quantization
        self._references: dict[str, Reference] = {}

    def load(self, progress: Progress) -> None:
        """Read the weights; the kernel reads ahead meanwhile.

        Raises:
            EngineUnavailable: CUDA was asked for and isn't there.
            ModelFileError: a file is missing, cut short or wrong.
        """
        self._checkpoint.prefetch()

        def tell(loaded: LoadProgress) -> None:
            progress(loaded.stage, loaded.done_bytes / max(loaded.total_bytes, 1))

        device = _device(self._device)
        self._encoder_key = self._checkpoint.encoder_key()
        self._pipeline = Pipeline.load(self._checkpoint.root, device, self._dtype, self._quantization, tell)

    def speak(self, request: SpeechRequest) -> Iterator[Waveform]:
        """Say the text in the voice of the library that the request names, as it is made.

        Raises:
            NotFound: the library has no such voice.
            Unsupported: the request wants a speed; the model has none for speech.
            SynthesisFailed: what came out can't be used, twice.
        """
        if request.speed != 1.0:
            raise Unsupported(
                "step-audio-editx speaks at the pace of its voice: leave `speed` out, or take kokoro.",
                "speed",
            )
        reference = self._reference(request.voice)
        yield from self._pipeline.clone(
            reference, request.text, seed=request.seed, stream=True, splitter=_sentences
        )

    def _reference(self, voice_id: str) -> Reference:
        """What the model made of a voice: from memory, from beside the recording, or made now."""
        voice, recording = self._voices.get(voice_id), self._voices.recording(voice_id)
        if not voice.transcript:
            raise InvalidRequest(
                f"The voice {voice_id!r} has no transcript. Make it again with one.", "voice"
            )
        digest = hashlib.sha256(recording.read_bytes() + voice.transcript.encode())
        digest.update(self._encoder_key.encode())
        key = digest.hexdigest()[:32]
        if key not in self._references:
            path = recording.parent / f"{key}.safetensors"
            self._references[key] = _read(path) or self._encode(recording, voice.transcript, path)
        return self._references[key]

    def _encode(self, recording: Path, transcript: str, path: Path) -> Reference:
        """Encode the recording and keep the result; a folder that can't be written costs the next time."""
        waveform, rate = decode(recording, param="voice")
        reference = self._pipeline.encode_reference(waveform, rate, transcript)
        unfinished = path.with_suffix(f".{os.getpid()}")
        try:
            save_file(reference.to_tensors(), unfinished)
            unfinished.rename(path)
        except OSError as error:
            log.warning("the encoded voice can't be kept in %s: %s", path.parent, error)
        return reference


def _device(setting: str) -> str:
    """What `auto` means here."""
    if setting == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if setting.startswith("cuda") and not torch.cuda.is_available():
        raise EngineUnavailable(
            f'step_audio.device = "{setting}" is configured, and PyTorch sees no GPU. Install its CUDA '
            'build and the driver, or set it to "auto" or "cpu".'
        )
    return setting


def _read(path: Path) -> Reference | None:
    """The encoded voice; None where there is none, or one of another version."""
    if not path.exists():
        return None
    try:
        return Reference.from_tensors(load_file(path))
    except InvalidRequest:
        return None


def _sentences(text: str) -> Sequence[str]:
    """The text in pieces that the model speaks well."""
    return [piece.text for piece in split_sentences(text)]
