"""Rows from memory: what is written comes back, an interrupted call goes on, and bad input writes nothing."""

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

import zoo_datasets as zd
from zoo_datasets.errors import LayoutError, RepositoryError, SourceError
from zoo_datasets.networks.layers import Activate, Linear
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.repository.manifest import read_manifest


def mlp(width=5, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))


def rows_of(repo, name="mine"):
    zoos = zd.load_zoo(repo, name)
    return {(row["model_id"], row["epoch"], row["step"]): row for zoo in zoos.values() for row in zoo}


def test_states_of_any_dtype_come_back_bit_for_bit(tmp_path):
    states = {}
    for index in range(12):
        model = mlp(3 + index % 3, index).to((torch.float32, torch.bfloat16, torch.float16)[index % 3])
        state = {**model.state_dict(), "counter": torch.tensor(index), "mask": torch.rand(3) > 0.5}
        state["double"] = torch.rand(2, dtype=torch.float64)
        state["tied"] = state["0.weight"]
        states[f"m{index}"] = state
    zd.write_rows(tmp_path, "mine", ((state, {"model_id": name}) for name, state in states.items()))
    rows = rows_of(tmp_path)
    assert {key[0] for key in rows} == states.keys()
    for (name, _, _), row in rows.items():
        restored = zd.to_state_dict(row)
        assert list(restored) == list(states[name])
        assert restored["tied"] is restored["0.weight"]
        for tensor_name, tensor in states[name].items():
            assert restored[tensor_name].dtype == tensor.dtype
            assert torch.equal(restored[tensor_name], tensor)
    assert zd.verify_repository(tmp_path, "mine").ok


def test_columns_have_the_type_of_all_their_values(tmp_path):
    given = [
        (mlp(seed=index), {
            "model_id": f"m{index}", "epoch": index % 2, "step": index * 10, "test_acc": index / 10, "seed": index,
            "rank": None if index == 3 else np.int64(index), "psnr": torch.tensor(index / 3), "label": str(index),
            "good": bool(index % 2), "mixed": index if index else "none", "lr": 1,
        }) for index in range(8)
    ]  # fmt: skip
    zd.write_rows(tmp_path, "mine", given, docs={"psnr": "of the whole image, dB"})
    manifest = read_manifest(tmp_path, "mine")
    assert {column.name: str(column.type) for column in manifest.open.further} == {
        "good": "bool", "label": "string", "mixed": "string", "psnr": "double", "rank": "int64",
    }  # fmt: skip
    assert {column.name: column.doc for column in manifest.open.further}["psnr"] == "of the whole image, dB"
    rows = rows_of(tmp_path)
    for index in range(8):
        row = rows[f"m{index}", index % 2, index * 10]
        assert (row["rank"], row["label"], row["good"], row["lr"]) == (
            None if index == 3 else index, str(index), bool(index % 2), 1.0,
        )  # fmt: skip
    assert len(zd.load_zoo(tmp_path, "mine", steps=[20, 30])) >= 1
    kept = zd.load_zoo(tmp_path, "mine", where="rank > 4 and good")
    assert sorted(row["rank"] for zoo in kept.values() for row in zoo) == [5, 7]


def test_flat_weights_with_layers_become_modules(tmp_path):
    layers = (Linear("fc1", 4, 5), Activate(), Linear("fc2", 5, 2))
    weights = torch.randn(100, 37)
    columns = {"activation": "tanh", "dropout": 0.0, "label": [index % 7 for index in range(100)]}
    result = zd.write_rows(tmp_path, "mine", [(weights, columns)], layers=layers)
    assert (result.rows, result.models) == (100, 100)
    row = next(iter(zd.load_zoo(tmp_path, "mine", "train")))
    module = zd.to_module(row)
    x = torch.randn(3, 4)
    one, two, three, four = torch.tensor(row["weights"]).split([20, 5, 10, 2])
    expected = torch.tanh(x @ one.view(5, 4).T + two) @ three.view(2, 5).T + four
    torch.testing.assert_close(module(x), expected)


