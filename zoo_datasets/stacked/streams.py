"""Random streams keyed by (seed, purpose, epoch, step) alone, so that nothing random needs saving.

Every random number of a member's training comes from Philox4x32-10 (Salmon, Moraes, Dror, Shaw:
Parallel random numbers: as easy as 1, 2, 3; SC 2011), a function of a key and a counter:

    key     = (seed mod 2^32, seed >> 32)
    counter = (block, step, epoch, purpose + 256 · substream)

The four 32-bit outputs of block b are the elements 4b … 4b+3 of the stream. Purposes are `INIT`
(substream: number of the tensor in the layout), `ORDER`, `DROPOUT` (substream: number of the dropout
layer), `AUGMENTATION`, `NOISE` (of variational dropout; substream: number of the layer that has weights) and
`GENERATOR` (seeds of torch's generator, for networks of a user's own code).
A stream depends neither on the cohort, the process count, the device nor the engine path; integers are equal
everywhere, and floats are made from them in float64 on the CPU, but for noise, which the native kernels make in
float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

INIT, ORDER, DROPOUT, AUGMENTATION, NOISE, GENERATOR = 0, 1, 2, 3, 4, 5

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
# A sample's noise begins at a multiple of so many numbers: in a stack of 16 members no logarithm is then left to
# the scalar code that torch has for the end of a tensor, and which rounds otherwise.
_NOISE_MULTIPLE = 16


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Philox4x32-10 over broadcast tensors of 32-bit words held in int64; gives four such tensors."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 products wrap modulo 2^64; masks take the two halves out of the bits.
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = ((second >> 32) & _LOW) ^ c1 ^ k0
        c2 = ((first >> 32) & _LOW) ^ c3 ^ k1
        c1, c3 = second & _LOW, first & _LOW
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return [c0, c1, c2, c3]


def random_words(seeds: Tensor, purpose: int, *, epoch: int, step: int, count: int, substream: int = 0) -> Tensor:
    """The first `count` elements of each member's stream: int64 [K, count], uniform on [0, 2^32).

    Args:
        seeds: int64 [K].
    """
    device = seeds.device
    blocks = torch.arange((count + 3) // 4, dtype=torch.int64, device=device)[None, :]

    def word(value: int) -> Tensor:
        return torch.tensor([[value & _LOW]], dtype=torch.int64, device=device)

    key = ((seeds & _LOW)[:, None], ((seeds >> 32) & _LOW)[:, None])
    words = philox((blocks, word(step), word(epoch), word(purpose + 256 * substream)), key)
    return torch.stack(words, dim=-1).reshape(len(seeds), -1)[:, :count]


def uniform(seeds: Tensor, purpose: int, *, epoch: int, step: int, count: int, substream: int = 0) -> Tensor:
    """Uniform numbers in (0, 1): float64 [K, count], 32 random bits each."""
    words = random_words(seeds, purpose, epoch=epoch, step=step, count=count, substream=substream)
    return (words.to(torch.float64) + 0.5) * 2.0**-32


def generator_seeds(seeds: Tensor, purpose: int = GENERATOR, *, epoch: int = 0, step: int = 0) -> list[int]:
    """A seed of torch's generator for each member: whole numbers of 63 bits, from seeds int64 [K]."""
    words = random_words(seeds, purpose, epoch=epoch, step=step, count=2).tolist()
    return [(high & 0x7FFFFFFF) << 32 | low for high, low in words]


def normal(seeds: Tensor, purpose: int, *, epoch: int, step: int, count: int, substream: int = 0) -> Tensor:
    """Standard normal numbers by Box and Muller from consecutive pairs: float64 [K, count]."""
    pairs = uniform(seeds, purpose, epoch=epoch, step=step, count=count + count % 2, substream=substream)
    radius = torch.sqrt(-2.0 * torch.log(pairs[:, 0::2]))
    angle = 2.0 * math.pi * pairs[:, 1::2]
    both = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return both.reshape(len(seeds), -1)[:, :count]


def permutations(seeds: Tensor, epoch: int, size: int) -> Tensor:
    """Each member's data order in an epoch: int64 [K, size], a permutation of 0 … size − 1 in each row."""
    words = random_words(seeds, ORDER, epoch=epoch, step=0, count=2 * size)
    keys = (words[:, 0::2] << 31) | (words[:, 1::2] >> 1)
    return torch.argsort(keys, dim=1, stable=True)


def dropout_thresholds(rates: Tensor) -> Tensor:
    """A unit is kept where its word is at least this: int64, of rates in [0, 1)."""
    return torch.round(rates.to(torch.float64) * 2.0**32).to(torch.int64)


def dropout_masks(
    seeds: Tensor, rates: Tensor, *, epoch: int, step: int, layer: int, count: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Keep-masks already scaled by 1 / (1 − rate): [K, count] in `dtype`.

    Args:
        seeds: int64 [K].
        rates: float [K]; at rate 0 the mask is all ones.
        layer: number of the dropout layer in the network.
        count: batch size times units; element b · units + u belongs to unit u of sample b.
    """
    words = random_words(seeds, DROPOUT, epoch=epoch, step=step, count=count, substream=layer)
    keep = words >= dropout_thresholds(rates)[:, None]
    return keep * (1.0 / (1.0 - rates.to(torch.float64))).to(dtype)[:, None]


def layer_noise(
    seeds: Tensor, *, epoch: int, step: int, layer: int, batch: int, units: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normal numbers for the outputs of a layer: [K, batch, units] in `dtype`.

    Args:
        seeds: int64 [K].
        layer: number of the layer among those that have weights.
    """
    padded = units + -units % _NOISE_MULTIPLE
    numbers = normal(seeds, NOISE, epoch=epoch, step=step, count=batch * padded, substream=layer)
    return numbers.view(len(seeds), batch, padded)[:, :, :units].to(dtype)
