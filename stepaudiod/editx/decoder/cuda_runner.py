"""The decoder on a GPU: chunks of up to 16 streams at once, in CUDA graphs of a few sizes.

    codes ── begin ── step, ten times ──┬── vocoder ── samples        each a graph, for so many rows
                                        └── vocoder …                 of as many sequences as fit

Voices and streams keep their state in tensors that kernels read and write by address; see `table`. How far a
stream is, the host knows, and counts only once the whole call has succeeded. Independent of requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from stepaudiod.audio.types import Waveform
from stepaudiod.editx.codes import MEL_FRAMES_PER_FRAME
from stepaudiod.editx.cuda_graphs import Recorder, with_memory
from stepaudiod.editx.decoder import table
from stepaudiod.editx.decoder.arena import Arena
from stepaudiod.editx.decoder.config import (
    LOOKAHEAD,
    REMEMBERED_FRAMES,
    STEPS,
    FlowCosts,
    prefilled,
)
from stepaudiod.editx.decoder.cuda_encoder import POSITIONS, EncoderKernels
from stepaudiod.editx.decoder.cuda_estimator import EstimatorKernels
from stepaudiod.editx.decoder.cuda_state import CudaPrefix, CudaStream, State
from stepaudiod.editx.decoder.cuda_vocoder import KEPT_FRAMES, VocoderKernels
from stepaudiod.editx.decoder.dit import MELS
from stepaudiod.editx.decoder.flow import Acoustics, Flow, align_mel
from stepaudiod.editx.decoder.packing import (
    GAP,
    FlowPart,
    FlowTable,
    SoundPart,
    SoundTable,
)
from stepaudiod.editx.decoder.reference_prefix import NOISE_SEED
from stepaudiod.editx.decoder.runner import Chunk
from stepaudiod.editx.decoder.streaming import OVERLAP_FRAMES, crossfade
from stepaudiod.editx.decoder.vocoder import Vocoder
from stepaudiod.editx.interleaving import to_columns
from stepaudiod.editx.tokenizers.features import HOP
from stepaudiod.errors import InvalidRequest

ROWS = (32, 48, 80, 160, 208, 320, 448, 608, 800, 992, 1184, 1408, 1600)
"""Rows of a graph: the mel frames of a call's chunks, and two more for each."""
SOUND_FRAMES = (16, 32, 64, 96, 128, 176, 224, 288, 352, 440, 512)
"""Frames at 50 Hz of the vocoder's graphs, those that are read again and gaps included."""
FIRST_ROWS, FIRST_FRAMES = 320, 224
"""The graphs that are captured where none is large enough, or else the largest: these hold each chunk of one
stream. A smaller one makes a call some milliseconds shorter, and its capture takes 50."""
T = TypeVar("T")
LONGEST_PREFILL = 747
"""Frames at 25 Hz of a voice that are read at once: 30 s."""


@dataclass(frozen=True)
class _Job:
    """A chunk with codes: its flow part, and what follows from it for the vocoder."""

    chunk: Chunk
    stream: CudaStream
    part: FlowPart
    waiting: int

    @property
    def made(self) -> int:
        """Mel frames."""
        return 2 * self.part.frames

    @property
    def total(self) -> int:
        """Frames of the vocoder."""
        return self.stream.seen + self.made - self.waiting

    @property
    def known(self) -> int:
        """Frames whose sound is complete already, but for a crossfade."""
        return max(0, self.stream.seen - OVERLAP_FRAMES)

    @property
    def dropped(self) -> int:
        return max(0, self.total - KEPT_FRAMES)

    def sound(self, row: int) -> SoundPart:
        """`row` is the chunk's first among the flow decoder's."""
        stream = self.stream
        fields = {
            table.SOUND_SEEN: stream.seen,
            table.SOUND_KNOWN: self.known,
            table.SOUND_DROPPED: self.dropped,
            table.SOUND_MADE: row + self.waiting,
            table.SOUND_SEED: stream.seed,
            table.SOUND_POSITION: stream.first,
            table.SOUND_MEL: stream.mel.data_ptr(),
            table.SOUND_PITCH: stream.pitch.data_ptr(),
            table.SOUND_TURNS: stream.turns.data_ptr(),
            table.SOUND_HAS_TURNS: int(stream.first > 0),
        }
        return SoundPart(fields, self.total)

    def join(self, sound: Waveform) -> Waveform:
        """Take `(480 * total,)` as the stream's next sound: the new samples."""
        stream = self.stream
        joined = crossfade(stream.tail, sound[HOP * self.known :])
        kept = 0 if self.chunk.is_last else min(OVERLAP_FRAMES * HOP, len(joined))
        stream.state.count += self.made
        stream.seen, stream.first = self.total - self.dropped, stream.first + self.dropped
        stream.tail = joined[len(joined) - kept :]
        return joined[: len(joined) - kept]