def test_later_calls_add_their_rows_and_leave_the_others(tmp_path):
    zd.write_rows(tmp_path, "mine", [(mlp(seed=1), {"model_id": "a", "rank": 1})])
    zd.write_rows(tmp_path, "mine", [(mlp(seed=2), {"model_id": "a", "rank": 5}), (mlp(seed=3), {"model_id": "b"})])
    rows = rows_of(tmp_path)
    assert (rows["a", 0, None]["rank"], rows["b", 0, None]["rank"]) == (1, None)
    assert torch.equal(zd.to_state_dict(rows["a", 0, None])["0.bias"], mlp(seed=1).state_dict()["0.bias"])
    zd.write_rows(tmp_path, "mine", [(mlp(seed=2), {"model_id": "c"})], replace=True)
    assert rows_of(tmp_path).keys() == {("c", 0, None)}


def test_groups_lie_in_one_split(tmp_path):
    given = [(mlp(seed=index), {"model_id": f"m{index}", "group": f"g{index // 4}"}) for index in range(80)]
    zd.write_rows(tmp_path, "mine", given)
    groups = [set(zoo["group"][:]) for zoo in zd.load_zoo(tmp_path, "mine").values()]
    assert len(groups) > 1
    assert sum(map(len, groups)) == 20


PROGRAM = """
import os, signal, sys, torch
import zoo_datasets as zd
from zoo_datasets.builders.writing import staging
staging._CHUNK_ROWS = 4

def rows(last):
    for index in range(20):
        if index == last:
            os.kill(os.getpid(), signal.SIGKILL)
        print(index, flush=True)
        yield {"w": torch.full((3,), float(index))}, {"model_id": f"m{index:02}"}

zd.write_rows(sys.argv[1], "mine", rows(int(sys.argv[2])))
"""


def run(repo, last):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(repo), str(last)], capture_output=True, text=True, timeout=120
    )


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="processes cannot be killed like this")
def test_a_killed_call_goes_on_and_ends_the_same(tmp_path):
    killed = run(tmp_path / "killed", 14)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list((tmp_path / "killed" / "mine" / ".staged").glob("*.arrow"))) == 3
    for repo in ("killed", "whole"):
        done = run(tmp_path / repo, 99)
        assert done.returncode == 0, done.stderr
    files = [sorted(path.name for path in (tmp_path / repo / "mine").iterdir()) for repo in ("killed", "whole")]
    assert files[0] == files[1]
    assert ".staged" not in files[0]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([(mlp(), {"weights": 1})], SourceError, "column 'weights' is not given with rows"),
        ([(mlp(), {"tensor": 1})], SourceError, "cannot be called 'tensor': this name is reserved"),
        ([(mlp(), {"Big Name": 1})], SourceError, "expected small letters"),
        ([(mlp(), {"rank": [1, 2]})], SourceError, r"column 'rank' holds \[1, 2\]; expected a number"),
        ([(mlp(), {"epoch": -1})], SourceError, "epoch -1: expected a whole number"),
        ([(mlp(), {"lr": "fast"})], SourceError, "column 'lr' holds 'fast', expected numbers"),
        ([(mlp(seed=1), {"model_id": "a"}), (mlp(seed=2), {"model_id": "a"})], SourceError, "two rows of model 'a'"),
        ([torch.zeros(5)], SourceError, "flat weights need their layout"),
        ([(mlp(), 5)], SourceError, "expected a dictionary of columns"),
        ([5], SourceError, "expected a state dict, a module, or a tensor"),
        ([({"a": torch.zeros(200_000, dtype=torch.float64)}, {})], LayoutError, "convert them to float32 first"),
        ([], SourceError, "the iterator gave no row"),
    ],
)  # fmt: skip
def test_bad_rows_are_told_in_one_line_and_nothing_is_written(tmp_path, given, error, message):
    with pytest.raises(error, match=message) as caught:
        zd.write_rows(tmp_path, "mine", given)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.parquet"))
    assert not list(tmp_path.rglob("*.arrow"))


def test_weights_that_are_not_finite_are_left_out_and_listed(tmp_path):
    good, bad = mlp(seed=1).state_dict(), mlp(seed=2).state_dict()
    bad["0.bias"][0] = float("nan")
    result = zd.write_rows(tmp_path, "mine", [(good, {"model_id": "good"}), (bad, {"model_id": "bad"})])
    assert (result.rows, [entry.model for entry in result.left_out]) == (1, ["bad"])
    manifest = json.loads((tmp_path / "_meta" / "mine" / "manifest.json").read_text())
    assert manifest["counts"]["states"] == {"found": 2, "written": 1, "left_out": 1}


