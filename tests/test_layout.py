import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo_datasets.errors import LayoutError
from zoo_datasets.networks.architectures import layout_of
from zoo_datasets.networks.layout import WeightLayout

shapes = st.lists(st.lists(st.integers(1, 4), max_size=4).map(tuple), min_size=1, max_size=5)


def layout_and_state(shapes, stack=(), dtype="float32"):
    layout = WeightLayout.of(
        [(f"t{i}", shape, "buffer" if i % 2 else "parameter") for i, shape in enumerate(shapes)], dtype
    )
    torch_dtype = getattr(torch, dtype)
    words = torch.randint(-(2**31), 2**31 - 1, (*stack, layout.size), dtype=torch.int32)
    flat = words.view(torch.float32) if dtype == "float32" else words.to(torch_dtype)
    state = {spec.name: flat[..., layout.slices()[spec.name]].reshape((*stack, *spec.shape)) for spec in layout.tensors}
    return layout, state, flat


def bits(tensor):
    return tensor.contiguous().numpy().tobytes()


@given(shapes, st.sampled_from([(), (1,), (3,)]), st.sampled_from(["float32", "float64", "float16"]))
def test_flatten_and_unflatten_are_inverse_bit_for_bit(shapes, stack, dtype):
    layout, state, flat = layout_and_state(shapes, stack, dtype)
    flattened = layout.flatten(state)
    assert bits(flattened) == bits(flat)
    back = layout.unflatten(flattened)
    assert list(back) == [spec.name for spec in layout.tensors]
    for name, tensor in state.items():
        assert back[name].shape == tensor.shape
        assert bits(back[name]) == bits(tensor)


@given(shapes)
def test_json_gives_the_layout_back(shapes):
    layout, _, _ = layout_and_state(shapes)
    assert WeightLayout.from_json(layout.to_json()) == layout


@pytest.mark.parametrize(
    ("name", "channels", "classes", "size", "parameters"),
    [
        ("cnn_s", 1, 10, 2464, 2464),
        ("cnn_s", 3, 10, 2864, 2864),
        ("cnn_l", 3, 10, 10_853, 10_853),
        ("resnet18", 3, 10, 11_183_562, 11_173_962),
        ("resnet18", 3, 100, 11_229_732, 11_220_132),
        ("resnet18", 3, 200, 11_281_032, 11_271_432),
    ],
)
def test_sizes_are_the_published_ones(name, channels, classes, size, parameters):
    layout = layout_of(name, channels, classes)
    assert (layout.size, layout.parameters) == (size, parameters)


def test_misfits_name_the_tensor():
    layout = WeightLayout.of([("a.weight", (2, 3), "parameter"), ("a.bias", (2,), "parameter")])
    good = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}
    with pytest.raises(LayoutError, match=r"missing 'a\.bias'"):
        layout.flatten({"a.weight": good["a.weight"]})
    with pytest.raises(LayoutError, match=r"surplus 'b\.weight'"):
        layout.flatten(good | {"b.weight": torch.zeros(1)})
    with pytest.raises(LayoutError, match=r"'a\.bias' has shape \[3\], expected \[2\]"):
        layout.flatten(good | {"a.bias": torch.zeros(3)})
    with pytest.raises(LayoutError, match=r"'a\.bias' is torch.float64, expected torch.float32"):
        layout.flatten(good | {"a.bias": torch.zeros(2, dtype=torch.float64)})
    with pytest.raises(LayoutError, match=r"\[7\], expected 8 on the last axis"):
        layout.unflatten(torch.zeros(7))
    layout.flatten(good | {"bn.num_batches_tracked": torch.tensor(3)})  # no weight, and ignored


@pytest.mark.parametrize(
    "text",
    ["", "[]x", "[[1]]", '[["a", [1], "float32", "gradient", 0]]', '[["a", [1], "object", "buffer", 0]]',
     '[["a", [1], "float32", "buffer", 5]]',
     '[["a", [1], "float32", "buffer", 0], ["a", [1], "float32", "buffer", 1]]'],
)  # fmt: skip
def test_a_broken_layout_is_refused(text):
    with pytest.raises(LayoutError):
        WeightLayout.from_json(text)
