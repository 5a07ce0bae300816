"""Manifests, runs and lists of members from strangers: what they claim is in range, or they are refused."""

import copy
import json
import os
import random

import pytest
from tiny_runs import make_run
from typer.testing import CliRunner

from zoo_datasets.builders import build_repository
from zoo_datasets.builders.shards.journal import _parse
from zoo_datasets.cli.app import app
from zoo_datasets.errors import LayoutError, RepositoryError, RunError, SourceError, ZooError
from zoo_datasets.evaluation.benchmark.record import read_record
from zoo_datasets.evaluation.verify.verify import verify_repository
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.repository.manifest import Manifest, read_manifest
from zoo_datasets.runs.manifest import Growth, RunManifest
from zoo_datasets.runs.run import Run

ODD = (
    None, True, -1, 10**18, 10**400, 1.5, 1e300, float("nan"), float("inf"), "x", "", "\ud800", "\x00", [], [-1],
    [0, 10**18], {}, {"x": [[[]]]}, "x" * 100_000,
)  # fmt: skip
DEEP = "[" * 200_000 + "]" * 200_000


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifests")
    make_run(folder / "run", ((4, 1),))
    build_repository(folder / "run", folder / "repo", "z")
    return folder / "repo"


@pytest.fixture
def written(repo):
    """Writes the manifest, a value or a text; the good one comes back afterwards."""
    file = repo / "_meta" / "z" / "manifest.json"
    good = file.read_bytes()

    def write(value):
        file.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())

    yield write
    file.write_bytes(good)


