"""Networks of different shapes in one config: batches of them as tokens, padded, or one by one."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import zoo_datasets as zd
from zoo_datasets.adapters import from_tokens, to_tokens
from zoo_datasets.errors import SpecError
from zoo_datasets.native import ragged, rows
from zoo_datasets.networks.records import record_named

WIDTHS = (3, 5, 8, 5)


def mlp(width, seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))


def states():
    """By id: networks of three shapes, two epochs each."""
    return {f"m{index:02}": [mlp(WIDTHS[index % 4], 2 * index + epoch) for epoch in (0, 1)] for index in range(24)}


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ragged")
    given = [
        (model, {"model_id": model_id, "epoch": epoch, "rank": int(model_id[1:])})
        for model_id, models in states().items()
        for epoch, model in enumerate(models)
    ]
    zd.write_rows(folder, "mlps", given)
    return folder


@pytest.fixture(params=["prepared", "streamed"])
def zoo(repo, request, tmp_path, monkeypatch):
    return zd.load_zoo(repo, "mlps", "train", streaming=request.param == "streamed")


@pytest.fixture(params=["compiled", "numpy"], autouse=True)
def path(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr(ragged, "native_library", lambda: None)
    elif rows.native_library() is None:
        pytest.skip("no C compiler")


def flat_of(batch, index):
    model = states()[batch["model_id"][index]][int(batch["epoch"][index])]
    return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])


def layout_in(batch, index):
    return record_named(batch["layout"][index]).layout


@pytest.mark.parametrize("shuffle", [False, True])
def test_each_form_gives_the_weights_bit_for_bit(zoo, shuffle):
    seen = set()
    options = {"batch_size": 7, "shuffle": shuffle, "seed": 3}
    for batch in zd.batches(zoo, ragged="tokens", token_size=4, **options):
        for index in range(len(batch["tokens"])):
            layout = layout_in(batch, index)
            flat = flat_of(batch, index)
            alone = to_tokens(flat[None], layout, 4)
            count = alone.values.shape[1]
            assert torch.equal(batch["tokens"][index, :count], alone.values[0])
            assert torch.equal(batch["mask"][index, :count], alone.mask[0])
            assert torch.equal(batch["position"][index, :count], alone.position[0])
            assert not batch["mask"][index, count:].any()
            assert not batch["tokens"][index, count:].any()
            assert torch.equal(from_tokens(batch["tokens"][index : index + 1], layout)[0], flat)
            seen.add((batch["model_id"][index], int(batch["epoch"][index])))
    padded, listed = (zd.batches(zoo, ragged=form, **options) for form in ("padded", "list"))
    for one, other in zip(padded, listed, strict=True):
        assert one["model_id"] == other["model_id"]
        for index, alone in enumerate(other["weights"]):
            assert torch.equal(alone, flat_of(other, index))
            mask = one["weights_mask"][index]
            assert mask.sum() == len(alone)
            assert torch.equal(one["weights"][index][mask], alone)
            assert not one["weights"][index][~mask].any()
    assert len(seen) == len(list(zoo))


def test_no_matrix_is_given_of_rows_of_different_lengths(zoo):
    with pytest.raises(SpecError, match=r"networks of 3 layouts, which no matrix \[B, D\] holds: pass ragged='tokens'"):
        zd.batches(zoo)
    assert next(iter(zd.batches(zoo, columns=["epoch"])))["epoch"].ndim == 1
    with pytest.raises(SpecError, match="ragged='pad': expected 'tokens', 'padded', 'list'"):
        zd.batches(zoo, ragged="pad")
    with pytest.raises(SpecError, match="token_size=None: expected a whole number"):
        zd.batches(zoo, ragged="tokens")
    with pytest.raises(SpecError, match="add it to columns"):
        zd.batches(zoo, columns=["weights"], ragged="tokens", token_size=4)


def test_the_rows_of_one_layout_are_a_matrix(repo):
    zoo = zd.load_zoo(repo, "mlps", "train")
    parts = zd.by_layout(zoo)
    assert sum(map(len, parts.values())) == len(zoo)
    for name, part in parts.items():
        batch = next(iter(zd.batches(part, batch_size=3, layers=True)))
        assert batch["weights"].shape[1] == record_named(name).layout.size
        assert torch.equal(batch["layers"]["2.bias"][0], batch["weights"][0, -2:])


def test_batches_go_into_other_processes(repo):
    zoo = zd.load_zoo(repo, "mlps", "train")
    batches = zd.batches(zoo, batch_size=8, ragged="tokens", token_size=4)
    expected = [batch["tokens"] for batch in batches]
    copied = pickle.loads(pickle.dumps(zd.batches(zoo, batch_size=8, ragged="tokens", token_size=4)))
    assert all(torch.equal(one["tokens"], other) for one, other in zip(copied, expected, strict=True))
    loader = DataLoader(zd.batches(zoo, batch_size=8, ragged="tokens", token_size=4), batch_size=None, num_workers=2)
    assert all(torch.equal(one["tokens"], other) for one, other in zip(loader, expected, strict=True))


def test_networks_of_one_shape_come_as_tokens_too(tmp_path):
    zd.write_rows(tmp_path, "alike", [(mlp(5, seed), {"model_id": f"m{seed}"}) for seed in range(30)])
    zoo = zd.load_zoo(tmp_path, "alike", "train")
    plain = next(iter(zd.batches(zoo, batch_size=4)))["weights"]
    batch = next(iter(zd.batches(zoo, batch_size=4, ragged="tokens", token_size=np.int64(6))))
    assert torch.equal(batch["tokens"], to_tokens(plain, layout_in(batch, 0), 6).values)
