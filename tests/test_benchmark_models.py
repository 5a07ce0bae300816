"""Models that read weights in the benchmark: one table, paired, resumable, at the command line and in Python."""

import dataclasses
import itertools
import json
import sys
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from tiny_predictors import shrink
from tiny_runs import make_run
from typer.testing import CliRunner

import zoo_datasets as zd
from zoo_datasets.builders import build_repository, write_rows
from zoo_datasets.cli.app import app
from zoo_datasets.errors import RepositoryError, SpecError, UnknownNameError
from zoo_datasets.evaluation.benchmark import scores
from zoo_datasets.evaluation.benchmark.memory import measured
from zoo_datasets.evaluation.benchmark.model_record import run_models
from zoo_datasets.evaluation.benchmark.model_results import results_of
from zoo_datasets.evaluation.benchmark.models import ModelSettings, fit_all
from zoo_datasets.evaluation.benchmark.record import read_record
from zoo_datasets.evaluation.benchmark.run import read_data
from zoo_datasets.evaluation.benchmark.tasks import tasks_of
from zoo_datasets.networks.layers import Linear, Sine
from zoo_datasets.predictors import PREDICTORS
from zoo_datasets.predictors import fit as fit_module
from zoo_datasets.predictors.base import Model
from zoo_datasets.predictors.deepsets import DeepSets
from zoo_datasets.specs.zoos import get_zoo

NAME = "mnist_cnn_s_hyp_rand"
QUICK = {"epochs": 1, "budget": 1e5, "seeds": 2, "resamples": 50}


@pytest.fixture(autouse=True)
def _tiny_models(monkeypatch):
    shrink(monkeypatch)


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """60 models of a zoo with many hyperparameters, with random weights."""
    folder = tmp_path_factory.mktemp("benchmark")
    make_run(folder / "run", ((60, 2),), zoo=get_zoo(NAME))
    build_repository(folder / "run", folder / "repo")
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    yield folder / "repo"
    patch.undo()


def settings_of(**changes):
    base = {"train": NAME, "tests": (NAME,), "models": ("statistics", "deepsets"), "targets": ("test_acc", "epoch")}
    return ModelSettings(**{**base, **QUICK, **changes})


def test_models_are_compared_on_the_same_rows_and_go_on(repo, tmp_path, monkeypatch):
    out = tmp_path / "models.json"
    steps = []
    record = run_models(
        repo, settings_of(), out=out, save=tmp_path / "saved", progress=lambda *step: steps.append(step)
    )
    assert [(fit.model, fit.task, fit.seed) for fit in record.fits] == [
        (model, "numbers", seed) for model in ("statistics", "deepsets") for seed in (0, 1)
    ]
    assert steps[-1][0] == steps[-1][1]
    assert steps == sorted(steps)
    found = {(result.model, result.target): result for result in record.results}
    assert len(found) == 4
    test = zd.load_zoo(repo, NAME, "test")
    for (model, target), result in found.items():
        truth = np.array(test[target], np.float64)
        mine = [np.array(fit.outcome[NAME][target]) for fit in record.fits if fit.model == model]
        by_hand = [kendalltau(truth, predicted).statistic for predicted in mine]
        assert result.by_seed["kendall"] == pytest.approx(by_hand, nan_ok=True)
        assert result.scores["r2"].value == pytest.approx(np.mean(result.by_seed["r2"]))
        assert result.rows == len(test)
        assert result.groups == len(set(test["model_id"]))
        assert result.ceiling == pytest.approx(scores.kendall_ceiling(truth))
        assert (result.parameters > 0) == (model == "deepsets")
        assert result.invariant == "permutations"
    assert {pair.metric for pair in record.comparisons} == {"r2", "kendall"}
    for pair in record.comparisons:
        best, other = (found[model, pair.target].scores[pair.metric].value for model in (pair.best, pair.other))
        assert pair.difference.value == pytest.approx(best - other, nan_ok=True)
        assert not best < other
    # A saved one says what the table was made of.
    predictor = zd.Predictor.load(tmp_path / "saved" / "deepsets-numbers-1")
    np.testing.assert_allclose(predictor.predict(test)["epoch"], record.fits[3].outcome[NAME]["epoch"], rtol=1e-5)

    # Stopped after three trainings: the fourth one alone is done again.
    cut = json.loads(out.read_text())
    cut["fits"] = cut["fits"][:3]
    cut["fits"][0]["parameters"] = 42
    out.write_text(json.dumps(cut))
    asked = []
    prepare = DeepSets.prepare
    monkeypatch.setattr(DeepSets, "prepare", lambda self, weights: (asked.append(1), prepare(self, weights)))
    again = run_models(repo, settings_of(), out=out)
    assert len(asked) == 1  # and no choice is made again
    assert again.fits[0].parameters == 42
    assert [fit.seed for fit in again.fits] == [0, 1, 0, 1]
    assert json.loads(out.read_text()) == json.loads(json.dumps(again.to_dict()))
    with pytest.raises(RepositoryError, match="a benchmark of other settings or rows"):
        run_models(repo, settings_of(seeds=3), out=out)
    with pytest.raises(RepositoryError, match="holds a benchmark of 'models', format 1, expected one of features"):
        read_record(out)
    for text in ('{"format": 1}', "[]", '{"kind": "models", "format": 1}'):
        out.write_text(text)
        with pytest.raises(RepositoryError, match=r"models\.json"):
            run_models(repo, settings_of(), out=out)


