"""The language model on a GPU: prompts and decode steps are CUDA graphs of a few kernels a layer.

    decode    row 0   last ─ begin ─ layers ─ choose ─┐
              row 1   last ─ begin ─ layers ─ choose ─┤ five times in the graph, each code begins the next
              …                                       └─ 5 codes per row, read by the host once, while the
                                                         GPU computes the next five
    prefill   │ prompt A, 37 │··│ prompt B, 300        │·· free ··│      512 tokens, in tiles of 16

All rows are at the same place of the code pattern, so only the codes allowed there are scored. A layer's
kernels are the same for both, and so is their work for a row, whatever else is in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Sequences
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from stepaudiod.editx.codes import AUDIO_CODES, GROUP
from stepaudiod.editx.cuda_graphs import Recorder
from stepaudiod.editx.lm.attention_kernels import TILE, Attention
from stepaudiod.editx.lm.choice_kernels import Chooser
from stepaudiod.editx.lm.config import PAGE
from stepaudiod.editx.lm.kernel_parts import can_overlap
from stepaudiod.editx.lm.kernels import ROWS, Matrix, Rows, begin, multiply
from stepaudiod.editx.lm.pages import Pages
from stepaudiod.editx.lm.quantize import Int4Linear, Int8Linear
from stepaudiod.editx.lm.runner import Sequence
from stepaudiod.editx.lm.sampling import to_token
from stepaudiod.editx.lm.step1 import DecoderLayer, Step1ForCausalLM, alibi_slopes
from stepaudiod.editx.lm.step_rows import (
    CODE,
    FIRST_INPUT,
    PAGES,
    POSITION,
    Numbers,
    StepRows,
    new_numbers,
    set_pages,
)
from stepaudiod.editx.lm.tuning import Tuning, tune_prompts, tune_steps

ROW_COUNTS = (1, 4, ROWS)
"""There is a graph of decode steps for so many rows."""
PACK = 512
"""Tokens of prompts in one call."""
FIRST, COUNT, TOKENS = 0, 1, 2
"""Indices of a tile's int32 numbers: its first position, how many it has, and in the first tile the rows of
all tiles; its pages are at the same index as a row's."""


