"""The public functions take a path as text, as `Path`, or as any other path-like object."""

import os
from pathlib import Path

import plain
import pytest
from typer.testing import CliRunner

import zoo_datasets as zd
from zoo_datasets.builders.sources.raw.export import export_raw
from zoo_datasets.cli.app import app
from zoo_datasets.errors import ImagesError, SpecError
from zoo_datasets.loading.exporting import export_safetensors, repository_rows


class Somewhere:
    """A path-like object that is no `Path`."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __fspath__(self) -> str:
        return self._path


@pytest.mark.parametrize("kind", [str, Path, Somewhere])
def test_paths_are_of_any_kind(tmp_path, kind):
    data = plain.tiny_images(train=10)
    zoo = plain.tiny_zoo(seeds=4)
    run, repo, out = (kind(tmp_path / name) for name in ("run", "repo", "out"))
    zd.train_zoo(zoo, run, data)
    assert zd.Run.open(run).models == 4
    zd.build_repository(os.fspath(run), repo)
    name = zoo.name
    assert zd.verify_repository(repo, name).ok
    rows = repository_rows(os.fspath(repo), name)
    (file, *_) = export_safetensors(rows, out)
    zd.to_module(zd.load_exported(kind(file)))
    assert export_raw(rows, out).models == 4
    spec = tmp_path / "zoo.yaml"
    spec.write_text("name: mine\n")
    with pytest.raises(SpecError, match="zoo.yaml"):
        zd.read_zoo(kind(spec))
    with pytest.raises(ImagesError, match="missing"):
        zd.load_images("mnist", "cnn_s", kind(tmp_path / "missing"))


def test_the_command_tells_its_version():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output.strip()) == (0, zd.__version__)
