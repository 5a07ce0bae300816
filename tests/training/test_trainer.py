import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import plain
import pytest
import torch
from forks import forks

from zoo_datasets.errors import RunError, SpecError, StorageError, UnknownNameError
from zoo_datasets.networks.architectures import ARCHITECTURES, Architecture, resnet18_layers
from zoo_datasets.runs.run import Run
from zoo_datasets.specs.members import Limits
from zoo_datasets.training import train_zoo
from zoo_datasets.training.launch import Launch
from zoo_datasets.training.population.opening import check_run
from zoo_datasets.training.train import Share, train_population

ZOO = plain.tiny_zoo(activation=("tanh", "relu"), seeds=5)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_holds_every_state_and_its_metrics(tmp_path):
    data = plain.tiny_images()
    run = train_zoo(ZOO, tmp_path / "run", data)
    opened = Run.open(tmp_path / "run")
    assert opened.manifest == run.manifest
    assert sum(len(cohort.members) for cohort in opened.cohorts()) == 10
    for cohort in opened.cohorts():
        assert len({member.hyperparameters.activation for member in cohort.members}) == 1
        assert cohort.epochs() == [0, 1, 2]
        for epoch in cohort.epochs():
            assert cohort.weights(epoch).shape == (len(cohort.members), 2464)
        metrics = cohort.metrics().to_pandas()
        assert metrics.drop(columns="sparsity").notna().all(axis=None)
        assert metrics.train_acc.between(0, 1).all()
        learnt = metrics.groupby("epoch").train_loss.median()
        assert learnt[2] < learnt[0]


@pytest.mark.parametrize("index", [0, 1])
def test_each_process_opens_the_run_once_and_returns_what_lies_on_disk(tmp_path, index):
    data, folder = plain.tiny_images(train=10), tmp_path / "run"
    if index:
        train_zoo(ZOO, folder, data, models=1, epochs=1)  # what the first process did
    launches = []

    def check(launch):
        launches.append(launch)
        return check_run(ZOO, folder, data, launch, models=1, epochs=1)

    launch = Launch(share=Share(index=index, count=2))
    run = train_population(check, data, launch)
    assert launches == [launch]
    assert run.manifest == Run.open(folder).manifest
    assert [cohort.epochs() for cohort in run.cohorts()] == [[0, 1]]


def test_the_weights_are_those_of_training_each_member_alone(tmp_path):
    data = plain.tiny_images(train=25)
    run = train_zoo(ZOO, tmp_path / "run", data)
    for cohort in run.cohorts():
        weights = cohort.weights(2)
        for row, member in zip(weights, cohort.members, strict=True):
            # Six steps at lr 3e-4 move a weight by up to 2e-3.
            torch.testing.assert_close(row, plain.train_alone(ZOO, member, data, 6), rtol=0, atol=1e-4)


