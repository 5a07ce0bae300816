"""The choice of an engine path: automatic, by name, and for a run that has one already."""

import warnings

import plain
import pytest

from zoo_datasets.errors import RunError, UnknownNameError
from zoo_datasets.native import compiler
from zoo_datasets.networks.architectures import get_architecture, resnet18_layers
from zoo_datasets.stacked.native import block as native
from zoo_datasets.training import train_zoo
from zoo_datasets.training.steps.paths import Workload, choose_path

CNN = Workload(layers=get_architecture("cnn_s").layers(1, 10), in_shape=(1, 28, 28))
needs_compiler = pytest.mark.skipif(native.available() is not None, reason=f"no native kernels: {native.available()}")


@needs_compiler
def test_a_path_is_called_by_its_short_or_its_full_name():
    full = f"native-{native.instructions()}"
    assert [choose_path(name, None, CNN).name for name in ("native", full, "auto")] == [full] * 3
    assert choose_path("torch", None, CNN).name == "torch"
    for name in ("warp", "warp-avx2"):
        with pytest.raises(UnknownNameError, match="engine path"):
            choose_path(name, None, CNN)


@needs_compiler
def test_other_instructions_are_not_taken_for_those_asked_for(monkeypatch):
    for name in compiler.instruction_sets():
        if name != native.instructions():
            with pytest.raises(RunError, match=f"ZOO_NATIVE={name} makes it native-{name}; pass --path auto"):
                choose_path(f"native-{name}", None, CNN)
            with pytest.raises(RunError, match=f"trained on the native-{name} path, which is not available"):
                choose_path("auto", f"torch+native-{name}", CNN)
            with monkeypatch.context() as patch:
                patch.setenv("ZOO_NATIVE", name)
                assert choose_path(f"native-{name}", None, CNN).name == f"native-{name}"


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
