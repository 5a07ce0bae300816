import pytest
import torch

from zoo_datasets.errors import UnknownNameError
from zoo_datasets.networks.architectures import ARCHITECTURES, get_architecture, layout_of
from zoo_datasets.networks.layers import ACTIVATIONS
from zoo_datasets.networks.module import build_module
from zoo_datasets.stacked import StackedNetwork, initialise


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_module_layout_and_stack_derive_from_the_same_layers(name):
    architecture = get_architecture(name)
    size = architecture.input_size or 16
    module = build_module(name, 3, 10, "gelu", 0.5).eval().double()  # sines of large angles tell roundings apart
    layout = layout_of(name, 3, 10)
    state = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert [(s.name, s.shape) for s in layout.tensors] == [(key, tuple(value.shape)) for key, value in state.items()]
    shape = (2, 3, size, size) if architecture.task == "classification" else (2, 3)
    images = torch.randn(shape, dtype=torch.float64)
    stack = {key: value[None] for key, value in state.items()}
    with torch.no_grad():
        expected = module(images)
        network = StackedNetwork(architecture.layers(3, 10), "gelu")
        torch.testing.assert_close(network(stack, images)[0], expected, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(network(stack, images[None])[0], expected, rtol=1e-7, atol=1e-9)


def test_names_do_not_depend_on_dropout():
    assert list(build_module("cnn_s", 1, 10, dropout=0.5).state_dict()) == [
        *(f"{layer}.{part}" for layer in ("conv1", "conv2", "conv3", "fc1", "fc2") for part in ("weight", "bias")),
    ]


def test_resnet18_has_torchvisions_names_and_the_cifar_stem():
    module = build_module("resnet18", 3, 10)
    names = set(module.state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.0.weight", "layer4.1.bn2.bias", "fc.bias"} <= names
    assert module.get_submodule("conv1").stride == (1, 1)
    assert len(names) == 122


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_torchs(activation):
    x = torch.linspace(-3, 3, 13)
    reference = {
        "tanh": torch.nn.Tanh(),
        "relu": torch.nn.ReLU(),
        "sigmoid": torch.nn.Sigmoid(),
        "gelu": torch.nn.GELU(),
        "silu": torch.nn.SiLU(),
        "leaky_relu": torch.nn.LeakyReLU(),
        "elu": torch.nn.ELU(),
        "selu": torch.nn.SELU(),
        "none": torch.nn.Identity(),
    }
    assert torch.equal(ACTIVATIONS[activation](x), reference[activation](x))


def test_initial_weights_follow_their_distributions():
    layers = get_architecture("cnn_l").layers(3, 10)
    layout = layout_of("cnn_l", 3, 10)
    names = ("uniform", "normal", "kaiming_uniform", "kaiming_normal")
    inits = [init for init in names for _ in range(50)]
    tensors = layout.unflatten(initialise(layers, torch.arange(len(inits)), inits))
    assert all((tensor == 0.01).all() for name, tensor in tensors.items() if name.endswith("bias"))
    weight = tensors["conv2.weight"].double()  # fan in 16 · 3 · 3
    uniform, normal, kaiming_uniform, kaiming_normal = weight.view(4, 50, *weight.shape[1:])
    assert 0 <= uniform.min() < 0.001
    assert 0.999 < uniform.max() <= 1
    assert normal.std().item() == pytest.approx(1, rel=0.01)
    assert kaiming_uniform.abs().max().item() == pytest.approx((6 / 144) ** 0.5, rel=0.001)
    assert kaiming_uniform.mean().item() == pytest.approx(0, abs=0.001)
    assert kaiming_normal.std().item() == pytest.approx((2 / 144) ** 0.5, rel=0.01)


def test_equal_seed_and_init_start_from_the_same_weights_whatever_the_company():
    layers = get_architecture("cnn_s").layers(1, 10)
    mixed = initialise(layers, torch.tensor([3, 4, 3]), ["normal", "uniform", "uniform"])
    alone = initialise(layers, torch.tensor([3]), ["uniform"])
    assert torch.equal(mixed[2], alone[0])
    assert not torch.equal(mixed[1], mixed[2])


def test_unknown_names_are_told_with_what_is_near():
    with pytest.raises(UnknownNameError, match="architecture named 'cnn-s'; did you mean cnn_s"):
        get_architecture("cnn-s")
    with pytest.raises(UnknownNameError, match="activation named 'relu6'; did you mean relu"):
        build_module("cnn_s", 1, 10, "relu6")
    with pytest.raises(UnknownNameError, match="initialisation named 'kaiming'"):
        initialise(get_architecture("cnn_s").layers(1, 10), torch.tensor([1]), ["kaiming"])
