"""Falsified rows whose hashes were written anew: what verify says of each column, and what it says it cannot check."""

import json
import shutil
from functools import partial

import numpy as np
import plain
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zoo_datasets.builders import build_repository, open_source
from zoo_datasets.builders.sources.raw.export import export_raw, source_rows
from zoo_datasets.evaluation.verify import verify_repository
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.repository.row import COLUMNS, NAMES, WEIGHTS, weights_matrix
from zoo_datasets.storage.files import sha256_of
from zoo_datasets.training import train_zoo
from zoo_datasets.training.population.opening import open_run
from zoo_datasets.training.population.parents import open_parents
from zoo_datasets.training.population.twins import twins_of_parents
from zoo_datasets.training.train import train_population

TRAINED, IMPORTED, TWINS = "trained", "imported", "pruned"
ZOO = plain.tiny_zoo(
    activation=("tanh", "relu"), init=("uniform", "normal"), epochs=2, dropout=(0.0, 0.3), lr=(1e-3, 3e-3), seeds=1,
    seed_kind="random", entropy=3,
)  # fmt: skip
META = [name for name in NAMES if name != WEIGHTS]


@pytest.fixture(scope="module")
def images():
    return plain.tiny_images()


@pytest.fixture(scope="module")
def sound(tmp_path_factory, images):
    """A zoo trained here, its pruned twins, and the same zoo as it is imported."""
    folder = tmp_path_factory.mktemp("tampering")
    run = train_zoo(ZOO, folder / "run", images)
    build_repository(run.path, folder / "repo", name=TRAINED)
    population = twins_of_parents(open_parents(run.path), "magnitude", amount=0.5, epochs=2)
    twins = train_population(partial(open_run, population, folder / "twins", images), images)
    build_repository(twins.path, folder / "repo", name=TWINS)
    raw = export_raw(source_rows(open_source(run.path)), folder / "raw")
    build_repository(raw.folder, folder / "repo", name=IMPORTED)
    return folder / "repo"


@pytest.fixture
def repo(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "repo")


def tamper(repo, config, change, split="train"):
    """Change a split's rows, as one table, and write shard, light config, manifest and card as if nothing had been."""
    manifest = read_manifest(repo, config)
    (shard,) = (one for one in manifest.shards if one.split == split)
    (light,) = (one for one in manifest.meta if one.split == split)
    table = pq.read_table(repo / shard.path, partitioning=None)
    changed = change(table).combine_chunks()
    value = json.loads((repo / "_meta" / config / "manifest.json").read_text())
    card = (repo / "README.md").read_text()
    sizes = [pq.ParquetFile(repo / shard.path).metadata.row_group(0).num_rows, 10**6]
    schema = pq.read_schema(repo / light.path)
    for file, rows, size in ((shard, changed, sizes[0]), (light, changed.select(META).cast(schema), sizes[1])):
        path = repo / file.path
        pq.write_table(rows, path, row_group_size=size)
        digest = sha256_of(path)
        renamed = path.rename(path.with_name(f"{path.stem[:-16]}{digest[:16]}.parquet"))
        for entry in (*value["shards"], *value["meta"]):
            if entry["path"] == file.path:
                name = renamed.relative_to(repo).as_posix()
                entry |= {"path": name, "sha256": digest, "bytes": renamed.stat().st_size}
        card = card.replace(path.name, renamed.name)
    (repo / "_meta" / config / "manifest.json").write_text(json.dumps(value))
    (repo / "README.md").write_text(card)


def with_values(table, name, change, places):
    """A column changed at some places; `change` makes the false value of the true one."""
    column = table.schema.field(name)
    values = table[name].to_pylist()
    for place in places:
        values[place] = change(values[place])
    return table.set_column(table.schema.get_field_index(name), column, pa.array(values, column.type))


def one_row(table, epoch=1):
    """The place of the first row of an epoch."""
    return [table["epoch"].to_pylist().index(epoch)]


def one_model(table):
    """The places of all rows of the first model."""
    models = table["model_id"].to_pylist()
    return [place for place, model in enumerate(models) if model == models[0]]


def falsify(name, change, places):
    return lambda table: with_values(table, name, change, places(table))


