"""Raw zoos become rows; every trap of their files is handled, and what is left out is listed with its reason."""

import dataclasses
import json
import os
import shutil
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from raw_zoos import (
    HYP_ZOO,
    PARAMS,
    SEED_ZOO,
    TWIN_ZOO,
    make_twins,
    make_zoo,
    pruned,
    result_line,
    saved,
    state_dict,
    tarred,
    trial_name,
    weights_of,
    write_trial,
    zipped,
)

from zoo_datasets.builders import Reading, build_repository, open_source, zoo_builder
from zoo_datasets.builders.containers import folder as containers
from zoo_datasets.builders.shards import part as parts
from zoo_datasets.builders.sources.raw import losses as twin_losses
from zoo_datasets.builders.sources.raw import source as from_raw
from zoo_datasets.builders.sources.raw.names import parent_of, raw_model_id, read_folder_name, read_trial_name
from zoo_datasets.errors import RepositoryError, SourceError
from zoo_datasets.evaluation.verify.verify import verify_repository
from zoo_datasets.images.prepare import load_images
from zoo_datasets.loading.modules import evaluate
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.repository.row import split_of
from zoo_datasets.repository.where import parse_where
from zoo_datasets.specs.members import Limits


def rows_of(repo, name):
    """All rows by (trial's seed, epoch), read with pyarrow alone, with their split."""
    rows = []
    for shard in read_manifest(repo, name).shards:
        rows += [row | {"split": shard.split} for row in pq.read_table(repo / shard.path).to_pylist()]
    return {(row["seed"], row["epoch"]): row for row in rows}


def files_of(repo, name):
    return {file.name: file.read_bytes() for file in sorted((repo / name).glob("*.*")) if file.is_file()}


def left_out(repo, name):
    return [(entry.model, entry.epochs, entry.reason) for entry in read_manifest(repo, name).left_out]


def build(source, tmp_path, name=None, **options):
    return build_repository(source, tmp_path / "repo", name, **options)


@pytest.fixture
def zoo(tmp_path):
    return tmp_path / SEED_ZOO


def test_a_folder_becomes_rows_with_its_weights_figures_and_hyperparameters(tmp_path, zoo):
    folders = make_zoo(zoo)
    result = build(zoo, tmp_path)
    assert (result.config, result.rows, result.models, result.epochs) == ("mnist_cnn_s", 18, 6, (0, 1, 2))
    rows = rows_of(tmp_path / "repo", "mnist_cnn_s")
    for index, folder in enumerate(folders):
        for epoch in range(3):
            row = rows[index + 1, epoch]
            assert np.array(row["weights"], np.float32).tobytes() == weights_of(index + 1, epoch).numpy().tobytes()
            assert row["model_id"] == raw_model_id(SEED_ZOO, folder.name)
            assert row["split"] == split_of(row["model_id"])
            assert (row["images"], row["architecture"], row["in_channels"], row["classes"]) == ("mnist", "cnn_s", 1, 10)
            assert (row["activation"], row["init"], row["optimizer"], row["lr"]) == ("tanh", "uniform", "adam", 0.0003)
            assert (row["weight_decay"], row["momentum"], row["batch_size"], row["dropout"]) == (0.0, None, 10, 0.0)
            assert row["test_acc"] == np.float32(0.2 + epoch / 100)
            assert row["ggap"] == np.float32(row["train_acc"]) - np.float32(row["test_acc"])
            assert (row["parent_id"], row["sparsifier"], row["sparsity"], row["source_split"]) == (None,) * 4
    assert verify_repository(tmp_path / "repo", "mnist_cnn_s").ok
    assert (read_manifest(tmp_path / "repo", "mnist_cnn_s").zoo["doi"]) == "10.5281/zenodo.6632086"


def test_folder_zip_and_tar_give_the_same_shards_twice(tmp_path, zoo):
    make_zoo(zoo, epochs=(0, 5, 10))
    sources = [zoo, zipped(zoo), zipped(zoo).rename(tmp_path / "other.zip"), tarred(zoo), tarred(zoo, ".tar.gz")]
    sources[1] = zipped(zoo, zipfile.ZIP_DEFLATED)
    found = []
    for number, source in enumerate([*sources, zoo]):
        build_repository(source, tmp_path / str(number))
        found.append(files_of(tmp_path / str(number), "mnist_cnn_s"))
    assert all(files == found[0] for files in found)
    assert len(found[0]) >= 2


