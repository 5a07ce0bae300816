"""The Small CNN Zoo: its arrays and tables become rows of networks that compute what its description says."""

import random
import tarfile

import numpy as np
import pytest
import torch
from file_server import serving_files
from small_cnn_files import SHAPES, STEPS, Reference, layout, metrics, small_zoo, tensors, write_zoo
from typer.testing import CliRunner

import zoo_datasets as zd
from zoo_datasets.builders import Reading, StateDictOptions, build_repository
from zoo_datasets.builders.sources.table import open_source
from zoo_datasets.cli.app import app
from zoo_datasets.errors import SourceError
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.repository.where import parse_where

NAME = "small_cnn_zoo_mnist"


def rows_of(repo, name=NAME, **options):
    return [row for split in zd.load_zoo(repo, name, **options).values() for row in split]


def by_number(repo, name=NAME):
    return {row["row"]: row for row in rows_of(repo, name)}


@torch.no_grad()
def test_rows_are_the_networks_of_the_description(tmp_path):
    table, weights = small_zoo(tmp_path / "mnist", index=True)
    result = build_repository(tmp_path / "mnist", tmp_path / "zoos")
    assert (result.config, result.models, result.rows, result.epochs) == (NAME, 4, 36, STEPS)
    rows = by_number(tmp_path / "zoos")
    images = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for number, theirs in enumerate(table):
        state = zd.to_state_dict(rows[number])
        own = tensors(weights[number])
        assert torch.equal(state["conv2.weight"], own["sequential/conv2d_1/kernel:0"].permute(3, 2, 0, 1))
        assert torch.equal(state["conv2.bias"], own["sequential/conv2d_1/bias:0"])
        assert torch.equal(state["fc.weight"], own["sequential/dense/kernel:0"].T)
        module = zd.to_module(rows[number]).eval()
        expected = Reference(weights[number], theirs["config.activation"])(images)
        torch.testing.assert_close(module(images), expected, rtol=1e-4, atol=1e-4)


def test_columns_are_those_of_the_configuration(tmp_path):
    table, _ = small_zoo(tmp_path / "svhn", dataset="svhn_cropped")
    build_repository(tmp_path / "svhn", tmp_path / "zoos")
    rows = by_number(tmp_path / "zoos", "small_cnn_zoo_svhn")
    assert len({row["model_id"] for row in rows.values()}) == 4
    for number, theirs in enumerate(table):
        row = rows[number]
        config = {name.removeprefix("config."): value for name, value in theirs.items()}
        assert (row["images"], row["dataset"], row["architecture"]) == ("svhn", "svhn_cropped", "small_cnn")
        assert (row["epoch"], row["seed"], row["task"]) == (config["step"], 42, "classification")
        assert row["weight_decay"] == pytest.approx(2 * config["l2reg"], rel=1e-12)
        renamed = {"lr": "learning_rate", "init": "w_init", "optimizer": "optimizer", "activation": "activation"}
        assert {name: row[name] for name in renamed} == {name: config[own] for name, own in renamed.items()}
        same = ("b_init", "init_std", "l2reg", "train_fraction", "epochs", "num_units", "modeldir", "dropout")
        assert {name: row[name] for name in same} == {name: config[name] for name in same}
        assert row["test_acc"] == pytest.approx(config["test_accuracy"], abs=1e-6)
        assert row["train_loss"] == pytest.approx(config["train_loss"], abs=1e-6)
        assert row["val_acc"] is None
    source = read_manifest(tmp_path / "zoos", "small_cnn_zoo_svhn").source
    assert source["weight_decay"] == "2 · l2reg"
    assert source["images"]["pixels"] == {"mode": "L", "grey": "mean", "mean": [0.5], "std": [0.5]}
    page = (tmp_path / "zoos" / "_meta" / "small_cnn_zoo_svhn" / "README.md").read_text()
    assert "Unterthiner" in page
    assert "CC-BY 4.0" in page
    assert "evaluation mode" in page


