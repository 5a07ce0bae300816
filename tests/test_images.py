"""Image datasets: preparation against PIL, splits against torch, sources, the cache, and every error."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from zoo_datasets.errors import ImagesError, StorageError, UnknownNameError
from zoo_datasets.images import sources as image_sources
from zoo_datasets.images.prepare import ImageData, Split, cut, load_images
from zoo_datasets.images.sources import ZOO_OF_MODE, prepare_image
from zoo_datasets.images.table import IMAGES, get_image_spec
from zoo_datasets.specs.members import Limits
from zoo_datasets.specs.zoos import get_zoo, list_zoos

CLASSES = ("cat", "dog", "eel")


def photo(seed: int, mode: str = "RGB", size: int = 32) -> Image.Image:
    """An image of noise with some structure, so that resizing and converting matter."""
    generator = np.random.default_rng(seed)
    shape = (size, size, 3) if mode == "RGB" else (size, size)
    return Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))


def image_folder(root: Path, per_class: dict[str, int], mode: str = "RGB", size: int = 32, first: int = 0) -> Path:
    """split/class/i.png with `per_class[split]` images of each class."""
    for split, count in per_class.items():
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                seed = first + 1000 * label + index + 10_000 * list(per_class).index(split)
                photo(seed, mode, size).save(folder / f"{index:03}.png")
    return root


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def parquet_folder(
    root: Path, splits: dict[str, list[tuple[Image.Image, Any]]], image: str = "img", label: str = "label",
    features: datasets.Features | None = None,
) -> Path:  # fmt: skip
    """A folder in the Hub's layout: one Parquet file a split, images as PNG bytes."""
    features = features or datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=list(CLASSES))})
    (root / "data").mkdir(parents=True)
    for split, rows in splits.items():
        columns = {image: [picture for picture, _ in rows], label: [value for _, value in rows]}
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")
    return root


def rows_of(root: Path, split: str) -> list[tuple[Image.Image, int]]:
    """The images of an image folder in file order."""
    paths = [(path, label) for label, name in enumerate(CLASSES) for path in sorted((root / split / name).iterdir())]
    return [(Image.open(io.BytesIO(path.read_bytes())), label) for path, label in paths]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    datasets.disable_progress_bars()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(images: str, architecture: str, source: Path | None = None, **options: Any) -> ImageData:
    """Load images of which there are fewer than published, which warns."""
    with pytest.warns(UserWarning, match="images found"):
        return load_images(images, architecture, source, **options)


# --- the table


def test_every_zoo_has_images_that_fit_it() -> None:
    for zoo in list_zoos():
        assert get_image_spec(zoo.images, zoo.architecture).channels in (1, 3)
    assert {spec.name for spec in IMAGES} == {zoo.images for zoo in list_zoos()}


def test_cifar10_is_prepared_differently_for_resnets() -> None:
    small, large = get_image_spec("cifar10"), get_image_spec("cifar10", "resnet18")
    assert (small.train, small.val) == (42_000, 8_000)
    assert get_image_spec("cifar10", "cnn_l") is get_image_spec("cifar10", "cnn_s") is small
    assert (large.train, large.val) == (40_000, 10_000)
    assert large.mean == pytest.approx((0.4914, 0.4824, 0.4467), abs=1e-4)


def test_an_unknown_name_says_which_are_near() -> None:
    with pytest.raises(UnknownNameError, match="no image dataset named 'mnits'; did you mean mnist"):
        load_images("mnits", "cnn_s")
    with pytest.raises(UnknownNameError, match="no architecture named 'cnn_x'"):
        load_images("mnist", "cnn_x")


def test_the_zoos_named_in_errors_exist() -> None:
    for mode, name in ZOO_OF_MODE.items():
        assert get_image_spec(get_zoo(name).images).mode == mode


# --- preparation


