import io
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image
from raw_zoos import SEED_ZOO, make_zoo, zipped
from rich.console import Console
from tiny_runs import make_run
from typer.testing import CliRunner

import zoo_datasets.cli.quickstart_job
from zoo_datasets.cli.app import app
from zoo_datasets.errors import ZooError
from zoo_datasets.specs.zoos import list_zoos

runner = CliRunner()
TRAIN = ["train", "digits_cnn_s", "--models", "12", "--limit-train", "100", "--limit-val", "40", "--limit-test", "40"]


def zoo(*arguments, cwd="."):
    return subprocess.run([sys.executable, "-m", "zoo_datasets.cli", *map(str, arguments)], capture_output=True,
                          text=True, cwd=cwd, env=os.environ)  # fmt: skip


def test_list_shows_all_zoos_as_a_table_and_as_json():
    rows = json.loads(runner.invoke(app, ["list", "--json"]).output)
    assert len([row for row in rows if row["kind"] != "population"]) == len(list_zoos())
    assert set(rows[0]) == {"name", "kind", "images", "architecture", "parameters", "models", "epochs", "twins", "doi"}
    (cifar,) = [row for row in rows if row["name"] == "cifar10_cnn_l_hyp_fix"]
    assert (cifar["parameters"], cifar["models"], cifar["twins"]) == (10_853, 1280, ["cifar10_cnn_l_hyp_fix_sparse"])
    table = runner.invoke(app, ["list"]).output
    assert all(row["name"] in table for row in rows)
    assert f"{len(list_zoos())} zoos" in table
    kinds = {row["name"]: row["kind"] for row in rows}
    assert (kinds["digits_cnn_s"], kinds["svhn_cnn_s"], kinds["small_cnn_zoo_svhn"]) == ("ours", "paper", "population")


