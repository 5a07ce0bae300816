"""The native kernels against nn.Module, autograd and torch.optim."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain import tiny_images
from torch.nn import functional

from zoo_datasets.errors import NativeError
from zoo_datasets.images.prepare import ImageData, Split
from zoo_datasets.native import compiler
from zoo_datasets.networks.architectures import get_architecture, resnet18_layers
from zoo_datasets.networks.layers import (
    ACTIVATIONS,
    Activate,
    AveragePool,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Residual,
    build_layout,
)
from zoo_datasets.networks.module import Network
from zoo_datasets.stacked import BlockRecipe, StepSettings, TorchBlock
from zoo_datasets.stacked.native import block as native
from zoo_datasets.stacked.native.codegen import stages


class Doubled(Linear):
    """A kind with the rules of another one, which the kernels must not take for it."""


def missing_compiler() -> str | None:
    try:
        compiler.find_compiler()
    except NativeError as error:
        return str(error)
    return None


REASON = missing_compiler()
needs_compiler = pytest.mark.skipif(REASON is not None, reason=f"no native kernels: {REASON}")
NETWORKS = {"cnn_s": ("mnist", 28), "cnn_m": ("mnist", 28), "cnn_l": ("cifar10", 32), "small_cnn": ("mnist", 28)}
# All activations on one network, some on the others.
CASES = [
    (name, activation)
    for name in sorted(NETWORKS)
    for activation in (sorted(native.ACTIVATION_NUMBERS) if name == "cnn_s" else ("relu", "silu", "tanh"))
]
SEEDS = (5, 2**33 + 7, 9)
# Sums of some hundred float32 products, in another order: 30 units in the last place of the largest entry.
TOLERANCE = 30 * 2.0**-24


def recipe_of(layers, activation="tanh", optimizer="adam", seeds=SEEDS, rates=0.0, batch_size=10) -> BlockRecipe:
    rates = torch.as_tensor(rates, dtype=torch.float64).expand(len(seeds)).clone()
    return BlockRecipe(
        layers=tuple(layers), activation=activation, optimizer=optimizer, batch_size=batch_size, augmentation=(),
        seeds=torch.tensor(seeds), dropout=rates,
    )  # fmt: skip


def network(name: str, **images) -> tuple[tuple, ImageData]:
    data = tiny_images(NETWORKS[name][0], NETWORKS[name][1], **images)
    return get_architecture(name).layers(data.train.images.shape[1], data.spec.classes), data


def random_weights(layers, members=3, seed=0) -> torch.Tensor:
    """Weights [members, P] of about the size that training reaches."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(members, build_layout(layers).size, generator=generator) * 0.15


def orders(members: int, size: int, images: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(images, generator=generator)[:size] for _ in range(members)])


def step_settings(members: int, count: int, lr=1e-3, weight_decay=0.0, momentum=0.9) -> StepSettings:
    lr, weight_decay, momentum = (
        torch.as_tensor(value, dtype=torch.float32).expand(members).clone() for value in (lr, weight_decay, momentum)
    )
    return StepSettings(lr=lr, weight_decay=weight_decay, momentum=momentum, count=count)


def numpy_philox(seed: int, counter: tuple[int, int, int, int]) -> list[int]:
    """Philox4x32-10 as the paper has it, in Python's integers."""
    key, words = [seed % 2**32, seed >> 32], list(counter)
    for _ in range(10):
        first, second = 0xD2511F53 * words[0], 0xCD9E8D57 * words[2]
        words = [
            (second >> 32) ^ words[1] ^ key[0], second % 2**32, (first >> 32) ^ words[3] ^ key[1], first % 2**32,
        ]  # fmt: skip
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return words


class StreamDropout(torch.nn.Module):
    """Dropout by the member's Philox stream, worked out here and not by the package."""

    def __init__(self, seed: int, rate: float, layer: int, epoch: int, step: int) -> None:
        super().__init__()
        self.seed, self.rate, self.layer, self.epoch, self.step = seed, rate, layer, epoch, step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        blocks = range(math.ceil(x.numel() / 4))
        words = [numpy_philox(self.seed, (block, self.step, self.epoch, 2 + 256 * self.layer)) for block in blocks]
        keep = np.array(words, dtype=np.uint64).reshape(-1)[: x.numel()] >= round(self.rate * 2**32)
        return x * torch.from_numpy(keep * np.float32(1 / (1 - self.rate))).view(x.shape).to(x.dtype)


