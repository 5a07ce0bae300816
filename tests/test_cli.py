import io
import json
import os
import subprocess
import sys

import pytest
from raw_zoos import SEED_ZOO, make_zoo, zipped
from rich.console import Console
from typer.testing import CliRunner

import zoo_datasets.cli.quickstart_job
from zoo_datasets.cli.app import app
from zoo_datasets.specs.zoos import list_zoos

runner = CliRunner()
TRAIN = ["train", "digits_cnn_s", "--models", "12", "--limit-train", "100", "--limit-val", "40", "--limit-test", "40"]


def zoo(*arguments, cwd="."):
    return subprocess.run([sys.executable, "-m", "zoo_datasets.cli", *map(str, arguments)], capture_output=True,
                          text=True, cwd=cwd, env=os.environ)  # fmt: skip


def test_list_shows_all_zoos_as_a_table_and_as_json():
    rows = json.loads(runner.invoke(app, ["list", "--json"]).output)
    assert len(rows) == 29
    assert set(rows[0]) == {"name", "images", "architecture", "parameters", "models", "epochs", "twins", "doi"}
    (cifar,) = [row for row in rows if row["name"] == "cifar10_cnn_l_hyp_fix"]
    assert (cifar["parameters"], cifar["models"], cifar["twins"]) == (10_853, 1280, ["cifar10_cnn_l_hyp_fix_sparse"])
    table = runner.invoke(app, ["list"]).output
    assert all(row["name"] in table for row in rows)
    assert "29 zoos" in table


def test_an_error_is_one_line_without_a_traceback_and_exits_1(tmp_path):
    result = zoo("train", "cifar10_cnn", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: there is no zoo named 'cifar10_cnn'; did you mean cifar10_cnn_s")
    assert result.stderr.count("\n") == 1
    result = zoo("build", tmp_path / "gone", "--out", tmp_path / "repo")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "gone does not exist" in result.stderr


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
    assert "all is as it says" in verified.output
    assert "32 recomputed" in verified.output

    shard, *_ = (tmp_path / "model-zoos" / "digits_cnn_s").glob("train-*.parquet")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    verified = runner.invoke(app, ["verify", "model-zoos", "digits_cnn_s", "--files-only"])
    assert verified.exit_code == 1
    assert shard.name in verified.output


def test_a_zoo_of_ones_own_trains_from_yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nimages: digits\narchitecture: cnn_m\nepochs: 1\nactivation: [gelu, relu]\ninit: kaiming_normal\n"
        "optimizer: sgd\nlr: 1e-2\nweight_decay: 0\nseeds: 2\nbatch_size: 20\n"
    )
    trained = runner.invoke(app, ["train", "mine.yaml", *TRAIN[4:]])
    assert trained.exit_code == 0, trained.output
    assert "trained 8 states" in trained.output
    assert runner.invoke(app, ["build", "runs/mine", "--out", "repo"]).exit_code == 0
    assert runner.invoke(app, ["verify", "repo", "mine"]).exit_code == 0


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


def test_a_raw_zoo_is_built_with_selections_and_a_table_of_what_is_left_out(tmp_path):
    folders = make_zoo(tmp_path / SEED_ZOO, models=5)
    (folders[2] / "checkpoint_000001" / "checkpoints").write_bytes(b"junk")
    result = zoo("build", zipped(tmp_path / SEED_ZOO), "--out", tmp_path / "repo")
    assert result.returncode == 0
    assert "5 models, epochs 0–2, 14 rows" in result.stderr
    assert "not a zip archive" in result.stderr
    result = zoo("build", tmp_path / SEED_ZOO, "--out", tmp_path / "other", "--on-bad", "fail")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert f"{folders[2].name} at epoch 1" in result.stderr
    options = ["--epochs", "0,2-3", "--where", "seed in (1, 2, 4)", "--models", "2", "--limit-test", "100"]
    result = zoo("build", tmp_path / SEED_ZOO, "--out", tmp_path / "other", *options)
    assert "2 models, epochs 0–2, 4 rows" in result.stderr
    assert zoo("verify", tmp_path / "repo", "mnist_cnn_s", "--files-only").returncode == 0
    result = zoo("build", tmp_path / SEED_ZOO, "--out", tmp_path / "x", "--where", "lr < import os")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert zoo("build", tmp_path / SEED_ZOO, "--out", tmp_path / "x", "--epochs", "a").returncode == 2
