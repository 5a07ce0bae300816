"""Many zoos in one repository: files behind a pattern, whose version keeps caches fresh; folders of Parquet."""

import json
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset
from hub_client import Client
from hub_server import LARGE, serving
from tiny_runs import make_run

import zoo_datasets as zd
from zoo_datasets.builders import build_repository
from zoo_datasets.errors import RepositoryError, ZooError
from zoo_datasets.hub.local_zoo import local_zoos
from zoo_datasets.repository.card import configs_of, info_of, listed_by_name, read_card, write_card
from zoo_datasets.repository.listing import by_pattern, files_among, version_of
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.specs.members import Limits
from zoo_datasets.specs.zoos import get_zoo

NAME = "digits_cnn_s"
OTHER = "mnist_cnn_s_hyp_rand"


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of the same zoo: small, grown by models and an epoch, and other."""
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "small", ((12, 1),))
    make_run(folder / "grown", ((12, 1), (20, 2)))
    make_run(folder / "other", ((12, 1),), limits=Limits(train=9))
    make_run(folder / "beside", ((4, 1),), zoo=get_zoo(OTHER))
    return folder


@pytest.fixture(scope="module")
def hub():
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    with closing(Client(hub.url, tmp_path_factory.mktemp("home"))) as client:
        yield client


@pytest.fixture
def repo(runs, tmp_path):
    build_repository(runs / "beside", tmp_path / "repo")
    build_repository(runs / "small", tmp_path / "repo")
    return tmp_path / "repo"


def states(rows):
    return {(row["model_id"], row["epoch"]) for part in rows.values() for row in part.select_columns(
        ["model_id", "epoch"])}  # fmt: skip


def expected_states(repo, name=NAME):
    tables = [pq.read_table(repo / shard.path, partitioning=None) for shard in read_manifest(repo, name).shards]
    return {(row["model_id"], row["epoch"]) for table in tables for row in table.drop(["weights"]).to_pylist()}


def as_before(repo, name=NAME):
    """The zoo as earlier versions wrote it: all beside the shards, listed by name, with a section in the card."""
    manifest = read_manifest(repo, name)
    about = repo / "_meta" / name
    for file in about.iterdir():
        if file.suffix in (".png", ".json"):
            file.rename(repo / name / file.name)
    shutil.rmtree(about)
    path = repo / name / "manifest.json"
    path.write_text(path.read_text().replace(f"_meta/{name}/", f"{name}/"))
    card = repo / "README.md"
    _, block, text = card.read_text().split("---\n", 2)
    data = yaml.safe_load(block)
    for config in data["configs"]:
        shards = {name: manifest.shards, f"{name}-meta": manifest.meta}.get(config["config_name"], ())
        if shards:
            del config["version"]
            config["data_files"] = [
                {"split": split, "path": [shard.path for shard in shards if shard.split == split]}
                for split in manifest.splits
            ]
            splits = [{"name": split, "num_bytes": 1, "num_examples": rows} for split, rows in manifest.splits.items()]
            data.setdefault("dataset_info", []).append({"config_name": config["config_name"], "splits": splits})
    lines = [line for line in text.split("\n") if not line.startswith(f"| [{name}]")]
    section = f"## {name}\n\nOf before.\n\n![Train and test accuracy over epochs]({name}/accuracy.png)\n\n## Citation"
    card.write_text(f"---\n{yaml.safe_dump(data)}---\n" + "\n".join(lines).replace("## Citation", section))


@pytest.mark.parametrize("load", [load_dataset, zd.load_zoo])
def test_files_behind_one_pattern_come_and_go_and_no_cache_is_stale(runs, repo, load):
    def check():
        rows = load(str(repo), NAME)
        assert states(rows) == expected_states(repo)
        assert states(load(str(repo), f"{NAME}-meta")) == expected_states(repo)
        return configs_of(read_card(repo))[NAME]

    small = check()
    build_repository(runs / "grown", repo)  # adds
    grown = check()
    build_repository(runs / "small", repo, replace=True)  # removes
    assert check() == small
    build_repository(runs / "other", repo, replace=True)  # replaces
    replaced = check()
    assert len({config["version"] for config in (small, grown, replaced)}) == 3
    assert small["data_files"] == grown["data_files"] == replaced["data_files"]
    shard = next((repo / NAME).glob("train-*.parquet"))
    assert shard.name not in (repo / "README.md").read_text()


def test_rows_come_in_the_order_of_the_manifest(runs, tmp_path):
    build_repository(runs / "grown", tmp_path / "repo")
    shards = [shard for shard in read_manifest(tmp_path / "repo", NAME).shards if shard.split == "train"]
    assert len(shards) == 3
    whole = load_dataset(str(tmp_path / "repo"), NAME, split="train").select_columns(["model_id", "epoch"])[:]
    listed = pa.concat_tables(
        [pq.read_table(tmp_path / "repo" / shard.path, columns=["model_id", "epoch"]) for shard in shards]
    )
    assert whole == listed.to_pydict()
    assert zd.load_zoo(tmp_path / "repo", NAME, "train", columns=["model_id", "epoch"])[:] == whole
    assert load_dataset(str(tmp_path / "repo"), f"{NAME}-meta", split="train")["model_id"][:] == whole["model_id"]


def test_what_a_build_has_added_is_not_loaded_before_its_end(runs, repo):
    before = expected_states(repo)
    card = (repo / "README.md").read_bytes()
    with listed_by_name(repo, NAME):
        assert not by_pattern(configs_of(read_card(repo))[NAME])
        new = repo / NAME / f"train-s00001-{'0' * 16}.parquet"
        shutil.copy(next((repo / NAME).glob("train-*.parquet")), new)
        assert states(load_dataset(str(repo), NAME)) == before
        new.unlink()
    assert (repo / "README.md").read_bytes() == card


KILLED = """
import os, signal, sys
from pathlib import Path
from zoo_datasets.builders import build, build_repository
from zoo_datasets.repository.card import writing as card

