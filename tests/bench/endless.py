"""A checkpoint whose speech never ends by itself, and texts whose longest plausible speech is so long.

Random weights end an output at random, mostly after a second. With the output's check off, such a checkpoint
says every text for as long as `lengths.bounds_for_text` allows.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from safetensors.torch import save_file

from stepaudiod.editx.checkpoint.headers import safetensors_header
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.checkpoint.weights import SafetensorsFolder
from stepaudiod.editx.codes import AUDIO_BASE, END_OF_TURN, GROUP, SECONDS_PER_GROUP
from stepaudiod.editx.lengths import bounds_for_text

HEAD, FILE = "lm_head.weight", "endless.safetensors"
LETTERS = "thebirchcanoeslidonthesmoothplanksofwoodgluethesheettothedarkbluebackground"


def text_of(seconds: float) -> str:
    """A text of as many letters as have speech of at most so many seconds.

    Raises:
        ValueError: no number of letters has.
    """
    tokens = round(seconds / SECONDS_PER_GROUP) * GROUP + 1
    for count in range(1, len(LETTERS)):
        text = " ".join(textwrap.wrap(LETTERS[:count], 5))
        if bounds_for_text(text).max_tokens == tokens:
            return text
    raise ValueError(f"no text has speech of at most {seconds:g} s")


def write_endless(models: Path, folder: Path) -> Path:
    """Link a checkpoint's files into a new folder; only the language model's last matrix is written anew.

    The end's row becomes the negative of what all codes' rows have in common.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in models.rglob("*"):
        to = folder / path.relative_to(models)
        to.mkdir(parents=True, exist_ok=True) if path.is_dir() else to.symlink_to(path.resolve())
    model = Checkpoint(folder).model
    tensors = SafetensorsFolder(model)
    head = tensors[HEAD].clone()
    head[END_OF_TURN] = -4 * head[AUDIO_BASE:].float().mean(dim=0)
    save_file({HEAD: head}, model / FILE, {"format": "pt"})
    file_of = {name: path.name for path in Checkpoint(models).shards() for name in safetensors_header(path)}
    index = model / "model.safetensors.index.json"
    index.unlink(missing_ok=True)
    index.write_text(json.dumps({"metadata": {}, "weight_map": file_of | {HEAD: FILE}}))
    return folder
