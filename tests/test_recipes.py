"""What is new is one entry of its table: a toy of each kind goes all the way that ours go."""

import dataclasses
import importlib
import io
import json
import sys
import warnings
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import plain
import pyarrow.parquet as pq
import pytest
import torch
from file_server import serving_files
from raw_zoos import SEED_ZOO, make_zoo, zipped
from tiny_runs import make_run
from torch import nn
from torch.nn import functional
from toy_layer import LayerNorm
from typer.testing import CliRunner

import zoo_datasets as zd
from zoo_datasets import adapters
from zoo_datasets.adapters.graphs import from_graphs, to_graphs
from zoo_datasets.builders import zoo_builder
from zoo_datasets.builders.checkpoints.recognise import recognise
from zoo_datasets.builders.checkpoints.torch_file import parse_structure
from zoo_datasets.builders.containers import archives
from zoo_datasets.builders.containers.locate import has_file
from zoo_datasets.builders.sources import table as sources
from zoo_datasets.builders.sources.base import Source, StateBlock, States
from zoo_datasets.builders.sources.raw.export import export_raw
from zoo_datasets.builders.sources.raw.names import raw_folder_name, read_folder_name
from zoo_datasets.cli.app import app
from zoo_datasets.cli.shell import run_app
from zoo_datasets.errors import CheckpointError, RepositoryError, RunError, SourceError, UnknownNameError
from zoo_datasets.evaluation import features
from zoo_datasets.evaluation.benchmark.record import run_benchmark
from zoo_datasets.evaluation.benchmark.run import Settings
from zoo_datasets.images import table as images
from zoo_datasets.loading.exporting import export_safetensors, repository_rows
from zoo_datasets.networks.architectures import ARCHITECTURES, Architecture, get_architecture, layout_of
from zoo_datasets.networks.kind import NetworkKind
from zoo_datasets.networks.layers import ACTIVATIONS, Activate, Dropout, Flatten, Linear
from zoo_datasets.repository.card import read_card
from zoo_datasets.repository.card.text import citations_of, page_of, table_line
from zoo_datasets.repository.credit import Credit
from zoo_datasets.repository.manifest import Manifest, read_manifest
from zoo_datasets.repository.row import HYPERPARAMETERS
from zoo_datasets.runs.rows import Model
from zoo_datasets.specs.zoos import ZOOS, get_zoo
from zoo_datasets.stacked.augmentation import AUGMENTATIONS
from zoo_datasets.stacked.initialise import INITS
from zoo_datasets.stacked.optimizers import OPTIMIZERS, OptimizerKind
from zoo_datasets.symmetries import permute
from zoo_datasets.training import train_zoo
from zoo_datasets.training.engines.table import ENGINES, Engine
from zoo_datasets.training.population.opening import open_run
from zoo_datasets.training.population.parents import open_parents
from zoo_datasets.training.population.twins import twins_of_parents
from zoo_datasets.training.sparsifiers import SPARSIFIERS
from zoo_datasets.training.steps.schedules import SCHEDULES, Scheduled
from zoo_datasets.training.train import train_population

LIKE = ("epoch", "seed", "images", "architecture", "in_channels", "classes", "activation", "init", "dropout", "lr",
        "optimizer", "weight_decay", "batch_size", "train_loss", "train_acc", "val_loss", "val_acc", "test_loss",
        "test_acc", "ggap", "sparsifier", "sparsity")  # fmt: skip


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def mlp_layers(in_channels, classes):
    return (Flatten(), Linear("fc1", 784 * in_channels, 16), Activate(), Dropout(), Linear("fc2", 16, classes))


def add_architecture(monkeypatch, name="mlp"):
    monkeypatch.setitem(ARCHITECTURES, name, Architecture(name, 28, mlp_layers))


def add_images(monkeypatch, name="kmnist", like="fashion_mnist"):
    spec = dataclasses.replace(images.get_image_spec(like), name=name, raw_names=())
    monkeypatch.setattr(images, "IMAGES", (*images.IMAGES, spec))