def places(value, at=()):
    """The path of each value in a document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inside:
        yield (*at, key)
        yield from places(child, (*at, key))


def changed(value, place, new):
    value = copy.deepcopy(value)
    target = value
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = new
    return value


@pytest.mark.parametrize(
    ("place", "new", "message"),
    [
        (("shards", 0, "epochs"), [0, 10**18], r"shards\.0\.epochs\.1: .*1000000, found 1000000000000000000"),
        (("shards", 0, "rows"), -1, r"shards\.0\.rows: .*found -1"),
        (("shards", 0, "bytes"), "x", r"shards\.0\.bytes: .*found 'x'"),
        (("shards", 0, "models"), 1.5, r"shards\.0\.models"),
        (("counts", "states", "written"), 10**16, r"counts\.states\.written"),
        (("left_out",), [{"model": "a", "epochs": [10**18], "reason": "r"}], r"left_out\.0\.epochs\.0"),
        (("in_channels",), 0, r"in_channels: .*found 0"),
        (("classes",), 10**18, r"classes: .*found 1000000000000000000"),
        (("layout",), [["a", [10**15], "float32", "parameter", 0]], r"layout entry .*the shape at most"),
        (("layout",), [["a", [-5], "float32", "parameter", 0]], r"layout entry"),
        (
            ("layout",),
            [["a", [2**30, 2**30], "float32", "parameter", 0]],
            r"layout of 1,152,921,504,.* weights",
        ),
        (("zoo",), {"images": ["x"]}, r"zoo\.images: .*found \['x'\]"),
        (("zoo",), {"seeds": -1}, r"zoo\.seeds"),
        (("source",), {"limits": {"train": "x"}}, r"source\.limits\.train"),
        (("source",), {"limits": {"train": 0}}, r"source\.limits\.train"),
        (("format",), [[[[]]]], r"format .* found"),
        (("shards", 0, "rows"), 10**30, "a whole number of 31 digits, at most 64 bits"),
    ],
)
def test_a_manifest_out_of_range_names_the_place(repo, written, place, new, message):
    written(changed(json.loads((repo / "_meta" / "z" / "manifest.json").read_bytes()), place, new))
    with pytest.raises(RepositoryError, match=message) as caught:
        read_manifest(repo, "z")
    assert "manifest.json" in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert CliRunner().invoke(app, ["info", str(repo), "z"]).exit_code == 1
    assert not verify_repository(repo, "z").ok


@pytest.mark.parametrize("text", [DEEP.encode(), b"\xff\xfe{}", b"", b'{"a": ' + b"9" * 5000 + b"}", b"[1]", b"null"])
def test_a_manifest_that_is_no_document_says_so(repo, written, text):
    written(text)
    with pytest.raises(RepositoryError, match=r"manifest\.json"):
        read_manifest(repo, "z")


def test_a_manifest_that_is_a_pipe_is_refused(repo, written):
    file = repo / "_meta" / "z" / "manifest.json"
    file.unlink()
    os.mkfifo(file)
    try:
        with pytest.raises(RepositoryError, match="neither a file nor a folder"):
            read_manifest(repo, "z")
    finally:
        file.unlink()


def test_mutated_manifests_are_described_or_refused(repo):
    good = json.loads((repo / "_meta" / "z" / "manifest.json").read_bytes())
    where, generator = list(places(good)), random.Random(4)
    refused = []
    for _ in range(500):
        value = changed(good, generator.choice(where), generator.choice(ODD))
        try:
            manifest = Manifest.from_dict(value, "manifest.json")
        except ZooError as error:
            refused.append(str(error))
        else:
            assert sum(manifest.splits.values()) >= 0
            assert max(manifest.epochs, default=0) <= 1_000_000
    assert len(refused) > 300
    assert max(map(len, refused)) < 2000


def test_mutated_runs_are_read_or_refused(tmp_path):
    make_run(tmp_path / "run", ((4, 1),))
    file = tmp_path / "run" / "zoo.json"
    good = json.loads(file.read_bytes())
    where, generator = list(places(good)), random.Random(5)
    refused = []
    for _ in range(150):
        file.write_text(json.dumps(changed(good, generator.choice(where), generator.choice(ODD))))
        try:
            run = Run.open(tmp_path / "run")
            assert 0 <= run.models <= 1000
            assert run.epochs <= 1_000_000
        except ZooError as error:
            refused.append(str(error))
    assert len(refused) > 75
    assert all("zoo.json" in message for message in refused)


@pytest.mark.parametrize(
    ("place", "new", "message"),
    [
        (("growth", 0, "epochs"), 10**18, r"growth\.0\.epochs"),
        (("growth", 0, "models"), 10**18, r"growth\.0\.models"),
        (("growth", 0, "models"), 1001, "1,001 members of a zoo of 1,000"),
        (("growth",), [], "growth"),
        (("growth",), [{"models": "x", "epochs": None}], r"growth\.0\.models"),
        (("zoo", "epochs"), 10**18, "epochs: expected at most 1,000,000"),
        (("images", "classes"), 10**12, r"images\.classes"),
        (("limits", "train"), -1, "limit on train images"),
    ],
)  # fmt: skip
def test_a_run_out_of_range_names_the_place(tmp_path, place, new, message):
    make_run(tmp_path / "run", ((4, 1),))
    file = tmp_path / "run" / "zoo.json"
    file.write_text(json.dumps(changed(json.loads(file.read_bytes()), place, new)))
    with pytest.raises(RunError, match=message):
        build_repository(tmp_path / "run", tmp_path / "repo")


def test_a_run_of_too_many_states_is_none():
    with pytest.raises(RunError, match="at most 20,000,000 states"):
        Growth(models=1000, epochs=1_000_000)
    with pytest.raises(RunError, match="zoo.json"):
        RunManifest.from_dict([], "zoo.json")


@pytest.mark.parametrize(
    "text", [DEEP, "{}", "[1]", '[{"model_id": "a"}]', "9" * 5000, '[{"model_id": [], "seed": 1e400}]']
)
def test_members_that_are_none_are_refused(tmp_path, text):
    run = make_run(tmp_path / "run", ((4, 1),))
    (run.cohort(0).path / "members.json").write_text(text)
    with pytest.raises(SourceError, match=r"members\.json"):
        build_repository(tmp_path / "run", tmp_path / "repo")


@pytest.mark.parametrize(
    "change", [{"seed": 2**63}, {"seed": -1}, {"lr": "x"}, {"lr": float("nan")}, {"batch_size": 10**12}]
)
def test_members_out_of_range_are_refused(tmp_path, change):
    run = make_run(tmp_path / "run", ((4, 1),))
    file = run.cohort(0).path / "members.json"
    members = json.loads(file.read_bytes())
    for key, value in change.items():
        (members[0] if key == "seed" else members[0]["hyperparameters"])[key] = value
    file.write_text(json.dumps(members))
    with pytest.raises(SourceError, match=r"members\.json"):
        build_repository(tmp_path / "run", tmp_path / "repo")


@pytest.mark.parametrize(
    "text", [DEEP, "[]", '{"format": 1, "settings": [], "rows": [], "left_out": 1e400}', "9" * 5000]
)
def test_records_of_benchmarks_are_bounded(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(RepositoryError, match=r"record\.json is no benchmark's file"):
        read_record(tmp_path / "record.json")


@pytest.mark.parametrize(
    "text", [DEEP, "[]", '[["a", [1e400], "float32", "parameter", 0]]', '[["a", [5], "nn", "x", 0]]']
)
def test_layouts_are_bounded(text):
    with pytest.raises(LayoutError):
        WeightLayout.from_json(text)


@pytest.mark.parametrize("line", [DEEP, '{"part": 1e400, "outcome": {}}', '{"part": ' + "9" * 5000 + "}", "[]", ""])
def test_lines_of_a_journal_that_are_none_are_skipped(line):
    assert _parse(line.encode()) is None
