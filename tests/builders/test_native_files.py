"""The compiled functions give what Python gives, and nothing passes them that Python would refuse."""

import os
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_zoos import SEED_ZOO, make_zoo, saved, state_dict, tarred, weights_of, zipped

from zoo_datasets.builders import build_repository
from zoo_datasets.builders.checkpoints.torch_file import parse_structure, read_tensors
from zoo_datasets.builders.containers import folder as containers
from zoo_datasets.builders.containers import native_files
from zoo_datasets.builders.containers.folder import Folder
from zoo_datasets.builders.containers.native_files import Template, library, list_tree, read_alike
from zoo_datasets.builders.sources.raw import source as from_raw
from zoo_datasets.builders.sources.raw import states as raw_checkpoints
from zoo_datasets.repository.manifest import read_manifest

pytestmark = pytest.mark.skipif(library() is None, reason="there is no C compiler")


@pytest.fixture
def without_compiler(monkeypatch):
    for module in (native_files, containers):
        monkeypatch.setattr(module, "library", lambda: None)


def test_a_listing_is_what_python_lists(tmp_path):
    root = tmp_path / "root"
    for folder in ("a", "a-b", "a/b", "empty", ".hidden", "/".join("d" * 70)):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for file in ("a/file", "a/.file", "a-b/x", "ab", "é", "line\nbreak", "12:x", "a/b/c"):
        (root / file).write_bytes(b"1")
    (root / os.fsdecode(b"not utf-8 \xff")).touch()
    (root / "link").symlink_to(root / "a")
    os.mkfifo(root / "a" / "pipe")
    tree, (entries, refused) = list_tree(str(root)), containers._walk(root)
    cut = "/".join("d" * 65) + "/"
    assert tree.refused.pop(cut) is not None  # a tree that is deeper than any zoo
    assert list(tree.entries) == [entry for entry in entries if not entry.startswith(f"{cut}d")]
    assert tree.refused == dict.fromkeys(refused) == {"link": None, "a/pipe": None}
    assert Folder(root).refused["a/pipe"] == refused["a/pipe"]


@pytest.mark.parametrize("threads", [2, 3, 9])
def test_threads_list_the_same(threads, tmp_path):
    make_zoo(tmp_path / SEED_ZOO, models=5)
    (tmp_path / SEED_ZOO / "link").symlink_to(tmp_path)
    (tmp_path / SEED_ZOO / "stray").touch()
    assert list_tree(str(tmp_path / SEED_ZOO), threads) == list_tree(str(tmp_path / SEED_ZOO))
    one, several = Folder(tmp_path / SEED_ZOO), Folder(tmp_path / SEED_ZOO, threads)
    assert one.fingerprint() == several.fingerprint()


def test_a_trial_that_comes_while_others_are_listed_hides_none(tmp_path, monkeypatch):
    make_zoo(tmp_path / SEED_ZOO, models=5)
    before = list_tree(str(tmp_path / SEED_ZOO)).entries
    original = native_files._list_below

    def slow(functions, root, name):
        (tmp_path / SEED_ZOO / f"{name[:3]}_new").mkdir(exist_ok=True)
        return original(functions, root, name)

    monkeypatch.setattr(native_files, "_list_below", slow)
    assert list_tree(str(tmp_path / SEED_ZOO), 2).entries == before


def test_a_folder_that_cannot_be_listed_says_why(tmp_path):
    folder = Folder(tmp_path / "gone")
    assert list(folder.entries) == []
    assert folder.refused == {"": "it could not be listed: No such file or directory"}


@pytest.mark.parametrize("native", [True, False])
def test_the_fingerprint_changes_with_a_file(native, tmp_path, request):
    if not native:
        request.getfixturevalue("without_compiler")
    make_zoo(tmp_path / SEED_ZOO, models=1)
    first = Folder(tmp_path / SEED_ZOO).fingerprint()
    assert Folder(tmp_path / SEED_ZOO).fingerprint() == first
    file = next((tmp_path / SEED_ZOO).rglob("checkpoints"))
    for hidden in (tmp_path / SEED_ZOO / ".sync", file.with_name(".is_checkpoint")):
        hidden.write_bytes(b"1")
    first = Folder(tmp_path / SEED_ZOO).fingerprint()
    for hidden in (tmp_path / SEED_ZOO / ".sync", file.with_name(".is_checkpoint")):
        hidden.write_bytes(b"22")
    assert Folder(tmp_path / SEED_ZOO).fingerprint() == first
    os.utime(file, ns=(0, 12345))
    assert Folder(tmp_path / SEED_ZOO).fingerprint() != first


