"""Published zoos: found in their Zenodo records, fetched, verified, built; against a server of our own."""

import json

import pytest
from file_server import serving_files
from raw_zoos import HYP_ZOO, SEED_ZOO, TWIN_ZOO, make_twins, make_zoo, zipped
from typer.testing import CliRunner

from zoo_datasets.builders.sources.raw.published import SERVED, download_published, find_original
from zoo_datasets.cli.app import app
from zoo_datasets.errors import DownloadError, MissingError, SourceError
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.specs.zoos import get_zoo
from zoo_datasets.storage import remote

runner = CliRunner()
MNIST, MNIST_SPARSE = 6632086, 7023335


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A Zenodo with two records, and a file server, whose trees hold the same zoos."""
    monkeypatch.setattr(remote, "BACKOFF", 0.001)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "served"
    parents = make_zoo(folder / SEED_ZOO, models=6, epochs=range(4))
    make_zoo(folder / HYP_ZOO, models=2, epochs=(0,))
    make_twins(folder / TWIN_ZOO, parents[:2])
    archives = [zipped(folder / name) for name in (SEED_ZOO, HYP_ZOO, TWIN_ZOO)]
    (folder / "dataset_mnist_uniform.pt").write_bytes(b"x" * 100)
    with serving_files(folder) as server:
        server.publish(MNIST, *archives[:2], folder / "dataset_mnist_uniform.pt")
        server.publish(MNIST_SPARSE, archives[2])
        monkeypatch.setenv("ZOO_ZENODO", server.url)
        monkeypatch.setenv("ZOO_FILES", f"{server.url}/")
        yield server


def test_each_zoo_is_found_in_its_record_by_its_files_name(served):
    for name, file in (("mnist_cnn_s", SEED_ZOO), ("mnist_cnn_s_hyp_rand", HYP_ZOO), ("mnist_cnn_s_sparse", TWIN_ZOO)):
        original = find_original(name)
        assert (original.file, original.is_folder) == (f"{file}.zip", False)
        assert original.location == f"{served.url}/{file}.zip/content#md5={original.md5}"
    assert find_original("mnist_cnn_s", "dataset_mnist_uniform.pt").file == "dataset_mnist_uniform.pt"
    assert find_original("cifar10_cnn_l_sparse").is_folder
    assert find_original("cifar100_resnet18").url.endswith("/tar_files/tune_zoo_cifar100_resnet18_kaiming_uniform.tar")
    assert all(get_zoo(name) for name in SERVED)


def test_what_is_not_published_or_not_in_the_record_says_so(served):
    with pytest.raises(
        SourceError, match="record 6632086 has 0 files that are mnist_cnn_s_hyp_fix, 1 expected"
    ) as caught:
        find_original("mnist_cnn_s_hyp_fix")
    assert "it has dataset_mnist_uniform.pt, tune_zoo" in str(caught.value)
    assert "Choose one: zoo download mnist_cnn_s_hyp_fix --file NAME" in str(caught.value)
    for name in ("tiny_imagenet_resnet18", "digits_cnn_s", "usps_cnn_s_sparse"):
        with pytest.raises(SourceError, match=f"{name} is not among the zoos whose authors published them"):
            find_original(name)
    with pytest.raises(MissingError, match=r"Zenodo has no record 6632120: http.* does not exist .*ZOO_ZENODO"):
        find_original("svhn_cnn_s")
    served.records[6632120] = "no files"
    with pytest.raises(DownloadError, match="is not a record as Zenodo's API gives them"):
        find_original("svhn_cnn_s")


def test_download_resumes_verifies_and_knows_what_is_there(tmp_path, served):
    expected = (served.folder / f"{SEED_ZOO}.zip").read_bytes()
    served.cuts += [150_000]
    served.statuses += [(503, {"Retry-After": "0"})]
    out = tmp_path / "raw"
    result = runner.invoke(app, ["download", "mnist_cnn_s", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert (out / f"{SEED_ZOO}.zip").read_bytes() == expected
    assert f"zoo build {out / SEED_ZOO}.zip --out model-zoos --name mnist_cnn_s" in result.output
    assert [path.name for path in out.iterdir()] == [f"{SEED_ZOO}.zip"]
    served.reset()
    assert download_published("mnist_cnn_s", out) == out / f"{SEED_ZOO}.zip"
    assert served.total < len(expected) / 4
    served.publish(MNIST, served.folder / f"{SEED_ZOO}.zip", md5="f" * 32)
    with pytest.raises(DownloadError, match=r"md5 [0-9a-f]{32} found, f{32} expected; what was fetched is removed"):
        download_published("mnist_cnn_s", tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_build_takes_a_name_and_fetches_what_is_selected(tmp_path, served):
    size = (served.folder / f"{SEED_ZOO}.zip").stat().st_size
    result = runner.invoke(app, ["build", "mnist_cnn_s", "--out", str(tmp_path / "repo"), "--epochs", "3"])
    assert result.exit_code == 0, result.output
    assert "6 models, epochs 3–3, 6 rows" in result.output
    assert served.total < size  # neighbouring members are near in so small an archive
    for name, rows in (("mnist_cnn_s", 24), ("mnist_cnn_s_sparse", 4)):
        result = runner.invoke(app, ["build", name, "--out", str(tmp_path / "repo")])
        assert result.exit_code == 0, result.output
        manifest = read_manifest(tmp_path / "repo", name)
        assert manifest.states.written == rows
        assert "127.0.0.1" not in json.dumps(manifest.to_dict())
    local = runner.invoke(app, ["build", str(served.folder / SEED_ZOO), "--out", str(tmp_path / "local")])
    assert local.exit_code == 0
    assert {file.name for file in (tmp_path / "local" / "mnist_cnn_s").glob("*.parquet")} == {
        file.name for file in (tmp_path / "repo" / "mnist_cnn_s").glob("*.parquet")
    }


def test_a_zoo_of_the_file_server_is_fetched_file_by_file(tmp_path, served):
    path = SERVED["cifar10_cnn_l_sparse"].rstrip("/")
    (served.folder / path).parent.mkdir(parents=True)
    (served.folder / TWIN_ZOO).rename(served.folder / path)
    found = download_published("cifar10_cnn_l_sparse", tmp_path / "raw")
    assert found == tmp_path / "raw" / "cnn-large_cifar10_ard_vd"
    theirs, ours = (
        {file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()}
        for root in (served.folder / path, found)
    )
    assert ours == {name: content for name, content in theirs.items() if name.name != ".is_checkpoint"}
    served.reset()
    download_published("cifar10_cnn_l_sparse", tmp_path / "raw")
    assert all(path.endswith("/") for path in served.asked)


def test_a_name_that_is_neither_path_nor_zoo_is_told_both(tmp_path):
    result = runner.invoke(app, ["build", "mnist_cnn", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert isinstance(result.exception, SourceError)
    assert (
        "mnist_cnn does not exist, and there is no zoo or population named 'mnist_cnn'; did you mean mnist_cnn_s"
        in str(result.exception)
    )
