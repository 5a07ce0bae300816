"""The benchmark: features, probes and scores against plain references, and the command from end to end."""

import dataclasses
import json
import re
import sys

import datasets
import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from tiny_runs import make_run
from typer.testing import CliRunner

from zoo_datasets.builders import build_repository, write_rows
from zoo_datasets.cli.app import app
from zoo_datasets.errors import RepositoryError, SpecError, UnknownNameError
from zoo_datasets.evaluation.benchmark import paper, probes, scores
from zoo_datasets.evaluation.benchmark.probes import ALPHAS, Fold
from zoo_datasets.evaluation.benchmark.record import read_record, run_benchmark
from zoo_datasets.evaluation.benchmark.run import Result, Settings, read_data
from zoo_datasets.evaluation.benchmark.samples import check_apart
from zoo_datasets.evaluation.features import FEATURES, get_features
from zoo_datasets.evaluation.features.statistics import PERCENTILES, names_of
from zoo_datasets.networks.architectures import layout_of
from zoo_datasets.specs.zoos import get_zoo

LAYOUT = layout_of("cnn_s", 1, 10)
NAME = "mnist_cnn_s_hyp_rand"


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """60 models of a zoo with many hyperparameters, with random weights."""
    folder = tmp_path_factory.mktemp("benchmark")
    figures = {"train_acc": None}
    make_run(folder / "run", ((60, 2),), zoo=get_zoo(NAME), figures=figures)
    build_repository(folder / "run", folder / "repo")
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    yield folder / "repo"
    patch.undo()


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_statistics_are_numpys():
    weights = draw(5, LAYOUT.size)
    found = FEATURES["statistics"].fit(lambda: weights, LAYOUT)(weights)
    assert found.shape == (5, len(names_of(LAYOUT)))
    assert names_of(LAYOUT)[7] == "conv1.bias mean"
    for number, where in enumerate(LAYOUT.slices().values()):
        part = weights[:, where].astype(np.float64)
        expected = [part.mean(1), part.var(1), *np.percentile(part, PERCENTILES, axis=1)]
        np.testing.assert_allclose(found[:, 7 * number : 7 * number + 7], np.stack(expected, 1), rtol=1e-4, atol=1e-6)


def test_spectra_are_singular_values():
    weights = draw(3, LAYOUT.size)
    found = FEATURES["spectra"].fit(lambda: weights, LAYOUT)(weights)
    conv2 = weights[1, LAYOUT.slices()["conv2.weight"]].reshape(6, 200)
    np.testing.assert_allclose(found[1, 8:14], np.linalg.svd(conv2, compute_uv=False), rtol=1e-5)


@pytest.mark.parametrize("name", ["pca", "kernel_pca"])
def test_fitted_features_treat_rows_alone(name):
    training = draw(90, LAYOUT.size)
    before = training.copy()
    transform = FEATURES[name].fit(lambda: training, LAYOUT)
    rows = draw(4, LAYOUT.size, seed=1)
    np.testing.assert_allclose(transform(rows)[2:3], transform(rows[2:3]), rtol=1e-3, atol=1e-4)
    assert np.array_equal(training, before)


def test_unknown_features_are_refused():
    with pytest.raises(UnknownNameError, match="no feature named 'statistic'; did you mean statistics"):
        get_features(["statistic"])


@pytest.mark.parametrize("shape", [(50, 8), (12, 40)])
def test_ridge_is_scikit_learns(shape):
    """With more rows than features and with fewer; alpha is the best one on validation."""
    features, other = draw(*shape), draw(30, shape[1], seed=1)
    targets = features[:, :2] @ [[1.0, 2], [3, -1]] + draw(shape[0], 2, seed=2)
    truth = other[:, :2] @ [[1.0, 2], [3, -1]]
    fold = probes.standardised(Fold(features.copy(), other.copy(), (other.copy(),)))
    predictions = probes.ridge(fold, targets, truth)
    train, validation = fold.train.astype(np.float64), fold.validation.astype(np.float64)
    for target, prediction in enumerate(predictions):
        fits = [Ridge(alpha=alpha).fit(train, targets[:, target]) for alpha in ALPHAS]
        errors = [((fit.predict(validation) - truth[:, target]) ** 2).sum() for fit in fits]
        best = int(np.argmin(errors))
        assert prediction.settings == {"alpha": ALPHAS[best]}
        np.testing.assert_allclose(prediction.tests[0], fits[best].predict(validation), rtol=1e-4, atol=1e-4)


