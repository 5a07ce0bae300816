import json
from pathlib import Path

import plain
import pytest
import torch

from zoo_datasets.errors import RunError
from zoo_datasets.runs.run import Run
from zoo_datasets.training import train_zoo


@pytest.fixture
def run(tmp_path):
    return train_zoo(plain.tiny_zoo(), tmp_path / "run", plain.tiny_images(train=20), epochs=1)


def test_no_run_is_a_clear_error(tmp_path):
    with pytest.raises(RunError, match=r"is not a run: there is no zoo\.json in it"):
        Run.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value | {"format": 99}, "run format 99 found, this version reads 1"),
        (lambda value: {key: item for key, item in value.items() if key != "growth"}, "not a valid run.*growth"),
        (lambda value: value | {"zoo": value["zoo"] | {"lr": ["fast"]}}, r"lr\.0"),
        (lambda value: value | {"layout": [["a", [2], "float32", "parameter", 7]]}, "'a' starts at 7, expected 0"),
    ],
)
def test_a_broken_zoo_json_names_what_is_wrong(run, change, message):
    file = run.path / "zoo.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(RunError, match=message):
        Run.open(run.path)
    file.write_text("{")
    with pytest.raises(RunError, match="not valid JSON"):
        Run.open(run.path)


@pytest.mark.parametrize("name", ["epoch-0001.safetensors", "resume.safetensors", "metrics.parquet", "members.json"])
def test_a_truncated_file_names_itself(run, name):
    file = run.path / "cohort-0000" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    (cohort,) = Run.open(run.path).cohorts()
    readers = {"epoch-0001.safetensors": lambda: cohort.weights(1), "resume.safetensors": cohort.read_resume,
               "metrics.parquet": cohort.metrics, "members.json": lambda: cohort.members}  # fmt: skip
    with pytest.raises(RunError, match=name):
        readers[name]()


def test_weights_that_do_not_fit_the_layout_name_the_tensor(run):
    (cohort,) = run.cohorts()
    tensors = cohort.tensors(1) | {"conv1.bias": torch.zeros(3, 5)}
    cohort.write_epoch(1, tensors, cohort.metrics().slice(3))
    with pytest.raises(RunError, match=r"epoch-0001\.safetensors: tensor 'conv1\.bias' has shape \[3, 5\]"):
        cohort.weights(1)


def test_files_are_readable_like_any_other(run):
    reference = run.path / "reference"
    Path(reference).touch()
    modes = {path.stat().st_mode for path in run.path.rglob("*") if path.is_file()}
    assert modes == {reference.stat().st_mode}
