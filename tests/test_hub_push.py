"""Publishing: the real client against a local hub, undisturbed and with everything that goes wrong on the way."""

import json
import re
import shutil
import subprocess

import pytest
from hub_client import Client
from hub_server import READER, Fault, serving
from tiny_runs import make_run

from zoo_datasets.builders import build_repository
from zoo_datasets.repository.card import configs_of, parse_card, read_card
from zoo_datasets.repository.card.text import YOURS
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.specs.members import Limits
from zoo_datasets.specs.zoos import get_zoo
from zoo_datasets.storage.files import sha256_of

A, B = "digits_cnn_s", "mnist_cnn_s_hyp_rand"


@pytest.fixture(scope="module")
def hub():
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    client = Client(hub.url, tmp_path_factory.mktemp("home"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def other_client(hub, tmp_path_factory):
    client = Client(hub.url, tmp_path_factory.mktemp("other"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Local repositories: A small, A grown, A from other images, and B."""
    folder = tmp_path_factory.mktemp("built")
    for name, growth, options in (
        ("small", ((12, 1),), {}),
        ("grown", ((12, 1), (20, 2)), {}),
        ("unlike", ((12, 1),), {"limits": Limits(train=9), "fingerprint": "other"}),
        ("b", ((12, 1),), {"zoo": get_zoo(B)}),
    ):
        make_run(folder / name / "run", growth, **options)
        build_repository(folder / name / "run", folder / name / "repo")
    return folder


@pytest.fixture
def name(request, hub):
    """A dataset's id of this test's own; after the test, every commit of it must have been one that loads."""
    hub.faults.clear()
    hub.reset()
    name = "somebody/" + re.sub(r"[\W_]+", "-", request.node.name).strip("-")[-60:].strip("-")
    yield name
    hub.faults.clear()
    assert name not in hub.repos or not hub.repos[name].broken()


def card_on(hub, name, ref="main"):
    repo = hub.repos[name]
    return parse_card(repo.commits[repo.refs[ref]].files["README.md"].blob.read_text(), name)


def shards_of(repo, config=A):
    return {shard.sha256 for shard in read_manifest(repo, config).shards}


def test_a_pushed_repository_is_the_same_from_the_hub(hub, client, name, built, tmp_path):
    local = shutil.copytree(built / "small" / "repo", tmp_path / "local")
    out = client.zoo("push", local, name)
    assert f"drawing plots of {A}\n" in out
    assert f'load it: datasets.load_dataset("{name}", "{A}")' in out
    files = hub.repos[name].head.files
    assert not [path for path in files if ".lock" in path or path.endswith(".tmp")]
    assert {files[shard.path].sha256 for shard in read_manifest(local, A).shards} == shards_of(local)
    card = card_on(hub, name)
    assert card.data.license == "cc-by-4.0"
    assert f'load_dataset("{name}", "{A}")' in card.text
    assert f"](_meta/{A}/README.md)" in card.text
    assert b"](accuracy.png)" in files[f"_meta/{A}/README.md"].blob.read_bytes()
    assert files[f"_meta/{A}/accuracy.png"].sha256 == sha256_of(local / "_meta" / A / "accuracy.png")
    for config in (A, f"{A}-meta"):
        assert client.load(name, config) == client.load(str(local), config)
    rows, _ = client.load(name, A, split="train", streaming=True)
    assert rows == {"all": 18}
    assert client.load(name, A, "train", epochs=[1], columns=["weights"], ours=True)[0] == {"all": 9}

    hub.reset()
    out = client.zoo("push", local, name)
    assert "nothing to do" in out
    assert "drawing" not in out
    assert {line.partition(" ")[0] for line in hub.requests} <= {"GET", "HEAD"}

    # What was downloaded verifies, and can be pushed again as it is.
    downloaded = client.ask(download=name)["folder"]
    assert "what was checked is as it says" in client.zoo("verify", downloaded, A, "--files-only")
    copy = shutil.copytree(downloaded, tmp_path / "copy")
    assert "nothing to do" in client.zoo("push", copy, name)


def test_a_zoo_is_added_without_touching_the_others(hub, client, name, built):
    client.zoo("push", built / "small" / "repo", name)
    first, before = hub.repos[name].refs["main"], dict(hub.repos[name].head.files)
    client.zoo("push", built / "b" / "repo", name)
    after = hub.repos[name].head.files
    assert {path for path in before if after[path] != before[path]} == {"README.md"}
    card = card_on(hub, name)
    assert set(configs_of(card)) == {A, B, f"{A}-meta", f"{B}-meta"}
    assert not any(config.get("default") for config in configs_of(card).values())
    assert card.text.index(f"| [{A}]") < card.text.index(f"| [{B}]")
    assert client.load(name, A) == client.load(name, A, revision=first)
    table = json.loads(client.zoo("info", name, "--json"))
    assert [(zoo["name"], zoo["models"], zoo["rows"]) for zoo in table] == [(A, 12, 24), (B, 12, 24)]
    assert json.loads(client.zoo("info", name, A, "--json")) == json.loads(
        client.zoo("info", built / "small" / "repo", A, "--json")
    )
    assert not [path for path in hub.sent if path.startswith(A) and hub.sent[path] and "info" in path]
    shown = client.zoo("info", name, A)
    assert "12 models, 24 rows, epochs 0–1" in shown
    assert "float32 [2464]" in shown
    assert "error: there is no config named 'digits_cnn_x'" in client.zoo("info", name, "digits_cnn_x", code=1)


def test_growing_sends_what_is_new_alone(hub, client, name, built):
    client.zoo("push", built / "small" / "repo", name)
    old, new = shards_of(built / "small" / "repo"), shards_of(built / "grown" / "repo")
    assert old < new
    hub.reset()
    client.zoo("push", built / "grown" / "repo", name)
    meta = {shard.sha256 for shard in read_manifest(built / "grown" / "repo", A).meta}
    picture = hub.repos[name].head.files[f"_meta/{A}/accuracy.png"].sha256
    assert set(hub.received) == (new - old) | meta | {picture}
    assert client.load(name, A) == client.load(str(built / "grown" / "repo"), A)
    out = client.zoo("push", built / "small" / "repo", name, code=1)  # would lose rows
    assert "20 models, 60 rows, which the local one with 12 models, 24 rows does not continue" in out


def test_other_content_needs_replace(hub, client, name, built):
    client.zoo("push", built / "small" / "repo", name)
    before = hub.repos[name].refs["main"]
    out = client.zoo("push", built / "unlike" / "repo", name, code=1)
    assert f"holds other content as {A}" in out
    assert "--replace" in out
    assert hub.repos[name].refs["main"] == before
    client.zoo("push", built / "unlike" / "repo", name, "--replace")
    assert client.load(name, A) == client.load(str(built / "unlike" / "repo"), A)
    held = {entry.sha256 for path, entry in hub.repos[name].head.files.items() if path.startswith(f"{A}/")}
    assert not held & (shards_of(built / "small" / "repo") - shards_of(built / "unlike" / "repo"))


def test_two_who_push_at_once_both_arrive(hub, client, other_client, name, built):
    client.zoo("push", built / "small" / "repo", name)
    meanwhile = Fault("POST", "/commit/", before=lambda: other_client.zoo("push", built / "b" / "repo", name))
    hub.faults += [meanwhile, Fault("POST", "/commit/", status=409, skip=1)]
    out = client.zoo("push", built / "grown" / "repo", name)
    assert out.count("somebody else pushed meanwhile") == 2
    assert set(configs_of(card_on(hub, name))) == {A, B, f"{A}-meta", f"{B}-meta"}
    assert client.load(name, A) == client.load(str(built / "grown" / "repo"), A)
    assert client.load(name, B) == client.load(str(built / "b" / "repo"), B)
    # The same zoo, pushed meanwhile with other content, is not overwritten.
    hub.make(f"{name}2")
    hub.faults += [
        Fault("POST", "/commit/", before=lambda: other_client.zoo("push", built / "unlike" / "repo", f"{name}2"))
    ]
    assert f"holds other content as {A}" in client.zoo("push", built / "small" / "repo", f"{name}2", code=1)


PASSING = {
    "sending": (
        [
            Fault("PUT", "/objects/.*/2$"),
            Fault("PUT", "/objects/.*/1$", status=500),
            Fault("POST", "/preupload/", status=503),
            Fault("POST", "/objects/batch", status=429, headers={"Retry-After": "7"}),
        ],
        [1, 1, 1, 8],
    ),
    "reading": (
        [Fault("GET", "^/api/datasets/[^/]*/[^/]*$", status=503, skip=1), Fault("POST", "/validate-yaml", status=500)],
        [2, 4],
    ),
    "committing": (
        [Fault("POST", "/commit/"), Fault("POST", "/commit/", status=429, headers={"Retry-After": "9"})],
        [2, 9],
    ),
}


@pytest.mark.parametrize("step", PASSING)
def test_faults_that_pass_are_waited_for(hub, client, name, built, step):
    faults, waits = PASSING[step]
    hub.faults += faults
    client.zoo("push", built / "small" / "repo", name)
    assert not [fault for fault in faults if fault.times], "a fault did not happen"
    assert sorted(client.waited) == sorted(waits)
    assert {entry.sha256 for entry in hub.repos[name].head.files.values()} >= shards_of(built / "small" / "repo")


LASTING = {
    "cut": (Fault("PUT", "/objects/.*/2$", times=99), "the connection failed"),
    "slow down": (Fault("POST", "/objects/batch", status=429, times=99, headers={"Retry-After": "1"}), "slow down"),
    "commit fails": (Fault("POST", "/commit/", status=503, times=99), "the Hub failed (status 503)"),
    "conflicts": (Fault("POST", "/commit/", status=412, times=99), "others push to it all the time"),
}


@pytest.mark.parametrize("fault", LASTING)
def test_a_fault_that_lasts_is_told_and_the_next_push_goes_on(hub, client, name, built, fault):
    client.zoo("push", built / "small" / "repo", name)
    before, loaded, old = hub.repos[name].refs["main"], client.load(name, A), set(hub.repos[name].arrived)
    what, told = LASTING[fault]
    hub.faults.append(what)
    hub.reset()
    out = client.zoo("push", built / "grown" / "repo", name, code=1)
    assert f"error: {built / 'grown' / 'repo'} could not be pushed to {name}: " in out
    assert told in out
    assert hub.repos[name].refs["main"] == before
    assert client.load(name, A, download_mode="force_redownload") == loaded
    arrived = hub.repos[name].arrived - old
    assert arrived or fault == "slow down"
    hub.faults.clear()
    hub.reset()
    client.zoo("push", built / "grown" / "repo", name)
    assert not arrived & set(hub.received)
    assert client.load(name, A) == client.load(str(built / "grown" / "repo"), A)


def test_a_killed_push_goes_on(hub, client, other_client, name, built):
    victim = other_client  # no test after this one may use it
    hub.faults.append(Fault("PUT", "/objects/", skip=5, before=victim.process.kill))
    with pytest.raises(AssertionError, match="the client died: -9"):
        victim.zoo("push", built / "grown" / "repo", name)
    assert "README.md" not in hub.repos[name].head.files
    arrived = set(hub.repos[name].arrived)
    assert arrived
    hub.reset()
    client.zoo("push", built / "grown" / "repo", name)
    assert not arrived & set(hub.received)
    assert client.load(name, A) == client.load(str(built / "grown" / "repo"), A)


def test_a_token_without_rights_is_told(hub, client, name, built):
    client.zoo("push", built / "small" / "repo", name)
    before = hub.repos[name].refs["main"]
    out = client.zoo("push", built / "grown" / "repo", name, code=1, token=READER)
    assert f"the token has no right to do this; use one that may write to {name}" in out
    assert "no right" in client.zoo("push", built / "small" / "repo", f"{name}-new", code=1, token=READER)
    for token in ("", "hf_unknownToken"):
        out = client.zoo("push", built / "grown" / "repo", name, code=1, token=token)
        assert "the token is missing or not valid" in out or "has no right" in out
    assert "may not see it" in client.zoo("info", "somebody/nothing", code=1)
    assert hub.repos[name].refs["main"] == before
    assert not hub.received.keys() & (shards_of(built / "grown" / "repo") - shards_of(built / "small" / "repo"))


def test_branches_pull_requests_and_private_datasets(hub, client, name, built):
    client.zoo("push", built / "small" / "repo", name, "--private")
    repo = hub.repos[name]
    assert repo.private
    main = repo.refs["main"]
    client.zoo("push", built / "b" / "repo", name, "--revision", "next")
    assert set(configs_of(card_on(hub, name, "next"))) == {A, B, f"{A}-meta", f"{B}-meta"}
    assert client.load(name, B, revision="next") == client.load(str(built / "b" / "repo"), B)
    # More files than one commit should have: each of the commits loads.
    out = client.zoo("push", built / "grown" / "repo", name, "--create-pr", files_per_commit=4)
    assert "/discussions/1: " in out
    assert repo.refs["main"] == main
    pull = repo.commits[repo.refs["refs/pr/1"]]
    assert pull.message == f"Push {A}"
    assert repo.commits[pull.parent].message == f"Add files of {A} (part 1 of 2)"
    assert client.load(name, A, revision="refs/pr/1") == client.load(str(built / "grown" / "repo"), A)
    assert "either --create-pr or --revision" in client.zoo(
        "push", built / "b" / "repo", name, "--create-pr", "--revision", "x", code=1
    )
    hub.make(f"{name}-public")
    assert "is public" in client.zoo("push", built / "b" / "repo", f"{name}-public", "--private", code=1)


def test_what_people_wrote_on_the_hub_stays(hub, client, name, built, tmp_path):
    repo = shutil.copytree(built / "small" / "repo", tmp_path / "repo")
    card = repo / "README.md"
    card.write_text(card.read_text().replace(f"{YOURS[0]}\n", f"{YOURS[0]}\nWritten here. ", 1))
    client.zoo("push", repo, name)
    assert "Written here." in card_on(hub, name).text
    text = hub.repos[name].head.files["README.md"].blob.read_text()
    text = text.replace("Written here.", "Written there.").replace("license: cc-by-4.0", "license: mit\nlanguage: en")
    hub.put(name, "README.md", text.encode())
    out = client.zoo("push", repo, name, "--config", A)
    assert "the Hub's card says license: 'mit', the local one 'cc-by-4.0'" in out
    assert "the text between the marks is another one on the Hub" in out
    assert "nothing to do" in client.zoo("push", repo, name)
    client.zoo("push", built / "b" / "repo", name)
    card = card_on(hub, name)
    assert (card.data.license, card.data.language) == ("mit", "en")
    assert "Written there." in card.text
    client.zoo("push", repo, name, "--replace")
    assert "Written here." in card_on(hub, name).text
    assert f"| [{B}]" in card_on(hub, name).text


def test_what_is_not_as_it_says_is_not_sent(hub, client, name, built, tmp_path):
    repo = shutil.copytree(built / "small" / "repo", tmp_path / "repo")
    shard = next((repo / A).glob("train-*.parquet"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-100] + b"x" * 100)
    out = client.zoo("push", repo, name, code=1)
    assert "is not what its manifest says, so nothing was sent" in out
    shard.unlink()
    assert f"{shard.name} is missing" in client.zoo("push", repo, name, code=1)
    assert "no config named 'digits'; did you mean digits_cnn_s" in client.zoo(
        "push", repo, name, "--config", "digits", code=1
    )
    assert "is no dataset repository" in client.zoo("push", tmp_path, name, code=1)
    manifest = repo / "_meta" / A / "manifest.json"
    told = json.loads(manifest.read_text())
    for path in ("/etc/hostname", "../secret.png", f"{A}/../secret.png"):
        manifest.write_text(json.dumps(told | {"plots": [path]}))
        assert "expected a .png in _meta/digits_cnn_s/" in client.zoo("push", repo, name, code=1)
    manifest.write_text(json.dumps(told | {"meta": []}))
    assert "build it again" in client.zoo("push", repo, name, code=1)
    assert not hub.requests
    assert read_card(repo).data.license == "cc-by-4.0"


def test_a_full_disk_is_told_and_the_same_load_then_completes(hub, client, name, built, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    command = ("unshare", "--user", "--map-root-user", "--mount")
    mount = f'mount -t tmpfs -o size=200k none "{home}" && exec "$@"'
    if subprocess.run([*command, "sh", "-c", mount, "sh", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    client.zoo("push", built / "grown" / "repo", name)
    cramped = Client(hub.url, home, (*command, "sh", "-c", mount, "sh"))
    answer = cramped.ask(load=[name, A], options={}, ours=True)
    assert "StorageError" in answer["output"]
    assert "the disk is full; free space, point HF_HOME elsewhere, or load less" in answer["output"]
    out = cramped.zoo("info", name)  # metadata has room
    assert "digits_cnn_s" in out
    cramped.close()
    assert client.load(name, A, ours=True) == client.load(str(built / "grown" / "repo"), A)
