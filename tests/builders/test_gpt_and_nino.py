"""G.pt's runs in LMDB, and NiNo's trajectories in memory maps: written here as their formats say, read as rows."""

import json
import struct
import zipfile

import lmdb
import numpy as np
import pytest
import torch
from torch.nn import functional

import zoo_datasets as zd
from zoo_datasets.builders import Reading, StateDictOptions, build_repository
from zoo_datasets.builders.sources.table import open_source
from zoo_datasets.errors import SourceError
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.repository.where import parse_where

MLP, CNN, CARTPOLE = (7840, 10, 100, 10), (432, 4608, 320, 10), (1, 128, 32, 1024, 32, 32, 1)


def rows_of(repo, name, **options):
    return [row for split in zd.load_zoo(repo, name, **options).values() for row in split]


def write_run(folder, states, sizes=MLP, figures=None, fused=False):
    """Runs of one folder: `states` are (run, epoch, iteration); returns the weights by these."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    weights = {state: random.normal(size=sum(sizes)).astype("<f4") for state in states}
    runs = {}
    with lmdb.open(str(folder), map_size=1 << 26) as env, env.begin(write=True) as transaction:
        for place, ((run, epoch, iteration), values) in enumerate(weights.items()):
            key = f"{run}/ep{epoch:03d}_it{iteration:05d}.pt"
            transaction.put(key.encode(), values.tobytes())
            transaction.put(f"{key}_arch".encode(), np.array(sizes, "<f4").tobytes())
            told = {"avg_train_loss": 2.0 - place / 8, "avg_train_err": 90 - place, "avg_test_loss": 2.5 - place / 8,
                    "avg_test_err": 80.0 - place} if figures is None else figures(place)  # fmt: skip
            runs.setdefault(run, {"checkpoints": {}, "metadata": {}})["checkpoints"][key] = told
    (folder / "runs.json").write_text(json.dumps(runs if fused else next(iter(runs.values()))))
    (folder / "DONE.txt").touch()
    return weights


# As the authors' code counts: iterations begin anew in each epoch.
ANEW = [("000001", 0, 0), ("000001", 0, 17), ("000001", 0, 468), ("000001", 1, 3), ("000001", 2, 468)]


@torch.no_grad()
def test_runs_of_the_mlp_are_networks_with_figures(tmp_path):
    weights = write_run(tmp_path / "mnist" / "000001", ANEW)
    build_repository(tmp_path / "mnist", tmp_path / "zoos")
    rows = rows_of(tmp_path / "zoos", "gpt_mnist")
    assert sorted((row["epoch"], row["step"], row["iteration"]) for row in rows) == [
        (0, 0, 0), (0, 17, 17), (0, 468, 468), (1, 471, 3), (2, 3 * 468, 468),
    ]  # fmt: skip
    images = torch.randn(4, 1, 28, 28)
    for row in rows:
        place = ANEW.index((row["model_id"], row["epoch"], row["iteration"]))
        flat = torch.from_numpy(weights[ANEW[place]].copy())
        assert torch.equal(torch.tensor(row["weights"]), flat)
        fc1, bias1, fc2, bias2 = flat.split(list(MLP))
        hidden = torch.relu(functional.linear(images.flatten(1), fc1.view(10, 784), bias1))
        expected = functional.linear(hidden, fc2.view(10, 10), bias2)
        torch.testing.assert_close(zd.to_module(row)(images), expected)
        assert row["test_acc"] == pytest.approx(1 - (80 - place) / 100)
        assert row["train_loss"] == pytest.approx(2 - place / 8)
        assert (row["images"], row["optimizer"], row["momentum"], row["seed"]) == ("mnist", "sgd", 0.9, 1)
    manifest = read_manifest(tmp_path / "zoos", "gpt_mnist")
    assert "epoch × 468 + iteration" in manifest.source["remarks"][0]
    assert "Peebles" in manifest.source["credit"]["authors"]


@torch.no_grad()
def test_runs_of_the_cnn_joined_in_one_folder(tmp_path):
    states = [(run, epoch, epoch * 5 + 1) for run in ("000004", "000005") for epoch in range(2)]
    weights = write_run(tmp_path / "cifar10" / "000004_000005", states, CNN, fused=True)
    build_repository(tmp_path / "cifar10", tmp_path / "zoos")
    rows = rows_of(tmp_path / "zoos", "gpt_cifar10")
    images = torch.randn(2, 3, 32, 32)
    assert len(rows) == 4
    for row in rows:
        flat = torch.from_numpy(weights[row["model_id"], row["epoch"], row["iteration"]].copy())
        conv1, conv2, fc, bias = flat.split(list(CNN))
        x = torch.relu(functional.conv2d(images, conv1.view(16, 3, 3, 3), stride=2, padding=1))
        x = torch.relu(functional.conv2d(x, conv2.view(32, 16, 3, 3), padding=1)).mean((2, 3))
        torch.testing.assert_close(zd.to_module(row)(images), functional.linear(x, fc.view(10, 32), bias))
        assert row["step"] == row["iteration"]  # these count over all epochs


def test_cartpole_and_unknown_networks_are_tensors_without_a_function(tmp_path):
    write_run(tmp_path / "cart" / "1", [("1", 0, 0)], CARTPOLE, lambda place: {"train_ret": 12.5})
    write_run(tmp_path / "other" / "1", [("1", 0, 0)], (6, 2))
    build_repository(tmp_path / "cart", tmp_path / "zoos")
    build_repository(tmp_path / "other", tmp_path / "zoos", "other")
    (row,) = rows_of(tmp_path / "zoos", "gpt_cartpole")
    assert row["train_ret"] == 12.5
    assert row["test_acc"] is None
    assert {name: list(value.shape) for name, value in zd.to_state_dict(row).items()}["actor.2.weight"] == [32, 32]
    (row,) = rows_of(tmp_path / "zoos", "other")
    assert [list(value.shape) for value in zd.to_state_dict(row).values()] == [[6], [2]]


def test_what_is_damaged_is_left_out_and_counted(tmp_path):
    folder = tmp_path / "mnist"
    for run in ("000001", "000002", "000003"):
        write_run(folder / run, [(run, epoch, 7 * epoch + 1) for epoch in range(3)])
    data = folder / "000002" / "data.mdb"
    data.write_bytes(data.read_bytes()[:8192])  # cut short: the library is killed for reading beyond its end
    with lmdb.open(str(folder / "000003"), map_size=1 << 26) as env, env.begin(write=True) as transaction:
        transaction.put(b"000003/ep000_it00001.pt", b"\0" * 8)
        transaction.put(b"000003/ep001_it00008.pt_arch", np.array([np.nan, 1], "<f4").tobytes())
        transaction.delete(b"000003/ep002_it00015.pt_arch")
        transaction.put(b"no key of theirs", b"\0")
    runs = json.loads((folder / "000001" / "runs.json").read_text())
    runs["checkpoints"]["000001/ep009_it00099.pt"] = {}
    (folder / "000001" / "runs.json").write_text(json.dumps(runs))
    (folder / "000003" / "DONE.txt").unlink()
    result = build_repository(folder, tmp_path / "zoos")
    assert result.rows == 3
    reasons = {entry.model: entry.reason for entry in result.left_out}
    assert len(reasons) == 3 + 4 + 1
    assert sum("damaged or hostile" in reason or "could not read it" in reason for reason in reasons.values()) == 3
    assert reasons["000003/ep000_it00001.pt"] == "it has 8 bytes, its _arch says 31,840"
    assert "no number of elements" in reasons["000003/ep001_it00008.pt"]
    assert "has no _arch of it" in reasons["000003/ep002_it00015.pt"]
    assert "not of the form RUN/epNNN_itNNNNN.pt" in reasons["no key of theirs"]
    assert "data.mdb does not hold it" in reasons["000001/ep009_it00099.pt"]
    manifest = read_manifest(tmp_path / "zoos", "gpt_mnist")
    assert (manifest.states.found, manifest.states.written) == (3 + 3 + 4 + 1, 3)
    assert any("gpt-unfinished" in code for code in result.codes.values())


def test_selections_and_an_archive(tmp_path):
    folder = tmp_path / "mnist"
    for run in ("000001", "000002", "000003"):
        write_run(folder / run, [(run, epoch, 7 * epoch + 1) for epoch in range(3)])
    source = open_source(folder, Reading(models=2, epochs=frozenset({1, 2})))
    assert (source.models, source.states) == (2, 4)
    source = open_source(folder, Reading(state_dicts=StateDictOptions(where="iteration > 1 and model_id != '000001'")))
    assert source.states == 4
    assert open_source(folder, Reading(where=parse_where("test_acc > 0.205"))).states == 6
    with zipfile.ZipFile(tmp_path / "mnist.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(tmp_path))
    with pytest.raises(SourceError, match="cannot be read in an archive or from afar; unpack or download it"):
        open_source(tmp_path / "mnist.zip")


def nino(folder, trajectories=2, states=2688, size=14378, task="fm-16", metrics=4):
    """Files without a header; returns weights [trajectories, states, D] and figures."""
    random = np.random.default_rng(1)
    weights = random.normal(size=(trajectories, states, size)).astype(np.float16)
    figures = random.random((trajectories, states, metrics)).astype(np.float16)
    weights.tofile(folder / f"{task}.dat")
    figures.tofile(folder / f"{task}_metrics.dat")
    return weights, figures


@torch.no_grad()
def test_trajectories_are_rows_with_exact_halves(tmp_path):
    (tmp_path / "nino").mkdir()
    weights, figures = nino(tmp_path / "nino", 3, 5)
    (tmp_path / "layout.json").write_text('{"states": 5}')
    reading = Reading(state_dicts=StateDictOptions(layout=tmp_path / "layout.json"))
    result = build_repository(tmp_path / "nino", tmp_path / "zoos", reading=reading)
    assert (result.models, result.rows, result.warnings.count("cut short")) == (3, 15, 0)
    rows = rows_of(tmp_path / "zoos", "nino_fm-16")
    images = torch.randn(2, 1, 28, 28)
    for row in rows:
        stored, told = weights[row["trajectory"], row["state"]], figures[row["trajectory"], row["state"]]
        state = zd.to_state_dict(row)
        assert {tensor.dtype for tensor in state.values()} == {torch.float16}
        assert np.array_equal(torch.cat([tensor.flatten() for tensor in state.values()]).numpy(), stored)
        assert [row[name] for name in ("test_loss", "test_acc", "train_loss", "train_acc")] == told.tolist()
        assert row["step"] == 4 * row["state"]
        x = images
        for number, options in ((0, {"stride": 2}), (2, {"padding": 1}), (4, {"padding": 1})):
            weight, bias = (state[f"fc.{number}.{part}"].float() for part in ("weight", "bias"))
            x = torch.relu(functional.conv2d(x, weight, bias, **options))
        expected = functional.linear(x.mean((2, 3)), state["fc.8.weight"].float(), state["fc.8.bias"].float())
        torch.testing.assert_close(zd.to_module(row)(images), expected)
    for trajectory in range(3):
        assert [row["step"] for row in rows if row["trajectory"] == trajectory] == [0, 4, 8, 12, 16]


def test_files_in_parts_cut_short_and_in_percent(tmp_path):
    size = 1_252_464
    for part in ("_p1", "_p2"):
        np.zeros(2 * size, np.float16).tofile(tmp_path / f"lm1b-3-24{part}.dat")
    figures = np.zeros((200, 124, 1), np.float16)
    figures[0, 1], figures[100, 1] = 5.5, 4.5
    figures.tofile(tmp_path / "lm1b-3-24_metrics.dat")
    source = open_source(tmp_path)
    pieces = [piece for block in source.blocks() for piece in source.read(block)]
    rows = {
        (model.model_id, step): loss
        for piece in pieces
        for model, step, loss in zip(
            piece.models, piece.figures["step"].to_pylist(), piece.figures["train_loss"].to_pylist(), strict=True
        )
    }
    assert rows == {("lm1b-3-24/00000", 0): 0, ("lm1b-3-24/00000", 200): 5.5,
                    ("lm1b-3-24/00100", 0): 0, ("lm1b-3-24/00100", 200): 4.5}  # fmt: skip
    assert any("no whole trajectories of 124" in line for line in source.notes({}).lines())
    (tmp_path / "fm-16.dat").write_bytes(b"\0" * (2 * 14378 + 1))
    with pytest.raises(SourceError, match="several tasks; choose one by --name, one of nino_fm-16, nino_lm1b-3-24"):
        open_source(tmp_path)
    assert open_source(tmp_path, Reading(name="nino_lm1b-3-24")).states == 4
    with pytest.raises(SourceError, match="28,757 bytes, no whole number of states of 14,378 float16 numbers"):
        open_source(tmp_path / "fm-16.dat")
    (tmp_path / "fm-16.dat").write_bytes(b"\0" * (2 * 14378))
    (tmp_path / "fm-16_metrics.dat").write_bytes(struct.pack("<4e", 1.5, 87.5, 1.5, 50))
    assert open_source(tmp_path / "fm-16.dat", Reading(where=parse_where("test_acc == 0.875"))).states == 1


def test_trajectories_are_read_in_place_from_an_archive(tmp_path):
    (tmp_path / "nino").mkdir()
    weights, _ = nino(tmp_path / "nino", 1, 3)
    with zipfile.ZipFile(tmp_path / "nino.zip", "w") as archive:
        for path in (tmp_path / "nino").iterdir():
            archive.write(path, path.name)
    source = open_source(tmp_path / "nino.zip", Reading(state_dicts=StateDictOptions(where="state >= 1")))
    (piece,) = list(source.read(source.blocks()[0]))
    assert np.array_equal(piece.weights.numpy(), weights[0, 1:].astype(np.float32))


def test_the_stand_ins_of_the_real_archives(real_raw, tmp_path):
    folder = real_raw.parent / "populations"
    assert build_repository(folder / "gpt" / "mnist", tmp_path / "zoos").rows == 15
    assert build_repository(folder / "nino", tmp_path / "zoos").rows == 12
    for row in rows_of(tmp_path / "zoos", "gpt_mnist"):
        key = f"{row['model_id']}/ep{row['epoch']:03d}_it{row['iteration']:05d}.pt"
        run = str(folder / "gpt" / "mnist" / row["model_id"])
        with lmdb.open(run, readonly=True, lock=False) as env, env.begin() as transaction:
            assert np.array_equal(np.frombuffer(transaction.get(key.encode()), "<f4"), row["weights"])
    stored = np.fromfile(folder / "nino" / "fm-16.dat", "<f2").reshape(12, -1)
    for row in rows_of(tmp_path / "zoos", "nino_fm-16"):
        assert np.array_equal(stored[row["state"]].astype(np.float32), np.array(row["weights"], np.float32))