def test_another_kind_of_zoo_is_not_written_over(tmp_path):
    layout = WeightLayout.of([("w", (3,), "parameter")])
    zd.write_rows(tmp_path, "mine", [(torch.eye(3), {})], layout=layout)
    path = tmp_path / "_meta" / "mine" / "manifest.json"
    value = json.loads(path.read_text())
    value["source"]["kind"] = "run"
    path.write_text(json.dumps(value))
    with pytest.raises(RepositoryError, match="built of another kind of source"):
        zd.write_rows(tmp_path, "mine", [(torch.eye(3), {})], layout=layout)


READER = """
import sys
from pathlib import Path
import zoo_datasets as zd
from zoo_datasets.errors import ZooError

for repo in sys.argv[1:]:
    try:
        zd.write_rows(repo, "mine", [])
        print("nothing was refused")
    except ZooError as error:
        print(error)
"""


def with_columns(path, text):
    """The same staged file, but for the JSON of its first row."""
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    texts = [text, *table["columns"].to_pylist()[1:]]
    table = table.set_column(0, table.schema.field("columns"), pa.array(texts, pa.string()))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(table)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="processes cannot be killed like this")
def test_staged_files_of_strangers_are_refused_by_name(tmp_path):
    assert run(tmp_path / "repo", 14).returncode == -signal.SIGKILL
    secret = tmp_path / "secret.arrow"
    file = "mine/.staged/rows-000001.arrow"
    shutil.copy(tmp_path / "repo" / file, secret)
    whole = secret.read_bytes()
    key = {"model_id": "m", "epoch": 0, "step": None}
    changes = {
        "cut": lambda path: path.write_bytes(whole[:-100]),
        "text": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
        "empty": lambda path: path.write_bytes(b""),
        "bits": lambda path: path.write_bytes(bytes(byte ^ 255 for byte in whole)),
        "middle": lambda path: path.write_bytes(whole[:800] + bytes(800) + whole[1600:]),
        "link": lambda path: (path.unlink(), path.symlink_to(secret)),
        "no key": lambda path: with_columns(path, "{}"),
        "bell": lambda path: with_columns(path, json.dumps(key | {"model_id": "\a"})),
        "nested": lambda path: with_columns(path, "[" * 100_000),
        "reserved": lambda path: with_columns(path, json.dumps(key | {"weights": 1})),
        "list": lambda path: with_columns(path, json.dumps(key | {"rank": [1]})),
        "epoch": lambda path: with_columns(path, json.dumps(key | {"epoch": 1 << 70})),
    }
    for what, change in changes.items():
        shutil.copytree(tmp_path / "repo", tmp_path / what)
        change(tmp_path / what / file)
    repos = [str(tmp_path / what) for what in changes]
    done = subprocess.run([sys.executable, "-c", READER, *repos], capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert (done.returncode, len(lines)) == (0, len(changes)), done.stderr
    for what, line in zip(changes, lines, strict=True):
        assert "rows-000001.arrow" in line, (what, line)
    (tmp_path / "cut" / file).unlink()  # as the message says
    assert run(tmp_path / "cut", 99).returncode == 0
    assert len(rows_of(tmp_path / "cut")) == 20
    assert secret.read_bytes() == whole


def test_two_calls_do_not_write_into_one_config_at_a_time(tmp_path):
    layout = WeightLayout.of([("w", (3,), "parameter")])
    repo = tmp_path / "repo"

    def rows():
        yield torch.zeros(3), {"model_id": "a"}
        with pytest.raises(RepositoryError, match=r"another call of write_rows writes into .*mine; wait for it"):
            zd.write_rows(repo, "mine", [(torch.ones(3), {"model_id": "b"})], layout=layout)
        zd.write_rows(repo, "other", [(torch.ones(3), {"model_id": "b"})], layout=layout)

    zd.write_rows(repo, "mine", rows(), layout=layout)
    assert [key[0] for key in rows_of(repo)] == ["a"]
    with pytest.raises(SourceError):
        zd.write_rows(tmp_path / "none" / "repo", "mine", [(torch.ones(3), {"weights": 1})], layout=layout)
    assert not list((tmp_path / "none").glob("*"))
