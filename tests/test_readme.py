"""The README's examples in Python run as they stand, and the paths that the documents name are there."""

import dataclasses
import re
from pathlib import Path

import datasets
import torch
from tiny_runs import make_run

from zoo_datasets.builders import build_repository
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.specs.zoos import get_zoo

README = Path(__file__).parents[1] / "README.md"


def test_the_examples_of_training_on_a_zoo_run(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    make_run(tmp_path / "run", ((14, 2),))
    other = dataclasses.replace(get_zoo("digits_cnn_s"), name="cifar10_cnn_l", architecture="cnn_l")
    make_run(tmp_path / "other", ((14, 1),), zoo=other)
    for run in ("run", "other"):
        build_repository(tmp_path / run, tmp_path / "model-zoos")
    monkeypatch.chdir(tmp_path)
    (section,) = re.findall(r"^## Train on a zoo\n(.*?)^## ", README.read_text(), re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    # A sparse zoo that has as twins what the dense one has as models.
    dense = load_zoo("model-zoos", "digits_cnn_s", "train")
    names = {"twins": dense.remove_columns("parent_id").add_column("parent_id", dense["model_id"][:])}
    tasks = 0
    for block in blocks:
        for statement in re.findall(r"^zd\..*", block, re.MULTILINE):
            batch = next(iter(eval(statement.partition("  #")[0], names)))
            assert batch["weights"].shape[-1] == 2464
            tasks += "target" in batch or batch["weights"].ndim == 3
        exec(block, names)
    assert tasks == 5
    assert set(names["batch"]["zoo"]) <= {"digits_cnn_s", "cifar10_cnn_l"}
    assert torch.equal(names["from_tokens"](names["tokens"].values, names["layout"]), names["weights"])
    assert names["loss"].shape == names["accuracy"].shape == names["weights"].shape[:1]
