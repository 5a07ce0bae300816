"""The choice of an engine path: automatic, by name, and for a run that has one already."""

import dataclasses
import warnings

import plain
import pytest
import torch

from zoo_datasets.errors import NativeError, RunError, SpecError, UnknownNameError
from zoo_datasets.native import compiler
from zoo_datasets.networks.architectures import get_architecture, resnet18_layers
from zoo_datasets.networks.layers import ACTIVATIONS
from zoo_datasets.networks.module import Network
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.zoos import read_zoo
from zoo_datasets.stacked import evaluate_stack, initialise
from zoo_datasets.stacked.augmentation import AUGMENTATIONS
from zoo_datasets.stacked.initialise import INITS
from zoo_datasets.stacked.native import block as native
from zoo_datasets.stacked.optimizers import OPTIMIZERS, OptimizerKind, adam
from zoo_datasets.training import train_zoo
from zoo_datasets.training.population.opening import workload
from zoo_datasets.training.steps.paths import Workload, choose_path
from zoo_datasets.training.steps.schedules import SCHEDULES, Scheduled

CNN = Workload(layers=get_architecture("cnn_s").layers(1, 10), in_shape=(1, 28, 28))
needs_compiler = pytest.mark.skipif(native.available() is not None, reason=f"no native kernels: {native.available()}")


@needs_compiler
def test_a_path_is_called_by_its_short_or_its_full_name():
    full = native.path_name()
    assert [choose_path(name, None, CNN).name for name in ("native", full, "auto")] == [full] * 3
    assert choose_path("torch", None, CNN).name == "torch"
    for name in ("warp", "warp-avx2"):
        with pytest.raises(UnknownNameError, match="engine path"):
            choose_path(name, None, CNN)


@needs_compiler
def test_other_instructions_are_not_taken_for_those_asked_for(monkeypatch):
    for name in compiler.instruction_sets():
        if name != native.instructions():
            with pytest.raises(
                RunError, match=f"ZOO_NATIVE={name} makes it {native.path_name(name)}; pass --path auto"
            ):
                choose_path(native.path_name(name), None, CNN)
            with pytest.raises(RunError, match=f"trained on the {native.path_name(name)} path, which is not available"):
                choose_path("auto", f"torch+{native.path_name(name)}", CNN)
            with monkeypatch.context() as patch:
                patch.setenv("ZOO_NATIVE", name)
                assert choose_path(native.path_name(name), None, CNN).name == native.path_name(name)


def test_one_warning_says_why_training_takes_the_plain_path(monkeypatch, tmp_path):
    monkeypatch.delenv("ZOO_NATIVE", raising=False)
    monkeypatch.setenv("CC", "/nowhere/cc")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        run = train_zoo(plain.tiny_zoo(seeds=1), tmp_path / "run", plain.tiny_images(train=10))
        train_zoo(plain.tiny_zoo(seeds=1), tmp_path / "run", plain.tiny_images(train=10))
    assert run.manifest.engine == "torch"
    (message,) = [str(warning.message) for warning in caught if warning.category is UserWarning]
    assert "7 to 28 times as slow" in message
    assert "install gcc or clang" in message


