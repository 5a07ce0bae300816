"""Variational dropout and held masks on both engine paths, against Monte Carlo, autograd and one model alone."""

import math

import plain
import pytest
import torch
from torch.nn import functional

from zoo_datasets.networks.architectures import get_architecture
from zoo_datasets.networks.layers import Conv, Flatten, Linear, build_layout
from zoo_datasets.networks.variational import LOG_SIGMA2, acting, kl_divergence, log_alpha, noise_bounds
from zoo_datasets.stacked import BlockRecipe, NativeBlock, TorchBlock, streams
from zoo_datasets.stacked.block import MASK
from zoo_datasets.stacked.native import block as native
from zoo_datasets.stacked.network import Noise, StackedNetwork

needs_compiler = pytest.mark.skipif(native.available() is not None, reason=f"no native kernels: {native.available()}")
PATHS = [pytest.param(NativeBlock, marks=needs_compiler), TorchBlock]
KL_WEIGHT = 0.004


def recipe_of(layers, seeds, activation="tanh", optimizer="adam", rates=0.0, variational=True) -> BlockRecipe:
    return BlockRecipe(
        layers=tuple(layers), activation=activation, optimizer=optimizer, batch_size=10, augmentation=(),
        seeds=torch.tensor(seeds), dropout=torch.full((len(seeds),), rates, dtype=torch.float64),
        variational=variational,
    )  # fmt: skip


def start_of(layers, members, seed=0):
    """Weights of the size that training reaches, and log σ² on both sides of the threshold and beyond the bounds."""
    generator = torch.Generator().manual_seed(seed)
    size = build_layout(layers).size
    weights = torch.randn(members, size, generator=generator) * 0.15
    bounds = noise_bounds(layers)
    noisy = torch.cat([torch.full((spec.size,), spec.name in bounds) for spec in build_layout(layers).tensors])
    log_sigma2 = torch.randn(members, size, generator=generator) * 4 - 6
    return weights, torch.where(noisy, log_sigma2, -torch.inf)


def settings(members, count, lr=1e-3):
    from zoo_datasets.stacked import StepSettings

    def column(value):
        return torch.full((members,), value, dtype=torch.float64)

    return StepSettings(lr=column(lr), weight_decay=column(1e-3), momentum=column(0.9), count=count)


@pytest.mark.parametrize("alpha", [-6.0, -2.0, 0.0, 1.0, 3.0, 8.0])
def test_the_divergence_is_its_integral(alpha):
    # KL = E log|1 + sqrt(alpha) z| - log(alpha) / 2, up to the constant that makes it vanish for large alpha.
    z = torch.linspace(-12, 12, 4_000_001, dtype=torch.float64)
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    logs = torch.log((1 + math.exp(alpha / 2) * z).abs().clamp(min=1e-300))
    integral = torch.trapezoid(density * logs, z).item() - alpha / 2
    limit = -(0.5772156649 + math.log(2)) / 2
    assert kl_divergence(torch.tensor(alpha)).item() == pytest.approx(integral - limit, abs=0.015)


@pytest.mark.parametrize("layer", [Conv("layer", 2, 3, 3), Linear("layer", 32, 3)])
def test_the_moments_of_a_layers_output_are_those_of_sampled_weights(layer):
    generator = torch.Generator().manual_seed(0)
    weights, log_sigma2 = start_of([layer], 1)
    layout, bounds = build_layout([layer]), noise_bounds([layer])
    log_sigma2 = log_sigma2.clamp(max=-2)  # the average of samples must come near
    named, noise = layout.unflatten(weights), layout.unflatten(log_sigma2)
    variances = {
        name: log_alpha(named[name], noise[name], bound).exp() * named[name] ** 2 for name, bound in bounds.items()
    }
    images = torch.randn(1, 1, 2, 4, 4, generator=generator)
    network = StackedNetwork([layer] if isinstance(layer, Conv) else [Flatten(), layer], "relu")

    def output(value):
        drawn = Noise(variances, lambda number, batch, units: torch.full((1, batch, units), value))
        return network(named, images, noise=drawn)

    samples = 40_000

    def sample(name):
        deviation = variances[name].sqrt() if name in bounds else torch.zeros(())
        return named[name] + torch.randn(samples, *named[name].shape[1:], generator=generator) * deviation

    sampled = {name: sample(name) for name in named}
    wide = {name: tensor.expand(samples, *tensor.shape[1:]) for name, tensor in sampled.items()}
    results = network(wide, images.expand(samples, *images.shape[1:])).reshape(
        (1, samples, -1) if isinstance(layer, Conv) else (samples, -1)
    )
    results = results.view(samples, -1)
    mean, deviation = output(0.0), output(1.0) - output(0.0)
    scale = deviation.flatten()
    torch.testing.assert_close(results.mean(0), mean.flatten(), rtol=0, atol=5 * scale.max().item() / samples**0.5)
    torch.testing.assert_close(results.std(0), scale, rtol=0.03, atol=0)


