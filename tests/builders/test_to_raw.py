"""Rows written back as raw zoos, which build into the same rows."""

import json

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from raw_zoos import HYP_ZOO, INDICES, SEED_ZOO, TWIN_ZOO, make_twins, make_zoo
from tiny_runs import make_run

from zoo_datasets.builders import Reading, build_repository, open_source
from zoo_datasets.builders.sources.raw.export import export_raw, raw_folder_name, source_rows, state_dict
from zoo_datasets.builders.sources.raw.index import index_dict, module_indices
from zoo_datasets.builders.sources.raw.names import read_folder_name, zoo_name
from zoo_datasets.errors import RepositoryError, SpecError
from zoo_datasets.loading.exporting import repository_rows
from zoo_datasets.networks.architectures import get_architecture
from zoo_datasets.networks.layers import build_layout
from zoo_datasets.networks.module import build_module
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.specs.axes import GRID_FIELDS
from zoo_datasets.specs.zoos import list_zoos, twins_of

SAME = (*GRID_FIELDS, "batch_size", "images", "architecture", "train_loss", "train_acc", "val_loss", "val_acc",
        "test_loss", "test_acc", "ggap", "sparsifier", "sparsity")  # fmt: skip


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def rows_of(repo, name):
    tables = [pq.read_table(repo / shard.path) for shard in read_manifest(repo, name).shards]
    return {(row["seed"], row["epoch"]): row for table in tables for row in table.to_pylist()}


def check_same(repo, other, name, columns=SAME):
    before, after = rows_of(repo, name), rows_of(other, name)
    assert before.keys() == after.keys()
    for key, row in before.items():
        assert np.array(row["weights"], np.float32).tobytes() == np.array(after[key]["weights"], np.float32).tobytes()
        np.testing.assert_equal({c: after[key].get(c) for c in columns}, {c: row.get(c) for c in columns})
    return after


def rebuilt(repo, name, tmp_path, **reading):
    """The config exported and built again into another repository."""
    exported = export_raw(repository_rows(repo, name, extras=True), tmp_path / "raw")
    result = build_repository(exported.folder, tmp_path / "again", name, reading=Reading(**reading))
    assert result.left_out == ()
    return exported, result


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_config_comes_back_with_its_weights_figures_and_epochs(tmp_path, dropout):
    zoo = tmp_path / HYP_ZOO
    varied = lambda i: {"model::dropout": dropout * (i % 2), "optim::optimizer": ("adam", "sgd")[i % 2]}  # noqa: E731
    make_zoo(zoo, models=4, epochs=(0, 5, 10), varied=varied)
    name = build_repository(zoo, tmp_path / "repo").config
    exported, result = rebuilt(tmp_path / "repo", name, tmp_path)
    assert (exported.folder.name, exported.models, exported.states) == (HYP_ZOO, 4, 12)
    assert not any("index_dict" in warning or "use_bias" in warning for warning in result.warnings)
    after = check_same(tmp_path / "repo", tmp_path / "again", name)
    assert {row["momentum"] for row in after.values()} == {None, 0.9}

    for file in exported.folder.glob("*/*/checkpoints"):
        state = torch.load(file, weights_only=True)
        params = json.loads((file.parents[1] / "params.json").read_text())
        indices = INDICES["cnn_s", params["model::dropout"] > 0]
        assert list(state) == [f"module_list.{index}.{part}" for index in indices for part in ("weight", "bias")]
    trial = next(path for path in sorted(exported.folder.iterdir()) if path.is_dir())
    assert [path.name for path in sorted(trial.glob("checkpoint*"))] == [f"checkpoint_{e:06d}" for e in (0, 5, 10)]
    lines = [json.loads(line) for line in (trial / "result.json").read_text().splitlines()]
    assert [(line["training_iteration"], line["done"]) for line in lines] == [(0, False), (5, False), (10, True)]
    index = json.loads((exported.folder / "index_dict.json").read_text())
    assert (index["layer"], index["idx_start"]) == ([0, 3, 6, 9, 11], [0, 208, 1414, 1514, 2254])
    config = json.loads((exported.folder / "config.json").read_text())
    assert config["optim::optimizer"] == {"grid_search": ["adam", "sgd"]}