def test_resizing_is_pil_bilinear_on_uint8() -> None:
    picture = photo(1, size=96)
    expected = np.asarray(picture.resize((28, 28), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    prepared = prepare_image(picture, get_image_spec("stl10"), 28)
    assert prepared.dtype == np.uint8
    assert np.array_equal(prepared, expected)
    # Antialiased: torch without antialiasing gives something else.
    plain = torch.nn.functional.interpolate(
        torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float(), 28, mode="bilinear"
    )
    assert (plain[0].numpy() - prepared).std() > 10


def test_svhn_is_made_grey_and_cropped_in_the_centre() -> None:
    picture = photo(2)
    expected = np.asarray(picture.convert("L"))[2:30, 2:30]
    assert np.array_equal(prepare_image(picture, get_image_spec("svhn"), 28), expected[None])
    with pytest.raises(ImagesError, match="20×20 pixels found, at least 28×28 expected"):
        prepare_image(photo(2, size=20), get_image_spec("svhn"), 28)


def test_grey_images_become_rgb_only_where_the_dataset_holds_some() -> None:
    grey = photo(3, "L", 64)
    prepared = prepare_image(grey, get_image_spec("tiny_imagenet"), None)
    assert np.array_equal(prepared, np.stack([np.asarray(grey)] * 3))
    with pytest.raises(
        ImagesError, match=r"mode L found, RGB \(3 channels\) expected by cifar10; convert .* mnist_cnn_s"
    ):
        prepare_image(grey, get_image_spec("cifar10"), 28)


def test_one_bit_images_become_grey_without_loss() -> None:
    bits = photo(4, "L", 28).point(lambda value: 255 * (value > 127)).convert("1")
    prepared = prepare_image(bits, get_image_spec("mnist"), 28)
    assert np.array_equal(prepared[0], np.asarray(bits) * np.uint8(255))


def test_an_image_that_is_not_square_is_refused_at_native_size() -> None:
    with pytest.raises(ImagesError, match="40×32 pixels found, a square image expected"):
        prepare_image(photo(5, size=40).crop((0, 0, 40, 32)), get_image_spec("cifar100"), None)


def test_photographs_are_turned_upright() -> None:
    picture, buffer = photo(6), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(buffer, format="PNG", exif=exif)
    upright = image_sources.decode_image(buffer.getvalue(), None)
    assert np.array_equal(np.asarray(upright), np.asarray(picture.rotate(-90)))


def test_normalise_equals_torchvision_bit_for_bit() -> None:
    spec = get_image_spec("cifar100")
    pixels = torch.randint(0, 256, (2, 5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageData(spec=spec, size=8, fingerprint="", train=_split(3), val=None, test=_split(3))
    mean, std = (torch.as_tensor(values, dtype=torch.float32)[:, None, None] for values in (spec.mean, spec.std))
    # ToTensor, then Normalize, as torchvision.transforms.functional writes them.
    expected = pixels.to(torch.float32).div(255).clone().sub_(mean).div_(std)
    assert torch.equal(data.normalise(pixels), expected)
    double = (pixels.double() / 255 - torch.tensor(spec.mean, dtype=torch.float64)[:, None, None]) / (
        torch.tensor(spec.std, dtype=torch.float64)[:, None, None]
    )
    assert data.normalise(pixels, torch.float64).dtype == torch.float64
    assert torch.equal(data.normalise(pixels, torch.float64), double)
    assert torch.equal(data.mean, mean.flatten())
    assert torch.equal(data.std, std.flatten())


# --- splits


def _split(count: int, channels: int = 3) -> Split:
    """`count` images of one pixel, each holding its index."""
    indices = torch.arange(count)
    return Split((indices % 256).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, channels, 1, 1), indices)


@pytest.mark.parametrize("spec", IMAGES, ids=lambda spec: spec.name + "-".join(spec.architectures))
def test_official_splits_equal_random_split(spec: Any) -> None:
    lengths = [spec.train, spec.val] if spec.test_split else [spec.train, spec.val, spec.test]
    found: dict[Any, Split] = {"train": _split(sum(lengths), 1)}
    if spec.test_split:
        found["test"] = _split(spec.test, 1)
    if spec.val_split:
        found = {"train": _split(spec.train, 1), "val": _split(spec.val, 1), "test": _split(spec.test, 1)}
    splits, notice = cut(found, spec, "here")
    assert notice == ""
    if spec.val_split or not spec.val:
        assert all(splits[role] is found[role] for role in found)
        assert ("val" in splits) == bool(spec.val)
        return
    expected = torch.utils.data.random_split(range(sum(lengths)), lengths, torch.Generator().manual_seed(42))  # type: ignore[arg-type]
    for role, subset in zip(("train", "val", "test"), expected, strict=False):
        assert splits[role].labels.tolist() == list(subset.indices)  # type: ignore[index]


@example(3, get_image_spec("stl10"), False)  # the test images' share would leave none to train on
@given(st.integers(3, 400), st.sampled_from(IMAGES), st.booleans())
def test_other_numbers_are_cut_in_proportion(count: int, spec: Any, with_test: bool) -> None:
    found: dict[Any, Split] = {"train": _split(count)}
    if with_test:
        found["test"] = _split(7)
    splits, notice = cut(found, spec, "here")
    cuts = [splits[role] for role in splits if role not in found or role == "train"]
    assert sorted(label for split in cuts for label in split.labels.tolist()) == list(range(count))
    assert all(len(split) >= 1 for split in splits.values())
    assert ("val" in splits) == bool(spec.val)
    if "val" in splits:
        assert len(splits["val"]) / len(splits["train"]) == pytest.approx(
            spec.val / spec.train, abs=3 / len(splits["train"])
        )
    assert f"{len(splits['train']):,} / " in notice
    assert f"{spec.train:,} / {spec.val:,} / {spec.test:,}" in notice


def test_too_few_images_are_an_error(tmp_path: Path) -> None:
    folder = parquet_folder(tmp_path / "few", {"train": [(photo(1), 0), (photo(2), 1)], "test": [(photo(3), 0)]})
    with pytest.raises(ImagesError, match="few: 2 training images found, at least 3 expected; cifar10 has 60,000"):
        load_images("cifar10", "cnn_s", folder)


def test_a_published_split_that_is_missing_is_told_even_where_the_number_is_right() -> None:
    splits, notice = cut({"train": _split(27_000, 1)}, get_image_spec("eurosat"), "here")
    assert [len(split) for split in splits.values()] == [16_200, 5_400, 5_400]
    assert "without a split named validation and test" in notice


def test_limits_take_the_first_images_after_the_split() -> None:
    data = load_images("digits", "cnn_s")
    few = data.limited(Limits(train=10, test=100_000))
    assert torch.equal(few.train.images, data.train.images[:10])
    assert torch.equal(few.train.labels, data.train.labels[:10])
    assert (len(few.val or ()), len(few.test)) == (250, 250)
    assert few.fingerprint == data.fingerprint


# --- digits


def test_digits_need_no_download() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    data = load_images("digits", "cnn_s")
    assert data.train.images.shape == (1297, 1, 28, 28)
    assert data.train.images.dtype == torch.uint8
    assert data.val is not None
    assert (len(data.val), len(data.test), data.size, data.channels, data.classes) == (250, 250, 28, 1, 10)
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(42))
    assert data.train.labels.tolist() == digits.target[order[:1297]].tolist()
    level = np.array([[round(value * 255 / 16) for value in row] for row in digits.images[order[1297]]], np.uint8)
    expected = Image.fromarray(level).resize((28, 28), Image.Resampling.BILINEAR)
    assert np.array_equal(data.val.images[0, 0].numpy(), np.asarray(expected))
    normalised = data.normalise(data.train.images)
    assert (normalised.min(), normalised.max()) == (-1, 1)


def test_the_fingerprint_depends_on_the_tensors_alone(tmp_path: Path) -> None:
    first = load_images("digits", "cnn_s", cache_dir=tmp_path / "a")
    again = load_images("digits", "cnn_m", cache_dir=tmp_path / "b")
    larger = load_images("digits", "cnn_l", cache_dir=tmp_path / "b")
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != larger.fingerprint
    assert larger.size == 32


# --- local folders


def test_an_image_folder_serves_a_colour_zoo(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "photos", {"train": 20, "test": 5})
    with pytest.warns(UserWarning, match=r"photos: 50 / 10 / 15 .* found, 42,000 / 8,000 / 10,000 .* of cifar10"):
        data = load_images("cifar10", "cnn_s", folder)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(42)).tolist()
    rows = rows_of(folder, "train")
    assert data.val is not None
    assert data.train.labels.tolist() == [rows[index][1] for index in order[:50]]
    for pixels, index in zip(data.val.images, order[50:], strict=True):
        resized = np.asarray(rows[index][0].resize((28, 28), Image.Resampling.BILINEAR))
        assert np.array_equal(pixels.numpy(), resized.transpose(2, 0, 1))
    assert data.test.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5


def test_an_image_folder_without_a_test_split_is_cut_in_three(tmp_path: Path) -> None:
    data = load("cifar10", "cnn_l", image_folder(tmp_path / "photos", {"train": 20}))
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (42, 8, 10)
    assert data.train.images.shape[1:] == (3, 32, 32)


def test_a_validation_folder_is_used_under_any_of_its_names(tmp_path: Path) -> None:
    data = load("eurosat", "cnn_s", image_folder(tmp_path / "a", {"train": 4, "valid": 2, "test": 1}, size=64))
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (12, 6, 3)
    tiny = load("tiny_imagenet", "resnet18", image_folder(tmp_path / "b", {"train": 4, "val": 2}, size=64))
    assert tiny.val is None
    assert (len(tiny.train), len(tiny.test), tiny.size) == (12, 6, 64)


def test_the_hub_layout_and_an_image_folder_give_the_same_fingerprint(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "photos", {"train": 4, "test": 2})
    splits = {split: rows_of(folder, split) for split in ("train", "test")}
    from_images = load("cifar10", "cnn_s", folder)
    from_parquet = load("cifar10", "cnn_s", parquet_folder(tmp_path / "hub", splits))
    assert from_images.fingerprint == from_parquet.fingerprint
    assert torch.equal(from_images.train.images, from_parquet.train.images)
    splits["test"].reverse()
    reordered = load("cifar10", "cnn_s", parquet_folder(tmp_path / "reordered", splits))
    assert reordered.fingerprint != from_images.fingerprint


def test_parquet_without_the_features_metadata_is_read(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    for split, count in (("train", 5), ("test", 2)):
        table = pa.table({
            "image": [{"bytes": png(photo(seed, "L", 28)), "path": None} for seed in range(count)],
            "label": pa.array(range(count), pa.uint8()),
        })  # fmt: skip
        pq.write_table(table, tmp_path / "plain" / f"{split}.parquet")
    data = load("mnist", "cnn_s", tmp_path / "plain")
    assert np.array_equal(data.test.images[1, 0].numpy(), np.asarray(photo(1, "L", 28)))
    assert data.test.labels.tolist() == [0, 1]


def test_a_folder_with_several_configs_is_read_by_the_specs_name(tmp_path: Path) -> None:
    root = tmp_path / "many"
    for config, first in (("mnist", 0), ("other", 500)):
        rows = [(photo(first + index, "L", 28), index % 3) for index in range(4)]
        parquet_folder(root / config, {"train": rows, "test": rows}, image="image")
    configs = "\n".join(f"- config_name: {name}\n  data_dir: {name}" for name in ("mnist", "other"))
    (root / "README.md").write_text(f"---\nconfigs:\n{configs}\n---\n")
    assert np.array_equal(load("mnist", "cnn_s", root).test.images[0, 0].numpy(), np.asarray(photo(0, "L", 28)))
    with pytest.raises(ImagesError, match="holds the configs mnist, other; expected one, or one named usps"):
        load_images("usps", "cnn_s", root)


# --- the cache


def test_the_second_load_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = image_folder(tmp_path / "photos", {"train": 4, "test": 2})
    seen: list[tuple[str, int, int]] = []
    first = load("cifar10", "cnn_s", folder, progress=lambda *step: seen.append(step))
    assert seen == [("train", 12, 12), ("test", 6, 6)]

    def refuse(*_: Any) -> None:
        raise AssertionError("an image was decoded again")

    monkeypatch.setattr(image_sources, "decode_image", refuse)
    moved = folder.rename(tmp_path / "moved")
    with pytest.warns(UserWarning, match="moved: 10 / 2 / 6"):
        again = load_images("cifar10", "cnn_s", moved)
    assert again.fingerprint == first.fingerprint
    assert torch.equal(again.train.images, first.train.images)
    with pytest.raises(AssertionError, match="decoded again"):
        load_images("cifar10", "cnn_l", moved)


def test_content_that_changes_under_the_same_names_is_read_again(tmp_path: Path) -> None:
    rows = [(photo(index), index % 3) for index in range(6)]
    folder = parquet_folder(tmp_path / "hub", {"train": rows, "test": rows[:2]})
    first = load("cifar10", "cnn_s", folder)
    file = folder / "data" / "test-00000-of-00001.parquet"
    times = file.stat()
    parquet_folder(tmp_path / "other", {"test": [(photo(77), 0), (photo(78), 1)]})
    (tmp_path / "other" / "data" / file.name).replace(file)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = load("cifar10", "cnn_s", folder)
    assert second.fingerprint != first.fingerprint
    expected = np.asarray(photo(77).resize((28, 28), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(second.test.images[0].numpy(), expected)


@pytest.mark.parametrize("keep", [0, 100, -1], ids=["empty", "header only", "one byte short"])
def test_a_broken_cache_is_rebuilt(own_cache: Path, keep: int) -> None:
    whole = load_images("digits", "cnn_s")
    [file] = (own_cache / "images").glob("*.safetensors")
    content = file.read_bytes()
    file.unlink()  # the tensors of `whole` are mapped from it
    file.write_bytes(content[:keep])
    assert load_images("digits", "cnn_s").fingerprint == whole.fingerprint
    assert file.read_bytes() == content


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="set ZOO_CACHE"):
        load_images("digits", "cnn_s")


def test_nothing_is_left_beside_the_cache(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    load("cifar10", "cnn_s", image_folder(tmp_path / "photos", {"train": 2}))
    assert list((tmp_path / "scratch").iterdir()) == []
    assert {path.suffix for path in (own_cache / "images").iterdir()} <= {".safetensors", ".lock"}


# --- errors


def test_a_path_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match="nowhere does not exist; --images expects a folder"):
        load_images("mnist", "cnn_s", tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ImagesError, match="file is a file; --images expects a folder"):
        load_images("mnist", "cnn_s", tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImagesError, match="empty holds no files; expected"):
        load_images("mnist", "cnn_s", tmp_path / "empty")
    (tmp_path / "a[b]").mkdir()
    (tmp_path / "a[b]" / "notes.xyz").touch()
    with pytest.raises(ImagesError, match="for a pattern; rename the folder"):
        load_images("mnist", "cnn_s", tmp_path / "a[b]")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "notes.xyz").write_text("no images")
    with pytest.raises(
        ImagesError, match=r"odd could not be loaded as images: .* Expected a folder in the layout of ylecun"
    ):
        load_images("mnist", "cnn_s", tmp_path / "odd")


def test_wrong_columns_are_listed(tmp_path: Path) -> None:
    features = datasets.Features({"picture": datasets.Image(), "other": datasets.Image(), "y": datasets.Value("int64")})
    (tmp_path / "data").mkdir()
    table = datasets.Dataset.from_dict({"picture": [photo(1)], "other": [photo(2)], "y": [0]}, features=features)
    table.to_parquet(tmp_path / "data" / "train.parquet")
    with pytest.raises(
        ImagesError,
        match=r"split 'train': columns found: picture \(Image\), other \(Image\), y \(int64\); "
        r"expected img \(Image\) and label \(ClassLabel or integers 0 to 9\)\. Rename",
    ):
        load_images("cifar10", "cnn_s", tmp_path)


def test_labels_that_are_strings(tmp_path: Path) -> None:
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("string")})
    folder = parquet_folder(tmp_path / "hub", {"train": [(photo(1), "cat")]}, features=features)
    with pytest.raises(ImagesError, match=r"Labels are strings: turn them into integers.*class_encode_column"):
        load_images("cifar10", "cnn_s", folder)


