"""The language model on a GPU: a decode step of five codes for up to 16 sequences is one CUDA graph.

    slot 0   last ─ embed ─ layers ─ choose ─┐
    slot 1   last ─ embed ─ layers ─ choose ─┤ five times in the graph, each code fed to the next step
    …                                        └─ 5 codes per slot, read by the host once

All sequences are at the same place of the code pattern, so only the codes allowed there are scored. Random
numbers come from the host, drawn as `sampling` draws them, while the GPU runs the step before.
Independent of requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stepaudiod.editx.codes import (
    AUDIO_BASE,
    AUDIO_CODES,
    END_OF_TURN,
    GROUP,
    LINGUISTIC_CODES,
    LINGUISTIC_IN_GROUP,
)
from stepaudiod.editx.cuda_graphs import CAPTURE
from stepaudiod.editx.lm.kernels import ROWS, Matrix, Rows, Workspace, attend, begin, multiply
from stepaudiod.editx.lm.kv_cache import KVPool
from stepaudiod.editx.lm.quantize import Int4Linear, Int8Linear
from stepaudiod.editx.lm.step1 import DecoderLayer, Step1ForCausalLM, alibi_slopes

END_CODE = LINGUISTIC_CODES
"""Index of the end among the scores: behind the linguistic codes, its only alternatives."""
FIRST_SEMANTIC = LINGUISTIC_CODES + 1
SIZES = (LINGUISTIC_CODES + 1, LINGUISTIC_CODES) + (AUDIO_CODES - LINGUISTIC_CODES,) * 3
"""Number of codes allowed at each place of a group; at the first, the end included."""
NOISES = sum(SIZES)
SLOTS = (1, 4, ROWS)
LENGTHS = (2048, 8192, 32768)
"""Graphs are recorded for so many slots and positions, each at its first use."""


def to_token(code: int) -> int:
    """Turn an index into the scores into an id of the vocabulary."""
    if code == END_CODE:
        return END_OF_TURN
    return AUDIO_BASE + code - (code > END_CODE)


def to_code(token: int) -> int:
    """Turn an audio id into its index into the scores."""
    code = token - AUDIO_BASE
    return code + (code >= END_CODE)


@dataclass(frozen=True)
class SlotInput:
    """The input of a slot's decode step.

    Args:
        last: the id that was chosen last; None for the prompt's last, see `set_prompt_end`.
        position: of that id.
        start: of the sequence in the pool.
        inverse_temperature: 1 if the most likely code is taken.
        noise: `(NOISES,)` float32, added to the scores.
    """

    last: int | None
    position: int
    start: int
    inverse_temperature: float
    noise: Tensor


@dataclass(frozen=True)
class _Layer:
    input_norm: Tensor
    qkv: Matrix
    out: Matrix
    norm: Tensor
    gate_up: Matrix
    down: Matrix


class CudaGraphRunner:
    """Runs decode steps; the model's matrices that read the same input are concatenated."""

    def __init__(self, model: Step1ForCausalLM, pool: KVPool) -> None:
        self._config, self._pool, self._eps = model.config, pool, model.config.rms_norm_eps
        device, dtype = model.device, model.dtype
        self._layers = [_layer(layer) for layer in model.model.layers if isinstance(layer, DecoderLayer)]
        if device.type == "cuda":
            torch.cuda.empty_cache()  # of the separate matrices: half of all weights
        self._norm = model.model.norm.weight
        self._slopes = alibi_slopes(model.config.num_attention_heads).to(device)
        ids = [to_token(code) for code in range(AUDIO_CODES + 1)]
        self._head = _rows(model.lm_head.weight, ids).to(device, dtype)
        table = torch.zeros(AUDIO_CODES + 1 + ROWS, model.config.hidden_size, device=device, dtype=dtype)
        table[: AUDIO_CODES + 1] = _rows(model.model.embed_tokens.weight, ids).to(device, dtype)
        self._table = table  # behind the codes, a row for the last id of each slot's prompt
        self._numbers = torch.zeros(3, ROWS, dtype=torch.int64, device=device)  # last, position, start
        self._inverse_temperatures = torch.ones(ROWS, device=device)
        self._noise = torch.zeros(ROWS, NOISES, device=device)
        self._chosen = torch.zeros(GROUP, ROWS, dtype=torch.int64, device=device)
        pinned = device.type == "cuda"
        self._sent = [torch.zeros_like(x, device="cpu", pin_memory=pinned) for x in self._inputs()]
        self._graphs: dict[tuple[int, int], Callable[[], None]] = {}
        self._graph_buffers: list[_Buffers] = []  # a graph has only their addresses, and would not keep them
        self._graph_pool = torch.cuda.graph_pool_handle() if pinned else None

    def _inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._numbers, self._inverse_temperatures, self._noise

    def set_prompt_end(self, slot: int, embedding: Tensor) -> None:
        """Set the embedding of a prompt's last id, which is no code, for a slot's first step."""
        self._table[AUDIO_CODES + 1 + slot] = embedding

    def run(
        self, slots: dict[int, SlotInput], meanwhile: Callable[[], object] = lambda: None
    ) -> dict[int, list[int]]:
        """Run one decode step; `meanwhile` is called while the GPU works.

        Slots that aren't given are computed too, and write to spare positions.

        Returns:
            Five ids for each; those after an end are meaningless.
        """
        self._send(slots)
        count = next(size for size in SLOTS if size > max(slots))
        length = next(size for size in LENGTHS if size >= max(s.position for s in slots.values()) + GROUP)
        self._graph(count, length)()
        meanwhile()
        chosen = self._chosen.cpu()
        return {slot: [to_token(code) for code in chosen[:, slot].tolist()] for slot in slots}

    def _send(self, slots: dict[int, SlotInput]) -> None:
        numbers, inverse, noise = self._sent
        numbers[0], numbers[1], numbers[2] = 0, 0, self._pool.positions
        for slot, given in slots.items():
            last = AUDIO_CODES + 1 + slot if given.last is None else to_code(given.last)
            numbers[:, slot] = torch.tensor([last, given.position, given.start])
            inverse[slot], noise[slot] = given.inverse_temperature, given.noise
        for target, source in zip(self._inputs(), self._sent, strict=True):
            target.copy_(source, non_blocking=True)

    def _graph(self, count: int, length: int) -> Callable[[], None]:
        key = count, length
        if key not in self._graphs:
            self._graphs[key] = self._capture(count, length)
        return self._graphs[key]

    def _capture(self, count: int, length: int) -> Callable[[], None]:
        buffers = self._new_buffers(count, length)
        if self._graph_pool is None:
            return lambda: self._step(buffers)
        numbers = self._numbers.clone()
        self._step(buffers)  # compiles the kernels, which a graph can't
        self._numbers.copy_(numbers)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, self._graph_pool, capture_error_mode=CAPTURE):
            self._step(buffers)
        self._graph_buffers.append(buffers)
        return graph.replay

    def _new_buffers(self, count: int, length: int) -> _Buffers:
        config, device, dtype = self._config, self._table.device, self._table.dtype
        heads, groups, head = config.num_attention_heads, config.num_attention_groups, config.head_size

        def new(width: int) -> Tensor:
            return torch.empty(count, width, device=device, dtype=dtype)

        return _Buffers(
            Rows.new(count, config.hidden_size, device, dtype),
            new((heads + 2 * groups) * head),
            new(heads * head),
            new(config.intermediate_size),
            Workspace.new(count, heads, head, length, device),
        )

    def _step(self, buffers: _Buffers) -> None:
        count = buffers.qkv.shape[0]
        codes, positions, starts = (row[:count] for row in self._numbers)
        noises = torch.split(self._noise[:count], list(SIZES), dim=1)
        for place in range(GROUP):
            begin(codes, self._table, self._layers[0].input_norm, buffers.rows)
            for index in range(len(self._layers)):
                self._run_layer(index, positions, starts, buffers)
            first = 0 if place < LINGUISTIC_IN_GROUP else FIRST_SEMANTIC
            scores = self._table.new_empty(count, SIZES[place])
            multiply(buffers.rows, Matrix(self._head[first : first + SIZES[place]]), scores, eps=self._eps)
            codes = (scores.float() * self._inverse_temperatures[:count, None] + noises[place]).argmax(
                dim=1
            ) + first
            self._chosen[place, :count] = codes
            positions += 1

    def _run_layer(self, index: int, positions: Tensor, starts: Tensor, buffers: _Buffers) -> None:
        """Run a layer over the rows, in place."""
        layer, rows, eps = self._layers[index], buffers.rows, self._eps
        is_last = index + 1 == len(self._layers)
        next_norm = self._norm if is_last else self._layers[index + 1].input_norm
        multiply(rows, layer.qkv, buffers.qkv, eps=eps)
        keys, values = self._pool.keys[index], self._pool.values[index]
        attend(buffers.qkv, keys, values, self._slopes, starts, positions, buffers.scratch, buffers.attended)
        multiply(buffers.attended, layer.out, rows, gain=layer.norm)
        multiply(rows, layer.gate_up, buffers.inner, eps=eps, is_gated=True)
        multiply(buffers.inner, layer.down, rows, gain=next_norm)


@dataclass(frozen=True)
class _Buffers:
    rows: Rows
    qkv: Tensor
    attended: Tensor
    inner: Tensor
    scratch: Workspace


def _rows(table: Tensor, ids: Sequence[int]) -> Tensor:
    return table[torch.tensor(ids, device=table.device)]


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
        parts = [getattr(linear, name) for linear in linears]
        whole = torch.cat([part.data for part in parts]) if len(parts) > 1 else parts[0].data
        views = whole.split([len(part) for part in parts])
        for linear, view in zip(linears, views, strict=True):
            setattr(linear, name, nn.Parameter(view, False) if name in linear._parameters else view)
        joined.append(whole)
    return Matrix(*joined)
