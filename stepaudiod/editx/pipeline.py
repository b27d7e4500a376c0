"""Step-Audio-EditX from request to sound: the only public face of this package.

    pipeline = Pipeline.load(models_dir, device="cuda")
    voice = pipeline.encode_reference(waveform, sample_rate, transcript)       # cache voice.to_tensors()
    for chunk in pipeline.clone(voice, "Hello."): ...                          # float32 at 24 kHz
    for chunk in pipeline.edit(waveform, sample_rate, transcript, Edit("emotion", "happy")): ...

Requests may run in threads of their own, on a GPU in one thread that takes turns: their language-model
steps share a batch. Closing a result's iterator, or `is_cancelled` becoming true, ends a request between two
tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepaudiod.edits import Edit, with_language
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.codes import GROUP, SECONDS_PER_GROUP
from stepaudiod.editx.decoder.prefix_cache import PrefixCache
from stepaudiod.editx.decoder.source import PhaseArithmetic
from stepaudiod.editx.lengths import (
    Splitter,
    bounds_for_edit,
    bounds_for_text,
    is_silent,
    share_text,
    split_text,
)
from stepaudiod.editx.lm.prompts import PromptForm, PromptWriter
from stepaudiod.editx.lm.quantize import Quantization
from stepaudiod.editx.lm.sampling import SamplingOptions
from stepaudiod.editx.lm.scheduler import DEFAULT_LENGTH, DEFAULT_POSITIONS
from stepaudiod.editx.loading import LoadProgress, Networks, OnProgress, load_networks, make_batch
from stepaudiod.editx.reference import Reference, ReferenceEncoder, Waveform
from stepaudiod.editx.segments import (
    MAX_SECONDS,
    TimeRange,
    cut_points,
    loudest_range,
    soften_parts,
    surrounding_silence,
    take,
)
from stepaudiod.editx.synthesis import LMCall, RequestStats, Synthesizer, new_seed
from stepaudiod.editx.tokenizers.features import MEL_RATE
from stepaudiod.errors import InvalidRequest
from stepaudiod.tags import count_tags, spelled

__all__ = [
    "Edit",
    "LoadProgress",
    "Pipeline",
    "PipelineOptions",
    "Quantization",
    "Reference",
    "RequestStats",
    "Synthesis",
]

SAMPLE_RATE = MEL_RATE
"""Of all output, in Hz."""
CLONE_EDITS = ("emotion", "style")
"""Edits that can be asked for together with a clone."""

Transcribe = Callable[[Tensor, int], str]
"""Tells what a waveform `(samples,)` at a sample rate says."""


@dataclass(frozen=True)
class PipelineOptions:
    """What may differ from the reference; the defaults are ours, `reference` is theirs.

    Args:
        form: of prompts.
        sampling: of ids.
        is_silence_cut: cut the silence around a reference before any stage.
        is_text_trusted: let control tokens in user text act.
        is_mel_rounded: round mel and embedding to bfloat16.
        arithmetic: of the vocoder's phases.
        is_output_checked: notice silent, runaway and truncated output.
        rows: requests in one batch; None for as many as the device is good for.
        length: tokens of one request, prompt and output.
        positions: tokens of all requests together, on a GPU; what doesn't fit waits.
        decoder_bytes: what the decoder may keep between the chunks of all streams; None for whatever there
            is. What doesn't fit waits.
    """

    form: PromptForm = PromptForm.CHAT
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    is_silence_cut: bool = True
    is_text_trusted: bool = False
    is_mel_rounded: bool = False
    arithmetic: PhaseArithmetic = PhaseArithmetic.EXACT
    is_output_checked: bool = True
    rows: int | None = None
    length: int = DEFAULT_LENGTH
    positions: int = DEFAULT_POSITIONS
    decoder_bytes: int | None = None

    @classmethod
    def reference(cls) -> PipelineOptions:
        """What the code of December 2025 did, for comparison."""
        sampling = SamplingOptions(top_k=50, is_pattern_enforced=False, is_repetition_masked=True)
        return cls(
            PromptForm.DECEMBER,
            sampling,
            False,
            True,
            True,
            PhaseArithmetic.REFERENCE,
            is_output_checked=False,
        )


class Synthesis:
    """One request's sound. Iterate it once; `report` is complete at the end.

    Chunks are `(samples,)` float32. Empty ones come while there is work and no sound yet: they show that it
    moves, and let one thread take turns between requests.
    """

    def __init__(self, parts: Generator[Tensor, None, None], report: RequestStats) -> None:
        self._parts = parts
        self.report = report

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        try:
            while True:
                # not around the yield: whoever iterates runs in this thread too
                with torch.inference_mode():
                    part = next(self._parts, None)
                if part is None:
                    return
                yield part.float().cpu().numpy()
        finally:
            self._parts.close()

    def waveform(self) -> NDArray[np.float32]:
        """All of it: `(samples,)` at 24 kHz."""
        return np.concatenate([np.zeros(0, dtype=np.float32), *self])


class Pipeline:
    """The networks and what is done with them.

    Args:
        networks: loaded.
        options: what may differ from the reference.
    """

    def __init__(self, networks: Networks, options: PipelineOptions | None = None) -> None:
        self.options = options or PipelineOptions()
        self.networks = networks
        self._writer = PromptWriter(networks.tokenizer, self.options.form, self.options.is_text_trusted)
        self._encoder = ReferenceEncoder(
            networks.linguistic, networks.semantic, networks.speaker, self.options.is_silence_cut
        )
        with torch.inference_mode():
            batch = make_batch(
                networks.step1,
                self.options.sampling,
                self.options.rows,
                self.options.length,
                self.options.positions,
            )
        self._speaker = Synthesizer(
            batch,
            networks.flow,
            PrefixCache(networks.flow, self.options.decoder_bytes),
            networks.vocoder,
            self.options.sampling,
            is_checked=self.options.is_output_checked,
            is_mel_rounded=self.options.is_mel_rounded,
            arithmetic=self.options.arithmetic,
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
    ) -> Pipeline:
        """Load everything.

        Args:
            models_dir: holds both published folders.
            device: `cpu`, `cuda`, `cuda:1`.
            dtype: the language model's.
            quantization: `int8` or `int4` weights for it; `base`, `bnb` and `awq` are understood too.
            progress: told of bytes read and the stage.
            options: what may differ from the reference.
            quantized_folder: where quantized weights may lie ready.

        Raises:
            ModelFileError: a file is missing, cut short or wrong.
            InvalidRequest: the quantization isn't known.
        """
        kind = Quantization.named(quantization) if isinstance(quantization, str) else quantization
        checkpoint = Checkpoint(Path(models_dir))
        with torch.inference_mode():
            networks = load_networks(
                checkpoint, torch.device(device), dtype, kind, quantized_folder, progress
            )
        return cls(networks, options)

    def encode_reference(
        self,
        waveform: Waveform,
        sample_rate: int,
        transcript: str = "",
        transcribe: Transcribe | None = None,
    ) -> Reference:
        """Encode a voice's reference; of one over 30 s the best stretch is chosen and named in the result.

        Args:
            waveform: `(samples,)` or `(channels, samples)`, -1..1, any rate.
            sample_rate: Hz.
            transcript: what it says.
            transcribe: asked for a stretch's own words; without it they are estimated from the whole
                transcript.

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
        prompt_text: str | None = None,
        language: str | None = None,
        edit: Edit | None = None,
        seed: int | None = None,
        stream: bool = False,
        splitter: Splitter = split_text,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> Synthesis:
        """Say a text of any length in a reference's voice.

        Args:
            reference: from `encode_reference`.
            text: what to say; may hold tags, and pinyin with tone digits.
            prompt_text: what the reference says, if not its own transcript.
            language: named in a tag before the text; see `tags.LANGUAGES`.
            edit: an emotion or style that what is said gets before it is decoded.
            seed: makes the result reproducible.
            stream: give sound while codes still come.
            splitter: cuts the text into pieces that are spoken one by one.
            is_cancelled: asked between tokens.

        Raises:
            InvalidRequest: there is no text, or the edit can't be combined with a clone.
            SynthesisFailed: while iterating: what came out can't be used, twice.
        """
        if not text.strip():
            raise InvalidRequest("there is no text to say", "input")
        if edit is not None and edit.kind not in CLONE_EDITS:
            raise InvalidRequest(
                f"{edit.kind} can't be combined with a clone; {' and '.join(CLONE_EDITS)} can",
                "mode",
            )
        said = reference.transcript if prompt_text is None else prompt_text
        pieces = [with_language(piece, language) for piece in splitter(spelled(text)) if piece.strip()]
        report = RequestStats(new_seed() if seed is None else seed, reference.time_range, pieces=len(pieces))

        def speak() -> Generator[Tensor, None, None]:
            for index, piece in enumerate(pieces):
                turns = [self._clone_turn(reference, said, piece)]
                turns += self._edit_turns(edit, piece) if edit is not None else []
                part = self._speaker.speak(
                    turns, reference, report.seed + index, stream, report, is_cancelled
                )
                yield from part if len(pieces) == 1 else soften_parts(part, SAMPLE_RATE)

        return Synthesis(speak(), report)

    def edit(
        self,
        waveform: Waveform,
        sample_rate: int,
        transcript: str,
        edit: Edit,
        *,
        seed: int | None = None,
        stream: bool = False,
        transcribe: Transcribe | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> Synthesis:
        """Change a recording; one over 30 s in pieces that are cut at silences and joined again.

        Args:
            waveform: `(samples,)` or `(channels, samples)`, -1..1, any rate.
            sample_rate: Hz.
            transcript: what it says; `denoise` and `vad` need none.
            edit: what to change.
            seed: makes the result reproducible.
            stream: give sound while codes still come.
            transcribe: asked for each piece's own words; without it they are estimated from the whole
                transcript.
            is_cancelled: asked between tokens.

        Raises:
            InvalidRequest: it is silent or too short, or a transcript is missing.
            SynthesisFailed: while iterating: what came out can't be used, twice.
        """
        mono = self._encoder.to_mono(waveform)
        long = mono.shape[-1] / sample_rate > MAX_SECONDS
        pieces = cut_points(mono, sample_rate) if long else [TimeRange(0.0, mono.shape[-1] / sample_rate)]
        if edit.needs_transcript and not transcript.strip() and transcribe is None:
            raise InvalidRequest(
                f"{edit.kind} needs what the recording says; denoise and vad don't", "audio_text"
            )
        if long and edit.kind == "paralinguistic":
            raise InvalidRequest(
                f"paralinguistic takes recordings of up to {MAX_SECONDS:g} s; cut this one", "input_audio"
            )
        texts = share_text(transcript, [piece.seconds for piece in pieces])
        report = RequestStats(new_seed() if seed is None else seed, None, pieces=len(pieces))

        def speak() -> Generator[Tensor, None, None]:
            for index, (piece, said) in enumerate(zip(pieces, texts, strict=True)):
                part = take(mono, sample_rate, piece)
                if long and is_silent(part):  # there is nothing to change
                    yield torch.zeros(0 if edit.kind == "vad" else round(piece.seconds * SAMPLE_RATE))
                    continue
                if transcribe is not None and edit.needs_transcript and (long or not said):
                    said = transcribe(part, sample_rate)
                sound = self._edit_piece(
                    part, sample_rate, piece, said, edit, index, stream, report, is_cancelled
                )
                yield from sound if not long else self._in_place(sound, part, sample_rate, edit)

        return Synthesis(speak(), report)

    def _edit_piece(
        self,
        part: Tensor,
        sample_rate: int,
        piece: TimeRange,
        said: str,
        edit: Edit,
        index: int,
        stream: bool,
        report: RequestStats,
        is_cancelled: Callable[[], bool] | None,
    ) -> Iterator[Tensor]:
        recording = self._encoder.encode(part, sample_rate, piece, said)
        turns = self._edit_turns(edit, said)
        return self._speaker.speak(turns, recording, report.seed + index, stream, report, is_cancelled)

    def _in_place(
        self, sound: Iterator[Tensor], part: Tensor, sample_rate: int, edit: Edit
    ) -> Iterator[Tensor]:
        """Put the silence back that encoding a piece cut off, except where silence was to go."""
        before, after = (0.0, 0.0) if edit.kind == "vad" else surrounding_silence(part, sample_rate)
        yield torch.zeros(round(before * SAMPLE_RATE))
        yield from soften_parts(sound, SAMPLE_RATE)
        yield torch.zeros(round(after * SAMPLE_RATE))

    def _clone_turn(self, reference: Reference, said: str, piece: str) -> LMCall:
        prompt, bounds = self._writer.clone(reference.ids, said, piece), bounds_for_text(piece)
        return LMCall(lambda _: prompt, lambda _: bounds)

    def _edit_turns(self, edit: Edit, said: str) -> list[LMCall]:
        """One turn an iteration, each changing what the last one gave and bounded by its length."""
        instruction = edit.instruction(said)
        tags = count_tags(edit.text or "")
        turn = LMCall(
            lambda ids: self._writer.edit(ids, instruction),
            lambda ids: bounds_for_edit(edit.kind, edit.info, len(ids) / GROUP * SECONDS_PER_GROUP, tags),
        )
        return [turn] * edit.iterations
