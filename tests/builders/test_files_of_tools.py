"""Archives, folders and files as tools write them are read, or named for what they are with the remedy."""

import io
import json
import os
import re
import shutil
import stat
import tarfile
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from raw_zoos import SEED_ZOO, make_twins, make_zoo, weights_of

from zoo_datasets.builders import build_repository, open_source
from zoo_datasets.builders.containers.archives import open_container
from zoo_datasets.builders.containers.folder import Folder
from zoo_datasets.builders.containers.links import follow
from zoo_datasets.builders.sources.raw.names import raw_model_id
from zoo_datasets.errors import SourceError
from zoo_datasets.repository.manifest import read_manifest

STATES = {(seed, epoch) for seed in (1, 2) for epoch in (0, 1)}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 13509\n"
PAGE = b"\r\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
XML = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code></Error>'
JSON = b'{"error": "Access to dataset org/zoo is restricted"}'


@pytest.fixture
def zoo(tmp_path):
    make_zoo(tmp_path / "made" / SEED_ZOO, models=2, epochs=(0, 1))
    return tmp_path / "made" / SEED_ZOO


def check_rows(source, repo):
    """Build a source of two models with two states and see that its rows are right; returns the result."""
    result = build_repository(source, repo)
    assert result.left_out == ()
    shards = read_manifest(repo, result.config).shards
    rows = [row for shard in shards for row in pq.read_table(repo / shard.path).to_pylist()]
    assert {(row["seed"], row["epoch"]) for row in rows} == STATES
    for row in rows:
        assert np.array_equal(np.array(row["weights"], np.float32), weights_of(row["seed"], row["epoch"]).numpy())
    return result


def files_of(zoo):
    return {f"{zoo.name}/{file.relative_to(zoo).as_posix()}": file for file in sorted(zoo.rglob("*")) if file.is_file()}


# Names


def write_zip(target, files):
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return target


def write_tar(target, files):
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return target


@pytest.mark.parametrize(("write", "ending"), [(write_zip, ".zip"), (write_tar, ".tar")])
def test_archives_with_the_separators_of_windows_are_read(tmp_path, zoo, write, ending):
    files = {name.replace("/", "\\"): file.read_bytes() for name, file in files_of(zoo).items()}
    check_rows(write(tmp_path / f"zoo{ending}", files), tmp_path / "repo")
    outside = {"..\\x": b"", "C:\\x": b"", "\\\\server\\x": b"", "a\\..\\..\\x": b""}
    refused = open_container(write(tmp_path / f"odd{ending}", outside)).refused
    assert len(refused) == 4


def test_folders_that_were_flattened_into_names_with_backslashes_are_read(tmp_path, zoo):
    (tmp_path / "flat").mkdir()
    for name, file in files_of(zoo).items():
        shutil.copy(file, tmp_path / "flat" / name.replace("/", "\\"))
    (tmp_path / "flat" / "..\\..\\x").write_text("")
    check_rows(tmp_path / "flat", tmp_path / "repo")


