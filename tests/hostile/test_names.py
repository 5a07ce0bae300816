"""Ids and other free text that becomes a part of a path: quoted, bounded, and never two of one name."""

import contextlib
import dataclasses
import itertools
import json
import string
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import make_run, tell_manifest
from typer.testing import CliRunner

import zoo_datasets as zd
from zoo_datasets.builders import open_source
from zoo_datasets.builders.build import build_from
from zoo_datasets.builders.sources.raw.export import raw_folder_name, trial_name
from zoo_datasets.cli.app import app
from zoo_datasets.errors import RepositoryError, SourceError, ZooError
from zoo_datasets.repository.where import conditions_in, parse_where
from zoo_datasets.specs import members as specs
from zoo_datasets.storage.names import NAME_LENGTH, distinct_names, file_name, hashed

NAME = "digits_cnn_s"
HOSTILE = (
    "../../x", "..\\..\\x", "/absolute", "C:\\x", "file:///x", ".", "..", "", ".hidden", "trailing.", "trailing ",
    "nul", "Com1.txt", "a/b", "a%2Fb", "aB", "Ab", "é 漢", "é" * 256, "x" * 512, "x" * 511 + "y", 'q"u\'o"te', "~",
    "-rf", "$(touch x)", "a*?[b]", "0123456789abcdef" * 2, "0123456789abcdef" + "0" * 16,
)  # fmt: skip
REFUSED = {
    "a\nb": "cannot be printed", "a\0b": "cannot be printed", "\x1b[2J": "cannot be printed",
    "\u202egpj.exe": "cannot be printed", "x" * 513: "513 bytes", "é" * 257: "514 bytes",
}  # fmt: skip
runner = CliRunner()


@contextlib.contextmanager
def ids_of_members(ids):
    """Recipes have these ids, in the order in which they are asked for, as if they hashed to them."""
    left, known, recipe = iter(ids), {}, specs.model_id_of

    def model_id(*of):
        key = recipe(*of)
        if key not in known:
            known[key] = next(left)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(specs, "model_id_of", model_id)
        yield


def hostile_repo(folder: Path, ids):
    """A repository built of a run whose members have these ids."""
    with ids_of_members(ids):
        make_run(folder / "run", ((len(ids), 2),))
        zd.build_repository(folder / "run", folder / "repo")
    return folder / "repo"


def rewrite(repo, column, value):
    """Give all rows one value of a column."""
    for shard in (repo / NAME).glob("*.parquet"):
        table = pq.read_table(shard)
        place = table.schema.get_field_index(column)
        pq.write_table(table.set_column(place, table.schema.field(place), [[value] * table.num_rows]), shard)
    tell_manifest(repo, NAME)


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    return hostile_repo(tmp_path_factory.mktemp("hostile"), HOSTILE)


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def zoo(*arguments):
    """The exit code and the output of a command that must not end in a traceback."""
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, (ZooError, SystemExit)), result.exception
    message = str(result.exception) if isinstance(result.exception, ZooError) else ""
    return result.exit_code, result.output + message


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def is_portable(name):
    good = set(string.ascii_letters + string.digits + "-_.%")
    return 0 < len(name) <= NAME_LENGTH and set(name) <= good and name[0] != "." and name[-1] != "."


@settings(deadline=None, max_examples=50)
@given(st.text(), st.text())
def test_names_are_portable_and_those_of_two_texts_differ(one, other):
    assert is_portable(file_name(one))
    assert is_portable(file_name(one * 50))
    assert len(file_name(one, 40)) <= 40
    assert (file_name(one) == file_name(other)) == (one == other)
    assert (file_name(one, 40) == file_name(other, 40)) == (one == other)


@pytest.mark.parametrize("name", ["0123456789abcdef" * 2, "model-1_A.b", "x" * NAME_LENGTH, "console", "Z"])
def test_plain_ids_stay_as_they_are(name):
    assert file_name(name) == name


def test_no_two_names_are_the_same_where_case_does_not_count():
    names = distinct_names({text: file_name(text) for text in HOSTILE}, NAME_LENGTH)
    assert all(map(is_portable, names.values()))
    assert len({name.lower() for name in names.values()}) == len(HOSTILE)
    assert {text for text in HOSTILE if names[text] != file_name(text)} == {"aB", "Ab"}
    assert names["aB"] == hashed("aB", NAME_LENGTH)
    assert {file_name(name) for name in ("CON", "con.txt", "lpt9")} == {"%43ON", "%63on.txt", "%6Cpt9"}


def test_models_of_any_ids_are_exported_into_the_folder_and_come_back(repo, tmp_path):
    out = tmp_path / "deep" / "er" / "out"
    code, output = zoo("export", repo, NAME, "--out", out)
    assert code == 0, output
    files = files_in(out)
    assert len(files) == 3 * len(HOSTILE)
    assert {file.count("/") for file in files} == {0}
    assert files_in(tmp_path / "deep") == {f"er/out/{file}" for file in files}
    rows = [zd.load_exported(out / file) for file in sorted(files)]
    assert {(row["model_id"], row["epoch"]) for row in rows} == {
        (name, epoch) for name in HOSTILE for epoch in range(3)
    }


