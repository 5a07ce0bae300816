"""Which states of a training are kept: those of given epochs, and after steps within them."""

import plain
import pytest
import torch

import zoo_datasets
from zoo_datasets.builders.build import build_repository
from zoo_datasets.errors import SpecError
from zoo_datasets.evaluation.verify.run import verify_run
from zoo_datasets.evaluation.verify.verify import verify_repository
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.zoos import zoo_from_dict
from zoo_datasets.training import train_zoo
from zoo_datasets.training.estimate.estimate import run_size
from zoo_datasets.training.population.opening import check_run
from zoo_datasets.training.steps import cohort as steps

BASE = {
    "name": "mine", "images": "mnist", "architecture": "cnn_s", "epochs": 2, "activation": "tanh",
    "init": "kaiming_uniform", "optimizer": "adam", "lr": 1e-2, "weight_decay": 0.0, "seeds": 3,
}  # fmt: skip


def zoo_of(**changes):
    return zoo_from_dict(BASE | changes, "test")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def interrupt(monkeypatch, method, place, number):
    """Raise KeyboardInterrupt after a call of a method of the trainer whose argument at a place is this number."""
    call = getattr(steps.CohortTrainer, method)

    def interrupted(self, *values):
        result = call(self, *values)
        if values[place] == number:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(steps.CohortTrainer, method, interrupted)


def test_a_run_keeps_the_given_epochs_and_goes_on_from_any(tmp_path, monkeypatch):
    data, zoo = plain.tiny_images(train=20), zoo_of(checkpoints=[0, 1, 4], epochs=4)
    every = train_zoo(zoo_of(epochs=4), tmp_path / "every", data)
    run = train_zoo(zoo, tmp_path / "run", data)
    (cohort,), (whole,) = run.cohorts(), every.cohorts()
    assert cohort.epochs() == [0, 1, 4]
    assert [path.name for path in sorted(cohort.path.glob("epoch-*"))] == [
        f"epoch-000{epoch}.safetensors" for epoch in (0, 1, 4)
    ]
    for epoch in (0, 1, 4):
        assert torch.equal(cohort.weights(epoch), whole.weights(epoch))
        assert cohort.figures(epoch).equals(whole.figures(epoch))
    assert zoo.states == 3 * zoo.models
    with monkeypatch.context() as patch:
        interrupt(patch, "_pass", 0, 2)  # after an epoch that is not kept
        with pytest.raises(KeyboardInterrupt):
            train_zoo(zoo, tmp_path / "again", data)
    assert Run.open(tmp_path / "again").cohorts()[0].resume_epoch() == 2
    train_zoo(zoo, tmp_path / "again", data)
    assert contents(tmp_path / "again") == contents(tmp_path / "run")
    built = build_repository(tmp_path / "run", tmp_path / "repo")
    assert (built.rows, built.epochs, built.left_out) == (9, (0, 1, 4), ())
    assert verify_run(tmp_path / "run", images=data).differences == ()
    with pytest.raises(SpecError, match="epochs: 3 is none of the checkpoints.*expected one of .1, 4"):
        train_zoo(zoo, tmp_path / "third", data, epochs=3)


def test_states_within_epochs_are_those_of_a_training_that_ends_there(tmp_path, monkeypatch):
    data = plain.tiny_images(train=50)
    zoo = zoo_of(every_steps=3, train_fraction=[0.5, 1.0])
    opening = check_run(zoo, tmp_path / "run", data)
    run = train_zoo(zoo, tmp_path / "run", data)
    size = sum(len(content) for content in contents(tmp_path / "run").values())
    assert run_size(opening) == pytest.approx(size, rel=0.05)
    whole = train_zoo(zoo_of(train_fraction=[0.5, 1.0]), tmp_path / "whole", data)
    for cohort, other in zip(run.cohorts(), whole.cohorts(), strict=True):
        for epoch in range(3):
            assert torch.equal(cohort.weights(epoch), other.weights(epoch))
            assert cohort.figures(epoch).equals(other.figures(epoch))
        half = cohort.members[0].hyperparameters.train_fraction == 0.5
        within = {1: [], 2: []} if half else {1: [3], 2: [6, 9]}
        assert {epoch: list(cohort.steps_within(epoch)) for epoch in (1, 2)} == within
        if not half:
            assert not torch.equal(cohort.weights(1, step=3), cohort.weights(1))
            # After three steps of ten images: as a training on the first thirty images of the order.
            member = cohort.members[0]
            alone = plain.train_alone(zoo, member, data, 3)
            torch.testing.assert_close(cohort.weights(1, step=3)[0], alone, atol=1e-4, rtol=0)
    assert verify_run(tmp_path / "run", images=data, sample=None).differences == ()
    with monkeypatch.context() as patch:
        interrupt(patch, "_write_step", 1, 6)  # within an epoch
        with pytest.raises(KeyboardInterrupt):
            train_zoo(zoo, tmp_path / "again", data)
    train_zoo(zoo, tmp_path / "again", data)
    assert contents(tmp_path / "again") == contents(tmp_path / "run")
    built = build_repository(tmp_path / "run", tmp_path / "repo")
    assert (built.rows, built.left_out) == (6 * 3 + 3 * 3, ())
    assert verify_repository(tmp_path / "repo", "mine").differences == ()
    loaded = zoo_datasets.load_zoo(str(tmp_path / "repo"), "mine")
    rows = [row for split in loaded.values() for row in split if row["train_fraction"] == 1.0]
    assert {(row["epoch"], row["step"]) for row in rows} == {(0, 0), (1, 3), (1, 5), (2, 6), (2, 9), (2, 10)}
    by_id = {member.model_id: place for place, member in enumerate(run.cohorts()[1].members)}
    for row in rows:
        if row["step"] == 9:
            expected = run.cohorts()[1].weights(2, step=9)[by_id[row["model_id"]]]
            assert torch.equal(torch.tensor(row["weights"]), expected)


def test_lost_figures_of_steps_are_made_again(tmp_path):
    data, zoo = plain.tiny_images(train=30), zoo_of(every_steps=2)
    run = train_zoo(zoo, tmp_path / "run", data)
    before = contents(tmp_path / "run")
    (run.cohorts()[0].path / "steps.parquet").unlink()
    assert Run.open(tmp_path / "run").cohorts()[0].setback() is not None
    assert any("steps" in difference.message or "lost" in difference.message
               for difference in verify_run(tmp_path / "run").differences)  # fmt: skip
    train_zoo(zoo, tmp_path / "run", data)
    assert contents(tmp_path / "run") == before


def test_no_number_of_steps_is_refused():
    with pytest.raises(SpecError, match="every_steps: expected at least 1, found 0"):
        zoo_of(every_steps=0)
