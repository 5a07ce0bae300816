"""Zoos behind URLs: only what is needed is fetched, broken connections go on, the rows are those of the local files."""

import json
import signal
import subprocess
import sys
import threading
import time

import fsspec
import pytest
from file_server import serving_files
from raw_zoos import SEED_ZOO, TWIN_ZOO, make_twins, make_zoo, tarred, zipped

from zoo_datasets.builders import Reading, build_repository, open_source
from zoo_datasets.builders.containers.locate import open_location
from zoo_datasets.errors import DownloadError, SourceError, StorageError
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.repository.where import parse_where
from zoo_datasets.storage import remote
from zoo_datasets.storage.downloads import download
from zoo_datasets.storage.ranges import RangeCache, merged, without
from zoo_datasets.storage.remote import Http, HttpFile, is_url, shown

NAME = "mnist_cnn_s"
SECRET = "geheim"


@pytest.fixture(autouse=True)
def _quick(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "BACKOFF", 0.001)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def zoo(tmp_path):
    make_zoo(tmp_path / "served" / SEED_ZOO, models=8, epochs=range(6))
    return tmp_path / "served" / SEED_ZOO


def files_of(repo, name=NAME):
    """All shards and the manifest."""
    return {file.name: file.read_bytes() for file in sorted((repo / name).glob("*.*")) if file.is_file()}


def shards_of(repo, name=NAME):
    return {name: data for name, data in files_of(repo, name).items() if name.endswith(".parquet")}


def test_archives_and_trees_of_every_scheme_give_the_rows_of_the_local_folder(tmp_path, zoo):
    build_repository(zoo, tmp_path / "local")
    expected = files_of(tmp_path / "local")
    for file in (zipped(zoo), tarred(zoo), tarred(zoo, ".tar.gz")):
        fsspec.filesystem("memory").pipe(f"/bucket/{file.name}", file.read_bytes())
    fsspec.filesystem("memory").put(str(zoo), "/bucket/trees/", recursive=True)
    with serving_files(zoo.parent) as served:
        urls = [f"{served.url}/{SEED_ZOO}{ending}" for ending in (".zip", ".tar", ".tar.gz", "", "/", ".zip/content")]
        urls += [f"{served.url}/{SEED_ZOO}.zip?download=1", (zoo.parent / f"{SEED_ZOO}.zip").as_uri(), zoo.as_uri()]
        urls += [
            f"memory://bucket/{SEED_ZOO}.zip",
            f"memory://bucket/{SEED_ZOO}.tar.gz",
            f"memory://bucket/trees/{SEED_ZOO}",
        ]
        for number, url in enumerate(urls):
            result = build_repository(url, tmp_path / str(number))
            assert (result.config, result.rows, result.left_out) == (NAME, 48, ()), url
            assert files_of(tmp_path / str(number)) == expected, url


@pytest.mark.parametrize("kind", [".zip", "/", "memory"])
def test_a_selection_fetches_little_and_nothing_twice(tmp_path, zoo, kind):
    archive = zipped(zoo)
    selections = [
        {"epochs": frozenset({5})},
        {"models": 2},
        {"where": parse_where("seed == 3"), "epochs": frozenset({1})},
    ]
    fsspec.filesystem("memory").pipe(f"/bucket/{archive.name}", archive.read_bytes())
    with serving_files(zoo.parent) as served:
        url = f"memory://bucket/{archive.name}" if kind == "memory" else f"{served.url}/{SEED_ZOO}{kind}"
        for number, selection in enumerate(selections):
            reading = Reading(**selection)
            build_repository(zoo, tmp_path / f"local{number}", reading=reading)
            build_repository(url, tmp_path / f"remote{number}", reading=reading)
            assert files_of(tmp_path / f"remote{number}") == files_of(tmp_path / f"local{number}")
            wanted = served.total
            build_repository(url, tmp_path / f"again{number}", reading=reading)
            assert served.total - wanted < 5000 + (20_000 if kind == "/" else 0)  # listings are asked for again
    if kind == "/":
        assert not any(path.endswith(("params.pkl", "progress.csv")) for path in served.asked)


def test_one_epoch_of_a_large_zip_is_a_small_part_of_it(tmp_path):
    # Members as far apart as in the published archives, where optimizers lie between the checkpoints.
    folder = tmp_path / "served" / SEED_ZOO
    for trial in make_zoo(folder, models=6, epochs=range(12)):
        for checkpoint in trial.glob("checkpoint_*"):
            (checkpoint / "optimizer").write_bytes(bytes(100_000))
    size = zipped(folder).stat().st_size
    with serving_files(folder.parent) as served:
        result = build_repository(
            f"{served.url}/{SEED_ZOO}.zip", tmp_path / "a", reading=Reading(epochs=frozenset({11}))
        )
        assert result.rows == 6
        assert served.total < size / 4
        served.reset()
        assert build_repository(f"{served.url}/{SEED_ZOO}.zip", tmp_path / "b").rows == 72
        assert size <= served.total < size * 1.05