def test_layers_of_any_sizes_follow_the_layout_file(tmp_path):
    shapes = {"a/bias:0": (4,), "a/kernel:0": (5, 5, 3, 4), "b/kernel:0": (2, 2, 4, 6), "d/bias:0": (7,),
              "d/kernel:0": (6, 7)}  # fmt: skip
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    weights = np.random.default_rng(0).normal(size=(9, size)).astype(np.float32)
    write_zoo(tmp_path / "z", metrics(1), weights, shapes)
    build_repository(tmp_path / "z", tmp_path / "zoos", "own")
    row = by_number(tmp_path / "zoos", "own")[5]
    assert (row["architecture"], row["in_channels"], row["classes"]) == (None, 3, 7)
    own = tensors(weights[5], shapes)
    state = zd.to_state_dict(row)
    assert list(state) == ["conv1.weight", "conv1.bias", "conv2.weight", "fc.weight", "fc.bias"]
    assert torch.equal(state["conv2.weight"], own["b/kernel:0"].permute(3, 2, 0, 1))
    assert zd.to_module(row)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_nfns_split_is_the_published_one(tmp_path):
    table, _ = small_zoo(tmp_path / "mnist", runs=23)
    order = list(range(len(table)))
    random.Random(7).shuffle(order)
    (tmp_path / "mnist_split.csv").write_text("0\n" + "\n".join(map(str, order)) + "\n")
    # The rule as NFN's code has it: final states in this order, the second half test, the first shuffled, then 80 %.
    final = [number for number in order if table[number]["step"] == 86]
    first = list(range(int(0.5 * len(final))))
    test = {final[place] for place in range(len(first), len(final))}
    random.Random(0).shuffle(first)
    train = {final[place] for place in first[: int(0.8 * len(first))]}
    result = build_repository(
        tmp_path / "mnist", tmp_path / "zoos", reading=Reading(splits=tmp_path / "mnist_split.csv")
    )
    assert result.rows == len(table)
    rows = by_number(tmp_path / "zoos")
    assert {n for n, row in rows.items() if row["source_split"] == "test" and row["epoch"] == 86} == test
    assert {n for n, row in rows.items() if row["source_split"] == "train" and row["epoch"] == 86} == train
    split_of = {row["model_id"]: {r["source_split"] for r in rows.values() if r["model_id"] == row["model_id"]}
                for row in rows.values()}  # fmt: skip
    assert all(len(splits) == 1 for splits in split_of.values())
    loaded = zd.load_zoo(tmp_path / "zoos", NAME, split_by="source", where="epoch == 86")
    assert {name: len(part) for name, part in loaded.items()} == {"train": 8, "val": 3, "test": 12}
    (tmp_path / "other.csv").write_text("\n".join(map(str, order[:-1])))
    with pytest.raises(SourceError, match="no permutation of the 207 rows"):
        open_source(tmp_path / "mnist", Reading(splits=tmp_path / "other.csv"))
    told = "index,split\n" + "\n".join(f"{number},mine" for number in range(9))
    (tmp_path / "told.csv").write_text(told)
    build_repository(tmp_path / "mnist", tmp_path / "told", reading=Reading(splits=tmp_path / "told.csv"))
    assert {n for n, row in by_number(tmp_path / "told").items() if row["source_split"] == "mine"} == set(range(9))


def test_rows_that_are_not_finite_are_kept_and_counted(tmp_path):
    table, weights = small_zoo(tmp_path / "mnist")
    weights[4, 100] = np.nan
    weights[13, 7] = np.inf
    table[4]["test_loss"] = "nan"
    write_zoo(tmp_path / "mnist", table, weights)
    result = build_repository(tmp_path / "mnist", tmp_path / "zoos")
    assert (result.rows, result.left_out) == (36, ())
    assert any("2 states have weights that are not finite" in warning for warning in result.warnings)
    manifest = read_manifest(tmp_path / "zoos", NAME)
    assert (manifest.states.found, manifest.states.written, manifest.keep_nonfinite) == (36, 36, True)
    assert sum(not np.isfinite(row["weights"]).all() for row in rows_of(tmp_path / "zoos")) == 2


def test_what_cannot_be_a_row_is_left_out_and_counted(tmp_path):
    table, weights = small_zoo(tmp_path / "mnist")
    table[3]["modeldir"] = ""
    table[5]["step"] = -1
    table[8]["step"] = table[7]["step"]
    table[20]["test_accuracy"] = 1.5
    write_zoo(tmp_path / "mnist", table, weights)
    result = build_repository(tmp_path / "mnist", tmp_path / "zoos")
    assert {entry.model for entry in result.left_out} == {"row 3", "row 5", "row 8", "row 20"}
    states = read_manifest(tmp_path / "zoos", NAME).states
    assert (states.found, states.written, states.left_out) == (36, 32, 4)


