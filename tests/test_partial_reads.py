"""What is transferred from a hub: the bytes are counted by a local one."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from threading import Timer

import pytest
from hub_server import serving
from tiny_runs import make_run

from zoo_datasets.builders import build_repository

NAME = "digits_cnn_s"
MODELS, EPOCHS = 240, 50
# Imports once, and forks for each load, which thus remembers nothing of those before; what lay in HF_HOME is removed.
PROGRAM = """
import json, os, shutil, sys
import torch
from zoo_datasets.loading.batches import batches
from zoo_datasets.loading.load import load_zoo
torch.set_num_threads(1)
for line in sys.stdin:
    how, batched = json.loads(line)
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
    if os.fork():
        if os.wait()[1]:
            sys.exit("the load failed")
        continue
    rows = load_zoo("somebody/model-zoos", "digits_cnn_s", "train", **eval(f"dict({how})"))
    if batched:
        rows = (row for batch in batches(rows, 32, ["weights"], shuffle=True) for row in batch["weights"])
    elif "streaming" not in how:
        rows = rows.with_format("arrow")
    print(sum(1 for _ in rows), flush=True)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("partial")
    make_run(folder / "run", ((MODELS, EPOCHS),), cohort_size=MODELS)
    build_repository(folder / "run", folder / "repo")
    return folder / "repo"


@contextmanager
def loading(url, folder):
    """The program, which loads from a hub; it ends after two minutes at most."""
    environment = os.environ | {
        "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_dummy", "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(folder / "home"),
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], text=True, env=environment, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as program:  # fmt: skip
        ends = Timer(120, lambda: os.killpg(program.pid, signal.SIGKILL))
        ends.start()
        yield program
        ends.cancel()


@pytest.mark.slow
def test_only_what_is_asked_for_is_transferred(repo, tmp_path):
    train = sum(file.stat().st_size for file in (repo / NAME).glob("train-*.parquet"))
    with serving(repo) as hub, loading(hub.url, tmp_path) as program:

        def load(how, batched=False):
            hub.reset()
            program.stdin.write(json.dumps([how, batched]) + "\n")
            program.stdin.flush()
            answer = program.stdout.readline()
            assert answer, program.communicate()[1][-2000:]
            assert not [path for path in hub.sent if "validation-" in path or "test-" in path]
            return int(answer), hub.of(".parquet") / train

        models, share = load("epochs=[50]")
        assert 100 < models < MODELS
        assert share <= 1 / 40
        assert load("epochs=[7], streaming=True") == (models, pytest.approx(share, rel=0.05))
        assert load("epochs=[7], streaming=True", batched=True) == (models, pytest.approx(share, rel=0.05))
        some = "where='epoch == 3 and test_acc > 0.5', streaming=True"
        rows, share = load(some, batched=True)
        assert 0 < rows < models
        assert share <= 1 / 40
        metadata = "columns=['model_id', 'epoch', 'test_acc']"
        for how in (metadata, f"{metadata}, streaming=True"):
            rows, share = load(how)
            assert rows == models * (EPOCHS + 1)
            assert share < 0.015  # the footer, which is read twice, and three narrow columns
        rows, share = load("where='epoch == 3 and test_acc > 0.5', columns=['weights']")
        assert 0 < rows < models
        assert share <= 1 / 40
        assert load("")[1] == 1
