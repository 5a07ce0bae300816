"""Preprocessed `.pt` datasets: read without their class, matched by training_iteration, nothing runs."""

import io
import os
import sys
import types
from pathlib import Path

import conditions
import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from raw_zoos import SEED_ZOO, make_zoo, saved, state_dict, trial_name, weights_of

from zoo_datasets.builders import Reading, build_repository
from zoo_datasets.builders.sources.raw.names import raw_model_id
from zoo_datasets.errors import SourceError
from zoo_datasets.evaluation.verify.verify import verify_repository
from zoo_datasets.repository.manifest import read_manifest


@pytest.fixture
def authors_class(monkeypatch):
    """A class under the authors' name, there only while a file is written."""
    module = types.ModuleType("checkpoints_to_datasets.dataset_base")
    package = types.ModuleType("checkpoints_to_datasets")
    made = type("ModelDatasetBase", (), {"__module__": module.__name__})
    module.ModelDatasetBase = made
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


SPLITS = {"trainset": (1, 2, 3, 4), "valset": (5,), "testset": (6, 7)}


def write_pt(path, made, monkeypatch, change=lambda key, attributes: None, vector=False, epochs=(0, 5)):
    content = {}
    for key, seeds in SPLITS.items():
        part = made()
        samples = [(seed, epoch) for seed in seeds for epoch in epochs]
        attributes = {
            "data_in": [weights_of(s, e) if vector else state_dict(weights_of(s, e)) for s, e in samples],
            "paths": [Path(SEED_ZOO) / trial_name(s - 1, s) for s, _ in samples],
            "epochs": [e for _, e in samples],
            "properties": {
                "test_acc": [0.1 + e / 100 for _, e in samples], "ggap": [0.05] * len(samples),
                "training_iteration": [e for _, e in samples],
            },
        }  # fmt: skip
        change(key, attributes)
        part.__dict__.update(attributes)
        content[key] = part
    path.write_bytes(saved(content))
    for name in list(sys.modules):
        if name.startswith("checkpoints_to_datasets"):
            monkeypatch.delitem(sys.modules, name)
    return path


def rows_of(repo, name):
    rows = [row for shard in read_manifest(repo, name).shards for row in pq.read_table(repo / shard.path).to_pylist()]
    return {(row["seed"], row["epoch"]): row for row in rows}


@pytest.mark.parametrize("vector", [False, True])
def test_rows_have_the_ids_of_the_raw_zoo_and_the_authors_split(tmp_path, authors_class, monkeypatch, vector):
    file = write_pt(tmp_path / "dataset.pt", authors_class, monkeypatch, vector=vector)
    result = build_repository(file, tmp_path / "repo", "mnist_cnn_s_pt")
    assert (result.config, result.rows, result.models, result.left_out) == ("mnist_cnn_s_pt", 14, 7, ())
    rows = rows_of(tmp_path / "repo", result.config)
    for split, seeds in zip(("train", "validation", "test"), SPLITS.values(), strict=True):
        for seed in seeds:
            row = rows[seed, 5]
            assert row["source_split"] == split
            assert row["model_id"] == raw_model_id(SEED_ZOO, trial_name(seed - 1, seed))
            assert np.array_equal(np.array(row["weights"], np.float32), weights_of(seed, 5).numpy())
            assert row["test_acc"] == np.float32(0.15)
            assert row["train_acc"] == np.float32(0.15 + 0.05)
            assert (row["activation"], row["lr"]) == ("tanh", 0.0003)
    assert any("raw zoo is not at hand" in warning for warning in result.warnings)
    assert verify_repository(tmp_path / "repo", result.config).ok
    build_repository(file, tmp_path / "threads", "mnist_cnn_s_pt", num_proc=3)
    assert (tmp_path / "threads" / "README.md").read_bytes() == (tmp_path / "repo" / "README.md").read_bytes()


def test_the_raw_zoo_beside_the_file_tells_the_hyperparameters(tmp_path, authors_class, monkeypatch):
    make_zoo(tmp_path / SEED_ZOO, models=7, epochs=(0,))
    for params in (tmp_path / SEED_ZOO).glob("*/params.json"):
        params.write_text(params.read_text().replace("0.0003", "0.25"))
    file = write_pt(tmp_path / "dataset.pt", authors_class, monkeypatch)
    result = build_repository(file, tmp_path / "repo", reading=Reading(epochs=frozenset({5}), models=3))
    rows = rows_of(tmp_path / "repo", "mnist_cnn_s")
    assert ({row["lr"] for row in rows.values()}, len(rows)) == ({0.25}, 3)
    assert not any("not at hand" in warning for warning in result.warnings)


