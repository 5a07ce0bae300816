"""Install the wheel and the sdist of a folder into new environments and use them: `python try_wheel.py dist`.

Each Python that the package supports is tried if it is at hand; those that are not are named. `--python 3.12` tries one
alone, and fails where it is missing.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
ROOT = Path(__file__).parents[1]
# Away from the clone: the package is what was installed.
_USE = """
import sys, zoo_datasets as zd, zoo_datasets.builders, zoo_datasets.training
assert "site-packages" in zd.__file__, zd.__file__
assert zd.__version__ == sys.argv[1], zd.__version__
rows = zd.load_zoo("tried/model-zoos", "digits_cnn_s", "train", epochs=[10])
module = zd.to_module(rows[0])
print("rows", len(rows), "tensors", len(module.state_dict()))
"""


def interpreter(version: str) -> str | None:
    """A Python of this version: the present one, one of pyenv, or on the PATH."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    homes = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python"))
    return str(homes[-1]) if homes else shutil.which(f"python{version}")


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return its output; exit with it where it fails."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def try_file(python: str, file: Path, version: str) -> str:
    """Install a file into a new environment, train with it, and load what it made."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(python, "-m", "venv", "venv", cwd=folder)
        own = folder / "venv/bin/python"
        pins = ROOT / "constraints.txt"
        run(own, "-m", "pip", "install", "--quiet", "--constraint", pins, file.resolve(), cwd=folder)
        run(folder / "venv/bin/zoo", "quickstart", "--out", "tried", cwd=folder)
        return run(own, "-c", _USE, version, cwd=folder).strip()


def main() -> None:
    """Try all of it, and say what was not tried."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dist", type=Path)
    parser.add_argument("--python", choices=PYTHONS)
    arguments = parser.parse_args()
    (wheel,) = arguments.dist.glob("*.whl")
    (sdist,) = arguments.dist.glob("*.tar.gz")
    version = re.fullmatch(r"zoo_datasets-(.+?)-py3-none-any\.whl", wheel.name)
    if version is None or sdist.name != f"zoo_datasets-{version[1]}.tar.gz":
        raise SystemExit(
            f"{wheel.name} and {sdist.name}: expected a wheel for any Python 3, and an sdist of its version"
        )
    for wanted in [arguments.python] if arguments.python else PYTHONS:
        python = interpreter(wanted)
        if python is None:
            print(f"Python {wanted}: not at hand, not tried", flush=True)
            if arguments.python:
                raise SystemExit(1)
            continue
        for file in (wheel, sdist) if wanted == PYTHONS[0] else (wheel,):
            print(
                f"Python {wanted}: {file.name}: {try_file(python, file, version[1])}",
                flush=True,
            )


if __name__ == "__main__":
    main()
