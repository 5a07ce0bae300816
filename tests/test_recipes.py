"""What is new is one entry of its table: a toy of each kind goes all the way that ours go."""

import dataclasses
import io
import json
from pathlib import Path

import datasets
import numpy as np
import plain
import pyarrow.parquet as pq
import pytest
import torch
from file_server import serving_files
from raw_zoos import SEED_ZOO, make_zoo
from torch import nn

import zoo_datasets as zd
from zoo_datasets.builders.checkpoints.recognise import recognise
from zoo_datasets.builders.checkpoints.torch_file import parse_structure
from zoo_datasets.builders.containers.locate import has_file
from zoo_datasets.builders.sources import table as sources
from zoo_datasets.builders.sources.base import Source, StateBlock, States
from zoo_datasets.builders.sources.raw.export import export_raw
from zoo_datasets.builders.sources.raw.names import raw_folder_name, read_folder_name
from zoo_datasets.errors import CheckpointError, RepositoryError
from zoo_datasets.images import table as images
from zoo_datasets.loading.exporting import export_safetensors, repository_rows
from zoo_datasets.networks.architectures import ARCHITECTURES, Architecture, layout_of
from zoo_datasets.networks.layers import Activate, Dropout, Flatten, Linear
from zoo_datasets.repository.card import read_card
from zoo_datasets.repository.card_text import citation_of, section_of, sections_of
from zoo_datasets.repository.credit import Credit
from zoo_datasets.repository.manifest import Manifest, read_manifest
from zoo_datasets.runs.rows import Model
from zoo_datasets.training import train_zoo
from zoo_datasets.training.population.opening import open_run
from zoo_datasets.training.population.parents import open_parents
from zoo_datasets.training.population.twins import twins_of_parents
from zoo_datasets.training.sparsifiers import SPARSIFIERS
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


def trained(tmp_path, name="toy", **changes):
    """A tiny trained run of a zoo with these fields."""
    zoo = dataclasses.replace(plain.tiny_zoo(**changes), name=name, doi=None, published=False)
    return train_zoo(zoo, tmp_path / "run", plain.tiny_images(zoo.images)).path


def rows_of(repo, name):
    tables = [pq.read_table(repo / shard.path) for shard in read_manifest(repo, name).shards]
    rows = [row for table in tables for row in table.to_pylist()]
    return sorted(rows, key=lambda row: (row["seed"], row["epoch"], row["activation"], row["dropout"]))


def check_all_the_way(run, tmp_path):
    """Build, verify, load, export both ways, and build the raw export again: it has the same rows."""
    repo, raw = tmp_path / "repo", tmp_path / "raw"
    name = zd.build_repository(run, repo).config
    zoo = json.loads((run / "zoo.json").read_text())["zoo"]
    assert zd.verify_repository(repo, name, images=plain.tiny_images(zoo["images"])).ok
    rows = rows_of(repo, name)
    module = zd.to_module(rows[0])
    weights = torch.cat([tensor.detach().flatten() for tensor in module.parameters()])
    assert np.array_equal(weights, np.array(rows[0]["weights"], np.float32))
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
    card = (tmp_path / "again" / "README.md").read_text()
    assert "imported, origin unknown" in card
    assert not any(theirs in card for theirs in ("Schürholt", "zenodo", "cc-by", "CC-BY", "## Citation"))


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
    assert (kind.architecture, kind.in_channels, kind.classes) == ("mlp", channels, classes)


class Matrix(Source):
    """A toy kind: weights.npy, float32 [N, D], the models of a folder after training."""

    kind = "matrix"
    name, architecture, in_channels, classes, source_id = "toy", "cnn_s", 1, 10, "toy"
    layout = layout_of("cnn_s", 1, 10)
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
        card = (repo / "README.md").read_text()
        assert "license: mit" in card
        assert "trained and published by A. Toy under mit." in card


def test_a_run_afar_is_built_as_one(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    run = trained(tmp_path / "served", images="mnist", seeds=2)
    here = zd.build_repository(run, tmp_path / "here").config
    with serving_files(run.parent) as served:
        afar = zd.build_repository(f"{served.url}/run/", tmp_path / "afar").config
    assert rows_of(tmp_path / "afar", afar) == rows_of(tmp_path / "here", here)


def test_a_sparsifier(tmp_path, monkeypatch):
    toy = dataclasses.replace(SPARSIFIERS["magnitude"], epochs=1)
    monkeypatch.setitem(SPARSIFIERS, "sparse_toy", toy)
    parents = trained(tmp_path, seeds=2)
    population = twins_of_parents(open_parents(parents), "sparse_toy", amount=0.5)
    assert population.zoo.epochs == 1
    data = plain.tiny_images()
    run = train_population(lambda: open_run(population, tmp_path / "twins", data), data).path
    _, again = check_all_the_way(run, tmp_path)
    assert again.config == "mnist_cnn_s_sparse_toy"


def test_licences_of_a_card_are_those_of_its_zoos(tmp_path):
    make_zoo(tmp_path / "my_mnist", models=3, epochs=(0,))
    make_zoo(tmp_path / SEED_ZOO, models=3, epochs=(0,))
    for folder, licence in (("my_mnist", "unknown"), (SEED_ZOO, ["unknown", "cc-by-4.0"])):
        zd.build_repository(tmp_path / folder, tmp_path / "repo", folder)
        assert read_card(tmp_path / "repo").data.license == licence
    sections = sections_of(read_card(tmp_path / "repo").text, ["my_mnist", SEED_ZOO])
    assert "imported, origin unknown" in sections["my_mnist"]
    assert "doi.org/10.5281/zenodo.6632086" in sections[SEED_ZOO]


def test_what_a_stranger_credits_is_text_alone(tmp_path):
    make_zoo(tmp_path / "my_mnist", models=3, epochs=(0,))
    zd.build_repository(tmp_path / "my_mnist", tmp_path / "repo", "mine")
    manifest = read_manifest(tmp_path / "repo", "mine")
    evil = "<script>[x](javascript:x)\n## mine\n"
    for bibtex in ("```\n<script>", "@a{\n## b\n}", "@a{\x1b[31m}"):
        paper = {"authors": evil, "title": evil, "bibtex": bibtex}
        credit = {"origin": "published", "authors": evil, "licence": evil, "paper": paper}
        other = dataclasses.replace(manifest, source={**manifest.source, "credit": credit})
        for line in (section_of(other) + (citation_of(other) or "")).split("\n"):
            assert "\x1b" not in line
            assert "<script>" not in line or "`<script>" in line
            assert not line.startswith("## ") or line == "## mine"
    with pytest.raises(RepositoryError, match=r"source.credit"):
        Manifest.from_dict(manifest.to_dict() | {"source": {"kind": "raw zoo", "credit": {"licence": 1}}}, "x")
