"""What was loaded from a hub once loads without it: with HF_HUB_OFFLINE, and with the hub gone."""

import json
from contextlib import closing

import pytest
from hub_client import Client
from hub_server import serving
from tiny_runs import make_run

from zoo_datasets.builders import build_repository

NAME = "digits_cnn_s"
# Each is loaded online with all its arguments, some of them as batches.
FORMS = [
    {},
    {"split": "train"},
    {"epochs": [1]},
    {"split": "train", "epochs": [1], "columns": ["weights"]},
    {"where": "epoch == 2 and lr < 1", "columns": ["test_acc"]},
    {"split_by": "seed"},
    {"split": "train", "split_by": "seed", "columns": ["weights"]},
    {"streaming": True},
    {"streaming": True, "split": "train", "epochs": [1]},
    {"split": "train", "epochs": [1], "columns": ["weights"], "batched": True},
    {"streaming": True, "split": "train", "epochs": [1], "batched": True},
]
PART = {"split": "train", "epochs": [1]}
WITHOUT = {"HF_HUB_OFFLINE is set": True, "the Hub is out of reach": False}
ALL = {"train": 33, "validation": 3, "test": 6}


@pytest.fixture(scope="module")
def online(tmp_path_factory):
    """A cache into which a hub was loaded that is gone: its address, its folder, and what was loaded in all forms."""
    folder = tmp_path_factory.mktemp("offline")
    make_run(folder / "run", ((14, 2),))
    for name in (None, "other"):
        build_repository(folder / "run", folder / "repo", name)
    with serving(folder / "repo", "a/whole") as hub:
        for name in ("a/parts", "a/plain", "a/commits", "a/streamed"):
            hub.make(name, files=hub.repos["a/whole"].head.files)
        with closing(Client(hub.url, folder / "home")) as client:
            loaded = [client.load("a/whole", NAME, ours=True, **form) for form in FORMS]
            client.load("a/whole", f"{NAME}-meta", ours=True)
            client.load("a/parts", NAME, ours=True, **PART)
            client.load("a/plain", NAME)
            client.load("a/streamed", NAME, ours=True, streaming=True, columns=["lr"])
            client.load("a/commits", NAME, ours=True, split="train")
            hub.put("a/commits", "notes.txt", b"something else")
            client.load("a/commits", NAME, ours=True, split="test")
    return hub.url, folder / "home", loaded


@pytest.fixture(scope="module", params=WITHOUT)
def offline(request, online):
    """The reason that messages give, and a process that has the cache alone."""
    url, home, _ = online
    with closing(Client(url, home, offline=WITHOUT[request.param])) as client:
        yield request.param, client


def failure(client, *arguments, **options):
    answer = client.ask(load=arguments, options=options, ours=True)
    return answer["error"]


def test_what_was_loaded_once_loads_again_in_all_forms(online, offline):
    _, client = offline
    assert online[2][0][0] == ALL
    assert [client.load("a/whole", NAME, ours=True, **form) for form in FORMS] == online[2]
    assert client.load("a/whole", f"{NAME}-meta", ours=True)[0] == ALL
    # Files that were downloaded whole serve other selections too.
    assert client.load("a/whole", NAME, ours=True, epochs=[2], columns=["lr"])[0]["train"] == 11


def test_rows_prepared_of_parts_of_files_load_with_the_same_arguments_alone(offline):
    reason, client = offline
    for form in (PART, PART | {"streaming": True}, PART | {"streaming": True, "batched": True}):
        assert client.load("a/parts", NAME, ours=True, **form)[0] == {"all": 11}
    for form in (PART | {"epochs": [2]}, {"split": "train", "streaming": True}, {"split": "train"}):
        error = failure(client, "a/parts", NAME, **form)
        assert f"NotCachedError: a/parts: {reason}, and the cache lacks 1 of 1 files, {NAME}/train-" in error


def test_rows_of_an_earlier_commit_load_if_the_newest_was_not_loaded(offline):
    _, client = offline
    assert client.load("a/commits", NAME, ours=True, split="train")[0] == {"all": 33}
    assert client.load("a/commits", NAME, ours=True, split="test")[0] == {"all": 6}


def test_what_datasets_loaded_loads_too(offline):
    _, client = offline
    assert client.load("a/plain", NAME, ours=True)[0] == ALL
    assert client.load("a/plain", NAME, ours=True, streaming=True)[0] == ALL


def test_what_the_cache_lacks_is_told(offline):
    reason, client = offline
    assert f"{reason}, and the cache lacks 3 of 3 files, {NAME}/" in failure(client, "a/streamed", NAME)
    assert "no config named 'digits'; did you mean digits_cnn_s" in failure(client, "a/streamed", "digits")
    for arguments, options in ((("a/none", NAME), {}), (("a/whole", NAME), {"revision": "v1"})):
        error = failure(client, *arguments, **options)
        assert f"RepositoryError: {arguments[0]} is neither a folder here nor a dataset on the Hub that" in error
        assert "has nothing of it" in error


def test_info_tells_what_the_cache_holds(offline):
    reason, client = offline
    output = client.zoo("info", "a/whole", NAME)
    assert "14 models, 42 rows, epochs 0–2" in output
    assert reason in " ".join(output.split())
    described = json.loads(client.zoo("info", "a/whole", "--json"))
    assert [(facts["name"], facts["rows"]) for facts in described] == [(NAME, 42), ("other", 42)]
    output = client.zoo("info", "a/whole", "other", code=1)
    assert f"{reason}, and the cache lacks the manifest of other" in " ".join(output.split())