def test_an_error_is_one_line_without_a_traceback_and_exits_1(tmp_path):
    result = zoo("train", "cifar10_cnn", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: there is no zoo named 'cifar10_cnn'; did you mean cifar10_cnn_s")
    assert result.stderr.count("\n") == 1
    code, message = run("build", tmp_path / "gone", "--out", tmp_path / "repo")
    assert code == 1
    assert "gone does not exist" in message


@pytest.mark.parametrize("arguments", [["train"], ["train", "digits_cnn_s", "--models", "0"], ["fly"], ["build", "x"]])
def test_wrong_usage_exits_2(arguments):
    assert runner.invoke(app, arguments).exit_code == 2


def test_the_chain_from_training_to_verification(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert runner.invoke(app, [*TRAIN, "--epochs", "1"]).exit_code == 0
    grown = runner.invoke(app, [*TRAIN, "--epochs", "2"])
    assert "going on: 24 of 36 states are on disk" in grown.output
    assert "trained 12 states" in grown.output
    again = runner.invoke(app, [*TRAIN, "--epochs", "2"])
    assert "nothing was left to do" in again.output
    assert "accuracy" in again.output  # of all members, though none was trained now
    built = runner.invoke(app, ["build", "runs/digits_cnn_s", "--out", "model-zoos"])
    assert built.exit_code == 0
    assert "12 models, epochs 0–2, 36 rows" in built.output
    verified = runner.invoke(app, ["verify", "model-zoos", "digits_cnn_s"])
    assert verified.exit_code == 0
    assert "what was checked is as it says" in verified.output
    assert "32 recomputed" in verified.output

    shard, *_ = (tmp_path / "model-zoos" / "digits_cnn_s").glob("train-*.parquet")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    verified = runner.invoke(app, ["verify", "model-zoos", "digits_cnn_s", "--files-only"])
    assert verified.exit_code == 1
    assert shard.name in verified.output


@pytest.mark.parametrize(
    "network",
    [
        "architecture: cnn_m\n",
        "architecture: [{conv: {out: width, kernel: 3, stride: 4}}, activate, flatten, {linear: classes}]\n"
        "width: [2, 3]\n",
    ],
    ids=["of the table", "of two widths"],
)
def test_a_zoo_of_ones_own_trains_from_yaml(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        f"name: mine\nimages: digits\n{network}epochs: 1\nactivation: [gelu, relu]\ninit: kaiming_normal\n"
        "optimizer: sgd\nlr: 1e-2\nweight_decay: 0\nseeds: 2\nbatch_size: 20\n"
    )
    trained = runner.invoke(app, ["train", "mine.yaml", *TRAIN[4:]])
    assert trained.exit_code == 0, trained.output
    states = 16 if "width" in network else 8
    assert f"trained {states} states" in trained.output
    assert runner.invoke(app, ["build", "runs/mine", "--out", "repo"]).exit_code == 0
    verified = runner.invoke(app, ["verify", "repo", "mine"])
    assert verified.exit_code == 0, verified.output
    assert f"{states} rows, {states} recomputed" in verified.output


def test_quickstart_restores_what_it_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo_datasets.cli.quickstart_job, "MODELS", 12)
    monkeypatch.setattr(zoo_datasets.cli.quickstart_job, "EPOCHS", 1)
    monkeypatch.setattr(zoo_datasets.cli.quickstart_job, "BATCH", 8)
    console = Console(record=True, file=io.StringIO())
    assert zoo_datasets.cli.quickstart_job.quickstart(tmp_path, console) < 1e-6
    assert "recorded test accuracy" in console.export_text()


def test_the_quickstart_runs_again_after_its_run_has_grown(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo_datasets.cli.quickstart_job, "MODELS", 12)
    monkeypatch.setattr(zoo_datasets.cli.quickstart_job, "EPOCHS", 1)
    run = tmp_path / "runs" / "digits_cnn_s"
    train = ["train", "digits_cnn_s", "--models", "14", "--epochs", "2", "--path", "auto", "--out", str(run)]
    assert runner.invoke(app, train).exit_code == 0
    twins = tmp_path / "runs" / "digits_cnn_s_magnitude50"
    prune = ["sparsify", str(run), "--method", "magnitude", "--amount", "0.5", "--from-epoch", "1", "--epochs", "4"]
    assert runner.invoke(app, [*prune, "--out", str(twins)]).exit_code == 0
    assert runner.invoke(app, ["quickstart", "--out", str(tmp_path)]).exit_code == 0


def test_the_list_fits_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    table = runner.invoke(app, ["list"]).output
    for zoo in list_zoos():
        assert zoo.name in table
        assert f"{zoo.models:,}" in table


@pytest.mark.parametrize("command", ["train", "build"])
def test_ctrl_c_says_that_nothing_is_lost_and_exits_130(tmp_path, command):
    out = tmp_path / "out"
    arguments = {
        "train": ["train", "digits_cnn_s", "--models", "64", "--out", out],
        "build": ["build", tmp_path / "run", "--out", out],
    }[command]
    code = (
        "import os, signal, sys, zoo_datasets.training.train as t, zoo_datasets.builders as b\n"
        "def stop(*_, **__): os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(5)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "t.train_population = b.build_repository = stop\n"
        f"sys.argv = {['zoo', *map(str, arguments)]!r}\n"
        "from zoo_datasets.cli.app import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert result.returncode == 130
    assert result.stderr.splitlines()[-1].startswith("stopped: ")
    assert "same command" in result.stderr


def run(*arguments):
    """A command in this process: its result, and its output. An error of ours is raised, not printed."""
    result = runner.invoke(app, [*map(str, arguments)])
    if not isinstance(result.exception, ZooError | SystemExit | None):
        raise result.exception
    return result.exit_code, str(result.exception) if isinstance(result.exception, ZooError) else result.output


def test_a_raw_zoo_is_built_with_selections_and_a_table_of_what_is_left_out(tmp_path):
    folders = make_zoo(tmp_path / SEED_ZOO, models=5)
    (folders[2] / "checkpoint_000001" / "checkpoints").write_bytes(b"junk")
    code, output = run("build", zipped(tmp_path / SEED_ZOO), "--out", tmp_path / "repo")
    assert code == 0
    assert "5 models, epochs 0–2, 14 rows" in output
    assert "not a zip archive" in output
    code, message = run("build", tmp_path / SEED_ZOO, "--out", tmp_path / "other", "--on-bad", "fail")
    assert code == 1
    assert f"{folders[2].name} at epoch 1" in message
    options = ["--epochs", "0,2-3", "--where", "seed in (1, 2, 4)", "--models", "2", "--limit-test", "100"]
    code, output = run("build", tmp_path / SEED_ZOO, "--out", tmp_path / "other", *options)
    assert "2 models, epochs 0–2, 4 rows" in output
    assert run("verify", tmp_path / "repo", "mnist_cnn_s", "--files-only")[0] == 0
    assert run("build", tmp_path / SEED_ZOO, "--out", tmp_path / "x", "--epochs", "a")[0] == 2
    result = zoo("build", tmp_path / SEED_ZOO, "--out", tmp_path / "x", "--where", "lr < import os")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)


def test_models_that_are_left_out_for_one_reason_are_counted_on_one_line(tmp_path):
    for folder in make_zoo(tmp_path / SEED_ZOO, models=5)[:2]:
        (folder / "checkpoint_000001" / "checkpoints").write_bytes(b"junk")
    _, output = run("build", tmp_path / SEED_ZOO, "--out", tmp_path / "repo")
    (row,) = [line for line in output.splitlines() if "2 models" in line]
    assert "not a zip archive" in output
    assert "│ 1 " in row


def test_a_build_of_a_stopped_run_says_once_what_is_missing(tmp_path):
    make_run(tmp_path / "run", ((14, 3),))
    shutil.rmtree(tmp_path / "run" / "cohort-0000")
    _, output = run("build", tmp_path / "run", "--out", tmp_path / "repo")
    assert output.count("not trained yet") == 1
    assert "states are left out" in output


def test_a_name_that_no_zoo_has_is_answered_with_the_three_nearest(tmp_path):
    code, message = run("build", "nosuch", "--out", tmp_path)
    assert code == 1
    nearest = message.partition("nearest of ")[2].partition(": ")[2].partition(".")[0]
    assert len(nearest.split(", ")) == 3
    assert len(message) < 250


@pytest.mark.filterwarnings("ignore:.*cannot be compared with the published zoos:UserWarning")
def test_images_that_training_prepared_are_found_by_their_fingerprint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    make_images(tmp_path / "images", first=0)
    make_images(tmp_path / "others", first=1)
    assert run("train", "mnist_cnn_s", "--models", "12", "--epochs", "2", "--images", "images")[0] == 0
    assert run("build", "runs/mnist_cnn_s", "--out", "repo")[0] == 0
    (tmp_path / "images").rename(tmp_path / "moved")
    for source in ("runs/mnist_cnn_s", "repo"):
        code, output = run("verify", source)
        assert code == 0, output
        assert "32 recomputed: what was checked is as it says" in output
        code, message = run("verify", source, "--images", "others")
        assert code == 1
        assert "others holds other images than" in message  # and nothing was verified before
    assert run("sparsify", "runs/mnist_cnn_s", "--method", "magnitude", "--amount", "0.5", "--epochs", "1")[0] == 0
    assert run("train", "mnist_cnn_s", "--models", "12", "--epochs", "3")[0] == 0
    code, message = run("report", "repo", "mnist_cnn_s", "--images", "others")
    assert code == 1
    assert "others holds other images than" in message


def make_images(folder, first):
    """MNIST in miniature as an image folder: 4 training and 1 test image of each class."""
    for split, count in (("train", 4), ("test", 1)):
        for label in range(10):
            home = folder / split / str(label)
            home.mkdir(parents=True)
            for number in range(count):
                noise = torch.Generator().manual_seed(1000 * first + 10 * label + number + (split == "test") * 500)
                pixels = torch.randint(256, (28, 28), dtype=torch.uint8, generator=noise)
                Image.fromarray(pixels.numpy()).save(home / f"{number}.png")


def test_a_wrong_folder_of_images_is_refused_before_anything_is_fetched_or_read(tmp_path):
    code, message = run("build", "https://127.0.0.1:1/zoo.zip", "--out", tmp_path / "x", "--images", tmp_path / "no")
    assert code == 1
    assert "no does not exist; --images expects a folder" in message


def test_defaults_of_a_zoo_of_ones_own_are_named_and_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nimages: digits\narchitecture: cnn_s\nepochs: 1\noptimizer: adam\nlr: 1e-3\ninit: normal\n"
    )
    code, output = run("train", "mine.yaml", *TRAIN[4:])
    assert code == 0
    assert "mine.yaml: by default activation tanh, weight_decay 0.0, seeds 10" in output
    assert run("build", "runs/mine", "--out", "repo")[0] == 0
    for file, key in (("runs/mine/zoo.json", "zoo"), ("repo/_meta/mine/manifest.json", "zoo")):
        recipe = json.loads((tmp_path / file).read_text())[key]
        assert (recipe["activation"], recipe["init"], recipe["seeds"]) == (["tanh"], ["normal"], 10)


def test_names_of_zoos_and_files_are_completed_in_a_shell(tmp_path):
    (tmp_path / "mnist.yaml").touch()
    words = {"_ZOO_COMPLETE": "complete_bash", "COMP_WORDS": "zoo train mni", "COMP_CWORD": "2"}
    result = subprocess.run([sys.executable, "-c", "from zoo_datasets.cli.app import app; app(prog_name='zoo')"],
                            capture_output=True, text=True, cwd=tmp_path, env=os.environ | words)  # fmt: skip
    assert {"mnist_cnn_s", "mnist.yaml"} <= {*result.stdout.split()}
    assert not any(name.startswith("cifar") for name in result.stdout.split())


@pytest.mark.parametrize("wish", [None, "0"])
def test_libraries_draw_no_bars_of_their_own_unless_asked(monkeypatch, wish):
    variables = ("HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS")
    for variable in variables:
        monkeypatch.setenv(variable, "")
        if wish is None:
            monkeypatch.delenv(variable)
        else:
            monkeypatch.setenv(variable, wish)
    assert run("list")[0] == 0
    assert [os.environ[variable] for variable in variables] == [wish or "1"] * 2
