"""Predictors: their dimensions against the group average, what leaves them as they are, training, saving."""

import itertools
import json
import math
import re
from pathlib import Path

import datasets
import nbformat
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_predictors import FAST
from tiny_runs import make_run

import zoo_datasets as zd
from zoo_datasets.builders import build_repository
from zoo_datasets.errors import LayoutError, RepositoryError, SpecError, UnknownNameError
from zoo_datasets.networks.architectures import get_architecture, resnet18_layers
from zoo_datasets.networks.layers import Activate, Conv, Flatten, Linear, MaxPool
from zoo_datasets.predictors import PREDICTORS, get_predictor
from zoo_datasets.predictors.augment import augmented
from zoo_datasets.predictors.base import WeightSpace
from zoo_datasets.predictors.chain import chain_of
from zoo_datasets.predictors.fit import Plan, Rows
from zoo_datasets.predictors.graph import Aggregates
from zoo_datasets.predictors.nfn import Equivariant, dimensions, global_width, pooled
from zoo_datasets.predictors.predictor import Predictor, TargetForm
from zoo_datasets.specs.zoos import get_zoo
from zoo_datasets.symmetries import flip_signs, permute, rescale

NAME = "mnist_cnn_s_hyp_rand"
SMALL = {"epochs": 3, "seconds": 1e5}
NETWORKS = {
    "cnn_s": get_architecture("cnn_s").layers(1, 10),
    "small_cnn": get_architecture("small_cnn").layers(1, 10),
    "siren": get_architecture("siren").layers(2, 1),
}


def linear_chain(*widths):
    """A network of linear layers, inputs to outputs."""
    layers = []
    for number, (inside, outside) in enumerate(itertools.pairwise(widths), 1):
        layers += [Linear(f"fc{number}", inside, outside), Activate()]
    return tuple(layers[:-1])


# A convolutional one with flattened images: 1-3-2 channels of 2 × 2 kernels, images of 2 × 2 before the last layer.
CONVOLUTIONAL = (Conv("c1", 1, 2, 2), MaxPool(), Activate(), Conv("c2", 2, 3, 2), Activate(), Flatten(),
                 Linear("fc", 12, 2))  # fmt: skip


def orders_of(chain, mode):
    """All permutations of the group, as the order of the flat vector that each makes."""
    last = len(chain)
    free = [
        list(itertools.permutations(range(width))) if mode == "np" or 0 < layer < last else [tuple(range(width))]
        for layer, width in enumerate(chain.widths)
    ]
    places = torch.arange(chain.size)[None].double()
    for chosen in itertools.product(*free):
        matrices, biases = chain.split(places)
        parts = []
        for i, (matrix, bias) in enumerate(zip(matrices, biases, strict=True), 1):
            parts += [matrix[:, chosen[i]][:, :, chosen[i - 1]].flatten(), bias[:, chosen[i]].flatten()]
        yield torch.cat(parts).long()


def projectors(chain, mode):
    """Ranks of the averages over the group of ρ ⊗ ρ, on linear maps, and of ρ, on offsets; by the trace and by the
    singular values where the matrix is small."""
    eye = torch.eye(chain.size, dtype=torch.float64)
    on_vectors, count = torch.zeros_like(eye), 0
    on_maps = torch.zeros(chain.size**2, chain.size**2, dtype=torch.float64)
    for order in orders_of(chain, mode):
        rho = eye[order]
        on_vectors += rho
        on_maps += torch.kron(rho, rho)
        count += 1
    return on_maps / count, on_vectors / count


def maps_of(layer, chain):
    """The linear map and the offset of each parameter alone: [P, D, D] and [P, D], float64."""
    eye = torch.eye(chain.size, dtype=torch.float64)
    zero = torch.zeros(1, chain.size, dtype=torch.float64)
    linear, offsets = [], []
    for parameter in layer.parameters():
        for place in range(parameter.numel()):
            with torch.no_grad():
                for other in layer.parameters():
                    other.zero_()
                parameter.view(-1)[place] = 1.0
                offset = flat(layer(*chain.split(zero)))
                offsets.append(offset[0])
                linear.append(flat(layer(*chain.split(eye))) - offset)
    return torch.stack(linear), torch.stack(offsets)