def test_the_arrow_builder_gives_the_same_rows(tmp_path, zoo):
    make_zoo(zoo, models=3)
    builder = zoo_builder(zoo, cache_dir=tmp_path / "cache")
    builder.download_and_prepare()
    rows = [row for split in builder.as_dataset().values() for row in split]
    build(zoo, tmp_path)
    expected = rows_of(tmp_path / "repo", "mnist_cnn_s")
    assert len(rows) == len(expected) == 9
    assert all(row["weights"] == expected[row["seed"], row["epoch"]]["weights"] for row in rows)


def test_dropout_moves_the_keys_and_both_kinds_live_in_one_zoo(tmp_path):
    zoo = tmp_path / HYP_ZOO
    make_zoo(zoo, models=4, varied=lambda index: {"model::dropout": 0.5 * (index % 2), "optim::optimizer": "sgd"})
    result = build(zoo, tmp_path)
    assert (result.config, result.rows, result.left_out) == ("mnist_cnn_s_hyp_rand", 12, ())
    rows = rows_of(tmp_path / "repo", result.config)
    for seed in range(1, 5):
        assert np.array_equal(np.array(rows[seed, 1]["weights"], np.float32), weights_of(seed, 1).numpy())
        assert (rows[seed, 1]["dropout"], rows[seed, 1]["momentum"]) == (0.5 * ((seed - 1) % 2), 0.9)


def test_checkpoints_are_ordered_by_number_under_both_names(tmp_path, zoo):
    make_zoo(zoo, models=2, epochs=(0, 2, 10), checkpoint_name="checkpoint_{}")
    assert build(zoo, tmp_path).epochs == (0, 2, 10)
    rows = rows_of(tmp_path / "repo", "mnist_cnn_s")
    assert np.array_equal(np.array(rows[1, 10]["weights"], np.float32), weights_of(1, 10).numpy())


def test_results_are_matched_by_iteration_and_the_last_report_counts(tmp_path, zoo):
    folder, other = make_zoo(zoo, models=2, epochs=(0, 1, 2))
    lines = [
        result_line(1, PARAMS, test_acc=0.9), result_line(2, PARAMS, test_acc=0.91),
        result_line(1, PARAMS, test_acc=0.5, test_loss=float("nan"), train_loss=float("inf")),
        "", result_line(2, PARAMS, val_loss=None)[:60],
    ]  # fmt: skip
    (folder / "result.json").write_text("\n".join(lines))
    result = build(zoo, tmp_path)
    assert (result.rows, result.left_out) == (6, ())
    rows = rows_of(tmp_path / "repo", "mnist_cnn_s")
    assert rows[1, 0]["test_acc"] is None
    assert rows[1, 1]["test_acc"] == 0.5
    assert np.isnan(rows[1, 1]["test_loss"])
    assert rows[1, 1]["train_loss"] == float("inf")
    assert rows[1, 2]["test_acc"] == np.float32(0.91)
    notes = read_manifest(tmp_path / "repo", "mnist_cnn_s").source["notes"]
    assert notes["result.json ends in half a line or holds lines that are not reports"] == 1
    assert notes["result.json reports epochs again (a resumed trial); the last report counts"] == 1
    assert notes["result.json does not report every epoch of which there is a checkpoint"] == 1
    assert other.exists()


@pytest.mark.parametrize(
    "config", [{"path": "/data/caf\udce9"}, {"seed": 10**400}, json.loads(f'{{"a": {"[" * 300}{"]" * 300}}}')]
)
def test_strange_configs_in_result_json_take_no_report_away(tmp_path, zoo, config):
    folder, *_ = make_zoo(zoo)
    lines = [result_line(epoch, config) for epoch in (0, 1, 2)]
    (folder / "result.json").write_text("\n".join(lines) + "\n")
    result = build_repository(zoo, tmp_path / "repo")
    assert not result.left_out
    assert not any("result.json" in warning for warning in result.warnings)


def test_numbers_beyond_all_bounds_are_no_epoch_and_no_hyperparameter(tmp_path, zoo):
    first, second, *_ = make_zoo(zoo)
    lines = (first / "result.json").read_text().splitlines()
    (first / "result.json").write_text("\n".join([*lines, json.dumps({"training_iteration": 10**400})]) + "\n")
    params = json.loads((second / "params.json").read_text())
    (second / "params.json").write_text(json.dumps(params | {"optim::lr": 10**400}))
    result = build_repository(zoo, tmp_path / "repo")
    assert any("half a line" in warning for warning in result.warnings)
    assert not result.left_out
    assert {row["lr"] for row in rows_of(tmp_path / "repo", result.config).values()} == {0.0003, None}


