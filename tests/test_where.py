"""Conditions mean the same in memory and as a filter, and nothing in them is evaluated."""

import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.where import parse_where

ROW = {"activation": "relu", "lr": 0.001, "seed": 7, "epoch": 10, "momentum": None, "test_acc": 0.5}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('activation == "relu" and lr < 0.01', True),
        ("0.0001 < lr <= 0.001", True),
        ("0.01 < lr", False),
        ("seed in (1, 7) or epoch == 3", True),
        ("seed not in [1, 7]", False),
        ("not (seed == 7)", False),
        ("momentum == 0.9", False),
        ("momentum != 0.9", False),
        ("not (momentum == 0.9)", False),
        ("momentum is None", True),
        ("momentum != None", False),
        ("test_acc > -1", True),
    ],
)
def test_conditions_keep_the_rows_that_they_say(text, kept):
    condition = parse_where(text)
    assert condition.matches(ROW) is kept
    table = pa.table({name: pa.array([value], pa.float64() if value is None else None) for name, value in ROW.items()})
    assert table.filter(condition.expression()).num_rows == kept


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("__import__('os').system('x')", "expected a comparison"),
        ("lr", "expected a comparison"),
        ("lr < lr", "expected a number or a string"),
        ("1 < 2", "expected the name of a column"),
        ("lr == 'a'", "a number expected for column lr"),
        ("activation == 1", "a string expected for column activation"),
        ("lr <", "is not understood"),
        ("seed in 3", "expected a list of values"),
        ("lr < None", "None can only be equal"),
        ("lr < True", "expected a number"),
        ("(" * 3000 + "lr", "is not understood"),
        ("lr < 1 and " * 2000 + "lr < 1", "at most 4,096"),
    ],
)
def test_what_is_no_condition_is_refused(text, reason):
    with pytest.raises(SpecError, match=reason):
        parse_where(text)


def test_an_unknown_column_names_its_neighbours():
    with pytest.raises(UnknownNameError, match="did you mean activation"):
        parse_where("activations == 'relu'")
    with pytest.raises(UnknownNameError, match="no column named 'weights'"):
        parse_where("weights == 1")


atoms = st.one_of(
    st.tuples(st.sampled_from(["lr", "momentum", "test_acc"]), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
              st.sampled_from(["0.5", "-1", "1"])).map(" ".join),
    st.sampled_from(["momentum is None", "lr in (0.5, 1)", "lr not in (0.5, 1)", "activation == 'relu'"]),
)  # fmt: skip
conditions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda part: f"(not {part})"),
    ),
    max_leaves=6,
)
numbers = st.sampled_from([None, 0.5, 1.0, -1.0, 2.0, math.nan])
rows = st.fixed_dictionaries(
    {"lr": numbers, "momentum": numbers, "test_acc": numbers, "activation": st.sampled_from(["relu", "tanh", None])}
)


@settings(max_examples=200, deadline=None)
@given(conditions, st.lists(rows, min_size=1, max_size=6))
def test_rows_and_filters_agree(text, found):
    condition = parse_where(text)
    types = {"lr": pa.float64(), "momentum": pa.float64(), "test_acc": pa.float64(), "activation": pa.string()}
    indexed = [row | {"seed": index} for index, row in enumerate(found)]
    arrays = {name: pa.array([row[name] for row in indexed], type) for name, type in types.items()}
    table = pa.table(arrays | {"seed": pa.array(range(len(found)))})
    assert table.filter(condition.expression())["seed"].to_pylist() == [
        row["seed"] for row in indexed if condition.matches(row)
    ]


def test_a_condition_tells_which_epochs_it_can_keep():
    condition = parse_where("epoch >= 3 and test_acc > 0.5 or epoch == 0")
    assert [epoch for epoch in range(5) if condition.allows({"epoch": epoch})] == [0, 3, 4]
    assert parse_where("not (parent_id is None) and epoch == 1").allows({"epoch": 1})
    assert parse_where("lr < 0.01").allows({"epoch": 1})
