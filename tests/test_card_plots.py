"""The plots of a card: when they are drawn, what they show, and that nothing is lost on the way."""

import json
import sys
from pathlib import Path

import filelock
import pyarrow as pa
import pytest
from matplotlib.collections import PolyCollection
from raw_zoos import SEED_ZOO, TWIN_ZOO, make_twins, make_zoo
from tiny_runs import make_run
from typer.testing import CliRunner

from zoo_datasets.builders import build_repository
from zoo_datasets.cli.app import app
from zoo_datasets.errors import RepositoryError, StorageError
from zoo_datasets.evaluation.verify.verify import verify_repository
from zoo_datasets.hub.local_zoo import local_zoos
from zoo_datasets.repository.card import plots as card_plots
from zoo_datasets.repository.card.figures import accuracy_over_epochs, sparsity_over_epochs
from zoo_datasets.repository.card.plots import draw_plots
from zoo_datasets.repository.manifest import read_manifest

NAME = "digits_cnn_s"
ACCURACY = f"_meta/{NAME}/accuracy.png"
PAGE = f"_meta/{NAME}/README.md"


@pytest.fixture
def repo(tmp_path):
    make_run(tmp_path / "run", ((4, 1),))
    build_repository(tmp_path / "run", tmp_path / "repo")
    return tmp_path / "repo"


def content(repo):
    return {file: file.read_bytes() for file in repo.rglob("*.*") if file.is_file() and file.name != ".lock"}


def shown(repo):
    """What the manifest lists, what the page shows, and the files that are there."""
    page = (repo / PAGE).read_text()
    files = sorted(file.relative_to(repo).as_posix() for file in repo.rglob("*.png"))
    return list(read_manifest(repo, NAME).plots), [path for path in files if f"]({Path(path).name})" in page], files


def test_a_build_draws_nothing_and_loads_no_matplotlib(tmp_path, monkeypatch):
    for module in ("matplotlib", "matplotlib.figure", "zoo_datasets.plotting"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    make_run(tmp_path / "run", ((4, 1),))
    build_repository(tmp_path / "run", tmp_path / "repo")
    assert shown(tmp_path / "repo") == ([], [], [])
    with pytest.raises(ImportError):
        draw_plots(tmp_path / "repo", NAME)


def test_plots_are_drawn_once_and_kept_by_builds_that_change_nothing(repo, tmp_path):
    before, told = content(repo), []
    (zoo,) = local_zoos(repo, tell=told.append)
    assert told == [f"drawing plots of {NAME}"]
    assert shown(repo) == ([ACCURACY], [ACCURACY], [ACCURACY])
    assert zoo.files.keys() >= {ACCURACY, f"_meta/{NAME}/manifest.json"}
    assert (repo / ACCURACY).read_bytes().startswith(b"\x89PNG")
    assert verify_repository(repo, NAME).ok
    after = content(repo)
    assert {file.name for file in after if after[file] != before.get(file)} == {
        "README.md", "manifest.json", "accuracy.png"
    }  # fmt: skip
    page = (repo / PAGE).read_text()
    assert page.replace("![Train and test accuracy over epochs](accuracy.png)\n\n", "") == before[repo / PAGE].decode()
    assert after[repo / "README.md"] == before[repo / "README.md"]
    assert draw_plots(repo, NAME) == ()
    build_repository(tmp_path / "run", repo)
    assert content(repo) == after


def test_a_zoo_that_grew_has_no_plots_until_they_are_drawn_anew(repo, tmp_path):
    draw_plots(repo, NAME)
    small = (repo / ACCURACY).read_bytes()
    make_run(tmp_path / "grown", ((4, 1), (8, 2)))
    build_repository(tmp_path / "grown", repo)
    assert shown(repo) == ([], [], [])
    assert draw_plots(repo, NAME) == (ACCURACY,)
    assert shown(repo) == ([ACCURACY], [ACCURACY], [ACCURACY])
    assert (repo / ACCURACY).read_bytes() != small


def test_a_plot_that_went_missing_is_drawn_again_or_dropped(repo, tmp_path):
    draw_plots(repo, NAME)
    before = content(repo)
    (repo / ACCURACY).unlink()
    assert draw_plots(repo, NAME) == (ACCURACY,)
    assert content(repo) == before
    (repo / ACCURACY).unlink()
    build_repository(tmp_path / "run", repo)
    assert shown(repo) == ([], [], [])


def test_a_zoo_without_figures_has_no_plots_and_is_not_written_to(tmp_path):
    repo = tmp_path / "repo"
    make_run(tmp_path / "run", ((4, 1),), figures={"train_acc": None, "test_acc": None})
    build_repository(tmp_path / "run", repo)
    before = content(repo)
    with filelock.FileLock(repo / NAME / ".lock"):
        assert draw_plots(repo, NAME) == ()
    assert content(repo) == before


def test_twins_show_their_sparsity_too(tmp_path):
    parents = make_zoo(tmp_path / SEED_ZOO, models=3, epochs=(0,))
    make_twins(tmp_path / TWIN_ZOO, parents)
    result = CliRunner().invoke(app, ["build", str(tmp_path / TWIN_ZOO), "--out", str(tmp_path / "repo"), "--plots"])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "repo" / "_meta" / "mnist_cnn_s_sparse"
    for plot in ("accuracy", "sparsity"):
        assert f"]({plot}.png)" in (folder / "README.md").read_text()
        assert (folder / f"{plot}.png").read_bytes().startswith(b"\x89PNG")


def test_a_build_that_goes_on_is_not_disturbed(repo, tmp_path):
    before = content(repo)
    (repo / NAME / ".train.1.tmp").write_bytes(b"a shard of a build")
    with (
        filelock.FileLock(repo / NAME / ".lock"),
        pytest.raises(RepositoryError, match="another process is building or publishing .*; wait for it"),
    ):
        draw_plots(repo, NAME)
    assert (repo / NAME / ".train.1.tmp").read_bytes() == b"a shard of a build"
    assert content(repo) == before | {repo / NAME / ".train.1.tmp": b"a shard of a build"}

    make_run(tmp_path / "grown", ((4, 1), (8, 2)))

    def meanwhile(_text):
        build_repository(tmp_path / "grown", repo)

    with pytest.raises(RepositoryError, match="was built again while its plots were drawn; run the command again"):
        draw_plots(repo, NAME, meanwhile)
    assert shown(repo) == ([], [], [])
    assert draw_plots(repo, NAME) == (ACCURACY,)


@pytest.mark.parametrize("place", [f"{NAME}/.lock", ".lock", ACCURACY])
def test_a_repository_that_cannot_be_written_to_is_told_and_stays(repo, place):
    (repo / place).unlink(missing_ok=True)
    (repo / place / "in the way").mkdir(parents=True)
    before = content(repo)
    with pytest.raises(StorageError, match=f"{place} could not be (locked|written): Is a directory"):
        local_zoos(repo)
    assert content(repo) == before
    assert shown(repo)[:2] == ([], [])


@pytest.mark.parametrize("step", ["write_bytes", "write_line", "save"])
def test_what_was_broken_off_is_drawn_again(repo, monkeypatch, step):
    def stop(*_arguments):
        raise KeyboardInterrupt

    owner = card_plots.Manifest if step == "save" else card_plots
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, stop)
        with pytest.raises(KeyboardInterrupt):
            draw_plots(repo, NAME)
    assert read_manifest(repo, NAME).plots == ()
    assert all((repo / path).is_file() for path in shown(repo)[1])
    assert verify_repository(repo, NAME).ok
    assert draw_plots(repo, NAME) == (ACCURACY,)
    assert shown(repo) == ([ACCURACY], [ACCURACY], [ACCURACY])


