"""The stack against plain PyTorch: one nn.Module, torch.optim, the same batches."""

import dataclasses

import plain
import pytest
import torch

from zoo_datasets.networks.architectures import ARCHITECTURES, Architecture, resnet18_layers
from zoo_datasets.networks.layers import build_layout
from zoo_datasets.stacked import TorchBlock, evaluate_stack, initialise
from zoo_datasets.training.steps.schedules import SCHEDULES

STEPS = 24


def train_stack(zoo, members, data, steps, dtype):
    block = TorchBlock(plain.recipe_of(zoo, members, data), data, dtype=dtype)
    layers = block.recipe.layers
    seeds = torch.tensor([member.seed for member in members])
    block.load(initialise(layers, seeds, [member.hyperparameters.init for member in members]))
    images = len(data.train.labels)
    in_epoch = -(-images // block.recipe.batch_size)
    for step in range(steps):
        epoch, within = 1 + step // in_epoch, step % in_epoch
        settings = plain.settings_of(members, step)
        now = SCHEDULES[zoo.scheduler](step, steps)
        settings = dataclasses.replace(settings, lr=settings.lr * now.lr_factor)
        if now.momentum is not None:
            settings = dataclasses.replace(settings, momentum=torch.full_like(settings.momentum, now.momentum))
        block.train(data.train, block.order(epoch, images), epoch=epoch, first_step=within, settings=[settings])
    return block


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "gelu"])
def test_a_stack_gives_each_member_what_training_it_alone_gives(activation, optimizer):
    zoo = plain.tiny_zoo(
        activation=(activation,), optimizer=(optimizer,), init=("kaiming_uniform", "kaiming_normal"),
        dropout=(0.0, 0.3, 0.5), lr=(1e-2,), weight_decay=(0.0, 1e-2), seeds=1,
    )  # fmt: skip
    data = plain.tiny_images()
    members = plain.members(zoo)
    assert {member.hyperparameters.dropout for member in members} == {0.0, 0.3, 0.5}
    weights, _ = train_stack(zoo, members, data, STEPS, torch.float64).store()
    for row, member in zip(weights, members, strict=True):
        alone = plain.train_alone(zoo, member, data, STEPS, torch.float64)
        start = plain.train_alone(zoo, member, data, 0, torch.float64)
        assert (alone - start).abs().max() > 1e-3  # it did learn something
        torch.testing.assert_close(row, alone, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("architecture", "images", "size"), [("cnn_m", "mnist", 28), ("cnn_l", "cifar10", 32)])
def test_the_other_cnns_train_as_alone(architecture, images, size):
    zoo = plain.tiny_zoo(f"{images}_cnn_s", architecture=architecture, init=("kaiming_uniform",), dropout=(0.5,))
    data = plain.tiny_images(images, size, train=30)
    members = plain.members(zoo)
    weights, _ = train_stack(zoo, members, data, 10, torch.float64).store()
    for row, member in zip(weights, members, strict=True):
        torch.testing.assert_close(row, plain.train_alone(zoo, member, data, 10, torch.float64), rtol=1e-8, atol=1e-10)


def test_a_narrow_resnet_trains_as_alone_with_augmentation_one_cycle_and_batch_norm(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "resnet_narrow", Architecture("resnet_narrow", None, resnet18_layers(2)))
    zoo = plain.tiny_zoo("cifar10_resnet18", architecture="resnet_narrow", batch_size=8, seeds=2)
    data = plain.tiny_images("cifar10", 32, train=20)
    members = plain.members(zoo)
    block = train_stack(zoo, members, data, 6, torch.float64)
    weights, _ = block.store()
    for row, member in zip(weights, members, strict=True):
        alone = plain.train_alone(zoo, member, data, 6, torch.float64)
        torch.testing.assert_close(row, alone, rtol=1e-7, atol=1e-9)
    means = build_layout(block.recipe.layers).unflatten(weights)["bn1.running_mean"]
    assert (means != 0).all()


