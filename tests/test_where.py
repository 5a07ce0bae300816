"""Conditions mean the same of rows that are built and of rows that are loaded, and nothing in them is evaluated."""

import itertools
import operator
import pickle

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_zoos import PARAMS, SEED_ZOO, result_line, saved, state_dict, trial_name, weights_of, write_trial

from zoo_datasets.builders import Reading, build_repository
from zoo_datasets.errors import SourceError, SpecError, UnknownNameError
from zoo_datasets.loading.batches import batches
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.repository.row import COLUMNS
from zoo_datasets.repository.where import parse_where

NAME = "mnist_cnn_s"
TYPES = {column.name: column.type for column in COLUMNS}
ROW = {"model_id": "a", "activation": "relu", "lr": 0.001, "seed": 7, "epoch": 10, "momentum": None, "test_acc": 0.096,
       "test_loss": float("nan"), "val_acc": None}  # fmt: skip


def table_of(*rows):
    return pa.table({name: pa.array([row[name] for row in rows], TYPES[name]) for name in rows[0]})


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('activation == "relu" and lr < 0.01', True),
        ("0.0001 < lr <= 0.001", True),
        ("0.01 < lr", False),
        ("seed in (1, 7) or epoch == 3", True),
        ("seed not in [1, 7]", False),
        ("not (seed == 7)", False),
        ("not seed != 7", True),
        ("not (seed == 7 and not epoch > 10)", False),
        ("momentum == 0.9", False),
        ("momentum != 0.9", False),
        ("not (momentum == 0.9)", False),
        ("momentum not in (0.9, 0.8)", False),
        ("momentum is None", True),
        ("momentum != None", False),
        ("not (momentum is None)", False),
        ("test_acc > -1", True),
        ("test_acc == 0.096", True),
        ("test_acc >= 0.096 and test_acc <= 0.096", True),
        ("test_acc < 0.096 or test_acc > 0.096 or test_acc != 0.096", False),
        ("test_acc in (0.5, 0.096)", True),
        ("0.096 == test_acc", True),
        ("test_loss == 1 or test_loss < 1 or test_loss >= 1 or test_loss in (1, 2) or test_loss is None", False),
        ("test_loss != 1 and not (test_loss < 1) and test_loss not in (1, 2)", True),
        ("test_acc < 1e39 and test_acc > -1e300", True),
        ("lr == 0.001", True),
        ("lr < 9007199254740993", True),
        ("activation != 'tanh' and activation > 'r'", True),
    ],
)
def test_conditions_keep_the_rows_that_they_say(text, kept):
    table = table_of(ROW)
    condition = parse_where(text)
    assert condition.kept(table).tolist() == [0] * kept
    assert pickle.loads(pickle.dumps(condition)).kept(table).tolist() == [0] * kept
    assert table.filter(condition.expression()).num_rows == kept


OPERATIONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq,
              "!=": operator.ne}  # fmt: skip


@pytest.mark.parametrize("column", ["seed", "epoch"])
def test_whole_numbers_are_compared_with_fractions_exactly(column):
    bits = TYPES[column].bit_width
    values = [-(2 ** (bits - 1)), -3, 2, 3, 2 ** (bits - 1) - 2, 2 ** (bits - 1) - 1, None]
    table = pa.table({column: pa.array(values, TYPES[column])})
    literals = [2, 2.5, -2.5, 3.0, 2**31, -(2**63), 2**63 - 1, 1e30, -1e300, 2.0**63, -(2.0**31) - 0.5]
    for literal, (sign, operation) in itertools.product(literals, OPERATIONS.items()):
        expected = [value is not None and operation(value, literal) for value in values]
        for text, wanted in ((f"{column} {sign} {literal}", True), (f"not {column} {sign} {literal}", False)):
            kept = parse_where(text).kept(table).tolist()
            assert kept == [row for row, value in enumerate(values) if value is not None and expected[row] is wanted]


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
        ("(" * 2000 + "lr < 1" + ")" * 2000, "is not understood"),
        ("not " * 1000 + "lr < 1", "nested too deeply"),
        ("lr < " + "-" * 4000 + "1", "nested too deeply"),
        ("lr < " + "1" * 400, "at most 64 bits"),
        ("seed < 9223372036854775808", "at most 64 bits"),
        ("seed in (1, -9223372036854775809)", "at most 64 bits"),
        ("lr < 1e400", "at most 64 bits"),
        ("lr < 1j", "expected a number"),
        ("lr < -True", "expected a number"),
        ("activation == '\\ud800'", "surrogate"),
        ("activation == '\udc80'", "surrogate"),
        ("lr < 1 and " * 2000 + "lr < 1", "at most 4,096"),
    ],
)
def test_what_is_no_condition_is_refused(text, reason):
    with pytest.raises(SpecError, match=reason) as caught:
        parse_where(text)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 500


def test_an_unknown_column_names_its_neighbours():
    with pytest.raises(UnknownNameError, match="did you mean activation"):
        parse_where("activations == 'relu'")
    with pytest.raises(UnknownNameError, match="no column named 'weights'"):
        parse_where("weights == 1")


VALUES = (0.096, 0.099, 0.1, 0.3, float("nan"), None)
EPOCHS = range(4)


def figures_of(seed, epoch):
    """Ties, nulls and NaN. At epoch 1 all that are none of these are equal, which a file's statistics tell."""
    picked = np.random.default_rng([seed, epoch]).integers(len(VALUES), size=4)
    names = ("train_acc", "val_acc", "test_acc", "test_loss")
    figures = {name: VALUES[place] for name, place in zip(names, picked, strict=True)}
    return figures | ({"val_acc": VALUES[4 * (seed % 2)]} if epoch == 1 else {})


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("where") / SEED_ZOO
    for seed in range(1, 11):
        states = {epoch: saved(state_dict(weights_of(seed, epoch))) for epoch in EPOCHS}
        lines = [result_line(epoch, {}, **figures_of(seed, epoch)) for epoch in EPOCHS]
        write_trial(folder / trial_name(seed, seed), PARAMS | {"seed": seed}, states, lines)
    build_repository(folder, folder.parent / "repo", NAME)
    return folder


