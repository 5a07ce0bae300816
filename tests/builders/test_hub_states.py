"""State dicts of a repository on the Hub: listed once, and only what is needed is fetched."""

import json

import pytest
from hub_client import Client
from hub_server import serving
from safetensors.torch import save
from state_folders import NAME, mlp, rows_of, same


@pytest.fixture(scope="module")
def hub():
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    client = Client(hub.url, tmp_path_factory.mktemp("home"))
    yield client
    client.close()


def put(hub, name, count=4):
    """Adapters in folders of their own, each beside files that are not needed."""
    hub.make(name)
    for number in range(count):
        hub.put(name, f"loras/task{number}/adapter_model.safetensors", save(mlp(number)))
        hub.put(name, f"loras/task{number}/adapter_config.json", json.dumps({"r": number}).encode())
        hub.put(name, f"loras/task{number}/optimizer.pt", b"x" * 10_000)
        hub.put(name, f"loras/task{number}/images.zip", b"x" * 10_000)


@pytest.mark.parametrize("kind", ["models/", ""])
def test_a_repository_on_the_hub_is_a_source(hub, client, tmp_path, kind):
    name = f"somebody/adapters-{kind.strip('/') or 'datasets'}"
    put(hub, f"{kind}{name}")
    commit = hub.repos[f"{kind}{name}"].refs["main"]
    hub.reset()
    arguments = ("--name", NAME, "--out", tmp_path / "repo", "--columns-from", "adapter_config.json")
    output = client.zoo("build", f"hf:{name}", *arguments)
    assert "4 models" in output
    for number, row in enumerate(rows_of(tmp_path / "repo")):
        assert (row["model_id"], row["r"]) == (f"task{number}", number)
        assert same(row["state"], mlp(number))
    fetched = [request for request in hub.requests if "/resolve/" in request]
    assert not [request for request in fetched if "optimizer" in request or "images" in request]
    assert {request.rsplit("/", 2)[1] for request in fetched} == {f"task{number}" for number in range(4)}
    hub.put(f"{kind}{name}", "loras/task9/adapter_model.safetensors", save(mlp(9)))
    location = f"hf:{name}@{commit}" if kind else f"hf:datasets/{name}@{commit}/loras"
    assert "4 models" in client.zoo("build", location, "--name", NAME, "--out", tmp_path / "pinned")
    assert "5 models" in client.zoo("build", f"hf:{name}", "--name", NAME, "--out", tmp_path / "newer")


def test_what_is_not_on_the_hub_is_said_on_one_line(hub, client, tmp_path):
    hub.make("models/somebody/empty")
    for location, expected in {
        "hf:somebody/nothing": "does not exist",
        "hf:somebody": "is no place on the Hub",
        "hf:somebody/empty@nowhere": "no such revision",
        "hf:somebody/empty": "expected: run",
    }.items():
        output = client.zoo("build", location, "--name", NAME, "--out", tmp_path / "repo", code=1)
        assert expected in " ".join(output.split()), output