def test_what_cannot_be_listed_says_so(tmp_path, zoo, monkeypatch):
    trial, other, *_ = make_zoo(zoo)
    refused = {
        f"{trial.name}/": "it could not be listed: x",
        f"{other.name}/checkpoint_000001/": "it could not be listed: y",
    }
    original = containers.Folder.__init__

    def unreadable(self, path, threads=1):
        original(self, path, threads)
        inside = tuple(refused)
        self.entries = [entry for entry in self.entries if not entry.startswith(inside) or entry in refused]
        self.refused = {**self.refused, **refused}

    monkeypatch.setattr(containers.Folder, "__init__", unreadable)
    found = {entry.model: entry.reason for entry in build_repository(zoo, tmp_path / "repo").left_out}
    assert found == {trial.name: "it could not be listed: x", other.name: "it could not be listed: y"}


def test_values_that_no_figure_can_have_are_null_and_noted(tmp_path, zoo):
    folder, _ = make_zoo(zoo, models=2, epochs=(0,))
    (folder / "result.json").write_text(result_line(0, PARAMS, test_acc=97.5, val_acc="high", train_acc=True))
    build(zoo, tmp_path)
    row = rows_of(tmp_path / "repo", "mnist_cnn_s")[1, 0]
    assert (row["test_acc"], row["val_acc"], row["train_acc"]) == (None, None, None)
    assert verify_repository(tmp_path / "repo", "mnist_cnn_s").ok


def test_lying_metadata_is_noted_and_the_tensors_count(tmp_path, zoo):
    make_zoo(zoo, models=2, varied=lambda index: {"model::o_dim": 4})
    result = build(zoo, tmp_path)
    assert {row["classes"] for row in rows_of(tmp_path / "repo", "mnist_cnn_s").values()} == {10}
    assert "2 × params.json says model::o_dim = 4, the tensors 10" in result.warnings
    assert "2 × params.json says model::use_bias = false, the tensors have biases" in result.warnings


def damage(folders):
    """One kind of fault in each trial; gives the reasons that are expected, by trial and epoch."""
    checkpoint = "checkpoint_000001/checkpoints"
    whole = (folders[0] / checkpoint).read_bytes()
    state = state_dict(weights_of(1, 1))
    nan = weights_of(1, 1)
    nan[7] = float("nan")
    contents = {
        0: (whole[:5000], "cut short"),
        1: (b"", "is empty"),
        2: (saved(state_dict(nan)), "not finite"),
        3: (saved({**state, "module_list.20.weight": torch.ones(3)}), "'module_list.20.weight' [3] is surplus"),
        4: (saved(dict(list(state.items())[:-1])), "tensor 'fc2.bias' [10] is missing"),
        5: (saved({**state, "module_list.3.bias": torch.ones(7)}), "'module_list.3.bias' [7] stands where"),
        6: (saved(state, _use_new_zipfile_serialization=False), "old format"),
        7: (saved(state_dict(weights_of(1, 1, 10853 - 288), architecture="cnn_l")), "it is a cnn_l"),
        8: (saved({name: tensor.to(torch.float64) * 1e300 for name, tensor in state.items()}), "not finite"),
    }
    expected = {}
    for index, (data, reason) in contents.items():
        (folders[index] / checkpoint).write_bytes(data)
        expected[folders[index].name, (1,)] = reason
    (folders[9] / checkpoint).unlink()
    expected[folders[9].name, (1,)] = "holds no file named checkpoints"
    shutil.rmtree(folders[10] / "checkpoint_000001")
    expected[folders[10].name, (1,)] = "there is no checkpoint of this epoch, though result.json reports it"
    (folders[11] / "result.json").unlink()
    expected[folders[11].name, (0, 1, 2)] = "holds no result.json"
    (folders[12] / "result.json").write_text('{"training_iter')
    expected[folders[12].name, (0, 1, 2)] = "result.json reports no epoch"
    for file in ("params.json", "result.json"):
        (folders[13] / file).unlink()
    folders[13].rename(folders[13].with_name("NN_tune_trainable_odd"))
    expected["NN_tune_trainable_odd", (0, 1, 2)] = "tells its seed"
    (folders[14] / "params.json").write_text(json.dumps(PARAMS | {"seed": 15, "model::nlin": "swish"}))
    expected[folders[14].name, (0, 1, 2)] = "its activation is 'swish'"
    for inside in list(folders[15].iterdir()):
        shutil.rmtree(inside) if inside.is_dir() else inside.unlink()
    expected[folders[15].name, ()] = "holds no result.json; the folder holds no checkpoint"
    return expected


