"""What notebooks print of our objects: one line that tells what they are, and no numbers of tensors."""

import datasets
import pytest
import torch
from plain import tiny_images
from tiny_runs import make_run

import zoo_datasets as zd
from zoo_datasets import adapters, graphs
from zoo_datasets.builders import build_repository
from zoo_datasets.errors import LayoutError, UnknownNameError
from zoo_datasets.evaluation.features.statistics import names_of
from zoo_datasets.symmetries import Normalisation

LAYOUT = zd.layout_of("cnn_s", 1, 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reprs")
    make_run(folder / "run", ((6, 1),))
    build_repository(folder / "run", folder / "repo")
    return folder


@pytest.fixture(scope="module")
def zoo(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield zd.load_zoo(folder / "repo", "digits_cnn_s", "train")


def test_reprs_tell_what_things_are(folder, zoo):
    weights = next(iter(zd.batches(zoo, 2, ["weights"])))["weights"]
    images = tiny_images(train=10)
    run = zd.Run.open(folder / "run")
    shown = [
        (images, f"ImageData({images.spec.name}: 10 train, "),
        (images.train, "Split(images=uint8 [10, 1, 28, 28], labels=int64 [10])"),
        (LAYOUT, "WeightLayout(2,464 numbers: conv1.weight [8, 1, 5, 5], conv1.bias [8], "),
        (zd.layout_of("resnet18", 3, 10), ", … "),
        (run, f"Run('{folder / 'run'}': digits_cnn_s, 6 models, epochs 0–1)"),
        (
            zd.batches(zoo, 4, ["weights", "lr"], shuffle=True, seed=3),
            " samples of weights, lr, 4 at a time, shuff",
        ),
        (zd.mixed_tokens({"zoo": zoo}, 64), "in stored order)"),
        (adapters.to_tokens(weights, LAYOUT, 64), "Tokens(values=float32 [2, "),
        (graphs.to_graphs(weights, zd.get_architecture("cnn_s").layers(1, 10)), "Graphs(nodes=float32 [2, "),
        (Normalisation.of([{"weights": weights}], LAYOUT), "Normalisation(mean=float32 [2464], "),
    ]
    for value, expected in shown:
        assert expected in repr(value)
        assert "tensor(" not in repr(value)
        assert len(repr(value)) < 500


def test_mixed_tokens_know_the_sizes_of_their_positions(zoo):
    batches = zd.mixed_tokens({"zoo": zoo}, 64, batch_size=2)
    position = next(iter(batches))["position"]
    assert batches.position_sizes == tuple((position.flatten(0, 1).amax(dim=0) + 1).tolist())
    assert zd.batches(zoo).position_sizes is None


def test_evaluate_takes_a_column_of_activations(zoo):
    images = tiny_images(train=10)
    weights = torch.randn(5, LAYOUT.size, generator=torch.Generator().manual_seed(1)) * 0.1
    activations = ["relu", "tanh", "gelu", "tanh", "relu"]
    loss, accuracy = zd.evaluate(weights, images, "cnn_s", activations)
    for row, activation in enumerate(activations):
        alone = zd.evaluate(weights[row : row + 1], images, "cnn_s", activation)
        assert torch.equal(loss[row : row + 1], alone[0])
        assert torch.equal(accuracy[row : row + 1], alone[1])
    assert zd.evaluate(weights[:0], images, "cnn_s", [])[0].shape == (0,)
    batch = next(iter(zd.batches(zoo, 4)))
    assert zd.evaluate(batch["weights"], images, "cnn_s", batch["activation"])[0].shape == (4,)
    with pytest.raises(LayoutError, match="got 2 activations for 5 weight vectors"):
        zd.evaluate(weights, images, "cnn_s", ["relu", "tanh"])
    with pytest.raises(UnknownNameError, match="no activation named 'swish'"):
        zd.evaluate(weights, images, "cnn_s", ["relu", "tanh", "swish", "relu", "relu"])


def test_statistics_have_a_public_name():
    weights = torch.randn(3, LAYOUT.size, generator=torch.Generator().manual_seed(2))
    statistics = zd.statistics(weights, LAYOUT)
    names = names_of(LAYOUT)
    assert statistics.shape == (3, len(names))
    bias = weights[:, LAYOUT.slices()["fc2.bias"]]
    torch.testing.assert_close(statistics[:, names.index("fc2.bias mean")], bias.mean(dim=1))
    torch.testing.assert_close(statistics[:, names.index("fc2.bias p50")], bias.quantile(0.5, dim=1))
    with pytest.raises(LayoutError, match=r"expected \[B, 2464\]"):
        zd.statistics(weights[:, :9], LAYOUT)
