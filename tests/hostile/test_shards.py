"""Damaged shards, prepared rows, prepared images and manifests: found and told, or made again, and never other rows."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import datasets
import pytest
from hub_server import serving
from tiny_runs import make_run
from typer.testing import CliRunner

import zoo_datasets as zd
from zoo_datasets.builders import zoo_builder
from zoo_datasets.cli.app import app
from zoo_datasets.errors import RepositoryError, SpecError, StorageError, ZooError
from zoo_datasets.evaluation.verify import verify_repository
from zoo_datasets.loading.caches import prepared
from zoo_datasets.storage.files import TEMPORARY_SUFFIX
from zoo_datasets.storage.names import beside

NAME = "digits_cnn_s"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 97373\n"
PAGE = b"\n<!-- x --><!DOCTYPE html>\n<html><body>Sign in</body></html>\n"
LOADS = (
    {},
    {"split": "train"},
    {"epochs": [3]},
    {"where": "epoch >= 1", "columns": ["model_id", "epoch", "weights"]},
    {"streaming": True, "check": True},
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_run(folder / "run", ((12, 1), (16, 3)))  # shards of some epochs, and of all
    zd.build_repository(folder / "run", folder / "repo")
    return folder


@pytest.fixture
def repo(whole, tmp_path):
    return Path(shutil.copytree(whole / "repo", tmp_path / "repo"))


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def shard_of(repo, split="train", end=""):
    return sorted((repo / f"{NAME}{end}").glob(f"{split}-*.parquet"))[0]


def rows_of(loaded):
    """A digest of all rows of what `load_zoo` gives, a split or several."""
    parts = loaded if isinstance(loaded, dict) else {"": loaded}
    digest = hashlib.sha256()
    for part, rows in parts.items():
        for table in rows.with_format("arrow").iter(1000):
            digest.update(json.dumps([part, table.to_pydict()], default=str).encode())
    return digest.hexdigest()


def damage(chance, data):
    """Bytes as an accident leaves them: bits flipped, cut off, zeroed, doubled, or something else altogether."""
    at = chance.randrange(len(data))
    kind = chance.choice(["bit", "bit", "bit", "byte", "cut", "zeros", "append", "swap", "pointer", "page", "empty"])
    if kind in ("bit", "byte"):
        new = data[at] ^ (1 << chance.randrange(8)) if kind == "bit" else (data[at] + chance.randrange(1, 256)) % 256
        return data[:at] + bytes([new]) + data[at + 1 :]
    if kind == "swap":
        middle = len(data) // 2
        return data[middle:] + data[:middle]
    return {
        "cut": data[:at],
        "zeros": data[:at] + bytes(len(data) - at) if any(data[at:]) else data[:at],
        "append": data + data[at:],
        "pointer": POINTER,
        "page": PAGE,
        "empty": b"",
    }[kind]


class Count:
    """What became of damage: `tried` = `told` + `mended`, where none was silent."""

    def __init__(self):
        self.tried = self.told = self.mended = 0
        self.silent, self.raw, self.messages = [], [], []

    def attempt(self, what, load, expected):
        self.tried += 1
        try:
            rows = load()
        except ZooError as error:
            self.told += 1
            self.messages.append(str(error))
        except Exception as error:  # noqa: BLE001 - that is what is counted
            self.raw.append((what, repr(error)[:300]))
        else:
            if rows == expected:
                self.mended += 1
            else:
                self.silent.append(what)

    def check(self, least):
        print(f"tried {self.tried}, told {self.told}, the right rows {self.mended}, silent {len(self.silent)}")
        assert not self.silent, self.silent
        assert not self.raw, self.raw
        assert not [message for message in self.messages if "\n" in message or len(message) > 1000]
        assert self.tried >= least


def test_no_damaged_shard_gives_other_rows(repo):
    chance, count = random.Random(0), Count()
    loads = [{"name": NAME, **load} for load in LOADS] + [{"name": f"{NAME}-meta"}]
    expected = [rows_of(zd.load_zoo(repo, **load)) for load in loads]
    files = {end: sorted((repo / f"{NAME}{end}").glob("*.parquet")) for end in ("", "-meta")}
    for number in range(48):
        which = number % len(loads)
        split = loads[which].get("split", "")
        file = chance.choice([file for file in files[loads[which]["name"].removeprefix(NAME)] if split in file.name])
        good = file.read_bytes()
        file.write_bytes(damage(chance, good))
        count.attempt(
            (number, file.name), lambda which=which: rows_of(zd.load_zoo(repo, **loads[which])), expected[which]
        )
        file.write_bytes(good)
    count.check(48)
    assert count.told > 40  # a shard without the epochs that are asked for is not read


def test_no_damaged_cache_gives_other_rows(repo, tmp_path):
    chance, count = random.Random(1), Count()
    prepared_of, expected = [], []
    for load in LOADS[:3]:
        before = {*tmp_path.rglob("dataset_info.json")}
        expected.append(rows_of(zd.load_zoo(repo, NAME, **load)))
        prepared_of.append(({*tmp_path.rglob("dataset_info.json")} - before).pop().parent)
    for number in range(15):
        which = number % len(expected)
        file = chance.choice(sorted(prepared_of[which].iterdir()))
        file.write_bytes(damage(chance, file.read_bytes()))
        load = LOADS[which]
        count.attempt((number, file.name), lambda load=load: rows_of(zd.load_zoo(repo, NAME, **load)), expected[which])
    count.check(15)
    assert count.mended == count.tried


def test_no_damaged_cache_of_a_source_gives_other_rows(whole, tmp_path):
    def rows():
        builder = zoo_builder(whole / "run", cache_dir=tmp_path / "arrow")
        builder.download_and_prepare()
        return rows_of(builder.as_dataset())

    chance, count, expected = random.Random(4), Count(), rows()
    folder = next((tmp_path / "arrow").rglob("dataset_info.json")).parent
    for number in range(4):
        file = sorted(folder.iterdir())[number % len([*folder.iterdir()])]
        file.write_bytes(damage(chance, file.read_bytes()))
        count.attempt((number, file.name), rows, expected)
    count.check(4)
    assert count.mended == count.tried


def test_no_damaged_manifest_gives_other_rows(repo):
    chance, count = random.Random(2), Count()
    loads = LOADS[1:]
    expected = [rows_of(zd.load_zoo(repo, NAME, **load)) for load in loads]
    file = repo / "_meta" / NAME / "manifest.json"
    good = file.read_bytes()
    begin, end = good.index(b'"shards"'), good.index(b'"meta"')
    for number in range(40):
        data = bytearray(good)
        if number % 4:  # digits and letters of the list of shards, which choose what is read
            places = [at for at in range(begin, end) if chr(good[at]).isalnum()]
            at = chance.choice(places)
            data[at] = ord(chance.choice("0123456789abcdef"))
        else:
            data = damage(chance, good)
        file.write_bytes(data)
        which = number % len(loads)
        count.attempt(number, lambda which=which: rows_of(zd.load_zoo(repo, NAME, **loads[which])), expected[which])
    count.check(40)


def test_no_damaged_images_are_given(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "zoo-cache"))

    def images():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return zd.load_images("digits", "cnn_s")

    def content(data):
        digest = hashlib.sha256(data.fingerprint.encode())
        for split in data.splits().values():
            digest.update(split.images.contiguous().numpy().tobytes() + split.labels.contiguous().numpy().tobytes())
        return digest.hexdigest()

    chance, count, expected = random.Random(3), Count(), content(images())
    file = next((tmp_path / "zoo-cache" / "images").glob("*.safetensors"))
    for number in range(12):
        file.write_bytes(damage(chance, file.read_bytes()))
        count.attempt(number, lambda: content(images()), expected)
    count.check(12)
    assert count.mended == count.tried


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (POINTER, "is a Git LFS pointer and not the file itself; run `git lfs pull`"),
        (PAGE, "is a web page and not the file itself; download the file again"),
        (b"", "is damaged: 0 bytes found, .* expected, with SHA-256 .*; build the zoo again, or put a copy"),
    ],
)
def test_a_broken_shard_is_told_in_one_line_by_every_command(repo, tmp_path, data, message):
    shard = shard_of(repo)
    shard.write_bytes(data)
    with pytest.raises(RepositoryError, match=f"{shard.name} {message}"):
        zd.load_zoo(repo, NAME)
    out = ["--out", str(tmp_path / "out")]
    for command in (
        ["export", str(repo), NAME, *out],
        ["report", str(repo), NAME, *out],
        ["benchmark", str(repo), NAME],
    ):
        done = CliRunner().invoke(app, command)
        assert isinstance(done.exception, RepositoryError) or done.exit_code == 1
        assert shard.name in f"{done.output} {done.exception}", command
    differences = " ".join(difference.message for difference in verify_repository(repo, NAME).differences)
    assert shard.name in differences
    # Streamed without a check, what is no Parquet file is told all the same.
    with pytest.raises(RepositoryError, match=shard.name):
        list(zd.load_zoo(repo, NAME, "train", streaming=True))


def test_the_remedy_mends_it(whole, repo):
    """Building again replaces a damaged shard by one of the same name."""
    shard = shard_of(repo)
    good = shard.read_bytes()
    for data in (b"", POINTER, good[:-9], good[:2000] + bytes(64) + good[2064:]):
        shard.write_bytes(data)
        zd.build_repository(whole / "run", repo)
        assert shard.read_bytes() == good
    zd.load_zoo(repo, NAME)


def test_a_file_is_hashed_once_until_it_changes(repo, monkeypatch):
    hashed, digest_of = [], hashlib.file_digest

    def file_digest(file, name):
        hashed.append(Path(file.name).name)
        return digest_of(file, name)

    monkeypatch.setattr(hashlib, "file_digest", file_digest)
    zd.load_zoo(repo, NAME, "train")
    assert sorted(hashed) == sorted(file.name for file in (repo / NAME).glob("train-*"))
    zd.load_zoo(repo, NAME, "train", epochs=[1])
    list(zd.load_zoo(repo, NAME, "train", streaming=True, check=True))
    assert len(hashed) == len({*hashed})
    shard = shard_of(repo)
    os.utime(shard, ns=(1, 1))
    zd.load_zoo(repo, NAME, "train")
    assert hashed.count(shard.name) == 2


def test_rows_that_datasets_prepared_of_a_damaged_shard_are_prepared_again(repo):
    shard = shard_of(repo)
    good = shard.read_bytes()
    expected = rows_of(zd.load_zoo(repo, NAME, epochs=[1, 2], streaming=True))
    at = len(good) // 3
    shard.write_bytes(good[:at] + bytes(32) + good[at + 32 :])
    datasets.load_dataset(str(repo), NAME)
    shard.write_bytes(good)
    assert rows_of(zd.load_zoo(repo, NAME, epochs=[1, 2])) == expected
    assert rows_of(zd.load_zoo(repo, NAME)) == rows_of(zd.load_zoo(repo, NAME, streaming=True))


def test_a_cache_that_cannot_be_deleted_is_named(repo, monkeypatch):
    zd.load_zoo(repo, NAME)
    arrow = next(Path(datasets.config.HF_DATASETS_CACHE).rglob("*.arrow"))
    arrow.write_bytes(b"x")

    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(prepared.shutil, "rmtree", refuse)
    with pytest.raises(StorageError, match=f"{arrow.parent} holds prepared rows .*; delete the folder, and load again"):
        zd.load_zoo(repo, NAME)


def test_a_check_that_cannot_be_made_is_refused(repo):
    file = repo / "_meta" / NAME / "manifest.json"
    file.unlink()
    zd.load_zoo(repo, NAME, check=True)  # the names hold beginnings of the digests
    shard = shard_of(repo)
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(RepositoryError, match=f"{shard.name} is damaged"):
        zd.load_zoo(repo, NAME)
    shard.rename(shard.with_name("train-renamed.parquet"))
    with pytest.raises(SpecError, match="no manifest says what .*train-renamed.parquet holds"):
        zd.load_zoo(repo, NAME, check=True)


def test_a_build_killed_in_its_commit_leaves_nothing_after_the_next(whole, repo):
    leftovers = [beside(shard_of(repo, end=end), f".{'0' * 16}{TEMPORARY_SUFFIX}") for end in ("", "-meta")]
    for leftover in leftovers:
        leftover.write_bytes(b"PAR1")
    zd.build_repository(whole / "run", repo)
    assert not [file for file in leftovers if file.exists()]
    zd.load_zoo(repo, NAME)


OF_THE_HUB = """
import shutil, sys
from pathlib import Path
import datasets
import zoo_datasets as zd
from zoo_datasets.errors import ZooError

zd.load_zoo("somebody/model-zoos", "digits_cnn_s", "test", check=True)
blobs = [file for file in Path(sys.argv[1]).rglob("test-*.parquet")]
file = min(blobs).resolve()
data = bytearray(file.read_bytes())
data[len(data) // 2] ^= 1
file.write_bytes(data)
shutil.rmtree(datasets.config.HF_DATASETS_CACHE)
for options in ({}, {"streaming": True, "check": True}, {"epochs": [1], "check": True}):
    try:
        zd.load_zoo("somebody/model-zoos", "digits_cnn_s", "test", **options)
        print("loaded")
    except ZooError as error:
        print(error)
"""


def test_files_of_the_hub_are_checked_once_they_are_here(whole, tmp_path):
    with serving(whole / "repo") as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_dummy", "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", OF_THE_HUB, str(tmp_path)],
            capture_output=True, text=True, check=False, timeout=60, env=environment,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    whole_files, streamed, parts = done.stdout.splitlines()
    assert "is damaged" in whole_files
    assert "and load again, which downloads it anew" in whole_files
    assert streamed == parts
    assert streamed.startswith("check=True: of files on the Hub only parts are read here")
