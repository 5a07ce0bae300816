"""A zoo of an architecture of one's own, from its YAML to modules, and what may not be read in its place."""

import dataclasses
import json
import math
from functools import partial

import plain
import pytest
import torch

import zoo_datasets as zd
from zoo_datasets.builders.sources.raw.export import export_raw
from zoo_datasets.errors import LayoutError, RepositoryError, RunError, SpecError, UnknownNameError
from zoo_datasets.loading.exporting import export_safetensors, repository_rows
from zoo_datasets.networks import kind
from zoo_datasets.networks.kind import NetworkKind
from zoo_datasets.specs.members import members_of
from zoo_datasets.specs.zoos import zoo_from_dict
from zoo_datasets.training.population.opening import open_run
from zoo_datasets.training.population.parents import open_parents
from zoo_datasets.training.population.twins import twins_of_parents
from zoo_datasets.training.train import train_population

YAML = """
name: mine
images: mnist
architecture:
  - conv: {out: 4, kernel: 3, stride: 3, bias: false}
  - batch_norm
  - activate
  - residual: [conv: {out: 4, kernel: 3, padding: 1}]
  - dropout
  - global_average_pool
  - linear: classes
epochs: 2
activation: relu
init: kaiming_uniform
optimizer: adam
lr: 1.0e-2
weight_decay: 0
seeds: 6
"""
WEIGHTS = 36 + 16 + 148 + 50


@pytest.fixture
def zoo(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(YAML)
    return zd.read_zoo(file)


@pytest.fixture
def repo(tmp_path, zoo):
    zd.train_zoo(zoo, tmp_path / "run", plain.tiny_images())
    zd.build_repository(tmp_path / "run", tmp_path / "repo")
    return tmp_path / "repo"


def forget():
    """What this process has read of own architectures, as if it began now."""
    kind._KNOWN.clear()


def test_from_nothing_to_a_module(tmp_path, zoo, repo):
    images = plain.tiny_images()
    zd.train_zoo(zoo, tmp_path / "run", images, epochs=3)  # grows
    zd.build_repository(tmp_path / "run", repo)
    forget()
    assert zd.verify_repository(repo, "mine", images=images).ok
    forget()
    loaded = zd.load_zoo(repo, "mine")
    (row, *_) = [row for split in loaded.values() for row in split if row["epoch"] == 3]
    assert (row["architecture"], len(row["weights"])) == ("mine", WEIGHTS)
    module = zd.to_module(row)
    pixels = images.normalise(images.test.images)
    with torch.no_grad():
        correct = (module(pixels).argmax(1) == images.test.labels).float().mean()
    assert math.isclose(correct, row["test_acc"], abs_tol=1e-6)
    batch = next(iter(zd.batches(next(iter(loaded.values())), 2)))
    assert len(zd.to_modules(batch)) == 2


def test_a_run_and_a_manifest_tell_the_layers(tmp_path, zoo, repo):
    layers = json.loads((tmp_path / "run" / "zoo.json").read_text())["layers"]
    assert layers[0] == {
        "conv": {"name": "conv1", "in_channels": 1, "out_channels": 4, "kernel": 3, "stride": 3, "bias": False}
    }
    assert json.loads((repo / "_meta" / "mine" / "manifest.json").read_text())["layers"] == layers
    assert zd.Run.open(tmp_path / "run").manifest.zoo == zoo
    assert zoo_from_dict(json.loads(json.dumps(zoo.to_dict())), "again") == zoo


def test_exported_models_come_with_their_layers(tmp_path, repo):
    (file, *_) = export_safetensors(repository_rows(repo, "mine", epochs=[2]), tmp_path / "out")
    forget()
    row = zd.load_exported(file)
    assert set(zd.to_module(row).state_dict()) >= {"conv1.weight", "bn1.running_var", "conv2.bias", "fc1.weight"}
    with pytest.raises(SpecError, match="'mine' is no architecture that raw zoos know.*--format safetensors"):
        export_raw(repository_rows(repo, "mine"), tmp_path / "raw")


@pytest.mark.parametrize("config", [None, "mine"])
def test_twins_are_of_the_same_network(tmp_path, repo, config):
    parents = open_parents(tmp_path / "run" if config is None else repo, config)
    population = twins_of_parents(parents, "magnitude", epochs=1, amount=0.5, scope=None)
    run = train_population(partial(open_run, population, tmp_path / "twins", plain.tiny_images()), plain.tiny_images())
    assert run.manifest.layout.size == WEIGHTS
    assert zd.build_repository(tmp_path / "twins", repo).rows == 12


def test_rows_of_a_network_that_was_not_read_say_how_to_read_it(repo):
    row = zd.load_zoo(repo, "mine")["train"][0]
    forget()
    with pytest.raises(UnknownNameError, match="no architecture named 'mine'.*load_zoo has opened its repository"):
        zd.to_module(row)


def test_two_networks_of_one_name_are_not_taken_for_each_other(zoo):
    images = plain.tiny_images()
    NetworkKind.of_zoo(zoo, images)
    NetworkKind.of_zoo(dataclasses.replace(zoo, layers=("flatten", {"linear": "classes"})), images)
    with pytest.raises(SpecError, match="2 different networks named 'mine'"):
        list(NetworkKind("mine", 1, 10).layers)
    forget()


def test_members_are_others_where_the_layers_are(zoo):
    other = dataclasses.replace(zoo, layers=("flatten", {"linear": "classes"}))
    sized = dataclasses.replace(zoo, input_size=20)
    ids = [{member.model_id for member in members_of(each)} for each in (zoo, other, sized)]
    assert len(set.union(*ids)) == sum(map(len, ids))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("[{conv: {out: 3}}]", r"mine.yaml: layers\[0\] \(conv\) lacks kernel"),
        ("{name: cnn_s, layers: [flatten, linear: classes]}", "cnn_s is a name of the table"),
        ("{name: x, layer: [flatten]}", "architecture: unknown field 'layer'"),
        ("{name: x}", "architecture: it lacks layers"),
        ("{name: a/b, layers: [flatten, linear: classes]}", "architecture: expected a name, found 'a/b'"),
        ("{name: x, input_size: 0, layers: [flatten]}", "input_size: expected 1 to"),
        ("cnn_s\ninput_size: 28", "input_size: is for an architecture of your own"),
        ("my_package.models:make", "a network of code of your own decides it by itself"),
    ],
)
def test_an_architecture_that_is_none_is_refused_by_the_file(tmp_path, architecture, message):
    lines = YAML.split("architecture:")[0] + f"architecture: {architecture}\nepochs" + YAML.split("\nepochs")[1]
    file = tmp_path / "mine.yaml"
    file.write_text(lines)
    with pytest.raises(SpecError, match=message):
        zd.read_zoo(file)