def flat(features):
    matrices, biases = features
    return torch.cat([part.flatten(1) for pair in zip(matrices, biases, strict=True) for part in pair], dim=1)


@pytest.mark.parametrize("mode", ["hnp", "np"])
@pytest.mark.parametrize(
    "layers", [linear_chain(2, 3, 2), linear_chain(1, 2, 2, 1), linear_chain(2, 1, 2, 2), linear_chain(1, 2, 1)]
)
def test_an_equivariant_layer_is_all_that_is_equivariant(layers, mode):
    """Its maps span the image of the group-averaged projector, each once."""
    chain = chain_of(layers)
    layer = Equivariant(chain, 1, 1, mode).double()
    linear, offsets = maps_of(layer, chain)
    on_maps, on_vectors = projectors(chain, mode)
    rank, constant = (int(torch.linalg.matrix_rank(matrix)) for matrix in (on_maps, on_vectors))
    assert rank == round(float(on_maps.trace()))
    assert (rank, constant) == dimensions(chain, mode)
    maps = linear.flatten(1)
    assert int(torch.linalg.matrix_rank(maps)) == rank
    assert int(torch.linalg.matrix_rank(offsets)) == constant
    assert len(maps) == rank + constant == sum(parameter.numel() for parameter in layer.parameters())
    torch.testing.assert_close(maps @ on_maps, maps, rtol=0, atol=1e-12)
    torch.testing.assert_close(offsets @ on_vectors, offsets, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("layers", "hnp", "np_"),
    [
        (linear_chain(2, 3, 2), (74, 7), (32, 4)),
        (linear_chain(2, 3, 4, 2), (114, 9), (62, 6)),
        (linear_chain(2, 4, 4, 4, 2), (164, 11), (100, 8)),
        (NETWORKS["small_cnn"], (3784, 50), (2034, 32)),
        (NETWORKS["siren"], (75, 7), (57, 6)),
        (get_architecture("siren").layers(2, 3), (163, 11), (62, 6)),
        (NETWORKS["cnn_s"], (12388, 87), (9306, 69)),
        (get_architecture("cnn_s").layers(3, 10), (31188, 137), (10556, 69)),
    ],
)
def test_free_parameters_are_the_dimension(layers, hnp, np_):
    """The dimensions are characters' averages, computed elsewhere."""
    chain = chain_of(layers)
    for mode, expected in (("hnp", hnp), ("np", np_)):
        assert dimensions(chain, mode) == expected
        layer = Equivariant(chain, 1, 1, mode)
        offsets = sum(map_.bias.numel() for map_ in (*layer.weights_of_all, *layer.biases_of_all))
        assert (sum(parameter.numel() for parameter in layer.parameters()) - offsets, offsets) == expected
    assert Equivariant.count(chain, 2, 3, "np") == sum(
        parameter.numel() for parameter in Equivariant(chain, 2, 3, "np").parameters()
    )


