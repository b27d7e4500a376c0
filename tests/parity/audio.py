"""Stages before the language model: audio, codes, the speaker, prompts, and their edge cases."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stepaudiod.edits import OPTIONS, instruction
from stepaudiod.editx.codes import AUDIO_BASE
from stepaudiod.editx.interleaving import code_ids, interleave, to_columns
from stepaudiod.editx.tokenizers import features
from stepaudiod.editx.tokenizers.linguistic import CONTEXT_ROWS
from stepaudiod.editx.tokenizers.resample import resample
from tests.parity.golden import Arrays, Golden, Networks
from tests.parity.hooks import recorded
from tests.parity.prompts import PromptForm, TrustingWriter, december_speaker, encode_trusted

NEAR = 1e-3
"""Of two processors' float32 mels and embeddings, the most that rounding alone has been seen to make."""
FORMS = {"chat": PromptForm.CHAT, "head": PromptForm.DECEMBER, "nobos": PromptForm.DECEMBER_ONE_BOS}


def to_array(tensor: Tensor) -> np.ndarray:
    """Bring a tensor back as float32, or as its own integer kind."""
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()


def prepared(golden: Golden) -> tuple[Tensor, int]:
    """Stage A: the waveform, mono and within its peak, and its rate."""
    return features.limit_peak(features.to_mono(golden.tensor("wav_in"))), int(golden.array("sr"))


def codes(golden: Golden, networks: Networks) -> Arrays:
    waveform, rate = prepared(golden)
    trimmed = features.trim_for_codes(resample(waveform, rate, features.CODE_RATE, torch.float64))
    with recorded(networks.linguistic.encoder) as encoded, recorded(networks.semantic.encoder) as pieces:
        linguistic, semantic = networks.linguistic(trimmed), networks.semantic(trimmed)
    ((rows_in,), windows) = encoded[0]
    rows = windows[:, CONTEXT_ROWS:].flatten(0, 1)[: rows_in.shape[0]]
    mels = [given[0][0] for given, _ in pieces]
    ids = code_ids(interleave(linguistic, semantic))
    lengths = [len(part) for part in torch.split(rows, 4)]
    last = windows[-1:].flatten(0, 1)[: CONTEXT_ROWS + lengths[-1]]
    return {
        "wav_in": golden.array("wav_in"),
        "sr": golden.array("sr"),
        "wav_norm": to_array(waveform[None]),
        "wav16": to_array(trimmed[None]),
        "vq02_chunk_feats": to_array(rows_in),
        "vq02_chunk_lens": np.array(lengths, dtype=np.int64),
        "vq02_chunk_out_last": to_array(last),
        "vq02_enc_out": to_array(rows),
        "vq02": to_array(linguistic),
        "vq06": to_array(semantic),
        "vq06_mel": to_array(_mel_like(golden, mels)),
        "vq06_mel_lens": np.array([piece.shape[1] for piece in mels], dtype=np.int64),
        "vq06_hidden": to_array(torch.cat([made[0] for _, made in pieces])),
        "vq0206": np.array(ids, dtype=np.int64),
        "token_str": np.array("".join(f"<audio_{i - AUDIO_BASE}>" for i in ids)),
    }


def _mel_like(golden: Golden, mels: list[Tensor]) -> Tensor:
    """Pieces end to end, or stacked and padded where the dump has them so."""
    if "vq06_mel" in golden and golden.array("vq06_mel").ndim == 3:
        longest = max(mel.shape[1] for mel in mels)
        return torch.stack([F.pad(mel, (0, longest - mel.shape[1])) for mel in mels])
    return torch.cat(mels, dim=1)


def acoustics(golden: Golden, networks: Networks) -> Arrays:
    waveform, rate = prepared(golden)
    mel = features.prompt_mel(resample(waveform, rate, features.SAMPLE_RATE))
    bank = features.speaker_filter_bank(resample(waveform, rate, features.CODE_RATE))
    embedding = networks.speaker(bank[None])[0]
    return {
        "speech_feat": to_array(mel),
        "campplus_fbank": to_array(bank),
        "spk_embedding": to_array(embedding),
        "speech_feat_bf16": to_array(_round(mel, golden.start("speech_feat", mel))),
        "spk_embedding_bf16": to_array(_round(embedding, golden.start("spk_embedding", embedding))),
    }


def _round(made: Tensor, theirs: Tensor) -> Tensor:
    """Round to bfloat16; a value so near theirs that only a border may lie between goes to their side."""
    if made.shape != theirs.shape:
        return made.bfloat16()
    return torch.where((made - theirs).abs() <= NEAR, theirs, made).bfloat16()


