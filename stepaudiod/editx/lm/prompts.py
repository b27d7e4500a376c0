r"""The language model's prompts: the text around the codes. Independent of sampling.

A chat of three turns, encoded as one string:

    <s><|BOT|> system\n{system}<|EOT|><|BOT|> human\n{user}<|EOT|><|BOT|> assistant\n
"""

from __future__ import annotations

from collections.abc import Sequence

from stepaudiod.editx.codes import BEGIN_OF_TURN, BOS, END_OF_TURN
from stepaudiod.editx.lm.text_tokenizer import Segment, TextTokenizer

DEFAULT_SPEAKER = "debug"
"""Upstream's name for every cloned speaker."""

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


class PromptWriter:
    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer

    def clone(
        self, code_ids: Sequence[int], prompt_text: str, text: str, speaker: str = DEFAULT_SPEAKER
    ) -> list[int]:
        """The prompt for `text` in the voice of a reference, from its codes as ids and its transcript."""
        return self._chat(
            [
                _CLONE_SYSTEM,
                *self._user(speaker),
                "\nspeaker prompt text: \n",
                *self._user(prompt_text),
                "\nspeaker audio tokens: \n",
                code_ids,
                "\n[speaker_end]\n",
            ],
            self._user(text),
        )

    def edit(self, code_ids: Sequence[int], instruction: str) -> list[int]:
        """The prompt for a change to a recording; the instruction ends with a line break."""
        return self._chat([_EDIT_SYSTEM], [*self._user(instruction), "\n", code_ids, "\n"])

    def _chat(self, system: list[Segment], user: list[Segment]) -> list[int]:
        turn, end = [BEGIN_OF_TURN], [END_OF_TURN]
        return self._tokenizer.encode(
            [[BOS], turn, " system\n", *system, end, turn, " human\n", *user, end, turn, " assistant\n"]
        )

    def _user(self, text: str) -> list[Segment]:
        return [text]
