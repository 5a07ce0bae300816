"""What is transferred from a hub: the bytes are counted by a local one."""

import os
import subprocess
import sys

import pytest
from hub_server import serving
from tiny_runs import make_run

from zoo_datasets.builders import build_repository

NAME = "digits_cnn_s"
MODELS, EPOCHS = 240, 50
PROGRAM = """
import sys
from zoo_datasets.loading.load import load_zoo
rows = load_zoo("somebody/model-zoos", "digits_cnn_s", "train", **eval(sys.argv[1]))
if sys.argv[2:] == ["batches"]:
    from zoo_datasets.loading.batches import batches
    print(sum(len(batch["weights"]) for batch in batches(rows, 32, ["weights"], shuffle=True)))
    sys.exit()
print(sum(1 for _ in rows.with_format("arrow")) if "streaming" not in sys.argv[1] else sum(1 for _ in rows))
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

        def load(how, *program):
            hub.reset()
            environment = os.environ | {
                "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_dummy", "HF_HUB_OFFLINE": "0",
                "HF_HOME": str(tmp_path / "".join(filter(str.isalnum, how))),
            }  # fmt: skip
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, f"dict({how})", *program],
                capture_output=True, text=True, check=False, timeout=120, env=environment,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-2000:]
            assert not [path for path in hub.sent if "validation-" in path or "test-" in path]
            return int(done.stdout), hub.of(".parquet") / train

        models, share = load("epochs=[50]")
        assert 100 < models < MODELS
        assert share <= 1 / 40
        assert load("epochs=[7], streaming=True") == (models, pytest.approx(share, rel=0.05))
        assert load("epochs=[7], streaming=True", "batches") == (models, pytest.approx(share, rel=0.05))
        some = "where='epoch == 3 and test_acc > 0.5', streaming=True"
        rows, share = load(some, "batches")
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
