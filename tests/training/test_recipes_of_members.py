"""Optimizers, schedules and starts of zoos of one's own, against torch.optim and torch's own functions."""

import dataclasses
import math

import plain
import pytest
import torch
from torch.nn import functional

from zoo_datasets.errors import SpecError
from zoo_datasets.images.split import Split
from zoo_datasets.networks.architectures import get_architecture
from zoo_datasets.networks.layers import build_layout
from zoo_datasets.networks.module import Network
from zoo_datasets.specs.members import members_of
from zoo_datasets.specs.zoos import get_zoo, zoo_from_dict
from zoo_datasets.stacked import TorchBlock, initialise
from zoo_datasets.stacked.native import block as native
from zoo_datasets.training import train_zoo
from zoo_datasets.training.steps.recipes import MemberSettings, block_recipe
from zoo_datasets.training.steps.schedules import Decay, scheduled

BASE = {
    "name": "mine", "images": "mnist", "architecture": "cnn_s", "epochs": 2, "activation": "tanh", "dropout": 0.0,
    "init": "kaiming_uniform", "optimizer": "adam", "lr": [1e-2, 3e-3], "weight_decay": [0.0, 1e-2], "seeds": 1,
}  # fmt: skip
TORCH = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": lambda parameters, **options: torch.optim.SGD(parameters, momentum=0.9, **options),
    "sgd_nesterov": lambda parameters, **options: torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **options),
}
PATHS = [
    "torch",
    pytest.param("native", marks=pytest.mark.skipif(native.available() is not None, reason="no compiler")),
]
LAYERS = get_architecture("cnn_s").layers(1, 10)


def zoo_of(**changes):
    return zoo_from_dict(BASE | changes, "test")


def alone(zoo, member, data, steps):
    """The weights of a member after steps of torch.optim, and of torch's own clipping, smoothing and schedule."""
    point = member.hyperparameters
    module = Network(LAYERS, point.activation, 0.0)
    weights = initialise(LAYERS, torch.tensor([member.seed]), [point.init])[0]
    module.load_state_dict(build_layout(LAYERS).unflatten(weights), strict=False)
    optimizer = TORCH[point.optimizer](module.parameters(), lr=point.lr, weight_decay=point.weight_decay)
    size, images = point.batch_size, len(data.train)
    in_epoch = -(-images // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: scheduled(zoo.scheduler, step, in_epoch * zoo.epochs).lr_factor
    )
    for step in range(steps):
        order = plain.streams.permutations(torch.tensor([member.seed]), 1 + step // in_epoch, images)[0]
        index = order[step % in_epoch * size : (step % in_epoch + 1) * size]
        optimizer.zero_grad()
        logits = module(data.normalise(data.train.images[index]))
        smoothing = point.label_smoothing or 0.0
        functional.cross_entropy(logits, data.train.labels[index], label_smoothing=smoothing).backward()
        if point.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), point.clip_norm)
        optimizer.step()
        schedule.step()
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "changes",
    [
        *({"optimizer": name} for name in TORCH),
        {"clip_norm": [0.1, 2.0]},
        {"optimizer": "sgd", "clip_norm": 0.05, "lr": 0.1},
        {"label_smoothing": [0.0, 0.2]},
        {"scheduler": "cosine", "optimizer": "adamw"},
    ],
    ids=str,
)
def test_a_stack_of_members_is_what_torch_makes_of_each(tmp_path, path, changes):
    zoo, data = zoo_of(batch_size=15, epochs=2, **changes), plain.tiny_images(train=40)
    run = train_zoo(zoo, tmp_path / "run", data, path=path)
    assert run.manifest.engine.startswith(path)
    for cohort in run.cohorts():
        for place, member in enumerate(cohort.members):
            expected = alone(zoo, member, data, 6)
            far = (cohort.weights(2)[place] - expected).abs().max().item()
            moved = (cohort.weights(2)[place] - cohort.weights(0)[place]).abs().max().item()
            assert far < 2e-3 * moved, (member.hyperparameters, far, moved)


