"""Single models as safetensors files, and back."""

import os
import subprocess
import sys

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hub_server import serving
from safetensors.torch import load_file
from tiny_runs import make_run
from typer.testing import CliRunner

import zoo_datasets as zd
from zoo_datasets.cli.app import app
from zoo_datasets.errors import CheckpointError
from zoo_datasets.loading.exporting import export_safetensors, repository_rows, row_bytes
from zoo_datasets.repository.manifest import read_manifest

NAME = "digits_cnn_s"
runner = CliRunner()


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.fixture
def repo(tmp_path):
    figures = {"val_loss": torch.tensor([float("nan"), float("inf"), 0.5, 0.25])}
    make_run(tmp_path / "run", ((12, 2),), figures=figures)
    zd.build_repository(tmp_path / "run", tmp_path / "repo")
    return tmp_path / "repo"


def rows_of(repo):
    tables = [pq.read_table(repo / shard.path) for shard in read_manifest(repo, NAME).shards]
    return {(row["model_id"], row["epoch"]): row for table in tables for row in table.to_pylist()}


def test_every_row_comes_back_from_its_file_as_it_was(repo, tmp_path):
    rows = rows_of(repo)
    files = export_safetensors(repository_rows(repo, NAME), tmp_path / "out")
    assert len(files) == len(rows) == 36
    for file in files:
        found = zd.load_exported(file)
        expected = dict(rows[found["model_id"], found["epoch"]])
        assert file.name == f"{found['model_id']}-epoch-{found['epoch']:04d}.safetensors"
        assert np.array(expected.pop("weights"), np.float32).tobytes() == found.pop("weights").numpy().tobytes()
        np.testing.assert_equal(found, expected)
    tensors = load_file(files[0])
    assert tensors["conv1.weight"].shape == (8, 1, 5, 5)
    row = zd.load_exported(files[0])
    images = torch.rand(3, 1, 28, 28)
    expected = zd.to_module(rows[row["model_id"], row["epoch"]])(images)
    assert torch.equal(zd.to_module(row)(images), expected)


def test_the_command_exports_what_is_asked_for_and_goes_on_where_it_stopped(repo, tmp_path):
    out = tmp_path / "out"
    command = ["export", str(repo), NAME, "--out", str(out), "--epochs", "0,2", "--models", "3", "--where", "lr > 0"]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "6 states of digits_cnn_s" in result.output
    files = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    ids = sorted({row["model_id"] for row in rows_of(repo).values()})[:3]
    assert set(files) == {f"{model_id}-epoch-{epoch:04d}.safetensors" for model_id in ids for epoch in (0, 2)}
    gone, broken = sorted(out.iterdir())[:2]
    content = gone.read_bytes(), broken.read_bytes()
    gone.unlink()
    broken.write_bytes(content[1][:-4])
    assert runner.invoke(app, command).exit_code == 0
    assert (gone.read_bytes(), broken.read_bytes()) == content
    changed = {file.name for file in out.iterdir() if file.stat().st_mtime_ns != files[file.name]}
    assert changed == {gone.name, broken.name}


def test_a_run_is_exported_too_and_a_repository_needs_a_name(repo, tmp_path):
    result = runner.invoke(app, ["export", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--epochs", "1"])
    assert "12 states of digits_cnn_s" in result.output
    rows = rows_of(repo)
    for file in (tmp_path / "out").iterdir():
        row = zd.load_exported(file)
        assert row["weights"].tolist() == rows[row["model_id"], 1]["weights"]
    result = runner.invoke(app, ["export", str(repo), "--out", str(tmp_path / "out")])
    assert "say which of its configs (digits_cnn_s) to export" in str(result.exception)


def test_a_file_that_is_no_exported_row_is_refused_with_its_reason(repo, tmp_path):
    row = next(iter(rows_of(repo).values()))
    file = tmp_path / "a.safetensors"

    def refused(content, match):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=match):
            zd.load_exported(file)

    whole = row_bytes(row)
    refused(whole[:-9], "is no model that `zoo export --format safetensors` wrote, or is broken")
    refused(b"junk", "is no model that")
    refused(whole.replace(b'"zoo_datasets"', b'"zoo_datasetz"'), "its header lacks 'zoo_datasets'")
    refused(whole.replace(b'{\\"format\\": 1', b'{\\"format\\": 9'), "format 9 found, this version reads 1")
    refused(whole.replace(b"cnn_s", b"cnn_x"), "there is no architecture named 'cnn_x'")
    refused(whole.replace(b"conv1.bias", b"conv9.bias"), "missing 'conv1.bias'; surplus 'conv9.bias'")
    refused(whole.replace(b'\\"lr\\"', b'\\"lx\\"'), "'lr'")


PROGRAM = """
import sys
from pathlib import Path
from zoo_datasets.loading.exporting import export_safetensors, repository_rows
rows = repository_rows("somebody/model-zoos", "digits_cnn_s", epochs=[1], models=2)
print(*(file.name for file in export_safetensors(rows, Path(sys.argv[1]))))
"""


@pytest.mark.slow
def test_a_repository_on_a_hub_is_exported(repo, tmp_path):
    with serving(repo) as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_dummy", "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "home"),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, tmp_path / "out"], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr[-2000:]
    rows = rows_of(repo)
    names = done.stdout.split()
    assert len(names) == 2
    for name in names:
        row = zd.load_exported(tmp_path / "out" / name)
        assert row["weights"].tolist() == rows[row["model_id"], 1]["weights"]