def test_only_what_the_manifest_says_is_drawn(repo):
    file = next((repo / f"{NAME}-meta").glob("train-*.parquet"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"x")
    with pytest.raises(RepositoryError, match=r"has SHA-256 .*, its manifest says .*; build digits_cnn_s again"):
        draw_plots(repo, NAME)
    file.unlink()
    with pytest.raises(RepositoryError, match=r"could not be read: .*No such file.*; build digits_cnn_s again"):
        draw_plots(repo, NAME)
    file.write_bytes(whole)
    manifest = repo / "_meta" / NAME / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"config": "../elsewhere"}))
    with pytest.raises(RepositoryError, match=r"is that of config '../elsewhere'"):
        draw_plots(repo, NAME)
    with pytest.raises(RepositoryError, match="holds no zoo"):
        draw_plots(repo / NAME, f"../{NAME}")
    assert not list(repo.parent.rglob("*.png"))


def test_plots_show_every_epoch_or_thirty_of_them():
    for epochs, shown in ((4, 4), (51, 30)):
        epoch = [number for number in range(epochs) for _ in range(5)]
        figures = [number / epochs + place / 1000 for number in range(epochs) for place in range(5)]
        table = pa.table({"epoch": pa.array(epoch, pa.int32()), "train_acc": figures, "test_acc": [None, *figures[1:]],
                          "sparsity": pa.array(figures, pa.float32())})  # fmt: skip
        (axes,) = accuracy_over_epochs(table).axes
        boxes = [part for part in axes.collections if isinstance(part, PolyCollection)]
        assert [len(part.get_paths()) for part in boxes] == [shown, shown]
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["train", "test"]
        assert (axes.get_xticklabels()[0].get_text(), axes.get_ylabel()) == ("0", "accuracy")
        (axes,) = sparsity_over_epochs(table).axes
        (line,) = axes.lines
        assert line.get_ydata()[-1] == pytest.approx(figures[-3])
        assert len(line.get_xdata()) == shown
