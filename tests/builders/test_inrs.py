"""Published sets of INRs: what names and files say becomes columns, tensors come back, and PSNR is recomputed."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from field_files import dws_mnist, picture_of, psnr_of, save, siren, value_at, write_images
from state_folders import rows_of, same
from typer.testing import CliRunner

import zoo_datasets as zd
from zoo_datasets.builders import Reading, StateDictOptions, build_repository
from zoo_datasets.cli.app import app
from zoo_datasets.errors import SourceError
from zoo_datasets.images.signals import Signals
from zoo_datasets.repository.manifest import read_manifest


def build(source, repo, name=None, **reading):
    where = reading.pop("where", None)
    result = build_repository(source, repo, name, reading=Reading(state_dicts=StateDictOptions(where=where), **reading))
    return {row["model_id"]: row for row in rows_of(repo, result.config)}


def test_mnist_inrs_of_dwsnets(tmp_path):
    folder, states = dws_mnist(tmp_path)
    rows = build(folder, tmp_path / "repo")
    assert rows.keys() == states.keys()
    for name, row in rows.items():
        *_, split, label, number = name.split("_")
        assert same(row["state"], states[name])
        part = {"training": "train", "testing": "test"}[split]
        assert (row["label"], row["signal_index"]) == (int(label), int(number))
        assert (row["signal_split"], row["source_split"]) == (part, part)
        assert (row["images"], row["architecture"], row["task"]) == ("mnist", "siren", "field")
        assert (row["in_channels"], row["classes"]) == (2, 1)
        assert (row["omega"], row["omega_hidden"], row["output_offset"], row["grid"]) == (30, 30, 0.5, "xy[-1,1]")
        assert (row["optimizer"], row["lr"], row["test_acc"]) == (None, None, None)
    manifest = read_manifest(tmp_path / "repo", "dws_mnist_inrs")
    assert manifest is not None
    assert manifest.source["credit"]["authors"].startswith("Aviv Navon")
    assert "AvivNavon/DWSNets" in manifest.source["convention_from"]


@pytest.mark.parametrize("form", ["zip", "tar", "gztar"])
def test_archives_give_the_rows_of_the_folder(tmp_path, form):
    folder, _ = dws_mnist(tmp_path / "in")
    archive = shutil.make_archive(str(tmp_path / "mnist-inrs"), form, tmp_path / "in")
    first, second = build(folder, tmp_path / "one"), build(Path(archive), tmp_path / "two")
    assert first.keys() == second.keys()
    assert all(same(row["state"], second[name]["state"]) for name, row in first.items())
    assert [row["label"] for row in first.values()] == [row["label"] for row in second.values()]


def test_what_is_no_network_of_the_set_is_counted_and_listed(tmp_path):
    folder, states = dws_mnist(tmp_path)
    (folder / "mnist_png_training_0_0/checkpoints/model_final.pth").write_bytes(b"PK\3\4 cut short")
    save(folder, {"statistics.pth": {"mean": torch.zeros(3)}})
    result = build_repository(folder, tmp_path / "repo")
    manifest = read_manifest(tmp_path / "repo", result.config)
    assert manifest is not None
    assert (manifest.states.found, manifest.states.written, manifest.states.left_out) == (len(states) + 1, 5, 2)
    assert {Path(entry.model).name for entry in manifest.left_out} == {"statistics.pth", "model_final.pth"}


def test_fashion_inrs_tell_their_label_inside_and_their_split_beside(tmp_path):
    names = {"train": ["0", "net_1"], "val": ["2"], "test": ["3"]}
    files = {f"{split}/{name}.pth": siren(at) | {"label": at + 4}
             for split, here in names.items() for at, name in enumerate(here)}  # fmt: skip
    lists = {"train": ["/cluster/x/train/0.pth"], "val": ["/cluster/x/train/net_1.pth", "/cluster/x/val/2.pth"]}
    folder = save(tmp_path / "fmnist_inrs", files | {"splits.json": lists})
    rows = build(folder, tmp_path / "repo")
    assert {name: row["source_split"] for name, row in rows.items()} == {
        "train/0": "train", "train/net_1": "val", "val/2": "val", "test/3": None,
    }  # fmt: skip
    assert {name: row["label"] for name, row in rows.items()} == {
        "train/0": 4,
        "train/net_1": 5,
        "val/2": 4,
        "test/3": 4,
    }
    assert {row["signal_index"] for row in rows.values()} == {0, 1, 2, 3}
    assert {row["images"] for row in rows.values()} == {"fashion_mnist"}


def test_copies_of_nfn_stay_with_their_signal(tmp_path):
    stems = ("net.0.linear", "net.1.linear", "net.2")
    numbers = [0, 7, 44_999, 45_000, 50_000]
    files = {f"randinit_smaller{copy}_{at % 2}s/net{number}.pth": siren(at, stems, out=3)
             for at, number in enumerate(numbers) for copy in ("", "_aug0", "_aug12")}  # fmt: skip
    folder = save(tmp_path / "siren_cifar_wts", files)
    rows = build(folder, tmp_path / "repo")
    assert len(rows) == 15
    assert {row["signal_index"]: row["source_split"] for row in rows.values()} == {
        0: "train", 7: "train", 44_999: "train", 45_000: "val", 50_000: "test",
    }  # fmt: skip
    assert {row["copy"] for row in rows.values()} == {None, 0, 12}
    assert {row["images"] for row in rows.values()} == {"cifar10"}
    assert len({row["group"] for row in rows.values()}) == 5
    loaded = zd.load_zoo(tmp_path / "repo", "nfn_cifar10_inrs")
    places = {}
    for split, part in loaded.items():
        for number in part["signal_index"]:
            places.setdefault(number, set()).add(split)
    assert all(len(splits) == 1 for splits in places.values())
    row = rows["randinit_smaller_aug12_1s/net7"]
    expected = picture_of(siren(1, stems, out=3), 5, first="row", offset=0) * 0.5 + 0.5
    assert np.allclose(zd.render(row, 5)[0].numpy(), expected, atol=1e-5)


def test_implicit_zoo_is_read_in_its_zip_with_its_psnr(tmp_path):
    states = [{"image_idx": at, "params": siren(at, out=3)} for at in range(3)]
    files = {f"cifar_inrs_dataset/{split}/ckpts/{at % 2:02d}/{at:06d}_0000042.ckpt": state
             for split in ("train", "eval") for at, state in enumerate(states)}  # fmt: skip
    folder = save(tmp_path / "in", files | {"cifar_inrs_dataset/train/0_3.json": {"0": 31.5, "1": 30.25, "9": 40.0}})
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), "zip", folder))
    rows = build(archive, tmp_path / "repo")
    assert len(rows) == 6
    train = {row["signal_index"]: row for row in rows.values() if row["source_split"] == "train"}
    assert {at: row["psnr"] for at, row in train.items()} == {0: 31.5, 1: 30.25, 2: None}
    assert {row["psnr"] for row in rows.values() if row["source_split"] == "eval"} == {None}
    assert all((row["image_idx"], row["label"], row["seed"]) == (at, at % 2, 42) for at, row in train.items())
    assert same(train[1]["state"], siren(1, out=3))


def test_a_selection_opens_no_other_file(tmp_path):
    folder, _ = dws_mnist(tmp_path)
    for file in sorted(folder.rglob("*.pth"))[2:]:
        file.write_bytes(b"nothing that can be read")
    (first, second, *_) = sorted(path.name for path in folder.iterdir())
    assert build(folder, tmp_path / "a", models=2).keys() == {first, second}
    chosen = build(folder, tmp_path / "b", where='label == 1 and source_split == "test"')
    assert chosen.keys() == {first}
    manifest = read_manifest(tmp_path / "b", "dws_mnist_inrs")
    assert manifest is not None
    assert (manifest.states.found, manifest.states.left_out) == (1, 0)
    with pytest.raises(SourceError, match="fits the selection"):
        build(folder, tmp_path / "c", epochs=frozenset({3}), models=2)


def test_other_folders_of_state_dicts_are_no_set(tmp_path):
    folder = save(tmp_path / "mnist", {"train/0.pth": siren(0), "val/1.pth": siren(1)})
    with pytest.raises(SourceError, match="--name"):
        build_repository(folder, tmp_path / "repo")
    rows = build(folder, tmp_path / "repo", "mine")
    assert {row["task"] for row in rows.values()} == {None}
    with pytest.raises(Exception, match="not recorded"):
        zd.to_module(next(iter(rows.values())))


def test_the_users_splits_count_before_those_of_names(tmp_path):
    folder, _ = dws_mnist(tmp_path)
    splits = {"train": ["mnist-inrs/mnist_png_training_0_0/checkpoints/model_final.pth"]}
    (tmp_path / "mnist_splits.json").write_text(json.dumps(splits))
    rows = build(folder, tmp_path / "repo", splits=tmp_path / "mnist_splits.json")
    assert {name for name, row in rows.items() if row["source_split"] == "train"} == {"mnist_png_training_0_0"}
    assert {row["signal_split"] for row in rows.values()} == {"train", "test"}


# PSNR


@pytest.fixture
def fitted(tmp_path):
    """A set whose networks draw its images up to rounding, with their PSNR, and a folder with the images."""
    folder, states = dws_mnist(tmp_path / "set")
    pixels = {"train": [], "test": []}
    figures = {}
    for at, (name, state) in enumerate(states.items()):
        drawn = picture_of(state)
        noise = np.random.default_rng(at).normal(0, 12, drawn.shape)
        image = np.clip(np.rint(drawn * 255 + noise), 0, 255).astype(np.uint8)
        figures[name] = psnr_of(drawn, image)
        pixels["train"].append(image[0])
        pixels["test"].append(image[0])
    (tmp_path / "set" / "psnr.json").write_text(json.dumps(figures))
    return folder, figures, write_images(tmp_path / "images", pixels)


def test_psnr_is_recomputed_from_weights_and_images(tmp_path, fitted):
    folder, figures, images = fitted
    rows = build(folder, tmp_path / "repo")
    assert {name: row["psnr"] for name, row in rows.items()} == figures
    result = CliRunner().invoke(app, ["verify", str(tmp_path / "repo"), "dws_mnist_inrs", "--images", str(images)])
    assert result.exit_code == 0, result.output
    assert "psnr of 6 of 6 rows" in result.output
    without = zd.verify_repository(tmp_path / "repo", "dws_mnist_inrs")
    assert "psnr, as there are no images" in without.unchecked


def test_a_wrong_psnr_is_told(tmp_path, fitted):
    folder, figures, images = fitted
    wrong = "mnist_png_training_1_1"
    figures[wrong] += 0.011
    (folder.parent / "psnr.json").write_text(json.dumps(figures))
    build(folder, tmp_path / "repo")
    found = zd.verify_repository(tmp_path / "repo", "dws_mnist_inrs", signals=Signals("mnist", images))
    assert [difference.check for difference in found.differences] == ["figures"]
    assert wrong in found.differences[0].message
    assert found.recomputed == 6


def test_the_report_shows_what_networks_draw(tmp_path, fitted):
    folder, figures, images = fitted
    build(folder, tmp_path / "repo")
    out, png = tmp_path / "report.html", tmp_path / "png"
    command = ["report", str(tmp_path / "repo"), "dws_mnist_inrs", "--out", str(out), "--png", str(png)]
    result = CliRunner().invoke(app, [*command, "--images", str(images)])
    assert result.exit_code == 0, result.output
    text = out.read_text().partition('id="content">')[2].partition("</script>")[0]
    content = json.loads(text)
    pictures = content["sheet"]["pictures"]
    assert len(pictures) == 6
    assert all(entry["image"].startswith("data:image/png;base64,") and entry["original"] for entry in pictures)
    for entry in pictures:
        name = entry["caption"].removeprefix("model ").partition(",")[0]
        assert f"recomputed {figures[name]:.1f} dB" in entry["caption"]
    assert content["alike"][0]["label"].startswith("PSNR")
    assert (png / "signals.png").stat().st_size > 1000


# Neural Field Arena


def write_nefs(folder, ranges, omega=8.0, hidden=5):
    """Files of fit-a-nef: bias before kernel, kernels [in, out]; returns the vectors and what they mean by number."""
    widths = [("kernel_net_0.linear", 2, hidden), ("kernel_net_1.linear", hidden, hidden), ("output_linear", hidden, 1)]
    config = [entry for stem, i, o in widths for entry in ([f"{stem}.bias", [o]], [f"{stem}.kernel", [i, o]])]
    size = sum(int(np.prod(shape)) for _, shape in config)
    folder.mkdir(parents=True)
    (folder / "nef.json").write_text(json.dumps({"name": "SIREN", "params": {"omega_0": omega, "output_dim": 1}}))
    states = {}
    for start, end in ranges:
        params = np.random.default_rng(start).normal(0, 0.3, (end - start, size)).astype(np.float32)
        with h5py.File(folder / f"nefs_{start}-{end}.hdf5", "w") as file:
            file["params"] = params
            file["labels"] = np.arange(start, end) % 3
            file.create_dataset("param_config", (1,), h5py.string_dtype())[0] = json.dumps(config)
        for number, vector in enumerate(params, start):
            cuts = np.split(vector, np.cumsum([np.prod(shape, dtype=int) for _, shape in config])[:-1])
            states[number] = {name: cut.reshape(shape) for (name, shape), cut in zip(config, cuts, strict=True)}
    return states


def test_files_of_fit_a_nef_become_rows_as_torch_has_them(tmp_path):
    states = write_nefs(tmp_path / "MNIST" / "SIREN", [(0, 3), (54_999, 55_001), (60_000, 60_001)])
    rows = {row["signal_index"]: row for row in build(tmp_path / "MNIST", tmp_path / "repo").values()}
    assert rows.keys() == states.keys()
    for number, row in rows.items():
        expected = {name.replace(".kernel", ".weight"): torch.from_numpy(value.T.copy())
                    for name, value in states[number].items()}  # fmt: skip
        assert same(row["state"], expected)
        assert (row["label"], row["omega"], row["output_offset"]) == (number % 3, 8.0, 0.0)
    assert {number: row["source_split"] for number, row in rows.items()} == {
        0: "train", 1: "train", 2: "train", 54_999: "train", 55_000: "val", 60_000: "test",
    }  # fmt: skip
    points = np.array([[0.2, -0.4]])
    weights_first = dict(sorted(rows[1]["state"].items(), key=lambda entry: entry[0]))
    value = zd.to_module(rows[1])(torch.tensor(points).float()).detach().numpy()
    assert np.allclose(value, value_at(weights_first, points, 8.0, 0.0), atol=1e-5)


def test_nefs_are_selected_before_they_are_read_and_broken_files_are_listed(tmp_path):
    folder = tmp_path / "CIFAR10" / "SIREN"
    write_nefs(folder, [(0, 4), (4, 8)])
    (folder / "nefs_8-12.hdf5").write_bytes(b"no HDF5 at all")
    chosen = build(folder, tmp_path / "repo", where="label == 1", models=2)
    assert [row["signal_index"] for row in chosen.values()] == [1, 4]
    manifest = read_manifest(tmp_path / "repo", "arena_cifar10_inrs")
    assert [entry.model for entry in manifest.left_out] == ["CIFAR10/SIREN/nefs_8-12.hdf5"]
    assert (manifest.states.found, manifest.states.written) == (3, 2)


def test_nefs_without_their_settings_have_no_convention(tmp_path):
    write_nefs(tmp_path / "MNIST" / "SIREN", [(0, 2)])
    (tmp_path / "MNIST" / "SIREN" / "nef.json").unlink()
    (row, _) = build(tmp_path / "MNIST", tmp_path / "repo").values()
    assert (row.get("omega"), row["architecture"]) == (None, None)
    with pytest.raises(Exception, match="convention="):
        zd.to_module(row)
    assert zd.to_module(row, convention={"omega": 8, "output_offset": 0})(torch.zeros(1, 2)).shape == (1, 1)


# The stand-ins


@pytest.fixture
def populations(real_mnist):
    """Sets in the published formats; skips where they are not at hand."""
    folder = real_mnist.parents[1] / "populations"
    if not folder.is_dir():
        pytest.skip("there are no populations beside the real test data")
    return folder


def test_psnr_of_fitted_networks_comes_out_again(tmp_path, populations, real_mnist):
    build(populations / "trained" / "inr" / "mnist-inrs", tmp_path / "repo")
    found = zd.verify_repository(tmp_path / "repo", "dws_mnist_inrs", signals=Signals("mnist", real_mnist))
    assert found.ok
    assert found.recomputed == 24


@pytest.mark.parametrize(
    ("place", "name", "rows"),
    [("dws", "dws_mnist_inrs", 6), ("dwsf", "dws_fashion_mnist_inrs", 6), ("nfn", "nfn_cifar10_inrs", 4),
     ("implicit", "implicit_zoo_cifar10_inrs", 4), ("arena", "arena_mnist_inrs", 8)],
)  # fmt: skip
def test_stand_ins_are_known_by_their_files(tmp_path, populations, place, name, rows):
    result = build_repository(populations / place, tmp_path / "repo")
    assert result.config == name
    assert sum(pq.read_metadata(file).num_rows for file in (tmp_path / "repo" / name).glob("*.parquet")) == rows
    assert zd.verify_repository(tmp_path / "repo", name).ok
