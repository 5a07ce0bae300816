"""Variational dropout's formulas against their definitions."""

import pytest
import torch

from zoo_datasets.networks.architectures import get_architecture
from zoo_datasets.networks.layers import build_layout
from zoo_datasets.networks.variational import kl_divergence, log_alpha, total_kl


def test_log_alpha_is_clamped_and_finite_at_zero_weights():
    found = log_alpha(torch.tensor([1.0, -1.0, 0.0, 100.0]), torch.tensor([-3.0, -3.0, -3.0, -10.0]), 8.0)
    assert found.tolist() == [-3.0, -3.0, 8.0, -8.0]


@pytest.mark.parametrize("alpha", [0.05, 0.3, 1.0, 4.0])
def test_the_kl_is_that_of_its_integral(alpha):
    """E log|ε| of ε ~ N(1, α) minus 0.5 log α, which is 0 in the limit of large α (Molchanov et al. 2017, eq. 10)."""

    def integral(a):
        # By sampling quantiles of a normal, which tames the singularity at 0.
        quantiles = (torch.arange(2_000_000, dtype=torch.float64) + 0.5) / 2_000_000
        noise = 1 + a**0.5 * torch.erfinv(2 * quantiles - 1) * 2**0.5
        return noise.abs().log().mean().item() - 0.5 * torch.tensor(a).log().item()

    expected = integral(alpha) - integral(1e8)
    # The approximation's own error, as the paper's figure 1 shows it.
    assert kl_divergence(torch.tensor(alpha, dtype=torch.float64).log()).item() == pytest.approx(expected, abs=0.02)


def test_weights_without_noise_cost_nothing_and_bounds_depend_on_the_layer():
    layers = get_architecture("cnn_s").layers(1, 10)
    layout = build_layout(layers)
    means = torch.zeros(2, layout.size)
    noise = torch.full_like(means, -torch.inf)
    assert total_kl(layers, means, noise).tolist() == [0, 0]
    slices = layout.slices()
    noise[0, slices["conv1.bias"]] = 0.0
    noise[1, slices["fc1.weight"]] = 0.0
    convolution, linear = kl_divergence(torch.tensor([8.0, 10.0], dtype=torch.float64)).tolist()
    assert total_kl(layers, means, noise).tolist() == pytest.approx([8 * convolution, 720 * linear])
