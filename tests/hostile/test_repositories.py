"""Repositories whose manifest, card or links name files that are not theirs: nothing outside is read or written."""

import json
import os
import shutil
from pathlib import Path

import datasets
import pytest
from hub_client import Client
from hub_server import serving
from tiny_runs import make_run
from typer.testing import CliRunner

import zoo_datasets as zd
from zoo_datasets.builders import build as repository
from zoo_datasets.builders.shards.journal import JOURNAL
from zoo_datasets.cli.app import app
from zoo_datasets.errors import RepositoryError, ZooError
from zoo_datasets.hub.local_zoo import local_zoos
from zoo_datasets.repository.card import parse_card
from zoo_datasets.repository.card.plots import draw_plots
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.storage.locks import LOCK

NAME = "digits_cnn_s"
SECRET = b"a secret of this machine"
runner = CliRunner()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    make_run(folder / "run", ((12, 1),))
    zd.build_repository(folder / "run", folder / "repo")
    draw_plots(folder / "repo", NAME)
    return folder


@pytest.fixture
def place(built, tmp_path, monkeypatch):
    """A folder with a run, its repository, and another one of the same name outside."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    folder = tmp_path / "place"
    for name in ("run", "repo"):
        shutil.copytree(built / name, folder / name)
    shutil.copytree(built / "repo", folder / "outside")
    (folder / "secret").write_bytes(SECRET)
    return folder


def zoo(*arguments):
    """The exit code and the output of a command that must not end in a traceback."""
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, (ZooError, SystemExit)), result.exception
    message = str(result.exception) if isinstance(result.exception, ZooError) else ""
    return result.exit_code, result.output + message


def content(folder: Path, but=()):
    """All files below a folder by path, without those in some of its folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in but and path.name != LOCK
    }


def change_manifest(repo, change):
    file = repo / "_meta" / NAME / "manifest.json"
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def shard_of(repo):
    return read_manifest(repo, NAME).shards[0].path


COMMANDS = {
    "info": lambda place: ["info", place / "repo", NAME],
    "verify": lambda place: ["verify", place / "repo", NAME, "--files-only"],
    "export": lambda place: ["export", place / "repo", NAME, "--out", place / "out"],
    "raw": lambda place: ["export", place / "repo", NAME, "--out", place / "out", "--format", "raw"],
    "benchmark": lambda place: ["benchmark", place / "repo", NAME, "--out", place / "out" / "benchmark.json"],
    "report": lambda place: ["report", place / "repo", NAME, "--out", place / "out" / "report.html"],
    "push": lambda place: ["push", place / "repo", "somebody/model-zoos"],
    "build": lambda place: ["build", place / "run", "--out", place / "repo"],
    "sparsify": lambda place: ["sparsify", place / "repo", "--name", NAME, "--method", "magnitude", "--amount", "0.5",
                               "--epochs", "1", "--out", place / "out"],
}  # fmt: skip
PATHS = {
    "parent": lambda place: f"../outside/{shard_of(place / 'outside')}",
    "climbing": lambda place: f"{NAME}/../../outside/{shard_of(place / 'outside')}",
    "absolute": lambda place: f"{place / 'outside' / shard_of(place / 'outside')}",
    "file": lambda place: f"file://{place / 'outside' / shard_of(place / 'outside')}",
    "http": lambda place: "http://127.0.0.1:9/x.parquet",
    "drive": lambda place: "C:\\x.parquet",
    "backslash": lambda place: "..\\outside\\x.parquet",
    "nul": lambda place: f"{NAME}/x\0.parquet",
    "control": lambda place: f"{NAME}/\x1b[2J.parquet",
    "surrogate": lambda place: f"{NAME}/\ud800.parquet",
    "chain": lambda place: f"zip://x.parquet::{NAME}/x.zip",
    "pattern": lambda place: f"{NAME}/*.parquet",
    "hidden": lambda place: ".git/config",
    "folder": lambda place: ".",
    "empty": lambda place: "",
    "long": lambda place: f"{NAME}/{'x' * 300}.parquet",
}


@pytest.mark.parametrize(
    ("command", "part"),
    [*((command, "shards") for command in COMMANDS), ("verify", "meta"), ("push", "meta"), ("push", "plots")],
)
def test_every_command_refuses_a_path_that_leaves_the_repository(place, command, part):
    path = PATHS["parent"](place)
    change_manifest(
        place / "repo",
        lambda value: value.update(plots=[path]) if part == "plots" else value[part][0].update(path=path),
    )
    before = content(place, but=["repo"])
    code, output = zoo(*COMMANDS[command](place))
    assert code == 1, output
    assert "no plain path inside the repository" in " ".join(output.split())
    assert content(place, but=["repo"]) == before


@pytest.mark.parametrize("kind", PATHS)
def test_no_path_of_a_manifest_leaves_the_repository(place, kind):
    path = PATHS[kind](place)
    change_manifest(place / "repo", lambda value: value["shards"][0].update(path=path))
    with pytest.raises(RepositoryError, match="no plain path inside the repository") as refused:
        read_manifest(place / "repo", NAME)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["parent", "absolute", "file", "drive", "nul", "pattern"])
