"""Twins as runs: what they begin with, how they resume and grow, and the rows that are built of them."""

import dataclasses
import json
import shutil
from functools import partial
from types import SimpleNamespace

import conditions
import plain
import pyarrow as pa
import pytest
import torch
from datasets import load_dataset
from typer.testing import CliRunner

from zoo_datasets.builders import build_repository
from zoo_datasets.builders.sources.base import Reading
from zoo_datasets.cli.app import app
from zoo_datasets.errors import RunError, SourceError, SpecError, UnknownNameError
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.networks.architectures import get_architecture
from zoo_datasets.networks.sparsity import layer_sparsity, masks, prunable, sparsity
from zoo_datasets.networks.variational import noise_bounds
from zoo_datasets.repository.row import split_of
from zoo_datasets.repository.where import parse_where
from zoo_datasets.runs.run import Run
from zoo_datasets.training import train_zoo
from zoo_datasets.training.launch import Launch
from zoo_datasets.training.population.opening import open_run
from zoo_datasets.training.population.parents import open_parents
from zoo_datasets.training.population.twins import difference_from_parents, twins_of_parents
from zoo_datasets.training.sparsifiers import kl_weight
from zoo_datasets.training.train import train_population

ZOO = plain.tiny_zoo(activation=("tanh", "sigmoid"), init=("kaiming_uniform",), lr=(3e-3,), seeds=3)
DATA = plain.tiny_images(train=30)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense") / "run"
    return train_zoo(ZOO, folder, DATA)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make_twins(source, out, *, models=None, where=None, config=None, data=DATA, observer=None, **options):
    parents = open_parents(source, config, models=models, where=where and parse_where(where))
    population = twins_of_parents(parents, **({"sparsifier": "variational_dropout", "epochs": 2} | options))
    return train_population(partial(open_run, population, out, data), data, Launch(observer=observer)), parents


def states(run, epoch):
    """Weights by parent id at an epoch."""
    return {
        member.parent_id: row
        for cohort in run.cohorts()
        for member, row in zip(cohort.members, cohort.weights(epoch), strict=True)
    }


def dense_states(run, epoch):
    return {m.model_id: row for c in run.cohorts() for m, row in zip(c.members, c.weights(epoch), strict=True)}


def test_epoch_0_is_the_parents_last_state_under_the_pruning_rule(dense, tmp_path):
    run, parents = make_twins(dense.path, tmp_path / "twins")
    before = dense_states(dense, 2)
    assert states(run, 0).keys() == before.keys()
    names = noise_bounds(get_architecture("cnn_s").layers(1, 10))
    noisy = torch.cat([torch.full((spec.size,), spec.name in names) for spec in run.manifest.layout.tensors])
    for parent, row in states(run, 0).items():
        small = before[parent].abs() < torch.tensor(-6.5).exp()
        assert torch.equal(row, torch.where(small & noisy, torch.zeros(()), before[parent]))
    difference = difference_from_parents(run, parents)
    assert difference.small
    shifted = {m: row | {"test_loss": row["test_loss"] + 0.1} for m, row in parents.figures.items()}
    assert not difference_from_parents(run, dataclasses.replace(parents, figures=shifted)).small
    for cohort in run.cohorts():
        metrics = cohort.metrics().to_pandas().set_index(["epoch", "model_id"])
        assert (metrics.sparsity[2] >= metrics.sparsity[0]).all()
        assert metrics.loc[0].sparsity.max() < 0.05
        noise = cohort.log_sigma2(2)
        assert torch.isinf(noise[:, -10:]).all()  # the last linear bias has none
        assert torch.isfinite(noise[:, :-10]).float().mean() > 0.9


def test_the_loss_of_a_model_that_did_not_learn_is_compared_by_its_size():
    def difference(before, after):
        member = SimpleNamespace(parent_id="parent")
        accuracy = {"val_acc": 0.5, "test_acc": 0.5}
        table = pa.Table.from_pylist([accuracy | {"epoch": 0, "val_loss": after, "test_loss": after}])
        cohort = SimpleNamespace(members=[member], metrics=lambda: table)
        figures = {"parent": accuracy | {"val_loss": before, "test_loss": before}}
        return difference_from_parents(SimpleNamespace(cohorts=lambda: [cohort]), SimpleNamespace(figures=figures))

    assert difference(457_212.8, 457_208.7).small
    assert not difference(457_212.8, 456_000.0).small
    assert not difference(0.1, 0.102).small


def test_twins_resume_bit_for_bit_in_any_number_of_parts(dense, tmp_path):
    class StopAfter:
        def __init__(self, epoch):
            self.last = epoch

        def begin(self, run, cohorts):
            pass

        def epoch(self, report):
            if report.epoch == self.last:
                raise KeyboardInterrupt

    make_twins(dense.path, tmp_path / "whole")
    for epoch in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            make_twins(dense.path, tmp_path / "parts", observer=StopAfter(epoch))
    make_twins(dense.path, tmp_path / "parts")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_run_of_twins_grows_with_its_parents(dense, tmp_path):
    few, _ = make_twins(dense.path, tmp_path / "twins", models=2)
    kept = contents(few.path)
    grown, _ = make_twins(dense.path, tmp_path / "twins")
    whole, _ = make_twins(dense.path, tmp_path / "at_once")
    for parent, row in states(whole, 2).items():
        assert torch.equal(states(grown, 2)[parent], row)
    after = contents(grown.path)
    assert all(after[name] == data for name, data in kept.items() if name.startswith("cohort"))