def toy_zoo(name="toy", **changes):
    """A tiny zoo of nobody's, whose networks do not saturate at the start."""
    zoo = plain.tiny_zoo(**{"init": ("kaiming_uniform",), **changes})
    return dataclasses.replace(zoo, name=name, doi=None, published=False)


def trained(tmp_path, **changes):
    """A tiny trained run of a zoo with these fields."""
    zoo = toy_zoo(**changes)
    return train_zoo(zoo, tmp_path / "run", plain.tiny_images(zoo.images)).path


_ORDER = ("seed", "epoch", "activation", "init", "dropout")


def rows_of(repo, name):
    tables = [pq.read_table(repo / shard.path) for shard in read_manifest(repo, name).shards]
    rows = [row for table in tables for row in table.to_pylist()]
    return sorted(rows, key=lambda row: [row[key] for key in _ORDER])


def check_symmetries_and_graphs(row):
    """Reordered channels leave the module's answers as they are, and graphs come back bit for bit."""
    layers = NetworkKind.of_row(row).layers
    weights = torch.tensor([row["weights"]])
    (reordered,) = permute(weights, layers, torch.Generator().manual_seed(0))
    assert not torch.equal(reordered, weights[0])
    size = get_architecture(row["architecture"]).input_size
    pixels = torch.rand((3, row["in_channels"], size, size), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        answers = [zd.to_module(row | {"weights": values.tolist()})(pixels) for values in (weights[0], reordered)]
    torch.testing.assert_close(*answers, rtol=1e-3, atol=1e-4)
    graphs = to_graphs(weights, layers)
    assert torch.equal(from_graphs(graphs.nodes, graphs.edges, layers), weights)


def check_all_the_way(run, tmp_path):
    """Build, verify, load, permute, graphs, export both ways, and build the raw export again: it has the same rows."""
    repo, raw = tmp_path / "repo", tmp_path / "raw"
    name = zd.build_repository(run, repo).config
    zoo = json.loads((run / "zoo.json").read_text())["zoo"]
    assert zd.verify_repository(repo, name, images=plain.tiny_images(zoo["images"])).ok
    rows = rows_of(repo, name)
    module = zd.to_module(rows[0])
    weights = torch.cat([tensor.detach().flatten() for tensor in module.parameters()])
    assert np.array_equal(weights, np.array(rows[0]["weights"], np.float32))
    check_symmetries_and_graphs(rows[0])
    assert len(export_safetensors(repository_rows(repo, name), tmp_path / "single")) == len(rows)

    exported = export_raw(repository_rows(repo, name), raw)
    again = zd.build_repository(exported.folder, tmp_path / "again")
    assert (again.left_out, again.rows) == ((), len(rows))
    for before, after in zip(rows, rows_of(tmp_path / "again", again.config), strict=True):
        assert np.array_equal(before["weights"], after["weights"])
        np.testing.assert_equal({key: after[key] for key in LIKE}, {key: before[key] for key in LIKE})
    return exported, again


@pytest.mark.parametrize("dropout", [(0.0,), (0.0, 0.5)])
def test_an_architecture_and_images(tmp_path, monkeypatch, dropout):
    add_architecture(monkeypatch)
    add_images(monkeypatch)
    run = trained(tmp_path, images="kmnist", architecture="mlp", dropout=dropout, seeds=2)
    exported, again = check_all_the_way(run, tmp_path)
    assert (exported.folder.name, again.config) == ("tune_zoo_toy", "kmnist_mlp")
    params = json.loads(next(exported.folder.glob("*/params.json")).read_text())
    assert params["model::type"] == "mlp"
    text = "".join(file.read_text() for file in (tmp_path / "again").rglob("README.md"))
    assert "imported, origin unknown" in text
    assert not any(theirs in text for theirs in ("Schürholt", "zenodo", "cc-by", "CC-BY", "## Citation"))


def nesterov(parameters, gradients, state, settings):
    """torch.optim.SGD with nesterov, without weight decay."""
    velocity = state["velocity"].mul_(settings.momentum[:, None]).add_(gradients)
    parameters -= settings.lr[:, None] * (gradients + settings.momentum[:, None] * velocity)


def upside_down(draws, height, width):
    rows, columns = torch.arange(height - 1, -1, -1)[None, :, None], torch.arange(width)[None, None, :]
    return rows.expand(len(draws), -1, width), columns.expand(len(draws), height, -1)


# Table, name, entry, the field of a zoo that names it, and whether the native kernels can do without knowing it.
ENTRIES = {
    "activation": (ACTIVATIONS, "Relu6_toy", functional.relu6, ("Relu6_toy", "tanh"), False),
    "optimizer": (OPTIMIZERS, "nesterov", OptimizerKind(nesterov, ("velocity",), momentum=True), ("nesterov",), False),
    "init": (INITS, "tenth", lambda seeds, count, *_: torch.full((len(seeds), count), 0.1), ("tenth", "normal"), True),
    "augmentation": (AUGMENTATIONS, "upside_down", upside_down, ("upside_down", "flip"), False),
    "scheduler": (SCHEDULES, "falling", lambda step, steps: Scheduled(1 - step / steps, None), "falling", True),
}


@pytest.mark.parametrize("field", ENTRIES)
def test_what_a_field_of_a_zoo_names(tmp_path, monkeypatch, field):
    table, name, entry, value, native = ENTRIES[field]
    with pytest.raises(UnknownNameError, match=name):
        trained(tmp_path, **{field: value})
    monkeypatch.setitem(table, name, entry)
    zoo = toy_zoo(seeds=2, **{field: value})
    if not native:
        with pytest.raises(RunError, match=f"native path cannot be used here: the native kernels know .*{name}"):
            train_zoo(zoo, tmp_path / "run", plain.tiny_images(), path="native")
    run = train_zoo(zoo, tmp_path / "run", plain.tiny_images())
    assert native or run.manifest.engine == "torch"
    check_all_the_way(run.path, tmp_path)
    before = train_zoo(toy_zoo(seeds=2), tmp_path / "plain", plain.tiny_images(), path="torch")
    assert not torch.equal(run.cohort(0).weights(2), before.cohort(0).weights(2))


def test_an_optimizer_takes_the_momentum_of_its_zoo(tmp_path, monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "nesterov", ENTRIES["optimizer"][2])
    zoo, data = (
        toy_zoo(seeds=1, epochs=1, optimizer=("nesterov",), momentum=0.7, weight_decay=(0.0,)),
        plain.tiny_images(),
    )
    run = train_zoo(zoo, tmp_path / "run", data)
    (member,) = run.cohort(0).members
    assert member.hyperparameters.momentum == 0.7

    def optimizer(zoo, member, module, steps):
        return torch.optim.SGD(module.parameters(), lr=member.hyperparameters.lr, momentum=0.7, nesterov=True), None

    monkeypatch.setattr(plain, "plain_optimizer", optimizer)
    alone = plain.train_alone(zoo, member, data, steps=6)
    torch.testing.assert_close(run.cohort(0).weights(1)[0], alone, rtol=1e-4, atol=1e-6)


def test_a_kind_of_layer(tmp_path, monkeypatch):
    def layers(in_channels, classes):
        first, last = Linear("fc1", 784 * in_channels, 12), Linear("fc2", 12, classes)
        return (Flatten(), first, LayerNorm("norm", 12), Activate(), last)

    monkeypatch.setitem(ARCHITECTURES, "normed", Architecture("normed", 28, layers))
    zoo = toy_zoo(architecture="normed", seeds=2)
    with pytest.raises(RunError, match="LayerNorm is not computed by the native kernels"):
        train_zoo(zoo, tmp_path / "run", plain.tiny_images(), path="native")
    run = train_zoo(zoo, tmp_path / "run", plain.tiny_images())
    assert run.manifest.engine == "torch"
    check_all_the_way(run.path, tmp_path)


def test_a_zoo_of_the_table_and_of_a_file(tmp_path, monkeypatch):
    zoo = toy_zoo(name="toy_zoo", seeds=2)
    with pytest.raises(UnknownNameError, match="toy_zoo"):
        get_zoo("toy_zoo")
    monkeypatch.setitem(ZOOS, "toy_zoo", zoo)
    assert zd.list_zoos()[-1] == zd.get_zoo("toy_zoo") == zoo
    assert get_zoo("toy_zoo_magnitude50").parent == "toy_zoo"
    with pytest.raises(UnknownNameError, match="did you mean toy_zoo"):
        get_zoo("toy_zo")
    assert "toy_zoo" in CliRunner().invoke(app, ["list", "--json"]).output
    fields = {key: value for key, value in zoo.to_dict().items() if value is not None}
    (tmp_path / "toy.yaml").write_text(json.dumps(fields))  # JSON is YAML
    assert zd.read_zoo(tmp_path / "toy.yaml") == zoo
    check_all_the_way(train_zoo(zd.get_zoo("toy_zoo"), tmp_path / "run", plain.tiny_images()).path, tmp_path)


def test_an_engine(tmp_path, monkeypatch):
    trained_by = []

    def train(work, report, tick):
        trained_by.append(work.threads)
        ENGINES["local"].train(work, report, tick)

    monkeypatch.setitem(ENGINES, "toy", Engine(train))
    zoo = toy_zoo(seeds=2)
    run = train_zoo(zoo, tmp_path / "run", plain.tiny_images(), engine="toy", threads=2)
    assert trained_by == [2]
    check_all_the_way(run.path, tmp_path)
    with pytest.raises(UnknownNameError, match="toi.*did you mean toy"):
        train_zoo(zoo, tmp_path / "other", plain.tiny_images(), engine="toi")
    few = [word for split in ("train", "val", "test") for word in (f"--limit-{split}", "20")]
    command = ["train", "digits_cnn_s", "--models", "2", "--epochs", "1", "--engine", "toy", *few]
    assert CliRunner().invoke(app, [*command, "--out", str(tmp_path / "told")]).exit_code == 0
    assert trained_by[-1] >= 1  # what trains in this process is told of its cores


def add_file(monkeypatch, tmp_path, package, name, text):
    """A further file of a folder of the package, for as long as the test runs."""
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, f"{package.__name__}.{name}", raising=False)
    monkeypatch.delattr(package, name, raising=False)