@pytest.mark.parametrize("mode", ["hnp", "np"])
def test_a_convolutional_layer_is_complete_and_equivariant(mode):
    """Where the projector is too large, its trace: the mean of the squared character."""
    chain = chain_of(CONVOLUTIONAL)
    assert chain.positions == (4, 4, 4)
    fixed = [float((order == torch.arange(chain.size)).sum()) for order in orders_of(chain, mode)]
    assert sum(count**2 for count in fixed) / len(fixed) == dimensions(chain, mode)[0]
    assert sum(fixed) / len(fixed) == dimensions(chain, mode)[1]
    layer = Equivariant(chain, 1, 1, mode).double()
    weights = torch.randn(3, chain.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for order in itertools.islice(orders_of(chain, mode), 1, 12, 3):
        moved = flat(layer(*chain.split(weights[:, order])))
        torch.testing.assert_close(moved, flat(layer(*chain.split(weights)))[:, order], rtol=0, atol=1e-10)
    linear, _ = maps_of(layer, chain)
    assert int(torch.linalg.matrix_rank(linear.flatten(1))) == dimensions(chain, mode)[0]


def test_what_is_pooled_has_a_number_for_each_invariant():
    chain = chain_of(NETWORKS["small_cnn"])
    features = chain.split(torch.randn(2, chain.size))
    assert pooled(chain, *features, "hnp").shape == (2, global_width(chain, "hnp")) == (2, 50)
    assert pooled(chain, *features, "np").shape == (2, 32)


def weights_for(layers, rows=6):
    size = chain_of(layers).size
    return 0.3 * torch.randn(rows, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def model_of(name, layers, activations=("gelu", "relu", "tanh")):
    kind = get_predictor(name)
    torch.manual_seed(1)
    model = kind(WeightSpace(layers, activations), 2, kind.config_type.checked(FAST[name]))
    weights = weights_for(layers).float()
    if name == "statistics":
        targets = torch.randn(6, 2, generator=torch.Generator().manual_seed(2)).double()
        many, more = weights.repeat(12, 1), targets.repeat(12, 1)
        model.boost((many, more), (many, more), classes=False, seed=0, ends=math.inf)
    else:
        model.prepare(weights)
    return model.eval()


@torch.no_grad()
def says(model, weights, code):
    return model(weights, torch.full((len(weights),), code))


@pytest.mark.parametrize("name", PREDICTORS)
@pytest.mark.parametrize("network", NETWORKS)
def test_predictions_stay_under_the_changes_that_a_predictor_names(name, network):
    layers = NETWORKS[network]
    weights = weights_for(layers)
    model = model_of(name, layers)
    answers = model(weights.float(), torch.arange(6) % 3).detach()
    assert answers.std(dim=0).min() > 1e-6  # networks make a difference
    moved = permute(weights, layers, torch.Generator().manual_seed(3))
    changes = [(moved, 0), (moved, 2)]
    if "scales" in model.invariant or "all" in model.invariant:
        member = "none" if network == "siren" else "relu"
        changes.append((rescale(weights, layers, member, generator=torch.Generator().manual_seed(4)), 1))
        member = "none" if network == "siren" else "tanh"
        changes.append((flip_signs(weights, layers, member, torch.Generator().manual_seed(5)), 2))
    for changed, code in changes:
        single = (says(model, changed.float(), code) - says(model, weights.float(), code)).abs().max()
        double = model_of(name, layers).double()
        off = (says(double, changed, code) - says(double, weights, code)).abs().max()
        if model.invariant == "none":
            assert off > 1e-3
        else:
            assert off < 1e-10
            assert single < 1e-5


@pytest.mark.parametrize("name", ["nfn", "graph", "scalegmn"])
def test_inputs_and_outputs_cannot_be_permuted(name):
    layers = linear_chain(3, 5, 4, 3)
    weights = weights_for(layers)
    model = model_of(name, layers)
    tensors = WeightSpace(layers).layout.unflatten(weights)
    swapped = {name: tensor.clone() for name, tensor in tensors.items()}
    swapped["fc1.weight"] = swapped["fc1.weight"][:, :, [1, 0, 2]]
    inputs = WeightSpace(layers).layout.flatten({name: tensor.float() for name, tensor in swapped.items()})
    assert (says(model, inputs, 1) - says(model, weights.float(), 1)).abs().max() > 1e-5


def test_a_plain_graph_network_does_not_know_of_signs_and_scales():
    layers = NETWORKS["cnn_s"]
    weights, model = weights_for(layers), model_of("graph", layers).double()
    for changed, code in ((flip_signs(weights, layers, "tanh"), 2), (rescale(weights, layers, "relu"), 1)):
        assert (says(model, changed, code) - says(model, weights, code)).abs().max() > 1e-7


@pytest.mark.parametrize("sources", [1, 3], ids=["shared", "each its own"])
def test_gradients_of_what_messages_come_to_are_those_of_autograd(sources):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 4, 5), (2, 3, 4, 5), (2, 3, 1, 5), (2, sources, 4, 5))
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    assert torch.autograd.gradcheck(Aggregates.apply, inputs)
    factor, shift, target, source = inputs
    messages = factor * (target + source) + shift
    expected = (messages.mean(dim=2), messages.square().mean(dim=2), messages.amin(dim=2), messages.amax(dim=2))
    torch.testing.assert_close(Aggregates.apply(*inputs), expected)


