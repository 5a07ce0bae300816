"""Configs of predictors that are trained in moments."""

from zoo_datasets.predictors import get_predictor

FAST = {
    "statistics": {"rounds": 10},
    "deepsets": {"channels": 8, "hidden": 16},
    "nfn": {"channels": (2, 2), "hidden": 16},
    "graph": {"width": 8, "depth": 0, "frequencies": 4},
    "transformer": {"width": 16, "heads": 2, "depth": 1},
    "scalegmn": {"width": 8, "hidden": 8, "depth": 2},
    "probe": {"probes": 4, "hidden": 16},
}


def shrink(monkeypatch):
    """Let a benchmark train tiny models, with two choices of one of them."""
    for name, config in FAST.items():
        choices = ({**config, "learning_rate": 1e-2}, {**config, "learning_rate": 1e-3})
        monkeypatch.setattr(get_predictor(name), "choices", choices[: 2 if name == "deepsets" else 1])
