"""The Small Transformer Zoo: rows of tensors that a table names."""

import csv
import zipfile

import pytest
import torch

import zoo_datasets as zd
from zoo_datasets.builders import Reading, StateDictOptions, build_repository
from zoo_datasets.builders.sources.table import open_source
from zoo_datasets.errors import SpecError


def state(seed):
    torch.manual_seed(seed)
    shapes = {
        "embedding.pos_embedding": (9, 4),
        "encoder.0.attention.queries.weight": (4, 4),
        "classifier.fc2.bias": (3,),
    }
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def zoo(folder, runs=("aa01", "bb02"), epochs=("50", "75")):
    (folder / "metadata").mkdir(parents=True)
    (folder / "mnist").mkdir()
    rows, states = [], {}
    for run in runs:
        for epoch in (*epochs, "best1"):
            file = f"mnist/{run}_{epoch}_5000.pt"
            states[run, epoch] = state(len(states))
            torch.save(states[run, epoch], folder / file)
            rows.append({"seed": 3, "optimizer": "adam", "lr": 0.001, "w_init_std": 0.1, "l2_regularize": 1e-8,
                         "n_layer": 2, "ckpt_epoch": epoch, "ckpt_file": file, "test_top1_accuracy": 0.5})  # fmt: skip
    rows.append(rows[0] | {"ckpt_file": "mnist/gone_50_5000.pt"})
    with (folder / "metadata" / "mnist.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    torch.save(state(0), folder / "mnist" / "extra_50_5000.pt")
    torch.save(torch.zeros(3), folder / "mnist" / "embedding.pt")
    return states


def test_rows_are_the_tensors_with_the_tables_columns(tmp_path):
    states = zoo(tmp_path / "zoo")
    result = build_repository(tmp_path / "zoo", tmp_path / "zoos")
    assert (result.models, result.rows) == (2, 4)
    reasons = {entry.model: entry.reason for entry in result.left_out}
    assert "not there" in reasons["mnist/gone_50_5000.pt"]
    assert "epoch 'best1', no number" in reasons["mnist/aa01_best1_5000.pt"]
    assert "has no row of it" in reasons["mnist/extra_50_5000.pt"]
    assert len(reasons) == 4
    rows = [row for split in zd.load_zoo(tmp_path / "zoos", "mnist_transformers").values() for row in split]
    for row in rows:
        expected = states[row["model_id"], str(row["epoch"])]
        assert all(torch.equal(value, expected[name]) for name, value in zd.to_state_dict(row).items())
        assert (row["images"], row["lr"], row["test_acc"], row["init_std"], row["n_layer"]) == (
            "mnist",
            0.001,
            0.5,
            0.1,
            2,
        )
        with pytest.raises(SpecError, match="pass factory="):
            zd.to_module(row)


def test_it_is_read_in_an_archive_and_selected(tmp_path):
    zoo(tmp_path / "zoo")
    with zipfile.ZipFile(tmp_path / "MNIST-Transformers.zip", "w") as archive:
        for path in (tmp_path / "zoo").rglob("*"):
            archive.write(path, path.relative_to(tmp_path))
    reading = Reading(epochs=frozenset({75}), state_dicts=StateDictOptions(where="init_std < 0.2"))
    source = open_source(tmp_path / "MNIST-Transformers.zip", reading)
    assert sum(len(piece.models) for piece in source.read(source.blocks()[0])) == 2


def test_the_stand_in_of_the_real_archive(real_raw, tmp_path):
    result = build_repository(real_raw.parent / "populations" / "tnfn" / "mnist_transformer", tmp_path / "zoos")
    assert (result.models, result.rows, result.left_out) == (4, 12, ())
