"""Free instructions ("whisper, and sound sad") mapped to an emotion, a style and a language of the model.

OpenAI's models take any instruction. This model was trained on a list of names; those that are found are
applied, and reported in the response.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from stepaudiod.edits import EMOTIONS, STYLES, Edit
from stepaudiod.tags import LANGUAGES

_SYNONYMS = {
    "happy": "happily cheerful cheerfully joyful glad smiling upbeat 开心 高兴 快乐 愉快",
    "angry": "angrily furious irate annoyed 生气 愤怒",
    "sad": "sadly sorrowful mournful melancholy 悲伤 难过 伤心",
    "humour": "humor humorous funny 幽默",
    "confusion": "confused puzzled 困惑",
    "disgusted": "disgust 厌恶",
    "empathy": "empathetic sympathetic compassionate 同情",
    "embarrass": "embarrassed 尴尬",
    "fear": "fearful afraid scared frightened 害怕 恐惧",
    "surprised": "surprise astonished amazed 惊讶",
    "excited": "excitedly enthusiastic energetic 激动 兴奋",
    "depressed": "gloomy 沮丧",
    "coldness": "cold icy 冷漠 冷淡",
    "admiration": "admiring 钦佩 崇拜",
    "whisper": "whispered whispering 耳语 悄悄",
    "serious": "seriously solemn formal formally 严肃 正式",
    "child": "childlike kid 孩子 儿童",
    "older": "elderly old 老人",
    "gentle": "gently soft softly soothing 温柔 轻柔",
    "warm": "warmly friendly 温暖",
    "recite": "reciting 朗诵",
    "story": "storytelling storyteller narrator 讲故事",
    "news": "newsreader newscaster anchor 新闻",
    "radio": "电台 广播",
    "advertising": "advertisement commercial 广告",
    "shout": "shouting yell yelling 喊 大喊",
    "murmur": "mumble mumbling 嘟囔",
    "loudly": "loud 大声",
    "act_coy": "coy 撒娇",
    "shy": "shyly bashful 害羞",
    "comfort": "comforting calming calm 安慰",
    "authority": "authoritative commanding 权威",
    "exaggerated": "dramatic theatrical 夸张",
}
_LANGUAGE_WORDS = {
    "Sichuanese": "sichuan 四川话",
    "Cantonese": "粤语 广东话",
    "Japanese": "日语",
    "Korean": "韩语",
}
_DIALECT_ONLY = ("Sichuanese", "Cantonese")


class Followed(NamedTuple):
    """The part of the instructions that is applied."""

    edit: Edit | None = None
    language: str | None = None

    @property
    def said(self) -> str:
        """For the response: `style=whisper; language=Cantonese`; "" if nothing was found."""
        edit = [] if self.edit is None else [f"{self.edit.kind}={self.edit.info}"]
        return "; ".join([*edit, *([f"language={self.language}"] if self.language else [])])


def follow(instructions: str) -> Followed:
    """Find the first emotion or style and the first dialect that English or Chinese instructions name."""
    text = re.sub(
        r"\b(?:not|no|never|don't be|without)(?: too| so| very)? \w+|不要\S{1,3}", " ", instructions.lower()
    )
    found: list[tuple[int, str, str]] = []
    for mode, names in (("emotion", EMOTIONS), ("style", STYLES)):
        for name in names:
            if (at := _find(text, name, _SYNONYMS.get(name, ""))) is not None:
                found.append((at, mode, name))
    languages = [
        (at, name)
        for name in LANGUAGES
        if name in _DIALECT_ONLY and (at := _find(text, name.lower(), _LANGUAGE_WORDS[name])) is not None
    ]
    edit = Edit(*min(found)[1:]) if found else None
    return Followed(edit, min(languages)[1] if languages else None)


def known_name(names: Iterable[str], word: str) -> str:
    """The model's name for a name or a synonym: `serious` for "formal"; other words are unchanged."""
    wanted = word.strip().lower()
    for name in names:
        if wanted in (name, *_SYNONYMS.get(name, "").split()):
            return name
    return word


def _find(text: str, name: str, others: str) -> int | None:
    """The first position of a name or one of its synonyms."""
    words = [name.replace("_", " "), *others.split()]
    places = [match.start() for word in words if (match := _pattern(word).search(text))]
    return min(places, default=None)


def _pattern(word: str) -> re.Pattern[str]:
    """A whole word; in Chinese there are no spaces around one."""
    return re.compile(rf"\b{re.escape(word)}\b" if word.isascii() else re.escape(word))