def test_every_fault_is_left_out_with_its_reason_and_the_counts_add_up(tmp_path, zoo):
    folders = make_zoo(zoo, models=20)
    expected = damage(folders)
    for source in (zoo, zipped(zoo), tarred(zoo)):
        result = build_repository(source, tmp_path / source.suffix)
        found = {(entry.model, entry.epochs): entry.reason for entry in result.left_out}
        assert found.keys() == expected.keys()
        for key, reason in expected.items():
            assert reason in found[key], key
        manifest = read_manifest(tmp_path / source.suffix, "mnist_cnn_s")
        assert (manifest.models.found, manifest.models.written, manifest.models.left_out) == (20, 15, 5)
        states = manifest.states
        assert (states.found, states.written, states.left_out) == (57, 57 - 23, 23)
        assert result.rows == 34
        assert verify_repository(tmp_path / source.suffix, "mnist_cnn_s").ok


def test_on_bad_fail_stops_and_names_the_first(tmp_path, zoo):
    folders = make_zoo(zoo, models=3)
    (folders[1] / "checkpoint_000002" / "checkpoints").write_bytes(b"junk")
    with pytest.raises(
        SourceError, match=rf"{folders[1].name} at epoch 2: it is not a zip archive.* left out and listed"
    ):
        build(zoo, tmp_path, on_bad="fail")
    assert not (tmp_path / "repo" / "README.md").exists()


def test_diverged_states_are_kept_when_asked_for(tmp_path, zoo):
    (folder,) = make_zoo(zoo, models=1, epochs=(0, 1))
    weights = weights_of(1, 1)
    weights[3] = float("inf")
    (folder / "checkpoint_000001" / "checkpoints").write_bytes(saved(state_dict(weights)))
    assert build(zoo, tmp_path).rows == 1
    assert build_repository(zoo, tmp_path / "kept", keep_nonfinite=True).rows == 2


def test_other_precisions_become_float32_and_are_recorded(tmp_path, zoo):
    folders = make_zoo(zoo, models=4, epochs=(1,))
    for folder, dtype in zip(folders, (torch.float16, torch.bfloat16, torch.float64, torch.float32), strict=True):
        state = {name: tensor.to(dtype) for name, tensor in state_dict(weights_of(1, 1)).items()}
        (folder / "checkpoint_000001" / "checkpoints").write_bytes(saved(state))
    build(zoo, tmp_path)
    rows = rows_of(tmp_path / "repo", "mnist_cnn_s")
    assert np.array_equal(np.array(rows[1, 1]["weights"], np.float32), weights_of(1, 1).half().float().numpy())
    assert np.array_equal(np.array(rows[3, 1]["weights"], np.float32), weights_of(1, 1).numpy())
    converted = read_manifest(tmp_path / "repo", "mnist_cnn_s").source["converted_to_float32"]
    assert converted == {"bfloat16": 1, "float16": 1, "float64": 1}


def test_stray_files_and_odd_folders_are_listed_and_disturb_nothing(tmp_path, zoo):
    folders = make_zoo(zoo, models=2)
    (zoo / "notes.txt").write_text("x")
    (zoo / "dataset.pt").write_bytes(b"images")
    (folders[0] / "plot.png").write_bytes(b"x")
    (folders[0] / "checkpoint_tmp123").mkdir()
    (folders[0] / "checkpoint_tmp123" / "checkpoints").write_bytes(b"x")
    (folders[0] / "checkpoint_2").mkdir()
    (folders[0] / "checkpoint_2" / "checkpoints").write_bytes(b"x")
    (zoo / "params.json").write_text("{}")
    folders[1].rename(zoo / "my model (copy) – ü")
    result = build(zoo, tmp_path)
    assert (result.rows, result.left_out) == (6, ())
    stray = read_manifest(tmp_path / "repo", "mnist_cnn_s").source["stray_files"]
    names = [path.rsplit("/", 1)[-1] for path in stray]
    assert sorted(names) == ["checkpoints", "checkpoints", "notes.txt", "params.json", "plot.png"]


def test_links_out_of_the_folder_are_not_followed(tmp_path, zoo):
    folders = make_zoo(zoo, models=2)
    secret = tmp_path / "secret"
    secret.write_bytes((folders[0] / "checkpoint_000001" / "checkpoints").read_bytes())
    file = folders[0] / "checkpoint_000001" / "checkpoints"
    file.unlink()
    file.symlink_to(secret)
    os.mkfifo(folders[1] / "checkpoint_000003")
    (folders[1] / "checkpoint_000002" / "checkpoints").unlink()
    os.mkfifo(folders[1] / "checkpoint_000002" / "checkpoints")
    result = build(zoo, tmp_path)
    assert result.rows == 4
    reasons = ("link out of the tree", "link or a device", "could not be read")
    assert all(any(reason in entry.reason for reason in reasons) for entry in result.left_out)
    tar = tarred(zoo)
    assert build_repository(tar, tmp_path / "tar").rows == 4


