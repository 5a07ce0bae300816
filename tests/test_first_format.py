"""A run and a repository of version 0.1, as it wrote them, are read, built, verified and trained on as before."""

import shutil
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

import zoo_datasets as zd
from zoo_datasets.evaluation.verify import verify_repository

NAME = "digits_cnn_s"
FOLDER = Path(__file__).parent / "data" / "first_format"
LIMITS = zd.Limits(train=60, val=20, test=20)


@pytest.fixture
def run(tmp_path):
    return Path(shutil.copytree(FOLDER / "run", tmp_path / "run"))


def tables(repo):
    return {path.name: pq.read_table(path) for path in sorted((repo / NAME).glob("*.parquet"))}


def test_the_run_is_built_into_the_same_rows_and_names(run, tmp_path):
    zd.build_repository(run, tmp_path / "repo")
    built, before = tables(tmp_path / "repo"), tables(FOLDER / "repository")
    assert built.keys() == before.keys()
    assert all(table.equals(before[name]) for name, table in built.items())


def test_the_repository_loads_and_verifies(tmp_path):
    repo = Path(shutil.copytree(FOLDER / "repository", tmp_path / "repo"))
    found = verify_repository(repo, NAME, images=zd.load_images("digits", "cnn_s").limited(LIMITS), sample=4)
    assert found.ok, found.differences
    rows = datasets.load_dataset(str(repo), NAME, split="train", cache_dir=str(tmp_path / "cache"))
    assert zd.load_zoo(repo, NAME, "train")["model_id"][:] == rows["model_id"][:]
    zd.to_module(rows[0])


def test_the_run_is_trained_on(run):
    data = zd.load_images("digits", "cnn_s")
    before = (run / "cohort-0000" / "epoch-0001.safetensors").read_bytes()
    grown = zd.train_zoo(zd.get_zoo(NAME), run, data, models=2, epochs=2, limits=LIMITS)
    assert grown.manifest.engine == "torch"
    assert grown.cohorts()[0].metrics()["epoch"].to_pylist().count(2) == 2
    assert (run / "cohort-0000" / "epoch-0001.safetensors").read_bytes() == before
