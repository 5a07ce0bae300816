"""Images of one's own: folders of classes become splits, and travel by name and facts, not by place."""

import dataclasses
import json
import shutil

import numpy as np
import plain
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import zoo_datasets as zd
from zoo_datasets.cli.app import app
from zoo_datasets.errors import ImagesError, SpecError
from zoo_datasets.images.own import read_class_folders
from zoo_datasets.specs.images import Pixels
from zoo_datasets.specs.zoos import read_zoo_file, zoo_from_dict

YAML = """
name: cells
images: {name: blood_cells, path: cells, size: 8, mode: RGB, mean: [0.4, 0.4, 0.5], std: [0.3, 0.3, 0.25]}
architecture: [conv: {out: 3, kernel: 3}, activate, global_average_pool, linear: classes]
epochs: 1
activation: relu
init: kaiming_uniform
optimizer: adam
lr: 1.0e-2
weight_decay: 0
seeds: 4
"""
COLOURS = {"eosinophil": (200, 40, 40), "lymphocyte": (40, 200, 40), "train": (40, 40, 200)}


def paint(file, colour=(10, 20, 30), size=(8, 8), mode="RGB"):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(file)


def fill(folder, count=10, classes=COLOURS):
    for name in classes:
        for number in range(count):
            paint(folder / name / f"{number:02}.png", tuple(value + number for value in COLOURS[name]))


@pytest.fixture
def zoo_file(tmp_path):
    fill(tmp_path / "cells")
    file = tmp_path / "cells.yaml"
    file.write_text(YAML)
    return file


def images(zoo_file, **pixels):
    file = read_zoo_file(zoo_file)
    changed = dataclasses.replace(file.zoo.pixels, **pixels)
    return zd.images_of(dataclasses.replace(file.zoo, pixels=changed), file.images)


def test_a_folder_of_classes_is_cut_into_splits(zoo_file):
    data = images(zoo_file)
    assert (data.spec.name, data.classes, data.channels, data.size) == ("blood_cells", 3, 3, 8)
    assert {role: len(split) for role, split in data.splits().items()} == {"train": 22, "val": 4, "test": 4}
    every = torch.cat([split.images[:, :, 0, 0] for split in data.splits().values()])
    labels = torch.cat([split.labels for split in data.splits().values()])
    expected = {
        (label, *(value + n for value in colour)) for label, colour in enumerate(COLOURS.values()) for n in range(10)
    }
    assert {(label, *pixel) for label, pixel in zip(labels.tolist(), every.tolist(), strict=True)} == expected
    normal = data.normalise(data.train.images)
    torch.testing.assert_close(normal[0, 2], (data.train.images[0, 2] / 255 - 0.5) / 0.25)


def test_splits_that_are_there_stay_as_they_are(zoo_file):
    cells = zoo_file.parent / "cells"
    shutil.move(cells, zoo_file.parent / "train")
    shutil.move(zoo_file.parent / "train", cells / "train")
    fill(cells / "test", 2, ["lymphocyte", "train"])
    data = images(zoo_file)
    assert {role: len(split) for role, split in data.splits().items()} == {"train": 26, "val": 4, "test": 4}
    assert data.test.labels.tolist() == [1, 1, 2, 2]
    without = images(zoo_file, validation=False)
    assert without.val is None
    assert len(without.train) == 30
    fill(cells / "valid", 1)
    data = images(zoo_file)
    assert {role: len(split) for role, split in data.splits().items()} == {"train": 30, "val": 3, "test": 4}
    with pytest.raises(ImagesError, match="validation is false, but there is valid/"):
        images(zoo_file, validation=False)


def test_grey_is_luma_or_the_mean(zoo_file):
    facts = {"mode": "L", "mean": (0.5,), "std": (0.5,)}
    luma, mean = (images(zoo_file, grey=grey, **facts) for grey in ("luma", "mean"))
    colours = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200)])
    for data, expected in ((luma, colours @ [0.299, 0.587, 0.114]), (mean, colours.mean(axis=1))):
        for label in range(3):
            darkest = torch.cat([s.images[s.labels == label].flatten() for s in data.splits().values()]).min()
            assert abs(int(darkest) - expected[label]) <= 0.5
    assert luma.fingerprint != mean.fingerprint


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_images_of_any_mode_and_size_are_converted(tmp_path, mode):
    for number, kind in enumerate(("1", "L", "LA", "P", "RGB", "RGBA")):
        for name in ("a", "b"):
            paint(tmp_path / name / f"{number}.png", size=(9 + number, 12), mode=kind)
    paint(tmp_path / "a" / "inner" / "deep.JPG", mode="CMYK")
    folders = read_class_folders("x", Pixels(size=8, mode=mode), tmp_path, 8)
    assert folders.splits["train"].images.shape == (13, 1 if mode == "L" else 3, 8, 8)
    with pytest.raises(ImagesError, match=r"9×12 pixels found, a square image expected"):
        read_class_folders("x", Pixels(mode=mode), tmp_path, None)


