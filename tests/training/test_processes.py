"""Several processes, and what kills them: whatever happens, the files are those of one undisturbed process."""

import contextlib
import os
import pickle
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import plain
import psutil
import pytest

from zoo_datasets.errors import CohortInUseError, RunError, SpecError, StorageError, UnknownNameError
from zoo_datasets.runs.run import Run
from zoo_datasets.training import train_zoo
from zoo_datasets.training.engines.table import get_engine
from zoo_datasets.training.train import Share

ZOO = plain.tiny_zoo(activation=("tanh", "relu", "gelu"), seeds=2)
FAST = shutil.which("cc") is not None
# Three cohorts, each long enough to be killed in.
TRAIN = [
    *("digits_cnn_s", "--models", "130", "--epochs", "3", "--path", "native" if FAST else "torch"),
    *("--limit-train", "400" if FAST else "30", "--limit-val", "20", "--limit-test", "20"),
]
ALONE = [sys.executable, "-m", "zoo_datasets.training", *TRAIN]
TWO = [
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
    *("-m", "zoo_datasets.training", *TRAIN),
]
RAY = [*ALONE, "--engine", "ray"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The files of a single process's run."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    subprocess.run([*ALONE, "--out", folder], check=True, capture_output=True)
    assert len(list(folder.glob("cohort-*"))) == 3
    return contents(folder)


@pytest.fixture
def started(tmp_path):
    """Starts programs; what still runs after the test is killed with its children."""
    programs = []
    home = tmp_path / "home"  # Ray keeps a token there
    home.mkdir()

    def start(command, folder):
        # RAY_ADDRESS of the machine would send the test elsewhere.
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment["HOME"] = str(home)
        programs.append(
            subprocess.Popen([*command, "--out", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True, env=environment)
        )  # fmt: skip
        return programs[-1]

    yield start
    for program in programs:
        if program.poll() is None:
            for process in [*psutil.Process(program.pid).children(recursive=True), program]:
                process.kill()
        program.communicate()


def trainers(program):
    """The processes that torchrun or Ray started below a program to train in, by age."""
    found = []
    for process in psutil.Process(program.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if line[:1] == ["ray::_train_cohort"] or "zoo_datasets.training" in line:
                found.append(process)
    return found


def training(program):
    """A process below a program that holds a cohort at this moment."""
    for process in trainers(program):
        for descriptor in Path(f"/proc/{process.pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                if descriptor.readlink().name.startswith("cohort-"):
                    return process
    return None


def until(condition, program, seconds=60.0):
    """Wait until the condition gives something, which is returned; the program must run meanwhile."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert program.poll() is None, program.communicate()[0]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)
    return value


def begun(folder):
    """The cohorts whose first epoch is finished."""
    return list(folder.glob("cohort-*/resume.safetensors"))


def finish(program, seconds=60.0):
    output, _ = program.communicate(timeout=seconds)
    assert program.returncode == 0, output
    return output


@pytest.mark.slow
def test_torchrun_trains_as_one_process_does_and_goes_on_after_a_rank_was_killed(tmp_path, undisturbed, started):
    folder = tmp_path / "run"
    program = started(TWO, folder)
    until(lambda: begun(folder), program)
    ranks = trainers(program)
    assert len(ranks) == 2
    ranks[1].kill()
    # torchrun stops the other one, as Ctrl-C would.
    output, _ = program.communicate(timeout=30)
    assert program.returncode != 0
    assert "stopped: every finished epoch is on disk" in output
    assert not list(folder.rglob(f".*{ranks[0].pid}.tmp"))
    assert contents(folder) != undisturbed

    output = finish(started(TWO, folder))
    assert contents(folder) == undisturbed
    # One process speaks, and of the whole run.
    assert output.count("digits_cnn_s: 130 models to epoch 3 in 3 cohorts") == 1
    assert "going on:" in output

    output, _ = started([*TWO, "--limit-train", "7"], folder).communicate(timeout=30)
    assert output.count("error: ") == 1
    assert "limits.train is" in output
    assert "training/trainer.py" not in output
    assert contents(folder) == undisturbed


@pytest.mark.slow
def test_ray_goes_on_after_its_driver_or_a_worker_was_killed(tmp_path, undisturbed, started):
    pytest.importorskip("ray")
    folder = tmp_path / "run"
    program = started(RAY, folder)
    until(lambda: begun(folder), program)
    program.kill()
    program.wait()
    assert contents(folder) != undisturbed

    program = started(RAY, folder)
    victim = until(lambda: training(program), program)
    victim.kill()
    output = finish(program)
    assert "going on:" in output
    assert contents(folder) == undisturbed


def test_processes_share_the_cohorts_and_take_over_what_a_dead_one_left(tmp_path):
    data = plain.tiny_images(train=30)
    train_zoo(ZOO, tmp_path / "one", data)

    class Epochs(list):
        def begin(self, run, cohorts):
            assert len(cohorts) == 3

        def epoch(self, report):
            self.append((report.cohort, report.epoch))

    seen = Epochs()
    both = Barrier(2)

    def share(index):
        def first(step):
            if index == 0:
                step()
            both.wait()

        train_zoo(ZOO, tmp_path / "two", data, threads=1, share=Share(index=index, count=3), first=first,
                  observer=None if index else seen)  # fmt: skip

    # The third never comes.
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(share, (0, 1)))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert sorted(seen) == [(f"cohort-{number:04d}", epoch) for number in range(3) for epoch in range(3)]


def test_a_process_waits_for_a_cohort_that_another_one_holds(tmp_path):
    data = plain.tiny_images(train=10)
    run = train_zoo(ZOO, tmp_path / "run", data, epochs=1)
    held, tried = Barrier(2), Barrier(2)

    def hold():
        with run.cohort(1).locked():
            held.wait()
            tried.wait()
            time.sleep(0.5)

    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(hold)
        held.wait()
        with pytest.raises(CohortInUseError, match="cohort-0001 is being trained by another process"):
            train_zoo(ZOO, tmp_path / "run", data, epochs=2)
        tried.wait()
        train_zoo(ZOO, tmp_path / "run", data, epochs=2, share=Share(index=0, count=2))
        assert holder.done()
    assert all(cohort.epochs() == [0, 1, 2] for cohort in Run.open(tmp_path / "run").cohorts())


def test_unknown_and_missing_engines_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    data = plain.tiny_images(train=10)
    with pytest.raises(UnknownNameError, match="no engine named 'rya'; did you mean ray"):
        train_zoo(ZOO, tmp_path / "run", data, engine="rya")
    with pytest.raises(UnknownNameError, match="no engine named 'cloud'; known: local, ray"):
        get_engine("cloud")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match=r"needs ray, which is not installed; pip install 'zoo-datasets\[ray\]'"):
        train_zoo(ZOO, tmp_path / "run", data, engine="ray")
    assert not (tmp_path / "run").exists()


def test_ray_is_neither_shared_out_nor_looked_for_in_vain(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    data = plain.tiny_images(train=10)
    with pytest.raises(SpecError, match="ray engine starts processes itself; start this command once, found 2"):
        train_zoo(ZOO, tmp_path / "run", data, engine="ray", share=Share(index=0, count=2))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(RunError, match="no Ray at RAY_ADDRESS=127.0.0.1:1: .*unset RAY_ADDRESS"):
        train_zoo(ZOO, tmp_path / "run", data, engine="ray")


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path, monkeypatch):
    data = plain.tiny_images(train=10)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file/run could not be written: .*file is a file, not a folder"):
        train_zoo(ZOO, tmp_path / "file" / "run", data)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StorageError, match="is read-only; choose another --out"):
        train_zoo(ZOO, tmp_path / "run", data)
    assert not (tmp_path / "run").exists()


def test_errors_come_back_whole_from_other_processes():
    error = UnknownNameError("engine", "rya", ["ray", "local"], "or else")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (UnknownNameError, str(error))