class CudaRunner:
    """See `LMRunner`; the model's matrices that read the same input are concatenated."""

    rows = ROWS

    def __init__(self, model: Step1ForCausalLM, length: int, positions: int) -> None:
        self._model, config = model, model.config
        self.pages = Pages(positions // PAGE, PAGE)
        self.length = min(length, self.pages.count * PAGE, config.max_seq_len)
        self._layers = [_layer(layer) for layer in model.model.layers if isinstance(layer, DecoderLayer)]
        self._norms = [*(layer.input_norm for layer in self._layers), model.model.norm.weight]
        self._cache = model.new_cache(self.pages.count * PAGE)
        pages = -(-self.length // PAGE)
        self._rows = StepRows(ROWS, pages, model.device)
        self._tiles = _Tiles.new(PACK // TILE, pages, model.device)
        tokens = torch.tensor([to_token(code) for code in range(AUDIO_CODES + 1)])
        # behind the codes, a row for the last id of each row's prompt
        self._table = torch.cat(
            (model.model.embed(tokens), self._norms[0].new_zeros(ROWS, config.hidden_size))
        )
        self._embedded = self._norms[0].new_zeros(PACK, config.hidden_size)
        self._order = torch.arange(PACK, device=model.device, dtype=torch.int32)
        head = model.lm_head.weight
        head = head[tokens.to(head.device)].to(self._table)
        self._chooser = Chooser(head, self._table, self._norms[0])
        is_overlapped, bits = can_overlap(model.device), self._layers[0].qkv.bits
        self._attention = Attention.new(
            alibi_slopes(config.num_attention_heads).to(model.device), config.num_attention_groups,
            config.head_size, POSITION, PAGES, is_overlapped,
        )  # fmt: skip
        steps = _Buffers.new(self._layers[0], self._table, ROWS, tune_steps(model.dtype, bits))
        prompts = _Buffers.new(self._layers[0], self._table, PACK, tune_prompts(model.dtype, bits))
        self._steps = steps.using(is_overlapped=is_overlapped)
        tokens_used = self._tiles.there[0, TOKENS : TOKENS + 1]
        self._prompts = prompts.using(is_overlapped=is_overlapped, count=tokens_used)
        self._recorder = Recorder(model.device) if model.device.type == "cuda" else None
        self._graphs: dict[int, Callable[[], None]] = {}
        self._codes = [self._host_codes() for _ in range(2)]
        self._ahead: _Group | None = None
        """What was launched and not yet read."""
        if self._recorder is not None:
            torch.cuda.empty_cache()  # of matrices that were concatenated, for other processes
            torch.cuda.current_stream(model.device).synchronize()  # other streams will use all this

    def prefill(self, pieces: Sequences[tuple[Sequence, int]]) -> None:
        for pack in _packs(pieces):
            tiles = self._tiles.numbers
            ids: list[int] = []
            tiles[:, COUNT] = 0
            for sequence, count in pack:
                for first in range(sequence.read, sequence.read + count, TILE):
                    tile = tiles[len(ids) // TILE]
                    tile[FIRST], tile[COUNT] = first, min(TILE, sequence.read + count - first)
                    set_pages(tile, PAGES, sequence)
                    ids += sequence.prompt[first : first + tile[COUNT]] + [0] * (TILE - tile[COUNT])
            tiles[0, TOKENS] = len(ids)
            self._embedded[: len(ids)] = self._model.model.embed(torch.tensor(ids))
            self._tiles.send()
            self._graph(PACK)()
            if self._recorder is not None:
                torch.cuda.current_stream().synchronize()
            for sequence, count in pack:
                sequence.read += count

    def decode(self, sequences: Sequences[Sequence]) -> None:
        group, self._ahead = self._ahead, None
        if group is None or not any(each in group.sequences for each in sequences):
            if group is not None:
                group.read()  # its memory on the host is used again by the second of the next two
            group = self._launch({each: len(each.ids) for each in sequences})
        # those that came since are in the next group only
        lengths = {each: len(each.ids) + (GROUP if each in group.sequences else 0) for each in sequences}
        lengths = {each: length for each, length in lengths.items() if length < each.max_tokens}
        ahead = self._launch(lengths) if lengths else None
        codes = group.read()
        for each in group.sequences:
            if each in sequences:
                each.add([to_token(code) for code in codes[each.slot]])
        self._ahead = ahead

    def capture_next(self) -> bool:
        missing = [size for size in (ROWS, *ROW_COUNTS, PACK) if size not in self._graphs]
        if self._recorder is None or not missing:
            return False
        self._be_idle()
        self._graph(missing[0])
        torch.cuda.current_stream().synchronize()  # before the numbers here are written again
        return True

    def launches(self) -> list[Callable[[], None]]:
        self._be_idle()
        return [partial(self._run, size) for size in (*ROW_COUNTS, PACK)]

    def _be_idle(self) -> None:
        """Have kernels write to no pages: others may have them by now."""
        self._ahead = None
        self._rows.clear()
        self._tiles.numbers[:, [COUNT, TOKENS]] = 0
        self._tiles.send()

    def _launch(self, lengths: Mapping[Sequence, int]) -> _Group:
        """Begin to compute the group of each sequence that follows so many ids."""
        for each, length in lengths.items():
            if not length:
                first = self._model.model.embed(torch.tensor(each.prompt[-1:]))[0]
                self._table[FIRST_INPUT + each.slot] = first
        needed = max(each.slot for each in lengths) + 1
        counts = [count for count in ROW_COUNTS if count >= needed]
        # the largest is captured first: no row is in use then, and nothing waits when others join
        size = next((count for count in counts if count in self._graphs), ROWS)
        run = self._graph(size if self._recorder is not None else counts[0])
        self._rows.hold(lengths, GROUP)
        run()
        self._codes.reverse()
        self._codes[0].copy_(self._chooser.chosen, non_blocking=True)
        done = torch.cuda.current_stream().record_event() if self._recorder is not None else None
        return _Group(list(lengths), self._codes[0], done)

    def _host_codes(self) -> Tensor:
        chosen = self._chooser.chosen
        return torch.zeros(chosen.shape, dtype=chosen.dtype, pin_memory=chosen.is_cuda)

    def _graph(self, size: int) -> Callable[[], None]:
        if self._recorder is None:
            return partial(self._run, size)
        if size not in self._graphs:
            self._graphs[size], _ = self._recorder.record(lambda: self._run(size))
        return self._graphs[size]

    def _run(self, size: int) -> None:
        """Launch the kernels of a graph."""
        depth = len(self._layers)
        if self._recorder is not None and not torch.cuda.is_current_stream_capturing():
            depth = 1  # what is run before a capture compiles and loads the kernels, which all layers share
        if size == PACK:
            self._run_prompts(depth)
        else:
            self._run_step(size, depth)

    def _run_step(self, count: int, depth: int) -> None:
        buffers, numbers = self._steps.first(count), self._rows.numbers[:count]
        begin(numbers[:, CODE], self._table, self._norms[0], buffers.rows)
        for place in range(GROUP):
            for index in range(depth):
                keys, values = self._cache.keys[index], self._cache.values[index]
                self._project(index, buffers)
                self._attention.step(buffers.qkv, keys, values, numbers, place, buffers.attended)
                self._finish(index, buffers)
            self._chooser.choose(
                buffers.rows, numbers, place, self._model.config.rms_norm_eps, buffers.tuning.head
            )

    def _run_prompts(self, depth: int) -> None:
        buffers, tiles = self._prompts, self._tiles.there
        begin(self._order, self._embedded, self._norms[0], buffers.rows)
        for index in range(depth):
            keys, values = self._cache.keys[index], self._cache.values[index]
            self._project(index, buffers)
            if index + 1 == len(self._layers):  # nothing reads the last layer's result
                self._attention.store(buffers.qkv, keys, values, tiles)
                break
            self._attention.prompts(buffers.qkv, keys, values, tiles, buffers.attended)
            self._finish(index, buffers)

    def _project(self, index: int, buffers: _Buffers) -> None:
        rows, layer, eps = buffers.rows, self._layers[index], self._model.config.rms_norm_eps
        multiply(rows.ready, layer.qkv, buffers.qkv, rows, buffers.tuning.qkv, eps=eps)

    def _finish(self, index: int, buffers: _Buffers) -> None:
        """Run what follows a layer's attention, in place."""
        rows, tuning, layer = buffers.rows, buffers.tuning, self._layers[index]
        eps, next_norm = self._model.config.rms_norm_eps, self._norms[index + 1]
        multiply(buffers.attended, layer.out, rows.x, rows, tuning.out, gain=layer.norm)
        multiply(rows.ready, layer.gate_up, buffers.inner, rows, tuning.gate_up, eps=eps, is_gated=True)
        multiply(buffers.inner, layer.down, rows.x, rows, tuning.down, gain=next_norm)


@dataclass(frozen=True)
class _Group:
    """Five codes of each sequence, which the GPU computes; `codes` is `(5, rows)` on the host."""

    sequences: list[Sequence]
    codes: Tensor
    done: torch.cuda.Event | None

    def read(self) -> list[list[int]]:
        """Wait for the codes; returns each row's."""
        if self.done is not None:
            self.done.synchronize()
        codes: list[list[int]] = self.codes.T.tolist()
        return codes


@dataclass(frozen=True)
class _Tiles:
    """What the kernels read about tiles: `(tiles, numbers)` int32, on the host and on the GPU."""

    here: Tensor
    there: Tensor

    @classmethod
    def new(cls, count: int, pages: int, device: torch.device) -> _Tiles:
        here = new_numbers(count, pages, device)
        return cls(here, here.to(device, copy=True))

    @property
    def numbers(self) -> Numbers:
        numbers: Numbers = self.here.numpy()
        return numbers

    def send(self) -> None:
        self.there.copy_(self.here, non_blocking=True)


@dataclass(frozen=True)
class _Layer:
    input_norm: Tensor
    qkv: Matrix
    out: Matrix
    norm: Tensor
    gate_up: Matrix
    down: Matrix


@dataclass(frozen=True)
class _Buffers:
    """Activations of a fixed number of rows."""

    rows: Rows
    tuning: Tuning
    qkv: Tensor
    attended: Tensor
    inner: Tensor

    @classmethod
    def new(cls, layer: _Layer, table: Tensor, count: int, tuning: Tuning) -> _Buffers:
        outputs = layer.qkv.weight.shape[0], table.shape[1], layer.gate_up.weight.shape[0] // 2
        rows = Rows.new(count, table, tuning.rows, -(-table.shape[1] // tuning.out.n))
        return cls(rows, tuning, *(table.new_zeros(count, width) for width in outputs))

    def using(self, is_overlapped: bool, count: Tensor | None = None) -> _Buffers:
        return replace(self, rows=replace(self.rows, is_overlapped=is_overlapped, count=count))

    def first(self, count: int) -> _Buffers:
        """Those of fewer rows."""
        block = min(self.rows.block, 8 if count <= 8 else ROWS)
        rows = replace(self.rows, x=self.rows.x[:count], ready=self.rows.ready[:count], block=block)
        return _Buffers(rows, self.tuning, self.qkv[:count], self.attended[:count], self.inner[:count])


def _packs(pieces: Sequences[tuple[Sequence, int]]) -> Iterator[list[tuple[Sequence, int]]]:
    """Divide pieces of prompts into what one call holds; each is read before the next is asked for."""
    pack: list[tuple[Sequence, int]] = []
    free = PACK
    for sequence, count in pieces:
        left = min(count, len(sequence.prompt) - 1 - sequence.read)
        while left > 0:
            taken = min(left, free)
            pack.append((sequence, taken))
            left, free = left - taken, free - -(-taken // TILE) * TILE
            if not free:
                yield pack
                pack, free = [], PACK
    if pack:
        yield pack


def _layer(layer: DecoderLayer) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        layer.input_layernorm.weight,
        _concatenate(attention.q_proj, attention.k_proj, attention.v_proj),
        _concatenate(attention.o_proj),
        layer.post_attention_layernorm.weight,
        _concatenate(mlp.gate_proj, mlp.up_proj),
        _concatenate(mlp.down_proj),
    )


def _concatenate(*linears: nn.Module) -> Matrix:
    """Concatenate matrices that read the same input; the modules keep views of theirs."""
    names = {Int4Linear: ("packed", "scale", "zero"), Int8Linear: ("weight", "scale")}.get(
        type(linears[0]), ("weight",)
    )
    joined: list[Tensor] = []
    for name in names:
        parts = [getattr(linear, name).data for linear in linears]
        whole = _neighbours(parts)
        if whole is None:
            whole = torch.cat(parts)
            for linear, view in zip(linears, torch.split(whole, [len(part) for part in parts]), strict=True):
                setattr(linear, name, nn.Parameter(view, False) if name in linear._parameters else view)
        joined.append(whole)
    return Matrix(*joined)


def _neighbours(parts: list[Tensor]) -> Tensor | None:
    """Tensors that are rows of one, as that one."""
    first, at = parts[0], parts[0].data_ptr()
    for part in parts:
        if part.data_ptr() != at or not part.is_contiguous():
            return None
        at += part.numel() * part.element_size()
    if (
        at - first.data_ptr() + first.storage_offset() * first.element_size()
        > first.untyped_storage().nbytes()
    ):
        return None  # neighbours by chance
    rows = sum(len(part) for part in parts)
    return first.as_strided((rows, *first.shape[1:]), first.stride(), first.storage_offset())