TOY_FEATURE = """
from zoo_datasets.evaluation.features.base import Feature

FEATURE = Feature(name="toy_norm", doc="the norm", fit=lambda training, layout: norms, boosted=True)


def norms(weights):
    return (weights**2).sum(axis=1, keepdims=True) ** 0.5
"""


def test_a_feature(tmp_path, monkeypatch):
    add_file(monkeypatch, tmp_path, features, "toy_norm", TOY_FEATURE)
    with pytest.raises(UnknownNameError, match="toy_norm"):
        features.get_features(["toy_norm"])
    monkeypatch.setattr(features, "NAMES", (*features.NAMES, "toy_norm"))
    make_run(tmp_path / "run", ((40, 2),))
    name = zd.build_repository(tmp_path / "run", tmp_path / "repo").config
    record = run_benchmark(
        tmp_path / "repo", Settings(train=name, tests=(name,), features=("toy_norm",), targets=("epoch",), resamples=3)
    )
    assert {result.feature for result in record.results} == {"toy_norm"}


TOY_ADAPTER = """
def to_reversed(weights, layout):
    return {spec.name: weights[:, layout.slices()[spec.name]].flip(1) for spec in layout.tensors}


def from_reversed(parts, layout):
    import torch
    return torch.cat([parts[spec.name].flip(1) for spec in layout.tensors], dim=1)
"""