def test_what_a_mac_leaves_beside_files_is_ignored_in_folders_and_archives(tmp_path, zoo):
    for file in list(zoo.rglob("*")):
        if not file.name.startswith("."):
            file.with_name(f"._{file.name}").write_bytes(b"\x00\x05\x16\x07")
    for folder in [zoo, *(path for path in zoo.rglob("*") if path.is_dir())]:
        (folder / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")
        (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (zoo.parent / "__MACOSX").mkdir()
    shutil.copytree(zoo, zoo.parent / "__MACOSX" / zoo.name)
    files = {name: file.read_bytes() for name, file in files_of(zoo.parent).items()}
    for number, source in enumerate(
        (zoo.parent, write_zip(tmp_path / "zoo.zip", files), write_tar(tmp_path / "zoo.tar", files))
    ):
        check_rows(source, tmp_path / str(number))


def test_names_that_are_not_utf_8_are_told_in_printable_form(tmp_path, zoo):
    files = {name: file.read_bytes() for name, file in files_of(zoo).items()}
    odd = os.fsdecode(b"caf\xe9.txt")
    archive = write_zip(tmp_path / "zoo.zip", files | {f"{SEED_ZOO}/cafX.txt": b"", f"{SEED_ZOO}/ü.txt": b""})
    data = archive.read_bytes().replace(b"cafX.txt", b"caf\xe9.txt")
    at = data.find(b"PK\x01\x02", data.rfind(b"caf\xe9.txt") - 300)
    flagged = bytearray(data)
    flagged[at + 9] |= 8  # its name claims to be UTF-8
    for number, content in enumerate((data, bytes(flagged))):
        archive.write_bytes(content)
        check_rows(archive, tmp_path / f"zip{number}")
    for source in (archive, write_tar(tmp_path / "zoo.tar", files | {f"{SEED_ZOO}/{odd}": b""})):
        check_rows(source, tmp_path / source.name[-3:])
        stray = read_manifest(tmp_path / source.name[-3:], "mnist_cnn_s").source["stray_files"]
        assert any("caf" in path for path in stray)
        assert all(path.isprintable() for path in stray)


def test_trials_whose_names_are_not_utf_8_are_models(tmp_path, zoo):
    files = {name.replace("seed=1", os.fsdecode(b"\xe9,seed=1")): f.read_bytes() for name, f in files_of(zoo).items()}
    result = check_rows(write_tar(tmp_path / "zoo.tar", files), tmp_path / "repo")
    assert result.models == 2


# Links


def linked_zip(target, files, links):
    write_zip(target, files)
    with zipfile.ZipFile(target, "a") as archive:
        for name, to in links.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, to)
    return target


def linked_tar(target, files, links, kind=tarfile.SYMTYPE):
    write_tar(target, files)
    with tarfile.open(target, "a") as archive:
        for name, to in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, to
            archive.addfile(member)
    return target


def linked_folder(target, files, links):
    for name, content in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)
    for name, to in links.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).symlink_to(to)
    return target


WRITERS = [(linked_zip, ".zip"), (linked_tar, ".tar"), (linked_folder, "")]


@pytest.mark.parametrize(("write", "ending"), WRITERS)
def test_links_inside_the_tree_are_followed(tmp_path, zoo, write, ending):
    files, links = {}, {}
    for number, (name, file) in enumerate(files_of(zoo).items()):
        if "seed=1" in name:  # as in the Hub's cache: each file is a link, some by way of another
            files[f"blobs/{number}"] = file.read_bytes()
            up = "../" * name.count("/")
            links[name] = f"{up}again/{number}" if number % 2 else f"{up}./blobs/{number}"
            links[f"again/{number}"] = f"../blobs/{number}"
        else:  # as chosen by ln -s: the trial is a link
            files[name.replace(SEED_ZOO, "elsewhere/deep")] = file.read_bytes()
            trial = name.split("/")[1]
            links[f"{SEED_ZOO}/{trial}"] = f"../elsewhere/deep/{trial}/"
    for name in list(files):
        if name.startswith("elsewhere"):  # the zoo is what has the links
            files[f"store/{name.replace('elsewhere/deep/', '')}"] = files.pop(name)
    links = {name: to.replace("elsewhere/deep", "store") for name, to in links.items()}
    source = write(tmp_path / f"tree{ending}", files, links)
    container = open_container(source)
    trial = next(name for name in links if "seed=2" in name)
    assert f"{trial}/params.json" in container.entries
    assert json.loads(container.read(f"{trial}/params.json", 1 << 20))["seed"] == 2
    assert container.refused == {}
    with pytest.raises(SourceError, match="holds 2 zoos .*build each from its own folder"):
        open_source(source)


@pytest.mark.parametrize(("write", "ending"), WRITERS)
def test_zoos_of_links_have_the_rows_of_what_they_lead_to(tmp_path, zoo, write, ending):
    files = {f"blobs/{number}": file.read_bytes() for number, file in enumerate(files_of(zoo).values())}
    links = {name: "../" * name.count("/") + f"blobs/{number}" for number, name in enumerate(files_of(zoo))}
    check_rows(write(tmp_path / f"tree{ending}", files, links), tmp_path / "repo")


def test_hard_links_of_tars_are_followed(tmp_path, zoo):
    files = {f"blobs/{number}": file.read_bytes() for number, file in enumerate(files_of(zoo).values())}
    links = {name: f"blobs/{number}" for number, name in enumerate(files_of(zoo))}
    check_rows(linked_tar(tmp_path / "zoo.tar", files, links, tarfile.LNKTYPE), tmp_path / "repo")


