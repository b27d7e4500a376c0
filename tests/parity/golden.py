"""A dump of the reference, and the networks to hold against it."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.checkpoint.weights import SafetensorsFolder, install
from stepaudiod.editx.decoder.flow import Flow, load_flow
from stepaudiod.editx.decoder.vocoder import Vocoder, build_vocoder, read_vocoder
from stepaudiod.editx.lm.config import Step1Config
from stepaudiod.editx.lm.step1 import Step1ForCausalLM
from stepaudiod.editx.lm.text_tokenizer import TextTokenizer, read_pieces
from stepaudiod.editx.tokenizers.linguistic import LinguisticTokenizer, build_linguistic, read_linguistic
from stepaudiod.editx.tokenizers.semantic import SemanticTokenizer, build_semantic, read_semantic
from stepaudiod.editx.tokenizers.speaker import SpeakerEncoder, build_speaker_encoder, read_speaker_encoder

Arrays = dict[str, np.ndarray[Any, Any]]


class Golden:
    """The arrays of a dump; inputs are read from it, and its keys say what is wanted."""

    def __init__(self, path: Path, device: torch.device) -> None:
        with np.load(path, allow_pickle=False) as file:
            self._arrays = {name: file[name] for name in file.files}
        self.device = device
        meta: dict[str, Any] = (
            json.loads(str(self._arrays["meta_json"])) if "meta_json" in self._arrays else {}
        )
        self.arguments: dict[str, Any] = meta.get("args", {})

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def keys(self) -> list[str]:
        return list(self._arrays)

    def array(self, key: str) -> np.ndarray[Any, Any]:
        array: np.ndarray[Any, Any] = self._arrays[key]
        return array

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self._arrays[key])).to(self.device)

    def is_whole(self, key: str) -> bool:
        """Tell whether a key's array is there, as the reference made it."""
        return key in self

    def start(self, key: str, made: Tensor) -> Tensor:
        """What the next stage starts from: the golden's own array, or what we made where it has none.

        So a near tie in one stage counts once, and not again in everything behind it.
        """
        return self.tensor(key).to(made) if self.is_whole(key) else made

    def text(self, key: str) -> str:
        return str(self._arrays[key])

    def seed(self, name: str, default: int) -> int:
        found = self.arguments.get(name)
        return default if found is None else int(found)

    def noise(self, frames: int) -> Tensor:
        """The decoder's noise: as stored, or drawn again where more of it is needed."""
        stored = self.tensor("rand_noise") if "rand_noise" in self else torch.zeros(80, 0)
        if stored.shape[1] >= frames:
            return stored
        drawn = reference_noise(self.seed("noise_seed", 1234)).to(self.device)
        if stored.shape[1] and not torch.equal(drawn[:, : stored.shape[1]], stored):
            raise ValueError("the stored noise is short, and its seed isn't known")
        return drawn


def reference_noise(seed: int) -> Tensor:
    """The reference's noise, of which every solve reads the beginning: `(80, 30000)`."""
    return torch.randn(1, 80, 30000, generator=torch.Generator().manual_seed(seed))[0]


class Networks:
    """The networks of a checkpoint, each loaded when first asked for."""

    def __init__(self, root: Path, device: torch.device, golden: Golden) -> None:
        self.checkpoint = Checkpoint(root)
        self.device = device
        self._lm_dtype = getattr(torch, golden.arguments.get("lm_dtype") or "float32")
        self._flow_dtype = getattr(torch, golden.arguments.get("cosy_dtype") or "float32")

    @cached_property
    def linguistic(self) -> LinguisticTokenizer:
        path = self.checkpoint.linguistic
        return build_linguistic(read_linguistic(path, self.checkpoint.centroids), path, self.device)

    @cached_property
    def semantic(self) -> SemanticTokenizer:
        path = self.checkpoint.semantic
        return build_semantic(read_semantic(path), path, self.device)

    @cached_property
    def speaker(self) -> SpeakerEncoder:
        path = self.checkpoint.speaker_encoder
        return build_speaker_encoder(read_speaker_encoder(path), path, self.device)

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        return TextTokenizer(read_pieces(self.checkpoint.vocabulary))

    @cached_property
    def step1(self) -> Step1ForCausalLM:
        with torch.device("meta"):
            model = Step1ForCausalLM(Step1Config.read(self.checkpoint.config))
        folder = self.checkpoint.model
        install(model, SafetensorsFolder(folder), folder, self.device, self._lm_dtype)
        return model

    @cached_property
    def flow(self) -> Flow:
        return load_flow(self.checkpoint.flow, self.device).to(self._flow_dtype)

    @cached_property
    def vocoder(self) -> Vocoder:
        path = self.checkpoint.vocoder
        return build_vocoder(read_vocoder(path), path, self.device)
