"""The notebook of the examples, executed on a tiny zoo."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import zoo_datasets.cli.quickstart_job
from zoo_datasets.cli.quickstart_job import quickstart

NOTEBOOK = Path(__file__).parents[1] / "examples" / "explore_a_zoo.ipynb"


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
