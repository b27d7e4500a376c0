"""Prompts as the code of December 2025 wrote them, and user text in which control tokens act.

That code encoded each piece by itself, and so put a BOS behind every `<|BOT|>`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from enum import Enum

import numpy as np

from stepaudiod.editx.codes import BEGIN_OF_TURN, BOS, END_OF_TURN
from stepaudiod.editx.lm.prompts import PromptWriter
from stepaudiod.editx.lm.text_tokenizer import Segment, TextTokenizer


class PromptForm(Enum):
    CHAT = "chat"
    DECEMBER = "december"
    DECEMBER_ONE_BOS = "december-one-bos"
    """The same pieces with the one BOS that was meant."""


def trusted_segments(tokenizer: TextTokenizer, text: str) -> Iterator[Segment]:
    """Split text into ordinary text and the ids of its control tokens, exact and case-sensitive."""
    longest_first = sorted(tokenizer.control, key=len, reverse=True)
    others = "|".join(re.escape(piece) for piece in longest_first if not piece.startswith("<audio_"))
    position = 0
    for match in re.finditer(rf"<audio_[0-9]+>|{others}", text):
        index = tokenizer.control.get(match.group())
        if index is None:  # <audio_99999> has no id: ordinary text
            continue
        yield text[position : match.start()]
        yield [index]
        position = match.end()
    yield text[position:]


def encode_trusted(tokenizer: TextTokenizer, text: str) -> list[int]:
    return tokenizer.encode(list(trusted_segments(tokenizer, text)))


class TrustingWriter(PromptWriter):
    """Lets control tokens in user text act, as the reference does, in any form."""

    def __init__(self, tokenizer: TextTokenizer, form: PromptForm = PromptForm.CHAT) -> None:
        super().__init__(tokenizer)
        self._form = form

    def _user(self, text: str) -> list[Segment]:
        return list(trusted_segments(self._tokenizer, text))

    def _chat(self, system: list[Segment], user: list[Segment]) -> list[int]:
        if self._form is PromptForm.CHAT:
            return super()._chat(system, user)
        encode, turn, end = self._encode_alone, [BEGIN_OF_TURN], [END_OF_TURN]
        if user[1:] and user[-1] == "\n" and not isinstance(user[-2], str):  # an edit's codes
            user_ids = encode(user)
        else:
            # the reference strips the encoding of a leading line break, so that no word mark comes before the
            # text
            user_ids = encode(["\n", *user])[len(encode(["\n"])) :]
        ids = [BOS, *turn, *encode(["system\n", *system]), *end]
        return [*ids, *turn, *encode(["human\n"]), *user_ids, *end, *turn, *encode(["assistant\n"])]

    def _encode_alone(self, segments: list[Segment]) -> list[int]:
        ids = self._tokenizer.encode(segments)
        return [BOS, *ids] if self._form is PromptForm.DECEMBER else ids


def december_speaker(prompt_text: str, waveform: np.ndarray) -> str:
    """The speaker's name of December 2025: a digest of text and raw audio, channels and all, float32."""
    flat = np.ascontiguousarray(waveform, dtype=np.float32).reshape(-1)
    sample = np.concatenate((flat[:1000], flat[-1000:])) if flat.size > 2000 else flat
    digest = hashlib.sha256(prompt_text.encode(errors="replace"))
    digest.update(sample.tobytes())
    return f"clone_{digest.hexdigest()[:16]}"
