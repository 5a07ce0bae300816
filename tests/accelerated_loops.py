"""What training loops under Accelerate see of loaders, ours beside its own: `accelerated_loops.py REPOSITORY OUT`.

Once in a process alone and once in two together; each writes OUT/PROCESSES-RANK.json: by kind of samples and by
loader, what `observe` saw. They are forks of this one, since importing torch takes longer than all the rest.
"""

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.state import PartialState
from torch.utils.data import DataLoader

from zoo_datasets.errors import SpecError
from zoo_datasets.loading.batches import batches
from zoo_datasets.loading.load import load_zoo
from zoo_datasets.loading.mixing import mixed_tokens
from zoo_datasets.loading.tasks import trajectories

SMALL, OTHER = "digits_cnn_s", "digits_cnn_s_again"
STEPS, EPOCHS, SKIPPED = 4, 2, 2


def keys_of(batch):
    """What is read of each sample: by its zoo, model and epoch."""
    models = [model if isinstance(model, str) else model[0] for model in batch["model_id"]]
    epochs = batch["epoch"].reshape(len(models), -1)[:, 0].tolist()
    return list(zip(batch.get("zoo", models), models, epochs, strict=True))


def observe(accelerator, loader, ids_of, gathers=True):
    model = torch.nn.Linear(1, 1)

    def epoch(loader):
        seen = {"steps": "", "ends": "", "remainders": [], "lengths": [], "own": [], "gathered": [], "devices": []}
        for batch in loader:
            ids = ids_of(batch)
            with accelerator.accumulate(model):
                seen["steps"] += str(int(accelerator.sync_gradients))
            seen["ends"] += str(int(accelerator.gradient_state.end_of_dataloader))
            seen["remainders"].append(accelerator.gradient_state.remainder)
            seen["lengths"].append(len(ids))
            seen["own"] += ids.tolist()
            seen["devices"].append(str(ids.device))
            seen["gathered"] += accelerator.gather_for_metrics(ids).tolist() if gathers else []
        return seen | {"left": accelerator.gradient_state.in_dataloader}

    accelerator.step = 0
    loader = accelerator.prepare(loader)
    seen = {"length": len(loader), "epochs": [epoch(loader) for _ in range(EPOCHS)]}
    loader.set_epoch(1)
    seen["again"] = epoch(loader)
    if getattr(loader, "num_workers", 0) or len(loader) < SKIPPED:
        return seen
    loader.set_epoch(0)
    skipping = skip_first_batches(loader, SKIPPED)
    return seen | {"skipping": epoch(skipping), "skipping length": len(skipping)}


def kinds(repo):
    """By kind of samples: what makes its batches, and its batch size."""
    names = ["model_id", "epoch"]
    mapped, streamed = (load_zoo(repo, SMALL, "train", streaming=streaming) for streaming in (False, True))
    both = {streaming: load_zoo(repo, [SMALL, OTHER], "train", streaming=streaming) for streaming in (False, True)}
    return {
        "mapped": (lambda **options: batches(mapped, 4, names, **options), 4),
        "one left": (lambda **options: batches(mapped, 3, names, **options), 3),
        "larger than all": (lambda **options: batches(mapped, 40, names, **options), 40),
        "streamed": (lambda **options: batches(streamed, 4, names, **options), 4),
        "streamed, one left": (lambda **options: batches(streamed, 3, names, **options), 3),
        "streamed, larger than all": (lambda **options: batches(streamed, 40, names, **options), 40),
        "mixed": (lambda **options: mixed_tokens(both[False], 700, names, batch_size=9, **options), 9),
        "mixed streams": (lambda **options: mixed_tokens(both[True], 700, names, batch_size=9, **options), 9),
        "task": (lambda **options: trajectories(mapped, columns=["model_id"], batch_size=2, **options), 2),
    }  # fmt: skip


