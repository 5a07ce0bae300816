"""Zoos of networks that code of one's own makes: any `nn.Module`, run only where it is allowed."""

import json
import sys
from pathlib import Path

import plain
import pytest
import torch
from torch import nn

import zoo_datasets as zd
from zoo_datasets.errors import SpecError
from zoo_datasets.evaluation.report.content import gather
from zoo_datasets.evaluation.verify.run import verify_run
from zoo_datasets.networks import code, kind
from zoo_datasets.networks.layers import module as module_layer
from zoo_datasets.networks.layers.documents import layers_from_json, layers_to_json
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.specs.zoos import zoo_from_dict

EXAMPLES = Path(__file__).parents[1] / "examples"
VIT = [{"module": {"factory": "narrow_vit:make_model", "arguments": {"patch": 7, "dim": 8, "depth": 1}}}]


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch):
    monkeypatch.setattr(code, "_ALLOWED", set())
    monkeypatch.setattr(module_layer._MADE, "modules", {}, raising=False)
    kind._KNOWN.clear()


@pytest.fixture
def vit(monkeypatch):
    monkeypatch.chdir(EXAMPLES)  # where `zoo` is run, a package of one's own is found
    zd.allow_code("narrow_vit")
    yield
    sys.modules.pop("narrow_vit", None)


def zoo_of(architecture, **changes):
    fields = {
        "name": "own", "images": "mnist", "architecture": architecture, "epochs": 2, "activation": "none",
        "init": "module", "optimizer": "adam", "lr": 1e-2, "weight_decay": 0.0, "batch_size": 7, "seeds": 8,
    }  # fmt: skip
    return zoo_from_dict(fields | changes, "test")


def trained(folder, zoo, models, epochs=2, **options):
    return zd.train_zoo(zoo, folder, plain.tiny_images(), models=models, epochs=epochs, path="torch", **options)


def weights_by_model(run):
    return {
        member.model_id: weights
        for cohort in run.cohorts()
        for member, weights in zip(cohort.members, cohort.weights(run.epochs), strict=True)
    }


def check_independent(tmp_path, zoo, sizes=(1, 3)):
    """Members of small runs, stopped in between, end with the bits that they have among eight."""
    all_of_them = weights_by_model(trained(tmp_path / "all", zoo, 8))
    for models in sizes:
        trained(tmp_path / str(models), zoo, models, epochs=1)
        for model_id, weights in weights_by_model(trained(tmp_path / str(models), zoo, models)).items():
            assert torch.equal(weights, all_of_them[model_id])
    assert len({tuple(weights.tolist()) for weights in all_of_them.values()}) == 8


def test_a_transformer_does_not_depend_on_its_neighbours(tmp_path, vit):
    check_independent(tmp_path, zoo_of(VIT))


def test_draws_follow_from_seed_epoch_and_step(tmp_path):
    zd.allow_code("own_modules")
    before = torch.get_rng_state()
    zoo = zoo_of("own_modules:make_dropout")
    check_independent(tmp_path, zoo)
    assert torch.equal(before, torch.get_rng_state())
    own = json.loads((tmp_path / "all/zoo.json").read_text())["layers"][0]["module"]
    assert own["alone"] == "draws"


def test_what_no_stack_can_compute_is_trained_alone(tmp_path):
    zd.allow_code("own_modules")
    check_independent(tmp_path, zoo_of("own_modules:make_branching"), (1,))


def test_running_statistics_are_those_of_plain_torch(tmp_path):
    zd.allow_code("own_modules")
    images = plain.tiny_images()
    run = trained(
        tmp_path / "run", zoo_of("own_modules:make_normed", batch_size=60, optimizer="sgd", momentum=0.0), 3, 1
    )
    cohort = run.cohorts()[0]
    start, end = cohort.weights(0), cohort.weights(1)
    layout = run.manifest.layout
    for before, after in zip(start, end, strict=True):
        module = code.load_factory("own_modules:make_normed")(1, 10).train()
        module.load_state_dict(layout.unflatten(before), strict=False)
        logits = module(images.normalise(images.train.images))
        nn.functional.cross_entropy(logits, images.train.labels).backward()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter -= 1e-2 * parameter.grad
        state = module.state_dict()
        for name, tensor in layout.unflatten(after).items():
            torch.testing.assert_close(tensor, state[name], rtol=1e-4, atol=1e-6)
        assert float(state["1.running_mean"].abs().max()) > 0


def test_from_code_to_modules(tmp_path, vit):
    images = plain.tiny_images()
    run = trained(tmp_path / "run", zoo_of(VIT), 3, 1)
    zd.build_repository(run.path, tmp_path / "repo")
    assert verify_run(run.path, images=images, sample=None).ok
    result = zd.verify_repository(tmp_path / "repo", "own", images=images, sample=None)
    assert result.ok
    assert result.recomputed == result.rows

    row = zd.load_zoo(tmp_path / "repo", "own", split="train")[0]
    module = zd.to_module(row)
    assert type(module).__name__ == "NarrowViT"
    assert not module.training
    assert torch.equal(torch.cat([tensor.flatten() for tensor in module.parameters()]), torch.tensor(row["weights"]))


