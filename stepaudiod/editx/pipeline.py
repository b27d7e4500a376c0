"""Step-Audio-EditX from request to sound: the only public module of this package.

    pipeline = Pipeline.load(models_dir, device="cuda")
    voice = pipeline.encode_reference(waveform, sample_rate, transcript)       # cache voice.to_tensors()
    for chunk in pipeline.clone(voice, "Hello."): ...                          # float32 at 24 kHz
    for chunk in pipeline.edit(waveform, sample_rate, transcript, Edit("emotion", "happy")): ...

Everything is called from one thread. Several results may be iterated in turn: all of them advance meanwhile.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stepaudiod.edits import Edit, with_language
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.codes import GROUP, SECONDS_PER_GROUP
from stepaudiod.editx.cuda_graphs import with_memory
from stepaudiod.editx.lanes import Lanes
from stepaudiod.editx.lengths import (
    MAX_SECONDS,
    Bounds,
    bounds_for_edit,
    bounds_for_text,
    is_silent,
    share_text,
)
from stepaudiod.editx.lm.config import DEFAULT_LENGTH, DEFAULT_POSITIONS, Quantization
from stepaudiod.editx.lm.prompts import PromptWriter
from stepaudiod.editx.loading import (
    WORKSPACES,
    LoadProgress,
    Networks,
    OnProgress,
    load_kernels,
    load_networks,
)
from stepaudiod.editx.reference import Recording, Reference, to_mono
from stepaudiod.editx.runners import make_decoder_runner, make_lm_runner
from stepaudiod.editx.scheduler import Scheduler
from stepaudiod.editx.segments import TimeRange, cut_points, loudest_range, surrounding_silence, take
from stepaudiod.editx.synthesis import Call, RequestStats, Script, Synthesis, new_seed
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
        rows: sequences in one decode step on a processor; None for the default.
        length: tokens of one request, prompt and output.
        positions: tokens of all requests together, on a GPU; more wait.
        decoder_bytes: memory of the decoder's voices and streams; None for no limit. More wait.
        keeps_encoders: whether the weights that encode recordings stay on a GPU.
        forced_seconds: the length of every output, for measurements; None lets the model choose.
    """

    is_output_checked: bool = True
    rows: int | None = None
    length: int = DEFAULT_LENGTH
    positions: int = DEFAULT_POSITIONS
    decoder_bytes: int | None = None
    keeps_encoders: bool = True
    forced_seconds: float | None = None


