"""Imports point one way, and what a user types first is light."""

import ast
import graphlib
import subprocess
import sys
import tomllib
from pathlib import Path

import zoo_datasets

ROOT = Path(__file__).parents[1]

# A file may import of its own folder and of the folders (or files) before it.
ORDER = (
    "text", "errors", "documents", "version", "terminal", "plotting", "specs", "storage", "native", "networks",
    "images", "adapters", "repository", "stacked", "runs", "loading", "predictors", "evaluation", "hub",
    ("training", "builders"), "cli",
)  # fmt: skip
# Files of the top that carry the name that users know to its place, and what stands beside the folders.
SURFACE = {"__init__": "cli", "graphs": "adapters", "sparsity": "networks", "symmetries": "loading"}
LEVELS = {name: level for level, names in enumerate(ORDER) for name in ([names] if isinstance(names, str) else names)}
# An entry point: the only file that imports what lies above it.
UPWARD = {"training/__main__.py"}
MOST_FILES = {"zoo_datasets": 10, "builders": 6, "training": 6}


def files():
    folders = ("zoo_datasets", "builders", "training")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "zoo_datasets" else ("zoo_datasets", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in files()}


def place(module):
    """The folder (or file) below the top that a module belongs to."""
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else "__init__"
    return SURFACE.get(name, name)


def imported(path):
    """Modules of ours that a file imports, at the top or in a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "zoo_datasets":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "zoo_datasets")


def test_imports_point_one_way():
    arrows = 0
    for module, path in MODULES.items():
        here = place(module)
        assert here in LEVELS, f"{path}: give {here} a place in the order of this test"
        for other in imported(path):
            assert other in MODULES, f"{path} imports {other}, which is no module"
            there = place(other)
            arrows += 1
            if path.relative_to(ROOT).as_posix() not in UPWARD:
                assert here == there or LEVELS[there] < LEVELS[here], f"{path} ({here}) imports {other} ({there})"
    assert arrows > 500


def test_there_is_no_circle():
    graph = {module: {other for other in imported(path) if other != module} for module, path in MODULES.items()}
    del graph["zoo_datasets"]  # its names are looked up when they are used
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_a_newcomer_can_read_a_folder_at_a_glance():
    for folder in {path.parent for path in files()}:
        name = folder.relative_to(ROOT).as_posix()
        most = MOST_FILES.get(name, 15)
        if name != "zoo_datasets/cli":  # one a command
            assert len(list(folder.glob("*.py"))) <= most, f"{name} holds more than {most} modules"
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(packages) == sorted(module_of(path) for path in files() if path.name == "__init__.py")


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, cwd="/")


HEAVY = {"torch", "datasets", "pyarrow", "numpy", "accelerate", "pydantic", "sklearn", "matplotlib", "scipy", "pandas"}


def test_nothing_heavy_comes_with_the_package():
    code = f"import sys, zoo_datasets, zoo_datasets.cli; print([m for m in {HEAVY} if m in sys.modules])"
    assert run("-c", code).stdout.strip() == "[]"


def test_images_that_are_prepared_need_no_datasets():
    code = "import sys, zoo_datasets.images, zoo_datasets.stacked; print('datasets' in sys.modules)"
    assert run("-c", code).stdout.strip() == "False"


def test_help_imports_nothing_heavy():
    shown = run("-X", "importtime", "-m", "zoo_datasets.cli", "--help")
    for command in ("list", "train", "build", "verify", "export"):
        assert command in shown.stdout
    imports = {line.rpartition("|")[2].strip().partition(".")[0] for line in shown.stderr.splitlines()}
    assert {"typer", "zoo_datasets"} <= imports
    assert imports & HEAVY == set()


def test_the_public_surface_is_there():
    for name in zoo_datasets.__all__:
        assert getattr(zoo_datasets, name) is not None