@pytest.mark.parametrize(
    ("architecture", "axes", "sizes"),
    [
        (
            {"name": "vit", "layers": [{"module": {"factory": "narrow_vit:make_model", "arguments": {
                "patch": 7, "dim": "width", "depth": "depth"}}}]},
            {"width": [4, 8], "depth": [1, 2]},
            4,
        ),
        (["narrow_vit:make_model", {"name": "vit8", "layers": VIT}], {}, 2),
    ],
    ids=["width and depth", "several"],
)  # fmt: skip
def test_one_zoo_of_several_networks_of_code(architecture, axes, sizes, tmp_path, vit):
    zoo = zoo_of(architecture, seeds=1, **axes)
    assert zoo_from_dict(zoo.to_dict(), "again") == zoo
    run = trained(tmp_path / "run", zoo, sizes, 1)
    zd.build_repository(run.path, tmp_path / "repo")
    rows = [row for split in zd.load_zoo(tmp_path / "repo", "own").values() for row in split]
    assert len({len(row["weights"]) for row in rows}) == sizes
    for row in rows:
        assert sum(parameter.numel() for parameter in zd.to_module(row).parameters()) == len(row["weights"])


def test_a_name_alone_runs_nothing(tmp_path, vit):
    zoo, images = zoo_of(VIT), plain.tiny_images()
    run = trained(tmp_path / "run", zoo, 2, 1)
    code._ALLOWED.clear()
    sys.modules.pop("narrow_vit")
    zd.build_repository(run.path, tmp_path / "repo")  # the recorded tensors say enough
    row = zd.load_zoo(tmp_path / "repo", "own", split="train")[0]
    content = gather(tmp_path / "repo", "own", read_manifest(tmp_path / "repo", "own"), images=images)
    assert any("code" in note for note in content["notes"])
    result = verify_run(run.path)
    assert result.ok
    assert any("--allow-code" in text for text in result.unchecked)
    for attempt in (
        lambda: zd.to_module(row),
        lambda: zd.train_zoo(zoo, tmp_path / "new", images, models=2),
        lambda: zd.train_zoo(zoo, run.path, images, models=2),
        lambda: verify_run(run.path, images=images),
        lambda: zd.verify_repository(tmp_path / "repo", "own", images=images),
    ):
        with pytest.raises(SpecError, match="--allow-code narrow_vit"):
            attempt()
    assert not (tmp_path / "new").exists()
    assert "narrow_vit" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tied", "one tensor"), ("double", "torch.float64"), ("complex_numbers", "complex64"), ("lazy", "lazy"),
        ("wrong_shape", r"\[4, 11\]"), ("no_parameters", "no parameters"), ("no_module", "returned a list"),
        ("no_arguments", "raised TypeError"), ("other_generator", "torch's generator"), ("noisy", "in evaluation"),
        ("counting", "passes"), ("NUMBER", "a int named"), ("absent", "has no absent"), ("random", "a module named"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_said_before_anything_is_written(tmp_path, name, message):
    zd.allow_code("own_modules")
    with pytest.raises(SpecError, match=message):
        trained(tmp_path / "run", zoo_of(f"own_modules:{name}"), 1)
    assert not (tmp_path / "run").exists()


def test_names_of_code_are_strict(tmp_path):
    zd.allow_code("no_such_package", "own_modules")
    for name in ("../own:make", "own modules:make", "own:make:it", ":make", "own:", "own/x.py:make", "own:a.b"):
        with pytest.raises(SpecError, match="my_package"):
            zoo_of(name)
    with pytest.raises(SpecError, match="could not be imported"):
        trained(tmp_path / "run", zoo_of("no_such_package:make"), 1)
    with pytest.raises(SpecError, match="of the package own_modules itself"):
        trained(tmp_path / "run", zoo_of("own_modules:borrowed"), 1)
    with pytest.raises(SpecError, match="init"):
        zoo_of("own_modules:make_mlp", init="kaiming_uniform")


def test_other_tensors_than_the_recorded_ones(tmp_path, monkeypatch):
    zd.allow_code("own_modules")
    run = trained(tmp_path / "run", zoo_of("own_modules:make_mlp"), 1, 1)
    layer = run.manifest.network.layers[0]
    monkeypatch.setattr("own_modules.make_mlp", lambda in_channels, classes: nn.Linear(3, 4))
    with pytest.raises(SpecError, match="own_modules"):
        layer.fresh()


def test_a_document_has_the_tensors_and_stands_alone():
    layer = module_layer.Module("own:make", 1, 10, 28, (("fc.weight", (10, 784), "parameter"),), (("dim", 8),), "draws")
    (document,) = layers_to_json((layer,))
    assert layers_from_json([document]) == (layer,)
    with pytest.raises(SpecError, match="by itself"):
        layers_from_json([document, "flatten"])
    document["module"]["factory"] = "own/make.py"
    with pytest.raises(SpecError, match="factory"):
        layers_from_json([document])