def test_images_and_kind_come_from_the_folder_or_the_name_given(tmp_path):
    make_zoo(tmp_path / "my_zoo", models=1, epochs=(0,))
    with pytest.raises(SourceError, match="cannot tell which images .* give --name mnist_cnn_s"):
        open_source(tmp_path / "my_zoo")
    result = build(tmp_path / "my_zoo", tmp_path, "f_mnist_mine")
    (row,) = rows_of(tmp_path / "repo", "f_mnist_mine").values()
    assert (result.config, row["images"], row["zoo"]) == ("f_mnist_mine", "fashion_mnist", "f_mnist_mine")
    (folder,) = (tmp_path / "my_zoo").iterdir()
    (folder / "params.json").write_text(json.dumps(PARAMS | {"seed": 1, "dataset::dump": "/zoos/usps_x/dataset.pt"}))
    assert open_source(tmp_path / "my_zoo").name == "usps_cnn_s"


@pytest.mark.parametrize(
    ("folder", "images", "suffix", "sparsifier", "percent"),
    [
        ("tune_zoo_mnist_uniform", "mnist", "", None, None),
        ("tune_zoo_f_mnist_hyperparameter_10_fixed_seeds", "fashion_mnist", "_hyp_fix", None, None),
        ("tune_zoo_cifar10_large_hyperparameter_10_random_seed", "cifar10", "_hyp_rand", None, None),
        ("tune_zoo_cifar100_resnet18_kaiming_uniform", "cifar100", "", None, None),
        ("tune_zoo_stl_large_hyperparameter_10_fixed_seed", "stl10", "_hyp_fix", None, None),
        ("tune_zoo_tinyimagenet_resnet18", "tiny_imagenet", "", None, None),
        ("cnn-large_cifar10_ard_vd", "cifar10", "", "variational_dropout", None),
        ("cnn-small_eurosat_magn_50", "eurosat", "", "magnitude", 50),
        ("cnn_small_mnist_ard", "mnist", "", "variational_dropout", None),
        ("standard_zoo", None, "", None, None),
    ],
)
def test_folder_names_tell_what_they_tell(folder, images, suffix, sparsifier, percent):
    found = read_folder_name(folder)
    assert (found.images, found.suffix, found.sparsifier, found.percent) == (images, suffix, sparsifier, percent)


def test_trial_names_tell_hyperparameters():
    name = trial_name(3, 77, {"model::dropout": 0.5, "model::init_type": "kaiming_uniform", "optim::lr": 0.001})
    assert read_trial_name(name) == {"dropout": 0.5, "init": "kaiming_uniform", "lr": 0.001, "seed": 77}
    assert read_trial_name("NN_tune_trainable_x_1_1_seed=abc_2022-05-11_11-21-37") == {}
    assert parent_of("zoos/a/NN_b/") == ("a", "NN_b")
    assert parent_of("zoos/a/NN_b/checkpoint_000050/checkpoints") == ("a", "NN_b")
    assert parent_of(None) is parent_of("alone") is None


def test_a_missing_params_json_is_replaced_by_the_folders_name(tmp_path, zoo):
    folders = make_zoo(zoo, models=2)
    (folders[0] / "params.json").unlink()
    (folders[1] / "params.json").write_text("{half")
    result = build(zoo, tmp_path)
    assert (result.rows, result.left_out) == (6, ())
    row = rows_of(tmp_path / "repo", "mnist_cnn_s")[1, 0]
    assert (row["activation"], row["lr"], row["seed"]) == ("tanh", 0.0003, 1)  # the published zoo's, all the same
    assert any("there is no params.json" in warning for warning in result.warnings)