def module_of(layers, activation: str, weights: torch.Tensor, **dropout) -> Network:
    """One member as a module; `dropout`: seed, rate, epoch, step of its masks."""
    module = Network(layers, activation)
    module.load_state_dict(build_layout(layers).unflatten(weights), strict=False)
    if dropout:
        for number, name in enumerate([name for name, _ in module.named_children() if name.startswith("dropout")]):
            setattr(module, name, StreamDropout(layer=number, **dropout))
    return module


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def split_as(module: Network, vector: torch.Tensor) -> list[torch.Tensor]:
    parameters = list(module.parameters())
    parts = vector.split([parameter.numel() for parameter in parameters])
    return [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]


def assert_near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def reference_pass(module: Network, data: ImageData, index: torch.Tensor):
    """Mean loss, correct predictions and flat gradients of a member on the images `index` [B], in its dtype."""
    logits = module(data.normalise(data.train.images[index]).to(next(module.parameters()).dtype))
    labels = data.train.labels[index]
    loss = functional.cross_entropy(logits, labels)
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    return loss.detach(), (logits.argmax(1) == labels).sum(), flat(gradients)


@needs_compiler
@pytest.mark.parametrize("rates", [0.0, (0.5, 0.0, 0.3)], ids=["plain", "dropout"])
@pytest.mark.parametrize(("name", "activation"), CASES)
def test_gradients_are_those_of_autograd(name, activation, rates):
    layers, data = network(name)
    recipe = recipe_of(layers, activation, rates=rates)
    weights = random_weights(layers)
    block = native.NativeBlock(recipe, data)
    block.load(weights)
    index = orders(3, 6, 60)
    loss, correct, gradients = block.gradients(data.train, index, epoch=3, step=4)
    layout = build_layout(layers)
    for member in range(3):
        rate = float(recipe.dropout[member])
        module = module_of(layers, activation, weights[member], seed=SEEDS[member], rate=rate, epoch=3, step=4)
        expected = reference_pass(module.double(), data, index[member])  # the processor's own rounding aside
        torch.testing.assert_close(loss[member].double(), expected[0], rtol=1e-6, atol=1e-6)
        assert correct[member] == expected[1]
        for part in layout.slices().values():
            assert_near(gradients[member, part].double(), expected[2][part])


@needs_compiler
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_steps_are_those_of_torch_optim(optimizer):
    layers, data = network("cnn_s")
    weights = random_weights(layers)
    lr, weight_decay, momentum = (1e-3, 1e-2, 3e-4), (0.0, 1e-2, 1e-3), (0.9, 0.5, 0.0)
    block = native.NativeBlock(recipe_of(layers, optimizer=optimizer), data)
    block.load(weights)
    order = orders(3, 25, 60)  # three steps, the last one with 5 images
    steps = [step_settings(3, count, lr, weight_decay, momentum) for count in range(3)]
    tally = block.train(data.train, order, epoch=1, first_step=0, settings=steps)
    stored, state = block.store()
    assert tally.images == 25
    for member in range(3):
        module = module_of(layers, "tanh", weights[member])
        if optimizer == "adam":
            stepper = torch.optim.Adam(module.parameters(), lr[member], weight_decay=weight_decay[member])
        else:
            stepper = torch.optim.SGD(
                module.parameters(), lr[member], momentum=momentum[member], weight_decay=weight_decay[member]
            )
        losses, hits = 0.0, 0
        for step in range(3):
            index = order[member, 10 * step : 10 * step + 10]
            loss, correct, gradients = reference_pass(module, data, index)
            losses, hits = losses + float(loss) * len(index), hits + int(correct)
            for parameter, gradient in zip(module.parameters(), split_as(module, gradients), strict=True):
                parameter.grad = gradient
            stepper.step()
        assert abs(float(tally.loss[member]) - losses) < 1e-4
        assert int(tally.correct[member]) == hits
        # Adam divides by the root of a gradient's square, so a tiny gradient's rounding shows in full.
        moved = (flat(module.parameters()) - weights[member]).abs().max()
        torch.testing.assert_close(stored[member], flat(module.parameters()), rtol=0, atol=float(2e-3 * moved))
        for name in state:
            if optimizer == "sgd" and momentum[member] == 0:
                continue  # torch keeps no buffer then
            expected = flat(stepper.state[parameter][name] for parameter in module.parameters())
            assert_near(state[name][member], expected, 1e-4)