@pytest.mark.parametrize("options", [{"ranges": False}, {"validators": False}])
def test_servers_that_know_no_ranges_or_tell_no_version_give_the_same_rows(tmp_path, zoo, options):
    zipped(zoo)
    reading = Reading(epochs=frozenset({2}))
    build_repository(zoo, tmp_path / "local", reading=reading)
    with serving_files(zoo.parent, **options) as served:
        for repo in ("first", "second"):
            build_repository(f"{served.url}/{SEED_ZOO}.zip", tmp_path / repo, reading=reading)
            assert files_of(tmp_path / repo) == files_of(tmp_path / "local")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_after_cuts_and_errors(tmp_path, zoo, ranges):
    archive = zipped(zoo)
    size = archive.stat().st_size
    seen = []
    with serving_files(zoo.parent, ranges=ranges) as served:
        file = HttpFile.probe(Http(), f"{served.url}/{archive.name}")
        assert (file.size, file.ranges) == (size, ranges)
        served.reset()
        served.statuses += [(503, {}), (429, {"Retry-After": "0"}), (500, {})]
        served.cuts += [100_000, 200_000]
        got = download(file, tmp_path / "got.zip", fetched=lambda *what: seen.append(what))
        assert got.read_bytes() == archive.read_bytes()
        assert served.total <= size + (2 * remote.BLOCK if ranges else 300_000 + (1 << 17))
    assert seen[-1] == ("got.zip", size, size)
    assert {path.name for path in tmp_path.iterdir()} == {"served", "cache", "got.zip"}


def test_a_stopped_download_goes_on_in_the_next_process_unless_the_file_changed(tmp_path, zoo):
    archive = zipped(zoo)
    size = archive.stat().st_size
    target = tmp_path / "out" / "got.zip"

    def stop(what, done, total):
        if done > size // 2:
            raise KeyboardInterrupt

    with serving_files(zoo.parent) as served:
        url = f"{served.url}/{archive.name}"
        with pytest.raises(KeyboardInterrupt):
            download(HttpFile.probe(Http(), url), target, fetched=stop)
        assert not target.exists()
        kept = (target.parent / ".got.zip.partial").stat().st_size
        assert kept > size // 4
        served.reset()
        download(HttpFile.probe(Http(), url), target)
        assert target.read_bytes() == archive.read_bytes()
        assert served.total <= size - kept + 1
        target.unlink()
        with pytest.raises(KeyboardInterrupt):
            download(HttpFile.probe(Http(), url), target, fetched=stop)
        archive.write_bytes(archive.read_bytes()[::-1])
        download(HttpFile.probe(Http(), url), target)
        assert target.read_bytes() == archive.read_bytes()


def test_a_file_that_changes_under_way_is_never_mixed(tmp_path, zoo):
    archive = zipped(zoo)
    with serving_files(zoo.parent) as served:
        file = HttpFile.probe(Http(), f"{served.url}/{archive.name}")
        archive.write_bytes(archive.read_bytes()[::-1])
        with pytest.raises(DownloadError, match=r"changed on the server while .*run the command again"):
            download(file, tmp_path / "got.zip")
        with pytest.raises(DownloadError, match="changed on the server"):
            RangeCache(file, tmp_path / "parts").read(5, 10)


def test_what_cannot_be_fetched_says_why_and_what_to_do(tmp_path, zoo, monkeypatch):
    archive = zipped(zoo)
    with serving_files(zoo.parent) as served:
        url = f"{served.url}/{archive.name}"
        with pytest.raises(DownloadError, match=r"gone\.zip does not exist \(HTTP 404\); check the URL"):
            open_source(f"{served.url}/gone.zip")
        served.statuses += [(403, {})]
        with pytest.raises(DownloadError, match=r"refuses access \(HTTP 403\); give credentials in ~/.netrc"):
            open_source(url)
        served.statuses += [(503, {})] * 7
        with pytest.raises(DownloadError, match="HTTP 503, 7 times in a row; what was fetched is kept"):
            open_source(url)
        assert not served.statuses
        with pytest.raises(DownloadError, match=r"not a folder listing as JSON, \[\{name, type, size\}"):
            open_source(f"{served.url}/{SEED_ZOO}/{next(zoo.iterdir()).name}/params.json/")
        with pytest.raises(DownloadError, match=r"md5 [0-9a-f]{32} found, " + "0" * 32 + " expected.*is removed"):
            open_source(f"{url}#md5={'0' * 32}")
        assert not list((tmp_path / "cache").rglob("*.zip*"))
        (tmp_path / "there.zip").write_bytes(b"mine")
        with pytest.raises(StorageError, match=r"is not http.*: 4 bytes found, [\d,]+ expected"):
            download(HttpFile.probe(Http(), url), tmp_path / "there.zip")
        monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
        with pytest.raises(StorageError, match=r"needs [\d,]+ more bytes, 1,000 are free in"):
            open_source(url)
    with pytest.raises(DownloadError, match="could not be fetched: Connection refused, 4 times in a row"):
        open_source(url)
    with pytest.raises(DownloadError, match="memory://no/zoo.zip does not exist"):
        open_source("memory://no/zoo.zip")
    with pytest.raises(DownloadError, match="quatsch://x/zoo.zip could not be read: Protocol not known: quatsch"):
        open_source("quatsch://x/zoo.zip")


