"""Every kind of layer has every rule; a rule that is missing is an error that names it, wherever it is asked for."""

import dataclasses
import importlib
import inspect
import pickle
import pkgutil
from dataclasses import dataclass

import plain
import pytest
import torch
from toy_layer import LayerNorm

from zoo_datasets import layout_of, load_zoo, to_module
from zoo_datasets.adapters.graphs import from_graphs, to_graphs
from zoo_datasets.builders import build_repository
from zoo_datasets.builders.sources.raw.index import index_dict, module_indices
from zoo_datasets.errors import LayerError, NativeError, ZooError
from zoo_datasets.evaluation.predictions import predictions, representations
from zoo_datasets.networks import layers as package
from zoo_datasets.networks.architectures import ARCHITECTURES, Architecture, resnet18_layers
from zoo_datasets.networks.channels import permutations
from zoo_datasets.networks.layers import (
    KINDS,
    RULES,
    Activate,
    AddRemembered,
    AveragePool,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAveragePool,
    Layer,
    Linear,
    MaxPool,
    Module,
    Remember,
    Residual,
    Shift,
    Sine,
    build_layout,
    flat_layers,
)
from zoo_datasets.networks.layers.passes import ModuleBuild, ModulePass, StackedPass
from zoo_datasets.networks.layers.walks import ChannelWalk, GraphNodes, Stream
from zoo_datasets.networks.module import Network
from zoo_datasets.networks.variational import noise_bounds, total_kl
from zoo_datasets.stacked import StackedNetwork, TorchBlock, evaluate_stack, initialise, lanes_of
from zoo_datasets.stacked.native import block as native
from zoo_datasets.stacked.native.codegen import stages
from zoo_datasets.stacked.network import subsamples
from zoo_datasets.symmetries import canonicalize, flip_signs, permute, rescale
from zoo_datasets.training import train_zoo

MEMBERS, BATCH, CHANNELS = 2, 3, 4
SAMPLES = (
    Conv("conv", CHANNELS, 6, 3),
    Linear("fc", CHANNELS, 6),
    BatchNorm("bn", CHANNELS),
    MaxPool(),
    AveragePool(),
    GlobalAveragePool(),
    Activate(),
    Sine(),
    Shift(0.5),
    Dropout(),
    Flatten(),
    Residual((Conv("inner", CHANNELS, CHANNELS, 3, padding=1),)),
    Remember("new"),
    AddRemembered("kept"),
)


class Nodes:
    """A graph walk that counts only."""

    def __init__(self):
        self.remembered = {"kept": GraphNodes(0, 2)}

    def add_weights(self, name, bias, nodes):
        return GraphNodes(nodes.start + nodes.count, 6)

    def add_features(self, nodes, features):
        assert all(features)

    def add_identity(self, nodes, into):
        assert nodes.count > 0


def ask(layer, rule):
    """What a rule of a layer says of images, or of vectors."""
    vectors = isinstance(layer, Linear)
    network = Network((layer,), "relu", 0.5)
    modules = ModulePass(network.get_submodule, torch.relu, iter([torch.nn.Dropout(0.5)]))
    weights = {spec.name: torch.ones(MEMBERS, *spec.shape) for spec in build_layout((layer,)).tensors}
    stream = Stream("before", CHANNELS)
    walk = ChannelWalk([stream], remembered={"kept": Stream("kept", CHANNELS + 1)})
    one = torch.rand((BATCH, CHANNELS) if vectors else (BATCH, CHANNELS, 4, 4))
    many = torch.rand((MEMBERS, BATCH, CHANNELS) if vectors else (BATCH, MEMBERS * CHANNELS, 4, 4))
    modules.remembered["kept"] = one[:, :2]
    stacked = StackedPass(weights, MEMBERS, torch.relu)
    stacked.remembered["kept"] = many
    arguments = {
        "build": (ModuleBuild(torch.nn.Module(), 0.5),),
        "forward": (one, modules),
        "stacked": (many, stacked),
        "walk_channels": (walk, stream),
        "walk_graph": (Nodes(), GraphNodes(0, CHANNELS)),
        "raw_places": (True,),
    }
    return getattr(layer, rule)(*arguments.get(rule, ()))