@needs_compiler
def test_an_epoch_agrees_with_the_plain_path():
    layers, data = network("cnn_s", train=205)
    recipe = recipe_of(layers, "gelu", rates=(0.0, 0.5, 0.2))
    blocks = native.NativeBlock(recipe, data), TorchBlock(recipe, data)
    tallies = []
    for block in blocks:
        block.load(random_weights(layers))
        order = block.order(1, 205)
        tallies.append(
            block.train(data.train, order, epoch=1, first_step=0, settings=[step_settings(3, n) for n in range(21)])
        )
    torch.testing.assert_close(tallies[0].loss, tallies[1].loss, rtol=1e-4, atol=1e-4)
    assert_near(blocks[0].store()[0], blocks[1].store()[0], 1e-3)


@needs_compiler
def test_epochs_in_pieces_are_the_epoch_bit_for_bit():
    layers, data = network("cnn_s")
    recipe = recipe_of(layers, rates=0.5)
    order = orders(3, 55, 60)
    whole, pieces = native.NativeBlock(recipe, data), native.NativeBlock(recipe, data)
    whole.load(random_weights(layers))
    total = whole.train(data.train, order, epoch=2, first_step=0, settings=[step_settings(3, n) for n in range(6)])
    weights, state, tally = random_weights(layers), None, None
    for first, steps in ((0, 2), (2, 1), (3, 3)):
        pieces.load(weights, state)
        count = [step_settings(3, n) for n in range(first, first + steps)]
        piece = pieces.train(data.train, order, epoch=2, first_step=first, settings=count)
        tally = piece if tally is None else tally + piece
        weights, state = pieces.store()
    assert torch.equal(weights, whole.store()[0])
    assert all(torch.equal(state[name], whole.store()[1][name]) for name in state)
    assert tally.images == total.images
    assert torch.equal(tally.correct, total.correct)
    torch.testing.assert_close(tally.loss, total.loss, rtol=1e-12, atol=0)


@needs_compiler
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("activation", sorted(native.ACTIVATION_NUMBERS))
def test_a_member_depends_neither_on_its_lane_nor_on_its_company(activation, optimizer):
    layers, data = network("cnn_s")
    lanes = native.lanes()
    subject, order = random_weights(layers, 1), orders(1, 30, 60)
    companions = random_weights(layers, lanes - 1, seed=1)  # three or more: no vector has fewer than four floats
    companions[0] = math.nan
    companions[1] = math.inf
    companions[2] *= 1e20

    def trained(lane: int, company: torch.Tensor):
        seeds = [100 + n for n in range(len(company))]
        seeds.insert(lane, 7)
        rates = torch.full((len(seeds),), 0.5)
        rates[lane] = 0.3
        block = native.NativeBlock(recipe_of(layers, activation, optimizer, seeds, rates), data)
        block.load(torch.cat((company[:lane], subject, company[lane:])))
        other = orders(len(company), 30, 60, seed=2) if len(company) else order[:0]
        order_of_all = torch.cat((other[:lane], order, other[lane:]))
        settings_of_all = [step_settings(len(seeds), n) for n in range(3)]
        tally = block.train(data.train, order_of_all, epoch=1, first_step=0, settings=settings_of_all)
        held = block.evaluate(data.val)
        weights, state = block.store()
        return [weights[lane], *(tensor[lane] for tensor in state.values()), tally.loss[lane], tally.correct[lane],
                held.loss[lane], held.correct[lane]]  # fmt: skip

    alone = trained(0, companions[:0])
    assert bool(torch.isfinite(alone[0]).all())
    for lane in (0, 1, lanes - 1):
        assert all(torch.equal(mine, other) for mine, other in zip(trained(lane, companions), alone, strict=True))


@needs_compiler
def test_rate_zero_beside_other_rates_is_no_dropout_bit_for_bit():
    layers, data = network("cnn_s")
    index = orders(2, 10, 60)
    results = []
    for rates in ((0.0, 0.0), (0.0, 0.5)):
        block = native.NativeBlock(recipe_of(layers, seeds=(1, 2), rates=rates), data)
        block.load(random_weights(layers, 2))
        results.append(block.gradients(data.train, index, epoch=1, step=0)[2])
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.equal(results[0][1], results[1][1])