def test_loading_refuses_them_too(place, kind, streaming):
    path = PATHS[kind](place)
    change_manifest(place / "repo", lambda value: value["shards"][0].update(path=path))
    with pytest.raises(RepositoryError, match="no plain path inside the repository"):
        zd.load_zoo(place / "repo", NAME, epochs=[0], streaming=streaming)


@pytest.mark.parametrize("name", ["../../x", "other", "a/b", "", "\x1b"])
def test_a_manifest_of_another_config_is_refused(place, name):
    change_manifest(place / "repo", lambda value: value.update(config=name))
    with pytest.raises(RepositoryError, match="is that of config"):
        read_manifest(place / "repo", NAME)


def test_splits_are_those_that_there_are(place):
    change_manifest(place / "repo", lambda value: value["shards"][0].update(split="../x"))
    with pytest.raises(RepositoryError, match="split '../x' of"):
        read_manifest(place / "repo", NAME)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["parent", "climbing", "absolute", "file", "http", "drive", "backslash", "chain"])
def test_files_that_a_card_lists_are_the_repositorys_own(place, kind, streaming):
    path = PATHS[kind](place)
    card = parse_card((place / "repo" / "README.md").read_text(), "card")
    card.data["configs"] = [
        {"config_name": NAME, "data_files": path if streaming else [{"split": "train", "path": path}]}
    ]
    (place / "repo" / "README.md").write_text(str(card))
    (place / "repo" / "_meta" / NAME / "manifest.json").unlink()
    with pytest.raises(RepositoryError, match=r"outside of the repository|no file of its own"):
        zd.load_zoo(place / "repo", NAME, streaming=streaming)


def test_a_folder_that_a_card_names_is_the_repositorys_own(place):
    card = parse_card((place / "repo" / "README.md").read_text(), "card")
    card.data["configs"] = [{"config_name": NAME, "data_dir": f"../outside/{NAME}"}]
    (place / "repo" / "README.md").write_text(str(card))
    (place / "repo" / "_meta" / NAME / "manifest.json").unlink()
    with pytest.raises(RepositoryError, match="outside of the repository"):
        zd.load_zoo(place / "repo", NAME)


def link(place, what):
    """Put a link that leads outside in the place of a part of the repository; gives its path."""
    repo, outside = place / "repo", place / "outside"
    path = {"shard": shard_of(repo), "manifest": f"_meta/{NAME}/manifest.json", "config": NAME, "card": "README.md"}[
        what
    ]
    shutil.rmtree(repo / path) if what == "config" else (repo / path).unlink()
    (repo / path).symlink_to(outside / path)
    return path


@pytest.mark.parametrize(
    ("command", "what"),
    [*((command, "shard") for command in COMMANDS), ("verify", "config"), ("build", "config"), ("push", "config"),
     ("info", "manifest"), ("sparsify", "manifest"), ("info", "card"), ("verify", "card"), ("build", "card")],
)  # fmt: skip
def test_every_command_refuses_links_that_lead_out_of_the_repository(place, command, what):
    path = link(place, what)
    before = content(place, but=["repo"])
    code, output = zoo(*COMMANDS[command](place))
    assert code == 1, output
    assert "is a link" in " ".join(output.split())
    assert f"repo/{path}" in "".join(output.split())
    assert content(place, but=["repo"]) == before


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("known", [True, False])
def test_loading_follows_no_link_out_of_the_repository(place, streaming, known):
    link(place, "shard")
    if not known:
        (place / "repo" / "_meta" / NAME / "manifest.json").unlink()
    with pytest.raises(RepositoryError, match="is a link that leads out of"):
        zd.load_zoo(place / "repo", NAME, streaming=streaming)


def test_links_within_a_repository_and_of_the_hubs_cache_are_followed(place):
    repo, shard = place / "repo", shard_of(place / "repo")
    rows = sum(map(len, zd.load_zoo(repo, NAME).values()))
    (repo / shard).rename(repo / "elsewhere.parquet")
    (repo / shard).symlink_to(repo / "elsewhere.parquet")
    assert sum(map(len, zd.load_zoo(repo, NAME).values())) == rows
    cached = place / "datasets--a--b" / "snapshots" / "0123"
    shutil.copytree(place / "outside", place / "datasets--a--b" / "blobs")
    for file in [path for path in (place / "outside").rglob("*") if path.is_file()]:
        relative = file.relative_to(place / "outside")
        (cached / relative).parent.mkdir(parents=True, exist_ok=True)
        (cached / relative).symlink_to(place / "datasets--a--b" / "blobs" / relative)
    assert sum(map(len, zd.load_zoo(cached, NAME).values())) == rows
    (cached / shard).unlink()
    (cached / shard).symlink_to(place / "outside" / shard)
    with pytest.raises(RepositoryError, match="is a link that leads out of"):
        zd.load_zoo(cached, NAME)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("what", ["plot", "shard", "meta", "manifest", "card", "config"])
