"""The whole chain on the real MNIST: train, build, load, verify."""

import itertools

import datasets
import numpy as np
import plain
import pytest
from file_server import serving_files

import zoo_datasets as zd
from zoo_datasets.builders import Reading, build_repository
from zoo_datasets.evaluation.benchmark import Settings, run_benchmark
from zoo_datasets.evaluation.verify.continuity import exchanges
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.specs.members import Limits


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


RAW_ZOOS = (
    ("tune_zoo_mnist_uniform.zip", "mnist_cnn_s", 12, 132),
    ("tune_zoo_mnist_hyperparameter_10_random_seeds.zip", "mnist_cnn_s_hyp_rand", 24, 264),
    ("cnn_small_mnist_ard.zip", "mnist_cnn_s_sparse", 12, 84),
)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "name", "models", "rows"), RAW_ZOOS)
def test_every_row_of_a_raw_zoo_gives_its_recorded_figures(tmp_path, real_mnist, real_raw, file, name, models, rows):
    limits = Limits(train=2000, val=1000, test=1000)
    result = zd.build_repository(real_raw / file, tmp_path / "model-zoos", reading=Reading(limits=limits))
    assert (result.config, result.models, result.rows, result.left_out) == (name, models, rows, ())
    data = zd.load_images("mnist", "cnn_s", real_mnist)
    verification = zd.verify_repository(tmp_path / "model-zoos", name, images=data, sample=rows)
    assert verification.differences == ()
    assert verification.recomputed == rows
    wrong = zd.verify_repository(tmp_path / "model-zoos", name, images=data, limits=Limits(test=900), sample=8)
    assert any(difference.check == "figures" for difference in wrong.differences)
    sparsity = read_manifest(tmp_path / "model-zoos", name).source.get("sparsity")
    assert sparsity == ({"as recorded": rows} if name.endswith("sparse") else None)


@pytest.mark.slow
def test_recorded_losses_of_real_twins_are_cross_entropy_and_kl(tmp_path, real_mnist, real_raw):
    limits = Limits(train=2000, val=1000, test=1000)
    reading = Reading(limits=limits, images=real_mnist, keep_log_sigma2=True)
    zd.build_repository(real_raw / "cnn_small_mnist_ard.zip", tmp_path / "model-zoos", reading=reading)
    manifest = read_manifest(tmp_path / "model-zoos", "mnist_cnn_s_sparse")
    assert manifest.source["losses"]["recorded"] == {"as recomputed": 84}
    data = zd.load_images("mnist", "cnn_s", real_mnist)
    verification = zd.verify_repository(tmp_path / "model-zoos", "mnist_cnn_s_sparse", images=data, sample=84)
    assert (verification.differences, verification.recomputed) == ((), 84)


def test_twins_go_where_their_parents_go(tmp_path, real_raw):
    for file, _, _, _ in (RAW_ZOOS[0], RAW_ZOOS[2]):
        zd.build_repository(real_raw / file, tmp_path / "model-zoos")
    dense, sparse = (
        {
            row["model_id"]: (split, row["parent_id"], row["seed"], row["lr"])
            for split, rows in datasets.load_dataset(str(tmp_path / "model-zoos"), name).items()
            for row in rows.remove_columns("weights")
        }
        for name in ("mnist_cnn_s", "mnist_cnn_s_sparse")
    )
    assert {parent for _, parent, _, _ in sparse.values()} == set(dense)
    for split, parent, seed, lr in sparse.values():
        assert (split, seed, lr) == (dense[parent][0], dense[parent][2], dense[parent][3])