@pytest.mark.parametrize("native", [True, False])
def test_a_snapshot_in_the_hubs_cache_is_read_by_its_links_into_blobs(tmp_path, zoo, native, monkeypatch):
    if not native:
        monkeypatch.setattr("zoo_datasets.builders.containers.folder.list_tree", lambda *arguments: None)
        monkeypatch.setattr("zoo_datasets.builders.containers.folder.read_alike", lambda *arguments: None)
    cache = tmp_path / "hub" / "datasets--org--zoo"
    files = {f"blobs/{number}": file.read_bytes() for number, file in enumerate(files_of(zoo).values())}
    links = {f"snapshots/abc/{name}": "../" * (name.count("/") + 2) + f"blobs/{number}"
             for number, name in enumerate(files_of(zoo))}  # fmt: skip
    linked_folder(cache, files, links)
    snapshot = cache / "snapshots" / "abc"
    for number, source in enumerate((snapshot / SEED_ZOO, snapshot, cache)):
        check_rows(source, tmp_path / str(number))
    before = Folder(snapshot).fingerprint()
    (cache / "blobs" / "0").write_bytes(b"{}")
    assert Folder(snapshot).fingerprint() != before
    (tmp_path / "secret").write_text("{}")
    for target in ("../../../../secret", "../../snapshots/abc/x", "../../blobs/../../../secret", "../../blobs/none"):
        (snapshot / "odd").unlink(missing_ok=True)
        (snapshot / "odd").symlink_to(target)
        assert set(Folder(snapshot).refused) == {"odd"}


@pytest.mark.parametrize("write_ending", WRITERS)
@pytest.mark.parametrize(
    "target", ["../../../../secret", "/etc/passwd", "C:\\secret", "checkpoint_000000", "nothing", "../.."]
)
def test_links_that_lead_elsewhere_are_refused_with_the_remedy(tmp_path, zoo, write_ending, target):
    write, ending = write_ending
    (tmp_path / "secret").write_bytes((zoo / files_of(zoo).popitem()[0].split("/", 1)[1]).read_bytes())
    files = {name: file.read_bytes() for name, file in files_of(zoo).items()}
    odd = next(name for name in files if name.endswith("checkpoint_000001/checkpoints"))
    del files[odd]
    source = write(tmp_path / f"{SEED_ZOO}{ending}", files, {odd: target})
    (entry,) = build_repository(source, tmp_path / "repo").left_out
    assert entry.epochs == (1,)
    assert ("cp -rL" in entry.reason) == target.startswith(("../../../..", "/"))
    assert "link" in entry.reason


def test_trials_that_are_links_out_of_the_source_are_told(tmp_path, zoo):
    chosen = tmp_path / "chosen" / SEED_ZOO
    chosen.mkdir(parents=True)
    for folder in sorted(zoo.iterdir()):
        (chosen / folder.name).symlink_to(folder)
    with pytest.raises(SourceError, match=r"2 entries cannot be read, one of them .*: it is a link out .*cp -rL"):
        build_repository(chosen, tmp_path / "repo")
    (chosen / folder.name).unlink()
    shutil.copytree(folder, chosen / folder.name)
    result = build_repository(chosen, tmp_path / "repo")
    assert "import-unread-entries" in result.codes.values()
    assert result.models == 1


def test_absolute_links_into_the_folder_are_followed(tmp_path, zoo):
    store = zoo / "store"
    store.mkdir()
    for number, file in enumerate(sorted(zoo.rglob("checkpoints"))):
        file.rename(store / str(number))
        file.symlink_to(store / str(number))
    check_rows(zoo, tmp_path / "repo")


def test_another_name_of_a_trial_is_not_another_model(tmp_path, zoo):
    first = sorted(path.name for path in zoo.iterdir())[0]
    (zoo / f"{first}_latest").symlink_to(first)
    result = build_repository(zoo, tmp_path / "repo")
    assert result.models == 2


