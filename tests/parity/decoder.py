"""The decoder's keys: flow, vocoder, the reference's streaming, and its whole clone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from stepaudiod.editx.codes import AUDIO_BASE
from stepaudiod.editx.decoder.dit import MELS
from stepaudiod.editx.decoder.flow import Acoustics
from stepaudiod.editx.interleaving import to_columns
from stepaudiod.editx.tokenizers.features import HOP
from tests.parity.audio import clone_prompt, to_array
from tests.parity.golden import Arrays, Golden, Networks
from tests.parity.hooks import recorded
from tests.parity.language import Primed, greedy
from tests.parity.prompts import PromptForm
from tests.parity.streaming import ReferenceAudioStream
from tests.parity.whole import reference_source, whole_mel, whole_part, whole_sound

ECHOED = ("rand_noise", "hift_noise", "hift_rand_ini", "hift_phase_note", "dec_tokens")
"""Inputs, which a dump repeats."""


def reference_acoustics(golden: Golden, made: Arrays) -> Acoustics:
    """The prompt's columns, mel and embedding, rounded as the reference rounds them."""
    codes, mel, embedding = (
        golden.start(key, torch.from_numpy(made[key]).to(golden.device) if key in made else torch.zeros(0))
        for key in ("vq0206", "speech_feat_bf16", "spk_embedding_bf16")
    )
    return Acoustics(to_columns(codes.long().cpu() - AUDIO_BASE).to(golden.device), mel, embedding)


def whole(golden: Golden, networks: Networks, acoustics: Acoustics) -> Arrays:
    made: Arrays = {key: golden.array(key) for key in ECHOED if key in golden}
    columns = to_columns(golden.tensor("dec_tokens"))
    frames = 2 * (columns.shape[0] + acoustics.columns.shape[0])
    flow = networks.flow
    with recorded(flow.encoder.after_norm) as encoded, recorded(flow.estimator) as steps:
        part = whole_part(flow, columns, acoustics, golden.noise(frames))
        solved = flow.solve(part)
    mel = solved[:, 2 * acoustics.columns.shape[0] :]
    named = {
        "dec_dual": columns,
        "dec_prompt_dual": acoustics.columns,
        "flow_enc_out": encoded[0][1][0],
        "flow_mu": part.mu,
        "flow_cond": part.condition,
        "flow_spk": part.speaker,
        "flow_v_step0": steps[0][1][0].transpose(1, 2),
        "flow_x_steps": torch.stack([given[0][0, :, :MELS].T for given, _ in steps]),
        "flow_mel_full": solved,
        "mel": mel,
    }
    made |= {key: to_array(value) for key, value in named.items()}
    made["flow_t"] = np.array([time for time, _, _ in flow.schedule()])
    if "hift_noise" in golden:
        made |= _sound(golden, networks, golden.start("mel", mel.float()))
    return made


def _sound(golden: Golden, networks: Networks, mel: Tensor) -> Arrays:
    """Mel to sound, each step from what the reference's step before it gave."""
    vocoder = networks.vocoder
    pitch = vocoder.f0_predictor(mel)
    noise = golden.tensor("hift_noise")
    source = reference_source(vocoder.m_source, golden.start("hift_f0", pitch), noise)
    with recorded(vocoder.source_downs[0]) as downs, recorded(vocoder.conv_post) as posts:
        waveform = vocoder.decode(mel[None], golden.start("hift_source", source)[None])[0]
    named = {
        "hift_f0": pitch,
        "hift_source": source,
        "hift_s_stft": downs[0][0][0][0],
        "hift_spec": posts[0][1][0],
        "wav_out": waveform,
    }
    return {key: to_array(value) for key, value in named.items()}


def streamed(golden: Golden, networks: Networks, acoustics: Acoustics) -> Arrays:
    """The reference's streaming, one code at a time, with the noises it drew."""
    noises = _stored_noises(golden)
    frames = 2 * (acoustics.columns.shape[0] + golden.array("dec_tokens").shape[0])
    stream = ReferenceAudioStream(
        networks.flow, networks.vocoder, acoustics, golden.noise(frames), lambda: next(noises)
    )
    *tokens, last = golden.array("dec_tokens").tolist()
    parts: list[tuple[int, Tensor]] = []
    for count, token in enumerate(tokens, 1):
        sound = stream.push(token)
        parts += [] if sound is None else [(count, sound)]
    parts.append((len(tokens) + 1, stream.finish(last)))
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
    mel = whole_mel(networks.flow, columns, acoustics, golden.noise(frames))
    generator = torch.Generator().manual_seed(golden.seed("hift_seed", 5678))
    torch.rand(1, 9, generator=generator)  # the initial phases, which have no effect
    noise = torch.randn(1, HOP * mel.shape[1], 9, generator=generator)[0].to(golden.device)
    waveform = whole_sound(networks.vocoder, mel.float(), noise, is_reference=True)
    return {
        "e2e_ids": np.array([*prompt, *ids], dtype=np.int64),
        "e2e_wav": to_array(waveform[None]),
        "e2e_sr": np.array(24000, dtype=np.int64),
    }
