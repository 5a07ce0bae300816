"""Rows of a config as a config of their own, and a config under another name."""

import contextlib
import json
import warnings

import pytest
import torch
from hub_client import Client
from hub_server import serving
from state_folders import mlp, rows_of, same
from tiny_runs import make_run
from typer.testing import CliRunner

import zoo_datasets as zd
from zoo_datasets.builders import RowChoice, build_repository, rename_zoo, select_rows
from zoo_datasets.cli.app import app
from zoo_datasets.errors import RepositoryError, SpecError, UnknownNameError
from zoo_datasets.repository.credit import Statements, credit_of
from zoo_datasets.repository.manifest import read_manifest


@pytest.fixture
def classic(tmp_path):
    make_run(tmp_path / "run", ((24, 3),), fingerprint="abc")
    build_repository(tmp_path / "run", tmp_path / "repo", "trained", statements=Statements(licence="mit"))
    return tmp_path / "repo"


@pytest.fixture
def opened(tmp_path):
    rows = [
        (mlp(10 * model + epoch, 3 + model % 2), {"model_id": f"m{model:02}", "epoch": epoch, "step": 100 * epoch,
                                                  "rank": model, "lr": 0.1, "test_acc": model / 20, "train_acc": 1.0})
        for model in range(20) for epoch in range(3)
    ]  # fmt: skip
    zd.write_rows(tmp_path / "repo", "mlps", rows)
    return tmp_path / "repo"


def table(repo, name):
    with warnings.catch_warnings(action="ignore"):
        splits = zd.load_zoo(repo, name)
    return {
        (row["model_id"], row["epoch"], row.get("step")): row | {"split": split}
        for split, rows in splits.items()
        for row in rows
    }


def test_a_selection_of_trained_models_is_one_of_them_still(classic, tmp_path):
    before = table(classic, "trained")
    result = select_rows(classic, "trained", tmp_path / "other", RowChoice(epochs=[1, 3], where="test_acc > 0.4"))
    rows = table(tmp_path / "other", "trained")
    assert rows == {key: row for key, row in before.items() if key[1] in (1, 3) and row["test_acc"] > 0.4}
    assert 0 < len(rows) == result.rows < 48
    one = next(iter(rows.values()))
    assert torch.equal(
        torch.cat([p.flatten() for p in zd.to_module(one).state_dict().values()]), torch.tensor(one["weights"])
    )
    original, manifest = read_manifest(classic, "trained"), read_manifest(tmp_path / "other", "trained")
    assert manifest.schema.equals(original.schema, check_metadata=True)
    assert (manifest.network, manifest.layout, manifest.zoo) == (original.network, original.layout, original.zoo)
    assert credit_of(manifest.source).licence == "mit"
    assert manifest.source["images"] == original.source["images"]
    assert manifest.source["kind"] == "selection"
    assert manifest.source["selection"] == {"epochs": [1, 3], "where": "test_acc > 0.4"}
    assert manifest.source["of"]["config"] == "trained"
    assert manifest.source["of"]["states"] == {"found": 96, "written": 96, "left_out": 0}
    assert manifest.states.found == manifest.states.written == len(rows)
    verification = zd.verify_repository(tmp_path / "other", "trained")
    assert verification.ok, verification.differences


def test_columns_that_are_not_selected_are_null(classic, tmp_path):
    select_rows(classic, "trained", classic, RowChoice(columns=["lr", "test_acc"]), new_name="few")
    before, rows = table(classic, "trained"), table(classic, "few")
    assert rows.keys() == before.keys()
    for key, row in rows.items():
        assert (row["lr"], row["test_acc"], row["weights"]) == tuple(
            before[key][name] for name in ("lr", "test_acc", "weights")
        )
        assert row["seed"] is row["optimizer"] is row["train_acc"] is row["ggap"] is None
    zd.to_module(next(iter(rows.values())))
    assert read_manifest(classic, "few").unknown[:2] == ("seed", "init")
    assert not zd.verify_repository(classic, "few").differences


def test_a_selection_of_open_rows_keeps_layouts_and_further_columns(opened, tmp_path):
    select_rows(opened, "mlps", tmp_path / "other", RowChoice(steps=[200], where="rank in (2, 4)"), new_name="even")
    before, rows = rows_of(opened, "mlps"), rows_of(tmp_path / "other", "even")
    assert [(row["model_id"], row["step"], row["rank"]) for row in rows] == [("m02", 200, 2), ("m04", 200, 4)]
    by_key = {(row["model_id"], row["epoch"]): row for row in before}
    assert all(same(row["state"], by_key[row["model_id"], row["epoch"]]["state"]) for row in rows)
    manifest = read_manifest(tmp_path / "other", "even")
    assert manifest.open.size == mlp_size(3)  # one layout is left
    assert {row["zoo"] for row in rows} == {"even"}
    select_rows(opened, "mlps", opened, RowChoice(columns=["rank"]), new_name="ranked")
    assert all(row["lr"] is None and row["rank"] is not None for row in rows_of(opened, "ranked"))
    select_rows(opened, "mlps", opened, RowChoice(columns=["lr"]), new_name="rates")
    assert "rank" not in rows_of(opened, "rates")[0]
    again = select_rows(opened, "ranked", opened, RowChoice(epochs=[1]), new_name="one")
    assert again.rows == 20
    source = read_manifest(opened, "one").source
    assert (source["of"]["kind"], source["of"]["selection"]) == ("rows", {"columns": ["rank"]})