def test_selections_are_made_before_anything_is_read(tmp_path, zoo):
    folders = make_zoo(zoo, models=6, varied=lambda index: {"optim::lr": 10.0 ** -(2 + index % 2)})
    (folders[0] / "checkpoint_000001" / "checkpoints").write_bytes(b"junk")

    def selected(**options):
        result = build_repository(zoo, tmp_path / "repo", reading=Reading(**options), replace=True)
        return sorted(rows_of(tmp_path / "repo", "mnist_cnn_s")), result

    keys, result = selected(epochs=frozenset({0, 2}), where=parse_where("lr < 0.005"))
    assert keys == [(seed, epoch) for seed in (2, 4, 6) for epoch in (0, 2)]
    assert result.left_out == ()
    keys, _ = selected(where=parse_where("test_acc > 0.205 and seed != 1"))
    assert keys == [(seed, epoch) for seed in range(2, 7) for epoch in (1, 2)]
    two, four = selected(models=2)[0], selected(models=4)[0]
    assert {seed for seed, _ in two} < {seed for seed, _ in four}
    with pytest.raises(SourceError, match="no state of it fits the selection"):
        selected(epochs=frozenset({9}))


def test_an_index_dict_is_compared_with_the_tensors(tmp_path, zoo):
    make_zoo(zoo, models=1, epochs=(0,))
    index = {"layer": [0, 3, 6, 9, 11],
             "idx_start": [0, 208, 1414, 1514, 2254], "idx_length": [208, 1206, 100, 740, 210],
             "kernel_no": [8, 6, 4, 20, 10], "kernel_size": [25, 25, 4, 1, 1],
             "channels_in": [1, 8, 6, 36, 20]}  # fmt: skip
    (zoo / "index_dict.json").write_text(json.dumps(index))
    assert not any("index_dict" in warning for warning in build(zoo, tmp_path).warnings)
    (zoo / "index_dict.json").write_text(json.dumps(index | {"kernel_no": [8, 6, 4, 20, 11]}))
    (warning,) = [w for w in build(zoo, tmp_path).warnings if "index_dict" in w]
    assert "kernel_no is not that of the tensors" in warning