def test_a_tree_leaves_out_what_the_server_lacks_and_stops_for_what_it_does_not_give(tmp_path, zoo):
    trials = sorted(zoo.iterdir())
    (trials[0] / "checkpoint_000002" / "checkpoints").unlink()
    (trials[1] / "result.json").unlink()
    build_repository(zoo, tmp_path / "local")
    with serving_files(zoo.parent) as served:
        served.cuts += [300] * 4
        result = build_repository(f"{served.url}/{SEED_ZOO}", tmp_path / "remote")
        assert files_of(tmp_path / "remote") == files_of(tmp_path / "local")
        assert "its checkpoint folder holds no file named checkpoints" in [entry.reason for entry in result.left_out]
        (trials[2] / "checkpoint_000001" / "checkpoints").write_bytes(b"x")  # does not change the folder's date
        served.reset()
        build_repository(f"{served.url}/{SEED_ZOO}/", tmp_path / "again")
        assert shards_of(tmp_path / "again") == shards_of(tmp_path / "local")
        assert not any(path.endswith("json") for path in served.asked)


def test_names_that_climb_out_of_a_tree_are_refused(tmp_path, zoo):
    names = [{"name": "../x", "type": "file"}, {"name": "..", "type": "directory"}, {"name": "a/b", "type": "file"}]
    (zoo.parent / "evil").write_text(json.dumps([*names, {"name": "fine.txt", "type": "file", "size": 3}]))
    with serving_files(zoo.parent) as served:
        folder = open_location(f"{served.url}/evil/")
    assert list(folder.entries) == ["fine.txt"]
    assert set(folder.refused) == {"../x", "..", "a/b"}


def test_secrets_of_a_url_reach_neither_messages_nor_files(tmp_path, zoo, caplog):
    caplog.set_level("INFO")
    zipped(zoo)
    with serving_files(zoo.parent) as served:
        base = served.url.replace("http://", f"http://user:{SECRET}@")
        for number, path in enumerate((f"{SEED_ZOO}.zip", f"{SEED_ZOO}/")):
            for reading in (None, Reading(epochs=frozenset({1}))):
                url = f"{base}/{path}?token={SECRET}"
                build_repository(url, tmp_path / "repo", reading=reading, replace=True)
            assert f"token={SECRET}" in served.queries[-1], number
        messages = []
        for status in (404, 403, 418):
            served.statuses += [(status, {})]
            with pytest.raises(DownloadError) as caught:
                open_source(f"{base}/{SEED_ZOO}.zip?token={SECRET}")
            messages.append(caught.value)
        served.statuses += [(503, {})] * 7
        with pytest.raises(DownloadError) as caught:
            open_source(f"{base}/{SEED_ZOO}.zip?token={SECRET}")
        messages.append(caught.value)
    for url in (f"{base}/x.zip?token={SECRET}", f"quatsch://user:{SECRET}@host/x.zip?{SECRET}"):
        with pytest.raises(DownloadError) as caught:
            open_source(url)
        messages.append(caught.value)
    for error in messages:
        assert SECRET not in str(error)
        assert error.__cause__ is None
        assert error.__suppress_context__ or error.__context__ is None
    assert SECRET not in caplog.text
    for file in [*(tmp_path / "repo").rglob("*"), *(tmp_path / "cache").rglob("*")]:
        assert SECRET not in str(file)
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()