def test_properties_are_matched_by_training_iteration(tmp_path, authors_class, monkeypatch):
    def misalign(key, attributes):
        properties = attributes["properties"]
        if key == "trainset":
            for name in ("test_acc", "training_iteration"):
                properties[name][:2] = reversed(properties[name][:2])
            properties["training_iteration"][3] = 4
        if key == "testset":
            del properties["training_iteration"]

    file = write_pt(tmp_path / "dataset.pt", authors_class, monkeypatch, misalign)
    build_repository(file, tmp_path / "repo")
    rows = rows_of(tmp_path / "repo", "mnist_cnn_s")
    assert [rows[1, epoch]["test_acc"] for epoch in (0, 5)] == [np.float32(0.1), np.float32(0.15)]
    assert rows[2, 5]["test_acc"] is None
    assert rows[6, 0]["test_acc"] is None


def test_broken_samples_are_left_out_and_hostile_files_refused(tmp_path, authors_class, monkeypatch):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'witness'}",)

    def strange(key, attributes):
        if key == "valset":
            attributes["data_in"][1] = {"module_list.0.weight": torch.ones(3)}

    file = write_pt(tmp_path / "dataset.pt", authors_class, monkeypatch, strange)
    result = build_repository(file, tmp_path / "repo")
    ((entry),) = result.left_out
    assert (entry.model, entry.epochs) == (trial_name(4, 5), (5,))
    evil = tmp_path / "evil.pt"
    evil.write_bytes(saved({"trainset": Evil()}))
    with pytest.raises(SourceError, match="names posix.system"):
        build_repository(evil, tmp_path / "repo")
    assert not (tmp_path / "witness").exists()
    whole = file.read_bytes()
    for data, reason in (
        (b"", "empty"),
        (whole[:-50], "cut short"),
        (saved([1]), "expected a dictionary with trainset"),
    ):
        evil.write_bytes(data)
        with pytest.raises(SourceError, match=reason):
            build_repository(evil, tmp_path / "repo")
    damaged = bytearray(whole)
    first = torch.load(io.BytesIO(saved(state_dict(weights_of(1, 0)))), weights_only=True)["module_list.0.weight"]
    damaged[whole.find(first.numpy().tobytes()) + 2] ^= 1
    evil.write_bytes(damaged)
    result = build_repository(evil, tmp_path / "damaged")
    assert any("checksum" in entry.reason for entry in result.left_out)


def test_a_condition_can_ask_every_column(tmp_path, authors_class, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    file = write_pt(tmp_path / "dataset.pt", authors_class, monkeypatch)
    build_repository(file, tmp_path / "repo", "mnist_cnn_s_pt")
    assert conditions.differing(file, tmp_path / "repo", "mnist_cnn_s_pt", tmp_path / "few") == ({}, set())


@pytest.mark.parametrize("kind", ["WindowsPath", "PosixPath", "text"])
@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])  # the latter by Python 3.13
def test_paths_of_other_systems_and_versions_of_python_are_read(tmp_path, authors_class, monkeypatch, kind, module):
    class OtherPath:
        def __init__(self, *parts):
            self.parts = parts

        def __reduce__(self):
            return OtherPath, self.parts

    OtherPath.__module__, OtherPath.__qualname__ = module, kind
    fake = types.ModuleType(module)
    setattr(fake, kind, OtherPath)

    def change(key, attributes):
        parts = [("D:\\" if kind != "PosixPath" else "/", "zoos", *path.parts) for path in attributes["paths"]]
        attributes["paths"] = ["\\".join(path) if kind == "text" else OtherPath(*path) for path in parts]

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module, fake)
        file = write_pt(tmp_path / "dataset.pt", authors_class, monkeypatch, change)
    result = build_repository(file, tmp_path / "repo", "mnist_cnn_s_pt")
    assert (result.rows, result.models, result.left_out) == (14, 7, ())
    ids = {row["model_id"] for row in rows_of(tmp_path / "repo", result.config).values()}
    assert raw_model_id(SEED_ZOO, trial_name(0, 1)) in ids
