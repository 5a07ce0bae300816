"""The tasks: each batch against rows looked up one by one."""

import dataclasses

import datasets
import pytest
import torch
from tiny_runs import make_run, weights_of

from zoo_datasets.builders import build_repository, write_rows
from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.loading.tasks import (
    dense_sparse_pairs,
    join_twins,
    property_prediction,
    reconstruction,
    sequence_prediction,
    trajectories,
)
from zoo_datasets.specs.members import members_of
from zoo_datasets.specs.zoos import get_zoo

NAME = "digits_cnn_s"
SIZE = 2464


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    make_run(folder / "run", ((14, 3),))
    build_repository(folder / "run", folder / "repo")
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    yield load_zoo(folder / "repo", NAME, "train")
    patch.undo()


MEMBERS = {member.model_id: member for member in members_of(get_zoo(NAME), None, 14)}


def weights(models, epoch):
    return torch.stack([weights_of(MEMBERS[model], epoch, SIZE) for model in models])


def models_of(zoo):
    return set(zoo["model_id"][:])


def test_reconstruction(zoo):
    for batch in reconstruction(zoo, ["model_id"], batch_size=7, shuffle=True):
        assert batch["target"] is batch["weights"]
        assert len(batch["model_id"]) == len(batch["weights"])


def test_property_prediction(zoo):
    expected = {(row["model_id"], row["epoch"]): (row["test_acc"], row["epoch"], row["ggap"]) for row in zoo}
    seen = 0
    for batch in property_prediction(zoo, ["test_acc", "epoch", "ggap"], batch_size=8, shuffle=True):
        assert batch["target"].dtype == torch.float32
        assert batch["target"].shape == (len(batch["weights"]), 3)
        torch.testing.assert_close(batch["target"][:, 0], batch["test_acc"], rtol=0, atol=0)
        seen += len(batch["target"])
        assert {tuple(row) for row in batch["target"].tolist()} <= {tuple(map(float, row)) for row in expected.values()}
    assert seen == len(zoo)
    with pytest.raises(SpecError, match="target 'optimizer' is a column of string, expected numbers"):
        property_prediction(zoo, ["optimizer"])
    with pytest.raises(UnknownNameError, match="no column named 'test_accuracy'"):
        property_prediction(zoo, ["test_accuracy"])


def test_sequence_prediction_pairs_two_epochs_of_a_model(zoo):
    shuffled = zoo.shuffle(seed=1)
    made = sequence_prediction(shuffled, 0, 3, ["model_id", "test_acc", "epoch"], batch_size=4, shuffle=True)
    seen = set()
    for batch in made:
        assert batch["model_id"] == batch["target_model_id"]
        assert torch.equal(batch["weights"], weights(batch["model_id"], 0))
        assert torch.equal(batch["target"], weights(batch["model_id"], 3))
        assert batch["epoch"].tolist() == [0] * len(batch["weights"])
        assert batch["target_epoch"].tolist() == [3] * len(batch["weights"])
        seen.update(batch["model_id"])
    assert seen == models_of(zoo)
    (batch,) = sequence_prediction(zoo, 1, 2, batch_size=64, layers=True)
    assert torch.equal(batch["layers"]["fc2.bias"], batch["weights"][:, -10:])
    assert torch.equal(batch["target_layers"]["fc2.bias"], batch["target"][:, -10:])


def test_models_without_one_of_the_epochs_are_left_out(zoo):
    gone = zoo["model_id"][0]
    some = zoo.filter(lambda model, epoch: (model, epoch) != (gone, 2), input_columns=["model_id", "epoch"])
    (batch,) = sequence_prediction(some, 1, 2, ["model_id"], batch_size=64)
    assert set(batch["model_id"]) == models_of(zoo) - {gone}
    (batch,) = trajectories(some, [0, 1], ["model_id"], batch_size=64)
    assert {models[0] for models in batch["model_id"]} == models_of(zoo)
    with pytest.raises(SpecError, match=r"no model has all of the epochs \[1, 9\]; the zoo holds \[0, 1, 2, 3\]"):
        sequence_prediction(zoo, 1, 9)


def test_trajectories(zoo):
    seen = set()
    for batch in trajectories(zoo, columns=["model_id", "val_acc"], batch_size=3, shuffle=True):
        assert batch["weights"].shape[1:] == (4, SIZE)
        assert batch["epoch"].tolist() == [[0, 1, 2, 3]] * len(batch["weights"])
        assert batch["val_acc"].shape == (len(batch["weights"]), 4)
        for row, models in zip(batch["weights"], batch["model_id"], strict=True):
            assert len(set(models)) == 1
            seen.add(models[0])
            assert torch.equal(row, torch.cat([weights(models[:1], epoch) for epoch in range(4)]))
    assert seen == models_of(zoo)
    (batch,) = trajectories(zoo, [3, 1], batch_size=64)
    assert batch["epoch"][0].tolist() == [3, 1]