def test_twins_behind_urls_find_their_parents_behind_urls(tmp_path, zoo):
    make_twins(zoo.parent / TWIN_ZOO, sorted(zoo.iterdir())[:3])
    zipped(zoo), zipped(zoo.parent / TWIN_ZOO)
    build_repository(zoo.parent / TWIN_ZOO, tmp_path / "local")
    with serving_files(zoo.parent) as served:
        reading = Reading(parents=f"{served.url}/{SEED_ZOO}.zip")
        build_repository(f"{served.url}/{TWIN_ZOO}.zip", tmp_path / "remote", reading=reading)
    assert files_of(tmp_path / "remote", f"{NAME}_sparse") == files_of(tmp_path / "local", f"{NAME}_sparse")


def test_parts_that_were_fetched_before_a_stop_are_kept(tmp_path, zoo, monkeypatch):
    archive = zipped(zoo)
    monkeypatch.setattr("zoo_datasets.storage.ranges.PART", 10_000)
    content = archive.read_bytes()
    with serving_files(zoo.parent) as served:
        file = HttpFile.probe(Http(), f"{served.url}/{archive.name}")

        def stop(what, done, total):
            if done > 200_000:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            RangeCache(file, tmp_path / "parts", stop).fetch([(0, 400_000)], "it")
        served.reset()
        cache = RangeCache(file, tmp_path / "parts")
        assert cache.read(0, 400_000) == content[:400_000]
        assert served.total < 300_000
        with (tmp_path / "parts" / "ranges").open("a") as journal:
            journal.write("400000 900")  # half a line
        assert RangeCache(file, tmp_path / "parts").read(390_000, 20_000) == content[390_000:410_000]


def test_ranges_are_joined_and_what_is_there_is_not_asked_for():
    assert merged([(5, 9), (0, 2), (2, 3), (8, 12), (20, 20)]) == [(0, 3), (5, 12)]
    assert merged([(0, 2), (5, 9)], gap=3) == [(0, 9)]
    have = [(2, 4), (6, 8), (10, 20)]
    assert without([(0, 12), (15, 25)], have) == [(0, 2), (4, 6), (8, 10), (20, 25)]
    assert without([(3, 4), (12, 18)], have) == []
    assert without([(0, 5)], []) == [(0, 5)]


def test_urls_are_told_from_paths_and_shown_without_secrets(tmp_path):
    assert is_url("https://x/y.zip")
    assert is_url("simplecache::s3://bucket/x.zip")
    assert not any(map(is_url, ("runs/x", "C:\\zoo.zip", "x.zip", tmp_path, "a:b")))
    assert shown(f"https://u:{SECRET}@host:1/a/b.zip?q={SECRET}#x") == "https://host:1/a/b.zip"
    assert shown(f"filecache::s3://bucket/x?{SECRET}") == "filecache::s3://bucket/x"


def test_what_is_no_zoo_says_so(tmp_path, zoo):
    (zoo.parent / "empty").mkdir()
    fsspec.filesystem("memory").pipe("/other/notes.txt", b"x")
    with serving_files(zoo.parent) as served, pytest.raises(SourceError, match="empty holds no raw zoo"):
        open_source(f"{served.url}/empty/")
    with pytest.raises(SourceError, match=r"neither a folder nor an archive; its name should end with .zip"):
        open_source("memory://other/notes.txt")


def test_threads_are_gone_after_a_build(tmp_path, zoo):
    with serving_files(zoo.parent) as served:
        build_repository(f"{served.url}/{SEED_ZOO}/", tmp_path / "repo")
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("zoo-fetch")]
    assert read_manifest(tmp_path / "repo", NAME).states.written == 48


@pytest.mark.slow
@pytest.mark.parametrize("selection", [[], ["--where", "epoch >= 1"]])
def test_ctrl_c_ends_a_fetch_even_of_a_silent_server_and_the_command_goes_on(tmp_path, zoo, selection):
    for checkpoint in zoo.glob("*/checkpoint_*"):
        (checkpoint / "optimizer").write_bytes(bytes(200_000))
    size = zipped(zoo).stat().st_size
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs ignore it
        "from zoo_datasets.cli.app import main; main()"
    )
    with serving_files(zoo.parent) as served:
        served.stalls_after = 400_000
        command = [sys.executable, "-c", code, "build", f"{served.url}/{zoo.name}.zip", "--out", tmp_path / "repo"]
        process = subprocess.Popen([*command, *selection], stderr=subprocess.PIPE, text=True)
        while served.total <= served.stalls_after:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=15)[1].startswith("stopped: ")
        assert process.returncode == 130
        served.stalls_after = None
        served.reset()
        reading = Reading(where=parse_where("epoch >= 1")) if selection else None
        result = build_repository(f"{served.url}/{zoo.name}.zip", tmp_path / "repo", reading=reading)
        assert result.rows == (40 if selection else 48)
        # Of the 400,000 bytes, parts under way begin again, and so does half a block.
        assert served.total < (750_000 if selection else size - 250_000)
