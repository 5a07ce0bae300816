"""Every snippet and command of README and documentation in order, in one process and tiny: `python readme_walk.py`.

It runs in an empty folder. What it runs instead of what stands there, what it prepares and what it leaves out is
printed; a substitution that fits nothing any more is an error.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from raw_zoos import SEED_ZOO, make_zoo, saved, state_dict, tarred, trial_name, weights_of, zipped
from state_folders import mlp, write_folder
from tiny_runs import make_run
from typer.testing import CliRunner

from zoo_datasets.builders import build_repository
from zoo_datasets.cli import quickstart_job
from zoo_datasets.cli.app import app
from zoo_datasets.images import load_images
from zoo_datasets.specs.spec import ZooSpec
from zoo_datasets.specs.zoos import get_zoo

ROOT = Path(__file__).parents[1]
# Each begins with no names of its own, and finds what the commands of the former have left in the folder.
PAGES = (
    "README.md", "docs/index.md", "docs/load.md", "docs/tasks.md", "docs/explore.md",
    "docs/train.md", "docs/own.md", "docs/twins.md", "docs/machines.md", "docs/get.md", "docs/import.md",
    "docs/write.md", "docs/hub.md", "docs/publish.md",
)  # fmt: skip
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)

# What stands in the pages, what runs instead, and why.
SUBSTITUTIONS = (
    ("make quickstart  ", "zoo quickstart --out quickstart  ", "what make runs"),
    ("--out benchmark.json", "--out benchmark.json --targets test_acc", "in seconds"),
    ("usps_cnn_s --json", "usps_cnn_s --json --targets test_acc", "in seconds"),
    ("hyp_rand --images PATH", "hyp_rand --images images", "images in miniature"),
    ("mnist_cnn_s --models 16 --epochs 3", "mnist_cnn_s --models 16 --epochs 2 --images images", "as the Hub's images"),
    ("images: mnist  ", "images: digits ", "images that are at hand"),
    ("epochs: 25", "epochs: 1", "in seconds"),
    ("--method variational_dropout", "--method variational_dropout --epochs 2", "in seconds"),
    ("--epochs 15", "--epochs 2", "in seconds"),
    ("--name mnist_cnn_s --where", "--name mnist_cnn_s --epochs 2 --where", "in seconds"),
    ("seeds: 10", "seeds: 1", "in seconds"),
    ("'test_acc > 0.9'", "'test_acc >= 0'", "models that learnt nothing"),
    ("--epochs 0,10,50", "--epochs 0,1,2", "epochs that the tiny zoo has"),
    ("--epochs 50", "--epochs 2", "epochs that the tiny zoo has"),
    ('"relu" and lr < 0.01', '"tanh" and lr < 0.01', "an activation that the tiny zoo has"),
    ("--limit-val 1000 --limit-test 1000", "--files-only", "random weights, whose figures cannot come out again"),
    ("https://host/", f"{os.environ.get('ZOO_ZENODO', '')}/", "a server of this machine"),
    ("org/model-zoos", "somebody/model-zoos", "an account of the hub of the tests"),
    ("my-lab", "somebody", "an account of the hub of the tests"),
    ("hf:org/adapters@main", "adapters", "a folder as of the Hub"),
    ("s3://bucket/", "memory://", "without a bucket"),
)
LEFT_OUT = {
    "hf auth login": "HF_TOKEN is set",
    "make test": "it runs this",
    "python examples/push_to_a_local_hub.py": "it takes a minute; the commands beside it run against a hub too",
}


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Language and text of each block of code of a page that is meant to run."""
    for match in BLOCK.finditer((ROOT / page).read_text()):
        if match["language"] in ("bash", "python", "yaml"):
            yield match["language"], match["text"]


def substituted(text: str, used: set[str]) -> str:
    """A block with all substitutions, each of which is printed."""
    for old, new, reason in SUBSTITUTIONS:
        for line in text.splitlines():
            if old in line:
                used.add(old)
                print(f"  - {line}\n  + {line.replace(old, new)}    ({reason})")
        text = text.replace(old, new)
    return text