def false_of(name):
    """A false value for a column's true one, of its type and plausible where it can be."""
    other = {
        "lr": 3e-3, "dropout": 0.3, "weight_decay": 1e-4, "momentum": 0.5, "batch_size": 64, "seed": 2,
        "activation": "relu", "init": "normal", "optimizer": "sgd", "images": "fashion_mnist", "architecture": "cnn_l",
        "in_channels": 3, "classes": 11, "zoo": "other", "epoch": 2, "sparsifier": "magnitude", "sparsity": 0.25,
        "source_split": "train", "model_id": "0" * 32, "parent_id": "0" * 32,
    }  # fmt: skip
    if name in other:
        again = {"lr": 1e-3, "dropout": 0.0, "activation": "tanh", "init": "uniform", "seed": 1, "sparsifier": None}
        return lambda value: again.get(name) if value == other[name] else other[name]
    return lambda value: 1.01 * value + 0.1 if value < 0.5 or name.endswith("loss") else value - 0.1


# What is falsified in one row of epoch 1, and the checks that say so; none: verify names the column among those that it
# cannot check. `weights` is below.
ROW = {
    "zoo": "rows", "model_id": "rows", "epoch": "rows", "images": "rows", "architecture": "rows", "in_channels": "rows",
    "classes": "rows", "seed": "recipes", "activation": "recipes", "init": "recipes", "optimizer": "recipes",
    "dropout": "recipes", "lr": "recipes", "weight_decay": "recipes", "momentum": "recipes", "batch_size": "recipes",
    "train_loss": None, "train_acc": "rows", "val_loss": "figures", "val_acc": "figures", "test_loss": "figures",
    "test_acc": "rows", "ggap": "rows", "parent_id": "recipes", "sparsifier": "rows", "sparsity": "rows",
    "source_split": "recipes",
}  # fmt: skip
# The same in all rows of a model. An imported zoo tells nothing of its hyperparameters but in its rows and manifest.
MODEL = {
    TRAINED: dict.fromkeys(
        ("model_id", "seed", "activation", "init", "optimizer", "dropout", "lr", "weight_decay", "momentum",
         "batch_size", "source_split"), "recipes",
    ) | {"train_loss": "figures", "parent_id": "recipes", "sparsity": "rows"},
    IMPORTED: {
        "optimizer": "recipes", "weight_decay": "recipes", "activation": "figures", "lr": None, "dropout": None,
        "init": None, "seed": None, "momentum": None, "batch_size": None, "train_loss": None,
    },
    TWINS: {
        "model_id": "recipes", "parent_id": "recipes", "lr": "parents", "dropout": "parents", "seed": "parents",
        "batch_size": "parents", "momentum": "parents", "activation": "parents", "sparsity": "rows",
        "source_split": "recipes", "sparsifier": "rows",
    },
}  # fmt: skip
CASES = [
    *((TRAINED, name, one_row, check) for name, check in ROW.items()),
    *((IMPORTED, name, one_row, ROW[name]) for name in ("model_id", "seed", "lr", "images", "val_loss", "sparsity")),
    *((config, name, one_model, check) for config, columns in MODEL.items() for name, check in columns.items()),
]


def test_every_column_has_its_line_in_the_table():
    assert {*ROW, WEIGHTS} == {column.name for column in COLUMNS}


@pytest.mark.parametrize(
    ("config", "column", "places", "check"),
    CASES,
    ids=[f"{config}-{name}-{places.__name__}" for config, name, places, _ in CASES],
)
def test_a_falsified_column_is_found_or_named_as_unchecked(repo, images, config, column, places, check):
    tamper(repo, config, falsify(column, false_of(column), places))
    verification = verify_repository(repo, config, images=images if check in ("figures", None) else None, sample=None)
    checks = {difference.check for difference in verification.differences}
    if check is None:
        assert checks == set()
        assert any(column in text for text in verification.unchecked), verification.unchecked
    else:
        assert check in checks, verification.differences


