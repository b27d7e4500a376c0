"""The vocoder's own arithmetic on a GPU, between its convolutions: source, short spectra, sums of branches.

Sequences lie behind each other with gaps of a few frames, whose rows are kept zero. `places` (frames + 1, 2)
has a slot, or -1, and a frame for each row at 50 Hz. Imported on CUDA only.
"""

from __future__ import annotations

import triton
import triton.language as tl

from stepaudiod.editx.decoder.products import is_real, rounded, snake, tanh
from stepaudiod.editx.decoder.table import (
    SOUND_DROPPED,
    SOUND_FRAMES,
    SOUND_HAS_TURNS,
    SOUND_KNOWN,
    SOUND_MADE,
    SOUND_MEL,
    SOUND_PITCH,
    SOUND_POSITION,
    SOUND_ROW,
    SOUND_SEED,
    SOUND_SEEN,
    SOUND_TURNS,
    SOUND_WIDTH,
)
from stepaudiod.editx.philox_kernels import normal

TWO_PI = tl.constexpr(6.283185307179586)


@triton.jit
def gather(made_ptr, mel_ptr, exact_ptr, sounds_ptr, places_ptr, MELS: tl.constexpr, BLOCK: tl.constexpr):
    """Each frame's mel, from the stream or the flow decoder, in the products' format and in float32."""
    row = tl.program_id(0)
    slot, frame = tl.load(places_ptr + 2 * row), tl.load(places_ptr + 2 * row + 1)
    i = tl.arange(0, BLOCK)
    is_mel = i < MELS
    mel = tl.zeros((BLOCK,), tl.float32)
    if slot >= 0:
        sound_ptr = sounds_ptr + slot * SOUND_WIDTH
        seen = tl.load(sound_ptr + SOUND_SEEN)
        if frame < seen:
            old_ptr = tl.load(sound_ptr + SOUND_MEL).to(tl.pointer_type(tl.float32)) + frame * MELS
            mel = tl.load(old_ptr + i, mask=is_mel, other=0.0)
        else:
            made_ptr += (tl.load(sound_ptr + SOUND_MADE) + frame - seen) * MELS
            mel = tl.load(made_ptr + i, mask=is_mel, other=0.0)
    tl.store(mel_ptr + row * MELS + i, rounded(mel, mel_ptr.dtype.element_ty), mask=is_mel)
    tl.store(exact_ptr + row * MELS + i, mel, mask=is_mel)


@triton.jit
def classify(x_ptr, weight_ptr, bias_ptr, pitch_ptr, sounds_ptr, places_ptr, SIZE: tl.constexpr):
    """Each frame's pitch: the one that is known, or the magnitude of a product."""
    row = tl.program_id(0)
    slot, frame = tl.load(places_ptr + 2 * row), tl.load(places_ptr + 2 * row + 1)
    if slot < 0:
        return
    i = tl.arange(0, SIZE)
    x = tl.load(x_ptr + row * SIZE + i).to(tl.float32)
    pitch = tl.abs(tl.sum(x * tl.load(weight_ptr + i), 0) + tl.load(bias_ptr))
    sound_ptr = sounds_ptr + slot * SOUND_WIDTH
    if frame < tl.load(sound_ptr + SOUND_KNOWN):
        pitch = tl.load(tl.load(sound_ptr + SOUND_PITCH).to(tl.pointer_type(tl.float32)) + frame)
    tl.store(pitch_ptr + row, pitch)