def test_selections_are_made_before_weights_are_read(tmp_path, monkeypatch):
    small_zoo(tmp_path / "mnist")
    reading = Reading(
        epochs=frozenset({20, 86}), models=2, where=parse_where("lr > 0.0015"), state_dicts=StateDictOptions()
    )
    source = open_source(tmp_path / "mnist", reading)
    assert (source.models, source.states) == (2, 4)
    read = []
    original = type(source).read_rows
    monkeypatch.setattr(
        type(source),
        "read_rows",
        lambda self, numbers, record: read.extend(numbers) or original(self, numbers, record),
    )
    assert build_repository(tmp_path / "mnist", tmp_path / "zoos", reading=reading).rows == 4
    assert len(read) == 4
    ours = Reading(state_dicts=StateDictOptions(where="train_fraction == 1.0"))
    assert open_source(tmp_path / "mnist", ours).models == 1


def test_a_build_that_was_killed_goes_on(tmp_path, monkeypatch):
    small_zoo(tmp_path / "mnist", runs=12)
    whole = build_repository(tmp_path / "mnist", tmp_path / "whole")
    source = open_source(tmp_path / "mnist")
    original = type(source).read_rows
    calls = []

    def dying(self, numbers, record):
        calls.append(1)
        if len(calls) > 10:  # in the second shard, an epoch at a time
            raise KeyboardInterrupt
        return original(self, numbers, record)

    monkeypatch.setattr(type(source), "read_rows", dying)
    with pytest.raises(KeyboardInterrupt):
        build_repository(tmp_path / "mnist", tmp_path / "zoos")
    monkeypatch.setattr(type(source), "read_rows", original)
    resumed = build_repository(tmp_path / "mnist", tmp_path / "zoos")
    assert resumed.shards_resumed >= 1
    paths = [sorted(path.name for path in (tmp_path / repo / NAME).glob("*.parquet")) for repo in ("whole", "zoos")]
    assert paths[0] == paths[1]
    assert whole.rows == resumed.rows == 108


@pytest.mark.parametrize("ending", ["tar.xz", "tar.gz", "tar"])
def test_an_archive_is_fetched_by_name_and_unpacked_once(tmp_path, monkeypatch, ending):
    small_zoo(tmp_path / "smallcnn" / "mnist")
    served = tmp_path / "served" / "gresearch" / "smallcnnzoo-dataset"
    served.mkdir(parents=True)
    archive = served / f"mnist.{ending}"
    with tarfile.open(archive, f"w:{ending.removeprefix('tar').removeprefix('.')}") as tar:
        tar.add(tmp_path / "smallcnn" / "mnist", "mnist")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    with serving_files(tmp_path / "served") as served_files:
        address = served_files.url.rstrip("/")
        if ending == "tar.xz":
            monkeypatch.setenv("ZOO_POPULATIONS", address)
            result = CliRunner().invoke(app, ["build", NAME, "--out", str(tmp_path / "zoos")])
            assert result.exit_code == 0, result.output
            assert "cannot be read in place" in " ".join(result.output.split())
        else:
            url = f"{address}/gresearch/smallcnnzoo-dataset/{archive.name}"
            build_repository(url, tmp_path / "zoos")
    again = build_repository(tmp_path / "smallcnn", tmp_path / "plain")
    assert len(rows_of(tmp_path / "zoos")) == again.rows == 36
    ours, plain = by_number(tmp_path / "zoos"), by_number(tmp_path / "plain")
    assert all(ours[number]["weights"] == plain[number]["weights"] for number in plain)
    assert len(list((tmp_path / "cache").glob("unpacked/*/*/weights.npy"))) == (ending != "tar")


