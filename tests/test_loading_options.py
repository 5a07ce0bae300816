"""Options of loading and batches as users write them: parts of splits, addresses, numbers, dtypes, devices."""

import datasets
import numpy as np
import pytest
import torch
from datasets import load_dataset
from hub_client import Client
from hub_server import serving
from tiny_runs import make_run

from zoo_datasets.builders import build_repository, write_rows
from zoo_datasets.errors import SpecError, UnknownNameError
from zoo_datasets.loading.batches import batches
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.loading.mixing import mixed_tokens
from zoo_datasets.loading.tasks import property_prediction, sequence_prediction
from zoo_datasets.storage.hub_address import parse_address

NAME = "digits_cnn_s"


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("options")
    make_run(folder / "run", ((14, 2),))
    build_repository(folder / "run", folder / "repo")
    return folder / "repo"


@pytest.fixture(scope="module")
def zoo(repo, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        return load_zoo(repo, NAME, "train")


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.mark.parametrize(
    "split", ["train[:10%]", "train[-5:]", "train+test", "validation[:2]+train[50%:]", "test[1:2]"]
)
def test_parts_of_splits_are_those_of_datasets(repo, split):
    expected = load_dataset(str(repo), NAME, split=split)
    rows = load_zoo(repo, NAME, split)
    assert len(expected) > 0
    assert rows[:] == expected[:]
    read = torch.cat([batch["weights"] for batch in batches(rows, 2, ["weights"])])
    assert torch.equal(read, expected.with_format("torch")[:]["weights"])


def test_parts_of_splits_come_with_other_options_and_as_objects(repo):
    instruction = datasets.ReadInstruction("train", to=3, unit="abs")
    rows = load_zoo(repo, NAME, instruction, epochs=[1], columns=["epoch"])
    assert rows["epoch"][:] == [1, 1, 1]
    assert len(load_zoo(repo, NAME, datasets.Split.TEST)) == 6
    whole = load_zoo(repo, NAME, "train", split_by="seed")
    assert load_zoo(repo, NAME, "train[4:9]", split_by="seed")[:] == whole[4:9]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_cut_by_what_is_the_same_in_all_rows_is_refused(tmp_path, streaming):
    rows = [
        ({"weight": torch.full((2,), float(number))}, {"model_id": f"m{number}", "seed": 42, "rank": number % 2})
        for number in range(12)
    ]
    write_rows(tmp_path, "same", rows)
    with pytest.raises(
        SpecError, match="all rows have the seed 42, so that a cut by it puts all into one split; choose"
    ):
        load_zoo(tmp_path, "same", "train", split_by="seed", streaming=streaming)
    with pytest.raises(SpecError, match="no row has a value of lr, so that"):
        load_zoo(tmp_path, "same", split_by="group:lr", streaming=streaming)
    assert load_zoo(tmp_path, "same", split_by="group:rank", streaming=streaming)


def test_a_cut_of_chosen_rows_that_are_the_same_is_warned_of(tmp_path):
    rows = [({"weight": torch.zeros(2)}, {"model_id": f"m{number}", "rank": number % 2}) for number in range(12)]
    write_rows(tmp_path, "two", rows)
    with pytest.warns(UserWarning, match="all rows have the rank 1, so that a cut by it puts all into one split"):
        assert len(load_zoo(tmp_path, "two", split_by="group:rank", where="rank == 1")) == 1


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("train[:5", {}, "Unrecognized instruction format"),
        ("train[:5]", {"streaming": True}, "parts of splits are taken of prepared rows; load without streaming"),
        ("train[:0]", {}, r"no row of split 'train\[:0\]'"),
        (["train", "test"], {}, "expected one split"),
        ("train[:2%](pct1_dropremainder)", {}, "forbidden"),
    ],
)
def test_parts_that_are_none_are_refused(repo, split, options, message):
    with pytest.raises(SpecError, match=message):
        load_zoo(repo, NAME, split, **options)


def test_a_part_of_no_split_names_those_that_are_near(repo):
    with pytest.raises(UnknownNameError, match="no split named 'tain'; did you mean train"):
        load_zoo(repo, NAME, "tain[:5]")


@pytest.mark.parametrize("number", [np.int64, np.int32, np.uint8, torch.tensor])
def test_whole_numbers_may_be_numpys(repo, zoo, number):
    def first(batch_size, seed, buffer):
        return next(iter(batches(zoo, batch_size, shuffle=True, seed=seed, buffer=buffer)))

    expected, batch = first(8, 3, 16), first(number(8), number(3), number(16))
    assert torch.equal(batch["weights"], expected["weights"])
    assert set(load_zoo(repo, NAME, "train", epochs=[number(1), number(2)])["epoch"][:]) == {1, 2}
    assert set(load_zoo(repo, NAME, "test", epochs=np.array([1, 2]))["epoch"][:]) == {1, 2}
    pairs = sequence_prediction(zoo, number(1), number(2), batch_size=number(4))
    assert next(iter(pairs))["target"].shape == (4, 2464)
    pairs.set_epoch(number(2))
    assert pairs.state_dict()["epoch"] == 2
    tokens = next(iter(mixed_tokens({"zoo": zoo}, number(32), batch_size=number(4))))["tokens"]
    assert tokens.shape[::2] == (4, 32)