@triton.jit
def accumulate(
    pitch_ptr, phases_ptr, turns_ptr, sounds_ptr, RATE: tl.constexpr, HOP: tl.constexpr, BLOCK: tl.constexpr
):
    """A sequence's phases after each frame (frames, 16), and after those that are dropped (slots, 16).

    The former are in turns per frame's samples, float64, with those before the sequence added.
    """
    slot = tl.program_id(0)
    sound_ptr = sounds_ptr + slot * SOUND_WIDTH
    frames, dropped = tl.load(sound_ptr + SOUND_FRAMES), tl.load(sound_ptr + SOUND_DROPPED)
    row = tl.load(sound_ptr + SOUND_ROW)
    harmonic = tl.arange(0, 16)
    before = tl.load(
        tl.load(sound_ptr + SOUND_TURNS).to(tl.pointer_type(tl.float64)) + harmonic,
        mask=(harmonic < 16) & (tl.load(sound_ptr + SOUND_HAS_TURNS) > 0), other=0.0,
    )  # fmt: skip
    summed = before / HOP
    passed = tl.zeros((16,), tl.float64)
    for start in range(0, frames, BLOCK):
        frame = start + tl.arange(0, BLOCK)
        is_frame = frame < frames
        pitch = tl.load(pitch_ptr + row + frame, mask=is_frame, other=0.0)
        cycles = (pitch[:, None] * (harmonic + 1).to(tl.float32)[None]).to(tl.float64) / RATE
        cycles -= tl.floor(cycles)
        to = phases_ptr + (row + frame[:, None]) * 16 + harmonic[None]
        tl.store(to, summed[None] + tl.cumsum(cycles, 0), mask=is_frame[:, None])
        summed += tl.sum(cycles, 0)
        passed += tl.sum(tl.where((frame < dropped)[:, None], cycles, 0.0), 0)
    turns = before + HOP * passed
    tl.store(turns_ptr + slot * 16 + harmonic, turns - tl.floor(turns))


@triton.jit
def excite(
    pitch_ptr, phases_ptr, weight_ptr, bias_ptr, source_ptr, sounds_ptr, places_ptr,
    STREAM: tl.constexpr, HARMONICS: tl.constexpr, HOP: tl.constexpr, BLOCK: tl.constexpr,
    LOUD: tl.constexpr, QUIET: tl.constexpr, VOICED: tl.constexpr,
):  # fmt: skip
    """A frame's source: sines whose phases are interpolated between frames, noise, and one layer."""
    row = tl.program_id(0)
    slot, frame = tl.load(places_ptr + 2 * row), tl.load(places_ptr + 2 * row + 1)
    sample = tl.arange(0, BLOCK)
    is_sample = sample < HOP
    to = source_ptr + row * HOP + sample
    if slot < 0:
        tl.store(to, tl.zeros((BLOCK,), tl.float32), mask=is_sample)
        return
    sound_ptr = sounds_ptr + slot * SOUND_WIDTH
    is_first, is_last = frame == 0, frame + 1 == tl.load(sound_ptr + SOUND_FRAMES)
    has_turns = is_first & (tl.load(sound_ptr + SOUND_HAS_TURNS) > 0)
    turns_ptr = tl.load(sound_ptr + SOUND_TURNS).to(tl.pointer_type(tl.float64))
    # the middle of a frame has its phase: half of the samples lie before it
    place = (sample.to(tl.float64) + 0.5) / HOP - 0.5
    back, on = tl.maximum(-place, 0.0), tl.maximum(place, 0.0)
    voiced = (tl.load(pitch_ptr + row) > VOICED).to(tl.float32)
    level = voiced * QUIET + (1.0 - voiced) * LOUD / 3.0
    number = ((tl.load(sound_ptr + SOUND_POSITION) + frame).to(tl.int32) * HOP + sample) * HARMONICS
    seed = tl.load(sound_ptr + SOUND_SEED)
    total = tl.zeros((BLOCK,), tl.float32)
    for harmonic in range(HARMONICS):
        here_ptr = phases_ptr + row * 16 + harmonic
        here = tl.load(here_ptr)
        turns = tl.load(turns_ptr + harmonic, mask=has_turns, other=0.0) / HOP
        earlier = tl.load(here_ptr - 16, mask=frame > 0, other=0.0)
        earlier = tl.where(is_first, tl.where(has_turns, turns, here), earlier)
        later = tl.where(is_last, here, tl.load(here_ptr + 16, mask=is_last == 0, other=0.0))
        phase = (here * (1.0 - back - on) + earlier * back + later * on) * HOP
        sine = tl.sin(((phase - tl.floor(phase)) * TWO_PI).to(tl.float32))
        noise = normal(seed, STREAM, number + harmonic)
        total += tl.load(weight_ptr + harmonic) * (LOUD * sine * voiced + level * noise)
    tl.store(to, tanh(total + tl.load(bias_ptr)), mask=is_sample)