def test_probes_tell_activations_apart_and_reach_the_generator():
    layers = NETWORKS["cnn_s"]
    weights, model = weights_for(layers).float(), model_of("probe", layers)
    codes = torch.tensor([2, 0, 1, 1, 0, 2])
    mixed = model(weights, codes)
    for code in range(3):
        torch.testing.assert_close(mixed[codes == code], says(model, weights[codes == code], code))
    mixed.sum().backward()
    assert model.codes.grad.abs().sum() > 0
    with pytest.raises(SpecError, match="must know their activation"):
        model_of("probe", layers, activations=())


def test_trees_are_read_as_scikit_learn_reads_them():
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    layers = linear_chain(2, 3, 2)
    space = WeightSpace(layers)
    kind = get_predictor("statistics")
    weights = torch.randn(300, 17, generator=torch.Generator().manual_seed(0))
    numbers = torch.stack([weights[:, :6].sum(1), weights[:, 0].abs()], dim=1).double()
    config = kind.config_type.checked({"rounds": 20})
    model = kind(space, 2, config)
    model.boost((weights, numbers), (weights, numbers), classes=False, seed=0, ends=math.inf)
    from zoo_datasets.predictors.statistics import statistics_of

    features = statistics_of(weights, space.layout).numpy()
    options = {
        "max_iter": 20, "early_stopping": False, "learning_rate": 0.05, "l2_regularization": 1.0,
        "max_features": 0.7, "min_samples_leaf": 10, "random_state": 0,
    }  # fmt: skip
    theirs = HistGradientBoostingRegressor(**options).fit(features, numbers[:, 1])
    ours = model(weights, torch.zeros(300, dtype=torch.int64))[:, 1].numpy()
    np.testing.assert_allclose(ours, theirs.predict(features), rtol=1e-9)
    for classes in (2, 3):
        labels = (numbers[:, 0].argsort().argsort() * classes // 300).long()
        model = kind(space, classes, config)
        model.boost((weights, labels), (weights, labels), classes=True, seed=0, ends=math.inf)
        theirs = HistGradientBoostingClassifier(**options).fit(features, labels)
        ours = model(weights, torch.zeros(300, dtype=torch.int64)).argmax(1).numpy()
        assert np.mean(ours == theirs.predict(features)) > 0.98  # rounds are chosen here


def test_networks_that_are_no_chain_are_refused_and_graphs_read_them():
    layers = resnet18_layers(2)(1, 10)
    for name in ("nfn", "deepsets", "scalegmn"):
        with pytest.raises(LayoutError, match="choose graph, transformer or statistics"):
            get_predictor(name)(WeightSpace(layers), 1, get_predictor(name).config_type())
    kind = get_predictor("graph")
    model = kind(WeightSpace(layers), 1, kind.config_type(width=4, depth=2)).double().eval()
    weights = 0.3 * torch.randn(2, model.space.layout.size, dtype=torch.float64)
    moved = permute(weights, layers)
    assert (says(model, moved, 0) - says(model, weights, 0)).abs().max() < 1e-10
    with pytest.raises(LayoutError, match="a single layer with weights"):
        chain_of(linear_chain(3, 2))
    with pytest.raises(LayoutError, match=r"expected \[B, "):
        model(weights[:, 1:], torch.zeros(2, dtype=torch.int64))


def test_augmentation_keeps_functions_and_asks_the_activation():
    layers = NETWORKS["cnn_s"]
    space = WeightSpace(layers, ("gelu", "relu", "tanh"))
    weights, codes = weights_for(layers), torch.tensor([0, 1, 2, 0, 1, 2])
    probe = model_of("probe", layers).double()
    generator = torch.Generator().manual_seed(0)
    changed = augmented(weights, codes, space, ("permute", "scale"), generator)
    with torch.no_grad():
        torch.testing.assert_close(probe(changed, codes), probe(weights, codes), rtol=0, atol=1e-9)
    scaled = augmented(weights, codes, space, ("scale",), generator)
    assert [torch.equal(*pair) for pair in zip(scaled, weights, strict=True)] == [True, False, False] * 2
    unknown = WeightSpace(layers, ())
    assert torch.equal(augmented(weights, codes, unknown, ("scale",), generator), weights)
    noisy = augmented(weights, codes, space, ("noise",), generator) - weights
    assert 0.05 < noisy.std() / weights.std() < 0.15


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """60 models of random weights with the activations of their zoo."""
    folder = tmp_path_factory.mktemp("predictors")
    make_run(folder / "run", ((60, 2),), zoo=get_zoo(NAME))
    build_repository(folder / "run", folder / "repo")
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    yield folder / "repo"
    patch.undo()


@pytest.mark.parametrize("name", PREDICTORS)
def test_a_predictor_is_trained_saved_and_used_in_three_lines(name, repo, tmp_path):
    train, validation, test = (zd.load_zoo(repo, NAME, split) for split in ("train", "validation", "test"))
    targets = ["test_acc", "epoch"]
    predictor = zd.Predictor.fit(name, train, validation, targets, **SMALL, **FAST[name], augment=("permute",))
    assert predictor.trained.steps > 0
    expected = predictor.predict(test)
    predictor.save(tmp_path / "saved")
    again = zd.Predictor.load(tmp_path / "saved")
    answers = again.predict(test)
    assert set(answers) == set(targets)
    for target in targets:
        assert answers[target].shape == (len(test),)
        np.testing.assert_array_equal(answers[target], expected[target])
        known = train[target]
        assert min(known) <= answers[target].min() <= answers[target].max() <= max(known)
    row = again.predict(test[1])
    np.testing.assert_allclose(row["epoch"], answers["epoch"][1:2], rtol=1e-4)
    document = json.loads((tmp_path / "saved" / "predictor.json").read_text())
    assert document["predictor"] == name
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"predictor.json", "model.safetensors"}


