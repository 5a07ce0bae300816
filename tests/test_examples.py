"""The examples, executed on a tiny zoo."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tiny_runs import make_run

import zoo_datasets.cli.quickstart_job
from zoo_datasets.builders import build_repository
from zoo_datasets.cli.quickstart_job import quickstart
from zoo_datasets.loading.load import load_zoo

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "explore_a_zoo.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    from rich.console import Console

    monkeypatch.setattr(zoo_datasets.cli.quickstart_job, "MODELS", 24)
    monkeypatch.setattr(zoo_datasets.cli.quickstart_job, "EPOCHS", 2)
    monkeypatch.setattr(zoo_datasets.cli.quickstart_job, "BATCH", 8)
    quickstart(tmp_path / "quickstart", Console(quiet=True))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # outputs of a machine do not belong into it
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()) if "text" in output
    )
    recorded, computed = re.search(r"recorded ([\d.]+), computed ([\d.]+)", printed).groups()
    assert recorded == computed
    assert re.search(r"100 sampled ones: median 0\.\d+", printed)
    assert "epoch boosting R²" in printed


@pytest.mark.slow
def test_a_predictor_is_the_same_in_one_process_and_in_two(tmp_path, monkeypatch):
    make_run(tmp_path / "run", ((60, 3),))
    build_repository(tmp_path / "run", tmp_path / "repo")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    train, test = (len(load_zoo(tmp_path / "repo", "digits_cnn_s", split)) for split in ("train", "test"))
    environment = os.environ | {
        "HF_DATASETS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    lines = []
    for launch in ((), ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")):
        command = [sys.executable, *launch, EXAMPLES / "accelerate_predictor.py", tmp_path / "repo", "digits_cnn_s"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        lines.append(re.search(r"(\d+) processes, (\d+) steps, (\d+) rows, error ([\d.]+)", done.stdout).groups())
    assert train // 32 % 4  # the end of an epoch is no fourth batch
    steps = 10 * -(-(train // 32) // 4)
    for processes, line in zip((1, 2), lines, strict=True):
        assert tuple(map(int, line[:3])) == (processes, steps, test)
    assert float(lines[0][3]) == pytest.approx(float(lines[1][3]), rel=1e-3)