def test_dense_sparse_pairs(zoo):
    """Twins made by hand: their weights are the parent's at epoch 3 with a shift, and one parent is missing."""
    last = zoo.filter(lambda epoch: epoch == 3, input_columns="epoch")
    parents = last["model_id"][:]

    def twin(row, index):
        weights = [value + 1 for value in row["weights"]]
        parent = "elsewhere" if index == 0 else row["model_id"]
        return row | {"model_id": f"twin{index}", "parent_id": parent, "epoch": 25, "weights": weights}

    sparse = last.map(twin, with_indices=True, features=zoo.features).shuffle(seed=2)
    made = dense_sparse_pairs(zoo, sparse, ["model_id", "parent_id"], batch_size=4, shuffle=True)
    seen = []
    for batch in made:
        assert batch["target_parent_id"] == batch["model_id"]
        assert torch.equal(batch["weights"], weights(batch["model_id"], 3))
        torch.testing.assert_close(batch["target"], batch["weights"] + 1)
        seen += batch["model_id"]
    assert sorted(seen) == sorted(parents[1:])
    (batch,) = dense_sparse_pairs(zoo, sparse, ["model_id"], dense_epoch=0, batch_size=64, layers=True)
    assert torch.equal(batch["weights"], weights(batch["model_id"], 0))
    assert batch["target_layers"]["conv1.weight"].shape[1:] == (8, 1, 5, 5)
    with pytest.raises(SpecError, match="none of the .* twins has its parent"):
        dense_sparse_pairs(zoo, zoo)


def test_join_twins_sets_each_twin_beside_its_parent(zoo):
    last = zoo.filter(lambda epoch: epoch == 3, input_columns="epoch")
    figures = dict(zip(last["model_id"][:], last["test_acc"][:], strict=True))

    def twin(row, index):
        parent = "elsewhere" if index == 0 else row["model_id"]
        return row | {"model_id": f"twin{index}", "parent_id": parent, "epoch": 25, "test_acc": row["test_acc"] / 2}

    sparse = last.map(twin, with_indices=True, features=zoo.features).shuffle(seed=2)
    rows = join_twins(zoo.shuffle(seed=1), sparse).to_pylist()
    assert sorted(row["model_id"] for row in rows) == sorted(last["model_id"][1:])
    assert "weights" not in rows[0]
    for row in rows:
        assert (row["model_id"], row["epoch"], row["sparse_epoch"]) == (row["sparse_parent_id"], 3, 25)
        assert row["sparse_test_acc"] == pytest.approx(figures[row["model_id"]] / 2)
    first = join_twins(zoo, sparse, ["epoch", "lr"], dense_epoch=0)
    assert first.column_names == ["epoch", "lr", "sparse_epoch", "sparse_lr"]
    assert set(first["epoch"].to_pylist()) == {0}
    with pytest.raises(UnknownNameError, match="no column named 'learning_rate'"):
        join_twins(zoo, sparse, ["learning_rate"])
    with pytest.raises(SpecError, match="none of the .* twins has its parent"):
        join_twins(zoo, zoo)


def test_states_of_tasks_go_on(zoo):
    made = trajectories(zoo, batch_size=2, shuffle=True, columns=["model_id"])
    iterator = iter(made)
    next(iterator)
    state = made.state_dict()
    rest = [batch["model_id"] for batch in iterator]
    again = trajectories(zoo, batch_size=2, shuffle=True, columns=["model_id"])
    again.load_state_dict(state)
    assert [batch["model_id"] for batch in again] == rest
    assert dataclasses.asdict(made.order)["batch_size"] == 2


@pytest.fixture(scope="module")
def stepped(tmp_path_factory):
    """Three steps in each of two epochs, written in another order; one model lacks the last."""
    folder = tmp_path_factory.mktemp("stepped")
    states = [(epoch, step) for epoch, step in ((1, 20), (0, 5), (1, 10), (0, 0), (1, 30), (0, 9))]
    rows = [
        ({"w": torch.tensor([model, epoch, step], dtype=torch.float32)},
         {"model_id": f"m{model:02}", "epoch": epoch, "step": step, "group": "all"})
        for model in range(5) for epoch, step in states if (model, step) != (3, 30)
    ]  # fmt: skip
    write_rows(folder, "stepped", rows)
    (split,) = load_zoo(folder, "stepped").values()
    return split


def test_trajectories_are_ordered_by_epoch_and_step(stepped):
    keys = [(0, 0), (0, 5), (0, 9), (1, 10), (1, 20), (1, 30)]
    (batch,) = trajectories(stepped, columns=["model_id"], batch_size=9)
    assert sorted(ids[0] for ids in batch["model_id"]) == ["m00", "m01", "m02", "m04"]
    for number, ids in enumerate(batch["model_id"]):
        expected = torch.tensor([[int(ids[0][1:]), *key] for key in keys], dtype=torch.float32)
        assert torch.equal(batch["weights"][number], expected)
    assert batch["step"][0].tolist() == [step for _, step in keys]
    (batch,) = trajectories(stepped, [(1, 10), (0, 5)], batch_size=9)
    assert batch["weights"][:, :, 1:].tolist() == [[[1, 10], [0, 5]]] * 5
    (batch,) = trajectories(stepped, [0, 1], batch_size=9)  # of an epoch the last step
    assert batch["weights"][:, :, 2].tolist() == [[9, 30]] * 3 + [[9, 20]] + [[9, 30]]


def test_a_step_is_a_state_of_sequences_too(stepped):
    (batch,) = sequence_prediction(stepped, (0, 5), 1, ["step"], batch_size=9)
    assert (batch["weights"][:, 2] == 5).all()
    assert sorted(batch["target"][:, 2].tolist()) == [20, 30, 30, 30, 30]
    assert batch["step"].tolist() == [5] * 5
    for state, message in (((0, 7), "no model has all"), ((0, 1, 2), "a pair of epoch and step")):
        with pytest.raises(SpecError, match=message):
            sequence_prediction(stepped, state, 1)
    with pytest.raises(SpecError, match="column step"):
        trajectories(stepped.remove_columns("step"))
