"""The main job where Python has only what it has on Windows too."""

import os
import subprocess
import sys

import pytest

# What of POSIX goes: the modules, and the names that this package might use.
_PRELUDE = """
import os, signal, sys, warnings
for name in ("fcntl", "resource", "pwd", "grp"):
    sys.modules[name] = None
for name in ("sched_getaffinity", "pread", "pwrite", "preadv", "fork", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK",
             "geteuid", "getuid", "killpg", "setsid", "posix_fadvise"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM"):
    if hasattr(signal, name):
        delattr(signal, name)
warnings.filterwarnings("ignore", "only soft file lock|training takes the plain torch path")
"""
_IMPORTS = """
import importlib, pkgutil
import zoo_datasets
for module in pkgutil.walk_packages(zoo_datasets.__path__, "zoo_datasets."):
    if module.name.rpartition(".")[2] not in ("__main__", "on_ray", "umap"):
        importlib.import_module(module.name)
"""
_JOB = """
import tarfile, shutil, zipfile
from pathlib import Path
from zoo_datasets import load_zoo
from zoo_datasets.builders import build_repository
from zoo_datasets.builders.containers.folder import read_file
from zoo_datasets.builders.sources.raw.export import export_raw
from zoo_datasets.errors import CheckpointError, CohortInUseError, RepositoryError
from zoo_datasets.evaluation.verify.verify import verify_repository
from zoo_datasets.loading.exporting import repository_rows
from zoo_datasets.images.prepare import load_images
from zoo_datasets.storage.locks import locked_zoo
from zoo_datasets.specs.members import Limits
from zoo_datasets.training.train import train_zoo
from zoo_datasets.specs.zoos import get_zoo

name, here = "digits_cnn_s", Path(sys.argv[1])
data = load_images("digits", "cnn_s")
run = train_zoo(get_zoo(name), here / "run", data, models=4, epochs=1, limits=Limits(train=32, val=16, test=16))
with run.cohort(0).locked():
    try:
        with run.cohort(0).locked():
            raise SystemExit("locked twice")
    except CohortInUseError as error:
        assert "is being trained by another process" in str(error), error
build_repository(here / "run", here / "zoos")
with locked_zoo(here / "zoos", name):
    try:
        build_repository(here / "run", here / "zoos")
        raise SystemExit("built while another does")
    except RepositoryError as error:
        assert "another process is building" in str(error), error
rows = load_zoo(here / "zoos", name, "train")
assert len(rows) and len(rows[0]["weights"]) == 2464, rows
assert verify_repository(here / "zoos", name, images=data, sample=2).ok

raw = export_raw(repository_rows(here / "zoos", name), here / "raw").folder
sources = [raw, here / "raw.zip", here / "raw.tar.gz"]
shutil.make_archive(str(here / "raw"), "zip", here / "raw")
shutil.make_archive(str(here / "raw"), "gztar", here / "raw")
built = [
    build_repository(source, here / f"again-{number}", "mine", num_proc=2).rows
    for number, source in enumerate(sources)
]
assert built == [8, 8, 8], built
(here / "link").symlink_to(here / "raw.zip")
try:
    read_file(str(here / "link"), 1 << 30)
    raise SystemExit("followed a link")
except CheckpointError as error:
    assert "link" in str(error), error
assert not list(here.rglob("*.tmp"))
"""


@pytest.mark.slow
def test_without_what_windows_lacks(tmp_path):
    program = _PRELUDE + _IMPORTS + _JOB
    command = [sys.executable, "-W", "ignore:only soft:UserWarning", "-c", program, str(tmp_path)]
    environment = {**os.environ, "CC": "no-such-compiler"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