def stop(*_):
    os.kill(os.getpid(), signal.SIGKILL)

owner = {"with_meta": build, "outdated_files": card, "remove_beside_shards": card}[sys.argv[1]]
setattr(owner, sys.argv[1], stop)
build_repository(sys.argv[2], sys.argv[3])
"""


@pytest.mark.parametrize("step", ["with_meta", "outdated_files", "remove_beside_shards"])
def test_a_build_killed_at_any_step_leaves_a_repository_that_loads_one_state(runs, repo, step):
    before = expected_states(repo)
    code = [sys.executable, "-c", KILLED, step, str(runs / "grown"), str(repo)]
    assert subprocess.run(code, timeout=120, check=False).returncode == -9
    loaded = states(load_dataset(str(repo), NAME))
    assert loaded == (before if step != "remove_beside_shards" else expected_states(repo))
    build_repository(runs / "grown", repo)
    assert states(load_dataset(str(repo), NAME)) == expected_states(repo)
    assert by_pattern(configs_of(read_card(repo))[NAME])
    assert zd.verify_repository(repo, NAME).ok


def test_a_file_too_many_or_too_few_is_named(repo):
    shard = repo / read_manifest(repo, NAME).shards[0].path
    stray = shard.with_name(f"train-s00007-{shard.stem[-16:]}.parquet")
    shutil.copy(shard, stray)
    for options in ({}, {"streaming": True}):
        with pytest.raises(RepositoryError, match=f"{stray.name} is none of the files of its manifest; delete it"):
            zd.load_zoo(repo, NAME, **options)
    assert any(stray.name in each.message for each in zd.verify_repository(repo, NAME).differences)
    stray.unlink()
    shard.unlink()
    with pytest.raises(ZooError, match=f"{shard.name} is missing"):
        zd.load_zoo(repo, NAME)
    assert any(shard.name in each.message for each in zd.verify_repository(repo, NAME).differences)


def test_features_stay_in_the_yaml_if_shards_differ_by_a_column(runs, tmp_path):
    repo = tmp_path / "repo"
    build_repository(runs / "grown", repo)
    manifest = read_manifest(repo, NAME)
    assert info_of(read_card(repo), NAME) == {}
    file = repo / manifest.shards[0].path
    table = pq.read_table(file, partitioning=None)
    pq.write_table(table.append_column("kl_weight", pa.nulls(len(table), pa.float64())), file)
    write_card(repo, manifest, dict.fromkeys(manifest.splits, 1), dict.fromkeys(manifest.splits, 1))
    assert [column["name"] for column in info_of(read_card(repo), NAME)["features"]][-1] == "weights"
    write_card(repo, manifest, dict.fromkeys(manifest.splits, 1), dict.fromkeys(manifest.splits, 1))
    assert info_of(read_card(repo), NAME)


def test_any_reader_of_parquet_takes_the_folder_of_a_config(repo):
    rows = len(expected_states(repo))
    for config in (NAME, f"{NAME}-meta"):
        folder = repo / config
        assert len(pd.read_parquet(folder)) == rows
        assert ds.dataset(folder).count_rows() == rows
    assert {path.name for path in (repo / "_meta" / NAME).iterdir()} == {"manifest.json", "README.md"}


def test_duckdb_and_polars_take_the_folder_of_a_config(repo):
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    rows = len(expected_states(repo))
    assert len(polars.read_parquet(repo / NAME)) == rows
    assert duckdb.sql(f"select count(*) from '{repo / NAME}/*.parquet'").fetchall() == [(rows,)]


def test_a_zoo_of_before_is_read_as_it_is_and_moves_when_it_is_built(runs, repo):
    local_zoos(repo)
    expected = expected_states(repo)
    as_before(repo)
    assert read_manifest(repo, NAME).plots == (f"{NAME}/accuracy.png",)
    assert states(zd.load_zoo(repo, NAME)) == expected
    assert zd.verify_repository(repo, NAME).ok
    build_repository(runs / "beside", repo)
    text = (repo / "README.md").read_text()
    assert "Of before." in text
    assert read_manifest(repo, NAME).shards[0].path in text
    build_repository(runs / "small", repo)
    text = (repo / "README.md").read_text()
    assert "Of before." not in text
    assert by_pattern(configs_of(read_card(repo))[NAME])
    assert f"| [{NAME}](_meta/{NAME}/README.md) |" in text
    assert (repo / "_meta" / NAME / "accuracy.png").is_file()
    assert not [*(repo / NAME).glob("*.json"), *(repo / NAME).glob("*.png")]
    assert read_manifest(repo, NAME).plots == (f"_meta/{NAME}/accuracy.png",)
    assert states(load_dataset(str(repo), NAME)) == expected


def test_a_push_moves_what_lay_beside_the_shards(repo, hub, client, tmp_path):
    local_zoos(repo)
    new = shutil.copytree(repo, tmp_path / "new")
    as_before(repo)
    name = "somebody/of-before"
    files = [path for path in repo.rglob("*") if path.is_file() and path.name != ".lock"]
    hub.make(name, files={
        path.relative_to(repo).as_posix(): hub.store(path.read_bytes(), path.name.endswith(LARGE)) for path in files
    })  # fmt: skip
    before = client.load(name, NAME)
    assert '"rows": 24' in client.zoo("info", name, NAME, "--json")
    client.zoo("push", new, name)
    files = hub.repos[name].head.files
    assert not [path for path in files if path.startswith(f"{NAME}/") and not path.endswith(".parquet")]
    assert {f"_meta/{NAME}/{file}" for file in ("manifest.json", "README.md", "accuracy.png")} <= files.keys()
    assert client.load(name, NAME) == before
    # A local repository of before moves, too.
    out = client.zoo("push", repo, name)
    assert "holds other content" not in out
    assert (repo / "_meta" / NAME / "manifest.json").is_file()
    assert not (repo / NAME / "manifest.json").exists()
    assert not hub.repos[name].broken()


def test_a_grown_zoo_that_is_pushed_in_parts_loads_at_every_commit(runs, hub, client, tmp_path):
    build_repository(runs / "small", tmp_path / "small")
    build_repository(runs / "grown", tmp_path / "grown")
    name = "somebody/grown-in-parts"
    client.zoo("push", tmp_path / "small", name)
    client.zoo("push", tmp_path / "grown", name, files_per_commit=2)
    repo = hub.repos[name]
    assert len(repo.commits) > 3
    assert not repo.broken()
    assert client.load(name, NAME) == client.load(str(tmp_path / "grown"), NAME)


def test_the_card_grows_by_little_and_the_hub_takes_it(runs, client, tmp_path):
    repo = tmp_path / "repo"
    build_repository(runs / "small", repo, "first_of_many_zoos")
    sizes = []
    for number in range(3):
        build_repository(runs / "small", repo, f"fashion_mnist_cnn_s_{number:02}")
        sizes.append(len((repo / "README.md").read_bytes()))
    assert max(sizes[2] - sizes[1], sizes[1] - sizes[0]) < 900
    client.zoo("push", repo, "somebody/model-zoos", "--config", "first_of_many_zoos")
    (repo / "README.md").write_text((repo / "README.md").read_text().replace("<!-- What", "x" * 100_000 + "<!-- What"))
    out = client.zoo("push", repo, "somebody/model-zoos", "--config", "first_of_many_zoos", "--replace", code=1)
    assert "too large" in out


def test_the_version_follows_from_the_files(repo):
    manifest = read_manifest(repo, NAME)
    assert version_of(manifest.shards) == version_of(manifest.shards[::-1])
    assert version_of(manifest.shards) != version_of(manifest.shards[1:])
    assert all(part.isdecimal() for part in version_of(manifest.shards).split("."))
    config = {"data_files": [{"split": "train", "path": "z/train-*.parquet"}]}
    paths = ["z/train-a.parquet", "z/.train-b.parquet", "z/x/train-c.parquet", "z/train-d.txt", "y/train-e.parquet"]
    assert files_among(config, paths) == [("train", "z/train-a.parquet")]
    assert json.loads((repo / "_meta" / NAME / "manifest.json").read_text())["config"] == Path(NAME).name
