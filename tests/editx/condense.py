"""Condense a golden to what a repository can carry: `python -m tests.editx.condense GOLDEN.npz OUT.npz`.

Inputs are kept whole, or drawn again from their seeds; outputs are thinned to a few thousand evenly spread
values. What depends on the published vocabulary or centroids is left out: those can't be made up.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.parity.golden import Arrays, Golden, reference_noise

KEPT_VALUES = 3000
DRAWN = ("rand_noise", "hift_noise", "stream_noise_0", "stream_noise_1", "stream_noise_2")
LEFT_OUT = (
    "ids_",
    "instruct_",
    "tok_",
    "token_str",
    "clone_voice",
    "hift_rand",
    "hift_phase",
    "vq02_margin",
    "e2e_",
)
WHOLE = (
    "wav_in",
    "ids_chat_emotion_happy",
    "vq0206",
    "lm_forced_ids",
    "lm_prompt_key",
    "dec_tokens",
    "rep_seqs",
    "sr",
)
"""Inputs."""


def is_whole(key: str) -> bool:
    return key in WHOLE or (key.startswith("edge_") and key.endswith(("_in", "_samples", "noise_2s")))


def thin(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat[:: max(1, -(-flat.size // KEPT_VALUES))]


def condense(arrays: Arrays) -> Arrays:
    kept: Arrays = {}
    shapes: dict[str, list[int]] = {}
    for key, array in arrays.items():
        if key in DRAWN or key == "meta_json" or (key.startswith(LEFT_OUT) and not is_whole(key)):
            continue
        if array.dtype.kind == "i":
            array = array.astype(np.int32)
        if key == "wav_in":
            array = np.round(array * 32768).astype(np.int16)
        shapes[key] = list(array.shape)
        kept[key] = array if is_whole(key) or array.ndim == 0 else thin(array)
    arguments = json.loads(str(arrays["meta_json"]))["args"]
    known = {name: arguments[name] for name in ("prompt_text", "target_text", "noise_seed", "hift_seed")}
    noises = {key: list(arrays[key].shape) for key in DRAWN if key in arrays}
    kept["meta_json"] = np.array(json.dumps({"args": known, "shapes": shapes, "noises": noises}))
    return kept


class SmallGolden(Golden):
    """A condensed golden: outputs have only their shapes, inputs are whole and noises drawn again."""

    def __init__(self, path: Path, device: torch.device) -> None:
        super().__init__(path, device)
        meta = json.loads(str(self._arrays["meta_json"]))
        self._shapes: dict[str, list[int]] = meta["shapes"]
        self._arrays["wav_in"] = self._arrays["wav_in"].astype(np.float32) / 32768
        self._arrays |= self._drawn(meta["noises"])

    def expected(self) -> Arrays:
        return {key: self._arrays[key] for key in self._shapes if not is_whole(key)}

    def array(self, key: str) -> np.ndarray[Any, Any]:
        """One input as it is; of an output, zeros in its shape."""
        if key in self._shapes and not is_whole(key) and self._shapes[key]:
            return np.broadcast_to(self._arrays[key].dtype.type(), self._shapes[key])
        array: np.ndarray[Any, Any] = self._arrays[key]
        return array.astype(np.int64) if array.dtype == np.int32 else array

    def is_whole(self, key: str) -> bool:
        return key in self and is_whole(key)

    def _drawn(self, shapes: dict[str, list[int]]) -> Arrays:
        """Draw the noises in the reference's order, with the draws that it makes and never uses."""
        frames = shapes["rand_noise"][1]
        made: Arrays = {"rand_noise": reference_noise(self.seed("noise_seed", 0))[:, :frames].numpy()}
        for keys in (["hift_noise"], [key for key in DRAWN if key.startswith("stream_")]):
            generator = torch.Generator().manual_seed(self.seed("hift_seed", 0))
            for key in keys:
                if key in shapes:
                    made[key] = _source_noise(shapes[key][0], generator).numpy()
        return made


def _source_noise(samples: int, generator: torch.Generator) -> Tensor:
    torch.rand(1, 9, generator=generator)
    noise = torch.randn(1, samples, 9, generator=generator)[0]
    torch.randn(1, samples, 1, generator=generator)
    return noise


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.editx.condense", description=__doc__)
    parser.add_argument("golden", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    with np.load(options.golden) as file:
        kept = condense({key: file[key] for key in file.files})
    np.savez_compressed(options.out, **kept)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