def test_scores_are_paired_and_know_their_ceiling():
    random = np.random.default_rng(0)
    truth = np.repeat(np.arange(10.0), 4)
    groups = np.arange(40) // 2
    strict = truth + np.linspace(0, 0.5, 40)  # no ties, in the right order
    assert scores.kendall(truth, strict, groups).value == pytest.approx(scores.kendall_ceiling(truth))
    assert scores.kendall_ceiling(truth) < 1
    assert scores.kendall_ceiling(np.arange(9.0)) == 1
    noisy = [truth + random.normal(size=40) for _ in range(3)]
    parts = [scores.sampled_r2(truth, predicted, groups, 200) for predicted in noisy]
    mean = scores.Sampled.mean(parts)
    assert mean.value == pytest.approx(np.mean([part.value for part in parts]))
    same = parts[0].less(parts[0]).score()
    assert (same.value, same.low, same.high) == (0, 0, 0)
    close = scores.sampled_r2(truth, noisy[0] + 0.01, groups, 200)
    paired = parts[0].less(close).score()
    assert paired.high - paired.low < 0.2 * (parts[0].score().high - parts[0].score().low)


def test_classes_are_learned_by_themselves_and_nothing_tells_them(repo):
    settings = settings_of(models=("graph", "probe", "deepsets"), targets=("activation", "test_acc"), seeds=1)
    data = read_data(repo, settings)
    assert [task.name for task in tasks_of(data)] == ["numbers", "activation"]
    refused = []
    fits = list(fit_all(data, settings, skipped=lambda *refusal: refused.append(refusal)))
    assert {(fit.model, fit.task) for fit in fits} == {
        (model, task) for model in ("graph", "probe", "deepsets") for task in ("numbers", "activation")
    } - {("probe", "activation")}
    ((model, task, reason),) = refused
    assert (model, task) == ("probe", "activation")
    assert "must know their activation" in reason
    results, _ = results_of(data, settings, fits)
    classes = [result for result in results if result.kind == "class"]
    assert {result.model for result in classes} == {"graph", "deepsets"}
    for result in classes:
        assert set(result.scores) == {"accuracy"}
        assert result.ceiling is None
        assert 0 < result.baseline < 1