def test_an_adapter(tmp_path, monkeypatch):
    add_file(monkeypatch, tmp_path, adapters, "toy_reversed", TOY_ADAPTER)
    toy = importlib.import_module("zoo_datasets.adapters.toy_reversed")
    make_run(tmp_path / "run", ((8, 1),))
    name = zd.build_repository(tmp_path / "run", tmp_path / "repo").config
    zoo = zd.load_zoo(tmp_path / "repo", name, "train")
    layout = layout_of("cnn_s", 1, 10)
    for batch in zd.batches(zoo, 4, ["weights"]):
        parts = toy.to_reversed(batch["weights"], layout)
        assert parts.keys() == layout.slices().keys()
        assert torch.equal(toy.from_reversed(parts, layout), batch["weights"])


def test_a_command(monkeypatch, capsys):
    def greet(name: str) -> None:
        """Greet a zoo."""
        print(f"hello {get_zoo(name).name}")

    monkeypatch.setattr(app, "registered_commands", [*app.registered_commands])
    app.command()(greet)
    assert "Greet a zoo." in CliRunner().invoke(app, ["--help"]).output
    assert CliRunner().invoke(app, ["greet", "mnist_cnn_s"]).output == "hello mnist_cnn_s\n"
    assert CliRunner().invoke(app, ["greet"]).exit_code == 2
    monkeypatch.setattr(sys, "argv", ["zoo", "greet", "mnist_cnn"])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit, match="1"):
        run_app(app)
    assert capsys.readouterr().err.startswith("error: there is no zoo named 'mnist_cnn'; did you mean mnist_cnn_s")