@pytest.mark.parametrize("kind", ["repo", "run"])
def test_raw_zoos_of_any_ids_stay_in_their_folder_and_are_built_again(repo, tmp_path, kind):
    out = ["--out", tmp_path / "deep" / "raw", "--format", "raw"]
    with ids_of_members(HOSTILE):
        code, output = zoo("export", *([repo, NAME] if kind == "repo" else [repo.parent / "run"]), *out)
    assert code == 0, output
    (folder,) = (tmp_path / "deep" / "raw").iterdir()
    trials = [path for path in folder.iterdir() if path.is_dir()]
    assert len(trials) == len({path.name.lower() for path in trials}) == len(HOSTILE)
    assert max(len(path.name) for path in trials) <= 255
    assert files_in(tmp_path / "deep") == {f"raw/{folder.name}/{file}" for file in files_in(folder)}
    params = [json.loads((path / "params.json").read_text()) for path in trials]
    assert sorted(each["zoo_datasets::model_id"] for each in params) == sorted(HOSTILE)
    code, output = zoo("build", folder, "--out", tmp_path / "again")
    assert code == 0, output
    assert f"{len(HOSTILE)} models, epochs 0–2, {3 * len(HOSTILE)} rows" in output


def test_models_that_would_share_a_folder_each_get_their_own(tmp_path):
    alike = [f"{'0' * 16}{number:016x}" for number in range(4)]
    repo = hostile_repo(tmp_path, alike)
    rewrite(repo, "seed", 7)
    code, output = zoo("export", repo, NAME, "--out", tmp_path / "raw", "--format", "raw")
    assert code == 0, output
    found = [json.loads(file.read_text()) for file in (tmp_path / "raw").glob("*/*/params.json")]
    assert sorted(params["zoo_datasets::model_id"] for params in found) == alike


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_names_a_zoo_or_a_hyperparameter_is_one_part_of_a_path(text):
    row = {
        "activation": text,
        "init": text,
        "dropout": 0.0,
        "optimizer": text,
        "lr": 1e-4,
        "weight_decay": 0.0,
        "seed": 1,
    }
    for name in (trial_name(text, row), raw_folder_name(text, text, "cnn_s")):
        assert "/" not in name
        assert "\\" not in name
        assert name.isascii()
        assert 0 < len(name) <= 250


@pytest.mark.parametrize("form", ["safetensors", "raw"])
def test_ids_that_cannot_be_shown_are_refused_when_exported(tmp_path, form):
    repo = hostile_repo(tmp_path, ["plain"])
    rewrite(repo, "model_id", "a\x1b[2J\nb")
    code, output = zoo("export", repo, NAME, "--out", tmp_path / "out", "--format", form)
    assert code == 1
    assert "cannot be printed" in output
    assert output.isprintable()
    assert not (tmp_path / "out").exists()


class Renamed:
    """A source whose models have another id."""

    def __init__(self, source, model_id):
        self.source, self.model_id = source, model_id

    def __getattr__(self, name):
        return getattr(self.source, name)

    def blocks(self):
        return [
            dataclasses.replace(
                block, models=tuple(dataclasses.replace(model, model_id=self.model_id) for model in block.models)
            )
            for block in self.source.blocks()
        ]


@pytest.mark.parametrize("model_id", [*REFUSED, "a\ud800"])
def test_ids_that_cannot_be_shown_are_refused_when_built(tmp_path, model_id):
    make_run(tmp_path / "run", ((1, 0),))
    source = Renamed(open_source(tmp_path / "run"), model_id)
    with pytest.raises(SourceError, match=REFUSED.get(model_id, "cannot be printed")) as refused:
        build_from(source, tmp_path / "repo")
    assert str(refused.value).isprintable()
    assert not (tmp_path / "repo").exists()


def test_a_report_shows_models_of_any_ids(repo, tmp_path):
    code, output = zoo("report", repo, NAME, "--out", tmp_path / "out" / "report.html")
    assert code == 0, output
    assert files_in(tmp_path / "out") == {"report.html"}
    assert "straightness" in (tmp_path / "out" / "report.html").read_text()  # trajectories are asked for by id


def test_conditions_hold_texts_of_any_kind_and_length():
    conditions = [parse_where(text) for text in conditions_in("model_id", HOSTILE)]
    assert len(conditions) == 1
    conditions = [parse_where(text) for text in conditions_in("model_id", [f"{n:0512}" for n in range(20)])]
    assert len(conditions) == 3
    ids = pa.table({"model_id": [f"{n:0512}" for n in range(20)]})
    parts = [ids.filter(one.expression())["model_id"].to_pylist() for one in conditions]
    assert sorted(itertools.chain.from_iterable(parts)) == ids["model_id"].to_pylist()
    assert conditions_in("model_id", []) == []


@pytest.mark.parametrize("name", ["../x", "/x", "..", ".x", "a/b", "a\\b", "x" * 129, "", "a\0b"])
def test_a_config_is_no_path(repo, tmp_path, name):
    before = files_in(tmp_path)
    with ids_of_members(HOSTILE), pytest.raises(RepositoryError, match="config name"):
        build_from(open_source(repo.parent / "run"), tmp_path / "deep" / "repo", name or ".")
    assert files_in(tmp_path) == before
    for command in ("verify", "info"):
        code, _ = zoo(command, repo, name, *(["--files-only"] if command == "verify" else []))
        assert code == 1
