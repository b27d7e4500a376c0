r"""The language model's prompts: what is said around the codes. Knows no sampling.

The newest upstream form is a chat of three turns, encoded as one string:

    <s><|BOT|> system\n{system}<|EOT|><|BOT|> human\n{user}<|EOT|><|BOT|> assistant\n

The code of December 2025 encoded each piece by itself, and so put a `<s>` behind every `<|BOT|>`. Both are
here, the older one for comparison. User text is ordinary text: whatever it looks like, it can't end a turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import Enum

import numpy as np

from stepaudiod.editx.codes import BEGIN_OF_TURN, BOS, END_OF_TURN
from stepaudiod.editx.lm.text_tokenizer import Segment, TextTokenizer

DEFAULT_SPEAKER = "debug"
"""What upstream calls every cloned speaker."""

_CLONE_SYSTEM = (
    "Generate audio with the following timbre, prosody and speaking style\n\n[speaker_start]\nspeaker name: "
)
_EDIT_SYSTEM = (
    "As a highly skilled audio editing and tuning specialist, you excel in interpreting user instructions"
    " and applying precise adjustments to meet their needs. Your expertise spans a wide range of enhancement"
    " capabilities, including but not limited to:\n# Emotional Enhancement\n# Speaking Style Transfer\n"
    "# Non-linguistic Adjustments\n# Audio Tuning & Editing\nNote: You will receive instructions in natural"
    " language and are expected to accurately interpret and execute the most suitable audio edits and"
    " enhancements.\n"
)


class PromptForm(Enum):
    """How a prompt's pieces are put together."""

    CHAT = "chat"
    DECEMBER = "december"
    """As the code of December 2025 ran: a BOS in front of each piece."""
    DECEMBER_ONE_BOS = "december-one-bos"
    """The same pieces with the one BOS that was meant."""


class PromptWriter:
    """Writes prompts in one form.

    Args:
        tokenizer: the text vocabulary.
        form: how the pieces are put together.
        is_text_trusted: let control tokens in user text act, as the reference does. For comparison only.
    """

    def __init__(
        self, tokenizer: TextTokenizer, form: PromptForm = PromptForm.CHAT, is_text_trusted: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._form = form
        self._is_text_trusted = is_text_trusted

    def clone(
        self, code_ids: Sequence[int], prompt_text: str, text: str, speaker: str = DEFAULT_SPEAKER
    ) -> list[int]:
        """Ask for `text` in the voice of a reference.

        Args:
            code_ids: the reference's codes as ids.
            prompt_text: what the reference says.
            text: what to say.
            speaker: a name for the voice.

        Returns:
            The prompt's ids.
        """
        system: list[Segment] = [
            _CLONE_SYSTEM,
            *self._user(speaker),
            "\nspeaker prompt text: \n",
            *self._user(prompt_text),
            "\nspeaker audio tokens: \n",
            code_ids,
            "\n[speaker_end]\n",
        ]
        if self._form is PromptForm.CHAT:
            return self._chat(system, self._user(text))
        # the reference strips what a leading line break turns into, so that no word mark is put before the
        # text
        encoded = self._encode_alone(["\n", *self._user(text)])
        return self._pieces(system, encoded[len(self._encode_alone(["\n"])) :])

    def edit(self, code_ids: Sequence[int], instruction: str) -> list[int]:
        """Ask for a recording to be changed.

        Args:
            code_ids: the recording's codes as ids.
            instruction: from `edits.Edit.instruction`, ending with a line break.

        Returns:
            The prompt's ids.
        """
        user: list[Segment] = [*self._user(instruction), "\n", code_ids, "\n"]
        if self._form is PromptForm.CHAT:
            return self._chat([_EDIT_SYSTEM], user)
        return self._pieces([_EDIT_SYSTEM], self._encode_alone(user))

    def _chat(self, system: list[Segment], user: list[Segment]) -> list[int]:
        turn, end = [BEGIN_OF_TURN], [END_OF_TURN]
        return self._tokenizer.encode_segments(
            [[BOS], turn, " system\n", *system, end, turn, " human\n", *user, end, turn, " assistant\n"]
        )

    def _pieces(self, system: list[Segment], user_ids: list[int]) -> list[int]:
        encode, turn, end = self._encode_alone, [BEGIN_OF_TURN], [END_OF_TURN]
        ids = [BOS, *turn, *encode(["system\n", *system]), *end]
        return [*ids, *turn, *encode(["human\n"]), *user_ids, *end, *turn, *encode(["assistant\n"])]

    def _encode_alone(self, segments: list[Segment]) -> list[int]:
        ids = self._tokenizer.encode_segments(segments)
        return [BOS, *ids] if self._form is PromptForm.DECEMBER else ids

    def _user(self, text: str) -> list[Segment]:
        return self._tokenizer.sections(text) if self._is_text_trusted else [text]


def december_speaker(prompt_text: str, waveform: np.ndarray) -> str:
    """Name a speaker as the code of December 2025 did, from a digest of text and audio.

    Args:
        prompt_text: what the reference says.
        waveform: the raw loaded audio, channels and all, float32.
    """
    flat = np.ascontiguousarray(waveform, dtype=np.float32).reshape(-1)
    sample = np.concatenate((flat[:1000], flat[-1000:])) if flat.size > 2000 else flat
    digest = hashlib.sha256(prompt_text.encode(errors="replace"))
    digest.update(sample.tobytes())
    return f"clone_{digest.hexdigest()[:16]}"
