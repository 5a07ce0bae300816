import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo_datasets.errors import LayoutError
from zoo_datasets.networks.architectures import layout_of
from zoo_datasets.networks.layout import WeightLayout

shapes = st.lists(st.lists(st.integers(1, 4), max_size=4).map(tuple), min_size=1, max_size=5)


def layout_and_state(shapes, stack=()):
    layout = WeightLayout.of([(f"t{i}", shape, "buffer" if i % 2 else "parameter") for i, shape in enumerate(shapes)])
    words = torch.randint(-(2**31), 2**31 - 1, (*stack, layout.size), dtype=torch.int32)
    flat = words.view(torch.float32)
    state = {spec.name: flat[..., layout.slices()[spec.name]].reshape((*stack, *spec.shape)) for spec in layout.tensors}
    return layout, state, flat


def bits(tensor):
    return tensor.contiguous().numpy().tobytes()


@given(shapes, st.sampled_from([(), (1,), (3,)]))
def test_flatten_and_unflatten_are_inverse_bit_for_bit(shapes, stack):
    layout, state, flat = layout_and_state(shapes, stack)
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


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool,
          torch.complex64]  # fmt: skip


def values_of(dtype, shape):
    """Random values over the whole range of a dtype, with infinities and both zeros where it has them."""
    if dtype.is_complex:
        return torch.randn(shape, dtype=dtype)
    if not dtype.is_floating_point:
        return torch.randint(0, 2 if dtype == torch.bool else 255, shape).to(dtype)
    values = torch.randn(shape, dtype=torch.float64).to(dtype) * 1000
    special = torch.tensor([float("inf"), -float("inf"), -0.0, torch.finfo(dtype).smallest_normal / 4]).to(dtype)
    flat = values.view(-1)
    flat[: min(len(flat), 4)] = special[: min(len(flat), 4)]
    return values


@given(shapes, st.lists(st.sampled_from(DTYPES), min_size=5, max_size=5))
def test_any_state_dict_comes_back_in_its_dtypes_bit_for_bit(shapes, dtypes):
    state = {f"t{i}": values_of(dtype, shape) for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=False))}
    state["again"] = state["t0"]
    layout = WeightLayout.of_state(state)
    assert layout.tensors[-1].tied == "t0"
    assert WeightLayout.from_json(layout.to_json()) == layout
    weights, raw = layout.flatten(state) if layout.size else torch.empty(0), layout.pack_raw(state)
    assert weights.dtype == torch.float32
    assert (len(weights), len(raw)) == (layout.size, layout.raw_bytes)
    back = layout.restore(weights, raw)
    assert list(back) == list(state)
    assert back["again"] is back["t0"]
    for name, tensor in state.items():
        assert (back[name].dtype, back[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(back[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([["a", [2], "float32", "parameter", 0, "b"]], "tied to 'b', which is no earlier tensor"),
        ([["a", [2], "float32", "parameter", 0], ["b", [3], "float32", "parameter", 0, "a"]], "differs in shape"),
        ([["a", [2], "int64", "buffer", 0], ["b", [2], "int64", "buffer", 2]], "'b' starts at 2, expected 16"),
        ([["a", [2], "float32", "parameter", 0, 7]], "the name of the tensor that it is tied to"),
    ],
)
def test_broken_layouts_are_refused(entries, message):
    with pytest.raises(LayoutError, match=message):
        WeightLayout.from_list(entries)
