"""The decoder's keys: flow, vocoder, the reference's streaming, and its whole clone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from stepaudiod.editx.codes import AUDIO_BASE, id_codes, to_columns
from stepaudiod.editx.decoder.audio_stream import AudioStream, ChunkDecoder
from stepaudiod.editx.decoder.flow import Acoustics, FlowTrace
from stepaudiod.editx.decoder.source import HOP, PhaseArithmetic
from stepaudiod.editx.decoder.streaming import StreamStyle
from stepaudiod.editx.decoder.vocoder import VocoderTrace
from stepaudiod.editx.lm.prompts import PromptForm
from tests.parity.audio import clone_prompt, to_array
from tests.parity.golden import Arrays, Golden, Networks
from tests.parity.language import Primed, greedy

ECHOED = ("rand_noise", "hift_noise", "hift_rand_ini", "hift_phase_note", "dec_tokens")
"""Inputs, which a dump repeats."""


def reference_acoustics(golden: Golden, made: Arrays) -> Acoustics:
    """The prompt's columns, mel and embedding, rounded as the reference rounds them."""
    codes, mel, embedding = (
        golden.start(key, torch.from_numpy(made[key]).to(golden.device) if key in made else torch.zeros(0))
        for key in ("vq0206", "speech_feat_bf16", "spk_embedding_bf16")
    )
    return Acoustics(to_columns(id_codes(codes.long().tolist())).to(golden.device), mel, embedding)


def whole(golden: Golden, networks: Networks, acoustics: Acoustics) -> Arrays:
    """One fixed sequence of codes to mel and to sound."""
    made: Arrays = {key: golden.array(key) for key in ECHOED if key in golden}
    columns = to_columns(golden.tensor("dec_tokens"))
    trace = FlowTrace()
    frames = 2 * (columns.shape[0] + acoustics.columns.shape[0])
    mel = networks.flow(columns, acoustics, golden.noise(frames), trace)
    made |= {"dec_dual": to_array(columns), "dec_prompt_dual": to_array(acoustics.columns)}
    made |= _flow_keys(trace) | {"mel": to_array(mel)}
    if "hift_noise" in golden:
        made |= _sound(golden, networks, golden.start("mel", mel.float()))
    return made


def _sound(golden: Golden, networks: Networks, mel: Tensor) -> Arrays:
    """Mel to sound, each step from what the reference's step before it gave."""
    vocoder, trace = networks.vocoder, VocoderTrace()
    pitch = vocoder.f0_predictor(mel)
    noise = golden.tensor("hift_noise")
    source = vocoder.m_source(golden.start("hift_f0", pitch), noise, PhaseArithmetic.REFERENCE)
    waveform = vocoder.decode(mel[None], golden.start("hift_source", source)[None], trace)[0]
    named = {
        "hift_f0": pitch,
        "hift_source": source,
        "hift_s_stft": trace.source_spectrum,
        "hift_spec": trace.spectrum,
        "wav_out": waveform,
    }
    return {key: to_array(value) for key, value in named.items() if value is not None}


def _flow_keys(trace: FlowTrace) -> Arrays:
    named = {
        "flow_enc_out": trace.encoded,
        "flow_mu": trace.mu,
        "flow_cond": trace.condition,
        "flow_spk": trace.speaker,
        "flow_v_step0": trace.first_velocity,
        "flow_x_steps": torch.stack(trace.states),
        "flow_mel_full": trace.mel,
    }
    made = {key: to_array(value) for key, value in named.items() if value is not None}
    return made | {"flow_t": np.array(trace.times)}


def streamed(golden: Golden, networks: Networks, acoustics: Acoustics) -> Arrays:
    """The reference's streaming, one code at a time, with the noises it drew."""
    noises = _stored_noises(golden)
    frames = 2 * (acoustics.columns.shape[0] + golden.array("dec_tokens").shape[0])
    stream = AudioStream(
        ChunkDecoder(networks.flow, networks.vocoder),
        acoustics,
        golden.noise(frames),
        lambda _: next(noises),
        StreamStyle.REFERENCE,
    )
    tokens = golden.array("dec_tokens").tolist()
    parts: list[tuple[int, Tensor]] = []
    for count, token in enumerate(tokens, 1):
        # the last token comes with the news that it is the last, and so completes no chunk of its own
        if count == len(tokens):
            parts.append((count, stream.finish(token)))
        elif stream.push(token):
            parts.append((count, stream.take()))
    made = {key: golden.array(key) for key in golden.keys() if key.startswith("stream_noise_")}  # noqa: SIM118
    made["stream_wav"] = to_array(torch.cat([sound for _, sound in parts]))
    made["stream_chunks"] = np.array([[count, sound.shape[0]] for count, sound in parts], dtype=np.int64)
    return made


def _stored_noises(golden: Golden) -> Iterator[Tensor]:
    index = 0
    while f"stream_noise_{index}" in golden:
        yield golden.tensor(f"stream_noise_{index}")
        index += 1


def end_to_end(golden: Golden, networks: Networks, acoustics: Acoustics) -> Arrays:
    """The reference's clone with greedy search: the December prompt, repetition rule, last id dropped."""
    codes = golden.array("vq0206").tolist()
    prompt = clone_prompt(golden, networks, codes, PromptForm.DECEMBER)
    tokens = golden.array("e2e_ids").shape[0] - len(prompt)
    primed = Primed.read(networks.step1, prompt, tokens)
    ids, _ = greedy(primed, prompt, tokens, is_repetition_masked=True)
    columns = to_columns(torch.tensor(ids[:-1]) - AUDIO_BASE)
    frames = 2 * (columns.shape[0] + acoustics.columns.shape[0])
    mel = networks.flow(columns, acoustics, golden.noise(frames))
    generator = torch.Generator().manual_seed(golden.seed("hift_seed", 5678))
    torch.rand(1, 9, generator=generator)  # the initial phases, which have no effect
    noise = torch.randn(1, HOP * mel.shape[1], 9, generator=generator)[0].to(golden.device)
    waveform = networks.vocoder(mel.float(), noise, PhaseArithmetic.REFERENCE)
    return {
        "e2e_ids": np.array([*prompt, *ids], dtype=np.int64),
        "e2e_wav": to_array(waveform[None]),
        "e2e_sr": np.array(24000, dtype=np.int64),
    }
