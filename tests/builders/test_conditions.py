"""A condition keeps the same rows while a source is built as it keeps of what was built, whatever column it asks."""

import dataclasses

import conditions
import datasets
import pytest
from raw_zoos import SEED_ZOO, TWIN_ZOO, make_twins, make_zoo, result_line
from tiny_runs import make_run

from zoo_datasets.builders import Reading, build_repository
from zoo_datasets.errors import SourceError
from zoo_datasets.repository.where import parse_where
from zoo_datasets.specs.zoos import get_zoo


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def compare(source, tmp_path):
    result = build_repository(source, tmp_path / "repo")
    assert not result.left_out
    return conditions.differing(source, tmp_path / "repo", result.config, tmp_path / "few")


def retell(folders, **figures):
    """Reports of trials whose figures are no float32 numbers, and some of which are null or NaN."""
    for index, folder in enumerate(folders):
        told = {"test_acc": 0.096 + index / 100, "train_acc": 0.099, "val_loss": (1.5, float("nan"))[index % 2]}
        told["val_acc"] = None
        lines = [result_line(epoch, {}, **(told | figures)) for epoch in range(3)]
        (folder / "result.json").write_text("\n".join(lines) + "\n")


def test_every_column_of_a_raw_zoo_can_be_asked_before_weights_are_read(tmp_path):
    zoo = tmp_path / SEED_ZOO
    retell(make_zoo(zoo, models=5, varied=lambda index: {"optim::optimizer": ("adam", "sgd")[index % 2]}))
    assert compare(zoo, tmp_path) == ({}, set())


def test_of_raw_twins_all_can_be_asked_but_what_their_weights_tell(tmp_path):
    parents = make_zoo(tmp_path / SEED_ZOO, models=4)
    make_twins(tmp_path / TWIN_ZOO, parents)
    assert compare(tmp_path / TWIN_ZOO, tmp_path) == ({}, {"sparsity"})
    reading = Reading(where=parse_where("epoch == 1 and sparsity < 1"))
    with pytest.raises(SourceError, match="sparsity will be computed from the weights.*use zoo, model_id, "):
        build_repository(tmp_path / TWIN_ZOO, tmp_path / "few", reading=reading)
    # Recorded losses hold β·KL and are no column, so that no condition sees them either.
    with pytest.raises(SourceError, match="no state of it fits"):
        build_repository(tmp_path / TWIN_ZOO, tmp_path / "few", reading=Reading(where=parse_where("test_loss < 0")))


def test_every_column_of_a_run_can_be_asked(tmp_path):
    zoo = dataclasses.replace(get_zoo("digits_cnn_s"), optimizer=("adam", "sgd"), epochs=2)
    run = make_run(tmp_path / "run", ((6, 2),), zoo=zoo, figures={"val_loss": None})
    assert compare(run.path, tmp_path) == ({}, set())
