"""Random numbers by seed and place; the kernels are in `test_philox_kernels`."""

from __future__ import annotations

import pytest
import torch

from stepaudiod.editx.philox import gumbel, normal, philox, uniform

WORD = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "seed", "right"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((WORD,) * 4, WORD << 32 | WORD, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_authors_known_answers(
    counter: tuple[int, int, int, int], seed: int, right: tuple[int, int, int, int]
) -> None:
    assert tuple(int(word) for word in philox(seed, counter)) == right


def test_uniform_numbers_are_inside_their_bounds() -> None:
    made = uniform(torch.tensor([0, WORD])).float()
    assert 0 < float(made[0]) < float(made[1]) < 1


def test_normal_numbers_have_their_moments_and_an_address_each() -> None:
    made = normal(7, 3, 0, 100_001)
    assert abs(float(made.mean())) < 0.01
    assert abs(float(made.std()) - 1) < 0.01
    assert torch.equal(normal(7, 3, 4321, 50), made[4321:4371])
    assert not torch.equal(normal(7, 4, 0, 50), made[:50])
    assert not torch.equal(normal(8, 3, 0, 50), made[:50])


def test_gumbel_noise_has_its_mean() -> None:
    made = gumbel(5, torch.arange(100)[:, None], torch.arange(1000))
    assert made.shape == (100, 1000)
    assert abs(float(made.mean()) - 0.5772) < 0.02
