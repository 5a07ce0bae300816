"""From a repository to tensors and modules."""

from zoo_datasets.loading.load import Loaded, SplitBy, load_zoo
from zoo_datasets.loading.modules import evaluate, layers_of_row, layout_of_row, to_module, to_modules, to_state_dict

__all__ = [
    "Loaded",
    "SplitBy",
    "evaluate",
    "layers_of_row",
    "layout_of_row",
    "load_zoo",
    "to_module",
    "to_modules",
    "to_state_dict",
]
