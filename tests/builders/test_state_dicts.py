"""Anybody's files of tensors become rows that come back bit for bit."""

import argparse
import collections
import json
import re
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from file_server import serving_files
from safetensors.torch import save_file
from state_folders import NAME, build, mlp, rows_of, same, write_folder

from zoo_datasets.builders import Reading, build_from, build_repository, open_source
from zoo_datasets.builders.checkpoints.torch_file import OLD_FORMAT
from zoo_datasets.builders.containers import folder
from zoo_datasets.errors import SourceError
from zoo_datasets.repository.manifest import read_manifest


def states(count=6, ending="safetensors", **options):
    return {f"m{number}.{ending}": mlp(number, **options) for number in range(count)}


def check_rows(repo, made):
    """Each row is the state of its name, and none is missing."""
    rows = rows_of(repo)
    assert len(rows) == len(made)
    for row in rows:
        (state,) = [state for name, state in made.items() if name.rpartition(".")[0] == row["model_id"]]
        assert same(row["state"], state)


@pytest.mark.parametrize("ending", ["safetensors", "pt", "pth", "ckpt", "bin"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_files_of_tensors_come_back_bit_for_bit(tmp_path, ending, dtype):
    made = states(ending=ending, dtype=dtype)
    build(write_folder(tmp_path / "in", made), tmp_path / "repo")
    check_rows(tmp_path / "repo", made)


def test_what_float32_cannot_hold_comes_back_too(tmp_path):
    made = {
        "a.pt": {
            **mlp(0),
            "count": torch.tensor(2**40 + 1),
            "mask": torch.tensor([True, False]),
            "double": torch.tensor([[1.1, 2.2]], dtype=torch.float64).T,
            "wave": torch.tensor([1 + 2j]),
            "empty": torch.empty(0, 3),
        }
    }
    build(write_folder(tmp_path / "in", made), tmp_path / "repo")
    check_rows(tmp_path / "repo", made)


def test_large_tensors_of_float64_need_a_cast(tmp_path):
    made = {"a.pt": {"w": torch.rand(400, 400, dtype=torch.float64), "n": torch.tensor(3)}}
    write_folder(tmp_path / "in", made)
    with pytest.raises(SourceError, match="float64, int64 have 1,280,008 bytes.*--cast float32"):
        build(tmp_path / "in", tmp_path / "repo")
    assert not list((tmp_path / "repo").rglob("*.parquet"))
    result = build(tmp_path / "in", tmp_path / "repo", cast=True)
    assert "state-cast" in result.codes.values()
    (row,) = rows_of(tmp_path / "repo")
    assert same(row["state"], {"w": made["a.pt"]["w"].float(), "n": made["a.pt"]["n"]})


def test_views_and_ties_of_a_torch_file(tmp_path):
    whole = torch.randn(6, 4)
    tied = torch.randn(5, 2)
    made = {
        "a.pt": {"turned": whole.T, "column": torch.randn(6, 4)[:, 1], "embedding": tied, "head": tied},
        "b.pt": {"turned": whole.T, "column": torch.randn(6), "embedding": tied, "head": tied},
    }
    build(write_folder(tmp_path / "in", made), tmp_path / "repo")
    check_rows(tmp_path / "repo", made)
    (first, _) = rows_of(tmp_path / "repo")
    assert len(first["weights"]) == 24 + 6 + 10  # the tied tensor once
    assert first["state"]["head"] is first["state"]["embedding"]


def test_tensors_that_only_some_files_tie_are_stored_twice(tmp_path):
    tied = torch.randn(5)
    made = {"a.pt": {"one": tied, "two": tied}, "b.pt": {"one": tied, "two": torch.randn(5)}}
    build(write_folder(tmp_path / "in", made), tmp_path / "repo")
    check_rows(tmp_path / "repo", made)
    assert {len(row["weights"]) for row in rows_of(tmp_path / "repo")} == {10}


WRAPPERS = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "loss": 0.5},
    "numpy": lambda state: {"model": state, "loss": np.float64(0.5), "rng": np.arange(3)},
    "deep": lambda state: {"trainer": {"model_state_dict": state}, "args": argparse.Namespace(lr=1.0, names=["a"])},
    "optimizer": lambda state: {
        "net": state,
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
        "extra": collections.defaultdict(list, {"a": [1]}),
        "size": torch.Size([3]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "version": torch.__version__,
        "seen": {1, 2},
    },
    "averaged": lambda state: {"model": state, "ema": mlp(99)},
    "beside": lambda state: {**state, "label": 7},
    "parallel": lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
    "compiled": lambda state: {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_state_dict_in_a_wrapper_is_taken_and_that_is_said(tmp_path, wrapper):
    made = states(ending="pt")
    wrapped = {name: WRAPPERS[wrapper](state) for name, state in made.items()}
    result = build(write_folder(tmp_path / "in", wrapped), tmp_path / "repo")
    check_rows(tmp_path / "repo", made)
    said = {code for code in result.codes.values() if code in ("state-wrapped", "state-prefix")}
    expected = {"parallel": {"state-wrapped", "state-prefix"}, "compiled": {"state-prefix"}, "beside": set()}
    assert said == expected.get(wrapper, {"state-wrapped"})


def test_numbers_beside_tensors_are_columns(tmp_path):
    made = {
        f"m{n}.pt": {"epoch": n, "loss": np.float32(n / 2), "ok": True, "state_dict": mlp(n), "label": "cat"}
        for n in range(3)
    }
    build(write_folder(tmp_path / "in", made), tmp_path / "repo")
    rows = rows_of(tmp_path / "repo")
    assert [(row["epoch"], row["loss"], row["ok"], row["label"]) for row in rows] == [
        (0, 0.0, True, "cat"), (1, 0.5, True, "cat"), (2, 1.0, True, "cat")
    ]  # fmt: skip


def test_what_is_no_state_dict_is_left_out_with_its_reason(tmp_path):
    write_folder(tmp_path / "in", states(2, "pt"))
    torch.save(torch.nn.Linear(2, 2), tmp_path / "in" / "module.pt")
    torch.save([mlp(0)], tmp_path / "in" / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "in" / "nothing.pt")
    torch.save({"one": mlp(0), "two": mlp(1)}, tmp_path / "in" / "several.pt")
    torch.save(mlp(0), tmp_path / "in" / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "in" / "empty.pt").touch()
    (tmp_path / "in" / "page.safetensors").write_text("<html>not found</html>")
    result = build(tmp_path / "in", tmp_path / "repo")
    assert result.rows == 2
    reasons = {entry.model: entry.reason for entry in result.left_out}
    for name, reason in {
        "module.pt": "names torch.nn.modules.linear.Linear",
        "list.pt": "holds a list",
        "nothing.pt": "no dictionary of tensors",
        "several.pt": '2 dictionaries of tensors ("one", "two")',
        "old.pt": OLD_FORMAT,
        "empty.pt": "it is empty",
        "page.safetensors": "no file of safetensors",
    }.items():
        assert reason in reasons.pop(name)
    assert not reasons
    assert read_manifest(tmp_path / "repo", NAME).states.left_out == 7


def test_the_conversion_that_is_named_for_old_files_works(tmp_path):
    state = mlp(0)
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    command = re.search(r"torch\.save\(.*\)", OLD_FORMAT)[0].replace("FILE", repr(str(tmp_path / "old.pt")))
    exec(command, {"torch": torch})
    build(write_folder(tmp_path / "in", {"old.pt": torch.load(tmp_path / "old.pt")}), tmp_path / "repo")
    assert same(rows_of(tmp_path / "repo")[0]["state"], state)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_of_numpy(tmp_path, save):
    made = {name: {k: v.numpy() for k, v in state.items()} for name, state in states(ending="npz").items()}
    (tmp_path / "in").mkdir()
    for name, arrays in made.items():
        save(tmp_path / "in" / name, **{k: np.asfortranarray(v) for k, v in arrays.items()})
    build(tmp_path / "in", tmp_path / "repo")
    check_rows(tmp_path / "repo", states(ending="npz"))


def test_rows_of_an_array_with_a_layout_and_a_table(tmp_path):
    rows = np.random.default_rng(0).standard_normal((7, 15)).astype(np.float32)
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "weights.npy", rows)
    (tmp_path / "layout.json").write_text(json.dumps({"w": [4, 3], "b": [3]}))
    (tmp_path / "t.csv").write_text("row,acc\n" + "".join(f"{row},0.{row}\n" for row in reversed(range(7))))
    build(tmp_path / "in", tmp_path / "repo", layout=tmp_path / "layout.json", table=tmp_path / "t.csv")
    for number, row in enumerate(rows_of(tmp_path / "repo")):
        assert row["model_id"] == f"weights/{number}"
        assert row["acc"] == pytest.approx(number / 10)
        assert np.array_equal(row["weights"], rows[number])
        assert np.array_equal(row["state"]["w"].numpy(), rows[number, :12].reshape(4, 3))
    with pytest.raises(SourceError, match="--layout"):
        build(tmp_path / "in", tmp_path / "other")
    (tmp_path / "layout.json").write_text(json.dumps({"w": [4, 3]}))
    with pytest.raises(SourceError, match=r"\[7, 15\], expected \[rows, 12\]"):
        build(tmp_path / "in", tmp_path / "other", layout=tmp_path / "layout.json")


def test_a_sharded_state_is_one_row(tmp_path):
    state = mlp(0)
    folder = tmp_path / "in" / "one"
    folder.mkdir(parents=True)
    files = {name: f"model-{'1' if 'fc1' in name else '2'}-of-2.safetensors" for name in state}
    for file in set(files.values()):
        save_file({name: state[name] for name in state if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    write_folder(tmp_path / "in", {"two/model.safetensors": mlp(1)})
    build(tmp_path / "in", tmp_path / "repo")
    one, two = rows_of(tmp_path / "repo")
    assert (one["model_id"], two["model_id"]) == ("one", "two")
    assert same(one["state"], state)
    assert same(two["state"], mlp(1))
    (folder / "model-2-of-2.safetensors").unlink()
    (left_out,) = build(tmp_path / "in", tmp_path / "less").left_out
    assert "1 of its 2 files are missing" in left_out.reason


def test_networks_of_many_shapes_are_one_config(tmp_path):
    made = {f"m{n:02d}.safetensors": mlp(n, hidden=4 + n // 3) for n in range(60)}
    result = build(write_folder(tmp_path / "in", made), tmp_path / "repo")
    check_rows(tmp_path / "repo", made)
    assert len({row["layout"] for row in rows_of(tmp_path / "repo")}) == 20
    (line,) = [line for line, code in result.codes.items() if code == "state-layouts"]
    assert "20 layouts (3 × 26 weights as 'm00.safetensors'" in line


def test_other_layouts_are_left_out_or_fail_where_that_is_asked_for(tmp_path):
    write_folder(tmp_path / "in", states(3) | {"a.safetensors": mlp(9, hidden=5)})
    with pytest.raises(SourceError, match="2 layouts"):
        build(tmp_path / "in", tmp_path / "repo", on_other_layout="fail")
    result = build(tmp_path / "in", tmp_path / "repo", on_other_layout="leave-out")
    assert result.rows == 3
    assert [entry.model for entry in result.left_out] == ["a.safetensors"]


def test_tensors_in_another_order_take_the_order_of_the_first_file(tmp_path):
    state = mlp(0)
    made = {"a.pt": state, "b.pt": dict(reversed(mlp(1).items()))}
    build(write_folder(tmp_path / "in", made), tmp_path / "repo")
    check_rows(tmp_path / "repo", made)
    first, second = rows_of(tmp_path / "repo")
    assert first["layout"] == second["layout"]
    assert first["weights"] == torch.cat([tensor.flatten() for tensor in state.values()]).tolist()


def test_archives_are_read_in_place(tmp_path):
    made = states()
    write_folder(tmp_path / "in", made)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / f"{method}.zip", "w", method) as archive:
            for name in made:
                archive.write(tmp_path / "in" / name, f"top/{name}")
        build(tmp_path / f"{method}.zip", tmp_path / f"zip{method}")
        check_rows(tmp_path / f"zip{method}", made)
    with tarfile.open(tmp_path / "in.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "in", "top")
    build(tmp_path / "in.tar.gz", tmp_path / "tar")
    check_rows(tmp_path / "tar", made)
    build(tmp_path / "in" / "m1.safetensors", tmp_path / "single")
    check_rows(tmp_path / "single", {"m1.safetensors": made["m1.safetensors"]})


def test_state_dicts_behind_urls(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    made = states()
    folder = write_folder(tmp_path / "served" / "nets", made)
    with zipfile.ZipFile(tmp_path / "served" / "nets.zip", "w") as archive:
        for name in made:
            archive.write(folder / name, name)
    with serving_files(tmp_path / "served") as served:
        for number, place in enumerate(("nets.zip", "nets", "nets/m1.safetensors")):
            build(f"{served.url}/{place}", tmp_path / f"repo{number}")
    check_rows(tmp_path / "repo0", made)
    check_rows(tmp_path / "repo1", made)
    check_rows(tmp_path / "repo2", {"m1.safetensors": made["m1.safetensors"]})


def test_a_name_is_needed_and_options_of_state_dicts_are_for_them_alone(tmp_path):
    write_folder(tmp_path / "in", states(1))
    with pytest.raises(SourceError, match="files of state dicts; pass --name NAME"):
        build_repository(tmp_path / "in", tmp_path / "repo")
    (tmp_path / "trial" / "NN_tune_trainable_1" / "checkpoint_000000").mkdir(parents=True)
    with pytest.raises(SourceError, match="--pattern mean nothing"):
        build(tmp_path / "trial", tmp_path / "repo", pattern="{model_id}")


def test_a_build_is_the_same_with_threads_and_when_it_grows(tmp_path):
    write_folder(tmp_path / "in", {f"m{n}/epoch_{e}.pt": mlp(10 * n + e) for n in range(9) for e in range(2)})
    build(tmp_path / "in", tmp_path / "one")
    build_repository(tmp_path / "in", tmp_path / "two", NAME, reading=Reading(), num_proc=2)
    files = [sorted(file.name for file in (tmp_path / repo / NAME).iterdir()) for repo in ("one", "two")]
    assert files[0] == files[1]
    write_folder(tmp_path / "in", {f"m{n}/epoch_{e}.pt": mlp(10 * n + e) for n in range(12) for e in range(3)})
    assert build(tmp_path / "in", tmp_path / "one").rows == 36


def test_a_file_that_changes_while_it_is_read_is_left_out(tmp_path, monkeypatch):
    write_folder(tmp_path / "in", states(6))
    source = open_source(tmp_path / "in", Reading(name=NAME))
    write_folder(tmp_path / "in", {"m2.safetensors": mlp(2, hidden=9)})
    (tmp_path / "in" / "m3.safetensors").unlink()
    result = build_from(source, tmp_path / "repo", NAME)
    assert result.rows == 4
    assert {entry.model for entry in result.left_out} == {"m2.safetensors", "m3.safetensors"}


def test_large_files_are_described_without_reading_their_tensors(tmp_path, monkeypatch):
    large = {"w": torch.zeros(1 << 20)}
    write_folder(tmp_path / "in", {"a.safetensors": large, "b.pt": {"w": torch.ones(1 << 20)}})
    read = []
    whole = folder.read_at
    monkeypatch.setattr(folder, "read_at", lambda *arguments: read.append(arguments[1]) or whole(*arguments))
    source = open_source(tmp_path / "in", Reading(name=NAME))
    assert sum(read) < 1 << 19
    assert source.states == 2