def prompts(golden: Golden, networks: Networks, ids: list[int]) -> Arrays:
    """Prompt ids in all forms, instructions, and what the vocabulary makes of odd texts."""
    said, text = str(golden.arguments.get("prompt_text", "")), str(golden.arguments.get("target_text", ""))
    speaker = december_speaker(said, golden.array("wav_in"))
    made: Arrays = {"clone_voice_id": np.array(speaker)}
    for key in golden.keys():  # noqa: SIM118 (it isn't a dictionary)
        if match := re.fullmatch(r"ids_(chat|head|nobos)_(\w+)", key):
            form = FORMS[match[1]]
            if match[2] == "clone":
                prompt = clone_prompt(golden, networks, ids, form)
            else:
                writer = TrustingWriter(networks.tokenizer, form)
                prompt = writer.edit(ids, _instruction(match[2], text, said))
            made[key] = np.array(prompt, dtype=np.int64)
        elif match := re.fullmatch(r"instruct_(\w+)", key):
            made[key] = np.array(_instruction(match[1], text, said))
    if "tok_probe_text" in golden:
        probes = golden.array("tok_probe_text")
        made["tok_probe_text"] = probes
        made["tok_probe_ids"] = np.array(
            [json.dumps(encode_trusted(networks.tokenizer, str(probe))) for probe in probes]
        )
    return made


def clone_prompt(golden: Golden, networks: Networks, ids: list[int], form: PromptForm) -> list[int]:
    said, text = str(golden.arguments.get("prompt_text", "")), str(golden.arguments.get("target_text", ""))
    speaker = () if form is PromptForm.CHAT else (december_speaker(said, golden.array("wav_in")),)
    return TrustingWriter(networks.tokenizer, form).clone(ids, said, text, *speaker)


def _instruction(name: str, text: str, said: str) -> str:
    kind, _, info = name.partition("_")
    option = next(
        (option for option in OPTIONS[kind] if option.replace(" ", "_") == info), info.replace("_", " ")
    )
    return instruction(kind, option, text, said)


def edges(golden: Golden, networks: Networks) -> Arrays:
    """Lengths, trims, rates and incomplete groups."""
    made: Arrays = {}
    for key in golden.keys():  # noqa: SIM118 (it isn't a dictionary)
        if key.startswith("edge_") and key.endswith("_in"):
            made[key] = golden.array(key)
        if match := re.fullmatch(r"edge_rs_(\d+)_in", key):
            signal, rate = golden.tensor(key), int(match[1])
            made[f"edge_rs_{rate}_16k"] = to_array(resample(signal, rate, 16000))
            made[f"edge_rs_{rate}_16k_transform"] = to_array(resample(signal, rate, 16000, torch.float64))
            made[f"edge_rs_{rate}_24k"] = to_array(resample(signal, rate, 24000))
        elif match := re.fullmatch(r"edge_reshape_(\d+)_in", key):
            made[f"edge_reshape_{match[1]}_out"] = to_array(to_columns(golden.tensor(key)))
        elif match := re.fullmatch(r"edge_trim_(\w+)_in", key):
            signal = _trim_case(match[1], int(golden.array(key))).to(golden.device)
            made[f"edge_trim_{match[1]}_out"] = to_array(features.trim_for_codes(signal))
    if "edge_vq02_samples" in golden:
        made |= _code_counts(golden, networks)
    return made


def _trim_case(name: str, samples: int) -> Tensor:
    """The signals behind the trimming keys: 2 s of a 220 Hz tone with silence around it."""
    tone = 0.3 * torch.sin(2 * math.pi * 220 * (torch.arange(32000) / 16000))
    if name == "silence":
        return torch.zeros(samples)
    rest = samples - tone.shape[0]
    before = {"lead": rest, "both": 4000}.get(name, 0)
    return F.pad(tone * (1e-3 if name == "quiet" else 1.0), (before, rest - before))


def _code_counts(golden: Golden, networks: Networks) -> Arrays:
    noise = golden.tensor("edge_noise_2s")
    made: Arrays = {"edge_noise_2s": golden.array("edge_noise_2s")}
    for name, tokenise in (("vq02", networks.linguistic), ("vq06", networks.semantic)):
        lengths = golden.array(f"edge_{name}_samples")
        repeats = -(-int(lengths.max()) // noise.shape[0])
        found = [tokenise(noise.repeat(repeats)[: int(n)]) for n in lengths]
        made[f"edge_{name}_samples"] = lengths
        made[f"edge_{name}_count"] = np.array([codes.shape[0] for codes in found], dtype=np.int64)
        made[f"edge_{name}_error"] = np.array([""] * len(found))
        made[f"edge_{name}_codes"] = to_array(torch.cat(found))
    return made
