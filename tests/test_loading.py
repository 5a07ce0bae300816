"""From a repository to datasets and back to networks."""

from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from tiny_runs import make_run, weights_of, write_epoch
from torch import nn

from zoo_datasets.builders import build_repository
from zoo_datasets.errors import LayoutError, RepositoryError, SpecError, UnknownNameError
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.loading.modules import layout_of_row, to_module, to_state_dict
from zoo_datasets.networks.architectures import layout_of
from zoo_datasets.networks.module import build_module
from zoo_datasets.repository.row import split_of, split_of_seed
from zoo_datasets.specs.members import members_of
from zoo_datasets.specs.zoos import get_zoo

NAME = "mnist_cnn_s_hyp_fix"
ZOO = get_zoo(NAME)
MODELS = 20


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loading")
    make_run(folder / "run", ((MODELS, 3),), zoo=ZOO)
    build_repository(folder / "run", folder / "repo")
    return folder / "repo"


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def keys(rows):
    return {(row["model_id"], row["epoch"]) for row in rows}


def test_all_splits_or_one_mapped_or_streamed(repo):
    whole = load_zoo(repo, NAME)
    assert isinstance(whole, DatasetDict)
    assert sum(whole.num_rows.values()) == MODELS * 4
    one = load_zoo(str(repo), NAME, "train")
    assert isinstance(one, Dataset)
    streamed = load_zoo(repo, NAME, "train", streaming=True)
    assert isinstance(streamed, IterableDataset)
    assert isinstance(load_zoo(repo, NAME, streaming=True), IterableDatasetDict)
    assert keys(streamed) == keys(one) == keys(whole["train"])
    assert {split_of(model) for model, _ in keys(one)} == {"train"}


@pytest.mark.parametrize("streaming", [False, True])
def test_epochs_and_columns_select(repo, streaming):
    rows = list(load_zoo(repo, NAME, "train", epochs=[3, 1], columns=["epoch", "model_id"], streaming=streaming))
    assert {row["epoch"] for row in rows} == {1, 3}
    assert all(set(row) == {"epoch", "model_id"} for row in rows)
    assert len(rows) == 2 * len({row["model_id"] for row in rows})
    only = list(load_zoo(repo, NAME, "train", epochs=[2], columns=["weights"], streaming=streaming))
    assert len(only) == len(rows) // 2
    assert all(set(row) == {"weights"} and len(row["weights"]) == 2464 for row in only)


def test_a_selection_of_epochs_decodes_no_other_row_group(repo, monkeypatch):
    """The bytes of other epochs are overwritten in a copy: whoever decodes them fails."""
    import shutil

    copy = repo.parent / "damaged"
    shutil.copytree(repo, copy, dirs_exist_ok=True)
    for file in (copy / NAME).glob("*.parquet"):
        metadata = pq.read_metadata(file)
        data = bytearray(file.read_bytes())
        for group in (0, 1, 3):
            chunk = metadata.row_group(group).column(metadata.num_columns - 1)
            assert chunk.path_in_schema == "weights.list.element"
            start = chunk.data_page_offset
            data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
        file.write_bytes(data)
    assert load_zoo(copy, NAME, "train", epochs=[2], check=False).num_rows > 0
    with pytest.raises(RepositoryError, match="could not be read"):
        load_zoo(copy, NAME, "train", epochs=[1], check=False)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_condition_selects_rows_also_on_columns_that_are_not_loaded(repo, streaming):
    def load(**selection):
        return list(load_zoo(repo, NAME, "train", streaming=streaming, **selection))

    everything = load(columns=["model_id", "epoch", "activation", "lr", "optimizer", "seed", "momentum"])
    expected = {
        (row["model_id"], row["epoch"])
        for row in everything
        if (row["activation"] == "relu" and row["lr"] < 0.0005) or row["momentum"] is None
    }
    assert 0 < len(expected) < len(everything)
    where = 'activation == "relu" and lr < 0.0005 or momentum is None'
    found = load(where=where, columns=["model_id", "epoch"])
    assert keys(found) == expected
    assert set(found[0]) == {"model_id", "epoch"}
    at = load(where=where, epochs=[2])
    assert keys(at) == {key for key in expected if key[1] == 2}
    assert len(at[0]["weights"]) == 2464
    assert keys(load(where="epoch in (1, 3)")) == {key for key in keys(everything) if key[1] in (1, 3)}
    with pytest.raises(UnknownNameError, match="no column named 'learning_rate'"):
        load(where="learning_rate > 1")
    with pytest.raises(SpecError, match="is not understood"):
        load(where="lr <")


def test_a_condition_that_no_row_meets_is_told(repo):
    with pytest.raises(SpecError, match="no row of split 'train' has epoch 1 and lr > 5"):
        load_zoo(repo, NAME, "train", epochs=[1], where="lr > 5")
    with pytest.raises(SpecError, match="no row has lr > 5"):
        load_zoo(repo, NAME, where="lr > 5")
    assert list(load_zoo(repo, NAME, "train", where="lr > 5", streaming=True)) == []


