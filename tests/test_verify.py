"""Verification: a sound repository passes, and each kind of fault is listed."""

import dataclasses
import json
import re
import shutil

import numpy as np
import plain
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_runs import make_run, weights_of, write_epoch
from torch.nn import functional

from zoo_datasets.builders import build_repository
from zoo_datasets.errors import RepositoryError, UnknownNameError
from zoo_datasets.evaluation.verify.verify import verify_repository
from zoo_datasets.networks.architectures import layout_of
from zoo_datasets.networks.module import build_module
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.repository.row import SPLITS
from zoo_datasets.specs.members import Limits, members_of
from zoo_datasets.specs.zoos import get_zoo
from zoo_datasets.storage.files import sha256_of
from zoo_datasets.training import train_zoo

NAME = "mnist_cnn_s_hyp_rand"
ZOO = get_zoo(NAME)
LIMITS = Limits(test=13)
MODELS = 24


def reference_figures(members, epoch, data):
    """Loss and accuracy as an ordinary module gives them, one member at a time."""
    layout = layout_of("cnn_s", 1, 10)
    splits = {"val": data.val, "test": data.test} | ({"train": data.train} if epoch == 0 else {})
    figures = {f"{split}_{what}": [] for split in splits for what in ("loss", "acc")}
    for member in members:
        module = build_module("cnn_s", 1, 10, member.hyperparameters.activation).eval()
        module.load_state_dict(layout.unflatten(weights_of(member, epoch, layout.size)))
        for name, split in splits.items():
            with torch.no_grad():
                logits = module(data.normalise(split.images))
            figures[f"{name}_loss"].append(functional.cross_entropy(logits, split.labels).item())
            figures[f"{name}_acc"].append((logits.argmax(1) == split.labels).float().mean().item())
    return {name: torch.tensor(values) for name, values in figures.items()}


@pytest.fixture(scope="module")
def data():
    return plain.tiny_images()


@pytest.fixture(scope="module")
def sound(tmp_path_factory, data):
    """A repository whose figures are those of its weights: 24 models × epochs 0 to 2."""
    folder = tmp_path_factory.mktemp("verify")
    run = make_run(folder / "run", ((MODELS, 2),), zoo=ZOO, limits=LIMITS, fingerprint=data.fingerprint, cohort_size=5)
    for cohort in run.cohorts():
        for epoch in range(3):
            write_epoch(cohort, epoch, reference_figures(cohort.members, epoch, data.limited(LIMITS)))
    build_repository(folder / "run", folder / "repo")
    return folder / "repo"


@pytest.fixture
def repo(sound, tmp_path):
    """A copy to damage."""
    return shutil.copytree(sound, tmp_path / "repo")


def messages(verification, check):
    return [difference.message for difference in verification.differences if difference.check == check]


def shard_of(repo, split="train"):
    return next(shard for shard in read_manifest(repo, NAME).shards if shard.split == split)


def rewrite(repo, shard, change, row_groups=None):
    """Replace a shard's rows and sign the result, as someone would who wants to hide it."""
    file = repo / shard.path
    original = pq.ParquetFile(file)
    groups = [change(original.read_row_group(index), index) for index in range(original.num_row_groups)]
    if row_groups is not None:
        groups = row_groups(groups)
    renamed = file.with_name("new.parquet")
    with pq.ParquetWriter(renamed, groups[0].schema) as writer:
        for group in groups:
            writer.write_table(group.combine_chunks(), row_group_size=10**6)
    digest = sha256_of(renamed)
    target = file.with_name(f"{shard.split}-{digest[:16]}.parquet")
    renamed.rename(target)
    if target != file:
        file.unlink()
    manifest_file = repo / "_meta" / NAME / "manifest.json"
    value = json.loads(manifest_file.read_text())
    for entry in value["shards"]:
        if entry["path"] == shard.path:
            entry |= {"path": f"{NAME}/{target.name}", "sha256": digest, "bytes": target.stat().st_size}
    manifest_file.write_text(json.dumps(value))
    card = repo / "README.md"
    card.write_text(card.read_text().replace(file.name, target.name))


def with_column(table, name, values):
    index = table.schema.get_field_index(name)
    array = pa.array(values, table.schema.field(name).type)
    return table.set_column(index, table.schema.field(name), array)


