"""What is transferred from a hub: the bytes are counted by a local one."""

import pytest
from forks import forks
from hub_server import serving
from tiny_runs import make_run

from zoo_datasets.builders import build_repository

NAME = "digits_cnn_s"
MODELS, EPOCHS = 240, 50
IMPORTS = """
import os, shutil, torch
from zoo_datasets.loading.batches import batches
from zoo_datasets.loading.load import load_zoo
torch.set_num_threads(1)
"""
LOAD = """
shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
rows = load_zoo("somebody/model-zoos", "digits_cnn_s", "train", **dict({how}))
if {batched}:
    rows = (row for batch in batches(rows, 32, ["weights"], shuffle=True) for row in batch["weights"])
elif "streaming" not in {how!r}:
    rows = rows.with_format("arrow")
print("rows", sum(1 for _ in rows))
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("partial")
    make_run(folder / "run", ((MODELS, EPOCHS),), cohort_size=MODELS)
    build_repository(folder / "run", folder / "repo")
    return folder / "repo"


@pytest.mark.slow
def test_only_what_is_asked_for_is_transferred(repo, tmp_path):
    train = sum(file.stat().st_size for file in (repo / NAME).glob("train-*.parquet"))
    with serving(repo) as hub:
        environment = {
            "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_dummy", "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "home"),
        }  # fmt: skip
        with forks(IMPORTS, tmp_path, environment) as programs:
            check_loads(hub, programs, train)


def check_loads(hub, programs, train):
    def load(how, batched=False):
        hub.reset()
        printed = programs.run(IMPORTS + LOAD.format(how=how, batched=batched))
        assert not [path for path in hub.sent if "validation-" in path or "test-" in path]
        return int(printed.rpartition("rows ")[2]), hub.of(".parquet") / train

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