def test_only_the_split_asked_for_is_prepared(repo):
    load_zoo(repo, NAME, "validation")
    prepared = list(Path(datasets.config.HF_DATASETS_CACHE).rglob("*.arrow"))
    assert [file.name.split("-")[1].split(".")[0] for file in prepared] == ["validation"]


def test_selections_do_not_share_a_cache(repo):
    lower = load_zoo(repo, NAME, "train", where="lr < 0.0005")
    higher = load_zoo(repo, NAME, "train", where="lr >= 0.0005")
    assert keys(lower).isdisjoint(keys(higher))
    assert load_zoo(repo, NAME, "train", where="lr < 0.0005").cache_files == lower.cache_files

    assert set(load_zoo(repo, NAME, "train", epochs=[1])["epoch"][:]) == {1}
    assert set(load_zoo(repo, NAME, "train", epochs=[2])["epoch"][:]) == {2}
    assert set(load_zoo(repo, NAME, "train")["epoch"][:]) == {0, 1, 2, 3}


def test_a_rebuilt_selection_is_not_stale(tmp_path):
    run = make_run(tmp_path / "run", ((6, 1),))
    build_repository(tmp_path / "run", tmp_path / "repo")
    name = "digits_cnn_s"
    before = load_zoo(tmp_path / "repo", name, "train", epochs=[1], columns=["test_acc"])["test_acc"][:]
    write_epoch(run.cohort(0), 1, {"test_acc": torch.full((4,), 0.125)})
    build_repository(tmp_path / "run", tmp_path / "repo")
    after = load_zoo(tmp_path / "repo", name, "train", epochs=[1], columns=["test_acc"])["test_acc"][:]
    assert 0.125 not in before
    assert 0.125 in after


@pytest.mark.parametrize("streaming", [False, True])
def test_split_by_seed_keeps_seeds_apart(repo, streaming):
    found = load_zoo(repo, NAME, split_by="seed", streaming=streaming, columns=["seed", "model_id", "epoch"])
    rows = {split: list(part) for split, part in found.items()}
    for split, part in rows.items():
        assert {split_of_seed(row["seed"]) for row in part} <= {split}
    assert len(set().union(*(keys(part) for part in rows.values()))) == MODELS * 4
    members = members_of(ZOO, None, MODELS)
    ours = next(split for split in rows if rows[split])
    alone = list(load_zoo(repo, NAME, ours, split_by="seed", columns=["lr"], epochs=[0], streaming=streaming))
    assert len(alone) == sum(split_of_seed(member.seed) == ours for member in members)
    assert set(alone[0]) == {"lr"}


def test_names_that_are_not_there(repo):
    with pytest.raises(UnknownNameError, match="'mnist_cnn_s_hyp_fx'; did you mean mnist_cnn_s_hyp_fix"):
        load_zoo(repo, "mnist_cnn_s_hyp_fx")
    with pytest.raises(UnknownNameError, match="no split named 'tain'; did you mean train"):
        load_zoo(repo, NAME, "tain")
    with pytest.raises(UnknownNameError, match="no column named 'test_accuracy'; did you mean test_acc"):
        load_zoo(repo, NAME, columns=["epoch", "test_accuracy"])
    with pytest.raises(SpecError, match="no rows of epoch 7, 9; it holds 4 epochs from 0 to 3"):
        load_zoo(repo, NAME, epochs=[1, 9, 7], streaming=True)
    with pytest.raises(SpecError, match=r"epochs=\[\]: expected a list of whole numbers"):
        load_zoo(repo, NAME, epochs=[])
    with pytest.raises(SpecError, match="columns='epoch': expected a list"):
        load_zoo(repo, NAME, columns="epoch")
    with pytest.raises(SpecError, match="split_by='models': expected 'model', 'seed', 'source'"):
        load_zoo(repo, NAME, split_by="models")


def test_places_that_are_no_repository(tmp_path, monkeypatch):
    with pytest.raises(RepositoryError, match=r"no dataset repository: there is no README.md in it; `zoo build`"):
        load_zoo(tmp_path, NAME)
    with pytest.raises(RepositoryError, match="neither a folder here nor a dataset on the Hub"):
        load_zoo(tmp_path / "missing", NAME)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RepositoryError, match=r"can be reached \(.*HF_HUB_OFFLINE.*\), and the cache .* has nothing"):
        load_zoo("somebody/model-zoos", NAME)


def test_an_empty_split_is_told(tmp_path):
    make_run(tmp_path / "run", ((1, 0),))
    build_repository(tmp_path / "run", tmp_path / "repo")
    (held,) = load_zoo(tmp_path / "repo", "digits_cnn_s")
    other = "test" if held != "test" else "train"
    with pytest.raises(UnknownNameError, match="In digits_cnn_s this split has no rows"):
        load_zoo(tmp_path / "repo", "digits_cnn_s", other)


