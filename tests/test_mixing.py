"""Zoos of different sizes in one loader."""

import json

import datasets
import pytest
import torch
from tiny_runs import make_run

from zoo_datasets.adapters.tokens import count_tokens, from_tokens
from zoo_datasets.builders import build_repository
from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.loading.mixing import mixed_tokens
from zoo_datasets.networks.architectures import layout_of
from zoo_datasets.specs.zoos import get_zoo

SMALL, OTHER = "digits_cnn_s", "mnist_cnn_m_like"


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """33 rows of a small architecture and 60 of a larger one, in two configs of one repository."""
    import dataclasses

    folder = tmp_path_factory.mktemp("mixing")
    make_run(folder / "a", ((14, 2),))
    larger = dataclasses.replace(get_zoo("digits_cnn_s"), name=OTHER, architecture="cnn_m")
    make_run(folder / "b", ((14, 5),), zoo=larger)
    for run in ("a", "b"):
        build_repository(folder / run, folder / "repo")
    return folder / "repo"


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def rows_of(made):
    return [key for b in made for key in zip(b["zoo"], b["model_id"], b["epoch"].tolist(), strict=True)]


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_of_all_zoos_come_once_as_their_own_tokens(repo, streaming):
    zoos = load_zoo(repo, [SMALL, OTHER], "train", streaming=streaming)
    made = mixed_tokens(zoos, 50, ["model_id", "epoch", "test_acc"], batch_size=31, shuffle=True, seed=2)
    layouts = {SMALL: layout_of("cnn_s", 1, 10), OTHER: layout_of("cnn_m", 1, 10)}
    weights = {
        (name, row["model_id"], row["epoch"]): (row["weights"], row["test_acc"])
        for name in layouts
        for row in load_zoo(repo, name, "train")
    }
    assert len(made) == 3
    seen = set()
    for batch in made:
        assert batch["tokens"].shape == batch["mask"].shape == (31, count_tokens(layouts[OTHER], 50), 50)
        assert batch["position"].shape == (*batch["tokens"].shape[:2], 3)
        for row, key in enumerate(rows_of([batch])):
            layout = layouts[key[0]]
            assert torch.equal(from_tokens(batch["tokens"][row, None], layout)[0], torch.tensor(weights[key][0]))
            assert batch["mask"][row].sum() == layout.size
            assert batch["test_acc"][row].item() == pytest.approx(weights[key][1])
            seen.add(key)
    assert seen == set(weights)
    shares = [sum(name == SMALL for name in batch["zoo"]) for batch in made]
    assert len({str(rows_of(made)), str(rows_of(made))}) == 2
    assert all(4 <= share <= 18 for share in shares)  # 11 in the mean
    plain = mixed_tokens(zoos, 50, ["model_id", "epoch"], batch_size=31)
    assert [zoo for zoo, *_ in rows_of(plain)] == [SMALL] * 33 + [OTHER] * 60


@pytest.mark.parametrize("streaming", [False, True])
def test_a_mixture_goes_on_in_the_middle_and_is_shared_out(repo, streaming, monkeypatch):
    def new(**options):
        zoos = load_zoo([(repo, SMALL), (repo, OTHER)], split="train", streaming=streaming)
        return mixed_tokens(zoos, 300, ["model_id", "epoch"], batch_size=9, shuffle=True, buffer=10, **options)

    made = new()
    iterator = iter(made)
    next(iterator), next(iterator)
    state = json.loads(json.dumps(made.state_dict()))
    rest = rows_of(iterator)
    resumed = new()
    resumed.load_state_dict(state)
    assert rows_of(resumed) == rest
    shares = []
    for rank in range(2):
        made = new(even=False)
        monkeypatch.setattr(made, "_place", lambda rank=rank: (rank, 2))
        shares.append(rows_of(made))
    assert len(set(shares[0]) | set(shares[1])) == len(shares[0]) + len(shares[1]) == 93


def test_what_cannot_be_mixed_is_told(repo):
    zoos = load_zoo(repo, [SMALL, OTHER], "train")
    with pytest.raises(SpecError, match="mixed_tokens got no zoos"):
        mixed_tokens({}, 8)
    with pytest.raises(SpecError, match="come as tokens only"):
        mixed_tokens(zoos, 8, layers=True)
    with pytest.raises(UnknownNameError, match="no column named 'acc'"):
        mixed_tokens(zoos, 8, ["acc"])
    with pytest.raises(SpecError, match="expected a repository and a name, a repository and a list of names"):
        load_zoo([SMALL, OTHER])
    with pytest.raises(SpecError, match="a zoo is listed twice"):
        load_zoo(repo, [SMALL, SMALL])
