"""Imports point one way, and what a user types first is light."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import zoo_datasets

ROOT = Path(__file__).parents[1]

# A module may import those of its own level and of the levels before it.
LEVELS = (
    (
        "text",
        "terminal",
        "errors",
        "documents",
        "files",
        "checksums",
        "specs",
        "remote",
        "downloads",
        "ahead",
        "locks",
        "cores",
        "folders",
    ),
    ("images", "image_sources", "image_splits", "architectures", "zoos", "layout", "adapters", "graphs"),
    ("sparsity", "variational"),
    ("stacked", "schema", "runs", "gather", "plans"),
    ("where",),
    ("rows",),
    (
        "manifest",
        "card_text",
        "hub",
        "hub_access",
        "plots",
        "loading",
        "evaluation",
        "reading",
        "streaming",
        "symmetries",
    ),
    ("batching", "mixing", "tasks", "models"),
    ("exporting",),
    ("card_plots", "local_zoos", "publishing", "builders", "training"),
    ("quickstart", "command_line", "commands", "cli", "__init__"),
)
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}
# The options of a command stand beside what they call.
EXCEPTIONS = {("training", "command_line")}


def modules():
    for folder in ("zoo_datasets", "builders", "training"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield path, parts[1] if folder == "zoo_datasets" else folder


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zoo_datasets"):
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("zoo_datasets."))


def test_imports_point_one_way():
    found = 0
    for path, name in modules():
        assert name in LEVEL_OF, f"{path}: give {name} a level in this test"
        for other in imported(path):
            if other not in LEVEL_OF:
                continue  # a name of the lazy surface, as __version__
            found += 1
            assert LEVEL_OF[other] <= LEVEL_OF[name] or (name, other) in EXCEPTIONS, f"{path} imports {other}"
            assert {name, other} != {"builders", "training"}, f"{path} imports {other}"
    assert found > 50


def test_specs_import_nothing_of_ours():
    assert not list(imported(ROOT / "zoo_datasets" / "specs.py"))


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, cwd="/")


def test_nothing_heavy_comes_with_the_package_or_the_help():
    heavy = ["torch", "datasets", "pyarrow", "numpy", "accelerate", "pydantic", "sklearn", "matplotlib"]
    code = f"import sys, zoo_datasets, zoo_datasets.cli; print([m for m in {heavy} if m in sys.modules])"
    assert run("-c", code).stdout.strip() == "[]"


def test_images_that_are_prepared_need_no_datasets():
    code = "import sys, zoo_datasets.images, zoo_datasets.stacked; print('datasets' in sys.modules)"
    assert run("-c", code).stdout.strip() == "False"


def test_help_answers_at_once():
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        output = run("-m", "zoo_datasets.cli", "--help").stdout
        times.append(time.perf_counter() - begun)
    for command in ("list", "train", "build", "verify", "export"):
        assert command in output
    # Half a second is the promise; a busy machine gets some leave.
    assert min(times) < 1.0


def test_the_public_surface_is_there():
    for name in zoo_datasets.__all__:
        assert getattr(zoo_datasets, name) is not None
