"""What a repository of many zoos costs: one more zoo, the card, a push of nothing, `zoo info`.

    python tests/benchmarks/many_zoos.py [--zoos 60]

Each zoo is two configs, itself and the one without weights. The Hub is the one of the tests, on this machine.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import datasets
import yaml
from hub_client import Client
from hub_server import serving
from tiny_runs import make_run

from zoo_datasets.builders import build_repository
from zoo_datasets.repository.card import configs_of, read_card

NAME = "fashion_mnist_cnn_s_zoo"


def seconds(what, function, *arguments, **options):
    """Print how long a call took; returns what it returned and the seconds."""
    start = time.perf_counter()
    result = function(*arguments, **options)
    took = time.perf_counter() - start
    print(f"{what}: {took:.2f} s")
    return result, took


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--zoos", type=int, default=60)
    zoos = parser.parse_args().zoos
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        run, repo = folder / "run", folder / "repo"
        make_run(run, ((12, 1),))
        build_repository(run, folder / "warm", f"{NAME}_warm")
        _, alone = seconds("a tiny zoo into an empty repository", build_repository, run, repo, f"{NAME}_000")
        for number in range(1, zoos - 1):
            build_repository(run, repo, f"{NAME}_{number:03}")
        _, last = seconds(f"zoo {zoos}", build_repository, run, repo, f"{NAME}_{zoos - 1:03}")
        text = (repo / "README.md").read_text()
        block = text.split("---\n")[1]
        print(f"{last - alone:+.2f} s for the other {zoos - 1} zoos")
        print(
            f"{len(configs_of(read_card(repo)))} configs: card {len(text) / 1e3:.1f} kB, YAML {len(block) / 1e3:.1f} kB"
        )
        seconds("the YAML, read by the reader of `datasets`", yaml.safe_load, block)
        with serving() as hub:
            client = Client(hub.url, folder / "home")
            name = "somebody/model-zoos"
            client.zoo("info", repo)  # imports
            seconds("zoo info of the folder", client.zoo, "info", repo)
            seconds("first push", client.zoo, "push", repo, name)
            _, _ = seconds("push of nothing", client.zoo, "push", repo, name)
            print(f"  {len(hub.requests)} requests in all")
            seconds("zoo info of the dataset, first", client.zoo, "info", name)
            seconds("zoo info of the dataset, again", client.zoo, "info", name)
            client.close()
        shutil.rmtree(repo)


if __name__ == "__main__":
    main()