@needs_compiler
def test_ties_of_max_pooling_go_to_the_first_pixel():
    # Pixels 0 and 1 and weights in eighths make every sum exact, so equal values are equal in any order of sums.
    layers, data = network("cnn_s")
    exact = dataclasses.replace(data.spec, mean=(0.0,), std=(1.0,))
    generator = torch.Generator().manual_seed(0)
    images = 255 * (torch.rand(60, 1, 28, 28, generator=generator) < 0.1).to(torch.uint8)
    images[:, :, 10:, :14] = 0
    data = dataclasses.replace(data, spec=exact, train=Split(images, data.train.labels))
    weights = torch.randint(-2, 3, (3, build_layout(layers).size), generator=generator) / 8
    index = orders(3, 8, 60)
    pooled = functional.max_pool2d(functional.conv2d(data.normalise(images[:1]), weights[0, :200].view(8, 1, 5, 5)), 2)
    assert bool((pooled == 0).any()), "the blank part must make ties"
    block = native.NativeBlock(recipe_of(layers, "relu"), data)
    block.load(weights)
    gradients = block.gradients(data.train, index, epoch=1, step=0)[2]
    for member in range(3):
        expected = reference_pass(module_of(layers, "relu", weights[member]), data, index[member])[2]
        assert_near(gradients[member], expected)


@needs_compiler
@pytest.mark.parametrize(("name", "activation"), CASES)
def test_evaluation_is_that_of_the_module(name, activation):
    layers, data = network(name, val=33)
    weights = random_weights(layers)
    block = native.NativeBlock(recipe_of(layers, activation, rates=0.5), data)
    block.load(weights)
    tally = block.evaluate(data.val)
    assert tally.images == 33
    for member in range(3):
        module = module_of(layers, activation, weights[member]).eval()
        with torch.no_grad():
            logits = module(data.normalise(data.val.images))
        losses = functional.cross_entropy(logits, data.val.labels, reduction="sum")
        assert abs(float(tally.loss[member]) - float(losses)) < 1e-4 * float(losses)
        assert int(tally.correct[member]) == int((logits.argmax(1) == data.val.labels).sum())


@needs_compiler
def test_predictions_are_those_of_argmax():
    layers, data = (Flatten(), Linear("fc", 784, 10)), tiny_images()
    weights = torch.zeros(4, build_layout(layers).size)
    weights[1, -10:] = torch.tensor([0.0, 1, 3, 3, 2, 3, 0, 0, 0, 0])
    weights[2, -10:] = torch.tensor([9.0, 1, 3, math.nan, 2, math.nan, 0, 0, 0, 0])
    weights[3, -10:] = math.nan
    labels = torch.repeat_interleave(torch.arange(10), torch.arange(10))  # each class another number of times
    images = torch.zeros(len(labels), 1, 28, 28, dtype=torch.uint8)
    block = native.NativeBlock(recipe_of(layers, seeds=(1, 2, 3, 4)), data)
    block.load(weights)
    tally = block.evaluate(Split(images, labels))
    chosen = weights[:, -10:].argmax(1)
    assert chosen.tolist() == [0, 2, 3, 0]
    assert tally.correct.tolist() == chosen.tolist()
    assert torch.isnan(tally.loss).tolist() == [False, False, True, True]


