import json
from collections import Counter

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo_datasets.errors import LayoutError
from zoo_datasets.networks.architectures import layout_of
from zoo_datasets.repository.row import (
    COLUMNS,
    NAMES,
    SPLITS,
    arrow_schema,
    features,
    layout_of_schema,
    split_of,
    split_of_seed,
    weights_type,
)

LAYOUT = layout_of("cnn_s", 1, 10)


def test_weights_are_a_list_of_fixed_length_through_parquet_and_datasets(tmp_path):
    schema = arrow_schema(LAYOUT)
    assert schema.field("weights").type == pa.list_(pa.field("element", pa.float32(), nullable=False), 2464)
    pq.write_table(schema.empty_table(), tmp_path / "empty.parquet")
    read = pq.read_schema(tmp_path / "empty.parquet")
    assert read.equals(schema, check_metadata=True)
    expected = datasets.List(datasets.Value("float32"), length=2464)
    assert datasets.Features.from_arrow_schema(read)["weights"] == expected
    assert features(LAYOUT)["weights"] == expected


def test_a_shard_alone_carries_its_layout():
    schema = arrow_schema(LAYOUT)
    assert layout_of_schema(schema) == LAYOUT
    assert json.loads(schema.metadata[b"zoo_datasets"])["format"] == 1


def test_a_foreign_schema_has_no_layout():
    with pytest.raises(LayoutError, match="carries no weight layout"):
        layout_of_schema(pa.schema([("a", pa.int32())]))
    with pytest.raises(LayoutError, match="could not be read"):
        layout_of_schema(pa.schema([("a", pa.int32())], metadata={"zoo_datasets": "[]"}))
    with pytest.raises(LayoutError, match="format 99 found, this version reads 1"):
        layout_of_schema(pa.schema([("a", pa.int32())], metadata={"zoo_datasets": '{"format": 99, "layout": []}'}))


def test_only_what_may_be_unknown_is_nullable():
    assert [column.name for column in COLUMNS if column.nullable] == [
        "momentum", "train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc", "ggap",
        "parent_id", "sparsifier", "sparsity", "source_split",
    ]  # fmt: skip
    assert arrow_schema(LAYOUT).names == list(NAMES)
    assert all(column.doc for column in COLUMNS)
    assert weights_type(layout_of("cnn_l", 3, 10)).list_size == 10_853


def test_splits_are_70_15_15():
    counts = Counter(split_of(f"model {number}") for number in range(20_000))
    assert set(counts) == set(SPLITS)
    assert counts["train"] == pytest.approx(14_000, abs=300)
    assert counts["validation"] == pytest.approx(3_000, abs=250)
    assert Counter(split_of_seed(seed) for seed in range(10_000))["test"] == pytest.approx(1_500, abs=200)


def test_a_split_never_changes():
    """Published rows would move otherwise."""
    assert [split_of(name) for name in ("a", "b", "c", "d", "e", "f", "g", "h")] == [
        "train",
        "train",
        "validation",
        "train",
        "test",
        "train",
        "train",
        "train",
    ]
    assert [split_of_seed(seed) for seed in range(1, 9)] == [
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "validation",
    ]


@given(st.text())
def test_every_id_has_a_split(model_id):
    assert split_of(model_id) in SPLITS