@pytest.mark.parametrize(("label", "found"), [(10, "label 10"), (-1, "label -1"), (None, "no label")])
def test_labels_outside_the_classes(tmp_path: Path, label: int | None, found: str) -> None:
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
    rows = [(photo(1), 0), (photo(2), label)]
    folder = parquet_folder(tmp_path / "hub", {"train": rows}, features=features)
    with pytest.raises(ImagesError, match=f"split 'train', image 1: {found} found, 0 to 9 expected; cifar10 has 10"):
        load_images("cifar10", "cnn_s", folder)


def test_a_wrong_number_of_channels(tmp_path: Path) -> None:
    rows = [(photo(1), 0), (photo(2, "L"), 1), (photo(3), 2)]
    with pytest.raises(ImagesError, match=r"image 1.*: mode L found, RGB \(3 channels\) expected by cifar10; convert"):
        load_images("cifar10", "cnn_s", parquet_folder(tmp_path / "a", {"train": rows}))
    with pytest.raises(
        ImagesError, match=r"image 0.*: mode RGB found, L \(1 channel\) expected .* such as cifar10_cnn_s"
    ):
        load_images("mnist", "cnn_s", image_folder(tmp_path / "b", {"train": 2}))


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "photos", {"train": 3})
    broken = folder / "train" / "dog" / "001.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ImagesError, match=r"split 'train', image 4 .*dog/001.png.*could not be decoded: .*replace it"):
        load_images("cifar10", "cnn_s", folder)