@pytest.mark.parametrize(("images", "architecture"), [("mnist_c", "vd_net"), ("c_mnist", "large_hyp_fix"), ("k", "x")])
def test_misleading_names_are_read_as_they_were_meant(monkeypatch, images, architecture):
    add_images(monkeypatch, images)
    add_architecture(monkeypatch, architecture)
    config = f"{images}_{architecture}"
    for sparsifier in (None, "variational_dropout"):
        told = read_folder_name(raw_folder_name(config, images, architecture, sparsifier))
        assert (told.images, told.suffix, told.sparsifier) == (images, read_folder_name(config).suffix, sparsifier)


@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 7), (4, 1)])
def test_a_checkpoint_without_convolutions_is_recognised(tmp_path, monkeypatch, channels, classes):
    module = nn.Sequential(nn.Flatten(), nn.Linear(784 * channels, 16), nn.ReLU(), nn.Linear(16, classes))
    torch.save(module.state_dict(), tmp_path / "model")
    structure = parse_structure((tmp_path / "model").read_bytes())
    with pytest.raises(CheckpointError, match="match no architecture"):
        recognise(structure)
    add_architecture(monkeypatch)
    kind = recognise(structure)
    assert kind.network == NetworkKind("mlp", channels, classes)


class Matrix(Source):
    """A toy kind: weights.npy, float32 [N, D], the models of a folder after training."""

    kind = "matrix"
    name, network, source_id = "toy", NetworkKind("cnn_s", 1, 10), "toy"
    credit = Credit(origin="published", authors="A. Toy", licence="mit")

    def __init__(self, place, reading):
        data = (place / "weights.npy").read_bytes() if isinstance(place, Path) else place.read("weights.npy", 1 << 20)
        self.weights = torch.from_numpy(np.load(io.BytesIO(data), allow_pickle=False))
        self.models = self.states = len(self.weights)

    def fingerprint(self):
        return "toy"

    def blocks(self):
        columns = {"images": "mnist", "activation": "relu", "init": "uniform", "dropout": 0.0, "optimizer": "adam",
                   "lr": 1e-3, "weight_decay": 0.0, "batch_size": 8}  # fmt: skip
        models = [Model(model_id=f"toy-{seed}", columns=columns | {"seed": seed}) for seed in range(self.models)]
        return [StateBlock(models=tuple(models), epochs=(1,))]

    def read(self, block):
        rows = [model.columns["seed"] for model in block.models]
        yield States(epochs=[1] * len(rows), models=block.models, weights=self.weights[rows], figures={})


