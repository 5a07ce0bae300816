"""`zoo_datasets.networks.sparsity` under the name that users know."""

from zoo_datasets.networks.sparsity import layer_sparsity, masks, prunable, sparsity

__all__ = ["layer_sparsity", "masks", "prunable", "sparsity"]