def test_columns_that_are_constant_in_training_say_nothing():
    features = draw(20, 3)
    features[:, 1] = 7.3
    other = draw(5, 3, seed=1)
    fold = probes.standardised(Fold(features, other, (other.copy(),)))
    assert not fold.train[:, 1].any()
    assert not fold.tests[0][:, 1].any()
    np.testing.assert_allclose(fold.train.std(0)[[0, 2]], 1, rtol=1e-5)


def test_a_diverged_model_does_not_decide_a_linear_fit():
    features, other = draw(200, 4), draw(40, 4, seed=1)
    targets, truth = features[:, :1] * np.float64(2), other[:, :1] * np.float64(2)
    features[:8] *= 1000
    other[:2] *= 20_000
    fold = probes.standardised(Fold(features, other, (other.copy(),)))
    (prediction,) = probes.ridge(fold, targets, truth)
    errors = (prediction.tests[0] - truth[:, 0])[2:]
    assert (errors**2).mean() < truth[2:].var()


def test_classes_and_boosting_find_what_is_there():
    features = draw(400, 5)
    classes = np.where(features[:, 0] > 0, "adam", "sgd")
    numbers = features[:, 1].astype(np.float64) ** 2
    cut = [slice(0, 200), slice(200, 300), slice(300, 400)]
    fold = Fold(features[cut[0]], features[cut[1]], (features[cut[2]],))
    for prediction in (
        probes.logistic(fold, classes[cut[0]], classes[cut[1]], iterations=50),
        probes.boosting(fold, classes[cut[0]], classes[cut[1]], classes=True),
    ):
        assert np.mean(prediction.tests[0] == classes[cut[2]]) > 0.9
    prediction = probes.boosting(fold, numbers[cut[0]], numbers[cut[1]], classes=False)
    assert r2_score(numbers[cut[2]], prediction.tests[0]) > 0.7
    assert 1 <= prediction.settings["rounds"] <= probes.BOOSTING_ROUNDS


def test_scores_are_the_usual_ones_and_draw_whole_models():
    truth = np.round(draw(120).astype(np.float64), 1)
    predicted = np.round(truth + draw(120, seed=1), 1)
    models = np.random.default_rng(2).integers(0, 12, 120)
    assert scores.r2(truth, predicted, models).value == pytest.approx(r2_score(truth, predicted))
    assert scores.kendall(truth, predicted, models).value == pytest.approx(kendalltau(truth, predicted).statistic)
    assert scores.accuracy(truth, predicted, models).value == np.mean(truth == predicted)
    # A draw of whole models, done by hand.
    counts = scores.draws(12, 25)
    by_hand = {"r2": [], "kendall": [], "accuracy": []}
    for drawn in counts.astype(int):
        rows = np.concatenate([np.tile(np.flatnonzero(models == model), times) for model, times in enumerate(drawn)])
        by_hand["r2"].append(r2_score(truth[rows], predicted[rows]))
        by_hand["kendall"].append(kendalltau(truth[rows], predicted[rows]).statistic)
        by_hand["accuracy"].append(np.mean(truth[rows] == predicted[rows]))
    for name, values in by_hand.items():
        score = getattr(scores, name)(truth, predicted, models, 25)
        assert [score.low, score.high] == pytest.approx(list(np.percentile(values, (2.5, 97.5))))


def test_kendall_in_pieces_is_the_same(monkeypatch):
    truth, predicted = draw(60).astype(np.float64), draw(60, seed=1).astype(np.float64)
    models = np.arange(60) // 3
    whole = scores.kendall(truth, predicted, models, 10)
    monkeypatch.setattr(scores, "_PAIRS", 500)
    assert scores.kendall(truth, predicted, models, 10) == whole