EXPECTED = {
    "tensors": tuple,
    "sublayers": tuple | None,
    "build": type(None),
    "forward": torch.Tensor,
    "stacked": torch.Tensor,
    "subsamples": bool,
    "walk_channels": Stream,
    "noise_bounds": dict,
    "inputs": int | None,
    "walk_graph": GraphNodes,
    "reads_out": bool,
    "raw_places": tuple | None,
}


def test_the_samples_are_of_all_kinds_that_there_are():
    modules = [
        importlib.import_module(f"{package.__name__}.{info.name}") for info in pkgutil.iter_modules(package.__path__)
    ]
    objects = [thing for module in modules for thing in vars(module).values() if inspect.isclass(thing)]
    assert {kind for kind in objects if issubclass(kind, Layer) and dataclasses.is_dataclass(kind)} == set(KINDS)
    assert (*map(type, SAMPLES), Module) == KINDS  # which stands alone: tests/test_modules.py
    methods = {name for name, thing in vars(Layer).items() if callable(thing) and not name.startswith("_")}
    assert methods == RULES.keys() == EXPECTED.keys()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", SAMPLES, ids=lambda layer: type(layer).__name__)
def test_each_kind_answers_each_rule(layer, rule):
    assert isinstance(ask(layer, rule), EXPECTED[rule])
    # By itself, not because nothing is said.
    assert getattr(type(layer), rule) is not getattr(Layer, rule)


@dataclass(frozen=True, slots=True)
class Bare(Layer):
    """A kind without rules."""

    name: str = "norm"


@dataclass(frozen=True, slots=True)
class Stranger:
    """No kind of layer at all."""

    name: str = "norm"


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_a_kind_does_not_have_is_an_error_that_names_both(rule):
    method = getattr(Bare(), rule)
    with pytest.raises(LayerError, match=f"Bare layers have no rule for {RULES[rule]}; write the method {rule} "):
        method(*[None] * len(inspect.signature(method).parameters))


FIRST, LAST = Linear("fc1", 784, 12), Linear("fc2", 12, 10)
SIZE = build_layout((Flatten(), FIRST, LAST)).size
IMAGES = plain.tiny_images(train=20)


def around(layer):
    return (Flatten(), FIRST, Activate(), layer, LAST)


def weights_of(layers):
    """Weights [3, D] that start nowhere at a constant."""
    return torch.randn(3, build_layout(layers).size, generator=torch.Generator().manual_seed(1)) / 8


def named(layers, weights=None):
    """Stacked tensors, of those layers only that have some."""
    known = [layer for layer in layers if not isinstance(layer, Bare | Stranger)]
    return build_layout(known).unflatten(weights_of(known) if weights is None else weights)


def recipe(layers):
    zoo = plain.tiny_zoo()
    return dataclasses.replace(plain.recipe_of(zoo, plain.members(zoo, 3), IMAGES), layers=layers)