def test_the_normal_numbers_are_normal_and_each_sample_has_its_own():
    numbers = streams.layer_noise(torch.tensor([3, 4]), epoch=1, step=2, layer=0, batch=200, units=500)
    assert numbers.shape == (2, 200, 500)
    for moment, expected in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        assert (numbers.double() ** moment).mean().item() == pytest.approx(expected, abs=0.03)
    assert abs(torch.corrcoef(numbers[0, :2])[0, 1]) < 0.15
    again = streams.layer_noise(torch.tensor([4]), epoch=1, step=2, layer=0, batch=3, units=500)
    assert torch.equal(again[0], numbers[1, :3])


@needs_compiler
@pytest.mark.parametrize(("name", "images", "size"), [("cnn_s", "mnist", 28), ("cnn_l", "cifar10", 32)])
@pytest.mark.parametrize(("activation", "rates"), [("tanh", 0.0), ("relu", 0.3)])
def test_native_gradients_are_those_of_autograd(name, images, size, activation, rates):
    data = plain.tiny_images(images, size)
    layers = get_architecture(name).layers(data.channels, 10)
    recipe = recipe_of(layers, (5, 2**33 + 7, 9), activation, rates=rates)
    weights, log_sigma2 = start_of(layers, 3)
    fast, exact = NativeBlock(recipe, data), TorchBlock(recipe, data, dtype=torch.float64)
    for block in (fast, exact):
        block.load(weights, {LOG_SIGMA2: log_sigma2})
    index = exact.order(1, 60)[:, :10]
    found = fast.gradients(data.train, index[:3].int(), epoch=3, step=2, kl_weight=KL_WEIGHT)
    loss, correct, gradients = exact.gradients(data.train, index, epoch=3, step=2, kl_weight=KL_WEIGHT)
    torch.testing.assert_close(found[0], loss[:3].float(), rtol=1e-5, atol=0)
    assert torch.equal(found[1], correct[:3])
    for mine, theirs in zip(found[2].chunk(2, 1), gradients[:3].float().chunk(2, 1), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())
    assert (gradients[:3].chunk(2, 1)[1] != 0).float().mean() > 0.5


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_stack_is_one_model_alone(optimizer):
    data = plain.tiny_images()
    zoo = plain.tiny_zoo(optimizer=(optimizer,), lr=(1e-3,), weight_decay=(1e-3,), seeds=2)
    members = plain.members(zoo)
    layers = get_architecture("cnn_s").layers(1, 10)
    block = TorchBlock(recipe_of(layers, [m.seed for m in members], optimizer=optimizer), data, dtype=torch.float64)
    modules = [plain.plain_module(zoo, member, data, torch.float64) for member in members]
    weights = torch.stack([torch.cat([p.detach().flatten() for p in module.parameters()]) for module in modules])
    log_sigma2 = torch.where(torch.isfinite(start_of(layers, 2)[1]), -10.0, -torch.inf).double()
    block.load(weights, {LOG_SIGMA2: log_sigma2})
    order = block.order(1, 60)
    block.train(
        data.train, order, epoch=1, first_step=0, settings=[settings(2, step) for step in range(5)], kl_weight=KL_WEIGHT
    )
    stored = build_layout(layers).unflatten(block.store()[1]["weights"])
    for row, (member, module) in enumerate(zip(members, modules, strict=True)):
        at = [0]

        def drawing(number, at=at, seed=member.seed):
            def draw(output):
                numbers = streams.layer_noise(
                    torch.tensor([seed]), epoch=1, step=at[0], layer=number, batch=len(output),
                    units=output[0].numel(), dtype=output.dtype,
                )  # fmt: skip
                return numbers.view(output.shape)

            return draw

        noisy = plain.variational(module, drawing)
        trainer, _ = plain.plain_optimizer(zoo, member, module, 0)
        module.train()
        for step in range(5):
            at[0] = step
            index = order[row, step * 10 : step * 10 + 10]
            logits = module(data.normalise(data.train.images[index], torch.float64))
            loss = functional.cross_entropy(logits, data.train.labels[index])
            trainer.zero_grad()
            (loss + KL_WEIGHT * sum(layer.divergence() for layer in noisy)).backward()
            trainer.step()
        for name, parameter in module.named_parameters():
            if "log_sigma2" not in name:
                mine = stored[name.replace(".layer", "")][row]
                torch.testing.assert_close(mine, parameter.detach(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", PATHS)
def test_a_member_is_bit_identical_in_any_block_and_after_a_stop(kind):
    data = plain.tiny_images(train=25)
    layers = get_architecture("cnn_s").layers(1, 10)
    members = min(9, native.lanes()) if kind is NativeBlock else 9
    everyone, last = list(range(members)), members - 1
    seeds = list(range(20, 20 + members))
    weights, log_sigma2 = start_of(layers, members)

    def run(chosen, stops=()):
        recipe = recipe_of(layers, [seeds[number] for number in chosen], rates=0.2)
        block = kind(recipe, data)
        block.load(weights[chosen], {LOG_SIGMA2: log_sigma2[chosen]})
        for step in range(3):
            block.train(
                data.train, block.order(1, 25), epoch=1, first_step=step, settings=[settings(len(chosen), step)],
                kl_weight=KL_WEIGHT,
            )  # fmt: skip
            if step in stops:
                stored = block.store()
                block = kind(recipe, data)
                block.load(*stored)
        return *block.store(), block.evaluate(data.test).loss

    together = run(everyone)
    for chosen, stops in (([1], ()), ([last, 2], ()), (everyone, (0, 1))):
        apart = run(chosen, stops)
        assert torch.equal(apart[0], together[0][chosen])
        assert torch.equal(apart[2], together[2][chosen])
        assert apart[1].keys() == together[1].keys() == {"weights", LOG_SIGMA2, *recipe_of(layers, [1]).state}
        for name, tensor in apart[1].items():
            assert torch.equal(tensor, together[1][name][chosen])


@needs_compiler
def test_both_paths_train_the_same_twins():
    data = plain.tiny_images()
    layers = get_architecture("cnn_s").layers(1, 10)
    recipe = recipe_of(layers, [1, 2])
    weights, _ = start_of(layers, 2)
    log_sigma2 = torch.where(torch.isfinite(start_of(layers, 2)[1]), -10.0, -torch.inf)
    results = []
    for block in (NativeBlock(recipe, data), TorchBlock(recipe, data, dtype=torch.float64)):
        block.load(weights, {LOG_SIGMA2: log_sigma2})
        block.train(
            data.train, block.order(1, 60), epoch=1, first_step=0,
            settings=[settings(2, step) for step in range(6)], kl_weight=KL_WEIGHT,
        )  # fmt: skip
        results.append(block.store()[1])
    fast, exact = results
    for name in ("weights", LOG_SIGMA2):
        free = torch.isfinite(exact[name])
        assert torch.equal(free, torch.isfinite(fast[name]))
        # Adam's first steps go by the sign of a gradient, which rounding decides where it is near zero.
        far = (fast[name][free] - exact[name][free].float()).abs() > 1e-4
        assert far.float().mean() < 0.01


@pytest.mark.parametrize("kind", PATHS)
def test_what_acts_is_evaluated_and_stored(kind):
    data = plain.tiny_images()
    layers = get_architecture("cnn_s").layers(1, 10)
    weights, log_sigma2 = start_of(layers, 2)
    block = kind(recipe_of(layers, [1, 2]), data)
    block.load(weights, {LOG_SIGMA2: log_sigma2})
    stored, state = block.store()
    expected = torch.where(log_sigma2 - 2 * torch.log(weights.abs() + 1e-15) >= 3, torch.zeros(()), weights)
    assert torch.equal(stored, expected)
    assert 0.1 < (stored == 0).float().mean() < 0.8
    assert torch.equal(state["weights"], weights)
    assert torch.equal(state[LOG_SIGMA2], log_sigma2)
    dense = kind(recipe_of(layers, [1, 2], variational=False), data)
    dense.load(expected)
    assert torch.equal(block.evaluate(data.test).loss, dense.evaluate(data.test).loss)


def test_a_weight_whose_variance_is_lost_is_not_taken_for_a_good_one():
    assert torch.isnan(acting(torch.ones(1), torch.tensor([float("nan")]))).all()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("kind", PATHS)
def test_a_held_weight_stays_zero_and_the_others_train(kind, optimizer):
    data = plain.tiny_images()
    layers = get_architecture("cnn_s").layers(1, 10)
    weights, _ = start_of(layers, 2)
    mask = (torch.rand(weights.shape, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    block = kind(recipe_of(layers, [1, 2], optimizer=optimizer, variational=False), data)
    block.load(weights * mask, {MASK: mask})
    for step in range(5):
        block.train(data.train, block.order(1, 60), epoch=1, first_step=step, settings=[settings(2, step)])
        stored, state = block.store()
        block = kind(block.recipe, data)
        block.load(stored, state)
    assert (stored[mask == 0] == 0).all()
    moved = (stored != weights) & (mask > 0)
    assert moved.float().sum() / mask.sum() > 0.9
    assert torch.equal(state[MASK], mask)
