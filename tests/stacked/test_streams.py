import pytest
import torch

from zoo_datasets.stacked import streams


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    words = streams.philox(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert " ".join(f"{int(word):08x}" for word in words) == expected


def test_a_members_stream_does_not_depend_on_its_company():
    seeds = torch.tensor([5, 9, 2**40 + 5])
    together = streams.random_words(seeds, streams.DROPOUT, epoch=3, step=7, count=101, substream=2)
    for row, seed in zip(together, seeds, strict=True):
        alone = streams.random_words(seed[None], streams.DROPOUT, epoch=3, step=7, count=101, substream=2)
        assert torch.equal(row, alone[0])
    assert not torch.equal(together[0], together[2])


def test_a_longer_stream_begins_with_the_shorter_one():
    seeds = torch.tensor([1])
    long = streams.uniform(seeds, streams.INIT, epoch=0, step=0, count=50)
    assert torch.equal(long[:, :13], streams.uniform(seeds, streams.INIT, epoch=0, step=0, count=13))


@pytest.mark.parametrize("changed", [{"epoch": 2}, {"step": 2}, {"substream": 1}, {"purpose": streams.ORDER}])
def test_every_part_of_the_key_changes_the_stream(changed):
    key = {"purpose": streams.DROPOUT, "epoch": 1, "step": 1, "substream": 0, "count": 64}
    seeds = torch.tensor([4])
    assert not torch.equal(streams.random_words(seeds, **key), streams.random_words(seeds, **(key | changed)))


def test_distributions_have_their_moments():
    seeds = torch.tensor([1, 2])
    uniform = streams.uniform(seeds, streams.INIT, epoch=0, step=0, count=40_000)
    normal = streams.normal(seeds, streams.INIT, epoch=0, step=0, count=40_000)
    assert (uniform > 0).all()
    assert (uniform < 1).all()
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.005)
    assert normal.mean().item() == pytest.approx(0.0, abs=0.015)
    assert normal.std().item() == pytest.approx(1.0, abs=0.015)
    assert (normal**4).mean().item() == pytest.approx(3.0, abs=0.15)


def test_orders_are_permutations_that_change_with_epoch_and_seed():
    orders = streams.permutations(torch.tensor([1, 2]), epoch=1, size=1000)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(1000).expand(2, -1))
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders, streams.permutations(torch.tensor([1, 2]), epoch=2, size=1000))


def test_dropout_masks_drop_at_each_members_rate():
    seeds, rates = torch.tensor([1, 2, 3]), torch.tensor([0.0, 0.5, 0.3], dtype=torch.float64)
    masks = streams.dropout_masks(seeds, rates, epoch=1, step=0, layer=0, count=50_000)
    assert torch.equal(masks[0], torch.ones(50_000))
    assert set(masks[1].tolist()) == {0.0, 2.0}
    assert (masks == 0).double().mean(dim=1).tolist() == pytest.approx([0, 0.5, 0.3], abs=0.01)
    assert masks.mean(dim=1).tolist() == pytest.approx([1, 1, 1], abs=0.02)