def rows_of(repo):
    """All rows, read plainly; null and NaN are both NaN in the frame, and told apart beside it."""
    columns = [name for name in TYPES if name != "weights"]
    tables = [pq.read_table(repo / shard.path, columns=columns) for shard in read_manifest(repo, NAME).shards]
    table = pa.concat_tables(tables)
    nulls = pd.DataFrame({name: table[name].is_null().to_pandas() for name in columns})
    return table.to_pandas(), nulls


atoms = st.tuples(
    st.sampled_from(["test_acc", "val_acc", "train_acc", "test_loss", "ggap", "epoch", "sparsity"]),
    st.sampled_from([*OPERATIONS, "in", "not in", "is"]),
    st.sampled_from([0.096, 0.099, 0.1, 0.3, 0, 1.5, -0.003]),
)
conditions = st.recursive(
    atoms,
    lambda inner: st.one_of(st.tuples(inner, st.sampled_from(["and", "or"]), inner), st.tuples(st.just("not"), inner)),
    max_leaves=4,
)


def written(condition):
    if len(condition) == 2:
        return f"(not {written(condition[1])})"
    left, sign, right = condition
    if sign in ("and", "or"):
        return f"({written(left)} {sign} {written(right)})"
    values = {"in": f"({right}, 0.3)", "not in": f"({right}, 0.3)", "is": "None"}
    return f"{left} {sign} {values.get(sign, right)}"


def judged(condition, rows, nulls):
    """By pandas: where the condition is true, and where it is false; at nulls it is neither."""
    if len(condition) == 2:
        true, false = judged(condition[1], rows, nulls)
        return false, true
    left, sign, right = condition
    if sign in ("and", "or"):
        (one, not_one), (other, not_other) = judged(left, rows, nulls), judged(right, rows, nulls)
        return (one & other, not_one | not_other) if sign == "and" else (one | other, not_one & not_other)
    if sign == "is":
        return nulls[left], ~nulls[left]
    if sign in ("in", "not in"):
        true = (rows[left] == right) | (rows[left] == 0.3)
        true = true if sign == "in" else ~true
    else:
        true = OPERATIONS[sign](rows[left], right)
    return true & ~nulls[left], ~true & ~nulls[left]


def keys(rows):
    return sorted(zip(rows["model_id"], rows["epoch"], strict=True))


def loaded(repo, where, streaming=False):
    """Keys of the rows that a condition keeps; of none that is told in an error."""
    try:
        splits = load_zoo(repo, NAME, where=where, columns=["model_id", "epoch"], streaming=streaming)
    except SpecError as error:
        return [] if "no row has" in str(error) else str(error)
    if streaming:
        assert sum(map(samples_of, splits.values())) == sum(len(list(split)) for split in splits.values())
    return sorted((row["model_id"], row["epoch"]) for split in splits.values() for row in split)


def samples_of(stream):
    try:
        return sum(len(batch["epoch"]) for batch in batches(stream, 64))
    except SpecError as error:
        return 0 if "no row" in str(error) else str(error)


def built(source, repo, where):
    try:
        build_repository(source, repo, NAME, reading=Reading(where=parse_where(where)), replace=True)
    except SourceError as error:
        return [] if "no state of it fits" in str(error) else str(error)
    return keys(rows_of(repo)[0])


@pytest.mark.parametrize(
    "condition",
    [
        ("test_acc", "==", 0.096),
        ("test_acc", "<=", 0.096),
        ("test_acc", ">=", 0.099),
        ("not", ("test_acc", "<", 0.3)),
        ("val_acc", "!=", 0.096),
        ("not", ("val_acc", "in", 0.096)),
        (("ggap", "!=", 0), "and", ("epoch", "<", 1.5)),
    ],
)
def test_a_condition_keeps_the_same_rows_of_a_source_a_repository_and_a_stream(raw, tmp_path, monkeypatch, condition):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows, nulls = rows_of(raw.parent / "repo")
    expected = keys(rows[judged(condition, rows, nulls)[0]])
    text = written(condition)
    assert 0 < len(expected) < len(rows)
    assert loaded(raw.parent / "repo", text) == expected
    assert loaded(raw.parent / "repo", text, streaming=True) == expected
    assert built(raw, tmp_path / "few", text) == expected
    assert loaded(tmp_path / "few", text) == expected


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(condition=conditions)
def test_any_condition_means_what_it_means_to_pandas(raw, tmp_path, monkeypatch, condition):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows, nulls = rows_of(raw.parent / "repo")
    expected = keys(rows[judged(condition, rows, nulls)[0]])
    text = written(condition)
    assert loaded(raw.parent / "repo", text, streaming=True) == expected
    assert built(raw, tmp_path / "few", text) == expected


def test_a_condition_tells_which_epochs_it_can_keep():
    def possible(text):
        return parse_where(text).possible(pa.table({"epoch": pa.array(range(5), pa.int32())})).tolist()

    assert possible("epoch >= 3 and test_acc > 0.5 or epoch == 0") == [0, 3, 4]
    assert possible("not (parent_id is None) and epoch == 1") == [1]
    assert possible("parent_id is None and not epoch != 1") == [1]
    assert possible("lr < 0.01") == [0, 1, 2, 3, 4]
    assert possible("epoch > 2.5 and not (test_acc < 0.5 or epoch == 4)") == [3]
