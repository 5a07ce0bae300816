"""A real push and load, step by step, against a hub on this machine: `python examples/push_to_a_local_hub.py`.

The hub is that of the tests; it speaks the Hub's HTTP API. Everything else is what you would use: the `zoo` command
and `datasets`. It takes about a minute and leaves nothing behind.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from hub_server import WRITER, Fault, Hub, serving  # noqa: E402

REPO = "somebody/model-zoos"
TRAIN = ["train", "digits_cnn_s", "--limit-train", "500", "--limit-val", "100", "--limit-test", "100"]
LOAD = f"""
from datasets import load_dataset
print(load_dataset("{REPO}", "digits_cnn_s").num_rows)
print(load_dataset("{REPO}", "digits_cnn_s-meta", split="train").column_names[:6], "…")
print(next(iter(load_dataset("{REPO}", "digits_cnn_s", split="train", streaming=True)))["model_id"])
from zoo_datasets import load_zoo, to_module
row = load_zoo("{REPO}", "digits_cnn_s", "train", epochs=[2])[0]
print(to_module(row), f"test accuracy {{row['test_acc']:.2f}}")
"""
DOWNLOAD = f"""
from huggingface_hub import snapshot_download
snapshot_download("{REPO}", repo_type="dataset", local_dir="downloaded")
"""


def main() -> None:
    """Train, build, push, load; grow and push again; with a broken connection on the way."""
    with tempfile.TemporaryDirectory() as folder, serving() as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": WRITER, "HF_HOME": f"{folder}/home",
            "HF_HUB_OFFLINE": "0", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        }  # fmt: skip

        def run(*command: str, fails: bool = False) -> None:
            hub.reset()
            shown = "python …" if command[0] == "-c" else f"zoo {shlex.join(command)}"
            print(f"\n$ {shown}", flush=True)
            start = [sys.executable] if command[0] == "-c" else [sys.executable, "-m", "zoo_datasets.cli"]
            done = subprocess.run([*start, *command], cwd=folder, env=environment, check=False)
            if bool(done.returncode) != fails:
                raise SystemExit(f"ended with {done.returncode}")
            if command[0] == "push":
                _show(hub)

        run(*TRAIN, "--models", "16", "--epochs", "2")
        run("build", "runs/digits_cnn_s", "--out", "model-zoos")
        print("\nThe connection will be cut in the middle of a file, again and again:")
        hub.faults.append(Fault("PUT", "/objects/.*/2$", times=6))
        run("push", "model-zoos", REPO, fails=True)
        print("\nThe same command goes on, and sends no finished file again:")
        run("push", "model-zoos", REPO)
        print("\nNothing has changed:")
        run("push", "model-zoos", REPO)
        run("info", REPO)
        run("-c", LOAD)
        print("\nThe zoo grows; what the hub has is not sent again:")
        run(*TRAIN, "--models", "24", "--epochs", "3")
        run("build", "runs/digits_cnn_s", "--out", "model-zoos")
        run("push", "model-zoos", REPO)
        run("-c", DOWNLOAD)
        run("verify", "downloaded", "digits_cnn_s", "--files-only")


def _show(hub: Hub) -> None:
    print(f"  the hub received {sum(hub.received.values()):,} bytes of {len(hub.received)} large files; its commits:")
    for sha, commit in hub.repos[REPO].commits.items():
        print(f"  {sha[:8]} {commit.message} ({len(commit.files)} files)")
    if broken := hub.repos[REPO].broken():
        raise SystemExit(f"a commit does not load: {broken}")


if __name__ == "__main__":
    main()