def set_value(name, row, value, group=1):
    """A change of one value in one row group."""

    def change(table, index):
        if index != group:
            return table
        values = table[name].to_pylist()
        values[row] = value
        return with_column(table, name, values)

    return change


def test_a_sound_repository_passes(sound, data):
    seen = []
    found = verify_repository(sound, NAME, images=data, sample=100, progress=lambda *done: seen.append(done))
    assert found.differences == ()
    assert found.ok
    assert all(check.passed for check in found.checks)
    assert (found.rows, found.recomputed) == (MODELS * 3, MODELS * 3)
    assert [check.name for check in found.checks] == [
        "card", "manifest", "checksums", "schema", "rows", "weights", "splits", "duplicates", "recipes", "start",
        "continuity", "images", "figures",
    ]  # fmt: skip
    assert seen[-1] == (len(read_manifest(sound, NAME).shards),) * 2


def test_without_images_nothing_is_recomputed(sound):
    found = verify_repository(sound, NAME)
    assert found.ok
    assert found.recomputed == 0
    assert "figures" not in [check.name for check in found.checks]


def test_the_sample_is_spread_over_epochs(sound, data, monkeypatch):
    from zoo_datasets.evaluation.verify import verify

    chosen = []
    original = verify._check_figures

    def watched(repo, sample, *rest):
        chosen.extend(sample)
        return original(repo, sample, *rest)

    monkeypatch.setattr(verify, "_check_figures", watched)
    assert verify_repository(sound, NAME, images=data, sample=9).recomputed == 9
    assert sorted(row.epoch for row in chosen) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len({row.model_id for row in chosen}) > 4


def test_a_flipped_bit_breaks_the_checksum(repo):
    shard = shard_of(repo)
    data = bytearray((repo / shard.path).read_bytes())
    data[len(data) // 2] ^= 1
    (repo / shard.path).write_bytes(data)
    found = verify_repository(repo, NAME)
    assert not found.ok
    assert f"{shard.path}: its content hashes to" in messages(found, "checksums")[0]
    assert not next(check for check in found.checks if check.name == "checksums").passed


def test_a_changed_weight_is_found_though_signed_anew(repo, data):
    def change(table, index):
        if index != 1:
            return table
        column = table["weights"].combine_chunks()
        values = np.array(column.flatten()).reshape(len(column), -1)
        values[0, -1] += 1  # the bias of the last class
        array = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=column.type)
        return table.set_column(table.num_columns - 1, table.schema.field("weights"), array)

    rewrite(repo, shard_of(repo), change)
    assert verify_repository(repo, NAME).ok
    found = verify_repository(repo, NAME, images=data, sample=100)
    assert any("at epoch 1: test_loss is" in message for message in messages(found, "figures"))
    assert {difference.check for difference in found.differences} == {"figures"}


@pytest.mark.parametrize(("column", "change"), [("val_acc", 2 / 20), ("test_loss", 3e-4)])
def test_a_changed_figure_is_found(repo, data, column, change):
    shard = shard_of(repo)
    value = pq.ParquetFile(repo / shard.path).read_row_group(1)[column][0].as_py()
    changed = value + change * (max(1, value) if column == "test_loss" else 1 if value < 0.5 else -1)
    rewrite(repo, shard, set_value(column, 0, changed))
    found = verify_repository(repo, NAME, images=data, sample=100)
    (message,) = messages(found, "figures")
    told = re.search(rf"{column} is ([0-9.]+), recomputed ([0-9.]+)", message)
    # The kernels of this processor may round the loss otherwise than those that trained.
    assert [float(number) for number in told.groups()] == pytest.approx([changed, value], rel=2e-5)


def test_rounding_is_tolerated(repo, data):
    shard = shard_of(repo)
    loss = pq.ParquetFile(repo / shard.path).read_row_group(1)["val_loss"][0].as_py()
    rewrite(repo, shard, set_value("val_loss", 0, loss * (1 + 5e-5)))
    assert messages(verify_repository(repo, NAME, images=data, sample=100), "figures") == []


def test_one_image_is_tolerated(repo, data):
    shard = shard_of(repo)
    accuracy = pq.ParquetFile(repo / shard.path).read_row_group(1)["val_acc"][0].as_py()
    rewrite(repo, shard, set_value("val_acc", 0, accuracy + (-1 if accuracy > 0.5 else 1) / 20))
    assert messages(verify_repository(repo, NAME, images=data, sample=100), "figures") == []


