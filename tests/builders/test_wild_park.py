"""The CNN Wild Park: its checkpoints read in place without running anything, and the functions that they are of."""

import json
import pickle
import zipfile

import pytest
import torch
from file_server import serving_files
from typer.testing import CliRunner
from wild_files import CONFIGS, checkpoint, config_of, park

import zoo_datasets as zd
from zoo_datasets.builders import Reading, StateDictOptions, build_repository
from zoo_datasets.builders.sources.table import open_source
from zoo_datasets.cli.app import app
from zoo_datasets.errors import SourceError, SpecError, UnknownNameError
from zoo_datasets.evaluation.benchmark.run import Settings, read_data
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.repository.where import parse_where
from zoo_datasets.symmetries import permute


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "cnn_wild_park.zip"
    return path, park(path)


def rows_of(repo, name="cnn_wild_park", **options):
    return [row for split in zd.load_zoo(repo, name, **options).values() for row in split]


@torch.no_grad()
def test_rows_are_the_networks_that_the_text_describes(archive, tmp_path):
    path, networks = archive
    result = build_repository(path, tmp_path / "zoos")
    assert (result.models, result.rows, result.left_out) == (3, 6, ())
    rows = rows_of(tmp_path / "zoos")
    images = torch.randn(5, 3, 32, 32)
    assert {(row["model_id"], row["epoch"]) for row in rows} == networks.keys()
    for row in rows:
        network = networks[row["model_id"], row["epoch"]]
        state = zd.to_state_dict(row)
        assert list(state) == list(network.state_dict())
        assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
        module = zd.to_module(row)
        torch.testing.assert_close(module(images), network(images))
        config = network.config
        assert row["n_layers"] == config["n_layers"]
        assert json.loads(row["residual"]) == config["residual"]
        assert json.loads(row["activations"]) == config["activation"]
        assert (row["images"], row["classes"], row["lr"]) == ("cifar10", 10, 0.001)
        assert row["test_acc"] == pytest.approx(row["epoch"] / 100)
        assert row["group"] == row["model_id"]
    # Without the sums it would be another function.
    without = {**networks[rows[0]["model_id"], rows[0]["epoch"]].config}
    network = networks["cifar10_zooV2/NN_tune_trainable_00000", 10]
    without, network.config = network(images), {**network.config, "residual": [-1] * 4}
    assert not torch.allclose(network(images), without)


def test_features_of_several_layouts_are_refused_on_one_line(archive, tmp_path):
    path, _ = archive
    build_repository(path, tmp_path / "zoos")
    with pytest.raises(SpecError, match="networks of several layouts.*zoo select"):
        read_data(tmp_path / "zoos", Settings(train="cnn_wild_park", tests=("cnn_wild_park",)))