def test_formats_that_would_start_another_program_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", refuse)
    buffer = io.BytesIO()
    photo(1).save(buffer, format="EPS")
    with pytest.raises(ImagesError, match=r"could not be decoded.*PNG, JPEG"):
        image_sources.decode_image(buffer.getvalue(), None)


def test_images_of_several_sizes_are_refused_where_the_network_takes_any(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "a", {"train": 2})
    photo(1, size=48).save(folder / "train" / "eel" / "001.png")
    with pytest.raises(ImagesError, match=r"image 5 .*48×48 pixels found, 32×32 pixels expected as before"):
        load_images("cifar100", "resnet18", folder)
    folder = image_folder(image_folder(tmp_path / "b", {"train": 2}), {"test": 1}, size=16)
    with pytest.raises(ImagesError, match="different sizes found: 32×32 in train, 16×16 in test"):
        load_images("cifar100", "resnet18", folder)


def test_a_folder_without_training_images(tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match="split 'train' expected, found test; rename"):
        load_images("cifar10", "cnn_s", image_folder(tmp_path / "a", {"test": 2}))


# --- the Hub

HUB_PROGRAM = """
import json, sys, warnings
import datasets
from zoo_datasets.errors import ImagesError
from zoo_datasets.images.prepare import load_images
datasets.disable_progress_bars()
warnings.simplefilter("ignore")
found = []
for architecture in sys.argv[2:]:
    try:
        found.append(load_images(sys.argv[1], architecture).fingerprint)
    except ImagesError as error:
        found.append(str(error))
print(json.dumps(found))
"""


