"""Fields by the native kernels against autograd, torch's sine and the plain path."""

from __future__ import annotations

import ctypes
import dataclasses
import math

import numpy as np
import plain
import pytest
import torch

from zoo_datasets.errors import NativeError
from zoo_datasets.images.prepare import ImageData
from zoo_datasets.native import compiler
from zoo_datasets.networks.architectures import siren_layers
from zoo_datasets.networks.layers import Activate, Conv, Dropout, Layer, Linear, Shift, Sine
from zoo_datasets.stacked import BlockRecipe, StepSettings, initialise
from zoo_datasets.stacked.field import FieldBlock
from zoo_datasets.stacked.native import block as native
from zoo_datasets.stacked.native.field import NativeFieldBlock, points_shape

NETWORKS: dict[str, tuple[Layer, ...]] = {
    "as published": siren_layers((2, 32, 32, 1), shift=0.5),
    "odd widths": siren_layers((2, 7, 13, 5, 1), omega=30.0, omega_hidden=11.5),
    "an activation between": (Linear("a", 2, 9), Activate(), Linear("b", 9, 6), Shift(0.25), Sine(3.0),
                              Linear("c", 6, 1)),
    "one layer": (Linear("a", 2, 1),),
}  # fmt: skip
STEP = {"epoch": 1, "step": 0}


def _missing_compiler() -> str | None:
    try:
        compiler.find_compiler()
    except NativeError as error:
        return str(error)
    return None


REASON = _missing_compiler()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"no native kernels: {REASON}")


def images(side: int) -> ImageData:
    data = plain.tiny_images(size=28, train=30, test=10)
    parts = [dataclasses.replace(part, images=part.images[:, :, :side, :side]) for part in (data.train, data.test)]
    return ImageData(spec=data.spec, size=side, fingerprint="fields", train=parts[0], val=None, test=parts[1])


def recipe(layers, seeds, **changes):
    settings = {"activation": "tanh", "optimizer": "adam", "batch_size": 1, "augmentation": ()} | changes
    return BlockRecipe(
        layers=tuple(layers),
        seeds=torch.tensor(seeds),
        dropout=torch.zeros(len(seeds), dtype=torch.float64),
        **settings,
    )


def start(layers, seeds):
    init = "siren" if all(isinstance(layer, Linear | Sine | Shift) for layer in layers[:2]) else "kaiming_uniform"
    init = init if any(isinstance(layer, Sine) for layer in layers) else "kaiming_uniform"
    return initialise(layers, torch.tensor(seeds), [init] * len(seeds))


def trained(block, weights, steps=3):
    members = len(weights)
    settings = [
        StepSettings(
            lr=torch.linspace(1e-4, 1e-3, members, dtype=torch.float64),
            momentum=torch.full((members,), 0.9, dtype=torch.float64),
            weight_decay=torch.full((members,), 1e-3, dtype=torch.float64),
            count=number,
        )
        for number in range(steps)
    ]
    block.load(weights)
    order = torch.zeros(members, steps, dtype=torch.int64)
    tally = block.train(images(12).train, order, epoch=1, first_step=0, settings=settings)
    return *block.store(), tally


@pytest.mark.parametrize(
    ("name", "side"),
    [*((name, 12) for name in NETWORKS), ("odd widths", 7), ("odd widths", 2)],  # odd points; less than a block
)
def test_gradients_are_those_of_autograd(name, side):
    layers, seeds, data = NETWORKS[name], [1, 5, 40], images(side)
    weights, index = start(layers, seeds), torch.zeros(3, 1, dtype=torch.int64)
    blocks = NativeFieldBlock(recipe(layers, seeds), data), FieldBlock(recipe(layers, seeds), data, dtype=torch.float64)
    results = []
    for block in blocks:
        block.load(weights)
        results.append(block.gradients(data.train, index, **STEP))
    ours, exact = results
    expected = exact[2][:3]
    torch.testing.assert_close(ours[0].double(), exact[0][:3], rtol=2e-6, atol=0)
    assert float((ours[2] - expected).abs().max()) < 5e-6 * float(expected.abs().max())
    torch.testing.assert_close(blocks[0].evaluate(data.train).mean_loss, exact[0][:3], rtol=2e-6, atol=0)


