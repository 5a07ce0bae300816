"""Networks of sines: their convention, what they draw, and what leaves their function as it is."""

import numpy as np
import pytest
import torch
from field_files import OFFSET, OMEGA, picture_of, siren, value_at

import zoo_datasets as zd
from zoo_datasets.errors import LayoutError, SpecError, UnknownNameError
from zoo_datasets.networks.fields import field_layers, grid_points
from zoo_datasets.networks.layers import Activate, Linear, build_layout
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.networks.records import NetworkRecord, remember
from zoo_datasets.symmetries import FIELD_SYMMETRIES, residuals, shift_phases, transform_field

COLUMNS = {"omega": OMEGA, "omega_hidden": OMEGA, "output_offset": OFFSET, "grid": "xy[-1,1]"}


def row_of(state, **columns):
    """A row of an open config, whose layout this process knows."""
    layout = WeightLayout.of_state(state)
    (name,) = remember([NetworkRecord(layout)])
    row = dict.fromkeys(("in_channels", "classes", "activation", "dropout", "raw", *COLUMNS))
    return row | {
        "model_id": "one", "epoch": 0, "architecture": "siren", "task": "field", "layout": name,
        "weights": layout.flatten(state).numpy(),
    } | columns  # fmt: skip


def test_a_row_with_its_convention_computes_what_its_authors_code_does():
    state = siren(0)
    module = zd.to_module(row_of(state, **COLUMNS))
    points = torch.rand(20, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert np.allclose(module(points).detach().numpy(), value_at(state, points.double().numpy()), atol=1e-5)


def test_what_nothing_tells_is_asked_for_and_never_guessed():
    row = row_of(siren(0))
    with pytest.raises(SpecError, match=r"omega and output_offset.*convention=zoo_datasets.Convention"):
        zd.to_module(row)
    with pytest.raises(SpecError, match="output_offset"):
        zd.to_module(row, convention={"omega": 10})
    points = np.array([[0.3, -0.2]])
    for given in (zd.Convention(omega=10, output_offset=0), {"omega": 10, "output_offset": 0}):
        value = zd.to_module(row, convention=given)(torch.tensor(points).float())
        assert np.allclose(value.detach().numpy(), value_at(siren(0), points, 10, 0), atol=1e-5)
    with pytest.raises(SpecError, match="where the pixels"):
        zd.render(row, 4, convention={"omega": 10, "output_offset": 0})


def test_what_is_passed_counts_before_the_columns():
    changed = zd.to_module(row_of(siren(0), **COLUMNS), convention={"output_offset": 7})
    points = np.array([[0.3, -0.2]])
    expected = value_at(siren(0), points, OMEGA, 7)
    assert np.allclose(changed(torch.tensor(points).float()).detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"omega": 0}, "above 0"), ({"omega": "thirty"}, "expected a number"), ({"omega": float("nan")}, "number"),
        ({"frequency": 30}, "frequency"), ({"grid": "polar"}, "xy"), ({"grid": "xy[1,-1]"}, "xy"), (30, "expected"),
        ({"signal_mean": (0.5,)}, "both"), ({"signal_mean": "a b", "signal_std": "1 1"}, "number for each"),
    ],
)  # fmt: skip
def test_a_convention_that_is_none_is_refused(given, said):
    with pytest.raises(SpecError, match=said):
        zd.to_module(row_of(siren(0)), convention=given)


def test_tensors_that_are_no_chain_of_linear_layers_are_refused():
    state = siren(0)
    for broken in ({**state, "extra": torch.zeros(3)}, {k: v for k, v in state.items() if k != "seq.1.bias"}):
        with pytest.raises(LayoutError, match="no network of sines"):
            zd.to_module(row_of(broken), convention=COLUMNS)
    odd = siren(0) | {"seq.1.weight": torch.zeros(6, 5)}
    with pytest.raises(LayoutError, match="reads 5"):
        zd.to_module(row_of(odd), convention=COLUMNS)


def test_pictures_have_the_column_first_or_the_row_as_the_grid_says():
    ramp = {
        "a.weight": torch.tensor([[0.01, 0.0]]), "a.bias": torch.zeros(1),
        "b.weight": torch.tensor([[1.0]]), "b.bias": torch.zeros(1),
    }  # fmt: skip
    across = zd.render(row_of(ramp, **COLUMNS), 5)
    down = zd.render(row_of(ramp, **COLUMNS | {"grid": "yx[-1,1]"}), 5)
    assert across.shape == (1, 1, 5, 5)
    assert (across[0, 0, 0].diff() > 0).all()
    assert (across[0, 0].diff(dim=0) == 0).all()
    assert torch.equal(down[0, 0], across[0, 0].T)


