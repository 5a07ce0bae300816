"""The examples of the README's section on training run as they stand."""

import re
from pathlib import Path

import datasets
import torch
from tiny_runs import make_run

from zoo_datasets.builders import build_repository

README = Path(__file__).parents[1] / "README.md"


def test_the_examples_of_training_on_a_zoo_run(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    make_run(tmp_path / "run", ((14, 2),))
    build_repository(tmp_path / "run", tmp_path / "model-zoos")
    monkeypatch.chdir(tmp_path)
    (section,) = re.findall(r"^## Train on a zoo\n(.*?)^## ", README.read_text(), re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    names = {}
    for block in blocks:
        for statement in re.findall(r"^zd\..*", block, re.MULTILINE):
            batch = next(iter(eval(statement.partition("  #")[0], names)))
            assert batch["weights"].shape[-1] == 2464
        exec(block, names)
    assert torch.equal(names["from_tokens"](names["tokens"].values, names["layout"]), names["weights"])
    assert names["loss"].shape == names["accuracy"].shape == names["weights"].shape[:1]
