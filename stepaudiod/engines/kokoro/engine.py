"""Kokoro-82M, 8 bit, on the processor: English, Chinese and text that mixes them, in six voices.

    text ──► pieces ──► runs by language ──► phonemes ──► parts of ≤ 120 tokens ──► waveform ──► joined

Its memory grows with the length of a part, hence the short parts. It uses no noise: the same request gives
the same samples with any seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepaudiod.audio.crossfade import Joiner
from stepaudiod.audio.tempo import change_tempo
from stepaudiod.audio.types import Waveform
from stepaudiod.engines.base import NO_SOUND, Progress
from stepaudiod.engines.kokoro.pauses import PAUSES_S
from stepaudiod.engines.kokoro.phonemes import cut_phonemes
from stepaudiod.engines.kokoro.tolerant import TolerantG2P
from stepaudiod.engines.kokoro.vocab import VOCAB
from stepaudiod.engines.kokoro.weights import is_intact, joined_weights
from stepaudiod.engines.registry import KOKORO
from stepaudiod.engines.voice_names import find_voice, require_speakable, resolve_voice
from stepaudiod.errors import EngineUnavailable, InvalidRequest, ModelFileError
from stepaudiod.requests import SpeechRequest
from stepaudiod.text.scripts import has_letters, main_language
from stepaudiod.text.sentences import Break, split_sentences
from stepaudiod.text.spoken import spoken_runs

STYLES = Path(__file__).parent / "voices"

MAX_TOKENS = 120
PIECE = 96
FIRST_PIECE = 56
"""Spoken lengths of pieces: a letter has about 1.1 tokens, a Chinese character about 4.5."""

SLOWEST, FASTEST = 0.5, 1.0
"""The speeds that the model handles well; beyond them the tempo of its output is changed. At speed 2.0 a
recogniser gets half of the model's own words wrong, and a fifth after a change of tempo."""


class KokoroEngine:
    """English and Chinese text to 24 kHz speech. The folder has joined weights and jieba's dictionary."""

    sample_rate = 24_000

    def __init__(self, *, cache_dir: Path, threads: int) -> None:
        self._cache_dir = cache_dir
        self._threads = threads
        self._session: Any = None
        self._styles: dict[str, NDArray[np.float32]] = {}
        self._g2p: dict[str, Callable[[str], str]] = {}
        self._tolerant = TolerantG2P(KOKORO.name, VOCAB)

    def load(self, progress: Progress) -> None:
        """Read the weights, and check their digest meanwhile. Languages are loaded at their first use.

        Raises:
            EngineUnavailable: a package is missing, or the cache can't be written.
            ModelFileError: the weights are damaged.
        """
        if self._session is not None:
            return
        progress("weights", 0.0)
        path = joined_weights(self._cache_dir)
        progress("model", 0.3)
        with ThreadPoolExecutor(1) as beside:
            intact = beside.submit(is_intact, path)
            session = self._open(path)
            if not intact.result():
                path.unlink(missing_ok=True)
                path = joined_weights(self._cache_dir)
                session = self._open(path)
        if session is None:
            path.unlink(missing_ok=True)
            raise ModelFileError(
                f"Kokoro's weights in {path} can't be read. They will be joined again: try again."
            )
        self._session = session
        progress("ready", 1.0)

    def _open(self, path: Path) -> Any:
        """A session, or None if the weights are no model."""
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineUnavailable(
                f"onnxruntime can't be imported ({error}). To have it, {KOKORO.install}."
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # The export is already folded: optimising it takes 0.3 s and gains nothing.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception:  # onnxruntime has no public error classes
            return None

    def speak(self, request: SpeechRequest) -> Iterator[Waveform]:
        """Speak the text, sentence by sentence.

        Raises:
            NotFound: there is no such voice.
            InvalidRequest: the text has nothing to say.
            Unsupported: it is neither English nor Chinese.
        """
        voice = resolve_voice(KOKORO, request.voice, request.text)
        require_speakable(KOKORO, request.text)
        joiner = Joiner(self.sample_rate, request.speed)
        limit = round(MAX_TOKENS * min(1.0, max(request.speed, SLOWEST)))  # slow speech is long speech
        fallback = self._language_without_letters(voice, request.text)
        spoke = False
        for piece in split_sentences(request.text, PIECE, FIRST_PIECE):
            main = main_language(piece.text) if has_letters(piece.text) else fallback
            convert = partial(self._phonemes, main=main, voice=voice)
            parts = cut_phonemes(self._tolerant(convert, piece.text), limit)
            if not parts:
                yield NO_SOUND
            for index, part in enumerate(parts):
                waveform = self._synthesize(part, voice, request.speed)
                after = piece.after if index == len(parts) - 1 else Break.CLAUSE
                joined = joiner.join(waveform, PAUSES_S[after])
                if joined.size:
                    spoke = True
                    yield joined
        if not spoke:
            raise InvalidRequest("The input has nothing in it that this voice can say.", "text")

    @staticmethod
    def _language_without_letters(voice: str, text: str) -> str:
        """The language of "12,345": that of the text around it, else the voice's own."""
        if has_letters(text):
            return main_language(text)
        found = find_voice(KOKORO, voice)
        return "zh" if found is not None and found.language.startswith("zh") else "en"

    def _phonemes(self, text: str, main: str, voice: str) -> str:
        british = voice.startswith("b")
        spoken = [
            self._converter("zh" if run.language == "zh" else "en-GB" if british else "en")(run.text)
            for run in spoken_runs(text, main)
        ]
        return " ".join(part.strip() for part in spoken if part.strip())

    def _converter(self, language: str) -> Callable[[str], str]:
        """The grapheme-to-phoneme converter of a language, loaded at its first use."""
        if (found := self._g2p.get(language)) is None:
            if language == "zh":
                from stepaudiod.engines.kokoro.chinese import ChineseG2P

                found = ChineseG2P(self._cache_dir / "jieba")
            else:
                from stepaudiod.engines.kokoro.english import load_g2p

                found = load_g2p(british=language == "en-GB")
            self._g2p[language] = found
        return found

    def _synthesize(self, phonemes: str, voice: str, speed: float) -> Waveform:
        own = min(max(speed, SLOWEST), FASTEST)
        tokens = [VOCAB[symbol] for symbol in phonemes]
        outputs = self._session.run(
            None,
            {
                "tokens": np.array([[0, *tokens, 0]], np.int64),  # (1, tokens + 2)
                "style": self._style(voice)[len(tokens)],  # (1, 256)
                "speed": np.array([own], np.float32),
            },
        )
        waveform = np.asarray(outputs[0], np.float32).reshape(-1)
        return waveform if own == speed else change_tempo(waveform, speed / own, self.sample_rate)

    def _style(self, voice: str) -> NDArray[np.float32]:
        """The voice's style vectors, by the number of tokens: `(510, 1, 256)`."""
        if voice not in self._styles:
            self._styles[voice] = np.fromfile(STYLES / f"{voice}.bin", "<f4").reshape(510, 1, 256)
        return self._styles[voice]