def test_a_bomb_or_half_an_archive_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mnist"
    folder.mkdir()
    with (folder / "weights.npy").open("wb") as file:
        file.truncate(50_000_000)
    with tarfile.open(tmp_path / "mnist.tar.gz", "w:gz") as tar:
        tar.add(folder / "weights.npy", "mnist/weights.npy")
    small_zoo(tmp_path / "good")
    with tarfile.open(tmp_path / "good.tar.xz", "w:xz") as tar:
        tar.add(tmp_path / "good", "good")
    data = (tmp_path / "good.tar.xz").read_bytes()
    (tmp_path / "half.tar.xz").write_bytes(data[: len(data) // 2])
    for name, text in (("mnist.tar.gz", "bomb"), ("half.tar.xz", "cut short")):
        with pytest.raises(SourceError, match=text):
            open_source(tmp_path / name)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


LAYOUT = layout()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAYOUT.replace('"(3, 3, 1, 16)"', "\"__import__('os').system('touch pwned')\""), "shape"),
        (LAYOUT.replace('"(3, 3, 1, 16)"', '"(3, 3, 1, 999999999999)"'), "shape"),
        (LAYOUT.replace('"(16,)"', '"' + "(" * 99 + '"', 1), "shape"),
        (LAYOUT.replace("16,160", "17,161"), "leaves out"),
        (LAYOUT.replace("16,160", "15,159"), "twice"),
        (LAYOUT.replace("160,176,16", "160,175,16"), "160"),
        (LAYOUT.replace("varname", "name"), "varname"),
        (LAYOUT.replace("kernel", "gamma"), "gamma"),
        ("", "0 weights"),
        ("\n".join(LAYOUT.splitlines()[:-1]), "dense layer"),
    ],
)
def test_a_layout_that_is_none_is_refused_in_a_line(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    small_zoo(tmp_path / "mnist")
    (tmp_path / "mnist" / "layout.csv").write_text(text)
    with pytest.raises(SourceError, match=message) as raised:
        open_source(tmp_path / "mnist")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "pwned").exists()


def _with_objects(folder):
    np.save(folder / "weights.npy", np.array([[object()] * 4970] * 36), allow_pickle=True)


def _cut_short(folder):
    data = (folder / "weights.npy").read_bytes()
    (folder / "weights.npy").write_bytes(data[:-4970])


def _of_other_width(folder):
    np.save(folder / "weights.npy", np.zeros((36, 4969), np.float32))


def _of_fewer_rows(folder):
    np.save(folder / "weights.npy", np.zeros((35, 4970), np.float32))


def _in_fortrans_order(folder):
    np.save(folder / "weights.npy", np.asfortranarray(np.zeros((36, 4970), np.float32)))


def _without_steps(folder):
    table = [{name: value for name, value in row.items() if name != "step"} for row in metrics(4)]
    write_zoo(folder, table, np.zeros((36, 4970), np.float32))


def _with_broken_gzip(folder):
    data = (folder / "metrics.csv.gz").read_bytes()
    (folder / "metrics.csv.gz").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_with_objects, "Python objects"),
        (_cut_short, "35 of 36 rows"),
        (_of_other_width, "4,970"),
        (_of_fewer_rows, "35 rows"),
        (_in_fortrans_order, "Fortran"),
        (_without_steps, "step"),
        (_with_broken_gzip, "cut short"),
    ],
)
def test_files_that_are_none_are_refused_in_a_line(tmp_path, damage, message):
    small_zoo(tmp_path / "mnist")
    damage(tmp_path / "mnist")
    with pytest.raises(SourceError, match=message) as raised:
        open_source(tmp_path / "mnist")
    assert "\n" not in str(raised.value)


def test_half_and_double_precision_become_float32(tmp_path):
    table, weights = small_zoo(tmp_path / "mnist")
    for kind in (np.float16, np.float64):
        write_zoo(tmp_path / "mnist", table, weights.astype(kind))
        build_repository(tmp_path / "mnist", tmp_path / kind.__name__)
        row = by_number(tmp_path / kind.__name__)[3]
        expected = tensors(weights.astype(kind).astype(np.float32)[3])["sequential/dense/kernel:0"].T
        assert torch.equal(zd.to_state_dict(row)["fc.weight"], expected)


def test_a_folder_of_several_zoos_is_told_apart(tmp_path):
    small_zoo(tmp_path / "zoos" / "mnist")
    small_zoo(tmp_path / "zoos" / "cifar10", dataset="cifar10")
    with pytest.raises(SourceError, match="holds 2 zoos"):
        open_source(tmp_path / "zoos")
    assert SHAPES  # the same for both


def test_the_trained_networks_have_the_figures_that_are_recorded(real_mnist, tmp_path):
    trained = real_mnist.parents[1] / "populations" / "trained" / "small_cnn" / "mnist"
    if not trained.is_dir():
        pytest.skip("the test data has no trained Small CNN Zoo")
    build_repository(trained, tmp_path / "zoos")
    command = ["verify", str(tmp_path / "zoos"), NAME, "--all", "--images", str(real_mnist)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "24 rows, 24 recomputed: what was checked is as it says" in " ".join(result.output.split())