@triton.jit
def analyse(
    source_ptr, basis_ptr, spectrum_ptr, sounds_ptr, places_ptr, rows,
    HOP: tl.constexpr, STEP: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Short spectra (rows, 32) of a source every STEP samples, which is reflected at a sequence's ends.

    `basis` (SIZE, 32) has the window times cosines and sines; a sequence has a spectrum more than fit.
    """
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    i = tl.arange(0, 32)
    is_row = row < rows
    RATE: tl.constexpr = HOP // STEP
    at = row // RATE
    slot = tl.load(places_ptr + 2 * at, mask=is_row, other=-1)
    is_end = is_row & (slot < 0) & (row % RATE == 0) & (row > 0)  # it may follow the last frame
    at = tl.where(is_end, at - 1, at)
    slot = tl.load(places_ptr + 2 * at, mask=is_row, other=-1)
    is_used = slot >= 0
    sound_ptr = sounds_ptr + tl.maximum(slot, 0) * SOUND_WIDTH
    first = tl.load(sound_ptr + SOUND_ROW, mask=is_used, other=0)
    samples = tl.load(sound_ptr + SOUND_FRAMES, mask=is_used, other=1) * HOP
    middle = (row - first * RATE) * STEP
    spectrum = tl.zeros((BLOCK, 32), tl.float32)
    for n in tl.static_range(SIZE):
        sample = middle + n - SIZE // 2
        sample = tl.where(sample < 0, -sample, sample)
        sample = tl.where(sample >= samples, 2 * (samples - 1) - sample, sample)
        x = tl.load(source_ptr + first * HOP + sample, mask=is_used, other=0.0)
        spectrum = tl.fma(x[:, None], tl.load(basis_ptr + n * 32 + i)[None], spectrum)
    dtype: tl.constexpr = spectrum_ptr.dtype.element_ty
    tl.store(spectrum_ptr + row[:, None] * 32 + i[None], rounded(spectrum, dtype), mask=is_row[:, None])


@triton.jit(do_not_specialize=["rows", "lead", "rate"])
def combine(
    up_ptr, source_ptr, x_ptr, times_ptr, rows, lead, rate,
    IS_LAST: tl.constexpr, BLOCK: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """X (rows, SIZE): the upsampled sound, `lead` rows behind, and the source's branch.

    In the last stage a sequence begins with a row that mirrors its second.
    """
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_row = row < rows
    up = row + lead
    if IS_LAST:
        is_first = (row % rate == 0) & (tl.load(times_ptr + row // rate, mask=is_row, other=-1) == 0)
        up = tl.where(is_first, up + 1, up - 1)
    i = tl.arange(0, SIZE)[None]
    mask = is_row[:, None]
    x = tl.load(up_ptr + up[:, None] * SIZE + i, mask=mask, other=0.0)
    at = row[:, None] * SIZE + i
    tl.store(x_ptr + at, x + tl.load(source_ptr + at, mask=mask, other=0.0), mask=mask)


@triton.jit(do_not_specialize=["rows", "rate", "extra"])
def bend(x_ptr, y_ptr, alpha_ptr, times_ptr, rows, rate, extra, BLOCK: tl.constexpr, SIZE: tl.constexpr):
    """Y = snake(x), zero in gaps."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    i = tl.arange(0, SIZE)
    at, mask = row[:, None] * SIZE + i[None], (row < rows)[:, None]
    x = snake(tl.load(x_ptr + at, mask=mask, other=0.0), tl.load(alpha_ptr + i)[None])
    x = tl.where(is_real(times_ptr, tl.minimum(row, rows - 1), rate, extra)[:, None], x, 0.0)
    tl.store(y_ptr + at, rounded(x, y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "rate", "extra"])
def average(
    a_ptr, b_ptr, c_ptr, y_ptr, times_ptr, rows, rate, extra, slope, BLOCK: tl.constexpr, SIZE: tl.constexpr
):
    """The mean of three branches after a leaky ReLU, zero in gaps."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    at, mask = row[:, None] * SIZE + tl.arange(0, SIZE)[None], (row < rows)[:, None]
    a, b = tl.load(a_ptr + at, mask=mask, other=0.0), tl.load(b_ptr + at, mask=mask, other=0.0)
    x = (a + b + tl.load(c_ptr + at, mask=mask, other=0.0)) / 3.0
    x = tl.where(x > 0, x, x * slope)
    x = tl.where(is_real(times_ptr, tl.minimum(row, rows - 1), rate, extra)[:, None], x, 0.0)
    tl.store(y_ptr + at, rounded(x, y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def synthesise(
    spectrum_ptr, basis_ptr, window_ptr, sound_ptr, sounds_ptr, places_ptr,
    HOP: tl.constexpr, STEP: tl.constexpr, SIZE: tl.constexpr, SAMPLES: tl.constexpr,
    BLOCK: tl.constexpr, LARGEST: tl.constexpr, LIMIT: tl.constexpr,
):  # fmt: skip
    """SAMPLES of a frame's samples, from the short spectra around it.

    Spectra (rows, 32) are logarithms of magnitudes, then sines of which are phases.
    `basis` (2, SIZE, 16) has what real and imaginary parts of SIZE / 2 + 1 bins give a sample; `window`
    (SIZE,) is applied again, and its squares' sum divided out.
    """
    row = tl.program_id(0)
    slot, frame = tl.load(places_ptr + 2 * row), tl.load(places_ptr + 2 * row + 1)
    sample, k = tl.arange(0, BLOCK), tl.arange(0, 16)
    is_sample = sample < SAMPLES
    sample += tl.program_id(1) * SAMPLES
    total, weight = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    if slot >= 0:
        last = tl.load(sounds_ptr + slot * SOUND_WIDTH + SOUND_FRAMES) * (HOP // STEP)
        place = frame * HOP + sample + SIZE // 2
        for back in range(SIZE // STEP):
            column = place // STEP - back
            n = place - column * STEP
            is_column = is_sample & (column >= 0) & (column <= last)
            at = (row * (HOP // STEP) + column - frame * (HOP // STEP)) * 32
            mask = is_column[:, None] & (k <= SIZE // 2)[None]
            loud = tl.load(spectrum_ptr + at[:, None] + k[None], mask=mask, other=0.0)
            phase = tl.load(spectrum_ptr + at[:, None] + SIZE // 2 + 1 + k[None], mask=mask, other=0.0)
            loud, angle = tl.minimum(tl.exp(loud), LARGEST), tl.sin(phase)
            real = tl.load(basis_ptr + n[:, None] * 16 + k[None])
            imaginary = tl.load(basis_ptr + (SIZE + n[:, None]) * 16 + k[None])
            x = tl.sum(loud * (tl.cos(angle) * real + tl.sin(angle) * imaginary), 1)
            window = tl.load(window_ptr + n)
            total += tl.where(is_column, x * window, 0.0)
            weight += tl.where(is_column, window * window, 0.0)
    x = tl.minimum(tl.maximum(total / tl.maximum(weight, 1e-11), -LIMIT), LIMIT)
    tl.store(sound_ptr + row * HOP + sample, x, mask=is_sample)


@triton.jit
def keep(mel_ptr, pitch_ptr, turns_ptr, sounds_ptr, MELS: tl.constexpr, BLOCK: tl.constexpr):
    """Store in the stream the frames that its next chunk reads again, and the phases before them."""
    slot, index = tl.program_id(0), tl.program_id(1)
    sound_ptr = sounds_ptr + slot * SOUND_WIDTH
    frames, dropped = tl.load(sound_ptr + SOUND_FRAMES), tl.load(sound_ptr + SOUND_DROPPED)
    if index >= frames - dropped:
        return
    row, i = tl.load(sound_ptr + SOUND_ROW) + dropped + index, tl.arange(0, BLOCK)
    to = tl.load(sound_ptr + SOUND_MEL).to(tl.pointer_type(tl.float32)) + index * MELS + i
    tl.store(to, tl.load(mel_ptr + row * MELS + i, mask=i < MELS), mask=i < MELS)
    tl.store(
        tl.load(sound_ptr + SOUND_PITCH).to(tl.pointer_type(tl.float32)) + index, tl.load(pitch_ptr + row)
    )
    if index == 0:
        harmonic = tl.arange(0, 16)
        phases_ptr = tl.load(sound_ptr + SOUND_TURNS).to(tl.pointer_type(tl.float64))
        tl.store(phases_ptr + harmonic, tl.load(turns_ptr + slot * 16 + harmonic))
