"""Two zoos side by side, and one model: numbers against plain ones, and pictures."""

import json

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_runs import make_run
from typer.testing import CliRunner

from zoo_datasets.builders import build_repository
from zoo_datasets.cli.app import app
from zoo_datasets.errors import RepositoryError, UnknownNameError
from zoo_datasets.evaluation.comparison import compare
from zoo_datasets.evaluation.single import describe
from zoo_datasets.specs.zoos import get_zoo

NAME, OTHER = "digits_cnn_s", "mnist_cnn_s"


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    make_run(folder / "run", ((12, 2),))
    make_run(folder / "more", ((16, 3),))
    make_run(folder / "other", ((6, 1),), zoo=get_zoo(OTHER))
    build_repository(folder / "run", folder / "repo")
    build_repository(folder / "more", folder / "again")
    build_repository(folder / "other", folder / "repo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield folder / "repo"


def rows_of(repo, name):
    return pq.read_table(repo / f"{name}-meta").to_pandas()


def test_models_that_both_hold_are_paired(repo):
    found = compare(f"{repo}/{NAME}", f"{repo.parent}/again/{NAME}")
    first, second = (rows_of(folder, NAME) for folder in (repo, repo.parent / "again"))
    ends = [rows[rows["epoch"] == rows["epoch"].max()].set_index("model_id")["test_acc"] for rows in (first, second)]
    difference = (ends[1] - ends[0]).dropna().astype(float)
    assert found["pairs"]["models"] == len(difference) == 12
    assert found["pairs"]["how"] == "models that both zoos hold"
    box = found["pairs"]["figures"]["test_acc"]["difference"]
    assert (box["count"], box["quantiles"][2]) == (12, pytest.approx(np.median(difference)))
    assert [side["models"] for side in found["sides"]] == [12, 16]
    assert found["sides"][0]["name"] != found["sides"][1]["name"]
    best = first.sort_values(["val_acc", "val_loss"], ascending=[False, True]).iloc[0]
    assert found["sides"][0]["best"]["model_id"] == best["model_id"]
    assert found["sides"][1]["distribution"]["test_acc"][50] == pytest.approx(np.median(ends[1]))


def test_zoos_without_common_models_have_no_pairs(repo, tmp_path):
    addresses = [f"{repo}/{NAME}", f"{repo}/{OTHER}"]
    assert compare(*addresses)["pairs"] is None
    done = CliRunner().invoke(app, ["compare", *addresses, "--svg", str(tmp_path / "svg")])
    assert done.exit_code == 0, done.output
    assert "no pairs of models" in done.output
    names = {path.stem for path in (tmp_path / "svg").iterdir()}
    assert {"test_acc_over_epochs", "test_acc_at_the_end"} <= names
    assert "test_acc_of_pairs" not in names
    with pytest.raises(RepositoryError, match="expected a repository and the name of a zoo in it"):
        compare(NAME, addresses[0])


def test_the_best_model_is_shown(repo, tmp_path):
    rows = rows_of(repo, NAME)
    best = rows.sort_values(["val_acc", "val_loss"], ascending=[False, True]).iloc[0]
    arguments = ["show", str(repo), NAME, "--best"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    found = json.loads(done.output)
    assert (found["model_id"], found["epoch"]) == (best["model_id"], best["epoch"])
    weights = pq.read_table(
        repo / NAME, filters=[("model_id", "=", best["model_id"]), ("epoch", "=", int(best["epoch"]))]
    )
    first = np.asarray(weights["weights"][0].as_py(), np.float32)[:200]  # conv1.weight: 8 × 1 × 5 × 5
    assert found["tensors"][0]["name"] == "conv1.weight"
    assert (found["tensors"][0]["mean"], found["tensors"][0]["std"]) == pytest.approx(
        (first.mean(), first.std()), rel=1e-4
    )
    done = CliRunner().invoke(app, [*arguments, "--pdf", str(tmp_path / "pdf")])
    assert done.exit_code == 0, done.output
    assert best["model_id"] in done.output
    assert {path.name for path in (tmp_path / "pdf").iterdir()} == {"training.pdf", "tensors.pdf"}


def test_a_model_is_named_by_its_id_or_a_beginning_of_it(repo):
    models = sorted(set(rows_of(repo, NAME)["model_id"]))
    assert describe(repo, NAME, models[0])["epoch"] == 2
    assert describe(repo, NAME, models[0][:12], 1)["model_id"] == models[0]
    with pytest.raises(UnknownNameError, match="no model named 'zzz'"):
        describe(repo, NAME, "zzz")
    with pytest.raises(RepositoryError, match="12 models begin with ''"):
        describe(repo, NAME, "")
    with pytest.raises(RepositoryError, match=r"has the epochs \[0, 1, 2\], not 7"):
        describe(repo, NAME, models[0], 7)
    assert "give a model's id, or --best" in CliRunner().invoke(app, ["show", str(repo), NAME]).output