def test_a_benchmark_predicts_each_target_once_and_goes_on(repo, tmp_path):
    targets = ("test_acc", "ggap", "lr", "optimizer")
    settings = Settings(train=NAME, tests=(NAME,), features=("statistics", "pca"), targets=targets, resamples=20)
    out = tmp_path / "benchmark.json"
    steps = []
    record = run_benchmark(repo, settings, out=out, progress=lambda *step: steps.append(step))
    # ggap is unknown: these models have no training accuracy.
    assert record.skipped == {"ggap": "not known in training and validation"}
    numbers, classes = {"test_acc", "lr"}, {"lr", "optimizer"}
    expected = {("statistics", "boosting"), ("statistics", "linear"), ("pca", "linear")}
    made = {(r.feature, "boosting" if r.probe == "boosting" else "linear", r.target, r.kind) for r in record.results}
    assert made == {(*e, t, "number") for e in expected for t in numbers} | {
        (*e, t, "class") for e in expected for t in classes
    }
    assert len(made) == len(record.results) == steps[-1][0] == steps[-1][1]
    scales = {result.target: result.scale for result in record.results if result.kind == "number"}
    assert scales == {"test_acc": "linear", "lr": "log10"}
    assert sum(entry["models"] for entry in record.rows) == sum(entry["groups"] for entry in record.rows) == 60
    assert read_record(out) == record

    cut = json.loads(out.read_text())
    cut["results"] = cut["results"][:3]
    cut["results"][0]["baseline"] = 42.0
    out.write_text(json.dumps(cut))
    again = run_benchmark(repo, settings, out=out)
    assert len(again.results) == len(record.results)
    assert again.results[0].baseline == 42.0  # kept, not computed again
    with pytest.raises(RepositoryError, match="a benchmark of other settings or rows"):
        run_benchmark(repo, dataclasses.replace(settings, resamples=21), out=out)
    out.write_text("{}")
    with pytest.raises(RepositoryError, match=r"benchmark\.json is no benchmark's file"):
        run_benchmark(repo, settings, out=out)


def test_scores_of_one_row_are_null_in_json():
    one = np.ones(1)
    zeros = scores.r2(one, one, np.zeros(1, int), 5)
    fields = {"test": "z", "target": "t", "kind": "number", "scale": "linear", "feature": "f", "probe": "ridge"}
    result = Result(**fields, scores={"r2": zeros}, baseline=float("nan"), chosen={}, rows=1, models=1)
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert np.isnan(Result.from_dict(json.loads(text)).scores["r2"].value)


def test_no_model_is_in_two_splits(repo):
    data = read_data(repo, Settings(train=NAME, tests=(NAME,)))
    assert not data.train.families & data.tests[0].families
    with pytest.raises(RepositoryError, match="models are in mnist_cnn_s_hyp_rand train and in .* train, as"):
        check_apart(data.train, data.train)


def test_rows_that_are_not_finite_are_left_out_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    run = make_run(tmp_path / "run", ((30, 1),))
    bad = [run.cohort(0).members[0].model_id]
    run = make_run(tmp_path / "bad", ((30, 1),), nan=bad)
    build_repository(tmp_path / "bad", tmp_path / "repo", keep_nonfinite=True)
    record = run_benchmark(
        tmp_path / "repo",
        Settings(
            train="digits_cnn_s", tests=("digits_cnn_s",), features=("weights",), targets=("test_acc",), resamples=5
        ),
    )
    assert record.left_out == 2
    assert sum(entry["rows"] for entry in record.rows) == 58


def test_the_command_prints_tables_and_json(repo, tmp_path):
    options = ["--features", "statistics", "--targets", "test_acc,optimizer", "--where", "epoch >= 1"]
    result = CliRunner().invoke(app, ["benchmark", str(repo), NAME, *options])
    assert result.exit_code == 0, result.output
    for text in ("test_acc", "optimizer", "boosting", "Kendall's τ", "["):
        assert text in result.output
    out = tmp_path / "out.json"
    result = CliRunner().invoke(app, ["benchmark", str(repo), NAME, *options, "--out", str(out), "--json"])
    found = json.loads(result.stdout)
    assert found == json.loads(out.read_text())
    assert {entry["target"] for entry in found["results"]} == {"test_acc", "optimizer"}
    assert found["settings"]["where"] == "epoch >= 1"
    assert CliRunner().invoke(app, ["benchmark", str(repo)]).exit_code == 2


def test_one_zoo_is_tested_on_others(repo, tmp_path):
    make_run(tmp_path / "run", ((40, 1),))
    build_repository(tmp_path / "run", repo)
    options = ["--features", "statistics", "--targets", "test_acc", "--json"]
    both = f"digits_cnn_s,{NAME}"
    result = CliRunner().invoke(app, ["benchmark", str(repo), "--train", "digits_cnn_s", "--test", both, *options])
    found = json.loads(result.stdout)["results"]
    assert {(entry["test"], entry["probe"]) for entry in found} == {
        (zoo, probe) for zoo in ("digits_cnn_s", NAME) for probe in ("ridge", "boosting")
    }
    with pytest.raises(UnknownNameError, match="no config named 'nothing'"):
        read_data(repo, Settings(train="digits_cnn_s", tests=("nothing",)))
    with pytest.raises(SpecError, match="no target was named"):
        Settings(train=NAME, tests=(NAME,), targets=())


