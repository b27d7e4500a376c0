"""Checkpoints with random weights in the published layout: `python -m tests.editx.trees DIR`.

Names, shapes and containers are the published ones; the text vocabulary and the centroids are made up. The
random weights exercise every part: gates and norms away from identity, pitches across the voicing threshold,
ends that come after a few hundred tokens. They say nothing about how it sounds.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.codes import AUDIO_BASE, AUDIO_CODES, END_OF_TURN, VOCABULARY
from tests.editx.draws import PRESETS, Dims, Draws, State, StateBuilder
from tests.editx.graphs import SpeakerGraph, field, write_semantic


def write_tree(root: Path, preset: str = "micro") -> Checkpoint:
    checkpoint, dims = Checkpoint(root), PRESETS[preset]
    for folder in (checkpoint.flow.parent, checkpoint.linguistic):
        folder.mkdir(parents=True, exist_ok=True)
    write_step1(checkpoint.model, dims["lm"])
    torch.save(flow_state(dims["flow"]), checkpoint.flow)
    torch.save(vocoder_state(dims["hift"]), checkpoint.vocoder)
    SpeakerGraph(dims["campplus"]).write(checkpoint.speaker_encoder)
    write_semantic(checkpoint.semantic, dims["vq06"])
    torch.save(linguistic_state(dims["vq02"]), checkpoint.linguistic / "model.pt")
    (checkpoint.linguistic / "am.mvn").write_text(normalisation())
    np.save(checkpoint.centroids, centroids())
    checkpoint.vocabulary.write_bytes(vocabulary())
    return checkpoint


def write_step1(folder: Path, dims: Dims) -> None:
    state = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in _step1_tensors(dims)}
    save_file(state, folder / "model-00001.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(sorted(state), "model-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["Step1ForCausalLM"],
        "model_type": "step1",
        "hidden_size": dims["hidden"],
        "intermediate_size": dims["inter"],
        "num_attention_heads": dims["heads"],
        "num_attention_groups": dims["groups"],
        "num_hidden_layers": dims["layers"],
        "max_seq_len": 32768,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-05,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))


def _step1_tensors(dims: Dims) -> Iterator[tuple[str, Tensor]]:
    hidden, inner, layers = dims["hidden"], dims["inter"], dims["layers"]
    kv = dims["groups"] * hidden // dims["heads"]
    draws, root = Draws("lm"), math.sqrt(hidden)
    # every embedding shares a direction, so that the scores can be steered towards codes and the end
    shared = draws.normal("common_direction", (hidden,))
    shared = shared / math.sqrt(math.fsum(float(x) ** 2 for x in shared))
    embedding = draws.normal("model.embed_tokens.weight", (VOCABULARY, hidden), 0.6)
    yield "model.embed_tokens.weight", embedding.add_(shared * (0.5 * root))
    depth = math.sqrt(3.0 / layers)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name, out, inp, gain in (
            ("self_attn.q_proj", hidden, hidden, 2.0),
            ("self_attn.k_proj", kv, hidden, 2.0),
            ("self_attn.v_proj", kv, hidden, 1.0),
            ("self_attn.o_proj", hidden, hidden, depth),
            ("mlp.gate_proj", inner, hidden, 1.0),
            ("mlp.up_proj", inner, hidden, 1.0),
            ("mlp.down_proj", hidden, inner, 0.7 * depth),
        ):
            full = f"{prefix}{name}.weight"
            yield full, draws.normal(full, (out, inp), gain / math.sqrt(inp))
        for name in ("input_layernorm", "post_attention_layernorm"):
            full = f"{prefix}{name}.weight"
            yield full, draws.normal(full, (hidden,), 0.1, 1.0)
    yield "model.norm.weight", draws.normal("model.norm.weight", (hidden,), 0.1, 1.0)
    head = draws.normal("lm_head.weight", (VOCABULARY, hidden), 2.2 / root).sub_(shared * (14.0 / root))
    head[AUDIO_BASE : AUDIO_BASE + AUDIO_CODES] += shared * (28.0 / root)
    head[END_OF_TURN] = shared * (37.0 / root)
    yield "lm_head.weight", head


def flow_state(dims: Dims) -> State:
    build, size = StateBuilder(Draws("flow")), dims["dim"]
    build.state["input_embedding.embedding.weight"] = build.draws.normal("input_embedding", (5121, size // 2))
    build.linear("spk_embed_affine_layer", 80, 192)
    for part in ("embed", "up_embed"):
        build.linear(f"encoder.{part}.out.0", size, size)
        build.norm(f"encoder.{part}.out.1", size)
    build.norm("encoder.after_norm", size)
    build.conv("encoder.pre_lookahead_layer.conv1", size, size, 4)
    build.conv("encoder.pre_lookahead_layer.conv2", size, size, 3)
    for layer in range(dims["blocks"]):
        _conformer(build, f"encoder.encoders.{layer}", dims)
    build.conv("encoder.up_layer.conv", size, size, 5)
    for layer in range(dims["up_blocks"]):
        _conformer(build, f"encoder.up_encoders.{layer}", dims)
    build.linear("encoder_proj", 80, size)
    _estimator(build, dims)
    return build.state


def _conformer(build: StateBuilder, prefix: str, dims: Dims) -> None:
    size, heads = dims["dim"], dims["heads"]
    attention = f"{prefix}.self_attn."
    for name in ("pos_bias_u", "pos_bias_v"):
        build.state[attention + name] = build.draws.normal(attention + name, (heads, size // heads), 0.3)
    for name in ("linear_q", "linear_k", "linear_v", "linear_out"):
        build.linear(attention + name, size, size, gain=1.5 if name in ("linear_q", "linear_k") else 1.0)
    build.linear(attention + "linear_pos", size, size, bias=False)
    build.linear(f"{prefix}.feed_forward.w_1", dims["ff"], size)
    build.linear(f"{prefix}.feed_forward.w_2", size, dims["ff"])
    build.norm(f"{prefix}.norm_ff", size)
    build.norm(f"{prefix}.norm_mha", size)


def _estimator(build: StateBuilder, dims: Dims) -> None:
    size, heads, head = dims["dim"], dims["heads"], dims["head_dim"]
    prefix = "decoder.estimator."
    build.linear(prefix + "t_embedder.mlp.0", size, 256)
    build.linear(prefix + "t_embedder.mlp.2", size, size)
    build.linear(prefix + "in_proj", size, 320)
    for layer in range(dims["depth"]):
        block = f"{prefix}blocks.{layer}."
        for name in ("to_q", "to_k", "to_v"):
            build.linear(block + "attn." + name, heads * head, size)
        build.norm(block + "attn.q_norm", head, 1.3)
        build.norm(block + "attn.k_norm", head, 1.3)
        build.linear(block + "attn.proj", size, heads * head)
        build.linear(block + "mlp.fc1", size, size)
        build.linear(block + "mlp.fc2", size, size)
        build.conv(block + "conv.block.1", size, size, 3)
        build.norm(block + "conv.block.3", size)
        build.conv(block + "conv.block.6", size, size, 3)
        build.linear(block + "adaLN_modulation.1", 9 * size, size, gain=0.5, bias_std=0.3)
    build.linear(prefix + "final_layer.adaLN_modulation.1", 2 * size, size, gain=0.5, bias_std=0.2)
    build.linear(prefix + "final_layer.linear", 80, size)


def vocoder_state(dims: Dims) -> State:
    build, base, pitch = StateBuilder(Draws("hift")), dims["base"], dims["cond"]
    build.state["m_source.l_linear.weight"] = build.draws.normal("m_source.w", (1, 9), 1.5)
    build.state["m_source.l_linear.bias"] = build.draws.normal("m_source.b", (1,), 0.02)
    build.weight_norm("conv_pre", (base, 80, 7), base, gain=0.4)
    for stage, (rate, kernel) in enumerate(zip((8, 5, 3), (16, 11, 7), strict=True)):
        wide, width = base >> stage, base >> stage + 1
        build.weight_norm(f"ups.{stage}", (wide, width, kernel), width, fan=max(1, wide * kernel // rate))
        stride = (15, 3, 1)[stage]
        build.conv(f"source_downs.{stage}", width, 18, 1 if stride == 1 else 2 * stride, gain=2.0)
        _residual(build, f"source_resblocks.{stage}", width, (7, 7, 11)[stage])
        for index, size in enumerate((3, 7, 11)):
            _residual(build, f"resblocks.{3 * stage + index}", width, size)
    build.weight_norm("conv_post", (18, base >> 3, 7), 18, gain=0.5)
    build.state["conv_post.bias"][:9] -= 2.5  # log magnitudes: the sound stays within its limit
    for layer in range(5):
        inp, gain = (80, 0.5) if layer == 0 else (pitch, 1.2)
        build.weight_norm(f"f0_predictor.condnet.{2 * layer}", (pitch, inp, 3), pitch, gain=gain)
    weight = build.draws.normal("f0.w", (1, pitch), 150.0 / math.sqrt(pitch))
    build.state["f0_predictor.classifier.weight"] = weight
    build.state["f0_predictor.classifier.bias"] = build.draws.normal("f0.b", (1,), 5.0)
    return build.state


def _residual(build: StateBuilder, prefix: str, channels: int, kernel: int) -> None:
    for part in ("convs1", "convs2"):
        for index in range(3):
            build.weight_norm(f"{prefix}.{part}.{index}", (channels, channels, kernel), channels, gain=0.5)
    for part in ("activations1", "activations2"):
        for index in range(3):
            name = f"{prefix}.{part}.{index}.alpha"
            build.state[name] = build.draws.uniform(name, (channels,), 0.3, 2.0)


def linguistic_state(dims: Dims) -> State:
    """Draw the encoder of `model.pt`, and a part of the decoder, which is never read."""
    build, size, inner = StateBuilder(Draws("vq02")), 512, dims["ff"]
    for layer in range(dims["blocks"]):
        prefix = "encoder.encoders0.0" if layer == 0 else f"encoder.encoders.{layer - 1}"
        inp = 560 if layer == 0 else size
        build.linear(f"{prefix}.self_attn.linear_out", size, size)
        build.linear(f"{prefix}.self_attn.linear_q_k_v", 3 * size, inp, gain=1.3)
        build.conv(f"{prefix}.self_attn.fsmn_block", size, 1, 11, bias=False, gain=0.7)
        build.linear(f"{prefix}.feed_forward.w_1", inner, size)
        build.linear(f"{prefix}.feed_forward.w_2", size, inner)
        build.norm(f"{prefix}.norm1", inp)
        build.norm(f"{prefix}.norm2", size)
    build.norm("encoder.after_norm", size, mean=0.4, std=0.1, bias_std=0.005)
    build.linear("decoder.output_layer", 8, size)
    return build.state


def normalisation() -> str:
    """Write `am.mvn`: 560 shifts and 560 scales between brackets."""
    draws = Draws("am.mvn")
    mean = 9.0 + 3.0 * torch.cos(torch.arange(80) / 80 * math.pi) + draws.normal("mean", (80,), 0.3)
    std = draws.uniform("std", (80,), 2.5, 4.5)

    def row(values: Tensor) -> str:
        return " ".join(f"{x:.6f}" for x in values.repeat(7).tolist())

    return (
        "<Nnet> \n<Splice> 560 560\n[ 0 ]\n"
        f"<AddShift> 560 560\n<LearnRateCoef> 0 [ {row(-mean)} ]\n"
        f"<Rescale> 560 560\n<LearnRateCoef> 0 [ {row(1.0 / std)} ]\n</Nnet> \n"
    )


def centroids() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    drawn = Draws("centroids").normal("centroids", (1024, 512))
    array: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = (
        drawn / drawn.norm(dim=1, keepdim=True)
    ).numpy()
    return array


WORDS = (
    "system",
    "human",
    "assistant",
    "Make",
    "the",
    "quick",
    "brown",
    "fox",
    "audio",
    "Hello",
    "you",
    "你",
    "好",
)
CONTROL = ("<s>", "</s>", "<|EOT|>", "<|BOT|>", "<|CALL_START|>", "<|THINK_START|>", "<text_start>")


def vocabulary() -> bytes:
    """Make up a SentencePiece model with the published layout: control tokens, bytes, text, codes."""
    pieces: list[tuple[str, float, int]] = [("<unk>", 0.0, 2)]
    pieces += [(token, 0.0, 3) for token in CONTROL]
    pieces += [(f"<user_defined_symbol_{i}>", 0.0, 4) for i in range(68 - len(pieces))]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    letters = [chr(c) for c in range(33, 127)] + list("▁。，！？")
    text = dict.fromkeys([*letters, *WORDS, *(f"▁{word}" for word in WORDS)])
    pieces += [(piece, -3.0 - 8.0 / len(piece), 1) for piece in text]
    pieces += [(f"\u2063filler{i}", -30.0, 1) for i in range(AUDIO_BASE - len(pieces))]
    pieces += [(f"<audio_{i}>", 0.0, 4) for i in range(VOCABULARY - AUDIO_BASE)]
    return b"".join(field(1, _piece(*piece)) for piece in pieces)


def _piece(piece: str, score: float, kind: int) -> bytes:
    number = np.float32(score).tobytes()
    return field(1, piece.encode()) + bytes([2 << 3 | 5]) + number + field(3, kind)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.editx.trees", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="micro")
    options = parser.parse_args()
    write_tree(options.out, options.preset)


if __name__ == "__main__":
    main()