@torch.no_grad()
def test_permutations_keep_the_function_of_rows(archive, tmp_path):
    path, networks = archive
    build_repository(path, tmp_path / "zoos")
    images = torch.randn(2, 3, 32, 32)
    for row in rows_of(tmp_path / "zoos", epochs=[10]):
        layers = zd.to_module(row)._chain
        changed = permute(torch.tensor(row["weights"])[None], layers)
        assert not torch.equal(changed[0], torch.tensor(row["weights"]))
        again = zd.to_module({**row, "weights": changed[0].tolist()})
        torch.testing.assert_close(again(images), networks[row["model_id"], 10](images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["archive", "folder with the archive", "unpacked", "unpacked zoo"])
def test_it_is_recognised_in_every_form_and_split_by_the_file_beside_it(archive, tmp_path, form):
    path, _ = archive
    trials = [f"cifar10_zooV2/NN_tune_trainable_{number:05d}" for number in range(3)]
    splits = {
        split: {"path": [f"cnn_wild/{trial}/checkpoint_{epoch:06d}/checkpoint.pt" for epoch in (10, 20)], "score": []}
        for split, trial in zip(("train", "val", "test"), trials, strict=True)
    }
    folder = tmp_path / "park"
    folder.mkdir()
    if form.startswith("unpacked"):
        with zipfile.ZipFile(path) as members:
            members.extractall(folder)
        place = folder / "cifar10_zooV2" if form == "unpacked zoo" else folder
    else:
        path.rename(folder / path.name)
        place = folder / path.name if form == "archive" else folder
    (folder / "cnn_park_splits.json").write_text(json.dumps(splits))
    build_repository(place, tmp_path / "zoos")
    assert {row["model_id"]: row["source_split"] for row in rows_of(tmp_path / "zoos")} == dict(
        zip(trials, ("train", "val", "test"), strict=True)
    )
    assert zd.load_zoo(tmp_path / "zoos", "cnn_wild_park", "val", split_by="source").num_rows == 2
    manifest = read_manifest(tmp_path / "zoos", "cnn_wild_park")
    assert manifest.source["kind"] == "CNN Wild Park"
    assert "Kofinas" in manifest.source["credit"]["authors"]


def test_splits_that_are_told_count_and_others_beside_it_are_no_obstacle(archive, tmp_path):
    path, _ = archive
    (tmp_path / "cnn_park_splits.json").write_text('{"train": {"path": ["elsewhere/other/checkpoint.pt"]}}')
    source = open_source(path)
    assert any("is not used" in line for line in source.notes({}).lines())
    told = tmp_path / "mine.json"
    told.write_text('{"mine": {"path": ["NN_tune_trainable_00001/checkpoint_000010/checkpoint.pt"]}}')
    source = open_source(path, Reading(splits=told))
    (piece,) = [
        piece
        for piece in source.read(source.blocks()[0].at(10))
        if piece.models[0].model_id == "cifar10_zooV2/NN_tune_trainable_00001"
    ]
    assert piece.figures["source_split"].to_pylist() == ["mine"]
    told.write_text('{"mine": {"path": ["elsewhere/other/checkpoint.pt"]}}')
    with pytest.raises(SourceError, match="none of its 1 entries"):
        open_source(path, Reading(splits=told))


def test_selections_are_made_before_weights_are_read(archive, tmp_path, monkeypatch):
    path, _ = archive
    source = open_source(path, Reading(epochs=frozenset({20}), where=parse_where("test_acc > 0.15"), models=2))
    assert (source.models, source.states) == (2, 2)
    options = StateDictOptions(where="n_layers == 2 or residual_sums == 4")
    source = open_source(path, Reading(state_dicts=options))
    assert sorted(model.model_id[-1] for model in source.blocks()[0].models) == ["1", "2"]
    assert len(source.open_columns.records) == 2
    monkeypatch.setattr(type(source), "read_rows", None)
    with pytest.raises(UnknownNameError, match="no column named 'n_layer'"):
        open_source(path, Reading(state_dicts=StateDictOptions(where="n_layer == 2")))
    with pytest.raises(SourceError, match="no state of it fits the selection"):
        open_source(path, Reading(where=parse_where("test_acc > 2")))


def test_of_an_archive_afar_no_more_is_fetched_than_the_selection(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    path, _ = archive
    (tmp_path / "served").mkdir()
    path.rename(tmp_path / "served" / path.name)
    with serving_files(tmp_path / "served") as served:
        source = open_source(f"{served.url}/{path.name}", Reading(models=1))
        assert (source.models, source.states) == (1, 2)
        monkeypatch.setenv("ZOO_POPULATIONS", served.url)
        (tmp_path / "served" / "records" / "12797219" / "files").mkdir(parents=True)
        (tmp_path / "served" / path.name).rename(tmp_path / "served" / "records" / "12797219" / "files" / path.name)
        runner = CliRunner()
        done = runner.invoke(app, ["build", "cnn_wild_park", "--out", str(tmp_path / "zoos"), "--models", "2"])
    assert done.exit_code == 0, done.output
    assert len(rows_of(tmp_path / "zoos")) == 4


def test_what_is_not_of_the_park_is_left_out_and_counted(archive, tmp_path):
    path, _ = archive
    good = config_of([4, 4], [-1, -1], ["relu", "tanh"])
    bad = {
        "other dataclass": (checkpoint(good, 10, dataclass="Other"), "names create_random_cnns.Other"),
        "other node": (checkpoint(good, 10, integer="Extra"), "names omegaconf.nodes.Extra"),
        "activation": (None, "the activation 'mish'"),
        "forward": (None, "add the output of layer 1 to layer 1"),
        "lists": (None, "2 layers, but 1 of stride"),
        "strides": (None, "make no network for CIFAR-10"),
        "tensors": (
            None,
            r"its tensor 'layers.0.weight' is float32 of \[4, 3, 3, 3\], its settings say float32 of \[4",
        ),
    }
    wrong = {
        "activation": good | {"activation": ["relu", "mish"]},
        "forward": good | {"residual": [-1, 1]},
        "lists": good | {"stride": [1]},
        "tensors": good | {"kernel_size": [5, 3]},
    }
    strided = config_of([4, 4, 4], [-1, -1, 0], ["relu"] * 3, stride=[1, 2, 1])
    with zipfile.ZipFile(path, "a") as members:
        for number, (name, (written, _)) in enumerate(bad.items()):
            if written is None:
                data = checkpoint(strided if name == "strides" else good, 10, settings_of=wrong.get(name))[0]
            else:
                data = written[0]
            members.writestr(f"cifar10_zooV2/bad_{number}/checkpoint_000010/checkpoint.pt", data)
        damaged = bytearray(checkpoint(good, 10)[0])
        damaged[1500] ^= 1
        members.writestr("cifar10_zooV2/damaged/checkpoint_000010/checkpoint.pt", bytes(damaged))
        members.writestr("cifar10_zooV2/text/checkpoint_000010/checkpoint.pt", "no checkpoint")
    result = build_repository(path, tmp_path / "zoos")
    assert result.rows == 6
    manifest = read_manifest(tmp_path / "zoos", "cnn_wild_park")
    assert (manifest.states.found, manifest.states.written) == (6 + len(bad) + 2, 6)
    reasons = {entry.model.split("/")[1]: entry.reason for entry in result.left_out}
    assert len(reasons) == len(bad) + 2
    for number, (_, match) in enumerate(bad.values()):
        with pytest.raises(SourceError, match=match):
            raise SourceError(reasons[f"bad_{number}"])


class _Runs:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


def test_nothing_of_a_file_runs(tmp_path):
    path = tmp_path / "cnn_wild_park.zip"
    data, _ = checkpoint(CONFIGS[0], 10)
    evil = tmp_path / "evil.pt"
    torch.save({"model": {}, "config": "create_random_cnns", "more": _Runs()}, evil, pickle_module=pickle)
    with zipfile.ZipFile(path, "w") as members:
        members.writestr("cifar10_zooV2/a/checkpoint_000010/checkpoint.pt", evil.read_bytes())
        members.writestr("cifar10_zooV2/b/checkpoint_000010/checkpoint.pt", data)
    result = build_repository(path, tmp_path / "zoos")
    assert result.rows == 1
    assert "names __builtin__.exec" in result.left_out[0].reason


def test_a_build_that_was_stopped_goes_on_and_grows(archive, tmp_path):
    path, _ = archive
    build_repository(path, tmp_path / "one")
    again = build_repository(path, tmp_path / "one")
    assert (again.shards_written, again.rows) == (0, 6)
    part = tmp_path / "part.zip"
    park(part, CONFIGS[:2])
    with pytest.raises(SourceError, match="expected"):
        open_source(tmp_path / "one")
    files = {file.name: file.read_bytes() for file in (tmp_path / "one" / "cnn_wild_park").glob("*.parquet")}
    build_repository(path, tmp_path / "two", num_proc=2)
    assert files == {file.name: file.read_bytes() for file in (tmp_path / "two" / "cnn_wild_park").glob("*.parquet")}


def test_the_stand_in_of_the_real_archive(real_raw, tmp_path):
    folder = real_raw.parent / "populations" / "wild"
    result = build_repository(folder, tmp_path / "zoos")
    assert (result.models, result.rows, result.left_out) == (4, 8, ())
    rows = rows_of(tmp_path / "zoos")
    assert {row["source_split"] for row in rows} == {"train", "val", "test"}
    with zipfile.ZipFile(folder / "cnn_wild_park.zip") as members, torch.no_grad():
        for row in rows:
            # Its storages follow each other in the order of the state dict.
            inner = zipfile.ZipFile(members.open(row["path"]))
            names = sorted(
                (name for name in inner.namelist() if "/data/" in name), key=lambda name: int(name.split("/")[-1])
            )
            stored = b"".join(inner.read(name) for name in names)
            assert torch.equal(torch.frombuffer(bytearray(stored), dtype=torch.float32), torch.tensor(row["weights"]))
            assert zd.to_module(row)(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