@pytest.mark.parametrize("batch_size", [10, 7])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "gelu"])
def test_a_member_is_bit_identical_in_a_cohort_of_1_7_or_64(activation, batch_size):
    zoo = plain.tiny_zoo(activation=(activation,), dropout=(0.5,), batch_size=batch_size, seeds=64)
    data = plain.tiny_images(train=30)
    members = plain.members(zoo)

    def run(chosen):
        weights, states, losses = [], [], []
        for start in range(0, len(chosen), 16):
            block = train_stack(zoo, chosen[start : start + 16], data, 6, torch.float32)
            stored, state = block.store()
            weights.append(stored)
            states.append(state["exp_avg_sq"])
            losses.append(block.evaluate(data.test).loss)
        return torch.cat(weights), torch.cat(states), torch.cat(losses)

    together = run(members)
    for first, count in ((5, 1), (63, 1), (11, 7)):
        chosen = members[first : first + count]
        for apart, all_of_them in zip(run(chosen), together, strict=True):
            assert torch.equal(apart, all_of_them[first : first + count])


def test_a_diverged_member_does_not_disturb_its_neighbours():
    zoo = plain.tiny_zoo(seeds=8, optimizer=("sgd",), activation=("relu",), init=("kaiming_uniform",))
    data = plain.tiny_images(train=30)
    members = plain.members(zoo)
    broken = list(members)
    point = dataclasses.replace(members[3].hyperparameters, lr=1e30)
    broken[3] = dataclasses.replace(members[3], hyperparameters=point)
    healthy, _ = train_stack(zoo, members, data, 9, torch.float32).store()
    block = train_stack(zoo, broken, data, 9, torch.float32)
    mixed, _ = block.store()
    assert not torch.isfinite(mixed[3]).all()
    assert torch.isnan(block.evaluate(data.test).loss[3])
    others = [0, 1, 2, 4, 5, 6, 7]
    assert torch.equal(mixed[others], healthy[others])


def test_train_metrics_are_sums_over_the_images_of_the_steps():
    zoo = plain.tiny_zoo(seeds=1)
    data = plain.tiny_images(train=25)  # a short last batch
    (member,) = plain.members(zoo)
    block = TorchBlock(plain.recipe_of(zoo, [member], data), data, dtype=torch.float64)
    block.load(initialise(block.recipe.layers, torch.tensor([member.seed]), [member.hyperparameters.init]))
    still = dataclasses.replace(plain.settings_of([member], 0), lr=torch.zeros(1, dtype=torch.float64))
    tally = block.train(data.train, block.order(1, 25), epoch=1, first_step=0, settings=[still] * 3)
    measured = block.evaluate(data.train)
    assert tally.images == 25
    assert tally.mean_loss.item() == pytest.approx(measured.mean_loss.item(), rel=1e-9)
    assert tally.correct.item() == measured.correct.item()


def test_a_stored_block_goes_on_bit_for_bit():
    zoo = plain.tiny_zoo(seeds=3)
    data = plain.tiny_images(train=30)
    members = plain.members(zoo)
    straight, _ = train_stack(zoo, members, data, 6, torch.float32).store()
    half = train_stack(zoo, members, data, 3, torch.float32)
    resumed = TorchBlock(half.recipe, data)
    resumed.load(*half.store())
    for step in range(3):
        resumed.train(
            data.train, resumed.order(2, 30), epoch=2, first_step=step, settings=[plain.settings_of(members, 3 + step)]
        )
    assert torch.equal(resumed.store()[0], straight)


def test_evaluation_of_a_stack_equals_the_modules():
    zoo = plain.tiny_zoo(seeds=11, init=("kaiming_uniform",))
    data = plain.tiny_images()
    members = plain.members(zoo)
    layers = ARCHITECTURES["cnn_s"].layers(1, 10)
    weights = initialise(layers, torch.tensor([m.seed for m in members]), ["kaiming_uniform"] * 11)
    loss, correct = evaluate_stack(layers, "tanh", weights, data, data.test)
    for row, member in enumerate(members):
        with torch.no_grad():
            logits = plain.plain_module(zoo, member, data).eval()(data.normalise(data.test.images))
        expected = torch.nn.functional.cross_entropy(logits, data.test.labels).item()
        assert loss[row].item() == pytest.approx(expected, rel=1e-5)
        assert correct[row].item() == (logits.argmax(1) == data.test.labels).sum().item()