def test_a_model_in_another_split_is_found(repo):
    shards = {shard.split: shard for shard in read_manifest(repo, NAME).shards}
    assert set(shards) == set(SPLITS)
    moved = pq.ParquetFile(repo / shards["test"].path).read_row_group(0)["model_id"][0].as_py()
    rewrite(repo, shards["train"], set_value("model_id", 0, moved, group=0))
    found = verify_repository(repo, NAME)
    assert any(f"model {moved} belongs to test, found in train" in message for message in messages(found, "splits"))
    assert any(f"model {moved} is in test and train" in message for message in messages(found, "splits"))
    assert any("more than once" in message for message in messages(found, "duplicates"))


def test_a_row_that_is_there_twice_is_found(repo):
    def change(table, index):
        return pa.concat_tables([table, table.slice(0, 1)]) if index == 0 else table

    rewrite(repo, shard_of(repo), change)
    found = verify_repository(repo, NAME)
    assert any("at epoch 0 stands there more than once" in message for message in messages(found, "duplicates"))
    assert any("rows" in message and "the manifest says" in message for message in messages(found, "rows"))


def test_row_groups_that_mix_epochs_are_found(repo):
    rewrite(repo, shard_of(repo), lambda table, _: table, lambda groups: [pa.concat_tables(groups[:2]), groups[2]])
    assert any(
        "row group 0 mixes epochs [0, 1]" in message for message in messages(verify_repository(repo, NAME), "rows")
    )


def test_weights_that_are_not_finite_are_found(repo):
    def change(table, index):
        column = table["weights"].combine_chunks()
        values = np.array(column.flatten()).reshape(len(column), -1)
        values[1, 7] = np.inf if index == 2 else values[1, 7]
        array = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=column.type)
        return table.set_column(table.num_columns - 1, table.schema.field("weights"), array)

    rewrite(repo, shard_of(repo), change)
    (message,) = messages(verify_repository(repo, NAME), "weights")
    assert "at epoch 2 are not finite" in message


def test_other_figures_that_cannot_be_are_found(repo):
    rewrite(repo, shard_of(repo), set_value("val_acc", 0, 1.5))
    assert any("val_acc reaches from" in message for message in messages(verify_repository(repo, NAME), "rows"))
    rewrite(repo, shard_of(repo), set_value("ggap", 0, 0.5))
    assert any("ggap is not" in message for message in messages(verify_repository(repo, NAME), "rows"))
    rewrite(repo, shard_of(repo), set_value("classes", 0, 11))
    assert any("classes is [11, 10]" in message for message in messages(verify_repository(repo, NAME), "rows"))


def test_files_that_cannot_be_read_are_differences(repo, data):
    shards = {shard.split: shard for shard in read_manifest(repo, NAME).shards}
    (repo / shards["test"].path).unlink()
    (repo / shards["validation"].path).write_bytes(b"PAR1 nothing of the kind PAR1")
    half = (repo / shards["train"].path).read_bytes()
    damaged = bytearray(half)
    damaged[1000:60_000] = b"\0" * 59_000
    (repo / shards["train"].path).write_bytes(damaged)
    found = verify_repository(repo, NAME, images=data)
    assert any("could not be read: No such file" in message for message in messages(found, "checksums"))
    for split in ("validation", "train"):
        assert any(f"{shards[split].path} could not be read" in message for message in messages(found, "rows"))


def test_another_layout_is_found(repo):
    file = repo / "_meta" / NAME / "manifest.json"
    value = json.loads(file.read_text())
    value["layout"][0][0] = "renamed.weight"
    file.write_text(json.dumps(value))
    found = verify_repository(repo, NAME)
    assert any("is not that of cnn_s" in message for message in messages(found, "manifest"))
    assert any("the layout that it carries is not the manifest's" in message for message in messages(found, "schema"))


def test_a_shard_of_other_columns_is_found(repo):
    rewrite(repo, shard_of(repo), lambda table, _: table.drop_columns(["lr"]))
    assert any("columns or types" in message for message in messages(verify_repository(repo, NAME), "schema"))


