"""Rows in every format of `datasets` become the same networks."""

import importlib.util

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny_runs import make_run

from zoo_datasets.builders import build_repository
from zoo_datasets.errors import SpecError
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.loading.modules import layout_of_row, to_module, to_modules, to_state_dict

FORMATS = [None, "numpy", "torch", "arrow", "pandas", "polars", "jax"]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    make_run(folder / "run", ((6, 1),))
    build_repository(folder / "run", folder / "repo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield load_zoo(folder / "repo", "digits_cnn_s", "train")


def formatted(zoo, form):
    if form in ("polars", "jax") and importlib.util.find_spec(form) is None:
        pytest.skip(f"{form} is not installed")
    return zoo.with_format(form)


def assert_same(module, expected):
    state, other = module.state_dict(), expected.state_dict()
    assert list(state) == list(other)
    assert all(torch.equal(state[name], other[name]) for name in other)
    assert repr(module) == repr(expected)


@pytest.mark.parametrize("form", FORMATS)
def test_a_row_in_any_format_is_the_same_network(zoo, form):
    plain, rows = zoo[2], formatted(zoo, form)
    assert_same(to_module(rows[2]), to_module(plain))
    assert to_state_dict(rows[2]).keys() == to_state_dict(plain).keys()
    assert layout_of_row(rows[2]) == layout_of_row(plain)
    for module, row in zip(to_modules(rows[1:4]), (zoo[1], zoo[2], zoo[3]), strict=True):
        assert_same(module, to_module(row))


@pytest.mark.parametrize("form", FORMATS)
def test_a_rate_that_is_not_known_is_null_in_any_format(zoo, form):
    unknown = zoo.remove_columns("dropout").add_column("dropout", pa.nulls(len(zoo), pa.float32()))
    assert_same(to_module(formatted(unknown, form)[0]), to_module(zoo[0] | {"dropout": None}))


@pytest.mark.parametrize("form", FORMATS)
def test_several_rows_are_no_row(zoo, form):
    with pytest.raises(SpecError, match="expected one row, got a batch of 3; take zoo"):
        to_module(formatted(zoo, form)[0:3])
    with pytest.raises(SpecError, match="row lacks column 'weights'"):
        to_state_dict(formatted(zoo.remove_columns("weights"), form)[0])


def test_a_series_of_pandas_and_a_record_batch_are_rows_too(zoo):
    frame = zoo.with_format("pandas")[:]
    assert_same(to_module(frame.iloc[3]), to_module(zoo[3]))
    (batch, *_) = zoo.with_format("arrow")[3].to_batches()
    assert_same(to_module(batch), to_module(zoo[3]))


@pytest.mark.parametrize("value", [7, "row", None, [1.0], np.zeros(3), torch.zeros(3)])
def test_what_is_no_row_is_refused(value):
    with pytest.raises(SpecError, match="expected one row"):
        to_module(value)