def test_twins_of_parents_that_were_trained_later_join_the_run(dense, tmp_path):
    shutil.copytree(dense.path, tmp_path / "dense")
    first = next(cohort for cohort in Run.open(tmp_path / "dense").cohorts() if dense.members[0] in cohort.members)
    first.path.rename(tmp_path / "later")
    few, parents = make_twins(tmp_path / "dense", tmp_path / "twins")
    assert dense.members[0].model_id in parents.left_out
    (tmp_path / "later").rename(first.path)
    grown, _ = make_twins(tmp_path / "dense", tmp_path / "twins")
    assert few.models < grown.models == dense.models
    whole, _ = make_twins(tmp_path / "dense", tmp_path / "at_once")
    for parent, row in states(whole, 2).items():
        assert torch.equal(states(grown, 2)[parent], row)


def test_noise_makes_the_number_of_epochs_part_of_the_recipe(dense, tmp_path):
    make_twins(dense.path, tmp_path / "twins", models=1)
    with pytest.raises(RunError, match="variational_dropout schedule over 2 epochs; to 3 epochs"):
        make_twins(dense.path, tmp_path / "twins", models=1, epochs=3)
    assert [kl_weight(epoch, 25) for epoch in (1, 2, 25)] == pytest.approx([0, 0.0004, 0.0096])


def test_other_parents_are_another_run(dense, tmp_path):
    make_twins(dense.path, tmp_path / "twins", models=2)
    with pytest.raises(RunError, match="begun with other models"):
        make_twins(dense.path, tmp_path / "twins", where='activation == "tanh"')
    with pytest.raises(RunError, match="zoo.sparsifier is variational_dropout there and magnitude here"):
        make_twins(dense.path, tmp_path / "twins", models=2, sparsifier="magnitude", amount=0.5)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_magnitude_prunes_the_smallest_and_holds_them(dense, tmp_path, scope):
    run, _ = make_twins(dense.path, tmp_path / "twins", sparsifier="magnitude", amount=0.3, scope=scope)
    layout = run.manifest.layout
    weights = prunable(layout)
    before = dense_states(dense, 2)
    for parent, row in states(run, 0).items():
        dropped = (row == 0) & weights
        if scope == "global":
            assert int(dropped.sum()) == round(0.3 * int(weights.sum()))
            assert before[parent][dropped].abs().max() <= before[parent][weights & ~dropped].abs().min()
        else:
            for name, share in layer_sparsity(row[None], layout).items():
                size = layout.unflatten(row)[name].numel()
                assert round(share.item() * size) == round(0.3 * size)
        later = states(run, 2)[parent]
        assert torch.equal((later == 0) & weights, dropped)
        assert (later != row)[~dropped].float().mean() > 0.9
    if scope == "global":
        (grown, _) = make_twins(dense.path, run.path, sparsifier="magnitude", amount=0.3, epochs=3)
        assert grown.epochs == 3


def test_sparsity_counts_weights_not_biases(dense):
    layout = dense.manifest.layout
    rows = torch.ones(2, layout.size)
    rows[1, ~prunable(layout)] = 0
    rows[1, 0] = 0
    assert sparsity(rows, layout).tolist() == pytest.approx([0, 1 / int(prunable(layout).sum())])
    assert {name: tensor.shape for name, tensor in masks(rows, layout).items()}["conv1.weight"] == (2, 8, 1, 5, 5)


def test_rows_of_twins_tell_their_parents_and_share_their_split(dense, tmp_path):
    repo = tmp_path / "repo"
    build_repository(dense.path, repo)
    run, _ = make_twins(dense.path, tmp_path / "twins")
    result = build_repository(run.path, repo, reading=Reading(keep_log_sigma2=True))
    assert result.config == "mnist_cnn_s_sparse"
    parents = {m.model_id: m for m in dense.members}
    loaded = load_dataset(str(repo), result.config, cache_dir=str(tmp_path / "cache"))
    seen = 0
    for split, part in loaded.items():
        for row in part:
            parent = parents[row["parent_id"]]
            assert (row["seed"], row["activation"]) == (parent.seed, parent.hyperparameters.activation)
            assert split == split_of(row["parent_id"])
            assert row["sparsifier"] == "variational_dropout"
            weights = torch.tensor(row["weights"])
            assert row["sparsity"] == pytest.approx(sparsity(weights[None], run.manifest.layout).item())
            assert len(row["log_sigma2"]) == 2464
            seen += 1
    assert seen == 6 * 3
    with pytest.raises(SourceError, match="not twins by variational dropout"):
        build_repository(dense.path, tmp_path / "other", reading=Reading(keep_log_sigma2=True))