@pytest.mark.parametrize(
    ("change", "check", "text"),
    [
        (lambda value: value["counts"]["models"].update(found=99), "manifest", "models: 99 found, but 24 written"),
        (lambda value: value["counts"]["states"].update(found=73, written=73), "manifest", "73 states written"),
        (lambda value: value["counts"]["states"].update(found=73, left_out=1), "manifest", "1 states left out"),
        (lambda value: value.update(architecture="cnn_x"), "manifest", "no architecture named 'cnn_x'"),
        (lambda value: value["shards"].pop(0), "card", "stands in README.md but not manifest.json"),
        (lambda value: value["shards"][0].update(rows=1), "card", "says"),
        (lambda value: value["shards"][0].update(path="../outside.parquet"), "checksums", "expected a file in"),
        (lambda value: value["shards"][0].update(rows="many"), "manifest", "not a valid manifest"),
        (lambda value: value.pop("layout"), "manifest", "not a valid manifest"),
        (lambda value: value.update(format=7), "manifest", "format 7 found, this version reads 1"),
        (lambda value: value.update(config="other"), "manifest", "is that of config 'other'"),
    ],
)  # fmt: skip
def test_a_manifest_that_lies_is_found(repo, change, check, text):
    file = repo / "_meta" / NAME / "manifest.json"
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))
    found = verify_repository(repo, NAME)
    assert any(text in message for message in messages(found, check)), found.differences


def test_broken_or_missing_descriptions_are_differences(repo):
    file = repo / "_meta" / NAME / "manifest.json"
    text = file.read_text()
    file.write_text(text[:100])
    assert "is not valid JSON" in messages(verify_repository(repo, NAME), "manifest")[0]
    file.unlink()
    assert "manifest.json is missing" in messages(verify_repository(repo, NAME), "manifest")[0]
    file.write_text(text)
    (repo / "README.md").write_text("---\nconfigs: [\n---\n")
    assert "YAML block could not be read" in messages(verify_repository(repo, NAME), "card")[0]


def test_what_cannot_be_verified_is_an_error(repo, tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean mnist_cnn_s_hyp_rand"):
        verify_repository(repo, "mnist_cnn_s_hyp_ran")
    with pytest.raises(RepositoryError, match=r"there is no README.md"):
        verify_repository(tmp_path / "nowhere", NAME)


def test_other_images_are_told_and_nothing_is_recomputed(repo, data):
    other = dataclasses.replace(data, fingerprint="others")
    found = verify_repository(repo, NAME, images=other)
    (message,) = messages(found, "images")
    assert "not the images of the manifest: mnist with fingerprint others" in message
    assert found.recomputed == 0


def test_diverged_rows_that_were_kept_verify(tmp_path, data):
    members = members_of(ZOO, Limits(), 4)
    nan = torch.tensor([False, True, False, False])
    run = make_run(tmp_path / "run", ((4, 1),), zoo=ZOO, fingerprint=data.fingerprint)
    write_epoch(run.cohort(0), 0, reference_figures(members, 0, data))
    figures = reference_figures(members, 1, data)
    for split in (data.val, data.test):
        assert split.labels[0] == 0
    for name, values in figures.items():
        split = getattr(data, name.partition("_")[0])
        # A network of NaN answers class 0, the first of equals.
        values[nan] = float("nan") if name.endswith("loss") else (split.labels == 0).float().mean()
    write_epoch(run.cohort(0), 1, figures, nan=[members[1].model_id])
    build_repository(tmp_path / "run", tmp_path / "repo", keep_nonfinite=True)
    found = verify_repository(tmp_path / "repo", NAME, images=data)
    assert found.recomputed == 8
    assert found.ok, found.differences


@pytest.mark.parametrize("path", ["auto", "torch"])
@pytest.mark.parametrize("init", ["uniform", "normal"])
def test_large_gelu_weights_verify_whichever_path_trained_them(tmp_path, path, init):
    """Weights of thousands amplify the rounding of an activation's tail."""
    zoo = plain.tiny_zoo(activation=("gelu",), init=(init,), optimizer=("sgd",), lr=(1e-3,), seeds=16)
    data = plain.tiny_images(train=100, val=60, test=60)
    run = train_zoo(zoo, tmp_path / "run", data, path=path)
    build_repository(run.path, tmp_path / "repo")
    verification = verify_repository(tmp_path / "repo", zoo.name, images=data, sample=48)
    assert verification.differences == ()
    assert verification.recomputed == 48