def test_a_kind_of_source_here_and_afar(tmp_path, monkeypatch):
    toy = sources.SourceKind(name="a toy", recognise=lambda place: has_file(place, "weights.npy"), open=Matrix)
    monkeypatch.setattr(sources, "SOURCE_KINDS", (toy, *sources.SOURCE_KINDS))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "served" / "toy"
    folder.mkdir(parents=True)
    weights = np.random.default_rng(0).normal(size=(4, 2464)).astype(np.float32)
    np.save(folder / "weights.npy", weights)
    zd.build_repository(folder, tmp_path / "here")
    with serving_files(folder.parent) as served:
        zd.build_repository(f"{served.url}/toy/", tmp_path / "afar")
    for repo in (tmp_path / "here", tmp_path / "afar"):
        assert zd.verify_repository(repo, "toy").ok
        assert np.array_equal([row["weights"] for row in rows_of(repo, "toy")], weights)
        assert "license: mit" in (repo / "README.md").read_text()
        assert "trained and published by A. Toy under mit." in (repo / "_meta" / "toy" / "README.md").read_text()


class Bare(Source):
    """A toy kind that knows next to nothing: neither seeds nor learning rates nor any figures."""

    kind, name, source_id, network, models, states = "bare", "bare", "bare", NetworkKind("cnn_s", 1, 10), 3, 6

    def fingerprint(self):
        return "bare"

    def blocks(self):
        columns = {"images": "mnist", "activation": "relu"}
        return [StateBlock(models=tuple(Model(model_id=f"m{n}", columns=columns) for n in range(3)), epochs=(0, 1))]

    def read(self, block):
        for epoch in block.epochs:
            weights = torch.full((len(block.models), self.layout.size), float(epoch))
            yield States(epochs=[epoch] * len(block.models), models=block.models, weights=weights, figures={})


def test_a_kind_of_source_that_knows_little(tmp_path, monkeypatch):
    kind = sources.SourceKind(name="bare", recognise=lambda place: has_file(place, "bare"), open=lambda *_: Bare())
    monkeypatch.setattr(sources, "SOURCE_KINDS", (kind, *sources.SOURCE_KINDS))
    (tmp_path / "bare").touch()
    assert zd.build_repository(tmp_path, tmp_path / "repo").rows == 6
    assert zd.verify_repository(tmp_path / "repo", "bare").ok
    rows = [row for split in zd.load_zoo(tmp_path / "repo", "bare").values() for row in split]
    assert {row["epoch"] for row in rows} == {0, 1}
    assert all(row[name] is None for row in rows for name in HYPERPARAMETERS)
    assert zd.to_module(rows[0]).layers
    check_symmetries_and_graphs(rows[0] | {"weights": torch.rand(2464).tolist()})
    builder = zoo_builder(tmp_path, cache_dir=tmp_path / "arrow")
    builder.download_and_prepare()
    assert [row for split in builder.as_dataset().values() for row in split] == rows


def test_a_kind_of_archive(tmp_path, monkeypatch):
    make_zoo(tmp_path / SEED_ZOO, models=3, epochs=(0, 1))
    archive = zipped(tmp_path / SEED_ZOO).rename(tmp_path / f"{SEED_ZOO}.toy")
    with pytest.raises(SourceError, match="is not a source that a repository can be built from"):
        zd.build_repository(archive, tmp_path / "repo")
    (zips,) = [kind for kind in archives.ARCHIVES if ".zip" in kind.endings]
    toy = dataclasses.replace(zips, endings=(".toy",))
    monkeypatch.setattr(archives, "ARCHIVES", (*archives.ARCHIVES, toy))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "served").mkdir()
    archive.rename(tmp_path / "served" / archive.name)
    assert zd.build_repository(tmp_path / "served" / archive.name, tmp_path / "repo").rows == 6
    with serving_files(tmp_path / "served") as served:
        assert zd.build_repository(f"{served.url}/{archive.name}", tmp_path / "afar").rows == 6