def test_hostile_archives_are_refused_or_leave_their_members_out(tmp_path, zoo):
    make_zoo(zoo, models=2)
    archive = zipped(zoo)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as opened:
        folder = f"{SEED_ZOO}/{trial_name(7, 7)}"
        opened.writestr(f"{folder}/params.json", json.dumps(PARAMS | {"seed": 7}))
        opened.writestr(f"{folder}/result.json", result_line(0, PARAMS))
        opened.writestr(f"{folder}/checkpoint_0/checkpoints", bytes(50_000_000))
        opened.writestr(f"{folder}/checkpoint_1/../../../../evil/checkpoints", b"x")
        opened.writestr("/abs/checkpoint_1/checkpoints", b"x")
    result = build(archive, tmp_path)
    assert result.rows == 6
    (entry,) = result.left_out
    assert entry.epochs == (0,)
    assert "claim to hold 50,000,000: a zip bomb" in entry.reason
    stray = read_manifest(tmp_path / "repo", "mnist_cnn_s").source["stray_files"]
    assert stray == ["/abs/checkpoint_1/checkpoints", f"{folder}/checkpoint_1/../../../../evil/checkpoints"]
    for cut in (100, archive.stat().st_size // 2):
        broken = tmp_path / "broken.zip"
        broken.write_bytes(archive.read_bytes()[:cut])
        with pytest.raises(SourceError, match="is cut short"):
            open_source(broken)


def test_twins_have_acting_weights_their_parents_split_and_no_losses(tmp_path, zoo):
    parents = make_zoo(zoo, models=8, epochs=(0,))
    make_twins(tmp_path / TWIN_ZOO, parents)
    result = build(tmp_path / TWIN_ZOO, tmp_path)
    assert (result.config, result.rows, result.left_out) == ("mnist_cnn_s_sparse", 16, ())
    manifest = read_manifest(tmp_path / "repo", result.config)
    assert manifest.source["sparsity"] == {"as recorded": 16}
    rows = rows_of(tmp_path / "repo", result.config)
    for index, parent in enumerate(parents):
        row = rows[index + 1, 1]  # the parent's seed, though params.json says 1 for all
        assert row["parent_id"] == raw_model_id(SEED_ZOO, parent.name)
        assert row["split"] == split_of(row["parent_id"])
        assert (row["sparsifier"], row["test_loss"], row["val_loss"]) == ("variational_dropout", None, None)
        assert row["test_acc"] == np.float32(0.21)
        weights = weights_of(1000 + index, 1)
        expected = pruned(weights, -4.0)
        for start, end in ((2234, 2254), (2454, 2464)):  # biases of linear layers are never pruned
            expected[start:end] = weights[start:end]
        assert np.array_equal(np.array(row["weights"], np.float32), expected.numpy())
        assert 0.1 < row["sparsity"] < 0.9
    assert verify_repository(tmp_path / "repo", result.config).ok


def test_log_sigma2_means_and_recorded_losses_are_columns_when_asked_for(tmp_path, zoo):
    parents = make_zoo(zoo, models=3, epochs=(0,))
    make_twins(tmp_path / TWIN_ZOO, parents)
    result = build(tmp_path / TWIN_ZOO, tmp_path, reading=Reading(keep_log_sigma2=True))
    for row in rows_of(tmp_path / "repo", result.config).values():
        noise = np.array(row["log_sigma2"], np.float32)
        assert set(noise[:2234]) == {-4.0}
        assert set(noise[2234:2254]) == set(noise[2454:]) == {-np.inf}
        weights, means = (np.array(row[name], np.float32) for name in ("weights", "means"))
        assert np.array_equal(means[weights != 0], weights[weights != 0])
        assert (means != 0).all()
        assert row["recorded_test_loss"] == -15
    assert verify_repository(tmp_path / "repo", result.config).ok
    loaded = load_dataset(str(tmp_path / "repo"), result.config, cache_dir=str(tmp_path / "cache"))
    assert all(len(row["log_sigma2"]) == 2464 for split in loaded.values() for row in split)
    with pytest.raises(SourceError, match="holds no log_sigma2"):
        build(zoo, tmp_path, reading=Reading(keep_log_sigma2=True))


@pytest.mark.parametrize("piece", [1, 4_000_000])
def test_a_dense_checkpoint_among_twins_has_no_noise(tmp_path, zoo, monkeypatch, piece):
    for module in (parts, from_raw):
        monkeypatch.setattr(module, "SMALL_PIECE_BYTES", piece)
    parents = make_zoo(zoo, models=4, epochs=(0,))
    for twin in make_twins(tmp_path / TWIN_ZOO, parents, epochs=(0, 1, 2)):
        (twin / "checkpoint_000000" / "checkpoints").write_bytes(saved(state_dict(weights_of(5, 0))))
    result = build(tmp_path / TWIN_ZOO, tmp_path, reading=Reading(keep_log_sigma2=True))
    assert result.rows == 12
    for (_, epoch), row in rows_of(tmp_path / "repo", result.config).items():
        assert (set(row["log_sigma2"]) == {-np.inf}) == (epoch == 0)
        assert epoch or row["means"] == row["weights"] == weights_of(5, 0).tolist()


def test_twins_take_hyperparameters_from_the_parents_where_they_are_at_hand(tmp_path):
    zoo = tmp_path / "parents" / SEED_ZOO
    parents = make_zoo(zoo, models=2, epochs=(0,))
    for index, parent in enumerate(parents):
        (parent / "params.json").write_text(json.dumps(PARAMS | {"seed": index + 1, "optim::lr": 0.5}))
    make_twins(tmp_path / TWIN_ZOO, parents)
    config = build(tmp_path / TWIN_ZOO, tmp_path).config
    assert {row["lr"] for row in rows_of(tmp_path / "repo", config).values()} == {0.0003}
    source = read_manifest(tmp_path / "repo", config).source
    assert source["parents"] == "the names of their folders"
    build(tmp_path / TWIN_ZOO, tmp_path, reading=Reading(parents=zipped(zoo)))
    assert {row["lr"] for row in rows_of(tmp_path / "repo", config).values()} == {0.5}
    shutil.move(tmp_path / TWIN_ZOO, tmp_path / "parents")
    build(tmp_path / "parents" / TWIN_ZOO, tmp_path)
    assert {row["lr"] for row in rows_of(tmp_path / "repo", config).values()} == {0.5}


def test_magnitude_pruned_twins_are_plain_or_masked(tmp_path):
    parents = make_zoo(tmp_path / "tune_zoo_eurosat_cnn_kaiming_uniform", models=3, epochs=(0,))
    for masked in (False, True):
        name = f"cnn-small_eurosat_magn_{50 + masked}"
        for index, parent in enumerate(parents):
            weights = weights_of(index, 0)
            mask = {key: (value.abs() > 0.07).float() for key, value in state_dict(weights).items()}
            state = {}
            for key, value in state_dict(weights).items():
                if masked and key.endswith("weight"):
                    state |= {f"{key}_orig": value, f"{key}_mask": mask[key]}
                else:
                    state[key] = value * mask[key] if key.endswith("weight") else value
            params = PARAMS | {"training::init_checkpoint_path": f"zoos/{parent.parent.name}/{parent.name}"}
            write_trial(tmp_path / name / trial_name(index, index), params, {0: saved(state)})
        result = build(tmp_path / name, tmp_path)
        assert (result.config, result.rows) == (f"eurosat_cnn_s_magnitude{50 + masked}", 3)
    plain, pruned_rows = (rows_of(tmp_path / "repo", f"eurosat_cnn_s_magnitude{p}") for p in (50, 51))
    for key, row in plain.items():
        assert row["weights"] == pruned_rows[key]["weights"]
        assert (row["sparsifier"], row["sparsity"]) == ("magnitude", pruned_rows[key]["sparsity"])
        assert row["sparsity"] > 0.3


def test_losses_of_twins_become_cross_entropy_where_images_are_given(tmp_path, monkeypatch):
    """What is recorded is cross-entropy + β·KL, here written as plainly as the formulas."""
    parents = make_zoo(tmp_path / "tune_zoo_digits_uniform", models=4, epochs=(0,))
    folders = make_twins(tmp_path / "cnn_small_digits_ard", parents, epochs=(0, 1, 2))
    images = load_images("digits", "cnn_s")
    monkeypatch.setattr(twin_losses, "load_images", lambda name, architecture, source: images)
    data = images.limited(Limits(val=40, test=30))
    for index, folder in enumerate(folders):
        lines = []
        for epoch in (0, 1, 2):
            state = torch.load(folder / f"checkpoint_{epoch:06d}" / "checkpoints", weights_only=True)
            kl, acting = torch.zeros((), dtype=torch.float64), []
            for name, values in state.items():
                if "log_sigma2" in name:
                    continue
                linear = state[f"{name.rpartition('.')[0]}.weight"].ndim == 2
                if name.endswith("bias") and linear:
                    acting.append(values)
                    continue
                a = torch.clamp(-4 - 2 * torch.log(values.abs() + 1e-15), *((-10, 10) if linear else (-8, 8))).double()
                kl -= (0.63576 * torch.sigmoid(1.8732 + 1.48695 * a) - 0.5 * torch.log1p(torch.exp(-a)) - 0.63576).sum()
                acting.append(pruned(values, -4.0))
            flat = torch.cat([values.reshape(-1) for values in acting])[None]
            (loss,), (accuracy,) = (each.tolist() for each in evaluate(flat, data, "cnn_s", "tanh"))
            recorded = loss + 0.01 * (epoch - 1) / 2 * kl.item()
            wrong = 0.01 * ((index, epoch) == (3, 2))
            figures = {"test_loss": recorded + wrong, "test_acc": accuracy, "val_loss": None, "val_acc": None}
            lines.append(result_line(epoch, PARAMS, sparsity_ratio=0.5, **figures))
        (folder / "result.json").write_text("\n".join(lines))
    reading = Reading(images=tmp_path, keep_log_sigma2=True, limits=Limits(val=40, test=30))
    result = build(tmp_path / "cnn_small_digits_ard", tmp_path, reading=reading)
    assert any("1 × a recorded loss is not the recomputed cross-entropy + β·KL" in line for line in result.warnings)
    losses = read_manifest(tmp_path / "repo", "digits_cnn_s_sparse").source["losses"]
    assert losses["recorded"] == {"as recomputed": 11, "not as recomputed": 1}
    for row in rows_of(tmp_path / "repo", "digits_cnn_s_sparse").values():
        assert row["train_loss"] is None
        assert 0 < row["test_loss"] < 20
        assert None not in (row["val_loss"], row["val_acc"], row["recorded_test_loss"])
        assert row["kl_weight"] == 0.01 * (row["epoch"] - 1) / 2
    for column in ("val_loss", "test_loss", "val_acc"):  # its recorded test_acc is kept
        asking = dataclasses.replace(reading, where=parse_where(f"epoch == 1 or {column} > 0.5"))
        with pytest.raises(SourceError, match=f"digits_ard: {column} will be computed from the weights"):
            build(tmp_path / "cnn_small_digits_ard", tmp_path / "few", reading=asking)
    asking = dataclasses.replace(reading, where=parse_where("epoch == 1 and test_acc <= 1 and ggap > -1"))
    assert build(tmp_path / "cnn_small_digits_ard", tmp_path / "few", reading=asking).rows == 4
    verification = verify_repository(tmp_path / "repo", "digits_cnn_s_sparse", images=images)
    (difference,) = verification.differences
    assert "recorded_test_loss is" in difference.message
    assert "of β·KL" in difference.message
    with pytest.raises(RepositoryError, match="built from another source"):
        build(tmp_path / "cnn_small_digits_ard", tmp_path, reading=Reading(keep_log_sigma2=True))