def test_training_finds_what_is_there_and_keeps_the_best():
    """A target that is invariant and simple: the mean square of the last layer."""
    layers = linear_chain(2, 6, 6, 2)
    space = WeightSpace(layers)
    weights = torch.randn(500, space.layout.size, generator=torch.Generator().manual_seed(0))
    values = weights[:, space.layout.slices()["fc3.weight"]].square().mean(1).double().numpy()
    form = TargetForm.of_numbers("size", values)
    rows = Rows(weights, torch.zeros(500, dtype=torch.int64), form.encoded(values)[:, None])
    cut = [Rows(*(part[where] for part in (rows.weights, rows.activation, rows.targets)))
           for where in (slice(0, 300), slice(300, 400), slice(400, 500))]  # fmt: skip
    configs = {
        "nfn": {"channels": (4, 4), "hidden": 32, "learning_rate": 1e-2},
        "deepsets": {"channels": 16, "hidden": 32, "learning_rate": 1e-2},
        "statistics": {"rounds": 100},
    }
    for name, config in configs.items():
        plan = Plan(seconds=1e5, epochs=20)
        predictor = Predictor.train(name, space, (form,), cut[0], cut[1], plan, config)
        outputs = predictor.outputs(cut[2].weights, cut[2].activation)
        assert float((outputs - cut[2].targets).square().mean()) < 0.4, name
        held = predictor.outputs(cut[1].weights, cut[1].activation)
        error = float((held - cut[1].targets).square().mean())
        assert error == pytest.approx(predictor.trained.error, rel=1e-4)  # the best on validation was kept