def run_shell(text: str) -> None:
    """Run the lines of a block of shell: commands of ours in this process."""
    for line in text.splitlines():
        for command in line.split("&&"):
            words = shlex.split(command, comments=True)
            if reason := LEFT_OUT.get(" ".join(words)):
                print(f"  left out: {' '.join(words)}: {reason}")
            elif words:
                print(f"$ {shlex.join(words)}", flush=True)
                run_zoo(words)


def run_zoo(words: list[str]) -> None:
    """Run a `zoo` command; it must succeed."""
    assert words[0] == "zoo", words
    begun = time.monotonic()
    result = CliRunner().invoke(app, words[1:])
    if result.exit_code:
        print(result.output)
        raise SystemExit(f"{shlex.join(words)}: {result.exception!r}")
    last = next((line for line in reversed(result.output.splitlines()) if line.strip()), "")
    print(f"    {last}    ({time.monotonic() - begun:.1f} s)", flush=True)


def run_python(text: str, names: dict[str, Any]) -> None:
    """Run a block of Python, and take a batch of each task that it only names."""
    print("".join(f">>> {line}\n" for line in text.splitlines()), end="", flush=True)
    exec(text, names)
    for statement in re.findall(r"^zd\..*", text, re.MULTILINE):
        batch = next(iter(eval(statement.partition("  #")[0], names)))
        assert len(batch["weights"]) > 0, statement


def given_for_training() -> None:
    """Another zoo beside that of the quickstart."""
    other = dataclasses.replace(get_zoo("digits_cnn_s"), name="cifar10_cnn_l", architecture="cnn_l")
    build_tiny("quickstart/model-zoos", other, 14, 1)


def given_for_benchmarks() -> None:
    """Zoos to learn from and to test on, and images."""
    make_images(Path("images"))
    fingerprint = load_images("mnist", "cnn_s", "images").fingerprint
    for name in ("mnist_cnn_s_hyp_rand", "mnist_cnn_s", "usps_cnn_s"):
        build_tiny("model-zoos", get_zoo(name), 24, 1, fingerprint=fingerprint)


def given_for_running() -> None:
    """A run under runs/, and a repository that is new."""
    shutil.rmtree("model-zoos")
    shutil.copytree("quickstart/runs/digits_cnn_s", "runs/digits_cnn_s")


def given_for_raw_zoos() -> None:
    """A raw zoo, its archives, of which one in fsspec's memory, and a .pt file of it; a repository that is new."""
    import fsspec

    shutil.rmtree("model-zoos")
    make_zoo(Path(SEED_ZOO), models=8)
    zipped(Path(SEED_ZOO))
    write_pt(Path("dataset_mnist_uniform.pt"))
    fsspec.filesystem("memory").pipe("/zoo.tar.gz", tarred(Path(SEED_ZOO), ".tar.gz").read_bytes())


def given_networks() -> None:
    """Perceptrons with a table and splits, some at several epochs in an archive, and adapters with their settings."""
    write_folder(Path("checkpoints"), {f"m{number}.safetensors": mlp(number) for number in range(8)})
    Path("table.csv").write_text("file,lr,label\n" + "".join(f"m{number},0.1,c{number}\n" for number in range(8)))
    Path("splits.json").write_text('{"train": ["m0", "m1"], "val": ["checkpoints/m2.safetensors"]}')
    epochs = {f"m{number}/epoch_{epoch}.pt": mlp(number) for number in range(4) for epoch in range(2)}
    tarred(write_folder(Path("runs_of_mine"), epochs), ".tar.gz").rename("runs.tar.gz")
    for number in range(4):
        write_folder(Path("adapters"), {f"task{number}/adapter_model.safetensors": mlp(number)})
        Path(f"adapters/task{number}/adapter_config.json").write_text('{"r": 4}')