def test_umap_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(SpecError, match=r"pip install 'zoo-datasets\[umap\]'"):
        FEATURES["umap"].fit(lambda: draw(20, LAYOUT.size), LAYOUT)


def test_a_benchmark_says_how_many_groups_each_split_has(tmp_path):
    random = torch.Generator().manual_seed(0)
    rows = [
        ({"w": torch.randn(4, generator=random)},
         {"model_id": f"m{n:03}", "group": f"g{n // 5}", "label": n % 8, "test_acc": n / 200})
        for n in range(200)
    ]  # fmt: skip
    write_rows(tmp_path / "repo", "mine", rows)
    counts = {}
    for split_by in ("model", "group:label"):
        settings = Settings(
            train="mine", tests=("mine",), features=("weights",), targets=("test_acc",), split_by=split_by, resamples=5
        )
        record = run_benchmark(tmp_path / "repo", settings)
        assert sum(entry["models"] for entry in record.rows) == 200
        counts[split_by] = sum(entry["groups"] for entry in record.rows)
    assert counts == {"model": 40, "group:label": 8}
    arguments = ["benchmark", str(tmp_path / "repo"), "mine", "--targets", "test_acc", "--features", "weights"]
    invoked = CliRunner().invoke(app, arguments)
    assert invoked.exit_code == 0, invoked.output
    assert re.search(r"mine train \d+ models in \d+ groups", " ".join(invoked.output.split()))


@pytest.mark.parametrize("rows", [9, 60])
def test_the_papers_ridge_penalises_the_intercept_too(rows):
    features, targets = 10 * draw(rows, 20) + 5, draw(rows, 2, seed=1).astype(np.float64) + 3
    validation, truth = 10 * draw(7, 20, seed=2) + 5, draw(7, 2, seed=3).astype(np.float64) + 3
    predictions = paper.numbers(Fold(features, validation, (validation,)), targets, truth)
    ones = [np.c_[part.astype(np.float64), np.ones(len(part))] for part in (features, validation)]
    assert len(paper.PENALTIES) == 17
    assert paper.PENALTIES[:3] + paper.PENALTIES[-2:] == (1e3, 3e2, 1e2, 3e-5, 1e-5)
    for target, prediction in enumerate(predictions):
        guesses = {
            alpha: ones[1] @ np.linalg.solve(ones[0].T @ ones[0] + alpha * np.eye(21), ones[0].T @ targets[:, target])
            for alpha in paper.PENALTIES
        }
        best = min(guesses, key=lambda alpha: ((guesses[alpha] - truth[:, target]) ** 2).sum())
        assert prediction.settings == {"alpha": best}
        np.testing.assert_allclose(prediction.tests[0], guesses[best], rtol=1e-6, atol=1e-6)


def test_the_papers_classes_are_read_by_one_linear_layer(monkeypatch):
    assert (paper.EPOCHS, paper.BATCH, paper.RATE, paper.DECAY) == (50, 10, 1e-4, 1e-6)
    monkeypatch.setattr(paper, "RATE", 1e-2)  # fewer rows do
    names = np.array(["relu", "tanh", "gelu"])
    codes = np.arange(300) % 3
    features = 0.1 * draw(300, 12)
    features[np.arange(300), codes] += 3
    fold = Fold(features[:200], features[200:250], (features[250:],))
    prediction = paper.classes(fold, names[codes[:200]])
    assert np.mean(prediction.tests[0] == names[codes[250:]]) > 0.95
    assert np.array_equal(prediction.tests[0], paper.classes(fold, names[codes[:200]]).tests[0])


def test_the_papers_protocol_takes_features_and_numbers_as_they_are(repo, tmp_path):
    settings = Settings(train=NAME, tests=(NAME,), protocol="paper", targets=("test_acc", "lr", "activation"))
    record = run_benchmark(repo, settings, out=tmp_path / "paper.json")
    assert {(r.target, r.kind, r.scale, r.probe) for r in record.results} == {
        ("test_acc", "number", "linear", "ridge"), ("lr", "number", "linear", "ridge"),
        ("activation", "class", "linear", "linear"),
    }  # fmt: skip
    assert read_record(tmp_path / "paper.json") == record
    with pytest.raises(UnknownNameError, match="no protocol named 'papre'.*paper"):
        dataclasses.replace(settings, protocol="papre")
    standard = run_benchmark(repo, dataclasses.replace(settings, protocol="standard"))
    assert standard.identity != record.identity