INTERPRETERS = {
    "layout": build_layout,
    "flat layers": flat_layers,
    "module": Network,
    "stack": lambda layers: StackedNetwork(layers, "relu")(named(layers), IMAGES.normalise(IMAGES.test.images)),
    "lanes": lanes_of,
    "engine path": subsamples,
    "block": lambda layers: TorchBlock(recipe(layers), IMAGES),
    "initial weights": lambda layers: initialise(layers, torch.arange(2), ["uniform"] * 2),
    "evaluation": lambda layers: evaluate_stack(layers, "relu", torch.zeros(3, SIZE), IMAGES, IMAGES.test),
    "channels": permutations,
    "permute": lambda layers: permute(torch.zeros(2, SIZE), layers),
    "canonicalize": lambda layers: canonicalize(torch.zeros(2, SIZE), layers),
    "flip signs": lambda layers: flip_signs(torch.zeros(2, SIZE), layers, "tanh"),
    "rescale": lambda layers: rescale(torch.zeros(2, SIZE), layers, "relu"),
    "to graphs": lambda layers: to_graphs(torch.zeros(2, SIZE), layers),
    "from graphs": lambda layers: from_graphs(torch.zeros(2, 806, 1), torch.zeros(2, 784 * 12 + 120, 1), layers),
    "noise": noise_bounds,
    "divergence": lambda layers: total_kl(layers, torch.zeros(2, SIZE), torch.zeros(2, SIZE)),
    "predictions": lambda layers: predictions(layers, "relu", torch.zeros(2, SIZE), IMAGES, IMAGES.test),
    "representations": lambda layers: representations(layers, "relu", torch.zeros(2, SIZE), IMAGES, IMAGES.test),
    "native kernels": lambda layers: stages(layers, (1, 28, 28)),
    "native block": lambda layers: native.NativeBlock(recipe(layers), IMAGES),
    "raw modules": lambda layers: module_indices(layers, dropout=False),
    "raw index": lambda layers: index_dict(layers, dropout=False),
}  # fmt: skip


@pytest.mark.parametrize("kind", [Bare, Stranger])
@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_nobody_leaves_out_a_layer_that_it_does_not_know(interpreter, kind):
    with pytest.raises(ZooError, match=kind.__name__):
        INTERPRETERS[interpreter](around(kind()))
    assert kind.__name__ in native.supports(around(kind()), (1, 28, 28))
    if interpreter != "native block" or native.available() is None:
        INTERPRETERS[interpreter](around(Dropout()))


def test_what_lies_in_a_block_is_not_left_out_either():
    with pytest.raises(LayerError, match="Stranger is no kind of layer"):
        Residual((Stranger(),))
    layers = (Conv("conv", 1, 2, 3), Residual((Bare(),)), Flatten(), Linear("fc", 2 * 26 * 26, 10))
    for name in ("layout", "module", "channels", "to graphs", "noise", "raw index", "lanes"):
        with pytest.raises(LayerError, match="Bare"):
            INTERPRETERS[name](layers)


NORMED = around(LayerNorm("norm", 12))


def outputs(layers, weights, images):
    """Logits of each row by its own module."""
    made = []
    for row in weights:
        network = Network(layers, "relu").eval()
        network.load_state_dict(build_layout(layers).unflatten(row))
        made.append(network(images))
    return torch.stack(made)


@torch.no_grad()
def test_a_kind_with_all_rules_is_nowhere_left_out():
    images, weights = IMAGES.normalise(IMAGES.test.images), weights_of(NORMED)
    layout = build_layout(NORMED)
    assert [spec.name for spec in layout.tensors][2:4] == ["norm.weight", "norm.bias"]
    assert layout.size == SIZE + 24
    start = initialise(NORMED, torch.arange(2), ["uniform"] * 2)[:, layout.slices()["norm.weight"]]
    assert torch.equal(start, torch.ones(2, 12))
    expected = outputs(NORMED, weights, images)
    stack = StackedNetwork(NORMED, "relu")(named(NORMED, weights), images)
    torch.testing.assert_close(stack, expected)
    for changed in (
        permute(weights, NORMED),
        canonicalize(weights, NORMED),
        rescale(weights, NORMED, "relu"),
    ):
        assert not torch.equal(changed, weights)
        torch.testing.assert_close(outputs(NORMED, changed, images), expected, rtol=1e-4, atol=1e-4)
    graphs = to_graphs(weights, NORMED)
    assert int(graphs.node_mask[:, 1:3].sum()) == 24
    assert torch.equal(from_graphs(graphs.nodes, graphs.edges, NORMED), weights)
    assert module_indices(NORMED, dropout=False) == {"fc1": 1, "norm": 3, "fc2": 4}
    assert torch.equal(predictions(NORMED, "relu", weights, IMAGES, IMAGES.test).long(), stack.argmax(dim=2))
    assert representations(NORMED, "relu", weights, IMAGES, IMAGES.test).shape == (3, 20, 12)
    with pytest.raises(NativeError, match="LayerNorm is not computed by the native kernels"):
        stages(NORMED, (1, 28, 28))