def loops(repo, out, environment):
    os.environ |= environment
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=STEPS)
    seen = {}
    samples, mapped = kinds(repo), load_zoo(repo, SMALL, "train")
    for kind, (make, size) in samples.items():
        # Alone, as if there were no other process, in stored order: its ids are those of a plain dataset.
        alone = make()
        alone._place = lambda: (0, 1)
        number = {key: id_ for id_, key in enumerate(key for batch in list(alone) for key in keys_of(batch))}

        def ids_of(batch, number=number):
            return torch.tensor([number[key] for key in keys_of(batch)])

        def plain(ids=range(len(number)), size=size, **options):  # noqa: B008
            return observe(accelerator, DataLoader(ids, batch_size=size, **options), lambda ids: ids)

        def ours(loader, ids_of=ids_of, **options):
            return observe(accelerator, loader, ids_of, **options)

        seen[kind] = {"plain": plain(), "batches": ours(make()), "shuffled": ours(make(shuffle=True, seed=3))}
        if kind in ("mapped", "streamed"):
            seen[kind] |= {
                "plain, dropping": plain(drop_last=True),
                "dropping": ours(make(drop_last=True)),
                "loader": ours(make(shuffle=True).loader(0)),
                "workers": ours(make(shuffle=True).loader(2)),
                "uneven": ours(make(even=False), gathers=False),
            }
        seen[kind]["samples"] = len(number)
    seen["odd"] = odd_loops(accelerator, lambda **options: batches(mapped, 4, ["epoch"], **options))
    path = Path(out) / f"{accelerator.num_processes}-{accelerator.process_index}.json"
    path.write_text(json.dumps(seen))
    accelerator.end_training()


def odd_loops(accelerator, make):
    """Loops that are left, nested and refused."""
    model = torch.nn.Linear(1, 1)
    state = accelerator.gradient_state
    accelerator.step = 0
    training, evaluation = make(), make()
    steps = ""
    for number, _ in enumerate(training):
        with accelerator.accumulate(model):
            steps += str(int(accelerator.sync_gradients))
        if number % 3 == 0:
            for _ in evaluation:
                pass
    left = iter(training)
    next(left)
    following = iter(training)
    next(following)
    left.close()
    seen = {"nested": steps, "known after another was left": state.active_dataloader is training}
    following.close()
    seen["known after all were left"] = state.in_dataloader
    refused = []
    prepared = DataLoader(make(), batch_size=None), DataLoader(make(), batch_size=None)
    loaders = [
        accelerator.prepare(prepared[0]),
        accelerator.prepare_data_loader(prepared[1], device_placement=False),
    ]
    if accelerator.num_processes == 1:  # no new kind in two, where workers that failed end late
        loaders.append(skip_first_batches(make().loader(2), 1))
    for loader in loaders:
        try:
            refused.append(len(list(loader)))
        except SpecError as error:
            refused.append(str(error))
    return seen | {"refused": refused, "devices": devices_of(make), "read": read_when_skipping(make, 5)}


def read_when_skipping(make, skipped):
    """How many batches are read, and how many there are."""
    made, read = make(), []
    plain = made._read
    made._read = lambda samples, wanted, form: read.extend(wanted) or plain(samples, wanted, form)
    list(skip_first_batches(made, skipped))
    return [len(read), len(made)]


def devices_of(make):
    """Where batches are in a process whose Accelerator has another device."""
    shared = PartialState._shared_state
    shared["device"] = torch.device("meta")
    loaders = make(), make().loader(0), make().loader(2), skip_first_batches(make(), 1), make(device="cpu")
    devices = [sorted({str(batch["epoch"].device) for batch in loader}) for loader in loaders]
    shared["device"] = torch.device("cpu")
    return devices


def main(repo, out):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    of_two = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    context = multiprocessing.get_context("fork")
    running = [
        context.Process(target=loops, args=(repo, out, environment))
        for environment in ({}, *(of_two | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"))
    ]
    for process in running:
        process.start()
    for process in running:
        process.join()
    return max(abs(process.exitcode) for process in running)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