def given_folder_of_repositories() -> None:
    """The repository in a folder of such."""
    shutil.copytree("model-zoos", "zoos/model-zoos")


def given_code() -> None:
    """The file of a network of one's own."""
    shutil.copy(Path(__file__).parents[1] / "examples/narrow_vit.py", ".")


GIVEN: dict[str, Callable[[], None]] = {
    "docs/own.md": given_code,
    "docs/load.md": given_for_training,
    "docs/explore.md": given_for_benchmarks,
    "docs/train.md": given_for_running,
    "docs/get.md": given_for_raw_zoos,
    "docs/import.md": given_networks,
    "docs/hub.md": given_folder_of_repositories,
}


def build_tiny(repo: str, zoo: ZooSpec, models: int, epochs: int, **options: Any) -> None:
    """Add a zoo with random weights and figures to a repository."""
    run = Path("given") / repo.replace("/", "-") / zoo.name
    make_run(run, ((models, epochs),), zoo=zoo, **options)
    build_repository(run, Path(repo))


def write_pt(file: Path) -> None:
    """A preprocessed file as the authors' tools write it, of three splits with one model each at two epochs."""
    module = types.ModuleType("checkpoints_to_datasets.dataset_base")
    kind = type("ModelDatasetBase", (), {"__module__": module.__name__})
    module.ModelDatasetBase = kind  # type: ignore[attr-defined]
    sys.modules |= {"checkpoints_to_datasets": types.ModuleType("checkpoints_to_datasets"), module.__name__: module}
    content = {}
    for seed, split in enumerate(("trainset", "valset", "testset"), 1):
        content[split] = kind()
        content[split].__dict__ |= {
            "data_in": [state_dict(weights_of(seed, epoch)) for epoch in (0, 5)],
            "paths": [Path(SEED_ZOO) / trial_name(seed - 1, seed)] * 2,
            "epochs": [0, 5],
            "properties": {"test_acc": [0.1, 0.2], "ggap": [0.0, 0.1], "training_iteration": [0, 5]},
        }
    file.write_bytes(saved(content))
    for name in ("checkpoints_to_datasets", module.__name__):
        del sys.modules[name]


def make_images(folder: Path) -> None:
    """MNIST in miniature, as an image folder: 4 training images and 1 test image of each class."""
    for split, count in (("train", 4), ("test", 1)):
        for label in range(10):
            home = folder / split / str(label)
            home.mkdir(parents=True)
            for number in range(count):
                noise = torch.Generator().manual_seed(1000 * label + 10 * number + len(split))
                pixels = torch.randint(256, (28, 28), dtype=torch.uint8, generator=noise)
                Image.fromarray(pixels.numpy()).save(home / f"{number}.png")


def main() -> None:
    """Run all of it in the current folder."""
    warnings.filterwarnings("ignore", message=".*cannot be compared with the published zoos")
    quickstart_job.MODELS = 12
    print("  given: 12 models instead of 32 in the quickstart")
    used: set[str] = set()
    for page in PAGES:
        print(f"## {page}", flush=True)
        if prepare := GIVEN.get(page):
            print(f"  given: {prepare.__doc__}", flush=True)
            prepare()
        walk(page, used)
    if unused := [old for old, _, _ in SUBSTITUTIONS if old not in used]:
        raise SystemExit(f"not in the pages any more: {unused}")


def walk(page: str, used: set[str]) -> None:
    """Run all blocks of a page."""
    names: dict[str, Any] = {}
    for language, text in blocks(page):
        ready = substituted(text, used)
        if language == "python":
            run_python(ready, names)
        elif language == "bash":
            run_shell(ready)
        else:
            (name,) = re.findall(r"^name: (\w+)", ready, re.MULTILINE)
            Path(f"{name}.yaml").write_text(ready)


if __name__ == "__main__":
    sys.exit(main())
