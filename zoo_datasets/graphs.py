"""`zoo_datasets.adapters.graphs` under the name that users know."""

from zoo_datasets.adapters.graphs import Graphs, from_graphs, to_graphs

__all__ = ["Graphs", "from_graphs", "to_graphs"]