@pytest.mark.parametrize("path", PATHS)
def test_a_members_bits_do_not_depend_on_how_the_others_are_clipped_and_smoothed(path):
    zoo, data = zoo_of(clip_norm=[0.05, 0.5], label_smoothing=[0.0, 0.1]), plain.tiny_images(train=20)
    chosen = members_of(zoo)
    make = TorchBlock if path == "torch" else native.NativeBlock

    def trained(members):
        recipe = block_recipe(LAYERS, zoo, members)
        block = make(recipe, data)
        block.load(initialise(LAYERS, recipe.seeds, [member.hyperparameters.init for member in members]))
        settings = [MemberSettings.of(members, 20).at(None, step, 2) for step in range(2)]
        block.train(data.train, block.order(1, 20), epoch=1, first_step=0, settings=settings)
        return block.store()[0]

    together = trained(chosen[:4])  # as many as the narrowest vectors have lanes
    for place in (0, 1, 3):
        assert torch.equal(trained([chosen[place]])[0], together[place])
    assert torch.equal(trained(chosen[1:4]), together[1:4])


def rates(scheduler, steps, lr=0.5):
    """The learning rates of `steps` steps of a torch scheduler."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    schedule = scheduler(optimizer)
    given = []
    for _ in range(steps):
        given.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return given


def test_schedules_are_those_of_torch():
    lr = torch.optim.lr_scheduler

    def warm(optimizer):
        rise = lr.LinearLR(optimizer, start_factor=1 / 4, total_iters=3)
        return lr.SequentialLR(optimizer, [rise, lr.CosineAnnealingLR(optimizer, 16)], [4])

    cases = {
        "cosine": (lambda optimizer: lr.CosineAnnealingLR(optimizer, 20), {}),
        "step": (lambda optimizer: lr.StepLR(optimizer, 6, 0.3), {"decay": Decay(2, 0.3), "steps_an_epoch": 3}),
        "onecycle": (lambda optimizer: lr.OneCycleLR(optimizer, 0.5, total_steps=21), {}),
    }
    for name, (make, options) in cases.items():
        total = 21 if name == "onecycle" else 20
        ours = [0.5 * scheduled(name, step, total, **options).lr_factor for step in range(20)]
        assert ours == pytest.approx(rates(make, 20), rel=1e-6), name
    ours = [0.5 * scheduled("cosine", step, 20, warmup=4).lr_factor for step in range(20)]
    assert ours == pytest.approx(rates(warm, 20), rel=1e-6)
    assert [scheduled(None, step, 4, warmup=2).lr_factor for step in range(4)] == [0.5, 1.0, 1.0, 1.0]


def test_members_have_warm_ups_and_decays_of_their_own():
    zoo = zoo_of(scheduler="step", decay_epochs=[1, 2], decay_factor=0.5, warmup_epochs=[0, 1], lr=1.0, weight_decay=0)
    chosen = members_of(zoo)
    settings = MemberSettings.of(chosen, 40)  # of 4 steps an epoch
    for step in (0, 3, 4, 8):
        for member, rate in zip(chosen, settings.at(zoo.scheduler, step, 8).lr.tolist(), strict=True):
            point = member.hyperparameters
            warm = (step + 1) / 4 if point.warmup_epochs and step < 4 else 1.0
            assert rate == pytest.approx(warm * 0.5 ** (step // 4 // point.decay_epochs)), (point, step)


def test_starts_have_the_published_moments():
    seeds = torch.arange(60)
    conv = slice(*[(spec.offset, spec.offset + spec.size) for spec in build_layout(LAYERS).tensors][2])
    fan_in, fan_out = 8 * 25, 6 * 25

    def drawn(init, std=None):
        return initialise(LAYERS, seeds, [init] * 60, [std] * 60)[:, conv].double()

    for init, std in (
        ("glorot_normal", math.sqrt(2 / (fan_in + fan_out))), ("he_normal", math.sqrt(2 / fan_in)),
    ):  # fmt: skip
        values = drawn(init)
        assert values.std().item() == pytest.approx(std, rel=0.02)
        assert values.abs().max().item() <= 2 * std / 0.8796 * 1.001
    cut = drawn("truncated_normal", 0.1)
    assert cut.abs().max().item() <= 0.2
    assert cut.std().item() == pytest.approx(0.08796, rel=0.02)
    assert torch.equal(drawn("normal", 0.25), drawn("normal") * 0.25)
    rows = drawn("orthogonal", 2.0).view(60, 6, 200)
    torch.testing.assert_close(
        rows @ rows.transpose(1, 2), 4 * torch.eye(6).double().expand(60, 6, 6), atol=1e-5, rtol=0
    )
    biases = initialise(LAYERS, seeds[:2], ["normal"] * 2, biases=[0.0, None])
    assert biases[:, build_layout(LAYERS).tensors[1].offset].tolist() == [0.0, pytest.approx(0.01)]


def test_points_are_drawn_from_the_entropy_alone():
    ranges = {"lr": {"log_uniform": [5e-4, 5e-2]}, "dropout": {"uniform": [0, 0.7]}, "points": 300, "weight_decay": 0}
    zoo = zoo_of(**ranges, optimizer=["adam", "sgd"])
    points = zoo.grid()
    assert (zoo.points, zoo.models, len(set(points))) == (300, 300, 300)
    assert zoo_from_dict(zoo.to_dict(), "again") == zoo
    assert zoo.to_dict()["lr"] == {"log_uniform": [5e-4, 5e-2]}
    logs = torch.tensor([math.log10(point.lr) for point in points])
    assert math.log10(5e-4) <= logs.min() < -3.2 < -1.4 < logs.max() <= math.log10(5e-2)
    assert logs.mean().item() == pytest.approx(math.log10(5e-3), abs=0.1)
    assert 100 < sum(point.optimizer == "sgd" for point in points) < 200
    assert all(point.lr == float(f"{point.lr:.6g}") for point in points)  # whatever the last bit of a logarithm
    assert [member.model_id for member in members_of(zoo, models=7)] == [m.model_id for m in members_of(zoo)][:7]
    assert dataclasses.replace(zoo, entropy=1).grid()[0] != points[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": {"log_uniform": [1e-3, 1e-1]}}, "lr: log_uniform is for zoos whose points are drawn; say how many"),
        ({"lr": {"log_uniform": [0, 1]}, "points": 3}, "lr: log_uniform: expected two ascending numbers above 0"),
        ({"lr": {"loguniform": [1, 2]}, "points": 3}, "lr: expected a value, a list of them, or a range"),
        ({"train_fraction": 1.5}, "train_fraction: expected above 0, at most 1, found 1.5"),
        ({"label_smoothing": 1}, "label_smoothing: expected"),
        ({"clip_norm": 0}, "clip_norm: expected above 0"),
        ({"scheduler": "step"}, "decay_epochs: the schedule step needs it"),
        ({"decay_epochs": 2}, "decay_epochs: is for the schedule step"),
        ({"scheduler": "onecycle", "warmup_epochs": 1}, "warmup_epochs: the schedule onecycle rises by itself"),
        ({"init_std": 0.1}, "init_std: kaiming_uniform takes none"),
        ({"checkpoints": [0, 1]}, "epochs: 2 is none of the checkpoints"),
        ({"checkpoints": [2, 0]}, "checkpoints: expected ascending epochs"),
        ({"points": 1000, "activation": ["tanh", "relu"]}, "points: 1,000 that differ cannot be drawn"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(changes, message):
    with pytest.raises((SpecError, ValueError), match=message):
        members_of(zoo_of(**changes))


def test_a_share_of_the_images_is_the_first_ones_and_a_cohort_of_its_own(tmp_path):
    data = plain.tiny_images(train=40)
    zoo = zoo_of(train_fraction=[0.25, 1.0], lr=1e-2, weight_decay=0.0, seeds=2)
    run = train_zoo(zoo, tmp_path / "run", data)
    part = dataclasses.replace(data, train=Split(data.train.images[:10], data.train.labels[:10]))
    for cohort in run.cohorts():
        (fraction,) = {member.hyperparameters.train_fraction for member in cohort.members}
        seen = part if fraction == 0.25 else data
        steps = 2 * -(-len(seen.train) // 10)
        expected = alone(zoo, cohort.members[0], seen, steps)
        torch.testing.assert_close(cohort.weights(2)[0], expected, atol=1e-4, rtol=0)


def test_the_small_cnn_zoo_is_a_random_search_as_published():
    zoo = get_zoo("mnist_small_cnn")
    assert (zoo.models, zoo.states, zoo.batch_size) == (30_000, 270_000, 512)
    assert zoo.kept_epochs() == (0, 1, 2, 3, 20, 40, 60, 80, 86)
    points = [member.hyperparameters for member in members_of(zoo, models=64)]
    assert {point.train_fraction for point in points} == {0.1, 0.25, 0.5, 1.0}
    assert all(5e-4 <= point.lr <= 5e-2 and 1e-3 <= point.init_std <= 0.5 for point in points)
    assert len({member.seed for member in members_of(zoo, models=64)}) == 64
