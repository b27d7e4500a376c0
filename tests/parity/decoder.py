"""The decoder's keys: flow, vocoder, the reference's streaming, and its whole clone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from stepaudiod.model.codes import id_codes, to_columns
from stepaudiod.model.flow import Acoustics, FlowTrace, round_to_bfloat16
from stepaudiod.model.source import HOP, PhaseArithmetic
from stepaudiod.model.streaming import AudioStream, StreamStyle
from stepaudiod.model.tokenizer import AUDIO_BASE
from stepaudiod.model.vocoder import VocoderTrace
from tests.parity.audio import to_array
from tests.parity.golden import Arrays, Golden, Networks
from tests.parity.language import Primed, greedy

ECHOED = ("rand_noise", "hift_noise", "hift_rand_ini", "hift_phase_note", "dec_tokens")
"""Inputs, which a dump repeats."""


def reference_acoustics(made: Arrays, device: torch.device) -> Acoustics:
    """The prompt's columns, mel and embedding, rounded as the reference rounds them."""
    ids = made["vq0206"].tolist()
    mel, embedding = (torch.from_numpy(made[key]).to(device) for key in ("speech_feat", "spk_embedding"))
    return round_to_bfloat16(Acoustics(to_columns(id_codes(ids)).to(device), mel, embedding))


def whole(golden: Golden, networks: Networks, acoustics: Acoustics) -> Arrays:
    """One fixed sequence of codes to mel and to sound."""
    made: Arrays = {key: golden.array(key) for key in ECHOED if key in golden}
    columns = to_columns(golden.tensor("dec_tokens"))
    trace, sound = FlowTrace(), VocoderTrace()
    frames = 2 * (columns.shape[0] + acoustics.columns.shape[0])
    mel = networks.flow(columns, acoustics, golden.noise(frames), trace)
    made |= {"dec_dual": to_array(columns), "dec_prompt_dual": to_array(acoustics.columns)}
    made |= _flow_keys(trace) | {"mel": to_array(mel)}
    if "hift_noise" in golden:
        noise = golden.tensor("hift_noise")
        waveform = networks.vocoder(mel.float(), noise, PhaseArithmetic.REFERENCE, sound)
        named = {
            "hift_f0": sound.pitch,
            "hift_source": sound.source,
            "hift_s_stft": sound.source_spectrum,
            "hift_spec": sound.spectrum,
            "wav_out": waveform,
        }
        made |= {key: to_array(value) for key, value in named.items() if value is not None}
    return made


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
        networks.flow,
        networks.vocoder,
        acoustics,
        golden.noise(frames),
        lambda _: next(noises),
        StreamStyle.REFERENCE,
    )
    tokens = golden.array("dec_tokens").tolist()
    parts: list[tuple[int, Tensor]] = []
    for count, token in enumerate(tokens, 1):
        # the last token comes with the news that it is the last, and so completes no chunk of its own
        sound = stream.finish(token) if count == len(tokens) else stream.push(token)
        if sound is not None:
            parts.append((count, sound))
    made = {key: golden.array(key) for key in golden.keys() if key.startswith("stream_noise_")}  # noqa: SIM118
    made["stream_wav"] = to_array(torch.cat([sound for _, sound in parts]))
    made["stream_chunks"] = np.array([[count, sound.shape[0]] for count, sound in parts], dtype=np.int64)
    return made


def _stored_noises(golden: Golden) -> Iterator[Tensor]:
    index = 0
    while f"stream_noise_{index}" in golden:
        yield golden.tensor(f"stream_noise_{index}")
        index += 1


def end_to_end(golden: Golden, networks: Networks, acoustics: Acoustics, prompt: list[int]) -> Arrays:
    """The reference's clone with greedy search: the December prompt, repetition rule, last id dropped."""
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
