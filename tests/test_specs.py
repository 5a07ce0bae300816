import dataclasses

import pytest

from zoo_datasets.specs.members import Limits, members_of
from zoo_datasets.specs.zoos import get_zoo


def test_members_are_the_same_on_every_machine():
    first = members_of(get_zoo("mnist_cnn_s"))[0]
    assert (first.model_id, first.seed) == ("149e211ee1aa572bb39aa81f49bcafb5", 410)
    random = members_of(get_zoo("svhn_cnn_s_hyp_rand"))[0]
    assert (random.model_id, random.seed) == ("efc6a35cab5e673c9ed23a1a3d20fdb7", 302366)


@pytest.mark.parametrize("name", ["mnist_cnn_s", "cifar10_cnn_l_hyp_fix", "svhn_cnn_s_hyp_rand", "cifar10_resnet18"])
def test_members_are_the_grid_times_seeds_without_repetition(name):
    zoo = get_zoo(name)
    members = members_of(zoo)
    assert len(members) == zoo.models == len({member.model_id for member in members})
    assert len({(member.hyperparameters, member.seed) for member in members}) == zoo.models
    assert {member.hyperparameters for member in members} == set(zoo.grid())


def test_prefixes_nest_and_spread_over_the_grid():
    zoo = get_zoo("mnist_cnn_s_hyp_rand")
    members = members_of(zoo)
    assert members_of(zoo, models=64) == members[:64]
    assert {member.hyperparameters.activation for member in members[:64]} == set(zoo.activation)
    assert len({member.hyperparameters for member in members[:64]}) > 50


def test_seeds_are_a_range_or_distinct_draws_from_entropy():
    fixed, random = get_zoo("mnist_cnn_s_hyp_fix"), get_zoo("mnist_cnn_s_hyp_rand")
    assert {member.seed for member in members_of(fixed)} == set(range(1, 11))
    seeds = {member.seed for member in members_of(random)}
    assert len(seeds) == random.models
    assert min(seeds) >= 0
    assert max(seeds) < 1_000_000
    again = dataclasses.replace(random, entropy=7)
    assert {member.seed for member in members_of(again)} != seeds


def test_the_id_follows_the_recipe_and_not_the_number_of_epochs():
    zoo = get_zoo("mnist_cnn_s")
    ids = {member.model_id for member in members_of(zoo)}
    assert {member.model_id for member in members_of(dataclasses.replace(zoo, epochs=3))} == ids
    assert not ids & {member.model_id for member in members_of(zoo, Limits(train=100))}
    resnet = get_zoo("cifar10_resnet18")
    longer = dataclasses.replace(resnet, epochs=60)
    assert {m.model_id for m in members_of(resnet)}.isdisjoint(m.model_id for m in members_of(longer))


def test_momentum_is_for_sgd_alone():
    momenta = {(p.optimizer, p.momentum) for p in get_zoo("mnist_cnn_s_hyp_fix").grid()}
    assert momenta == {("adam", None), ("sgd", 0.9)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs: expected at least 1, found 0"),
        ({"lr": ()}, "lr: expected at least one value, found none"),
        ({"lr": (-1.0,)}, "lr: expected above 0, found -1.0"),
        ({"dropout": (1.0,)}, r"dropout: expected \[0, 1\), found 1.0"),
        ({"init": ("uniform", "uniform")}, "init: values repeat"),
        ({"seeds": 0}, "seeds: expected 1 to 1,000,000, found 0"),
        ({"name": "a/b"}, "name: expected a-z"),
    ],
)
def test_a_spec_that_makes_no_sense_names_the_field(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(get_zoo("mnist_cnn_s"), **change)


def test_more_members_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="has 1,000 members; 1,001 were asked for"):
        members_of(get_zoo("mnist_cnn_s"), models=1001)
    with pytest.raises(ValueError, match="limit on val images: expected at least 1, found 0"):
        Limits(val=0)
