"""What a card lists and what exists: zoos that are gone or removed, loose data files; how the Hub refuses."""

import json
import shutil
from contextlib import closing

import pytest
from hub_client import Client
from hub_server import READER, Fault, serving
from tiny_runs import make_run
from typer.testing import CliRunner

import zoo_datasets as zd
from zoo_datasets.builders import build_repository
from zoo_datasets.cli.app import app
from zoo_datasets.errors import RepositoryError, UnknownNameError
from zoo_datasets.repository.card import YOURS, configs_of, parse_card, read_card
from zoo_datasets.specs.zoos import get_zoo

A, B = "digits_cnn_s", "mnist_cnn_s_hyp_rand"


@pytest.fixture(scope="module")
def hub():
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    with closing(Client(hub.url, tmp_path_factory.mktemp("home"))) as client:
        yield client


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    make_run(folder / "a", ((6, 1),))
    make_run(folder / "b", ((6, 1),), zoo=get_zoo(B))
    for run in ("a", "b"):
        build_repository(folder / run, folder / "repo")
    return folder / "repo"


@pytest.fixture
def repo(both, tmp_path):
    return shutil.copytree(both, tmp_path / "repo")


def zoo(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, " ".join(f"{result.output} {result.exception or ''}".split())


def card_on(hub, name):
    return parse_card(hub.repos[name].head.files["README.md"].blob.read_text(), name)


def lose(repo, name=A):
    for folder in (name, f"{name}-meta", f"_meta/{name}"):
        shutil.rmtree(repo / folder)


def test_a_zoo_that_is_listed_and_gone_is_a_state_of_its_own(repo, hub, client):
    lose(repo)
    code, output = zoo("info", repo)
    assert code == 0
    assert f"lists {A} in README.md, but none of its files exists; build it again, or take it off the card" in output
    described = {each["name"]: each for each in json.loads(client.zoo("info", repo, "--json"))}
    assert described[A] == {"name": A, "state": "gone", "rows": None, "splits": {}}
    assert described[B]["models"] == 6
    assert f"`zoo remove {repo} {A}`" in zoo("info", repo, A)[1]
    for config in (A, f"{A}-meta"):
        with pytest.raises(RepositoryError, match="none of its files exists; build it again"):
            zd.load_zoo(repo, config)
    out = client.zoo("push", repo, "somebody/gone")
    assert f"lists {A} in README.md, but none of its files exists" in out
    assert "it is not pushed" in out
    assert set(configs_of(card_on(hub, "somebody/gone"))) == {B, f"{B}-meta"}
    assert "none of its files exists" in client.zoo("push", repo, "somebody/gone", "--config", A, code=1)
    assert "no config named 'x'" in client.zoo("push", repo, "somebody/gone", "--config", "x", code=1)


def test_a_zoo_that_is_gone_on_the_hub_is_told_and_comes_back(both, hub, client):
    name = "somebody/gone-there"
    client.zoo("push", both, name)
    remote = hub.repos[name]
    left = {path: entry for path, entry in remote.head.files.items() if A not in path}
    remote.commit("main", left, "Delete a folder")
    out = client.zoo("info", name)
    assert f"{name} lists {A} in README.md, but none of its files exists" in out
    assert "none of its files exists" in client.zoo("info", name, A, code=1)
    client.zoo("push", both, name)
    assert client.load(name, A) == client.load(str(both), A)
    remote.commits.pop(next(sha for sha, commit in remote.commits.items() if commit.message == "Delete a folder"))
    assert not remote.broken()


def test_a_zoo_is_removed_here(repo, both):
    card = (repo / "README.md").read_text()
    (repo / "README.md").write_text(card.replace(f"{YOURS[0]}\n", f"{YOURS[0]}\nWritten here. ", 1))
    before = {path: path.read_bytes() for path in repo.rglob("*") if path.is_file() and path.name != ".lock"}
    code, output = zoo("remove", repo, A, "--dry-run")
    assert code == 0
    assert f"would remove {A}/train-" in output
    assert "nothing was changed" in output
    assert before == {path: path.read_bytes() for path in repo.rglob("*") if path.is_file() and path.name != ".lock"}
    (repo / A / "notes").mkdir()
    (repo / A / "notes" / "mine.txt").write_text("mine")
    code, output = zoo("remove", repo, A)
    assert code == 0
    assert f"{repo}: {A} is removed, with" in output
    assert [path for path in before if not path.exists()]
    assert {path for path in before if path.exists() and A in path.relative_to(repo).as_posix()} == set()
    assert (repo / A / "notes" / "mine.txt").read_text() == "mine"
    assert not (repo / f"{A}-meta").exists()
    assert set(configs_of(read_card(repo))) == {B, f"{B}-meta"}
    assert configs_of(read_card(repo))[B]["default"] is True
    text = (repo / "README.md").read_text()
    assert "Written here." in text
    assert f"[{A}]" not in text
    assert zd.load_zoo(repo, B).num_rows == zd.load_zoo(both, B).num_rows
    assert zoo("remove", repo, B)[0] == 0
    assert configs_of(read_card(repo)) == {}


def test_what_is_gone_is_removed_and_what_is_no_zoo_is_not(repo):
    lose(repo)
    assert zd.remove_zoo(repo, A).files == ()
    with pytest.raises(UnknownNameError, match="no config named"):
        zd.remove_zoo(repo, A)
    with pytest.raises(RepositoryError, match=f"{B}-meta is a part of {B}; remove that one"):
        zd.remove_zoo(repo, f"{B}-meta")
    (repo / "mine.csv").write_text("a\n1\n")
    text = (repo / "README.md").read_text()
    (repo / "README.md").write_text(
        text.replace("configs:\n", "configs:\n- config_name: mine\n  data_files: mine.csv\n")
    )
    with pytest.raises(RepositoryError, match="mine was not written by `zoo build`"):
        zd.remove_zoo(repo, "mine")
    assert (repo / "mine.csv").exists()
    with pytest.raises(RepositoryError, match="is no dataset repository"):
        zd.remove_zoo(repo / B, B)


def test_a_zoo_is_removed_on_the_hub_by_a_commit(both, hub, client):
    name = "somebody/removed"
    client.zoo("push", both, name)
    remote = hub.repos[name]
    before = remote.refs["main"]
    out = client.zoo("remove", name, A, "--dry-run")
    assert f"would remove {A}/train-" in out
    assert remote.refs["main"] == before
    hub.faults.append(Fault("POST", "/commit/", before=lambda: hub.put(name, "notes.txt", b"meanwhile")))
    out = client.zoo("remove", name, A)
    assert f"{name}: {A} is removed" in out
    assert "somebody else pushed meanwhile" in out
    assert remote.head.message == f"Remove {A}"
    assert not [path for path in remote.head.files if path.startswith((f"{A}/", f"{A}-meta/", f"_meta/{A}/"))]
    assert "notes.txt" in remote.head.files
    assert set(configs_of(card_on(hub, name))) == {B, f"{B}-meta"}
    assert client.load(name, B) == client.load(str(both), B)
    assert "has no right" in client.zoo("remove", name, B, code=1, token=READER)
    assert "no config named" in client.zoo("remove", name, A, code=1)


def test_loose_data_files_are_not_hidden_without_a_word(both, hub, client):
    name = "somebody/loose"
    hub.make(name)
    hub.put(name, "data/train.csv", b"a\n1\n")
    hub.put(name, "LICENSE.txt", b"mine")
    before = hub.repos[name].refs["main"]
    out = client.zoo("push", both, name, code=1)
    assert f'{name} holds data files of no config (data/train.csv): load_dataset("{name}") gives them' in out
    assert "--force" in out
    assert hub.repos[name].refs["main"] == before
    out = client.zoo("push", both, name, "--force")
    assert "warning: somebody/loose holds data files of no config" in out
    assert "nothing to do" in client.zoo("push", both, name)
    hub.make(f"{name}2")
    hub.put(f"{name}2", "mine.parquet", next((both / f"{A}-meta").glob("train-*")).read_bytes())
    listed = "---\nconfigs:\n- config_name: default\n  data_files: {}\n  default: true\n---\n"
    hub.put(f"{name}2", "README.md", listed.format("mine.parquet").encode())
    loaded = client.load(f"{name}2")
    client.zoo("push", both, f"{name}2")
    assert client.load(f"{name}2") == loaded
    hub.make(f"{name}3")
    hub.put(f"{name}3", "README.md", listed.format("mine.csv").encode())
    hub.put(f"{name}3", "mine.csv", b"a\n1\n")
    out = client.zoo("push", both, f"{name}3", code=1)
    assert f"{name}3 has a config default of other files than Parquet (mine.csv)" in out


def test_gated_and_private_datasets_are_told_apart(both, hub, client):
    client.zoo("push", both, "somebody/gated")
    hub.repos["somebody/gated"].gated = True
    for token in (READER, ""):
        out = client.zoo("info", "somebody/gated", code=1, token=token)
        assert f"it is gated: ask for access at {hub.url}/datasets/somebody/gated" in out
        assert len(out.strip().split("\n")) == 1
        assert "it is gated" in client.zoo("push", both, "somebody/gated", code=1, token=token)
    client.zoo("push", both, "somebody/private", "--private")
    assert "it is private and the token may not see it" in client.zoo("info", "somebody/private", code=1, token=READER)
    out = client.zoo("info", "somebody/private", code=1, token="")
    assert "it does not exist, or it is private; log in with `hf auth login`" in out


def test_a_dataset_that_exists_is_not_created(both, hub, client):
    client.zoo("push", both, "reader/private", code=1)
    hub.make("somebody/hidden")
    hub.faults += [Fault("GET", "/api/datasets/somebody/hidden$", status=404, times=2,
                         headers={"X-Error-Code": "RepoNotFound"})]  # fmt: skip
    out = client.zoo("push", both, "somebody/hidden", code=1)
    assert "somebody/hidden exists, but the token may not see it" in out
    assert "created" not in out
    assert len(hub.repos["somebody/hidden"].commits) == 1


def test_a_renamed_dataset_keeps_its_new_name(both, hub, client):
    client.zoo("push", both, "somebody/new-name", "--config", A)
    hub.renamed["somebody/old-name"] = "somebody/new-name"
    out = client.zoo("push", both, "somebody/old-name")
    assert "somebody/old-name is named somebody/new-name now" in out
    assert 'load_dataset("somebody/new-name"' in out
    text = card_on(hub, "somebody/new-name").text
    assert 'load_dataset("somebody/new-name", ' in text
    assert "old-name" not in text
    assert "somebody/new-name" in client.zoo("info", "somebody/old-name")


def test_a_zoo_is_checked_again_once_a_file_of_it_has_changed(repo, client):
    name = "somebody/checked"
    client.zoo("push", repo, name)
    assert "nothing to do" in client.zoo("push", repo, name)
    shard = next((repo / A).glob("train-*.parquet"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-100] + b"x" * 100)
    assert "is not what its manifest says, so nothing was sent" in client.zoo("push", repo, name, code=1)
    shard.write_bytes(content)
    assert "nothing to do" in client.zoo("push", repo, name)
