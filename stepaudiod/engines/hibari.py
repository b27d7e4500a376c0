"""hibari: a small English voice inside its package, which loads at once.

Only the voice "heart" is passed to the library: it would download any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from stepaudiod.audio.crossfade import Joiner
from stepaudiod.audio.tempo import change_tempo
from stepaudiod.audio.types import Waveform
from stepaudiod.engines.base import NO_SOUND, Progress
from stepaudiod.engines.kokoro.pauses import PAUSES_S
from stepaudiod.engines.kokoro.phonemes import cut_phonemes
from stepaudiod.engines.kokoro.tolerant import TolerantG2P
from stepaudiod.engines.registry import HIBARI
from stepaudiod.engines.voice_names import require_speakable, resolve_voice
from stepaudiod.errors import EngineUnavailable, InvalidRequest
from stepaudiod.requests import SpeechRequest
from stepaudiod.text.normalize import clean, normalize_english
from stepaudiod.text.sentences import Break, split_sentences

FASTEST = 1.0
"""The voice's own fastest speed; beyond it the tempo is changed afterwards: at speed 2.0 a recogniser loses a
third of the words of the voice's own speed, a seventh after the change, and the duration is exact."""

MAX_PHONEMES = 400
PIECE, FIRST_PIECE = 240, 140
"""Spoken lengths of pieces; the first is shorter, for an early start."""


class HibariEngine:
    sample_rate = 24_000

    def __init__(self, *, cache_dir: Path, threads: int) -> None:
        self._threads = threads
        self._voice: Any = None
        self._g2p: Any = None

    def load(self, progress: Progress) -> None:
        """Read the voice and the lexicon in parallel: one is native code, the other Python.

        Raises:
            EngineUnavailable: the package is missing or broken.
        """
        if self._voice is not None:
            return
        progress("packages", 0.0)
        try:
            from hibari.tts import Hibari
        except ImportError as error:
            raise EngineUnavailable(
                f"The engine hibari can't be imported ({error}). To have it, {HIBARI.install}."
            ) from error
        progress("voice", 0.3)
        with ThreadPoolExecutor(1) as beside:
            voice = beside.submit(Hibari, voice="heart", threads=self._threads)
            from stepaudiod.engines.kokoro.english import load_g2p

            self._g2p = load_g2p()
            self._voice = voice.result()
        self._tolerant = TolerantG2P(HIBARI.name, self._voice.vocab)
        progress("ready", 1.0)

    def speak(self, request: SpeechRequest) -> Iterator[Waveform]:
        """Speak the text, sentence by sentence.

        Raises:
            NotFound: there is no such voice.
            InvalidRequest: the text has nothing to say.
            Unsupported: it is not English.
        """
        resolve_voice(HIBARI, request.voice, request.text)
        require_speakable(HIBARI, request.text)
        noise = np.random.default_rng(request.seed)
        joiner = Joiner(self.sample_rate, request.speed)
        spoke = False
        for piece in split_sentences(request.text, PIECE, FIRST_PIECE):
            parts = cut_phonemes(self._tolerant(self._phonemes, piece.text), MAX_PHONEMES)
            if not parts:
                yield NO_SOUND
            for index, part in enumerate(parts):
                waveform = self._synthesize(part, request.speed, noise)
                after = piece.after if index == len(parts) - 1 else Break.CLAUSE
                joined = joiner.join(waveform, PAUSES_S[after])
                if joined.size:
                    spoke = True
                    yield joined
        if not spoke:
            raise InvalidRequest("The input has nothing in it that this voice can say.", "text")

    def _phonemes(self, text: str) -> str:
        return str(self._g2p(normalize_english(clean(text))))

    def _synthesize(self, phonemes: str, speed: float, noise: np.random.Generator) -> Waveform:
        own = min(speed, FASTEST)
        waveform: Waveform = self._voice.from_ids(self._voice.ids(phonemes), own, noise)
        return waveform if own == speed else change_tempo(waveform, speed / own, self.sample_rate)