def sixteen(cells):
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(cells / "lymphocyte" / "deep.png")


def broken(cells):
    (cells / "lymphocyte" / "03.png").write_bytes((cells / "lymphocyte" / "03.png").read_bytes()[:40])


def bomb(cells):
    Image.new("1", (9000, 9000)).save(cells / "lymphocyte" / "huge.png")


def page(cells):
    (cells / "lymphocyte" / "x.png").write_text("<html>")


def vector(cells):
    (cells / "lymphocyte" / "x.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")


def loose(cells):
    paint(cells / "loose.png")


def empty(cells):
    (cells / "monocyte").mkdir()


def one(cells):
    for name in ("lymphocyte", "train"):
        shutil.rmtree(cells / name)


def odd_split(cells):
    fill(cells / "train")
    fill(cells / "holdout")


def odd_class(cells):
    shutil.move(cells, cells.with_name("x"))
    shutil.move(cells.with_name("x"), cells / "train")
    paint(cells / "test" / "monocyte" / "0.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (sixteen, "lymphocyte/deep.png: mode I;16 found, 8 bits a channel expected"),
        (broken, "lymphocyte/03.png: could not be decoded"),
        (bomb, "lymphocyte/huge.png: 9,000×9,000 pixels found, at most 67,108,864 in all"),
        (page, "lymphocyte/x.png: could not be decoded"),
        (vector, "lymphocyte/x.png: could not be decoded"),
        (loose, "loose.png lies in no folder of a class"),
        (empty, "monocyte holds no images"),
        (one, "folders of 1 classes found"),
        (odd_split, "beside train/ there is 'eosinophil/, holdout/, lymphocyte/'"),
        (odd_class, "monocyte: a class that the training images do not have"),
    ],
)
def test_what_is_not_as_expected_is_named(zoo_file, spoil, message):
    spoil(zoo_file.parent / "cells")
    with pytest.raises(ImagesError, match=message):
        read_class_folders("x", Pixels(size=8), zoo_file.parent / "cells", 8)


def test_files_that_are_no_images_are_told(zoo_file):
    (zoo_file.parent / "cells" / "lymphocyte" / "notes.txt").write_text("x")
    (zoo_file.parent / "cells" / ".DS_Store").write_text("x")
    with pytest.warns(
        UserWarning, match="1 files are no images by their names and were left out, as 'lymphocyte/notes"
    ):
        images(zoo_file)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("{path: cells}", "images: they lack a name"),
        ("{name: mnist, path: cells}", "images: mnist is a name of the table"),
        ("{name: ../x, path: cells}", "images: expected a name"),
        ("{name: x, path: 7}", "images.path: expected a folder, found 7"),
        ("{name: x, sizes: 8}", "images: unknown field 'sizes'; expected a name of the table, or name, size, mode"),
        ("{name: x, size: 0}", "images.size: expected 1 to"),
        ("{name: x, mode: RGBA}", "pixels.mode: .*'L' or 'RGB', found 'RGBA'"),
        ("{name: x, mode: L, mean: [0.1, 0.2]}", "images.mean: expected 1 numbers, one a channel"),
        ("{name: x, std: [0.1, 0.2, 0]}", "images.std: expected 3 numbers above 0"),
    ],
)
def test_facts_that_make_no_sense_are_refused_by_the_file(tmp_path, own, message):
    head, rest = YAML.split("images: ")
    file = tmp_path / "cells.yaml"
    file.write_text(f"{head}images: {own}\n{rest.split(chr(10), 1)[1]}")
    with pytest.raises(SpecError, match=f"cells.yaml.*{message}"):
        zd.read_zoo(file)


