"""What `zoo train --dry-run` says of a training, against the training itself."""

import re
import shutil

import plain
import pytest
from typer.testing import CliRunner

import zoo_datasets.training.estimate.pace as pace_module
from zoo_datasets.cli.app import app
from zoo_datasets.errors import RunError
from zoo_datasets.specs.members import Limits
from zoo_datasets.training import train_zoo
from zoo_datasets.training.estimate.estimate import _seconds, estimate_training, print_estimate
from zoo_datasets.training.launch import Launch
from zoo_datasets.training.population.cohorts import COHORT_SIZE
from zoo_datasets.training.population.opening import check_run

GRID = plain.tiny_zoo(activation=("tanh", "relu"), optimizer=("adam", "sgd"), dropout=(0.0, 0.5), seeds=5)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(pace_module, "TRAIN_SECONDS", 0.1)
    monkeypatch.setattr(pace_module, "EVALUATE_SECONDS", 0.1)


def plan_of(zoo, out, data, threads=2, path="auto", **options):
    opening = check_run(zoo, out, data, Launch(path=path), **options)
    return estimate_training(opening, data.limited(options.get("limits") or Limits()), threads)


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_plan_foretells_the_run(tmp_path):
    data = plain.tiny_images(train=40)
    plan = plan_of(GRID, tmp_path / "run", data, path="torch")
    assert not (tmp_path / "run").exists()
    run = train_zoo(GRID, tmp_path / "run", data, path="torch")
    assert (plan.models, plan.epochs, plan.new, plan.path, plan.lanes) == (40, 2, True, run.manifest.engine, 16)
    assert [(group.activation, group.optimizer, group.batch_size) for group in plan.groups] == [
        (activation, optimizer, 10) for activation in ("relu", "tanh") for optimizer in ("adam", "sgd")
    ]
    assert sum(group.cohorts for group in plan.groups) == len(run.cohorts())
    assert all((group.members, group.blocks, group.fill) == (10, 1, 10 / 16) for group in plan.groups)
    assert plan.states_left == plan.states == 40 * 3
    assert plan.size == plan.size_left == pytest.approx(size_of(tmp_path / "run"), rel=0.05)
    assert plan.seconds > 0


def test_what_a_run_holds_is_not_planned_again(tmp_path):
    data = plain.tiny_images(train=20)
    train_zoo(GRID, tmp_path / "run", data, models=20, epochs=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    plan = plan_of(GRID, tmp_path / "run", data, models=20, epochs=1)
    assert (plan.new, plan.states_left, plan.seconds, plan.pace) == (False, 0, 0.0, None)
    grown = plan_of(GRID, tmp_path / "run", data, models=30, epochs=2)
    assert (grown.states, grown.states_left) == (90, 20 + 30)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    train_zoo(GRID, tmp_path / "run", data, models=30, epochs=2)
    assert grown.size == pytest.approx(size_of(tmp_path / "run"), rel=0.05)
    assert grown.size_left == pytest.approx(size_of(tmp_path / "run") - sum(map(len, before.values())), rel=0.1)


def test_full_cohorts_fill_their_lanes(tmp_path):
    zoo = plain.tiny_zoo(seeds=2 * COHORT_SIZE)
    plan = plan_of(zoo, tmp_path / "run", plain.tiny_images(train=20))
    (group,) = plan.groups
    assert (group.cohorts, group.members, group.fill) == (2, 2 * COHORT_SIZE, 1.0)


def test_time_follows_the_work(tmp_path):
    """One cohort's epochs follow each other; cohorts share the threads."""
    data = plain.tiny_images(train=200)
    for models, epochs, threads, factor in ((16, 4, 1, 2.0), (32, 2, 1, 2.0), (32, 2, 2, 1.0), (16, 2, 2, 1.0)):
        opening = check_run(
            plain.tiny_zoo(seeds=32), tmp_path / "run", data, Launch(path="torch"), models=models, epochs=epochs
        )
        left = [epochs + 1] * len(opening.cohorts)
        pace = pace_module.Pace(members=16, images=1, order=0.0, train=1.0, evaluate=0.0)
        assert _seconds(opening, left, data, {opening.run.manifest.network: pace}, threads) == factor * 2 * 200


def test_a_slow_network_is_not_trained_for_long(tmp_path):
    """The clock decides, not a number of steps; augmentation and a schedule are part of what is timed."""
    zoo = plain.tiny_zoo("cifar10_resnet18", architecture="cnn_l", batch_size=50, seeds=2)
    plan = plan_of(zoo, tmp_path / "run", plain.tiny_images("cifar10", 32, train=120), threads=1)
    assert (plan.path, plan.states) == ("torch", 6)
    assert plan.pace.train > 0 < plan.pace.evaluate


def test_errors_are_those_of_the_training(tmp_path):
    data = plain.tiny_images(train=20)
    train_zoo(GRID, tmp_path / "run", data, models=20, epochs=1)
    for options in ({"models": 10}, {"models": 20, "limits": Limits(train=5)}):
        messages = []
        for call in (check_run, train_zoo):
            with pytest.raises(RunError) as error:
                call(GRID, tmp_path / "run", data, epochs=1, **options)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def test_a_disk_that_is_too_small_is_said(tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    print_estimate(plan_of(GRID, tmp_path / "run", plain.tiny_images(train=20)))
    assert "warning: the disk is too small for this run" in capsys.readouterr().out


def test_the_command_prints_the_plan_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["train", "digits_cnn_s", "--models", "80", "--epochs", "2", "--limit-train", "100", "--dry-run"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert not list(tmp_path.iterdir())
    assert "digits_cnn_s: 80 models to epoch 2" in result.output
    assert re.search(r"tanh\W+adam\W+10\W+2\W+80 ", result.output)
    assert "states  240 to train" in result.output
    assert re.search(
        r"time    about [\d.]+ s on \d+ threads of this machine \(measured: [\d,]+ samples/s", result.output
    )
    assert re.search(r"disk    [\d.]+ MB; [\d,.]+ GB are free", result.output)
    assert CliRunner().invoke(app, [*command, "--engine", "rya"]).exit_code == 1