def test_what_the_kernels_do_not_compute_is_no_reason_to_warn(monkeypatch):
    monkeypatch.setenv("CC", "/nowhere/cc")
    resnet = Workload(layers=get_architecture("resnet18").layers(3, 10), in_shape=(3, 32, 32))
    augmented = Workload(layers=CNN.layers, in_shape=CNN.in_shape, augmentation=("flip",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [choose_path("auto", None, work).name for work in (resnet, augmented)] == ["torch"] * 2


def test_a_path_that_rounds_otherwise_than_before_has_another_name():
    """Strided 1 × 1 convolutions of a narrow network that trains alone are those of subsampled images."""
    narrow = Workload(layers=resnet18_layers(7)(3, 10), in_shape=(3, 32, 32))
    usual = Workload(layers=resnet18_layers(16)(3, 10), in_shape=(3, 32, 32))
    assert [choose_path("torch", None, work).name for work in (narrow, usual)] == ["torch-subsampled", "torch"]
    with pytest.raises(RunError, match="trained on the torch path, which is not available"):
        choose_path("auto", "torch", narrow)


def adamw(parameters, gradients, state, settings):
    """torch.optim.AdamW: decay apart from the gradients."""
    parameters *= (1 - settings.lr * settings.weight_decay)[:, None]
    adam(parameters, gradients, state, dataclasses.replace(settings, weight_decay=torch.zeros_like(settings.lr)))


@pytest.fixture
def tables(monkeypatch):
    """An entry more in each table of Python, which no kernel knows of."""
    monkeypatch.setitem(ACTIVATIONS, "softsign", torch.nn.functional.softsign)
    monkeypatch.setitem(OPTIMIZERS, "decoupled", OptimizerKind(adamw, ("exp_avg", "exp_avg_sq")))
    monkeypatch.setitem(INITS, "halves", lambda seeds, count, substream, fan_in: torch.full((len(seeds), count), 0.5))
    monkeypatch.setitem(AUGMENTATIONS, "still", AUGMENTATIONS["flip"])
    monkeypatch.setitem(SCHEDULES, "fall", lambda step, steps: Scheduled(1 - step / steps, None))


@pytest.mark.parametrize(
    ("field", "name"),
    [("activation", "softsign"), ("optimizer", "decoupled"), ("augmentation", "still")],
)
def test_what_plain_torch_alone_knows_is_trained_there(tables, tmp_path, field, name):
    zoo, data = plain.tiny_zoo(seeds=2, epochs=1, **{field: (name,)}), plain.tiny_images(train=20)
    with pytest.raises(RunError, match=f"native path cannot be used here: .*{name}; pass --path auto"):
        train_zoo(zoo, tmp_path / "run", data, path="native")
    assert not (tmp_path / "run").exists()
    run = train_zoo(zoo, tmp_path / "run", data)
    assert run.manifest.engine == "torch"
    (cohort,) = Run.open(tmp_path / "run").cohorts()
    assert not torch.equal(cohort.weights(0), cohort.weights(1))
    if field == "activation":
        network = Network(CNN.layers, "softsign").eval()
        network.load_state_dict(run.manifest.layout.unflatten(cohort.weights(1)[0]))
        logits = network(data.normalise(data.test.images))
        loss = torch.nn.functional.cross_entropy(logits, data.test.labels).item()
        assert cohort.metrics().to_pylist()[-2]["test_loss"] == pytest.approx(loss, rel=1e-5)


def test_the_optimizer_of_the_table_is_the_one_that_steps(tables, tmp_path):
    data = plain.tiny_images(train=20)
    zoo = plain.tiny_zoo(seeds=1, epochs=1, optimizer=("decoupled",), weight_decay=(0.1,))
    (cohort,) = train_zoo(zoo, tmp_path / "run", data).cohorts()
    module = plain.plain_module(zoo, cohort.members[0], data)
    steps = torch.optim.AdamW(module.parameters(), lr=zoo.lr[0], weight_decay=0.1)
    order = plain.streams.permutations(torch.tensor([cohort.members[0].seed]), 1, 20)[0]
    for index in order.split(10):
        steps.zero_grad()
        logits = module(data.normalise(data.train.images[index]))
        torch.nn.functional.cross_entropy(logits, data.train.labels[index]).backward()
        steps.step()
    expected = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    torch.testing.assert_close(cohort.weights(1)[0], expected, rtol=0, atol=1e-5)


@needs_compiler
def test_one_member_that_the_kernels_do_not_know_is_enough(tables):
    data = plain.tiny_images(train=10)
    for changes in ({"activation": ("tanh", "softsign")}, {"optimizer": ("adam", "decoupled")}):
        work = workload(plain.tiny_zoo(**changes), data, "cpu")
        assert choose_path("auto", None, work).name == "torch"
        with pytest.raises(RunError, match="which is not available"):
            choose_path("auto", f"native-{native.instructions()}", work)
    assert choose_path("auto", None, workload(plain.tiny_zoo(), data, "cpu")).name.startswith("native-")


@needs_compiler
def test_starts_and_schedules_are_no_matter_of_the_path(tables, tmp_path):
    zoo, data = plain.tiny_zoo(seeds=1, epochs=1, init=("halves",), scheduler="fall"), plain.tiny_images(train=20)
    (cohort,) = (run := train_zoo(zoo, tmp_path / "run", data)).cohorts()
    assert run.manifest.engine.startswith("native-")
    assert cohort.weights(0).unique().tolist() == pytest.approx([0.01, 0.5])


def test_models_of_another_activation_are_measured_in_plain_torch(tables):
    data = plain.tiny_images()
    weights = initialise(CNN.layers, torch.arange(3), ["kaiming_normal"] * 3)
    for fast in (True, False):
        loss, _ = evaluate_stack(CNN.layers, "softsign", weights, data, data.test, kernels=fast)
        network = Network(CNN.layers, "softsign").eval()
        network.load_state_dict(plain.build_layout(CNN.layers).unflatten(weights[0]))
        expected = torch.nn.functional.cross_entropy(network(data.normalise(data.test.images)), data.test.labels)
        assert loss[0].item() == pytest.approx(expected.item(), rel=1e-5)


@needs_compiler
def test_a_block_of_kernels_refuses_what_it_does_not_know(tables):
    zoo, data = plain.tiny_zoo(), plain.tiny_images(train=10)
    recipe = plain.recipe_of(zoo, plain.members(zoo, 2), data)
    for change, message in (
        ({"activation": "softsign"}, "relu, .*not softsign"),
        ({"optimizer": "decoupled"}, "rmsprop, not decoupled"),
    ):
        with pytest.raises(NativeError, match=message):
            native.NativeBlock(dataclasses.replace(recipe, **change), data)


@pytest.mark.parametrize(
    ("field", "name", "message"),
    [
        ("activation", "tahn", "no activation named 'tahn'; did you mean tanh"),
        ("optimizer", "adem", "no optimizer named 'adem'; did you mean adam"),
        ("init", "kaiming", "no initialisation named 'kaiming'; did you mean kaiming_"),
        ("augmentation", "flop", "no augmentation named 'flop'; did you mean flip"),
        ("scheduler", "one_cycle", "no scheduler named 'one_cycle'; did you mean onecycle"),
    ],
)
def test_an_unknown_name_is_refused_before_anything_is_written(tmp_path, field, name, message):
    zoo = plain.tiny_zoo(**{field: name if field == "scheduler" else (name,)})
    for path in ("auto", "native", "torch"):
        with pytest.raises(UnknownNameError, match=message):
            train_zoo(zoo, tmp_path / "run", plain.tiny_images(train=10), path=path)
    assert not (tmp_path / "run").exists()


def test_a_file_may_name_what_the_tables_have(tables, tmp_path):
    file = tmp_path / "zoo.yaml"
    text = """
    name: mine
    images: mnist
    architecture: cnn_s
    epochs: 1
    activation: [tanh, softsign]
    init: halves
    optimizer: decoupled
    lr: 1e-3
    weight_decay: 0
    scheduler: fall
    augmentation: still
    seeds: 2
    """
    file.write_text(text)
    zoo = read_zoo(file)
    assert (zoo.activation, zoo.optimizer, zoo.scheduler) == (("tanh", "softsign"), ("decoupled",), "fall")
    file.write_text(text.replace("softsign", "softsing").replace("fall", "fell"))
    message = r"activation\.1: expected one of 'tanh', .*'softsign', found 'softsing'; scheduler: .*found 'fell'"
    with pytest.raises(SpecError, match=message):
        read_zoo(file)