def test_only_the_users_own_file_names_a_place(zoo_file):
    file = read_zoo_file(zoo_file)
    assert file.images == zoo_file.parent / "cells"
    written = file.zoo.to_dict()
    assert "cells" not in json.dumps(written["pixels"])
    assert zoo_from_dict(json.loads(json.dumps(written)), "again") == file.zoo
    with pytest.raises(SpecError, match="path: unknown field"):
        zoo_from_dict(written | {"pixels": written["pixels"] | {"path": "/etc"}}, "zoo.json")


def test_facts_are_part_of_a_recipe(zoo_file):
    zoo = zd.read_zoo(zoo_file)
    other = dataclasses.replace(zoo, pixels=dataclasses.replace(zoo.pixels, grey="mean"))
    ids = [{member.model_id for member in zd.members_of(each)} for each in (zoo, other)]
    assert ids[0].isdisjoint(ids[1])


def test_an_architecture_that_takes_another_size_is_refused_before_images_are_read(zoo_file):
    zoo = dataclasses.replace(zd.read_zoo(zoo_file), architecture="cnn_s", layers=None)
    with pytest.raises(SpecError, match="cnn_s takes 28 × 28 images, images.size is 8"):
        zd.images_of(zoo, zoo_file.parent / "nothing")
    sized = dataclasses.replace(zoo, pixels=dataclasses.replace(zoo.pixels, size=None))
    assert zd.images_of(sized, zoo_file.parent / "cells").size == 28


def command(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output + str(result.exception or "")


def test_from_a_folder_to_a_verified_repository(tmp_path, monkeypatch, zoo_file):
    run, repo = tmp_path / "run", tmp_path / "repo"
    assert command("train", zoo_file, "--out", run)[0] == 0
    (zoo_file.parent / "cells").rename(tmp_path / "elsewhere")
    assert command("build", run, "--out", repo)[0] == 0
    for what in ((run,), (repo, "cells")):  # found among the prepared images
        code, output = command("verify", *what)
        assert code == 0, output
        assert "images: blood_cells" in output
    twins = ("sparsify", run, "--method", "magnitude", "--amount", "0.5", "--epochs", "1", "--out", tmp_path / "twins")
    assert command(*twins)[0] == 0
    row = next(row for split in zd.load_zoo(repo, "cells").values() for row in split)
    assert (row["images"], row["classes"], row["in_channels"]) == ("blood_cells", 3, 3)
    manifest = json.loads((repo / "_meta" / "cells" / "manifest.json").read_text())
    assert (manifest["zoo"]["pixels"]["size"], manifest["source"]["images"]["train"]) == (8, 22)
    assert (
        str(tmp_path) not in (run / "zoo.json").read_text() + (repo / "_meta" / "cells" / "manifest.json").read_text()
    )

    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "another machine"))
    code, output = command("verify", repo, "cells")
    assert code == 1
    assert "not prepared on this machine: pass their folder, --images PATH" in " ".join(output.split())
    assert command("verify", repo, "cells", "--images", tmp_path / "elsewhere")[0] == 0
    paint(tmp_path / "elsewhere" / "train" / "00.png")
    assert command("verify", repo, "cells", "--images", tmp_path / "elsewhere")[0] == 1


def test_pixels_of_the_table_travel_too_and_earlier_runs_go_on_without(tmp_path):
    zoo, data = plain.tiny_zoo(seeds=2, epochs=1), plain.tiny_images()
    run = zd.train_zoo(zoo, tmp_path / "run", data)
    zd.build_repository(run.path, tmp_path / "repo")
    recorded = json.loads((tmp_path / "repo" / "_meta" / zoo.name / "manifest.json").read_text())["source"]["images"][
        "pixels"
    ]
    grey = {"size": 28, "mode": "L", "grey": "luma", "fit": "resize", "mean": [0.1307], "std": [0.3081]}
    assert recorded == grey | {"validation": True}
    assert zd.Run.open(run.path).manifest.images.pixels == data.pixels

    earlier = dataclasses.replace(run.manifest, images=dataclasses.replace(run.manifest.images, pixels=None))
    zd.Run(run.path, earlier).save()
    assert "pixels" not in (run.path / "zoo.json").read_text()
    again = zd.train_zoo(zoo, run.path, data, epochs=2)
    assert (again.epochs, again.manifest.images.pixels) == (2, None)