def test_a_kind_of_its_own_is_trained_and_built_and_loaded(tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "mlp", Architecture("mlp", 28, lambda channels, classes: NORMED))
    zoo = plain.tiny_zoo(architecture="mlp", activation=("relu",), seeds=2, epochs=1)
    run = train_zoo(zoo, tmp_path / "run", IMAGES)
    assert run.manifest.engine == "torch"
    norms = [cohort.weights(1)[:, build_layout(NORMED).slices()["norm.weight"]] for cohort in run.cohorts()]
    assert all((norm != 1).any() for norm in norms)
    build_repository(tmp_path / "run", tmp_path / "zoos")
    rows = [row for split in load_zoo(tmp_path / "zoos", zoo.name, epochs=[1]).values() for row in split]
    assert len(rows) == 2
    assert to_module(rows[0]).get_submodule("norm").weight.shape == (12,)
    assert layout_of("mlp", 1, 10) == build_layout(NORMED)


@pytest.mark.parametrize(
    ("rule", "interpreter"),
    [
        ("tensors", "layout"), ("sublayers", "flat layers"), ("build", "module"), ("stacked", "stack"),
        ("stacked", "predictions"), ("subsamples", "engine path"), ("walk_channels", "channels"),
        ("walk_channels", "permute"), ("noise_bounds", "noise"), ("walk_graph", "to graphs"),
        ("reads_out", "representations"), ("raw_places", "raw modules"),
    ],
)  # fmt: skip
def test_who_misses_one_rule_names_this_one(rule, interpreter, monkeypatch):
    monkeypatch.setattr(LayerNorm, rule, getattr(Layer, rule))
    monkeypatch.setitem(globals(), "SIZE", SIZE + 24)
    monkeypatch.setattr("zoo_datasets.stacked.network._LARGE", 0)
    with pytest.raises(LayerError, match=f"LayerNorm layers have no rule for {RULES[rule]}"):
        INTERPRETERS[interpreter](around(LayerNorm("unseen", 12)))  # plans of other networks are remembered


def test_layers_are_equal_hashed_and_pickled_by_their_fields():
    for layers in (SAMPLES, resnet18_layers(2)(3, 10)):
        again = pickle.loads(pickle.dumps(layers))
        assert again == layers
        assert hash(again) == hash(layers)
    assert len(set(SAMPLES)) == len(SAMPLES)
    assert not hasattr(Activate(), "__dict__")
    with pytest.raises(dataclasses.FrozenInstanceError):
        SAMPLES[0].name = "other"


@torch.no_grad()
def test_representations_are_there_for_networks_that_pool_at_the_end():
    layers, data = resnet18_layers(2)(3, 10), plain.tiny_images("cifar10", 32, test=4)
    weights = initialise(layers, torch.arange(2), ["kaiming_uniform"] * 2)
    assert representations(layers, "relu", weights, data, data.test).shape == (2, 4, 16)


@dataclass(frozen=True, slots=True)
class Doubled(Linear):
    """A kind that takes its rules from another one, but for the arithmetic."""

    def forward(self, x, modules):
        return 2 * modules.module(self.name)(x)

    def stacked(self, x, state):
        return 2 * Linear.stacked(self, x, state)


def test_the_kernels_do_not_take_a_kind_for_the_one_that_it_derives_from():
    layers = (Flatten(), FIRST, Activate(), Doubled("fc2", 12, 10))
    assert "Doubled is not computed by the native kernels" in native.supports(layers, (1, 28, 28))
    weights = weights_of(layers)
    images = IMAGES.normalise(IMAGES.test.images)
    stack = StackedNetwork(layers, "relu")(named(layers, weights), images)
    torch.testing.assert_close(stack, outputs(layers, weights, images))