def test_a_run_is_exported_as_a_raw_zoo_and_goes_on_where_it_stopped(tmp_path):
    make_run(tmp_path / "run", ((6, 2),), trained={1: 1})
    build_repository(tmp_path / "run", tmp_path / "repo")
    rows = source_rows(open_source(tmp_path / "run"))

    def stop(done, total):
        assert total == 18
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_raw(rows, tmp_path / "raw", stop)
    exported = export_raw(rows, tmp_path / "raw")
    assert (exported.folder.name, exported.states) == ("tune_zoo_digits_kaiming_uniform", 16)
    before = {file: file.read_bytes() for file in exported.folder.rglob("*") if file.is_file()}
    export_raw(rows, tmp_path / "other")
    assert all(
        (tmp_path / "other" / file.relative_to(tmp_path / "raw")).read_bytes() == before[file] for file in before
    )
    build_repository(exported.folder, tmp_path / "again")
    check_same(tmp_path / "repo", tmp_path / "again", "digits_cnn_s")
    some = source_rows(open_source(tmp_path / "run", Reading(models=2)), selection={"models": 2})
    with pytest.raises(RepositoryError, match="holds another export, or something else"):
        export_raw(some, tmp_path / "raw")


@pytest.mark.parametrize("keep", [True, False])
def test_twins_come_back_with_their_parents(tmp_path, keep):
    parents = make_zoo(tmp_path / SEED_ZOO, models=3, epochs=(0, 1))
    make_twins(tmp_path / TWIN_ZOO, parents, epochs=(0, 1, 2))
    build_repository(tmp_path / SEED_ZOO, tmp_path / "repo")
    name = build_repository(tmp_path / TWIN_ZOO, tmp_path / "repo", reading=Reading(keep_log_sigma2=keep)).config
    dense, _ = rebuilt(tmp_path / "repo", "mnist_cnn_s", tmp_path)
    exported, _ = rebuilt(tmp_path / "repo", name, tmp_path, keep_log_sigma2=keep)
    assert (dense.folder.name, exported.folder.name) == ("tune_zoo_mnist_uniform", "tune_zoo_mnist_uniform_ard_vd")
    extras = ("log_sigma2", "means", "kl_weight", "recorded_train_loss", "recorded_test_loss") if keep else ()
    twins = check_same(tmp_path / "repo", tmp_path / "again", name, (*SAME, *extras))
    parents = {row["model_id"]: seed for (seed, _), row in rows_of(tmp_path / "again", "mnist_cnn_s").items()}
    assert {parents[row["parent_id"]] == seed for (seed, _), row in twins.items()} == {True}
    file = next(exported.folder.glob("*/*/checkpoints"))
    assert any("log_sigma2" in key for key in torch.load(file, weights_only=True)) == keep
    params = json.loads((file.parents[1] / "params.json").read_text())
    assert params["model::type"] == ("CNN_ARD" if keep else "CNN")
    if keep:
        assert params["training::epochs_train"] == 2  # what β was made with, though epoch 2 is the last here too


def test_every_zoo_of_the_table_has_a_folder_name_that_tells_what_it_is():
    for dense in list_zoos():
        for zoo in (dense, *twins_of(dense)):
            told = read_folder_name(raw_folder_name(zoo.name, zoo.images, zoo.architecture, zoo.sparsifier))
            found = zoo_name(told.images, zoo.architecture, told.suffix, told.sparsifier, told.percent)
            assert found == zoo.name
    assert raw_folder_name("cifar10_cnn_l_hyp_fix", "cifar10", "cnn_l") == (
        "tune_zoo_cifar10_large_hyperparameter_10_fixed_seeds"
    )
    assert raw_folder_name("my_zoo", "mnist", "cnn_s") == "tune_zoo_my_zoo"
    assert raw_folder_name("sparse_grid", "mnist", "cnn_s") == "tune_zoo_mnist"
    with pytest.raises(SpecError, match="does not tell how many percent"):
        raw_folder_name("pruned", "mnist", "cnn_s", "magnitude")


def test_module_lists_are_those_of_the_authors():
    for (architecture, dropout), indices in INDICES.items():
        layers = get_architecture(architecture).layers(3, 10)
        if architecture == "cnn_s":
            assert tuple(module_indices(layers, dropout).values()) == indices
        elif dropout:
            assert tuple(index_dict(layers, True)["layer"]) == indices


def test_resnets_have_torchvisions_names_and_batch_counters():
    layers = get_architecture("resnet18").layers(3, 10)
    layout = build_layout(layers)
    weights = torch.arange(layout.size, dtype=torch.float32)
    row = {"architecture": "resnet18", "in_channels": 3, "classes": 10, "dropout": 0.0, "weights": weights}
    state = state_dict(row, layout)
    module = build_module("resnet18", 3, 10, "relu")
    assert list(state) == list(module.state_dict())
    module.load_state_dict(state)
    index = index_dict(layers, False)
    assert (index["layer"][:2], index["idx_length"][:1], len(index["layer"])) == (
        ["conv1", "layer1.0.conv1"], [1728], len(index["idx_start"])
    )  # fmt: skip