@pytest.mark.parametrize(("option", "value"), [("batch_size", 2.5), ("seed", "3"), ("buffer", 1.0), ("batch_size", 0)])
def test_numbers_that_are_no_whole_ones_are_refused(zoo, option, value):
    with pytest.raises(SpecError, match=f"{option}="):
        batches(zoo, **{option: value})


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", torch.float16, torch.float64, np.float16, np.dtype("float64")]
)
def test_floating_dtypes_come_by_name_too(zoo, dtype):
    name = str(np.dtype(dtype)) if not isinstance(dtype, (str, torch.dtype)) else str(dtype).removeprefix("torch.")
    expected = getattr(torch, name)
    stored = next(iter(batches(zoo, 4, ["weights", "test_acc", "epoch"], dtype=None)))
    batch = next(iter(batches(zoo, 4, ["weights", "test_acc", "epoch"], dtype=dtype, layers=False)))
    assert torch.equal(batch["weights"], stored["weights"].to(expected))
    assert (batch["test_acc"].dtype, batch["epoch"].dtype) == (expected, stored["epoch"].dtype)
    target = next(iter(property_prediction(zoo, ["epoch", "lr"], dtype=dtype, batch_size=4)))["target"]
    assert target.dtype == expected


@pytest.mark.parametrize("dtype", [torch.int64, "int8", np.int32, torch.bool, "float", "complex64", 16])
def test_other_dtypes_are_refused_before_weights_become_zero(zoo, dtype):
    for make in (batches, lambda zoo, dtype: property_prediction(zoo, ["epoch"], dtype=dtype)):
        with pytest.raises(SpecError, match="dtype=.*expected float16, bfloat16, float32, float64, or None"):
            make(zoo, dtype=dtype)


@pytest.mark.parametrize("device", ["cuda:63", "gpu", "xpu:9"])
def test_a_device_that_is_missing_is_told_at_construction(zoo, device):
    with pytest.raises(SpecError, match="device="):
        batches(zoo, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_told_at_construction(zoo):
    with pytest.raises(SpecError, match="device='cuda': torch sees 0 CUDA devices here; use device='cpu'"):
        batches(zoo, device="cuda")


def test_a_folder_has_no_revisions(repo):
    with pytest.raises(SpecError, match=r"revision='v1': .*repo is a folder here"):
        load_zoo(repo, NAME, "train", revision="v1")


ADDRESSES = {
    "org/name": None,
    "org/name@v1.0": "v1.0",
    "org/name@refs/pr/3": "refs/pr/3",
    "hf://datasets/org/name": None,
    "hf://datasets/org/name@v1.0": "v1.0",
    "hf://datasets/org/name@refs%2Fpr%2F3": "refs/pr/3",
    "hf://datasets/org/name@refs/pr/3": "refs/pr/3",
    "https://huggingface.co/datasets/org/name": None,
    "https://huggingface.co/datasets/org/name/": None,
    "https://huggingface.co/datasets/org/name?row=3#top": None,
    "https://huggingface.co/datasets/org/name/tree/v1.0": "v1.0",
    "https://hf.co/datasets/org/name/tree/refs%2Fpr%2F3": "refs/pr/3",
    "https://hub.example/mirror/datasets/org/name/tree/main": "main",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_of_datasets(address, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.example/mirror")
    assert parse_address(address) == ("org/name", ADDRESSES[address])
    assert parse_address(address, ADDRESSES[address] or "v2") == ("org/name", ADDRESSES[address] or "v2")
    if ADDRESSES[address]:
        with pytest.raises(SpecError, match=r"names revision .*, and revision='v2'; give one of them"):
            parse_address(address, "v2")


@pytest.mark.parametrize(
    "address",
    [
        "https://huggingface.co/org/name",
        "https://huggingface.co/spaces/org/name",
        "https://huggingface.co/datasets/org/name/tree/main/folder",
        "https://huggingface.co.evil.example/datasets/org/name",
        "https://example.org/datasets/org/name",
        "hf://org/name",
        "hf://datasets/org/name/file.parquet",
        "hf://datasets/org/name@main/file.parquet",
        "s3://bucket/name",
    ],
)
def test_other_addresses_are_refused(address):
    with pytest.raises(SpecError, match="is no address of a dataset on the Hub; expected org/name, org/name@revision"):
        load_zoo(address, NAME)


def test_addresses_and_revisions_load_and_are_described(repo, tmp_path):
    with serving(repo, "org/zoos") as hub:
        hub.repos["org/zoos"].refs["v1.0"] = hub.repos["org/zoos"].refs["main"]
        hub.put("org/zoos", "README.md", b"---\nconfigs: []\n---\nall gone")
        client = Client(hub.url, tmp_path / "home")
        for address in ("org/zoos@v1.0", "hf://datasets/org/zoos@v1.0", f"{hub.url}/datasets/org/zoos/tree/v1.0"):
            assert client.load(address, NAME, ours=True, split="train")[0] == {"all": 33}
            assert "14 models, 42 rows" in client.zoo("info", address, NAME)
        assert "no config named" in client.ask(load=["org/zoos", NAME], options={}, ours=True)["error"]
        assert "is a folder here" in " ".join(client.zoo("info", repo, "--revision", "v1", code=1).split())
        client.close()
