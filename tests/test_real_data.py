"""The whole chain on the real MNIST: train, build, load, verify."""

import datasets
import plain
import pytest

import zoo_datasets as zd
from zoo_datasets.specs import Limits


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist_cnn_s", "mnist_cnn_s_hyp_rand"])
def test_a_zoo_of_real_images_is_trained_built_loaded_and_verified(tmp_path, real_mnist, name):
    zoo = zd.get_zoo(name)
    data = zd.load_images("mnist", "cnn_s", real_mnist)
    limits = Limits(train=1000, val=500, test=500)
    run = zd.train_zoo(zoo, tmp_path / "run", data, models=24, epochs=2, limits=limits)
    result = zd.build_repository(run.path, tmp_path / "model-zoos")
    assert (result.models, result.rows, result.left_out) == (24, 72, ())

    loaded = datasets.load_dataset(str(tmp_path / "model-zoos"), name)
    assert sum(split.num_rows for split in loaded.values()) == 72
    streamed = datasets.load_dataset(str(tmp_path / "model-zoos"), name, streaming=True, split="train")
    assert sum(1 for _ in streamed) == loaded["train"].num_rows

    verification = zd.verify_repository(tmp_path / "model-zoos", name, images=data, sample=72)
    assert verification.differences == ()
    assert verification.recomputed == 72


def test_one_member_of_a_real_run_is_what_plain_pytorch_gives(tmp_path, real_mnist):
    zoo = zd.get_zoo("mnist_cnn_s_hyp_rand")
    data = zd.load_images("mnist", "cnn_s", real_mnist)
    limits = Limits(train=300, val=50, test=50)
    run = zd.train_zoo(zoo, tmp_path / "run", data, models=12, epochs=1, limits=limits)
    for cohort in run.cohorts():
        member, weights = cohort.members[0], cohort.weights(1)[0]
        alone = plain.train_alone(zoo, member, data.limited(limits), 30)
        moved = (alone - cohort.weights(0)[0]).abs().max().item()
        assert (weights - alone).abs().max().item() < 0.02 * moved