class CudaDecoder:
    """See `DecoderRunner`. The networks' float32 weights are freed.

    Args:
        dtype: of products; float32 is for comparison.
    """

    slots = table.SLOTS

    def __init__(self, flow: Flow, vocoder: Vocoder, dtype: torch.dtype = torch.float16) -> None:
        self._network, self._dtype, device = flow, dtype, flow.device
        self._config = flow.config
        self.costs = FlowCosts.of(flow.config, dtype.itemsize)
        arena = Arena(device)
        self._encoder = EncoderKernels(flow, dtype, ROWS[-1], arena)
        self._estimator = EstimatorKernels(flow, dtype, ROWS[-1], arena)
        self._vocoder = VocoderKernels(vocoder, dtype, arena)
        self._vocoder.reserve(SOUND_FRAMES[-1], table.SLOTS)
        arena.allocate()
        _free(flow.encoder, flow.encoder_proj, flow.estimator, vocoder)
        self._table, self._sounds = FlowTable(ROWS[-1], device), SoundTable(SOUND_FRAMES[-1], device)
        self._sound = torch.zeros(SOUND_FRAMES[-1], HOP, device=device)
        self._recorder = None
        if device.type == "cuda":
            self._recorder = Recorder(device)
            torch.cuda.empty_cache()  # of the float32 weights, for other processes
            torch.cuda.current_stream(device).synchronize()  # other streams will use all this
        self._flow_graphs: dict[int, tuple[Callable[[], None], Callable[[], None]]] = {}
        self._sound_graphs: dict[int, Callable[[], None]] = {}
        self._rows, self._frames = ROWS[0], SOUND_FRAMES[0]
        """Sizes that the last call could have used."""

    def prefill(self, acoustics: Acoustics) -> CudaPrefix:
        columns, device = acoustics.columns.cpu().numpy(), self._network.device
        mel = (
            align_mel(acoustics.mel, MEL_FRAMES_PER_FRAME * len(columns))
            .to(device, torch.float32)
            .contiguous()
        )
        speaker = self._network.speaker(acoustics.embedding).float()
        ends, state = prefilled(len(columns)), None
        if ends:
            state = self._new_state(MEL_FRAMES_PER_FRAME * ends, ends)
        for begin in range(0, ends, LONGEST_PREFILL):
            assert state is not None
            codes = columns[begin : min(begin + LONGEST_PREFILL, ends) + LOOKAHEAD]
            known = mel[state.count :]
            fields = self._fields(state, None, NOISE_SEED, state.count, speaker, known, len(known))
            part = FlowPart(fields, codes)
            self._solve([part])
            self._wait()
            state.count += MEL_FRAMES_PER_FRAME * part.frames
        # a copy: a view would keep the whole in memory
        return CudaPrefix(state, columns[ends:], mel[MEL_FRAMES_PER_FRAME * ends :].clone(), speaker)

    def open(self, prefix: CudaPrefix, seed: int, frames: int) -> CudaStream:
        mel_frames = MEL_FRAMES_PER_FRAME * frames
        if prefix.frames + mel_frames > POSITIONS:
            raise InvalidRequest(
                f"A recording and its speech may have {POSITIONS // 50} s together, and these may become "
                f"{(prefix.frames + mel_frames) / 50:.0f} s. Use a shorter recording or say less at a time.",
                "waveform",
            )
        state = self._new_state(min(mel_frames, REMEMBERED_FRAMES), frames, prefix.state)
        device = self._network.device
        return CudaStream(
            prefix,
            seed,
            state,
            torch.empty(KEPT_FRAMES, MELS, device=device),
            torch.empty(KEPT_FRAMES, device=device),
            torch.empty(16, device=device, dtype=torch.float64),
        )

    def decode(self, chunks: Sequence[Chunk]) -> list[Waveform]:
        jobs = {chunk: self._job(chunk) for chunk in chunks if chunk.codes}
        ends = list(accumulate(jobs[chunk].part.rows if chunk in jobs else 0 for chunk in chunks))
        most = self._most(self._flow_graphs, FIRST_ROWS, ROWS[-1])
        fitting = [chunk for chunk, end in zip(chunks, ends, strict=True) if end <= most] or chunks[:1]
        group = [jobs[chunk] for chunk in fitting if chunk in jobs]
        frames = sum(job.total + GAP for job in group)
        self._rows = _round_up(min(ends[-1], ROWS[-1]), ROWS)
        self._frames = _round_up(min(frames, SOUND_FRAMES[-1]), SOUND_FRAMES)
        running: list[tuple[_Job, Tensor]] = []
        sounds = list(zip(group, self._solve([job.part for job in group]), strict=True)) if group else []
        most = self._most(self._sound_graphs, FIRST_FRAMES, SOUND_FRAMES[-1])
        for each in _grouped(sounds, lambda pair: pair[0].total + GAP, most + GAP):
            parts = [job.sound(first) for job, first in each]
            running += zip((job for job, _ in each), self._speak(parts), strict=True)
        self._wait()
        made = {job.chunk: job.join(sound.numpy()) for job, sound in running}
        return [made[chunk] if chunk in made else _last(chunk) for chunk in fitting]

    def _most(self, graphs: Iterable[int], first: int, most: int) -> int:
        """The size of a call that needs no capture; of the first one, of the graph that it captures."""
        return max(graphs, default=first) if self._recorder is not None else most

    def capture_next(self) -> bool:
        if self._recorder is None:
            return False
        # those that the last call wanted, and larger ones, since chunks grow
        for rows, frames in zip_longest(_from(ROWS, self._rows), _from(SOUND_FRAMES, self._frames)):
            if rows is not None and rows not in self._flow_graphs:
                self._flow_graph(rows)
                return True
            if frames is not None and frames not in self._sound_graphs:
                self._sound_graph(frames)
                return True
        return False

    def launches(self) -> Iterator[Callable[[], None]]:
        for rows in ROWS:
            yield from self._flow_launches(rows)
        for frames in SOUND_FRAMES:
            yield self._sound_launches(frames)

    # ---- the flow decoder

    def _new_state(self, mel_frames: int, frames: int, after: State | None = None) -> State:
        like = torch.empty(0, dtype=self._dtype, device=self._network.device)
        return with_memory(lambda: State.new(self._config, mel_frames, frames, like, after))

    def _fields(
        self,
        state: State,
        prompt: State | None,
        seed: int,
        position: int,
        speaker: Tensor,
        known: Tensor,
        frames: int,
    ) -> table.Fields:
        return {
            **state.fields(prompt),
            table.SEED: seed,
            table.POSITION: position,
            table.CONDITION: known.data_ptr(),
            table.CONDITION_FRAMES: frames,
            table.SPEAKER: speaker.data_ptr(),
        }

    def _job(self, chunk: Chunk) -> _Job:
        stream: CudaStream = chunk.stream
        prefix, codes = stream.prefix, to_columns(torch.tensor(chunk.codes, dtype=torch.int64)).numpy()
        waiting = 0 if stream.has_begun else len(prefix.condition)
        if waiting:
            codes = np.concatenate((prefix.columns, codes))
        if chunk.is_last:
            codes = np.concatenate((codes, np.full((LOOKAHEAD, 2), -1, dtype=np.int64)))
        position = prefix.frames + stream.state.count
        assert stream.state.count // MEL_FRAMES_PER_FRAME + len(codes) - LOOKAHEAD <= stream.state.frames
        fields = self._fields(
            stream.state, prefix.state, stream.seed, position, prefix.speaker, prefix.condition, waiting
        )
        return _Job(chunk, stream, FlowPart(fields, codes), waiting)

    def _solve(self, parts: list[FlowPart]) -> list[int]:
        """Decode parts to mel; returns each one's first row."""
        size = _round_up(sum(part.rows for part in parts), ROWS)
        if self._recorder is not None:
            size = graph_size(size, self._flow_graphs, FIRST_ROWS, ROWS[-1])
        begin, step = self._flow_graph(size)
        firsts = self._table.send(size, parts)
        begin()
        for _ in range(STEPS):
            step()
        return firsts

    def _flow_graph(self, rows: int) -> tuple[Callable[[], None], Callable[[], None]]:
        if rows not in self._flow_graphs:
            begin, step = self._flow_launches(rows)
            self._flow_graphs[rows] = self._record(begin), self._record(step)
        return self._flow_graphs[rows]

    def _flow_launches(self, rows: int) -> tuple[Callable[[], None], Callable[[], None]]:
        tables = self._table.views(rows)
        self._table.send(rows, [])  # recording runs the kernels once
        return (
            lambda: self._estimator.begin(self._encoder.encode(tables), tables),
            lambda: self._estimator.step(tables),
        )

    # ---- the vocoder

    def _speak(self, parts: list[SoundPart]) -> Iterator[Tensor]:
        """Decode to `(samples,)` each, on the host; complete after `_wait`."""
        size = _round_up(sum(part.frames + GAP for part in parts) - GAP, SOUND_FRAMES)
        if self._recorder is not None:
            size = graph_size(size, self._sound_graphs, FIRST_FRAMES, SOUND_FRAMES[-1])
        run = self._sound_graph(size)
        firsts = self._sounds.send(size, parts)
        run()
        sound = torch.empty(size, HOP, pin_memory=self._sound.is_cuda)
        sound.copy_(self._sound[:size], non_blocking=True)
        for first, part in zip(firsts, parts, strict=True):
            yield sound[first : first + part.frames].view(-1)

    def _sound_graph(self, frames: int) -> Callable[[], None]:
        if frames not in self._sound_graphs:
            self._sound_graphs[frames] = self._record(self._sound_launches(frames))
        return self._sound_graphs[frames]

    def _sound_launches(self, frames: int) -> Callable[[], None]:
        tables, sound = self._sounds.views(frames), self._sound[:frames]
        self._sounds.send(frames, [])
        return lambda: self._vocoder.run(frames, tables, self._estimator.mel, sound)

    def _record(self, run: Callable[[], None]) -> Callable[[], None]:
        return run if self._recorder is None else self._recorder.record(run)[0]

    def _wait(self) -> None:
        if self._recorder is not None:
            torch.cuda.current_stream(self._network.device).synchronize()


def _last(chunk: Chunk) -> Waveform:
    """What is left of a stream when no codes follow."""
    stream: CudaStream = chunk.stream
    tail, stream.tail = stream.tail, stream.tail[:0]
    return tail


def _grouped(items: Sequence[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Cut a list where the sum of sizes would exceed the most."""
    group: list[T] = []
    for item in items:
        if group and sum(map(size, group)) + size(item) > most:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def graph_size(needed: int, there: Iterable[int], first: int, most: int) -> int:
    """The smallest graph that is there and large enough; if there is none, the one to be captured."""
    return min((size for size in there if size >= needed), default=first if needed <= first else most)


def _round_up(count: int, sizes: Sequence[int]) -> int:
    return next(size for size in sizes if size >= count)


def _from(sizes: Sequence[int], first: int) -> Iterator[int]:
    return (size for is_before in (False, True) for size in sizes if (size < first) is is_before)


def _free(*networks: nn.Module) -> None:
    """Free the weights that products have in their own format."""
    for network in networks:
        for module in network.modules():
            if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)) or (
                isinstance(module, nn.Linear) and min(module.weight.shape) > 1
            ):
                for parameter in module.parameters():
                    parameter.data = parameter.new_empty(0)
