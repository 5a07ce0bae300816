"""Cohort plans, schedules and optimizer paths."""

import dataclasses
import itertools

import plain
import pytest
import torch

from zoo_datasets.errors import RunError
from zoo_datasets.networks.architectures import get_architecture
from zoo_datasets.runs.manifest import Growth
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.members import members_of
from zoo_datasets.specs.zoos import get_zoo
from zoo_datasets.training import train_zoo
from zoo_datasets.training.population.cohorts import plan_cohorts
from zoo_datasets.training.population.opening import workload
from zoo_datasets.training.steps.paths import Workload, choose_path
from zoo_datasets.training.steps.schedules import constant, one_cycle


def test_cohorts_share_what_a_stack_must_share_and_leave_nobody_out():
    members = members_of(get_zoo("mnist_cnn_s_hyp_rand"), models=300)
    plan = plan_cohorts(members, [Growth(models=300, epochs=2)], 32)
    assert sorted(m.model_id for cohort in plan for m in cohort) == sorted(m.model_id for m in members)
    for cohort in plan:
        assert len(cohort) <= 32
        assert len({(m.hyperparameters.activation, m.hyperparameters.optimizer) for m in cohort}) == 1
    assert len(plan) <= 8 * 2


def test_growth_gives_new_members_cohorts_of_their_own():
    members = members_of(get_zoo("mnist_cnn_s"), models=50)
    first = plan_cohorts(members[:20], [Growth(models=20, epochs=1)], 16)
    grown = plan_cohorts(members, [Growth(models=20, epochs=1), Growth(models=50, epochs=1)], 16)
    assert grown[: len(first)] == first
    assert list(itertools.chain(*grown[len(first) :])) == members[20:]
    longer = [Growth(models=20, epochs=1), Growth(models=20, epochs=9)]
    assert plan_cohorts(members[:20], longer, 16) == first


@pytest.mark.parametrize("steps", [7, 50, 333])
def test_one_cycle_is_torchs(steps):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    for step in range(steps):
        now = one_cycle(step, steps)
        assert 0.1 * now.lr_factor == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        assert now.momentum == pytest.approx(optimizer.param_groups[0]["momentum"], rel=1e-9)
        optimizer.step()
        if step < steps - 1:
            scheduler.step()


def test_without_a_schedule_the_members_settings_stay():
    assert (constant(3, 10).lr_factor, constant(3, 10).momentum) == (1.0, None)


def test_a_run_goes_on_on_its_own_path_and_changes_it_only_when_told():
    work = Workload(layers=get_architecture("cnn_s").layers(1, 10), in_shape=(1, 28, 28))
    assert choose_path("auto", "torch", work).name == "torch"
    assert choose_path("auto", "native+torch", work).name == "torch"
    with pytest.raises(RunError, match=r"trained on the abacus path, .*has no such path.*Pass --path"):
        choose_path("auto", "abacus", work)
    assert choose_path("torch", "abacus", work).name == "torch"


def test_the_native_path_says_why_it_cannot_be_used():
    residual = Workload(layers=get_architecture("resnet18").layers(3, 10), in_shape=(3, 32, 32))
    assert choose_path("auto", None, residual).name == "torch"
    with pytest.raises(RunError, match="native path cannot be used here: .*pass --path auto"):
        choose_path("native", None, residual)
    augmented = Workload(layers=get_architecture("cnn_s").layers(1, 10), in_shape=(1, 28, 28), augmentation=("flip",))
    with pytest.raises(RunError, match="know no augmentation, but the zoo has flip"):
        choose_path("native", None, augmented)
    on_gpu = Workload(layers=get_architecture("cnn_s").layers(1, 10), in_shape=(1, 28, 28), device="cuda")
    with pytest.raises(RunError, match="on the CPU, not on cuda"):
        choose_path("native", None, on_gpu)


def test_without_a_compiler_the_plain_path_is_chosen(monkeypatch):
    work = Workload(layers=get_architecture("cnn_s").layers(1, 10), in_shape=(1, 28, 28))
    monkeypatch.setenv("CC", "no-such-compiler")
    assert choose_path("auto", None, work).name == "torch"
    with pytest.raises(RunError, match="trained on the native path, which is not available .*Pass --path torch"):
        choose_path("auto", "native", work)


def test_a_changed_path_is_recorded(tmp_path):
    data, zoo = plain.tiny_images(train=10), plain.tiny_zoo(seeds=1)
    run = train_zoo(zoo, tmp_path, data, epochs=1, path="torch")
    Run(tmp_path, dataclasses.replace(run.manifest, engine="abacus")).save()
    with pytest.raises(RunError, match="trained on the abacus path"):
        train_zoo(zoo, tmp_path, data)
    assert train_zoo(zoo, tmp_path, data, path="torch").manifest.engine == "abacus+torch"
    assert train_zoo(zoo, tmp_path, data).manifest.engine == "abacus+torch"


def test_every_change_of_path_is_recorded_in_its_order(tmp_path):
    data, zoo = plain.tiny_images(train=10), plain.tiny_zoo(seeds=1)
    for epochs, path in ((1, "torch"), (2, "auto")):
        run = train_zoo(zoo, tmp_path, data, epochs=epochs, path=path)
        assert run.manifest.engine == "torch"
    if choose_path("auto", None, workload(zoo, data, "cpu")).name == "torch":
        pytest.skip("no C compiler: there is one path only")
    native = train_zoo(zoo, tmp_path, data, epochs=3, path="native").manifest.engine
    assert native.startswith("torch+native-")
    assert train_zoo(zoo, tmp_path, data, epochs=4, path="torch").manifest.engine == f"{native}+torch"
    assert train_zoo(zoo, tmp_path, data, epochs=5).manifest.engine == f"{native}+torch"