def test_what_does_not_fit_the_images_writes_nothing(tmp_path, zoo):
    wide = dataclasses.replace(zoo, layers=({"conv": {"out": 3, "kernel": 90}},))
    with pytest.raises(
        SpecError, match=r"architecture mine: layers\[0\] \(conv\) does not fit the images \[1, 28, 28\]"
    ):
        zd.train_zoo(wide, tmp_path / "run", plain.tiny_images())
    with pytest.raises(SpecError, match="mine takes 20 × 20 images, found 28 × 28"):
        zd.train_zoo(dataclasses.replace(zoo, input_size=20), tmp_path / "run", plain.tiny_images())
    assert not (tmp_path / "run").exists()


LINEAR = {"linear": {"name": "fc1", "in_features": 784, "out_features": 10}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [{"os.system": "x"}]}, "no kind of layer named 'os.system'"),
        ({"layers": "conv"}, "expected a list of layers"),
        ({"architecture": "cnn_s", "layers": ["flatten", LINEAR]}, "not those of cnn_s"),
    ],
)
def test_a_manifest_with_other_layers_is_refused(repo, change, message):
    file = repo / "_meta" / "mine" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(RepositoryError, match=message):
        zd.load_zoo(repo, "mine")


def test_a_manifest_with_a_network_of_another_layout_is_found(repo):
    file = repo / "_meta" / "mine" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"layers": ["flatten", LINEAR]}))
    forget()
    assert not zd.verify_repository(repo, "mine").ok
    forget()


@pytest.mark.parametrize("layers", [None, [{"lambda": 1}], {"a": 1}])
def test_a_run_with_other_layers_is_refused(tmp_path, repo, layers):
    file = tmp_path / "run" / "zoo.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"layers": layers}))
    with pytest.raises(RunError, match="layers"):
        zd.Run.open(tmp_path / "run")


def test_zoos_of_the_table_are_written_as_before():
    zoo = zd.get_zoo("mnist_cnn_s")
    assert not {"layers", "input_size"} & zoo.to_dict().keys()
    assert NetworkKind("cnn_s", 1, 10).record() == {"architecture": "cnn_s", "in_channels": 1, "classes": 10}


class Theirs(torch.nn.Module):
    """A module of the user's whose state dict has the tensors of `cnn_s` under the same names."""

    def __init__(self, width=20):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 8, 5)
        self.conv2 = torch.nn.Conv2d(8, 6, 5)
        self.conv3 = torch.nn.Conv2d(6, 4, 2)
        self.fc1 = torch.nn.Linear(36, width)
        self.fc2 = torch.nn.Linear(width, 10)


def row_of_ours():
    columns = {"architecture": "cnn_s", "in_channels": 1, "classes": 10, "activation": "tanh", "dropout": 0.0}
    return columns | {"weights": torch.rand(2464).tolist(), "model_id": "a"}


def test_weights_go_into_a_module_of_the_users(monkeypatch):
    row, calls = row_of_ours(), []
    module = zd.to_module(row, lambda given: calls.append(given["model_id"]) or Theirs())
    assert (type(module), module.training, calls) == (Theirs, False, ["a"])
    expected = zd.to_state_dict(row)
    assert {name: torch.equal(value, expected[name]) for name, value in module.state_dict().items()} == dict.fromkeys(
        expected, True
    )
    batch = {"weights": torch.tensor([row["weights"]]), **{name: [row[name]] for name in row if name != "weights"}}
    (again,) = zd.to_modules(batch, factory=lambda given: calls.append(given["model_id"]) or Theirs())
    assert torch.equal(again.fc1.weight, module.fc1.weight)
    assert calls == ["a", "a"]


def without_conv3():
    module = Theirs()
    del module.conv3
    return module


def with_more():
    module = Theirs()
    module.head = torch.nn.Linear(2, 2)
    return module


@pytest.mark.parametrize(
    ("factory", "error", "message"),
    [
        (without_conv3, LayoutError, "the module has no conv3.bias, conv3.weight"),
        (with_more, LayoutError, "the row has no head.bias, head.weight"),
        (lambda: Theirs(7), LayoutError, r"of other shapes: fc1.bias is \[7\], the row's \[20\]"),
        (lambda: "Theirs", SpecError, "the factory gave 'Theirs', expected a torch.nn.Module"),
    ],
)
def test_a_module_that_does_not_fit_is_told_by_its_tensors(factory, error, message):
    with pytest.raises(error, match=message):
        zd.to_module(row_of_ours(), lambda _: factory())
    with pytest.raises(SpecError, match="expected a function that takes the row"):
        zd.to_module(row_of_ours(), "my_package.models:Theirs")