def test_nothing_behind_a_link_is_pushed(place, what, inside):
    repo = place / "repo"
    manifest = read_manifest(repo, NAME)
    path = {"plot": manifest.plots[0], "shard": manifest.shards[0].path, "meta": manifest.meta[0].path, "config": NAME,
            "manifest": f"_meta/{NAME}/manifest.json", "card": "README.md"}[what]  # fmt: skip
    target = repo / "kept" if inside else place / "kept"
    (repo / path).rename(target)
    (repo / path).symlink_to(target)
    with pytest.raises(RepositoryError, match="is a link") as refused:
        local_zoos(repo)
    assert str(repo / path) in str(refused.value)


def test_a_pipe_is_no_file(place):
    shard = place / "repo" / shard_of(place / "repo")
    shard.unlink()
    os.mkfifo(shard)
    for command in ("verify", "export", "push"):
        code, output = zoo(*COMMANDS[command](place))
        assert code == 1
        assert "neither a file nor a folder" in " ".join(output.split())


@pytest.mark.parametrize("folder", [NAME, f"{NAME}-meta"])
def test_a_build_writes_into_no_folder_behind_a_link(place, folder):
    shutil.rmtree(place / "repo")
    (place / "repo").mkdir()
    (place / "elsewhere").mkdir()
    (place / "repo" / folder).symlink_to(place / "elsewhere")
    code, output = zoo("build", place / "run", "--out", place / "repo")
    assert code == 1
    assert "is a link that leads out of" in output
    assert not content(place / "elsewhere")


@pytest.mark.parametrize("lock", [LOCK, f"{NAME}/{LOCK}"])
def test_a_lock_is_no_link(place, lock):
    (place / "repo" / lock).unlink(missing_ok=True)
    (place / "repo" / lock).symlink_to(place / "secret")
    code, output = zoo("build", place / "run", "--out", place / "repo", "--replace")
    assert code == 1
    assert "is a link, expected a file" in output
    assert (place / "secret").read_bytes() == SECRET


def test_the_notes_of_a_build_name_no_file_outside(place, monkeypatch):
    """A build that goes on trusts shards by their checksums, and removes those that it does not need."""
    shutil.rmtree(place / "repo")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(repository, "_commit", stop)
        with pytest.raises(KeyboardInterrupt):
            zd.build_repository(place / "run", place / "repo")
    journal = place / "repo" / NAME / JOURNAL
    text = journal.read_text()
    assert f'"{NAME}/train-' in text
    journal.write_text(text.replace(f'"{NAME}/', f'"../outside/{NAME}/'))
    before = content(place / "outside")
    zd.build_repository(place / "run", place / "repo")
    assert content(place / "outside") == before
    assert zoo("verify", place / "repo", NAME, "--files-only")[0] == 0


@pytest.fixture(scope="module")
def hub():
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    client = Client(hub.url, tmp_path_factory.mktemp("home"))
    yield client
    client.close()


@pytest.mark.parametrize("kind", ["parent", "absolute", "http"])
@pytest.mark.parametrize("where", ["manifest", "card"])
def test_repositories_on_the_hub_name_their_own_files_only(place, hub, client, kind, where):
    name, path = f"somebody/{where}-{kind}", PATHS[kind](place)
    hub.make(name)
    if where == "manifest":
        change_manifest(place / "repo", lambda value: value["shards"][0].update(path=path))
    else:
        card = parse_card((place / "repo" / "README.md").read_text(), "card")
        card.data["configs"] = [{"config_name": NAME, "data_files": [{"split": "train", "path": path}]}]
        (place / "repo" / "README.md").write_text(str(card))
        (place / "repo" / "_meta" / NAME / "manifest.json").unlink()
    for file in [path for path in (place / "repo").rglob("*") if path.is_file() and not path.name.startswith(".")]:
        hub.put(name, file.relative_to(place / "repo").as_posix(), file.read_bytes())
    for options in ({}, {"streaming": True}):
        answer = client.ask(load=[name, NAME], options=options, ours=True)
        assert "rows" not in answer
        assert answer["error"].startswith("OutsideError: "), answer
    output = client.zoo("export", name, NAME, "--out", place / "out", code=1)
    assert output.startswith("error: "), output
    assert not (place / "out").exists()
    assert "outside of the repository" in answer["error"] or "no plain path inside" in answer["error"]
    if where == "manifest":
        assert "no plain path inside the repository" in client.zoo("info", name, NAME, code=1)
        assert "no plain path inside the repository" in answer["error"]


def test_a_push_sends_nothing_that_a_link_leads_to(place, hub, client):
    hub.make("somebody/linked")
    hub.reset()
    plot = place / "repo" / read_manifest(place / "repo", NAME).plots[0]
    plot.unlink()
    plot.symlink_to(place / "secret")
    output = client.zoo("push", place / "repo", "somebody/linked", code=1)
    assert f"{plot} is a link" in output
    assert not hub.requests
    assert SECRET not in b"".join(hub.received.values())