@given(st.integers(0, 5000), st.integers(0, 2**32 - 1))
def test_the_checksum_is_that_of_zip(size, seed):
    data = np.random.default_rng(seed).bytes(size)
    assert library().zoo_crc32(data, size) == zlib.crc32(data)


def read(folder, files, template):
    for name, data in files.items():
        (folder / name).write_bytes(data)
    memory = np.empty(len(files) * template.length + 1, np.uint8)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        good = read_alike(descriptor, list(files), template, memory)
    finally:
        os.close(descriptor)
    return good.tolist(), memory


def test_files_of_a_structure_are_read_as_they_are(tmp_path):
    files = {str(seed): saved(state_dict(weights_of(seed, 0))) for seed in range(3)}
    template = Template.of(parse_structure(files["0"]))
    good, memory = read(tmp_path, files, template)
    assert good == [True, True, True]
    assert memory[:-1].tobytes() == b"".join(files.values())


def test_other_files_are_told_apart(tmp_path):
    data = saved(state_dict(weights_of(1, 0)))
    other = saved(state_dict(weights_of(1, 0), dropout=True))
    files = {"right": data, "short": data[:-1], "long": data + b"\0", "empty": b"", "other": other}
    template = Template.of(parse_structure(data))
    (tmp_path / "link").symlink_to(tmp_path / "right")
    os.mkfifo(tmp_path / "pipe")
    good, _ = read(tmp_path, files, template)
    assert good == [True, False, False, False, False]
    descriptor = os.open(tmp_path, os.O_RDONLY)
    memory = np.empty(4 * template.length + 1, np.uint8)
    assert read_alike(descriptor, ["link", "pipe", "missing", "right"], template, memory).tolist() == [False] * 3 + [
        True
    ]
    os.close(descriptor)


def test_what_it_lets_pass_python_lets_pass_too(tmp_path):
    """What else may differ is the padding between members and the CRCs of local headers, which nobody reads."""
    data = saved(state_dict(weights_of(1, 0)))
    structure = parse_structure(data)
    template = Template.of(structure)
    places = np.random.default_rng(0).choice(len(data), 400, replace=False)
    damaged = {}
    for place in places.tolist():
        changed = bytearray(data)
        changed[place] ^= 0x55
        damaged[str(place)] = bytes(changed)
    good, _ = read(tmp_path, damaged, template)
    for fine, content in zip(good, damaged.values(), strict=True):
        try:
            expected = structure.fits(content) and structure.check(content) is None
        except ValueError:
            expected = False
        assert fine == expected
        if fine:
            same = zip(read_tensors(content).values(), read_tensors(data).values(), strict=True)
            assert all(np.array_equal(one, other) for one, other in same)
    assert 0 < sum(good) < 60


def shards(repo):
    return {shard.path for shard in read_manifest(repo, "mnist_cnn_s").shards}


@pytest.mark.parametrize("packed", [lambda folder: folder, zipped, tarred])
def test_a_build_without_a_compiler_gives_the_same_bytes(packed, tmp_path, without_compiler, monkeypatch):
    folders = make_zoo(tmp_path / SEED_ZOO, models=8, varied=lambda index: {"model::dropout": 0.5 * (index % 2)})
    file = folders[0] / "checkpoint_000001" / "checkpoints"
    file.write_bytes(file.read_bytes()[:-9])
    zoo = packed(tmp_path / SEED_ZOO)
    plain = build_repository(zoo, tmp_path / "plain")
    monkeypatch.undo()
    native = build_repository(zoo, tmp_path / "native")
    assert native.left_out == plain.left_out
    assert native.rows == plain.rows == 23
    assert shards(tmp_path / "native") == shards(tmp_path / "plain")


@pytest.mark.parametrize("packed", [lambda folder: folder, zipped])
def test_each_trial_is_read_as_its_others_are(packed, tmp_path, monkeypatch):
    """Where dropout gives the tensors other names, files are expected so, and not each is parsed again."""
    make_zoo(tmp_path / SEED_ZOO, models=8, epochs=range(5), varied=lambda index: {"model::dropout": 0.5 * (index % 2)})
    monkeypatch.setattr(from_raw, "SMALL_PIECE_BYTES", 1)
    single = []
    found = raw_checkpoints.RawCheckpoints._read
    monkeypatch.setattr(raw_checkpoints.RawCheckpoints, "_read", lambda *given: single.append(given) or found(*given))
    assert build_repository(packed(tmp_path / SEED_ZOO), tmp_path / "repo").rows == 40
    assert len(single) == 4