def test_rows_of_any_layout_and_order_are_drawn_as_one_by_one():
    turned = {name: value for part in ("bias", "weight") for name, value in siren(3).items() if name.endswith(part)}
    states = [siren(0), siren(1, hidden=9), siren(2), turned]
    rows = [row_of(state, **COLUMNS) for state in states]
    pictures = zd.render(rows, 6)
    for state, picture in zip([*states[:3], siren(3)], pictures, strict=True):
        assert np.allclose(picture.numpy(), picture_of(state, 6), atol=1e-5)
    with pytest.raises(LayoutError, match="1, 3 channels"):
        zd.render([rows[0], row_of(siren(0, out=3), **COLUMNS)], 6)
    with pytest.raises(SpecError, match="3 coordinates"):
        zd.render(row_of({"a.weight": torch.ones(4, 3), "a.bias": torch.ones(4), "b.weight": torch.ones(1, 4),
                          "b.bias": torch.ones(1)}, **COLUMNS), 6)  # fmt: skip


def test_normalised_values_come_back_as_pixels():
    state = siren(0, out=3)
    told = COLUMNS | {"signal_mean": "0.1 0.2 0.3", "signal_std": "0.5 0.25 2"}
    plain, pixels = zd.render(row_of(state, **COLUMNS), 4), zd.render(row_of(state, **told), 4)
    mean, std = torch.tensor([0.1, 0.2, 0.3])[:, None, None], torch.tensor([0.5, 0.25, 2])[:, None, None]
    assert torch.allclose(pixels, plain * std + mean)


@pytest.mark.parametrize("symmetry", FIELD_SYMMETRIES)
def test_symmetries_leave_the_function_and_say_how_exactly(symmetry):
    layers = field_layers(WeightLayout.of_state(siren(0, hidden=16)), zd.Convention(**COLUMNS))
    weights = torch.stack([build_layout(layers).flatten(siren(seed, hidden=16)) for seed in range(5)])
    for dtype, bound in ((torch.float32, 1e-4), (torch.float64, 1e-12)):
        own = weights.to(dtype)
        changed = transform_field(own, layers, symmetry, torch.Generator().manual_seed(0))
        assert changed.weights.dtype == dtype
        assert (changed.weights != own).any(dim=1).all()
        assert changed.residual.max() < bound
        points = grid_points("xy[-1,1]", 5)
        for before, after in zip(own.double(), changed.weights.double(), strict=True):
            states = [build_layout(layers).unflatten(vector) for vector in (before, after)]
            one, other = (value_at(state, points.numpy()) for state in states)
            assert np.abs(one - other).max() < bound


def test_a_residual_tells_what_is_no_symmetry():
    layers = field_layers(WeightLayout.of_state(siren(0)), zd.Convention(**COLUMNS | {"omega": 29.0}))
    right = field_layers(WeightLayout.of_state(siren(0)), zd.Convention(**COLUMNS))
    weights = torch.stack([build_layout(right).flatten(siren(seed)) for seed in range(3)])
    wrong = shift_phases(weights, layers, torch.Generator().manual_seed(0))
    assert residuals(weights, wrong, right).min() > 1e-2


def test_symmetries_that_layers_do_not_have_are_refused():
    layers = (Linear("a", 2, 4), Activate("relu"), Linear("b", 4, 1))
    weights = torch.zeros(1, build_layout(layers).size)
    with pytest.raises(SpecError, match="sine"):
        shift_phases(weights, layers)
    with pytest.raises(UnknownNameError, match="phases"):
        transform_field(weights, layers, "phase")


def test_layers_of_weights_in_another_order_are_refused():
    turned = {name: value for part in ("bias", "weight") for name, value in siren(0).items() if name.endswith(part)}
    row = row_of(turned, **COLUMNS)
    with pytest.raises(LayoutError, match="order"):
        zd.layers_of_row(row)
    expected = field_layers(WeightLayout.of_state(siren(0)), zd.Convention(**COLUMNS))
    assert zd.layers_of_row(row_of(siren(0), **COLUMNS)) == expected


def test_a_row_without_its_layout_is_no_reason_to_guess_its_convention():
    state = siren(0, stems=("layer1", "layer2", "layer3"), hidden=32)
    row = row_of(state, in_channels=2, classes=1)
    del row["layout"]
    with pytest.raises(SpecError, match="omega"):
        zd.to_module(row)
    points = np.array([[0.1, 0.7]])
    module = zd.to_module(row | COLUMNS | {"output_offset": 0.0})
    assert np.allclose(
        module(torch.tensor(points).float()).detach().numpy(), value_at(state, points, offset=0), atol=1e-5
    )