def test_epoch_0_is_measured_before_any_step(tmp_path):
    data = plain.tiny_images()
    run = train_zoo(ZOO, tmp_path / "run", data, models=1)
    (cohort,) = run.cohorts()
    module = plain.plain_module(ZOO, cohort.members[0], data).eval()
    torch.testing.assert_close(cohort.weights(0)[0], torch.cat([p.detach().flatten() for p in module.parameters()]))
    row = cohort.metrics().to_pylist()[0]
    for name, split in data.splits().items():
        with torch.no_grad():
            logits = module(data.normalise(split.images))
        assert row[f"{name}_acc"] == pytest.approx((logits.argmax(1) == split.labels).double().mean().item())
        assert row[f"{name}_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, split.labels).item())


def test_processes_and_threads_give_identical_files(tmp_path):
    data = plain.tiny_images(train=30)
    train_zoo(ZOO, tmp_path / "one", data, threads=1)
    for index in (0, 1, 2):
        train_zoo(ZOO, tmp_path / "three", data, threads=2, share=Share(index=index, count=3))
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def test_a_run_grows_in_models_and_epochs_and_keeps_what_it_has(tmp_path):
    data = plain.tiny_images(train=30)
    folder = tmp_path / "run"
    train_zoo(ZOO, folder, data, models=3, epochs=1)
    before = contents(folder)
    train_zoo(ZOO, folder, data, models=10, epochs=2)
    after = contents(folder)
    for name, content in before.items():
        if "epoch-" in name or "members" in name:
            assert after[name] == content
    run = Run.open(folder)
    assert run.models == 10
    ids = [member.model_id for cohort in run.cohorts() for member in cohort.members]
    assert sorted(ids) == sorted(member.model_id for member in plain.members(ZOO))
    assert all(cohort.epochs() == [0, 1, 2] for cohort in run.cohorts())
    straight = train_zoo(ZOO, tmp_path / "straight", data)
    assert states(run) == states(straight)


def states(run: Run) -> dict:
    return {
        (member.model_id, epoch): row.numpy().tobytes()
        for cohort in run.cohorts()
        for epoch in cohort.epochs()
        for member, row in zip(cohort.members, cohort.weights(epoch), strict=True)
    }


def test_any_other_change_to_a_run_is_refused_and_named(tmp_path):
    data = plain.tiny_images(train=30)
    folder = tmp_path / "run"
    train_zoo(ZOO, folder, data, models=4, epochs=2)
    before = contents(folder)
    other = dataclasses.replace(ZOO, lr=(1e-2,))
    with pytest.raises(RunError, match=r"zoo\.lr is \(0\.0003,\) there and \(0\.01,\) here"):
        train_zoo(other, folder, data, models=4)
    with pytest.raises(RunError, match=r"limits\.train is None there and 20 here"):
        train_zoo(ZOO, folder, data, models=4, limits=Limits(train=20))
    with pytest.raises(RunError, match="other images: fingerprint tiny there, another now"):
        train_zoo(ZOO, folder, dataclasses.replace(data, fingerprint="another"), models=4)
    with pytest.raises(RunError, match="begun with 4 models to epoch 2, and a run does not shrink: 3 models"):
        train_zoo(ZOO, folder, data, models=3)
    with pytest.raises(RunError, match="does not shrink: 4 models to epoch 1"):
        train_zoo(ZOO, folder, data, models=4, epochs=1)
    assert contents(folder) == before


def test_a_one_cycle_run_does_not_grow_in_epochs(tmp_path):
    data = plain.tiny_images(train=10)
    zoo = dataclasses.replace(ZOO, scheduler="onecycle")
    train_zoo(zoo, tmp_path / "run", data, models=1, epochs=1)
    with pytest.raises(RunError, match="onecycle schedule over 1 epochs; to 2 epochs is another training"):
        train_zoo(zoo, tmp_path / "run", data, models=1, epochs=2)


def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path):
    data = plain.tiny_images(train=10)
    folder = tmp_path / "run"
    with pytest.raises(SpecError, match="sparsified twin of mnist_cnn_s.*Train mnist_cnn_s, then use `zoo sparsify`"):
        train_zoo(plain.tiny_zoo("mnist_cnn_s_sparse"), folder, data)
    with pytest.raises(SpecError, match="has 10 members; 11 were asked for"):
        train_zoo(ZOO, folder, data, models=11)
    with pytest.raises(SpecError, match="cnn_l takes 32 × 32 images, found 28 × 28"):
        train_zoo(dataclasses.replace(ZOO, architecture="cnn_l"), folder, data)
    with pytest.raises(UnknownNameError, match="architecture named 'cnn_x'.*cnn_s"):
        train_zoo(dataclasses.replace(ZOO, architecture="cnn_x"), folder, data)
    with pytest.raises(UnknownNameError, match="engine path named 'warp'"):
        train_zoo(ZOO, folder, data, path="warp")
    assert not folder.exists()
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match="holds something else than a run"):
        train_zoo(ZOO, folder, data)


def test_a_diverged_member_stays_in_the_run_and_is_recorded(tmp_path):
    data = plain.tiny_images(train=30)
    zoo = plain.tiny_zoo(activation=("relu",), optimizer=("sgd",), lr=(1e-3, 1e30), init=("kaiming_uniform",))
    run = train_zoo(zoo, tmp_path / "run", data)
    healthy = train_zoo(dataclasses.replace(zoo, lr=(1e-3,)), tmp_path / "healthy", data)
    (cohort,) = run.cohorts()
    diverged = [member.hyperparameters.lr == 1e30 for member in cohort.members]
    last = cohort.metrics().to_pandas().query("epoch == 2")
    assert last.diverged.tolist() == diverged
    assert last[last.diverged].test_loss.isna().all()
    assert states(healthy).items() <= states(run).items()


@pytest.mark.parametrize("large", [False, True])
def test_a_resnet_trains_by_the_same_command_one_at_a_time_or_stacked(tmp_path, monkeypatch, large):
    monkeypatch.setitem(ARCHITECTURES, "resnet_narrow", Architecture("resnet_narrow", None, resnet18_layers(2)))
    if large:  # what the real width does: blocks and cohorts of one
        monkeypatch.setattr("zoo_datasets.stacked.network._LARGE", 100)
        monkeypatch.setattr("zoo_datasets.training.population.cohorts._LARGE", 100)
    data = plain.tiny_images("cifar10", 32, train=20)
    zoo = plain.tiny_zoo("cifar10_resnet18", architecture="resnet_narrow", batch_size=8)

    class Killer:
        def begin(self, run, cohorts):
            pass

        def epoch(self, report):
            if report.epoch == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_zoo(zoo, tmp_path / "run", data, observer=Killer())
    run = train_zoo(zoo, tmp_path / "run", data)
    train_zoo(zoo, tmp_path / "undisturbed", data)
    assert contents(run.path) == contents(tmp_path / "undisturbed")
    assert len(run.cohorts()) == (3 if large else 1)
    cohort = run.cohorts()[0]
    assert (cohort.layout.unflatten(cohort.weights(2))["bn1.running_var"] != 1).all()
    alone = plain.train_alone(zoo, cohort.members[0], data, 6)
    torch.testing.assert_close(cohort.weights(2)[0], alone, rtol=0, atol=2e-3)


