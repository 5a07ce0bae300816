"""What `zoo push --dry-run` says, without any hub."""

import dataclasses
import shutil

import pytest
from tiny_runs import make_run
from typer.testing import CliRunner

from zoo_datasets.builders import build_repository
from zoo_datasets.cli.app import app
from zoo_datasets.errors import RepositoryError, UnknownNameError
from zoo_datasets.hub import plan
from zoo_datasets.hub.plan import plan_push, repositories_in
from zoo_datasets.repository.credit import Credit
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.specs.zoos import get_zoo

A, B = "digits_cnn_s", "mnist_cnn_s"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two repositories, and a hub that nobody may ask."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    make_run(tmp_path / "a", ((9, 2),))
    make_run(tmp_path / "b", ((4, 1),), zoo=get_zoo(B))
    build_repository(tmp_path / "a", tmp_path / "zoos/first")
    build_repository(tmp_path / "b", tmp_path / "zoos/first")
    build_repository(tmp_path / "b", tmp_path / "zoos/second")
    (tmp_path / "zoos/no repository").mkdir()
    return tmp_path / "zoos"


def files_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_plan_is_what_the_manifests_say_and_changes_nothing(folder):
    before = files_in(folder)
    small, large = plan_push(folder / "first", "org/first")
    assert (small.name, large.name) == (B, A)
    assert (large.models, large.rows, large.licence, large.citations) == (9, 27, "cc-by-4.0", ("schurholt2022model",))
    sent = [path for path in (folder / "first").rglob("*.parquet") if A in path.as_posix()]
    assert (large.files, large.bytes) == (len(sent), sum(path.stat().st_size for path in sent))
    assert large.problems == ()
    assert [zoo.name for zoo in plan_push(folder / "first", "org/first", [A])] == [A]
    with pytest.raises(UnknownNameError, match="did you mean digits_cnn_s"):
        plan_push(folder / "first", "org/first", ["digits_cnn"])
    assert files_in(folder) == before


def test_all_repositories_of_a_folder_are_planned(folder):
    assert repositories_in(folder) == [folder / "first", folder / "second"]
    assert repositories_in(folder / "first") == [folder / "first"]
    with pytest.raises(RepositoryError, match="holds no dataset repository"):
        repositories_in(folder / "no repository")
    done = CliRunner().invoke(app, ["push", str(folder), "org", "--all", "--dry-run"])
    assert done.exit_code == 0, done.output
    for text in (
        "org/first",
        "org/second",
        A,
        B,
        "cc-by-4.0",
        "schurholt2022model",
        "3 zoos, 43 rows",
        "nothing was sent",
    ):
        assert text in done.output
    assert done.output.index("org/first") < done.output.index("org/second")


def test_what_is_to_be_mended_is_named_before_anything_is_sent(folder, monkeypatch):
    shard = next((folder / "second" / B).glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1])
    shutil.rmtree(folder / "second" / f"{B}-meta")
    done = CliRunner().invoke(app, ["push", str(folder / "second"), "org/name", "--dry-run"])
    assert done.exit_code == 1
    assert f"to mend: {B}: {B}/{shard.name} has" in done.output
    assert "is missing: build mnist_cnn_s again" in done.output
    manifest = read_manifest(folder / "first", A)
    unknown = dataclasses.replace(manifest, source={**manifest.source, "credit": Credit().to_dict()})
    monkeypatch.setattr(plan, "read_manifest", lambda repo, name: unknown)
    (found,) = plan_push(folder / "first", "org/first", [A])
    assert (found.licence, found.citations) == ("unknown", ())
    assert "state it with `zoo build --license`" in found.warnings[0]


@pytest.mark.parametrize("arguments", [["org/name", "--all"], ["org"]])
def test_the_target_is_an_organisation_or_a_dataset(folder, arguments):
    done = CliRunner().invoke(app, ["push", str(folder), *arguments, "--dry-run"])
    assert done.exit_code == 2
    assert "expected ORG" in done.output