def test_labels_of_anybodys_rows_are_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    random = torch.Generator().manual_seed(0)
    rows = []
    for n in range(240):
        label = n % 3
        first = torch.randn(4, 2, generator=random) * (1 + 2 * label)
        tensors = {"fc1.weight": first, "fc1.bias": torch.zeros(4), "fc2.weight": torch.randn(2, 4, generator=random),
                   "fc2.bias": torch.zeros(2)}  # fmt: skip
        rows.append((tensors, {"model_id": f"m{n:03}", "group": f"g{n // 2}", "label": label, "digit": label}))
    layers = (Linear("fc1", 2, 4), Sine(30.0), Linear("fc2", 4, 2))
    write_rows(tmp_path / "repo", "mine", rows, layers=layers)
    settings = ModelSettings(
        train="mine", tests=("mine",), models=("statistics", "deepsets"), targets=("label", "digit:class"), seeds=1,
        budget=1e5, epochs=20, resamples=20,
    )  # fmt: skip
    record = run_models(tmp_path / "repo", settings)
    assert {(result.target, result.kind) for result in record.results} == {("label", "class"), ("digit", "class")}
    for result in record.results:
        assert result.groups < result.rows  # pairs lie in one split
        assert result.scores["accuracy"].value > 0.7 > 0.5 > result.baseline, result
    with pytest.raises(UnknownNameError, match="no column named 'lable'"):
        run_models(tmp_path / "repo", dataclasses.replace(settings, targets=("lable",)))


def test_the_command_prints_one_table_and_the_differences(repo, tmp_path):
    arguments = ["benchmark", str(repo), NAME, "--models", "statistics,deepsets", "--targets", "test_acc,lr",
                 "--budget", "9h", "--epochs", "1", "--seeds", "1", "--augment", "permute,noise"]  # fmt: skip
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    for part in ("statistics", "deepsets", "log10 lr", "Kendall's τ", "at most", "permutations", "difference"):
        assert part in text
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out.json"), "--json"])
    assert json.loads(result.stdout) == json.loads((tmp_path / "out.json").read_text())
    assert json.loads(result.stdout)["settings"]["budget"] == 9 * 3600
    for wrong, message in (
        (["--budget", "soon"], "expected a time as 90s, 3m or 1.5h"),
        (["--budget", "0"], "expected a time as 90s, 3m or 1.5h"),
    ):
        result = CliRunner().invoke(app, [*arguments, *wrong])
        assert result.exit_code == 2
        assert message in " ".join(result.output.replace("│", "").split())


class Toy(Model):
    """Knows of nothing but the first weight."""

    def __init__(self, space, outputs, config):
        super().__init__(space, outputs, config)
        self.map = torch.nn.Linear(1, outputs)

    def forward(self, weights, activation):
        return self.map(weights[:, :1])


def test_a_new_predictor_is_one_entry(repo, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zoo_datasets.predictors.toy", SimpleNamespace(Toy=Toy))
    monkeypatch.setitem(PREDICTORS, "toy", ("toy", "Toy"))
    record = run_models(repo, settings_of(models=("toy",), targets=("test_acc",)), save=tmp_path)
    assert [result.model for result in record.results] == ["toy"]
    assert record.results[0].parameters == 2
    assert zd.Predictor.load(tmp_path / "toy-numbers-0").predict(torch.zeros(3, 2464))["test_acc"].shape == (3,)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(UnknownNameError, match="no predictor named 'nfm'"):
        settings_of(models=("nfm",))
    with pytest.raises(UnknownNameError, match="no augmentation of weights named 'flip'"):
        settings_of(augment=("flip",))
    with pytest.raises(SpecError, match="there is no device 'quantum'"):
        settings_of(device="quantum")
    with pytest.raises(SpecError, match="no target was named"):
        settings_of(targets=())
    with pytest.raises(SpecError, match="no model was named"):
        settings_of(models=())


def test_the_budget_holds_choice_and_seeds(repo, monkeypatch):
    """By a clock that goes on by 20 ms each time that it is looked at."""
    ticks = itertools.count()
    monkeypatch.setattr(fit_module, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 50))
    record = run_models(repo, settings_of(models=("deepsets",), budget=4.0, epochs=None, seeds=2))
    first, second = record.fits
    assert first.choice_seconds == pytest.approx(1.0, abs=0.3)  # a quarter, of two choices
    assert first.seconds == pytest.approx(1.5, abs=0.3)
    assert second.seconds == pytest.approx(1.5, abs=0.3)
    assert record.results[0].seconds == pytest.approx(4.0, abs=0.6)
    assert first.steps > 10


def test_memory_is_what_is_taken_beyond_before():
    with measured("cpu") as memory:
        block = torch.ones(30_000_000)  # 120 MB
        assert block.sum() > 0
    assert memory.bytes > 60e6