def test_a_full_disk_stops_with_a_clear_error_and_loses_nothing(tmp_path, monkeypatch):
    data = plain.tiny_images(train=30)
    folder = tmp_path / "run"
    calls = []

    def fails_later(path, data):
        calls.append(path)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        return write_bytes(path, data)

    write_bytes = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", fails_later)
    with pytest.raises(StorageError, match="could not be written: No space left on device.*unchanged"):
        train_zoo(ZOO, folder, data)
    monkeypatch.undo()
    train_zoo(ZOO, folder, data)
    train_zoo(ZOO, tmp_path / "undisturbed", data)
    assert contents(folder) == contents(tmp_path / "undisturbed")


@pytest.fixture
def _sigint_is_heard():
    """Where the tests run as a shell's background job, it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_sigint_is_heard")
def test_ctrl_c_keeps_finished_epochs_and_the_same_call_goes_on(tmp_path):
    data = plain.tiny_images(train=60)
    folder = tmp_path / "run"

    class Interrupter:
        def begin(self, run, cohorts):
            self.once = threading.Lock()

        def epoch(self, report):
            if report.epoch == 1 and self.once.acquire(blocking=False):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.5)

    with pytest.raises(KeyboardInterrupt):
        train_zoo(ZOO, folder, data, epochs=30, observer=Interrupter())
    finished = [cohort.epochs() for cohort in Run.open(folder).cohorts()]
    assert max(map(len, finished)) >= 2
    assert max(map(max, finished)) < 30
    train_zoo(ZOO, folder, data, epochs=30)
    train_zoo(ZOO, tmp_path / "undisturbed", data, epochs=30)
    assert contents(folder) == contents(tmp_path / "undisturbed")


def test_a_cohort_in_use_by_another_process_is_refused(tmp_path):
    data = plain.tiny_images(train=10)
    run = train_zoo(ZOO, tmp_path / "run", data, models=1, epochs=1)
    code = (
        "import sys; from pathlib import Path; from zoo_datasets.runs.run import Run\n"
        "with Run.open(Path(sys.argv[1])).cohort(0).locked():\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="cohort-0000 is being trained by another process"):
            train_zoo(ZOO, tmp_path / "run", data, models=1, epochs=2)
        holder.stdin.close()
    train_zoo(ZOO, tmp_path / "run", data, models=1, epochs=2)


COMMAND = """
import sys
from zoo_datasets.cli.app import app
app({arguments!r})
"""
TRAIN = [
    *("train", "digits_cnn_s", "--models", "12", "--epochs", "3", "--limit-train", "200", "--limit-val", "50"),
    *("--limit-test", "50", "--out"),
]


@pytest.mark.slow
def test_kill_9_at_any_moment_and_the_same_command_gives_the_same_run(tmp_path):
    folder = tmp_path / "killed"
    cohort = folder / "cohort-0000"
    moments = ("zoo.json", "cohort-0000/epoch-0000.safetensors", "cohort-0000/.resume*", "cohort-0000/.metrics*",
               "cohort-0000/epoch-0003.safetensors")  # fmt: skip
    with forks("import zoo_datasets.cli.app, zoo_datasets.training.train, datasets", tmp_path) as programs:
        programs.run(COMMAND.format(arguments=[*TRAIN, str(tmp_path / "undisturbed")]))
        killed = 0
        for moment in moments:
            there = {path.name for path in cohort.glob("*")}
            process = programs.begin(COMMAND.format(arguments=[*TRAIN, str(folder)]))
            while process.runs() and not [p for p in folder.glob(moment) if p.name not in there]:
                if moment == "zoo.json" and (folder / moment).exists():
                    break
                time.sleep(0.0005)
            process.kill()
            killed += process.wait() == -signal.SIGKILL
        assert killed >= 4
        assert contents(folder) != contents(tmp_path / "undisturbed")
        programs.run(COMMAND.format(arguments=[*TRAIN, str(folder)]))
    assert contents(folder) == contents(tmp_path / "undisturbed")
