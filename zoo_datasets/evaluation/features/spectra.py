"""Singular values of the matrix of each layer, as outputs × inputs, sorted and as they are."""

from __future__ import annotations

import numpy as np
import torch

from zoo_datasets.evaluation.features.base import Feature, Matrix, TrainingWeights, Transform
from zoo_datasets.networks.layout import WeightLayout

# Of large layers the first ones; the rest of a spectrum changes little from one to the next.
_KEPT = 64


def spectra_of(weights: Matrix, layout: WeightLayout) -> Matrix:
    """The largest 64 singular values of each tensor of two or more axes, falling: float32 [B, F].

    A convolution's matrix is [outputs, inputs · height · width].

    Args:
        weights: float32 [B, D].
    """
    spectra = []
    for tensor in layout.unflatten(torch.from_numpy(np.ascontiguousarray(weights))).values():
        if tensor.ndim > 2:
            matrices = tensor.flatten(2)
            rows, columns = matrices.shape[1:]
            # The eigenvalues of the smaller Gram matrix: much faster than a decomposition of the matrix.
            wide = matrices.double() if rows <= columns else matrices.double().transpose(1, 2)
            values = torch.linalg.eigvalsh(wide @ wide.transpose(1, 2)).clamp(min=0).sqrt().flip(1)
            spectra.append(values[:, :_KEPT].float())
    return torch.cat(spectra, dim=1).numpy()


def _fit(_: TrainingWeights, layout: WeightLayout) -> Transform:
    return lambda weights: spectra_of(weights, layout)


FEATURE = Feature(name="spectra", doc="singular values of each layer", fit=_fit, boosted=True)
