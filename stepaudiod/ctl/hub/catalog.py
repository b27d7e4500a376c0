"""The models that can be pulled: their repositories, folders and files.

Python files of a repository are never downloaded: no code that comes with weights is run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from stepaudiod.ctl.errors import WrongUsage
from stepaudiod.editx.checkpoint.layout import (
    DECODER_FOLDER,
    LINGUISTIC_FOLDER,
    MODEL_FOLDER,
    TOKENIZER_FOLDER,
)
from stepaudiod.engines.local_models import STEP_AUDIO

LICENCES = ("LICENSE*", "NOTICE*")


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository of the hubs, and its local folder.

    Each pattern in `needed` must match a file. `derived` are folders made from its files, which are removed
    when these change.
    """

    folder: str
    huggingface: str
    modelscope: str
    needed: tuple[str, ...]
    optional: tuple[str, ...] = LICENCES
    derived: tuple[str, ...] = ()

    def id(self, source: str) -> str:
        return self.modelscope if source == "modelscope" else self.huggingface

    def wanted(self, paths: Iterable[str]) -> list[str]:
        """The paths of a listing that are to be downloaded."""
        patterns = (*self.needed, *self.optional)
        return [path for path in paths if any(_matches(path, pattern) for pattern in patterns)]

    def missing(self, paths: Iterable[str]) -> list[str]:
        """The needed patterns that match none of the paths."""
        known = list(paths)
        return [pattern for pattern in self.needed if not any(_matches(path, pattern) for path in known)]


@dataclass(frozen=True, slots=True)
class PublishedModel:
    name: str
    repositories: tuple[Repository, ...]


def _matches(path: str, pattern: str) -> bool:
    """Match like a shell: a star doesn't match a slash."""
    return path.count("/") == pattern.count("/") and PurePosixPath(path).match(pattern)


EDITX = PublishedModel(
    name=STEP_AUDIO,
    repositories=(
        Repository(
            folder=MODEL_FOLDER,
            huggingface="stepfun-ai/Step-Audio-EditX",
            modelscope="stepfun-ai/Step-Audio-EditX",
            needed=(
                "config.json",
                "*.safetensors",
                "tokenizer.model",
                f"{DECODER_FOLDER}/flow.pt",
                f"{DECODER_FOLDER}/hift.pt",
                f"{DECODER_FOLDER}/campplus.onnx",
            ),
            optional=("model.safetensors.index.json", "tokenizer_config.json", *LICENCES),
            derived=(f"{MODEL_FOLDER}-quantized",),
        ),
        Repository(
            folder=TOKENIZER_FOLDER,
            huggingface="stepfun-ai/Step-Audio-Tokenizer",
            modelscope="stepfun-ai/Step-Audio-Tokenizer",
            needed=(
                "linguistic_tokenizer.npy",
                "speech_tokenizer_v1.onnx",
                f"{LINGUISTIC_FOLDER}/model.pt",
                f"{LINGUISTIC_FOLDER}/am.mvn",
            ),
        ),
    ),
)

WHISPER_SIZES = ("tiny", "base", "small", "medium", "large-v3", "large-v3-turbo")
DEFAULT_WHISPER = "whisper-large-v3-turbo"


def _whisper(size: str) -> PublishedModel:
    return PublishedModel(
        name=f"whisper-{size}",
        repositories=(
            Repository(
                folder=f"whisper-{size}",
                huggingface=f"openai/whisper-{size}",
                modelscope=f"openai-mirror/whisper-{size}",
                needed=("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"),
                optional=(
                    "generation_config.json",
                    "tokenizer_config.json",
                    "special_tokens_map.json",
                    "added_tokens.json",
                    "vocab.json",
                    "merges.txt",
                    "normalizer.json",
                    *LICENCES,
                ),
            ),
        ),
    )


MODELS = (EDITX, *(_whisper(size) for size in WHISPER_SIZES))


PULLING = ".pulling"
"""The folder of incomplete downloads."""

FOLDERS = (
    PULLING,
    *(name for model in MODELS for each in model.repositories for name in (each.folder, *each.derived)),
)
"""Everything that is changed in the folder of all models."""


def find(name: str) -> PublishedModel:
    """The model of that name, else `WrongUsage`; `whisper` is DEFAULT_WHISPER."""
    wanted = DEFAULT_WHISPER if name == "whisper" else name
    for model in MODELS:
        if model.name == wanted:
            return model
    known = ", ".join([EDITX.name, "whisper", *(model.name for model in MODELS[1:])])
    raise WrongUsage(f"There is no published model {name!r}. Models: {known}.")