@pytest.mark.parametrize("optimizer", native.OPTIMIZER_NUMBERS)
def test_steps_are_those_of_the_plain_path(optimizer):
    layers, seeds, data = NETWORKS["as published"], [3, 4, 38], images(12)
    changes = {"optimizer": optimizer, "clip_norm": torch.tensor([0.01, 1.0, math.inf], dtype=torch.float64)}
    weights = start(layers, seeds)
    ours = trained(NativeFieldBlock(recipe(layers, seeds, **changes), data), weights)
    plainly = trained(FieldBlock(recipe(layers, seeds, **changes), data, dtype=torch.float64), weights)
    assert float((ours[0] - weights).abs().max()) > 1e-5
    torch.testing.assert_close(ours[0].double(), plainly[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(ours[2].mean_loss, plainly[2].mean_loss, rtol=1e-4, atol=0)


def test_a_member_depends_neither_on_its_lane_nor_on_its_neighbours():
    layers, data = NETWORKS["odd widths"], images(12)
    seeds = list(range(1, native.lanes() + 1))
    weights = start(layers, seeds)
    weights[0] *= 1e6  # beyond what the kernels' own sine is for
    together = trained(NativeFieldBlock(recipe(layers, seeds), data), weights)
    for lane in (1, len(seeds) - 1):
        rates = torch.linspace(1e-4, 1e-3, len(seeds), dtype=torch.float64)
        block = NativeFieldBlock(recipe(layers, [seeds[lane]]), data)
        block.load(weights[lane : lane + 1])
        one = torch.ones(1, dtype=torch.float64)
        settings = [
            StepSettings(lr=rates[lane : lane + 1], momentum=0.9 * one, weight_decay=1e-3 * one, count=number)
            for number in range(3)
        ]
        block.train(data.train, torch.zeros(1, 3, dtype=torch.int64), epoch=1, first_step=0, settings=settings)
        assert torch.equal(block.store()[0][0], together[0][lane])


def test_sines_keep_their_bound():
    layers = NETWORKS["as published"]
    kernels = native.load_kernels(layers, points_shape(layers, 12), field=True)
    near = np.linspace(-25_000, 25_000, 400_000)
    far = np.concatenate([near / 1e3, near / 1e6, near * 1e3, [0.0, -0.0, math.nan, math.inf, -math.inf]])
    x = np.concatenate([near, far]).astype(np.float32)
    x = np.pad(x, (0, -len(x) % native.lanes()))
    y, d = np.empty_like(x), np.empty_like(x)
    kernels.zoo_sines(
        ctypes.c_float(1.0), *(ctypes.c_void_p(array.ctypes.data) for array in (x, y, d)), ctypes.c_int64(len(x))
    )
    with np.errstate(invalid="ignore"):
        sine, cosine = np.sin(x.astype(np.float64)), np.cos(x.astype(np.float64))
    finite = np.isfinite(x)
    assert np.isnan(y[~finite]).all()
    assert np.isnan(d[~finite]).all()
    assert (
        max(np.abs(y - sine)[finite].max(), np.abs(d - cosine)[finite].max()) < 2e-7
    )  # 1.5e-7 where products and sums are fused


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((Conv("a", 2, 3, 3), Linear("b", 3, 1)), "Conv is not computed"),
        ((Linear("a", 2, 3), Dropout(), Linear("b", 3, 1)), "Dropout is not computed"),
        ((Linear("a", 2, 3), Sine(), Linear("b", 4, 1)), "b takes 4 inputs"),
    ],
)
def test_what_no_field_has_is_said(layers, message):
    assert message in (native.supports(layers, points_shape(layers, 12), field=True) or "")