def test_the_preprocessed_dataset_holds_the_states_of_the_raw_zoo(tmp_path, real_raw):
    repo = tmp_path / "model-zoos"
    zd.build_repository(real_raw / "tune_zoo_mnist_uniform.zip", repo)
    result = zd.build_repository(real_raw / "dataset_mnist_uniform.pt", repo, "mnist_cnn_s_pt")
    assert (result.rows, result.models, result.epochs) == (36, 12, (0, 5, 10))
    raw, pt = (
        {
            (row["model_id"], row["epoch"]): row
            for rows in datasets.load_dataset(str(repo), name).values()
            for row in rows
        }
        for name in ("mnist_cnn_s", "mnist_cnn_s_pt")
    )
    assert [sum(row["source_split"] == split for row in pt.values()) for split in ("train", "validation", "test")] == [
        24, 3, 9,
    ]  # fmt: skip
    for key, row in pt.items():
        for column in ("weights", "seed", "test_acc", "lr", "activation", "batch_size"):
            assert row[column] == raw[key][column]


def test_the_raw_zoos_behind_a_server_give_the_shards_of_the_files(tmp_path, real_raw, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))

    def shards(repo, name):
        return {file.name: file.read_bytes() for file in (tmp_path / repo / name).glob("*.parquet")}

    with serving_files(real_raw) as served:
        for file, name, models, _ in RAW_ZOOS:
            last = Reading(epochs=frozenset({6}))
            zd.build_repository(real_raw / file, tmp_path / "local", reading=last)
            result = zd.build_repository(f"{served.url}/{file}", tmp_path / "remote", reading=last)
            assert (result.rows, result.left_out) == (models, ())
            assert shards("remote", name) == shards("local", name)
            assert 0 < served.sent[f"/{file}"] < (real_raw / file).stat().st_size * 0.6
        file = "dataset_mnist_uniform.pt"
        zd.build_repository(real_raw / file, tmp_path / "local", "pt")
        beside = Reading(parents=f"{served.url}/{RAW_ZOOS[0][0]}")  # a folder is looked into, a server is not
        zd.build_repository(f"{served.url}/{file}", tmp_path / "remote", "pt", reading=beside)
        assert shards("remote", "pt") == shards("local", "pt")


@pytest.mark.slow
def test_every_exchange_of_two_models_of_a_raw_zoo_shows(tmp_path, real_raw):
    """All pairs at all epochs, but the two models that both diverged in their first epoch; and no alarm without one."""
    for file, name, *_ in RAW_ZOOS:
        zd.build_repository(real_raw / file, tmp_path / name)
        verification = zd.verify_repository(tmp_path / name, name)
        assert verification.differences == ()
        rows = [row for split in zd.load_zoo(tmp_path / name, name).values() for row in split.to_list()]
        weights = {}
        for row in sorted(rows, key=lambda row: row["model_id"]):
            weights.setdefault(row["epoch"], []).append(row["weights"])
        epochs = {epoch: np.array(vectors, np.float64) for epoch, vectors in weights.items()}
        missed = 0
        for epoch, right in epochs.items():
            for pair in itertools.combinations(range(len(right)), 2):
                wrong = right.copy()
                wrong[list(pair)] = right[list(pair[::-1])]
                shows = epoch > 0 and pair in exchanges(epochs[epoch - 1], wrong, start=epoch == 1).pairs
                if not shows and epoch + 1 in epochs:
                    shows = pair in exchanges(wrong, epochs[epoch + 1], start=epoch == 0).pairs
                missed += not shows
        assert missed <= (name == "mnist_cnn_s_hyp_rand")


def test_the_papers_protocol_gives_what_its_code_gives(tmp_path, real_raw, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    build_repository(real_raw / "dataset_mnist_uniform.pt", tmp_path / "repo")
    settings = Settings(
        train="mnist_cnn_s", tests=("mnist_cnn_s",), targets=("test_acc", "epoch"), protocol="paper", split_by="source"
    )
    record = run_benchmark(tmp_path / "repo", settings)
    r2 = {(result.feature, result.target): result.scores["r2"].value for result in record.results}
    assert [entry["rows"] for entry in record.rows] == [24, 3, 9]
    assert r2["weights", "test_acc"] == pytest.approx(0.03, abs=0.02)
    assert r2["statistics", "test_acc"] == pytest.approx(0.84, abs=0.02)
    assert r2["statistics", "epoch"] == pytest.approx(0.78, abs=0.02)