def in_a_fresh_process(home: Path, images: str, *architectures: str, **environment: str) -> list[str]:
    """The fingerprints, or errors, of load_images under settings that the Hub's client reads when imported."""
    settings = {"HF_HOME": str(home / "hf"), "ZOO_CACHE": str(home / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", HUB_PROGRAM, images, *architectures],
        env={**os.environ, **settings, **environment}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found: list[str] = json.loads(finished.stdout)
    return found


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server of one read-only dataset of any name: its address, and the folder that it serves."""
    folder, commit = tmp_path / "served", "0" * 40

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"X-Repo-Commit": commit, "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if "/resolve/" in path:
                file = folder / path.split("/resolve/")[1].split("/", 1)[1]
                if file.is_file():
                    return self.answer(200, file.read_bytes(), ETag=f'"{file.stat().st_size}"')
            elif "/tree/" in path:
                below = folder / "/".join(path.split("/tree/")[1].split("/")[1:])
                if below.is_dir():
                    entries = [
                        {"type": "directory" if entry.is_dir() else "file", "oid": "0", "size": entry.stat().st_size,
                         "path": entry.relative_to(folder).as_posix()}
                        for entry in sorted(below.iterdir())
                    ]  # fmt: skip
                    return self.answer(200, json.dumps(entries).encode(), Content_Type="application/json")
            elif path.startswith("/api/datasets/"):
                body = {"id": "/".join(path.split("/")[3:5]), "sha": commit, "siblings": []}
                return self.answer(200, json.dumps(body).encode(), Content_Type="application/json")
            return self.answer(404, b"", X_Error_Code="EntryNotFound")

        do_HEAD = do_GET  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", folder
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_the_hub_and_a_local_copy_give_the_same_images(hub: tuple[str, Path], tmp_path: Path) -> None:
    endpoint, folder = hub
    rows = [(photo(index), index % 3) for index in range(6)]
    parquet_folder(folder, {"train": rows, "test": rows[:2]})
    settings = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    local = [load("cifar10", architecture, folder).fingerprint for architecture in ("cnn_s", "cnn_l")]
    assert in_a_fresh_process(tmp_path / "home", "cifar10", "cnn_s", **settings) == local[:1]
    # Without the Hub: from our cache, and for another size from what `datasets` has kept.
    settings["HF_ENDPOINT"] = "http://127.0.0.1:9"
    assert in_a_fresh_process(tmp_path / "home", "cifar10", "cnn_s", "cnn_l", **settings) == local


@pytest.mark.slow
@pytest.mark.parametrize(("images", "other"), [("svhn", "extra"), ("stl10", "unsupervised")])
def test_splits_without_a_role_are_not_fetched(hub: tuple[str, Path], tmp_path: Path, images: str, other: str) -> None:
    endpoint, folder = hub
    rows = [(photo(index, "L" if images == "svhn" else "RGB"), index % 3) for index in range(6)]
    parquet_folder(folder, {"train": rows, "test": rows[:2], other: rows}, image="image")
    files = "".join(
        f"\n  - split: {each}\n    path: data/{each}-00000-of-00001.parquet" for each in ("train", "test", other)
    )
    info = "".join(f"\n  - name: {each}\n    num_examples: 6\n    num_bytes: 1" for each in ("train", other))
    info += "\n  - name: test\n    num_examples: 2\n    num_bytes: 1"
    config = get_image_spec(images).hub_config or "default"
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {config}\n  data_files:{files}\n"
        f"dataset_info:\n- config_name: {config}\n  splits:{info}\n---\n"
    )
    architectures = ("cnn_s",) if images == "svhn" else ("cnn_s", "cnn_l")
    local = [load(images, architecture, folder).fingerprint for architecture in architectures]
    broken = next(folder.rglob(f"{other}*.parquet"))
    broken.write_bytes(b"not Parquet, and not to be fetched")
    settings = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    assert in_a_fresh_process(tmp_path / "home", images, "cnn_s", **settings) == local[:1]
    assert not [path for path in (tmp_path / "home").rglob("*") if path.name == broken.name]
    # Without the Hub, for images of another size: from what was prepared.
    settings["HF_ENDPOINT"] = "http://127.0.0.1:9"
    assert in_a_fresh_process(tmp_path / "home", images, *architectures, **settings) == local


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "offline mode is enabled"),
        ({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}, "Connection refused"),
    ],
)
def test_without_network_the_error_says_what_to_do(tmp_path: Path, settings: dict[str, str], reason: str) -> None:
    [error] = in_a_fresh_process(tmp_path, "svhn", "cnn_s", **settings)
    assert error.startswith("svhn could not be fetched from the Hub (ufldl-stanford/svhn: ")
    assert reason in error
    assert error.endswith(
        "): connect to the network, or download it elsewhere and pass its folder: "
        "--images PATH (a folder in the layout of ufldl-stanford/svhn, or an image folder)"
    )


# --- real data


def test_real_mnist(tmp_path: Path, real_mnist: Path) -> None:
    source = real_mnist
    data = load_images("mnist", "cnn_s", source)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (50_000, 10_000, 10_000)
    rows = datasets.load_dataset(str(source), "mnist", split="train", cache_dir=str(tmp_path / "arrow"))
    order = torch.randperm(60_000, generator=torch.Generator().manual_seed(42))
    for position in (0, 1, 9_999):
        row = rows[int(order[50_000 + position])]
        assert data.val.labels[position] == row["label"]
        assert np.array_equal(data.val.images[position, 0].numpy(), np.asarray(row["image"]))
    normalised = data.normalise(data.train.images)
    assert float(normalised.mean()) == pytest.approx(0, abs=0.01)
    assert float(normalised.std()) == pytest.approx(1, abs=0.01)