def test_classes_come_back_by_name(repo, tmp_path):
    train, validation, test = (zd.load_zoo(repo, NAME, split) for split in ("train", "validation", "test"))
    predictor = zd.Predictor.fit("deepsets", train, validation, ["activation"], **SMALL, **FAST["deepsets"])
    assert predictor.space.activations == ()  # what is predicted is not told
    predictor.save(tmp_path / "saved")
    answers = zd.Predictor.load(tmp_path / "saved").predict(test)["activation"]
    assert set(answers) <= set(train["activation"])
    with pytest.raises(SpecError, match="expected numbers, or one class"):
        zd.Predictor.fit("deepsets", train, validation, ["activation", "test_acc"], **SMALL)
    with pytest.raises(SpecError, match="must know their activation"):
        zd.Predictor.fit("probe", train, validation, ["activation"], **SMALL)
    with pytest.raises(UnknownNameError, match="no predictor named 'nfm'; did you mean nfn"):
        zd.Predictor.fit("nfm", train, validation)
    with pytest.raises(SpecError, match="unexpected|chanels"):
        zd.Predictor.fit("nfn", train, validation, chanels=(2,))
    with pytest.raises(UnknownNameError, match="no augmentation of weights named 'permut'"):
        zd.Predictor.fit("nfn", train, validation, augment=("permut",))


def test_files_of_strangers_are_refused_on_one_line(repo, tmp_path):
    train, validation = (zd.load_zoo(repo, NAME, split) for split in ("train", "validation"))
    for name in ("nfn", "statistics"):
        folder = zd.Predictor.fit(name, train, validation, **SMALL, **FAST[name]).save(tmp_path / name)
        tensors, document = load_file(folder / "model.safetensors"), (folder / "predictor.json").read_text()
        first = "right" if name == "statistics" else next(iter(tensors))
        for broken in (
            {key: tensor for key, tensor in tensors.items() if key != first},
            tensors | {first: tensors[first] + (2 if name == "statistics" else 0), "other": torch.zeros(1)},
            tensors | {first: tensors[first].double()},
        ):
            if name == "nfn" and "other" in broken:
                broken[first] = tensors[first][:1]
            save_file({key: tensor.contiguous() for key, tensor in broken.items()}, folder / "model.safetensors")
            with pytest.raises(RepositoryError, match="holds no predictor that can be read"):
                zd.Predictor.load(folder)
        save_file(tensors, folder / "model.safetensors")
        zd.Predictor.load(folder)
        value = json.loads(document)
        for change in (
            {"format": 2}, {"predictor": "../nfn"}, {"layers": [{"conv": {}}]}, {"targets": []},
            {"config": {"hidden": 1e9}}, {"activations": "relu"},
            {"targets": [{"name": "x", "kind": "class", "classes": ["a"] * 3}]},
        ):  # fmt: skip
            (folder / "predictor.json").write_text(json.dumps(value | change))
            with pytest.raises(RepositoryError, match="holds no predictor that can be read"):
                zd.Predictor.load(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").write_text("mine")
    with pytest.raises(RepositoryError, match="holds no predictor"):
        zd.Predictor.load(tmp_path / "other")
    with pytest.raises(RepositoryError, match="holds other files"):
        zd.Predictor.untrained("deepsets", WeightSpace(NETWORKS["siren"]), (TargetForm(name="x"),), {}).save(
            tmp_path / "other"
        )


def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    notebook = nbformat.read(Path(__file__).parents[1] / "examples" / "predict_from_weights.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in cells)  # outputs of a machine do not belong into it
    make_run(tmp_path / "run", ((40, 2),))
    build_repository(tmp_path / "run", tmp_path / "quickstart" / "model-zoos")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    source = "\n".join(cell.source for cell in cells)
    assert "SECONDS, EPOCHS = 30, 100" in source
    exec(source.replace("SECONDS, EPOCHS = 30, 100", "SECONDS, EPOCHS = 1e5, 1"), {})
    printed = capsys.readouterr().out
    assert re.search(r"nfn epoch: R² -?[\d.]+ on \d+ test networks", printed)
    assert float(re.search(r"change of a prediction ([\d.e-]+)", printed)[1]) < 1e-5
    assert float(re.search(r"change of a weight ([\d.e-]+)", printed)[1]) > 0.01
    assert {path.name for path in (tmp_path / "quickstart" / "predictors").iterdir()} == {"statistics", "nfn"}