def test_a_run_afar_is_built_as_one(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    run = trained(tmp_path / "served", images="mnist", seeds=2)
    here = zd.build_repository(run, tmp_path / "here").config
    with serving_files(run.parent) as served:
        afar = zd.build_repository(f"{served.url}/run/", tmp_path / "afar").config
    assert rows_of(tmp_path / "afar", afar) == rows_of(tmp_path / "here", here)


@pytest.mark.parametrize("name", ["sparse_toy", "lottery"])
def test_a_sparsifier(tmp_path, monkeypatch, name):
    parents = trained(tmp_path, seeds=2)
    with pytest.raises(UnknownNameError, match=name):
        twins_of_parents(open_parents(parents), name, amount=0.5)
    monkeypatch.setitem(SPARSIFIERS, name, dataclasses.replace(SPARSIFIERS["magnitude"], epochs=1))
    population = twins_of_parents(open_parents(parents), name, amount=0.5)
    assert (population.zoo.name, population.zoo.epochs) == (f"toy_{name}50", 1)
    data = plain.tiny_images()
    run = train_population(partial(open_run, population, tmp_path / "twins", data), data).path
    _, twins = check_all_the_way(run, tmp_path)
    assert twins.config == f"mnist_cnn_s_{name}"
    (tmp_path / "dense").mkdir()
    _, dense = check_all_the_way(parents, tmp_path / "dense")
    ids = {row["model_id"] for row in rows_of(tmp_path / "dense" / "again", dense.config)}
    assert {row["parent_id"] for row in rows_of(tmp_path / "again", twins.config)} == ids


def test_licences_of_a_card_are_those_of_its_zoos(tmp_path):
    make_zoo(tmp_path / "my_mnist", models=3, epochs=(0,))
    make_zoo(tmp_path / SEED_ZOO, models=3, epochs=(0,))
    for folder, licence in (("my_mnist", "unknown"), (SEED_ZOO, "other")):
        zd.build_repository(tmp_path / folder, tmp_path / "repo", folder)
        assert read_card(tmp_path / "repo").data.license == licence
    pages = {name: (tmp_path / "repo" / "_meta" / name / "README.md").read_text() for name in ("my_mnist", SEED_ZOO)}
    assert "imported, origin unknown" in pages["my_mnist"]
    assert "doi.org/10.5281/zenodo.6632086" in pages[SEED_ZOO]


def test_what_a_stranger_credits_is_text_alone(tmp_path):
    make_zoo(tmp_path / "my_mnist", models=3, epochs=(0,))
    zd.build_repository(tmp_path / "my_mnist", tmp_path / "repo", "mine")
    manifest = read_manifest(tmp_path / "repo", "mine")
    evil = "<script>[x](javascript:x)\n## mine\n"
    for bibtex in ("```\n<script>", "@a{\n## b\n}", "@a{\x1b[31m}"):
        paper = {"authors": evil, "title": evil, "bibtex": bibtex}
        credit = {"origin": "published", "authors": evil, "licence": evil, "paper": paper}
        other = dataclasses.replace(manifest, source={**manifest.source, "credit": credit})
        assert table_line(other).count("|") == 8
        for line in (page_of(other) + table_line(other) + "".join(citations_of(other))).split("\n"):
            assert "\x1b" not in line
            assert "<script>" not in line or "`<script>" in line
            assert not line.startswith("## ") or line == "# mine"
    with pytest.raises(RepositoryError, match=r"source.credit"):
        Manifest.from_dict(manifest.to_dict() | {"source": {"kind": "raw zoo", "credit": {"licence": 1}}}, "x")
