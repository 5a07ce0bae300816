"""Zoos with widths, depths and several architectures: one run, a ragged config."""

import plain
import pytest

import zoo_datasets
from zoo_datasets.builders.build import build_repository
from zoo_datasets.errors import SpecError
from zoo_datasets.evaluation.verify.run import verify_run
from zoo_datasets.evaluation.verify.verify import verify_repository
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.zoos import zoo_from_dict
from zoo_datasets.training import train_zoo
from zoo_datasets.training.estimate.estimate import run_size
from zoo_datasets.training.population.opening import check_run

OWN = [
    {"conv": {"out": "width", "kernel": 3, "stride": 4}},
    "activate",
    {"repeat": {"times": "depth", "layers": [{"conv": {"out": "2 * width", "kernel": 3, "padding": 1}}, "activate"]}},
    "global_average_pool",
    {"linear": "classes"},
]
BASE = {
    "name": "mine", "images": "mnist", "epochs": 1, "activation": "tanh", "init": "kaiming_uniform",
    "optimizer": "adam", "lr": 1e-3, "weight_decay": 0, "seeds": 2,
}  # fmt: skip


def zoo_of(**changes):
    return zoo_from_dict(BASE | changes, "test")


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({"architecture": OWN, "width": [3, 5], "depth": [1, 2]},
         {"mine_w3_d1": 268, "mine_w3_d2": 598, "mine_w5_d1": 620, "mine_w5_d2": 1530}),
        ({"architecture": "mlp", "width": [4, 10]}, {"mlp_w4": 3190, "mlp_w10": 7960}),
        ({"architecture": ["cnn_s", "mlp", {"name": "small", "layers": ["flatten", {"linear": "classes"}]}]},
         {"cnn_s": 2464, "mlp": 7960, "small": 7850}),
    ],
    ids=["own", "table", "several"],
)  # fmt: skip
def test_one_zoo_of_several_networks(tmp_path, changes, sizes):
    data, zoo = plain.tiny_images(train=20), zoo_of(**changes)
    assert zoo_from_dict(zoo.to_dict(), "again") == zoo
    opening = check_run(zoo, tmp_path / "run", data)
    run = train_zoo(zoo, tmp_path / "run", data)
    size = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    assert run_size(opening) == pytest.approx(size, rel=0.02)
    opened = Run.open(run.path)
    assert {kind.architecture: kind.layout.size for kind in opened.manifest.networks.values()} == sizes
    for cohort in opened.cohorts():
        (kind,) = {opened.manifest.network_of(member) for member in cohort.members}
        assert cohort.weights(1).shape == (2, kind.layout.size)
    assert verify_run(run.path, images=data).differences == ()
    built = build_repository(run.path, tmp_path / "repo")
    assert (built.rows, built.left_out) == (zoo.states, ())
    verified = verify_repository(tmp_path / "repo", "mine", images=data)
    assert verified.differences == ()
    assert verified.recomputed == zoo.states
    loaded = zoo_datasets.load_zoo(str(tmp_path / "repo"), "mine")
    rows = [row for split in loaded.values() for row in split]
    assert {row["architecture"]: len(row["weights"]) for row in rows} == sizes
    for row in rows[:4]:
        module = zoo_datasets.to_module(row)
        assert sum(parameter.numel() for parameter in module.parameters()) == sizes[row["architecture"]]
        if "width" in changes:
            assert f"_w{row['width']}" in row["architecture"]
    # It grows, and stays what it was.
    before = Run.open(run.path).cohorts()[0].weights(1)
    train_zoo(zoo, run.path, data, epochs=2)
    assert Run.open(run.path).cohorts()[0].weights(1).equal(before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "cnn_s", "width": [8]}, "cnn_s has one size, so that there is no 'cnn_s_w8'"),
        ({"architecture": "resnet18", "depth": [2]}, "resnet18 has one depth"),
        ({"architecture": OWN, "width": [3]}, r"layers\[2\]: expected .repeat: .times: depth"),
        ({"architecture": OWN, "width": [3], "depth": [0]}, "depth: expected 1 to 99, found 0"),
        ({"architecture": ["flatten", {"linear": "classes"}], "width": [3]}, "width: the layers of mine do not use it"),
        ({"architecture": ["cnn_s", {"name": "mlp", "layers": ["flatten"]}]}, "mlp is a name of the table"),
        ({"architecture": ["cnn_s", "cnn_s"]}, "variant: values repeat"),
    ],
)
def test_what_no_network_can_be_is_refused(changes, message):
    with pytest.raises(SpecError, match=message):
        zoo_of(**changes)


def test_nested_repetitions_come_to_an_end():
    layers = ["flatten"]
    for _ in range(8):
        layers = [{"repeat": {"times": 99, "layers": layers}}]
    with pytest.raises(SpecError, match="at most 4,096 layers"):
        zoo_of(architecture=[*layers, {"linear": "classes"}])
