"""Step-Audio-EditX from request to sound: the only public module of this package.

    pipeline = Pipeline.load(models_dir, device="cuda")
    voice = pipeline.encode_reference(waveform, sample_rate, transcript)       # cache voice.to_tensors()
    for chunk in pipeline.clone(voice, "Hello."): ...                          # float32 at 24 kHz
    for chunk in pipeline.edit(waveform, sample_rate, transcript, Edit("emotion", "happy")): ...

Requests may run in threads of their own; on a GPU one thread steps them in turn. Their language-model steps
share a batch. Closing a result's iterator ends a request between two tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stepaudiod.audio.types import Waveform
from stepaudiod.edits import Edit, with_language
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.codes import GROUP, SECONDS_PER_GROUP
from stepaudiod.editx.decoder.prefix_cache import PrefixCache
from stepaudiod.editx.lengths import MAX_SECONDS, bounds_for_edit, bounds_for_text, is_silent, share_text
from stepaudiod.editx.lm.config import DEFAULT_LENGTH, DEFAULT_POSITIONS, Quantization
from stepaudiod.editx.lm.prompts import PromptWriter
from stepaudiod.editx.loading import LoadProgress, Networks, OnProgress, load_networks, make_batch
from stepaudiod.editx.reference import Recording, Reference, ReferenceEncoder
from stepaudiod.editx.segments import (
    TimeRange,
    cut_points,
    loudest_range,
    soften_parts,
    surrounding_silence,
    take,
)
from stepaudiod.editx.synthesis import LMCall, RequestStats, Synthesizer, new_seed
from stepaudiod.editx.tokenizers.features import SAMPLE_RATE
from stepaudiod.errors import InvalidRequest
from stepaudiod.tags import count_tags, spelled
from stepaudiod.text.sentences import split_sentences

__all__ = [
    "SAMPLE_RATE",
    "Edit",
    "LoadProgress",
    "Pipeline",
    "PipelineOptions",
    "Quantization",
    "Reference",
    "RequestStats",
    "Synthesis",
]

CLONE_EDITS = ("emotion", "style")
"""Edits that can be combined with a clone."""

Transcribe = Callable[[Tensor, int], str]
"""The transcript of a waveform `(samples,)` at a sample rate."""


@dataclass(frozen=True)
class PipelineOptions:
    """Limits, and whether silent, runaway and truncated output is detected.

    Args:
        rows: requests in one batch; None for what suits the device.
        length: tokens of one request, prompt and output.
        positions: tokens of all requests together, on a GPU; more wait.
        decoder_bytes: memory of the decoder's prefixes and streams; None for no limit. More wait.
    """

    is_output_checked: bool = True
    rows: int | None = None
    length: int = DEFAULT_LENGTH
    positions: int = DEFAULT_POSITIONS
    decoder_bytes: int | None = None


class Synthesis:
    """One request's sound. Iterate it once; `stats` is complete at the end.

    Chunks are `(samples,)` float32. Empty ones come while there is no sound yet: they show progress, and let
    one thread step several requests in turn.
    """

    def __init__(self, parts: Generator[Tensor, None, None], stats: RequestStats) -> None:
        self._parts = parts
        self.stats = stats

    def __iter__(self) -> Iterator[Waveform]:
        try:
            while True:
                # not around the yield: the consumer runs in this thread too
                with torch.inference_mode():
                    part = next(self._parts, None)
                if part is None:
                    return
                yield part.float().cpu().numpy()
        finally:
            self._parts.close()

    def waveform(self) -> Waveform:
        """The whole sound: `(samples,)` at 24 kHz."""
        return np.concatenate([np.zeros(0, dtype=np.float32), *self])


class Pipeline:
    def __init__(self, networks: Networks, options: PipelineOptions | None = None) -> None:
        self.options = options or PipelineOptions()
        self.networks = networks
        self._writer = PromptWriter(networks.tokenizer)
        self._encoder = ReferenceEncoder(networks.encoders, networks.flow.device)
        with torch.inference_mode():
            batch = make_batch(networks.step1, self.options.rows, self.options.length, self.options.positions)
        self._synthesizer = Synthesizer(
            batch,
            networks.flow,
            PrefixCache(networks.flow, self.options.decoder_bytes),
            networks.vocoder,
            self.options.is_output_checked,
        )

    @classmethod
    def load(
        cls,
        models_dir: Path | str,
        device: str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        quantization: Quantization | str | None = None,
        progress: OnProgress | None = None,
        options: PipelineOptions | None = None,
        quantized_folder: Path | None = None,
        prepared_folder: Path | None = None,
    ) -> Pipeline:
        """Load the networks; `dtype` is the language model's. For the folders see `load_networks`.

        Its quantization is `int8` or `int4`; also `base`, `bnb` and `awq`.

        Raises:
            ModelFileError: a file is missing, cut short or wrong.
            InvalidRequest: the quantization isn't known.
        """
        kind = Quantization.named(quantization) if isinstance(quantization, str) else quantization
        checkpoint = Checkpoint(Path(models_dir))
        with torch.inference_mode():
            networks = load_networks(
                checkpoint,
                torch.device(device),
                dtype,
                kind,
                quantized_folder,
                progress,
                prepared_folder,
            )
        return cls(networks, options)

    def encode_reference(
        self,
        waveform: Recording,
        sample_rate: int,
        transcript: str = "",
        transcribe: Transcribe | None = None,
    ) -> Reference:
        """Encode a voice's reference; of one over 30 s the best range is used, and named in the result.

        The transcript is of the whole recording. `transcribe` transcribes that range; without it its words
        are estimated from the whole transcript.

        Raises:
            InvalidRequest: it is silent or too short.
        """
        mono = self._encoder.to_mono(waveform)
        total = mono.shape[-1] / sample_rate
        if total <= MAX_SECONDS:
            return self._encoder.encode(mono, sample_rate, TimeRange(0.0, total), transcript)
        time_range = loudest_range(mono, sample_rate)
        part = take(mono, sample_rate, time_range)
        if transcribe is not None:
            transcript = transcribe(part, sample_rate)
        elif transcript:
            lengths = [time_range.start, time_range.seconds, total - time_range.end]
            transcript = share_text(transcript, lengths)[1]
        return self._encoder.encode(part, sample_rate, time_range, transcript)

    def clone(
        self,
        reference: Reference,
        text: str,
        *,
        language: str | None = None,
        edit: Edit | None = None,
        seed: int | None = None,
    ) -> Synthesis:
        """Say a text of any length in a reference's voice.

        The text may contain tags, and pinyin with tone digits; the language, see `tags.LANGUAGES`, is named
        in a tag before it. The edit, an emotion or style, is applied before decoding. A seed makes the result
        reproducible.

        Raises:
            InvalidRequest: there is no text, or the edit can't be combined with a clone.
            SynthesisFailed: while iterating: the output can't be used, twice.
        """
        if not text.strip():
            raise InvalidRequest("there is no text to say", "text")
        if edit is not None and edit.kind not in CLONE_EDITS:
            raise InvalidRequest(
                f"{edit.kind} can't be combined with a clone; {' and '.join(CLONE_EDITS)} can", "edit"
            )
        pieces = [with_language(piece.text, language) for piece in split_sentences(spelled(text))]
        stats = RequestStats(new_seed() if seed is None else seed, reference.time_range, pieces=len(pieces))

        def speak() -> Generator[Tensor, None, None]:
            for index, piece in enumerate(pieces):
                calls = [self._clone_call(reference, piece)]
                calls += self._edit_calls(edit, piece) if edit is not None else []
                part = self._synthesizer.run(calls, reference, stats.seed + index, stats)
                yield from part if len(pieces) == 1 else soften_parts(part, SAMPLE_RATE)

        return Synthesis(speak(), stats)

    def edit(
        self,
        waveform: Recording,
        sample_rate: int,
        transcript: str,
        edit: Edit,
        *,
        seed: int | None = None,
        transcribe: Transcribe | None = None,
    ) -> Synthesis:
        """Change a recording; one over 30 s in pieces that are cut at silences and joined again.

        The transcript is of the whole recording; `denoise` and `vad` need none. `transcribe` transcribes each
        piece; without it its words are estimated from the whole transcript. A seed makes the result
        reproducible.

        Raises:
            InvalidRequest: it is silent or too short, or a transcript is missing.
            SynthesisFailed: while iterating: the output can't be used, twice.
        """
        mono = self._encoder.to_mono(waveform)
        long = mono.shape[-1] / sample_rate > MAX_SECONDS
        pieces = cut_points(mono, sample_rate) if long else [TimeRange(0.0, mono.shape[-1] / sample_rate)]
        if edit.needs_transcript and not transcript.strip() and transcribe is None:
            raise InvalidRequest(
                f"{edit.kind} needs the recording's transcript; denoise and vad don't", "transcript"
            )
        if long and edit.kind == "paralinguistic":
            raise InvalidRequest(
                f"paralinguistic takes recordings of up to {MAX_SECONDS:g} s; cut this one", "waveform"
            )
        texts = share_text(transcript, [piece.seconds for piece in pieces])
        stats = RequestStats(new_seed() if seed is None else seed, None, pieces=len(pieces))

        def speak() -> Generator[Tensor, None, None]:
            for index, (piece, said) in enumerate(zip(pieces, texts, strict=True)):
                part = take(mono, sample_rate, piece)
                if long and is_silent(part):  # there is nothing to change
                    yield torch.zeros(0 if edit.kind == "vad" else round(piece.seconds * SAMPLE_RATE))
                    continue
                if transcribe is not None and edit.needs_transcript and (long or not said):
                    said = transcribe(part, sample_rate)
                recording = self._encoder.encode(part, sample_rate, piece, said)
                calls = self._edit_calls(edit, said)
                sound = self._synthesizer.run(calls, recording, stats.seed + index, stats)
                yield from sound if not long else self._in_place(sound, part, sample_rate, edit)

        return Synthesis(speak(), stats)

    def _in_place(
        self, sound: Iterator[Tensor], part: Tensor, sample_rate: int, edit: Edit
    ) -> Iterator[Tensor]:
        """Restore the silence that encoding cut off a piece, unless silence is to be removed."""
        before, after = (0.0, 0.0) if edit.kind == "vad" else surrounding_silence(part, sample_rate)
        yield torch.zeros(round(before * SAMPLE_RATE))
        yield from soften_parts(sound, SAMPLE_RATE)
        yield torch.zeros(round(after * SAMPLE_RATE))

    def _clone_call(self, reference: Reference, piece: str) -> LMCall:
        prompt = self._writer.clone(reference.ids, reference.transcript, piece)
        bounds = bounds_for_text(piece)
        return LMCall(lambda _: prompt, lambda _: bounds)

    def _edit_calls(self, edit: Edit, said: str) -> list[LMCall]:
        """One call per iteration, each changing the last result and bounded by its length."""
        instruction = edit.instruction(said)
        tags = count_tags(edit.text or "")
        call = LMCall(
            lambda ids: self._writer.edit(ids, instruction),
            lambda ids: bounds_for_edit(edit.kind, edit.info, len(ids) / GROUP * SECONDS_PER_GROUP, tags),
        )
        return [call] * edit.iterations