def test_sound_zoos_pass_and_say_what_was_not_checked(sound, images):
    for name, unchecked in (
        (TRAINED, ["train_loss and train_acc after epoch 0, which"]),
        (TWINS, ["train_loss and train_acc after epoch 0, which"]),
        (IMPORTED, ["whether seed, init, optimizer, dropout, lr,", "train_loss and train_acc, which are"]),
    ):
        verification = verify_repository(sound, name, images=images, sample=None)
        assert verification.differences == ()
        assert verification.recomputed == verification.rows
        assert [text[: len(start)] for text, start in zip(verification.unchecked, unchecked, strict=True)] == unchecked
    assert verify_repository(sound, TRAINED).unchecked == ("figures, as there are no images",)
    sampled = verify_repository(sound, TRAINED, images=images, sample=3)
    assert sampled.unchecked[0] == "validation and test figures of 45 rows outside the sample"


def with_weights(table, weights):
    column = table.schema.field(WEIGHTS)
    array = pa.FixedSizeListArray.from_arrays(pa.array(weights.ravel()), type=column.type)
    return table.set_column(table.schema.get_field_index(WEIGHTS), column, array)


@pytest.mark.parametrize("config", [TRAINED, IMPORTED, TWINS])
def test_exchanged_rows_are_found_whoever_and_whenever(sound, tmp_path, config):
    """Over many seeds: two models, and the epoch at which all but their ids and hyperparameters are exchanged."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        repo = shutil.copytree(sound, tmp_path / f"repo-{seed}")
        names = []

        def exchange(table, rng=rng, names=names):
            epochs, models = (np.array(table[name].to_pylist()) for name in ("epoch", "model_id"))
            epoch = rng.choice(np.unique(epochs))
            first, second = rng.permutation(np.flatnonzero(epochs == epoch))[:2]
            names += [models[first], models[second]]
            order = np.arange(len(table))
            order[[first, second]] = second, first
            moved = [name for name in NAMES if name.endswith(("_loss", "_acc", "ggap", "sparsity"))]
            for name in moved:
                table = table.set_column(
                    table.schema.get_field_index(name), table.schema.field(name), table[name].take(order)
                )
            return with_weights(table, weights_matrix(table)[order])

        tamper(repo, config, exchange)
        verification = verify_repository(repo, config)
        messages = [one.message for one in verification.differences if one.check in ("continuity", "start")]
        assert any(names[0] in message for message in messages), (seed, verification.differences)


def test_copied_and_revived_weights_are_found(repo):
    def copy(table):
        weights = weights_matrix(table).copy()
        place = one_row(table, 2)[0]
        weights[place] = weights[place + 1]
        return with_weights(table, weights)

    def revive(table):
        weights = weights_matrix(table).copy()
        place = one_row(table, 2)[0]
        weights[place, np.flatnonzero(weights[place] == 0)[0]] = 1e-3
        return with_weights(table, weights)

    tamper(repo, IMPORTED, copy)
    assert any(
        "have the same weights at epoch 2" in one.message for one in verify_repository(repo, IMPORTED).differences
    )
    tamper(repo, TWINS, revive)
    differences = verify_repository(repo, TWINS).differences
    assert any("1 weights that were pruned at epoch 1 are not zero" in one.message for one in differences)


def test_a_weight_of_epoch_0_and_another_parent_are_found(repo):
    def shift(table):
        weights = weights_matrix(table).copy()
        weights[one_row(table, 0)[0], 7] += 1e-3
        return with_weights(table, weights)

    tamper(repo, TRAINED, shift)
    (difference,) = verify_repository(repo, TRAINED).differences
    assert difference.check == "start"
    assert "are not those of seed" in difference.message

    parents = pq.read_table(repo / read_manifest(repo, TWINS).shards[0].path)["parent_id"].to_pylist()
    other = next(parent for parent in parents if parent != parents[0])
    tamper(repo, TWINS, falsify("parent_id", lambda value: other, one_model))
    messages = [one.message for one in verify_repository(repo, TWINS).differences if one.check == "parents"]
    assert any(f"begins near model {parents[0]}, its parent_id says {other}" in message for message in messages)


def test_a_light_config_of_other_values_is_found(repo):
    (light,) = (one for one in read_manifest(repo, TRAINED).meta if one.split == "train")
    table = falsify("lr", false_of("lr"), one_row)(pq.read_table(repo / light.path, partitioning=None))
    pq.write_table(table, repo / light.path)
    messages = [one.message for one in verify_repository(repo, TRAINED).differences if one.check == "rows"]
    assert any(message.endswith("rows are not those of the shards: lr") for message in messages), messages