class Pipeline:
    def __init__(
        self, networks: Networks, options: PipelineOptions | None = None, kernel_key: str = ""
    ) -> None:
        """`kernel_key` names what a GPU's kernels depend on: sizes and number formats."""
        self.options = options or PipelineOptions()
        self.networks = networks
        self._kernel_key = kernel_key
        self._writer = PromptWriter(networks.tokenizer)
        with torch.inference_mode():
            try:
                decoder = make_decoder_runner(networks.flow, networks.vocoder)
            finally:
                networks.wait()
            runner = make_lm_runner(
                networks.step1, self.options.rows, self.options.length, self.options.positions
            )
        self._runners = runner, decoder
        self._finishing = threading.Thread(target=self._finish, name="load behind", daemon=True)
        self._is_finished = False
        self.scheduler = Scheduler(runner, decoder, Lanes(networks.step1.device), self.options.decoder_bytes)

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
        checkpoint, options = Checkpoint(Path(models_dir)), options or PipelineOptions()
        checkpoint.verify()
        on, kernel_key = torch.device(device), f"{dtype} {kind} {checkpoint.sizes_key()}"
        os.environ.setdefault(*WORKSPACES)
        with _beside(partial(load_kernels, kernel_key, on), is_wanted=on.type == "cuda"):
            with torch.inference_mode():
                networks = load_networks(
                    checkpoint,
                    on,
                    dtype,
                    kind,
                    quantized_folder,
                    progress,
                    prepared_folder,
                    options.keeps_encoders,
                )
            return cls(networks, options, kernel_key)

    @property
    def is_warm(self) -> bool:
        """Whether all graphs are captured, and the next start is prepared."""
        return self._is_finished and self.scheduler.is_warm

    def finish(self) -> None:
        """Have a thread load what the first request didn't need, and prepare the next start, once.

        To be called when a request has ended; returns at once.
        """
        if self._finishing.ident is None:
            self._finishing.start()

    def _finish(self) -> None:
        self.networks.finish()
        self._is_finished = True
        self.scheduler.lanes.notify()

    def close(self) -> None:
        """Wait for all that uses the networks, before they are freed."""
        self.scheduler.lanes.settle()
        if self._finishing.ident is not None:
            self._finishing.join()

    def compile_kernels(self, progress: Callable[[str, float], None]) -> None:
        """Compile what a GPU runs before the first request, once a machine.

        `progress` gets the stage and the fraction done.
        """
        if self.networks.step1.device.type == "cuda":
            # Triton comes with PyTorch's CUDA build only
            from stepaudiod.editx.compiling import compile_missing

            launches = chain.from_iterable(runner.launches() for runner in self._runners)
            with torch.inference_mode():
                compile_missing(launches, self._kernel_key, progress)

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
        mono = to_mono(waveform)
        total = mono.shape[-1] / sample_rate
        if total <= MAX_SECONDS:
            return self._encode(mono, sample_rate, TimeRange(0.0, total), transcript)
        time_range = loudest_range(mono, sample_rate)
        part = take(mono, sample_rate, time_range)
        if transcribe is not None:
            transcript = transcribe(part, sample_rate)
        elif transcript:
            lengths = [time_range.start, time_range.seconds, total - time_range.end]
            transcript = share_text(transcript, lengths)[1]
        return self._encode(part, sample_rate, time_range, transcript)

    def clone(
        self,
        reference: Reference | Callable[[], Reference],
        text: str,
        *,
        language: str | None = None,
        edit: Edit | None = None,
        seed: int | None = None,
        is_streamed: bool = True,
    ) -> Synthesis:
        """Say a text of any length in a reference's voice.

        A reference that is still to be encoded is given as a function, which runs beside other requests. The
        text may contain tags, and pinyin with tone digits; the language, see `tags.LANGUAGES`, is named in a
        tag before it. The edit, an emotion or style, is applied before decoding. A seed makes the result
        reproducible. What is not streamed is made in larger chunks, and after what is.

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
        stats = RequestStats(new_seed() if seed is None else seed, pieces=len(pieces))
        if isinstance(reference, Reference):
            stats.reference_range = reference.time_range

        def speak(synthesis: Synthesis) -> Script:
            voice = reference if isinstance(reference, Reference) else (yield reference)
            stats.reference_range = voice.time_range
            for index, piece in enumerate(pieces):
                yield None
                calls = [self._clone_call(voice, piece)]
                calls += self._edit_calls(edit, piece) if edit is not None else []
                yield from synthesis.say(calls, voice, index, is_joined=len(pieces) > 1)

        return self._synthesis(speak, stats, is_streamed)

    def edit(
        self,
        waveform: Recording,
        sample_rate: int,
        transcript: str,
        edit: Edit,
        *,
        seed: int | None = None,
        transcribe: Transcribe | None = None,
        is_streamed: bool = True,
    ) -> Synthesis:
        """Change a recording; one over 30 s in pieces that are cut at silences and joined again.

        The transcript is of the whole recording; `denoise` and `vad` need none. `transcribe` transcribes each
        piece, beside other requests; without it its words are estimated from the whole transcript. A seed
        makes the result reproducible.

        Raises:
            InvalidRequest: a transcript is missing; while iterating: it is silent or too short.
            SynthesisFailed: while iterating: the output can't be used, twice.
        """
        mono = to_mono(waveform)
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

        def encode(piece: TimeRange, said: str) -> Reference:
            part = take(mono, sample_rate, piece)
            if transcribe is not None and edit.needs_transcript and (long or not said):
                said = transcribe(part, sample_rate)
            return self._encode(part, sample_rate, piece, said)

        def speak(synthesis: Synthesis) -> Script:
            for index, (piece, said) in enumerate(zip(pieces, texts, strict=True)):
                yield None
                part = take(mono, sample_rate, piece)
                if long and is_silent(part):  # there is nothing to change
                    if edit.kind != "vad":
                        synthesis.emit(np.zeros(round(piece.seconds * SAMPLE_RATE), np.float32))
                    continue
                recording: Reference = yield partial(encode, piece, said)
                calls = self._edit_calls(edit, recording.transcript)
                # encoding cuts the silence around a piece off
                around = surrounding_silence(part, sample_rate) if long and edit.kind != "vad" else (0, 0)
                before, after = (np.zeros(round(seconds * SAMPLE_RATE), np.float32) for seconds in around)
                synthesis.emit(before)
                yield from synthesis.say(calls, recording, index, is_joined=long)
                synthesis.emit(after)

        return self._synthesis(speak, stats, is_streamed)

    def _encode(self, part: Tensor, sample_rate: int, time_range: TimeRange, transcript: str) -> Reference:
        device, encoders = self.networks.flow.device, self.networks.encoders.get()
        return with_memory(lambda: encoders.encode(part.to(device), sample_rate, time_range, transcript))

    def _synthesis(
        self, script: Callable[[Synthesis], Script], stats: RequestStats, is_streamed: bool
    ) -> Synthesis:
        seconds = self.options.forced_seconds
        forced = None if seconds is None else round(seconds / SECONDS_PER_GROUP) * GROUP
        is_checked = self.options.is_output_checked
        return Synthesis(self.scheduler, script, stats, is_streamed, is_checked, forced)

    def _clone_call(self, reference: Reference, piece: str) -> Call:
        return lambda ids: (self._writer.clone(ids, reference.transcript, piece), bounds_for_text(piece))

    def _edit_calls(self, edit: Edit, said: str) -> list[Call]:
        """One call per iteration, each changing the last result and bounded by its length."""
        instruction, tags = edit.instruction(said), count_tags(edit.text or "")

        def call(ids: list[int]) -> tuple[list[int], Bounds]:
            bounds = bounds_for_edit(edit.kind, edit.info, len(ids) / GROUP * SECONDS_PER_GROUP, tags)
            return self._writer.edit(ids, instruction), bounds

        return [call] * edit.iterations


@contextmanager
def _beside(task: Callable[[], None], is_wanted: bool) -> Iterator[None]:
    """Run a task in a thread meanwhile, and wait for its end."""
    thread = threading.Thread(target=task, name="kernels")
    if is_wanted:
        thread.start()
    try:
        yield
    finally:
        if is_wanted:
            thread.join()
