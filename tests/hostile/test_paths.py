"""Paths that mean something to the libraries below, or are no text: they work, or nothing is written."""

import os
from pathlib import Path

import datasets
import pytest
from typer.testing import CliRunner

from zoo_datasets import load_zoo
from zoo_datasets.builders import build_repository
from zoo_datasets.cli.app import app
from zoo_datasets.errors import StorageError, ZooError
from zoo_datasets.images.prepare import load_images
from zoo_datasets.loading.exporting import export_safetensors, repository_rows
from zoo_datasets.specs.zoos import get_zoo
from zoo_datasets.storage.files import replacing, write_bytes, write_json
from zoo_datasets.terminal import Terminal
from zoo_datasets.training.train import train_zoo

NAME = "digits_cnn_s"
REFUSED = ["$HOME", "${HOME}", "[a]", "repo [v2]", "a*b", "what?", "a::b"]
PLAIN = ["~", "a $ {x,y} #md5=1 %20", 'ünï 数 C: it\'s "q"\n:smile:']
NO_TEXT = os.fsdecode(b"caf\xe9")


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", "cnn_s")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("paths") / "run $HOME [a]")


@pytest.fixture(scope="module")
def repo(run):
    folder = run.parent / "repo"
    build_repository(run, folder)
    return folder


def train(folder):
    data = load_images("digits", "cnn_s")
    small = {"train": 32, "val": 16, "test": 16}
    from zoo_datasets.specs.members import Limits

    train_zoo(get_zoo(NAME), folder, data, models=4, epochs=1, limits=Limits(**small))
    return folder


def command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("below", ["", "zoos"])
def test_a_repository_is_built_nowhere_that_datasets_would_not_find_it(run, tmp_path, name, below):
    with pytest.raises(StorageError, match="in the path of a dataset repository") as caught:
        build_repository(run, tmp_path / name / below)
    assert "\n" not in str(caught.value)
    assert isinstance(command("build", run, "--out", tmp_path / name / below).exception, StorageError)
    assert isinstance(command("quickstart", "--out", tmp_path / name / below).exception, StorageError)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", REFUSED)
def test_a_repository_that_was_moved_there_says_why_it_cannot_be_loaded(repo, tmp_path, name):
    moved = tmp_path / name
    moved.symlink_to(repo)
    assert len(load_zoo(moved, NAME, "train"))  # by the path that it has in truth
    moved.unlink()
    moved.mkdir()
    (moved / "README.md").write_bytes((repo / "README.md").read_bytes())
    for streaming in (False, True):
        with pytest.raises(StorageError, match="rename the folder"):
            load_zoo(moved, NAME, streaming=streaming)


@pytest.mark.parametrize("name", PLAIN)
def test_other_names_are_built_loaded_and_exported_as_they_are(run, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)  # where `~` alone is a relative path
    build_repository(run, Path(name))
    rows = len(load_zoo(Path(name), NAME, "train"))
    assert rows == len(datasets.load_dataset(str(tmp_path / name), NAME, split="train"))
    assert rows == sum(1 for _ in load_zoo(tmp_path / name, NAME, "train", streaming=True))
    files = export_safetensors(repository_rows(tmp_path / name, NAME), Path(name) / "exported")
    assert all(file.is_file() for file in files)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["$HOME", "[a]", "a*b"])
def test_runs_and_exports_may_have_any_name_that_is_text(repo, tmp_path, name):
    assert (train(tmp_path / name) / "zoo.json").is_file()
    result = command("export", repo, NAME, "--out", tmp_path / name / "out")
    assert result.exit_code == 0, result.output
    assert f"{name}{os.sep}out: 8 states" in result.output
    assert len(list((tmp_path / name / "out").iterdir())) == 8
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_nothing_is_written_under_a_name_that_is_no_text(run, repo, digits, tmp_path):
    folder = tmp_path / NO_TEXT
    attempts = [
        lambda: train_zoo(get_zoo(NAME), folder, digits, models=1, epochs=1),
        lambda: build_repository(run, folder),
        lambda: load_zoo(folder, NAME),
        lambda: export_safetensors(repository_rows(repo, NAME), folder),
        lambda: write_json(folder / "benchmark.json", {}),
        lambda: write_bytes(folder, b""),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError, match=r"caf\\udce9.*: the path has bytes that are not UTF-8"):
            attempt()
    with pytest.raises(StorageError), replacing(folder / "file"):
        pass
    for arguments in (
        ["train", NAME, "--models", "1", "--epochs", "1"], ["build", run], ["export", repo, NAME],
        ["export", repo, NAME, "--format", "raw"], ["benchmark", repo, NAME], ["sparsify", run], ["quickstart"],
    ):  # fmt: skip
        assert isinstance(command(*arguments, "--out", folder).exception, ZooError), arguments
    assert not list(tmp_path.iterdir())


def test_the_folder_above_must_be_text_too(run, tmp_path, monkeypatch):
    (tmp_path / NO_TEXT).mkdir()
    monkeypatch.chdir(tmp_path / NO_TEXT)
    for attempt in (lambda: build_repository(run, Path("zoos")), lambda: write_bytes(Path("file"), b"")):
        with pytest.raises(StorageError, match="not UTF-8"):
            attempt()
    assert not list(Path().iterdir())


def test_a_terminal_shows_paths_as_they_are(capsys):
    Terminal().print("[a]/[/b]/:smile:")
    assert capsys.readouterr().out == "[a]/[/b]/:smile:\n"