def test_an_epoch_that_one_split_lacks_leaves_that_split_out(tmp_path):
    members = members_of(get_zoo("digits_cnn_s"), None, 12)
    bad = [member.model_id for member in members if split_of(member.model_id) == "test"]
    assert 0 < len(bad) < 12
    run = make_run(tmp_path / "run", ((12, 1),), cohort_size=12)
    write_epoch(run.cohort(0), 1, nan=bad)
    build_repository(tmp_path / "run", tmp_path / "repo")
    repo, name = tmp_path / "repo", "digits_cnn_s"
    assert set(load_zoo(repo, name, epochs=[1])) == {"train", "validation"}
    assert load_zoo(repo, name, "train", epochs=[1]).num_rows == 9
    streamed = load_zoo(repo, name, epochs=[1], streaming=True)
    assert [len(list(rows)) for rows in streamed.values()] == [9, 1]
    assert load_zoo(repo, name, epochs=[0, 1]).num_rows == {"train": 18, "validation": 2, "test": 2}
    with pytest.raises(SpecError, match="split 'test', has no rows of epoch 1"):
        load_zoo(tmp_path / "repo", "digits_cnn_s", "test", epochs=[1])


def test_weights_come_back_bit_for_bit_in_every_format(repo):
    member = next(member for member in members_of(ZOO, None, MODELS) if split_of(member.model_id) == "train")
    expected = layout_of("cnn_s", 1, 10).unflatten(weights_of(member, 2, 2464))
    zoo = load_zoo(repo, NAME, "train", epochs=[2])
    index = zoo["model_id"][:].index(member.model_id)
    streamed = {row["model_id"]: row for row in load_zoo(repo, NAME, "train", epochs=[2], streaming=True)}
    rows = [zoo.with_format(form)[index] for form in (None, "numpy", "torch")]
    for row in (*rows, streamed[member.model_id]):
        state = to_state_dict(row)
        assert list(state) == list(expected)
        assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_modules_compute_what_the_members_compute(repo):
    images = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    by_id = {member.model_id: member for member in members_of(ZOO, None, MODELS)}
    seen = set()
    for row in load_zoo(repo, NAME, "train", epochs=[3]):
        hyperparameters = by_id[row["model_id"]].hyperparameters
        reference = build_module("cnn_s", 1, 10, hyperparameters.activation, hyperparameters.dropout)
        weights = weights_of(by_id[row["model_id"]], 3, 2464)
        nn.utils.vector_to_parameters(weights, reference.parameters())
        module = to_module(row)
        assert not module.training
        assert module.dropout0.p == hyperparameters.dropout
        torch.testing.assert_close(module(images), reference.eval()(images), rtol=0, atol=0)
        seen.add(row["activation"])
    assert len(seen) > 2


def test_batch_norm_comes_back_too():
    layout = layout_of("resnet18", 3, 10)
    weights = torch.rand(layout.size, generator=torch.Generator().manual_seed(1))
    row = {"architecture": "resnet18", "in_channels": 3, "classes": 10, "activation": "relu", "dropout": 0.0}
    module = to_module(row | {"weights": weights.numpy()})
    assert torch.equal(layout.flatten(module.state_dict()), weights)
    assert layout_of_row(row) == layout


def test_a_state_dict_is_a_copy(repo):
    row = {"architecture": "cnn_s", "in_channels": 1, "classes": 10, "weights": torch.zeros(2464)}
    to_state_dict(row)["conv1.weight"].fill_(1)
    assert row["weights"].abs().sum() == 0
    read_only = np.zeros(2464, np.float32)
    read_only.flags.writeable = False
    assert to_state_dict(row | {"weights": read_only})["fc2.bias"].shape == (10,)


def test_rows_that_cannot_become_networks(repo):
    row = {"architecture": "cnn_s", "in_channels": 1, "classes": 10, "weights": [0.0] * 2464}
    with pytest.raises(SpecError, match="row lacks column 'weights'; load it with columns=None or add 'weights'"):
        to_state_dict({name: value for name, value in row.items() if name != "weights"})
    with pytest.raises(SpecError, match="row lacks column 'activation'"):
        to_module(row)
    with pytest.raises(LayoutError, match=r"shape \[7\], expected \[2464\] for cnn_s"):
        to_state_dict(row | {"weights": [0.0] * 7})
    with pytest.raises(LayoutError, match="give one row, not a batch"):
        to_state_dict(row | {"weights": torch.zeros(2, 2464)})
    with pytest.raises(UnknownNameError, match="no architecture named 'cnn'"):
        layout_of_row(row | {"architecture": "cnn"})


def test_a_repository_without_a_name_lists_its_zoos(repo):
    with pytest.raises(SpecError, match="needs the name of a config; this repository has mnist_cnn_s_hyp_fix$"):
        load_zoo(repo)
