"""Other programs read a repository as docs/readers.md shows; each of its blocks runs here."""

import importlib.util
import re
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_runs import make_run

from zoo_datasets.builders import build_repository

PAGE = (Path(__file__).parents[1] / "docs" / "readers.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
MODULES = {"DuckDB": "duckdb", "Polars": "polars", "pandas": "pandas", "NumPy": "numpy", "JAX": "jax"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As `make quickstart` leaves it."""
    folder = tmp_path_factory.mktemp("readers")
    make_run(folder / "run", ((24, 10),))
    build_repository(folder / "run", folder / "quickstart/model-zoos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield folder


def names_after(section, folder, monkeypatch):
    """What the blocks of a section define."""
    if importlib.util.find_spec(MODULES[section]) is None:
        pytest.skip(f"{MODULES[section]} is not installed; `pip install {MODULES[section]}`")
    monkeypatch.chdir(folder)
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", SECTIONS[section], re.DOTALL | re.MULTILINE):
        exec(block, names)
    return names


@pytest.fixture(scope="module")
def rows(folder):
    """The rows, by pyarrow."""
    return pq.read_table(folder / "quickstart/model-zoos/digits_cnn_s").to_pandas()


def test_the_page_has_a_section_for_each_reader():
    assert SECTIONS.keys() == MODULES.keys()


def test_duckdb(folder, rows, monkeypatch):
    names = names_after("DuckDB", folder, monkeypatch)
    means = rows.groupby("epoch")["test_acc"].mean()
    assert names["table"].fetchall() == [(epoch, 24, pytest.approx(mean, abs=1e-3)) for epoch, mean in means.items()]
    last = rows[rows["epoch"] == 10]
    best = last.loc[last["val_acc"].idxmax()]
    assert (names["weights"].dtype, names["weights"].tolist()) == (np.float32, best["weights"].tolist())


def test_polars(folder, rows, monkeypatch):
    names = names_after("Polars", folder, monkeypatch)
    last = rows[rows["epoch"] == 10].set_index("model_id")
    assert (names["weights"].shape, names["weights"].dtype) == ((24, 2464), np.float32)
    for model, weights in zip(names["last"]["model_id"], names["weights"], strict=True):
        assert np.array_equal(weights, last.loc[model, "weights"])
    assert names["spread"]["test_acc"].to_list() == pytest.approx(rows.groupby("epoch")["test_acc"].std().tolist())


def test_pandas(folder, rows, monkeypatch):
    names = names_after("pandas", folder, monkeypatch)
    assert names["accuracy"].shape == (11, 24)
    assert names["accuracy"].loc[3].mean() == pytest.approx(rows[rows["epoch"] == 3]["test_acc"].mean())
    assert sorted(names["final"]["model_id"]) == sorted(rows[rows["epoch"] == 10]["model_id"])


def test_numpy(folder, rows, monkeypatch):
    names = names_after("NumPy", folder, monkeypatch)
    expected = rows[rows["epoch"] == 10]
    assert names["weights"].dtype == np.float32
    assert np.array_equal(names["weights"], np.stack(expected["weights"]))
    assert np.array_equal(names["accuracy"], expected["test_acc"])


def test_jax(folder, rows, monkeypatch):
    names = names_after("JAX", folder, monkeypatch)
    assert names["batch"]["weights"].shape[1] == 2464
    assert names["norms"][0] == pytest.approx(np.linalg.norm(np.asarray(names["batch"]["weights"][0])), rel=1e-5)
    assert {name: tensor.shape for name, tensor in names["tensors"].items()}["conv1.weight"] == (8, 1, 5, 5)