@needs_compiler
def test_weights_and_state_come_back_bit_for_bit():
    layers, data = network("cnn_s")
    size = build_layout(layers).size
    bits = torch.randint(-(2**31), 2**31, (3, 3, size), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    weights, first, second = bits.view(torch.float32)
    block = native.NativeBlock(recipe_of(layers), data)
    block.load(weights, {"exp_avg": first, "exp_avg_sq": second})
    stored, state = block.store()
    back = torch.stack((stored, state["exp_avg"], state["exp_avg_sq"]))
    assert torch.equal(back.view(torch.int32), bits)


@needs_compiler
def test_blocks_in_threads_are_those_in_turn():
    layers, data = network("cnn_s")

    def trained(block: native.NativeBlock) -> None:
        steps = [step_settings(3, n) for n in range(6)]
        block.train(data.train, orders(3, 60, 60), epoch=1, first_step=0, settings=steps)

    blocks = [native.NativeBlock(recipe_of(layers, rates=0.5), data) for _ in range(3)]
    for block in blocks:
        block.load(random_weights(layers))
    trained(blocks[0])
    threads = [threading.Thread(target=trained, args=(block,)) for block in blocks[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(blocks[1].store()[0], blocks[0].store()[0])
    assert torch.equal(blocks[2].store()[0], blocks[0].store()[0])


# Normalisation of images, of what is added up, and twice of the same; a shortcut with dropout; sums of one stage twice.
TANGLED = (
    BatchNorm("bn0", 1), Conv("conv1", 1, 4, 3, 2, 1),
    Residual((BatchNorm("bn1", 4), Activate(), Conv("conv2", 4, 4, 3, 1, 1, False)), (BatchNorm("bn2", 4), Dropout())),
    Activate("gelu"), Residual((Activate(),)), Residual((), (Conv("conv3", 4, 4, 1),)), Residual(()), Dropout(),
    GlobalAveragePool(), Linear("fc", 4, 10),
)  # fmt: skip
NORMED = {"resnet": resnet18_layers(2)(1, 10), "tangled": TANGLED}


def normed_weights(layers, members=3, seed=0) -> torch.Tensor:
    """Weights [members, D] with scales about 1 and running variances above 0."""
    layout = build_layout(layers)
    named = layout.unflatten(random_weights(layers, members, seed))
    for spec in layout.tensors:
        if spec.name.endswith("running_var") or (len(spec.shape) == 1 and spec.name.endswith("weight")):
            named[spec.name] = named[spec.name].abs() + 0.5
    return torch.cat([named[spec.name].flatten(1) for spec in layout.tensors], dim=1)


@needs_compiler
@pytest.mark.parametrize("name", sorted(NORMED))
def test_normalisation_and_sums_are_those_of_the_module(name):
    layers, data = NORMED[name], tiny_images(val=33)
    weights, layout = normed_weights(layers), build_layout(layers)
    rates = (0.0, 0.3, 0.5)
    block = native.NativeBlock(recipe_of(layers, "relu", rates=rates), data)
    block.load(weights)
    index = orders(3, 6, 60)
    loss, correct, gradients = block.gradients(data.train, index, epoch=3, step=4)
    stored, tally = block.store()[0], block.evaluate(data.val)
    assert torch.equal(block.store()[0], stored), "evaluation changes nothing"
    for member in range(3):
        module = module_of(
            layers, "relu", weights[member], seed=SEEDS[member], rate=rates[member], epoch=3, step=4
        ).double()
        expected = reference_pass(module, data, index[member])
        torch.testing.assert_close(loss[member].double(), expected[0], rtol=1e-6, atol=1e-6)
        assert correct[member] == expected[1]
        assert_near(gradients[member].double(), expected[2], 10 * TOLERANCE)
        named, state = layout.unflatten(stored[member]), module.state_dict()
        for spec in layout.tensors:
            torch.testing.assert_close(named[spec.name].double(), state[spec.name], rtol=1e-6, atol=1e-6)
        module.eval()
        with torch.no_grad():
            logits = module(data.normalise(data.val.images).double())
        losses = functional.cross_entropy(logits, data.val.labels, reduction="sum")
        assert abs(float(tally.loss[member]) - float(losses)) < 1e-5 * float(losses)
        assert int(tally.correct[member]) == int((logits.argmax(1) == data.val.labels).sum())


@needs_compiler
def test_an_epoch_with_normalisation_agrees_with_the_plain_path():
    layers, data = NORMED["tangled"], tiny_images(train=27)
    recipe = recipe_of(layers, "tanh", "sgd", rates=(0.0, 0.5, 0.2))
    stored = []
    for block in (native.NativeBlock(recipe, data), TorchBlock(recipe, data)):
        block.load(normed_weights(layers))
        steps = [step_settings(3, n) for n in range(3)]  # the last one with 7 images
        block.train(data.train, block.order(1, 27), epoch=1, first_step=0, settings=steps)
        stored.append(block.store()[0])
    assert_near(stored[0], stored[1], 1e-4)


@needs_compiler
def test_a_member_with_normalisation_depends_neither_on_its_lane_nor_on_its_company():
    layers, data = NORMED["tangled"], tiny_images()
    lanes, subject, order = native.lanes(), normed_weights(layers, 1), orders(1, 27, 60)
    companions = normed_weights(layers, lanes - 1, seed=1)
    companions[0], companions[1] = math.nan, math.inf

    def trained(lane: int, company: torch.Tensor) -> list[torch.Tensor]:
        seeds = [100 + n for n in range(len(company))]
        seeds.insert(lane, 7)
        block = native.NativeBlock(recipe_of(layers, "relu", seeds=seeds, rates=0.3), data)
        block.load(torch.cat((company[:lane], subject, company[lane:])))
        steps = [step_settings(len(seeds), n) for n in range(3)]
        tally = block.train(data.train, order.expand(len(seeds), -1), epoch=1, first_step=0, settings=steps)
        weights, state = block.store()
        return [weights[lane], *(tensor[lane] for tensor in state.values()), tally.loss[lane], tally.correct[lane],
                block.evaluate(data.val).loss[lane]]  # fmt: skip

    alone = trained(0, companions[:0])
    assert bool(torch.isfinite(alone[0]).all())
    for lane in (1, lanes - 1):
        assert all(torch.equal(mine, other) for mine, other in zip(trained(lane, companions), alone, strict=True))


@st.composite
def small_networks(draw):
    """Convolutions with or without stride, padding, bias, pooling, activation and dropout, then linear layers, and the
    image size."""
    channels, size = draw(st.integers(1, 3)), draw(st.integers(4, 11))
    shape, layers = (channels, size, size), []
    activations = st.sampled_from([Activate(), Activate("elu"), Activate("leaky_relu"), Activate("none")])
    for number in range(draw(st.integers(0, 2))):
        kernel, stride, padding = (
            draw(st.integers(1, min(4, shape[1]))),
            draw(st.integers(1, 3)),
            draw(st.integers(0, 2)),
        )
        outputs = draw(st.integers(1, 9))
        layers.append(Conv(f"conv{number}", shape[0], outputs, kernel, stride, padding, draw(st.booleans())))
        side = (shape[1] + 2 * padding - kernel) // stride + 1
        activation = [draw(activations)] if draw(st.booleans()) else []
        pool = [draw(st.sampled_from([MaxPool(), MaxPool(3), AveragePool(), AveragePool(3)]))]
        if not draw(st.booleans()) or side < pool[0].kernel:
            pool = []
        layers += [BatchNorm(f"norm{number}", outputs)] if side > 2 and draw(st.booleans()) else []
        layers += pool + activation if draw(st.booleans()) else activation + pool
        layers += [Dropout()] if draw(st.booleans()) else []
        side = side // pool[0].kernel if pool else side
        if draw(st.booleans()):
            body = (Activate(), Conv(f"inner{number}", outputs, outputs, 3, 1, 1, draw(st.booleans())))
            shortcut = (Conv(f"side{number}", outputs, outputs, 1),) if draw(st.booleans()) else ()
            layers.append(Residual(body, shortcut))
        shape = (outputs, side, side)
    if draw(st.booleans()):
        layers.append(GlobalAveragePool())
        features = shape[0]
    else:
        layers.append(Flatten())
        features = math.prod(shape)
    if draw(st.booleans()):
        width = draw(st.integers(1, 40))
        layers += [Linear("fc1", features, width), Activate(), Dropout()]
        features = width
    return (*layers, Linear("fc2", features, 10)), channels, size


@needs_compiler
@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(small_networks())
def test_any_chain_of_convolutions_and_linear_layers(made):
    layers, channels, size = made
    data = tiny_images("mnist" if channels == 1 else "cifar10", 28)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, channels, size, size), generator=generator).to(torch.uint8)
    spec = dataclasses.replace(data.spec, mean=(0.5,) * channels, std=(0.25,) * channels)
    data = dataclasses.replace(data, spec=spec, train=Split(images, torch.arange(12) % 10))
    weights = random_weights(layers, 2)
    block = native.NativeBlock(recipe_of(layers, "gelu", seeds=(3, 4), rates=(0.0, 0.25)), data)
    block.load(weights)
    index = orders(2, 5, 12)
    loss, correct, gradients = block.gradients(data.train, index, epoch=1, step=2)
    for member, rate in enumerate((0.0, 0.25)):
        module = module_of(layers, "gelu", weights[member], seed=3 + member, rate=rate, epoch=1, step=2).double()
        expected = reference_pass(module, data, index[member])
        torch.testing.assert_close(loss[member].double(), expected[0], rtol=1e-5, atol=1e-5)
        assert correct[member] == expected[1]
        # What normalisation divides by may be small: rounding grows by as much.
        normed = any(isinstance(layer, BatchNorm) for layer in layers)
        assert_near(gradients[member].double(), expected[2], (100 if normed else 1) * TOLERANCE)


@needs_compiler
@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        ((0, 0), (0, 0, 0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 4, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0xA4093822, 0x299F31D0), (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)  # fmt: skip
def test_philox_known_answers(key, counter, words):
    """The vectors of Random123's kat_vectors."""
    kernels = native.load_kernels((Linear("probe", 1, 2),), (1, 1, 1))
    arrays = [np.array(values, dtype=np.uint32) for values in (key, counter, (0, 0, 0, 0))]
    kernels.zoo_philox(*(array.ctypes.data_as(native.ctypes.c_void_p) for array in arrays))
    assert " ".join(f"{word:08x}" for word in arrays[2]) == words
    assert numpy_philox(key[0] + (key[1] << 32), counter) == arrays[2].tolist()


@needs_compiler
@pytest.mark.parametrize("activation", sorted(native.ACTIVATION_NUMBERS))
def test_activations_are_accurate_and_keep_nan(activation):
    x = torch.cat((torch.linspace(-12, 12, 100_001), torch.logspace(-30, 0, 2_000), -torch.logspace(-30, 0, 2_000)))
    x = torch.cat((x, torch.tensor([0.0, -0.0, 100, -100, math.inf, -math.inf, math.nan])))
    x = torch.cat((x, torch.zeros(-len(x) % 16)))
    y, slope = torch.empty_like(x), torch.empty_like(x)
    kernels = native.load_kernels((Linear("probe", 1, 2),), (1, 1, 1))
    kernels.zoo_activation(
        native.ACTIVATION_NUMBERS[activation],
        *(native.ctypes.c_void_p(tensor.data_ptr()) for tensor in (x, y, slope)),
        native.ctypes.c_int64(len(x)),
    )
    exact = x.double().requires_grad_()
    # Torch's GELU cancels in the negative tail, in float64 too.
    value = ACTIVATIONS[activation](exact) if activation != "gelu" else exact * torch.erfc(-exact / 2**0.5) / 2
    (expected,) = torch.autograd.grad(value.sum(), exact)
    usual = torch.isfinite(x)
    # A rounded x * x makes exp(-x * x / 2) lose digits in the far tail.
    rtol, atol = (1e-5, 1e-35) if activation == "gelu" else (1e-6, 1e-37)
    torch.testing.assert_close(y[usual].double(), value.detach()[usual], rtol=rtol, atol=atol)
    torch.testing.assert_close(slope[usual].double(), expected[usual], rtol=1e-5, atol=3e-6)
    assert bool(torch.isnan(y[torch.isnan(x)]).all())
    assert float(y.nan_to_num().abs().max()) <= max(1.0, float(x.nan_to_num().abs().max()))
    if activation not in ("gelu", "silu"):  # torch's own is NaN at minus infinity
        infinite = torch.isinf(x)
        torch.testing.assert_close(y[infinite], value.detach()[infinite].float(), rtol=rtol, atol=0)


@needs_compiler
def test_all_instructions_give_the_same_gradients(monkeypatch):
    layers, data = network("cnn_s")
    index, weights = orders(3, 6, 60), random_weights(layers)
    results = {}
    for name in compiler.instruction_sets():
        monkeypatch.setenv("ZOO_NATIVE", name)
        assert native.instructions() == name
        block = native.NativeBlock(recipe_of(layers, "gelu", rates=(0.0, 0.5, 0.3)), data)
        block.load(weights)
        results[name] = block.gradients(data.train, index, epoch=1, step=2)
    assert {"portable", "neon"} & results.keys()
    fastest = next(iter(results.values()))
    for gradients in results.values():
        for one, other in zip(gradients, fastest, strict=True):
            assert_near(one.double(), other.double())


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_stages_lie_where_the_layout_says(name):
    layers = get_architecture(name).layers(1, 10)
    layout = build_layout(layers)
    size = NETWORKS[name][1]
    chain = stages(layers, (1, size, size))
    offsets = [offset for stage in chain if stage.kind == "CONV" for offset in (stage.weight, stage.bias)]
    assert offsets == [spec.offset for spec in layout.tensors]
    assert chain[-1].bias + chain[-1].outputs == layout.size


@pytest.mark.parametrize(
    ("layers", "shape", "reason"),
    [
        ((Conv("c", 1, 2, 3), Doubled("b", 2, 2), Flatten(), Linear("f", 2, 2)), (1, 3, 3), "Doubled"),
        ((Conv("c", 1, 2, 3), MaxPool(12), Flatten(), Linear("f", 2, 2)), (1, 14, 14), "pool by up to 11"),
        ((Conv("c", 1, 2, 3), AveragePool(3), Flatten(), Linear("f", 2, 2)), (1, 4, 4), "nothing is left"),
        ((Conv("c", 1, 2, 3), Flatten(), Linear("f", 7, 2)), (1, 3, 3), "takes 7 inputs"),
        (get_architecture("resnet18").layers(3, 10), (3, 32, 32), "up to 1,000,000 weights, not 11,173,962"),
        (resnet18_layers(8)(3, 10), (3, 64, 64), "up to 300,000 numbers a sample"),
        ((BatchNorm("b", 3), Flatten(), Linear("f", 9, 2)), (1, 3, 3), "takes 3 channels"),
        ((Residual((Conv("c", 1, 1, 3),)), Flatten(), Linear("f", 9, 2)), (1, 3, 3), "its shortcut"),
        ((Conv("c", 1, 2, 5), Flatten(), Linear("f", 2, 2)), (1, 3, 3), "nothing is left"),
        ((Conv("c", 1, 2, 3), Linear("f", 2, 2)), (1, 4, 4), "must follow Flatten"),
        ((Conv("c", 1, 2, 3),), (1, 4, 4), "ends in a linear layer"),
        ((GlobalAveragePool(),), (1, 3, 3), "ends in a linear layer"),
        ((), (1, 3, 3), "ends in a linear layer"),
    ],
)
def test_networks_beyond_the_kernels_are_named(layers, shape, reason):
    assert reason in native.supports(layers, shape)
    assert reason in native.available(layers, shape)


def test_networks_of_the_table_are_supported():
    for name, (images, size) in NETWORKS.items():
        channels = 1 if images == "mnist" else 3
        assert native.supports(get_architecture(name).layers(channels, 10), (channels, size, size)) is None
    assert "swish" in native.supports(get_architecture("cnn_s").layers(1, 10), (1, 28, 28), "swish")


@needs_compiler
def test_wrong_input_is_refused_before_any_kernel_runs():
    layers, data = network("cnn_s")
    lanes = native.lanes()
    with pytest.raises(NativeError, match=f"expected 1 to {lanes}"):
        native.NativeBlock(recipe_of(layers, seeds=range(lanes + 1)), data)
    with pytest.raises(NativeError, match=r"expected all of them in \[0, 1\)"):
        native.NativeBlock(recipe_of(layers, rates=1.0), data)
    with pytest.raises(NativeError, match="flip"):
        native.NativeBlock(dataclasses.replace(recipe_of(layers), augmentation=("flip",)), data)
    block = native.NativeBlock(recipe_of(layers), data)
    with pytest.raises(ValueError, match=r"expected \[3, 2464\]"):
        block.load(torch.zeros(3, 2463))
    block.load(random_weights(layers))
    one = [step_settings(3, 0)]
    for order, message in (
        (orders(3, 10, 60) + 51, "there are 60"),
        (orders(3, 10, 60) - 1, "images -1"),
        (orders(2, 10, 60), "2 members, expected 3"),
    ):
        with pytest.raises(ValueError, match=message):
            block.train(data.train, order, epoch=1, first_step=0, settings=one)
    with pytest.raises(ValueError, match="1 or more"):
        block.train(data.train, orders(3, 10, 60), epoch=1, first_step=1, settings=one)
    wrong = Split(torch.zeros(60, 3, 28, 28, dtype=torch.uint8), data.train.labels)
    with pytest.raises(ValueError, match=r"expected torch\.uint8"):
        block.evaluate(wrong)


@needs_compiler
def test_the_kernels_compile_without_warnings(tmp_path):
    layers = get_architecture("cnn_l").layers(3, 10)
    found = compiler.find_compiler()
    source = tmp_path / "kernels.c"
    source.write_text(native.kernel_source(layers, (3, 32, 32), found))
    command = [*found.command, "-Wall", "-Wextra", source, "-o", tmp_path / "kernels.so"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