def mlp_size(hidden):
    return sum(tensor.numel() for tensor in mlp(0, hidden).values())


def test_what_cannot_be_selected_is_said_and_nothing_is_written(opened, tmp_path):
    out = tmp_path / "other"
    for choice, error in (
        (RowChoice(epochs=[7]), SpecError),
        (RowChoice(steps=[7]), SpecError),
        (RowChoice(where="rank > 100"), SpecError),
        (RowChoice(where="rankk > 1"), UnknownNameError),
        (RowChoice(columns=["rankk"]), UnknownNameError),
    ):
        with pytest.raises(error):
            select_rows(opened, "mlps", out, choice)
    with pytest.raises(UnknownNameError):
        select_rows(opened, "mlp", out, RowChoice())
    with pytest.raises(RepositoryError, match="another --name"):
        select_rows(opened, "mlps", opened, RowChoice(epochs=[1]))
    assert not out.exists()
    select_rows(opened, "mlps", out, RowChoice(where="rank > 3"))
    with pytest.raises(RepositoryError, match="--replace"):
        select_rows(opened, "mlps", out, RowChoice(where="rank > 4"))
    select_rows(opened, "mlps", out, RowChoice(where="rank > 4"), replace=True)
    shard = next((opened / "mlps").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-50] + bytes(50))
    with pytest.raises(RepositoryError, match="damaged"):
        select_rows(opened, "mlps", tmp_path / "third", RowChoice())


def test_left_out_states_stay_counted_where_they_were(tmp_path):
    run = make_run(tmp_path / "run", ((8, 2),))
    lost = run.members[3].model_id
    make_run(tmp_path / "bad", ((8, 2),), nan=[lost])
    build_repository(tmp_path / "bad", tmp_path / "repo", "trained")
    select_rows(tmp_path / "repo", "trained", tmp_path / "repo", RowChoice(epochs=[0, 1]), new_name="early")
    manifest = read_manifest(tmp_path / "repo", "early")
    origin = read_manifest(tmp_path / "repo", "trained")
    assert origin.states.left_out > 0
    assert manifest.states.left_out == 0
    assert manifest.source["of"]["states"]["left_out"] == origin.states.left_out
    build_repository(tmp_path / "bad", tmp_path / "repo", "all", keep_nonfinite=True)
    assert select_rows(tmp_path / "repo", "all", tmp_path / "repo", RowChoice(epochs=[1]), new_name="one").rows == 8


def test_a_zoo_gets_another_name(classic, tmp_path):
    before, manifest = table(classic, "trained"), read_manifest(classic, "trained")
    files = {path.relative_to(classic) for path in classic.rglob("*")}
    assert rename_zoo(classic, "trained", "better", dry_run=True).files
    assert {path.relative_to(classic) for path in classic.rglob("*")} == files
    invoked = CliRunner().invoke(app, ["rename", str(classic), "trained", "better"])
    assert invoked.exit_code == 0, invoked.output
    after = table(classic, "better")
    assert {key: row | {"zoo": "trained"} for key, row in after.items()} == before
    renamed = read_manifest(classic, "better")
    for name in ("source_id", "source", "zoo", "models", "states", "left_out", "keep_nonfinite"):
        assert getattr(renamed, name) == getattr(manifest, name), name
    assert not (classic / "trained").exists()
    assert not (classic / "_meta" / "trained").exists()
    build_repository(tmp_path / "run", classic, "better")  # what it was built of may still grow
    build_repository(tmp_path / "run", classic, "other")
    select_rows(classic, "other", classic, RowChoice(epochs=[0]), new_name="third")
    with pytest.raises(RepositoryError, match="already"):
        rename_zoo(classic, "better", "third")


def test_select_says_what_it_wrote(opened, tmp_path):
    arguments = ["select", opened, "mlps", "--out", tmp_path / "other", "--name", "some", "--epochs", "1-2", "--where",
                 "rank >= 10", "--columns", "rank, lr"]  # fmt: skip
    invoked = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert invoked.exit_code == 0, invoked.output
    assert "10 models, epochs 1–2, 20 rows" in invoked.output
    document = json.loads((tmp_path / "other" / "_meta" / "some" / "manifest.json").read_text())
    assert document["source"]["selection"] == {"epochs": [1, 2], "where": "rank >= 10", "columns": ["lr", "rank"]}


def test_a_selection_from_the_hub_is_that_of_the_folder(opened, tmp_path):
    with serving() as hub, contextlib.closing(Client(hub.url, tmp_path / "home")) as client:
        client.zoo("push", opened, "somebody/zoos")
        selected = ("mlps", "--epochs", "1", "--where", "rank < 9", "--name", "few", "--out")
        client.zoo("select", "somebody/zoos", *selected, tmp_path / "afar")
        client.zoo("select", opened, *selected, tmp_path / "near")
    names = [sorted(path.name for path in (tmp_path / folder / "few").glob("*.parquet")) for folder in ("afar", "near")]
    assert names[0] == names[1] != []
