"""What README and documentation show runs, and the paths that the documents name are there."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from file_server import serving_files
from hub_server import WRITER, serving
from raw_zoos import SEED_ZOO, make_zoo, zipped

from zoo_datasets.networks.layers import flat_layers
from zoo_datasets.networks.outlines import complete
from zoo_datasets.specs.zoos import read_zoo_file

ROOT = Path(__file__).parents[1]
# Files and folders, as `specs/zoos.py`, `networks/layers/`, `pyproject.toml` or `.ci/run`; and names of tables.
PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*/?")
OF_USERS = {"zoo.json", "manifest.json", ".pt", ".venv"}  # which training and builds, or make, write
TABLE = re.compile(r"[A-Z][A-Z_]+")


def place_of(name, *others):
    """The file, folder or module that a document names: from the top, from that of the package, or from others."""
    if name.startswith("zoo_datasets."):
        return importlib.util.find_spec(name)
    return next((place for folder in (ROOT, ROOT / "zoo_datasets", *others) if (place := folder / name).exists()), None)


def paths_in(text):
    """What a text has in backquotes, or as targets of links, that is written as a path."""
    quoted = [*re.findall(r"`([^`\n]+)`", text), *re.findall(r"\]\(([^):#]+)\)", text)]
    known = {path.name for path in ROOT.iterdir()}
    return [name for name in quoted if PATH.fullmatch(name) and ("/" in name or "." in name or name in known)]


@pytest.mark.parametrize("document", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_the_paths_that_a_document_names_are_there(document):
    text = (ROOT / document).read_text()
    names = paths_in(re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    assert len(names) > 5
    beside = (ROOT / document).parent, ROOT / "builders", ROOT / "training", ROOT / "zoo_datasets/stacked"
    assert [name for name in names if name not in OF_USERS and not place_of(name, *beside)] == []


def test_the_tables_where_new_things_go_are_there():
    text = (ROOT / "docs/architecture.md").read_text().partition("goes here\n")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 17
    for _, new, *cells, _ in rows:
        assert paths_in(cells[0]), new
        files = [place_of(name) for name in paths_in("".join(cells)) if name.endswith(".py")]
        modules = [importlib.import_module(module_of(file)) for file in files]
        for table in (name for name in re.findall(r"`([^`]+)`", "".join(cells)) if TABLE.fullmatch(name)):
            assert table == "FEATURE" or any(len(vars(module).get(table, ())) for module in modules), (new, table)


def module_of(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "zoo_datasets" else ("zoo_datasets", *parts)).removesuffix(".__init__")


def test_the_zoos_of_ones_own_are_zoos(tmp_path):
    text = (ROOT / "docs/own.md").read_text()
    for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[:2]):
        (tmp_path / f"{number}.yaml").write_text(block)
    table, own = (read_zoo_file(tmp_path / f"{number}.yaml") for number in range(2))
    assert (table.zoo.models, table.images, own.zoo.models) == (240, None, 20)
    assert (own.images, own.zoo.pixels.size) == (tmp_path / "cells", 32)
    names = [layer.name for layer in flat_layers(complete(own.zoo.layers, 3, 4, 32)) if hasattr(layer, "name")]
    assert names == ["conv1", "bn1", "conv2", "fc1"]


@pytest.mark.slow
def test_all_snippets_and_commands_of_the_pages_run_in_order(tmp_path):
    for folder in ("work", "served"):
        (tmp_path / folder).mkdir()
    make_zoo(tmp_path / "served" / SEED_ZOO, models=8)
    archive = zipped(tmp_path / "served" / SEED_ZOO)
    with serving() as hub, serving_files(tmp_path / "served") as files:
        files.publish(6632086, archive)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | {
            "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": WRITER,
            "HF_HOME": str(tmp_path / "home"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            "ZOO_CACHE": str(tmp_path / "cache"), "ZOO_ZENODO": files.url, "ZOO_FILES": files.url,
            "PYTHONPATH": str(ROOT / "tests"),
        }  # fmt: skip
        walk = subprocess.run([sys.executable, ROOT / "tests" / "readme_walk.py"], cwd=tmp_path / "work",
                              env=environment, capture_output=True, text=True, timeout=1200)  # fmt: skip
    print(walk.stdout)
    assert walk.returncode == 0, f"{walk.stdout[-3000:]}\n{walk.stderr[-3000:]}"
    for command in ("zoo train", "zoo push", "zoo download", "zoo report", ">>> module = zd.to_module(zoo[0])"):
        assert command in walk.stdout