def test_a_repository_gives_the_same_twins_as_its_run(dense, tmp_path):
    repo = tmp_path / "repo"
    build_repository(dense.path, repo)
    of_run, _ = make_twins(dense.path, tmp_path / "of_run")
    of_repo, _ = make_twins(repo, tmp_path / "of_repo")
    theirs = states(of_repo, 2)
    for parent, row in states(of_run, 2).items():
        assert torch.equal(theirs[parent], row)
    assert {m.model_id for m in of_run.members} == {m.model_id for m in of_repo.members}
    build_repository(of_run.path, repo)
    with pytest.raises(SpecError, match="sparsified twin itself"):
        make_twins(repo, tmp_path / "again", config="mnist_cnn_s_sparse")
    pairs = load_zoo(repo, "mnist_cnn_s_sparse", where="sparsity >= 0", columns=["parent_id"])
    assert {row for part in pairs.values() for row in part["parent_id"]} == {m.model_id for m in dense.members}


def test_what_cannot_be_made_sparse_is_said(dense, tmp_path):
    with pytest.raises(SpecError, match="needs an amount between 0 and 1"):
        make_twins(dense.path, tmp_path / "t", sparsifier="magnitude")
    with pytest.raises(SpecError, match="takes no amount"):
        make_twins(dense.path, tmp_path / "t", amount=0.5)
    with pytest.raises(UnknownNameError, match="magnitude"):
        make_twins(dense.path, tmp_path / "t", sparsifier="magnitud")
    with pytest.raises(SpecError, match="the condition keeps none"):
        make_twins(dense.path, tmp_path / "t", where="test_acc > 2")
    with pytest.raises(SpecError, match="neither a run nor a repository"):
        make_twins(tmp_path / "nothing", tmp_path / "t")
    assert not (tmp_path / "t").exists()
    with pytest.raises(SpecError, match="is a run, which has no configs"):
        make_twins(dense.path, tmp_path / "t", config="mnist_cnn_s_sparse")
    run, _ = make_twins(dense.path, tmp_path / "t", models=1)
    build_repository(run.path, tmp_path / "repo")
    with pytest.raises(SpecError, match=r"twins only \(mnist_cnn_s_sparse\)"):
        make_twins(tmp_path / "repo", tmp_path / "other")
    population = twins_of_parents(open_parents(dense.path, models=1, epoch=1), "variational_dropout", epochs=2)
    with pytest.raises(RunError, match=r"parents are mnist_cnn_s at epoch 2 \(--from-epoch 2\) there"):
        open_run(population, run.path, DATA)


def test_parents_are_chosen_by_any_column_of_their_rows(dense, tmp_path):
    repo, name = tmp_path / "repo", "renamed"
    build_repository(dense.path, repo, name)
    rows = conditions.stored(repo, name)
    last = rows.filter(pa.compute.equal(rows["epoch"], 2))

    def chosen(source, config, where):
        return {member.model_id for member in open_parents(source, config, where=parse_where(where)).members}

    for column in conditions.SCALARS:
        where = conditions.condition_on(last, column)
        expected = set(last["model_id"].take(parse_where(where).kept(last)).to_pylist())
        assert chosen(repo, name, where) == expected, where
        # A run's rows have its own name until they are built under another.
        assert chosen(dense.path, None, where.replace(name, ZOO.name)) == expected, where


def test_twins_are_built_by_what_only_twins_tell(dense, tmp_path):
    run, _ = make_twins(dense.path, tmp_path / "twins", models=4, sparsifier="magnitude", amount=0.5, epochs=1)
    result = build_repository(run.path, tmp_path / "repo")
    columns = ("sparsity", "parent_id", "sparsifier", "ggap")
    told = conditions.differing(run.path, tmp_path / "repo", result.config, tmp_path / "few", columns)
    assert told == ({}, set())


def test_a_parent_that_was_not_trained_to_the_end_has_no_twin(dense, tmp_path):
    parents = open_parents(dense.path)
    assert not parents.left_out
    with pytest.raises(SpecError, match="none of 6 models .* epoch 7 .not trained to that epoch"):
        open_parents(dense.path, epoch=7)


@pytest.mark.slow
def test_the_command_makes_twins_and_says_what_became_of_them(tmp_path, real_mnist, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def zoo(*arguments):
        done = CliRunner().invoke(app, [*map(str, arguments), "--images", str(real_mnist)])
        assert done.exit_code == 0, done.output
        return done.output

    limits = ("--limit-train", 200, "--limit-val", 50, "--limit-test", 50)
    zoo("train", "mnist_cnn_s", "--models", 2, "--epochs", 1, "--out", "m", *limits)
    zoo("sparsify", "m", "--epochs", 2, "--out", "s", "--dry-run")
    assert not (tmp_path / "s").exists()
    said = zoo("sparsify", "m", "--epochs", 2, "--out", "s")
    assert "sparsity 0.0" in said
    assert "epoch 0 differs from the parents by at most" in said
    manifest = json.loads((tmp_path / "s" / "zoo.json").read_text())
    assert manifest["limits"]["train"] == 200
    assert Run.open(tmp_path / "s").members[0].parent_id