def test_links_cannot_make_much_work():
    entries = sorted(["d/", *(f"d/{number}" for number in range(20_000))])
    followed = follow(
        entries, {f"e{number}": "d" for number in range(10)} | {"loop": "loop/x"} | {"x": "/" + "y/" * 9999}
    )
    assert set(followed.refused) >= {"loop", "x"}
    with pytest.raises(SourceError, match="more than 1,048,576 entries"):
        follow(entries, {f"e/{number}": "../d" for number in range(100)})
    nested = {f"d/l{depth}": "../d" for depth in range(20)} | {"e/l": "../d"}
    assert len(follow(entries, nested).places) == 20_001


# Files that are something else


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (POINTER, "is a Git LFS pointer .*git lfs pull"),
        (PAGE, "is a web page"),
        (XML, "is a server's error"),
        (JSON, "is a server's error"),
    ],
)
def test_what_lies_in_the_place_of_a_file_is_named(tmp_path, zoo, content, told):
    for name in ("zoo.zip", "zoo.tar", "zoo.tar.gz", "dataset_mnist.pt"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError, match=rf"{name}:? (it )?{told}"):
            open_source(tmp_path / name)
    (odd, *others) = sorted(zoo.rglob("checkpoints"))
    odd.write_bytes(content)
    (entry,) = build_repository(zoo, tmp_path / "repo").left_out
    assert re.search(told, entry.reason)
    for file in others:
        file.write_bytes(content)
    with pytest.raises(SourceError, match=told):
        open_source(zoo)


@pytest.mark.parametrize("name", ["params.json", "result.json"])
def test_a_pointer_in_the_place_of_a_text_is_named(tmp_path, zoo, name):
    for file in zoo.rglob(name):
        file.write_bytes(POINTER)
    try:
        messages = build_repository(zoo, tmp_path / "repo").warnings
    except SourceError as error:
        messages = (str(error),)
    assert any(f"{name}" in message and "Git LFS pointer" in message for message in messages)


# Names of checkpoints, and paths of Windows


@pytest.mark.parametrize(
    ("name", "others"),
    [("model.pt", ()), ("model.pt", ("optimizer.pt", "config.json")), ("checkpoint.pth", ("ema.pth",)),
     ("epoch_3.ckpt", ("optim.ckpt",)), ("checkpoint", ("rng_state.pt",)), ("best.pth.tar", ())],
)  # fmt: skip
def test_checkpoints_of_other_names_are_read_and_noted(tmp_path, zoo, name, others):
    for file in zoo.rglob("checkpoints"):
        for other in others:
            shutil.copy(file, file.with_name(other))
        file.rename(file.with_name(name))
    result = check_rows(zoo, tmp_path / "repo")
    assert (
        result.codes[f"2 × no file is named checkpoints; the weights are those in {name}"] == "import-checkpoint-name"
    )


@pytest.mark.parametrize("names", [("a.pt", "b.pt"), ("model.safetensors",), ("dict_checkpoint.pkl", ".metadata")])
def test_where_no_file_is_the_checkpoint_those_found_are_named(tmp_path, zoo, names):
    for file in zoo.rglob("checkpoints"):
        for name in names:
            shutil.copy(file, file.with_name(name))
        file.unlink()
    with pytest.raises(SourceError, match=f"no file named checkpoints but {names[0]}.*; rename the file"):
        open_source(zoo)


def test_paths_of_windows_in_files_tell_images_and_parents(tmp_path, zoo):
    own = tmp_path / "my_zoo"
    shutil.copytree(zoo, own)
    for file in own.rglob("params.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"dataset::dump": "D:\\zoos\\mnist\\dataset.pt"}))
    assert check_rows(own, tmp_path / "repo").config == "mnist_cnn_s"
    twins = make_twins(tmp_path / "cnn_small_mnist_ard", sorted(zoo.iterdir()))
    for folder in twins:
        params = json.loads((folder / "params.json").read_text())
        path = params["training::init_checkpoint_path"].replace("/", "\\")
        (folder / "params.json").write_text(json.dumps(params | {"training::init_checkpoint_path": f"C:\\{path}"}))
    result = build_repository(twins[0].parent, tmp_path / "twins")
    shards = read_manifest(tmp_path / "twins", result.config).shards
    parents = {
        row for shard in shards for row in pq.read_table(tmp_path / "twins" / shard.path)["parent_id"].to_pylist()
    }
    assert parents == {raw_model_id(SEED_ZOO, folder.name) for folder in zoo.iterdir()}
