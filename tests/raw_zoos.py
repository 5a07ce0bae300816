"""Tiny raw zoos made by hand, as the original authors' training code leaves them on disk."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zoo_datasets.networks.architectures import layout_of
from zoo_datasets.specs.spec import digest_of

SEED_ZOO = "tune_zoo_mnist_uniform"
HYP_ZOO = "tune_zoo_mnist_hyperparameter_10_random_seeds"
TWIN_ZOO = "cnn_small_mnist_ard"
# Where the layers stand in the authors' module list, by architecture and whether there is dropout.
INDICES = {("cnn_s", False): (0, 3, 6, 9, 11), ("cnn_s", True): (0, 4, 8, 11, 14), ("cnn_l", False): (0, 4, 8, 13, 16),
           ("cnn_l", True): (0, 4, 8, 13, 16)}  # fmt: skip

PARAMS: dict[str, Any] = {
    "model::type": "CNN", "model::channels_in": 1, "model::o_dim": 10, "model::nlin": "tanh", "model::dropout": 0.0,
    "model::init_type": "uniform", "model::use_bias": False, "optim::optimizer": "adam", "optim::lr": 0.0003,
    "optim::wd": 0.0, "optim::momentum": 0.9, "training::batchsize": 10, "training::epochs_train": 2,
    "dataset::dump": "/zoos/x/dataset.pt",
}  # fmt: skip


def trial_name(index: int, seed: int, varied: Mapping[str, Any] | None = None) -> str:
    """The folder's name that Ray Tune gives a trial."""
    parts = [f"{key.replace('::', '__')}={value}" for key, value in (varied or {}).items()] + [f"seed={seed}"]
    return f"NN_tune_trainable_{index:05x}_{index:05d}_{index}_{','.join(parts)}_2022-05-{10 + index % 18}_11-21-37"


def weights_of(seed: int, epoch: int, size: int = 2464) -> torch.Tensor:
    """float32 [size], a function of the seed and the epoch alone."""
    generator = torch.Generator().manual_seed(int(digest_of(["raw", seed, epoch])[:12], 16))
    return torch.randn(size, generator=generator) * 0.1


def state_dict(weights: torch.Tensor, *, dropout: bool = False, architecture: str = "cnn_s", channels: int = 1,
               classes: int = 10) -> OrderedDict[str, torch.Tensor]:  # fmt: skip
    """The weights under the names that the authors' module gives them."""
    tensors = list(layout_of(architecture, channels, classes).unflatten(weights).values())
    names = [f"module_list.{i}.{part}" for i in INDICES[architecture, dropout] for part in ("weight", "bias")]
    return OrderedDict((name, tensor.clone()) for name, tensor in zip(names, tensors, strict=True))


def saved(state: Any, **options: Any) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(state, file, **options)
    return file.getvalue()


def result_line(epoch: int, config: Mapping[str, Any], **figures: Any) -> str:
    """One line of a result.json; figures are functions of the epoch."""
    values = {"train_loss": 2.0 - epoch / 10, "train_acc": 0.3 + epoch / 100, "test_loss": 2.1 - epoch / 10,
              "test_acc": 0.2 + epoch / 100, "val_loss": 2.2, "val_acc": 0.25}  # fmt: skip
    return json.dumps({**values, **figures, "training_iteration": epoch, "done": False, "config": dict(config)})


def write_trial(
    folder: Path,
    params: Mapping[str, Any],
    states: Mapping[int, bytes | None],
    lines: Sequence[str] | None = None,
    checkpoint_name: str = "checkpoint_{:06d}",
) -> Path:
    """One trial: params.json, result.json and a checkpoint folder an epoch (without a file where it is None)."""
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(dict(params)))
    (folder / "params.pkl").write_bytes(b"\x80\x04N.")
    lines = [result_line(epoch, params) for epoch in sorted(states)] if lines is None else lines
    (folder / "result.json").write_text("".join(f"{line}\n" for line in lines))
    (folder / "progress.csv").write_text("train_loss\n")
    for epoch, data in states.items():
        checkpoint = folder / checkpoint_name.format(epoch)
        checkpoint.mkdir()
        (checkpoint / ".is_checkpoint").touch()
        if data is not None:
            (checkpoint / "checkpoints").write_bytes(data)
    return folder


def make_zoo(
    path: Path,
    models: int = 6,
    epochs: Iterable[int] = (0, 1, 2),
    *,
    varied: Callable[[int], Mapping[str, Any]] = lambda index: {},
    checkpoint_name: str = "checkpoint_{:06d}",
) -> list[Path]:
    """A zoo of `models` trials, in the folder `path`; `varied` gives the hyperparameters of each that vary."""
    epochs = list(epochs)
    folders = []
    for index in range(models):
        seed, own = index + 1, dict(varied(index))
        params = PARAMS | own | {"seed": seed}
        dropout = params["model::dropout"] > 0
        states = {epoch: saved(state_dict(weights_of(seed, epoch), dropout=dropout)) for epoch in epochs}
        folder = path / trial_name(index, seed, own)
        folders.append(write_trial(folder, params, states, checkpoint_name=checkpoint_name))
    return folders


def make_twins(path: Path, parents: Sequence[Path], epochs: Iterable[int] = (0, 1)) -> list[Path]:
    """Twins by variational dropout: some weights have log α above the threshold; the linear biases' log σ² is junk."""
    folders = []
    for index, parent in enumerate(parents):
        params = PARAMS | {
            "model::type": "CNN_ARD", "seed": 1,
            "training::init_checkpoint_path": f"zoos/{parent.parent.name}/{parent.name}",
        }  # fmt: skip
        states, lines = {}, []
        for epoch in epochs:
            dense = state_dict(weights_of(1000 + index, epoch))
            state: OrderedDict[str, torch.Tensor] = OrderedDict()
            for name, tensor in dense.items():
                state[name] = tensor
                if name.endswith("bias"):
                    prefix = name.removesuffix(".bias")
                    state[f"{prefix}.log_sigma2"] = torch.full_like(dense[f"{prefix}.weight"], -4.0)
                    junk = torch.full_like(tensor, float("nan") if dense[f"{prefix}.weight"].ndim == 2 else -4.0)
                    state[f"{prefix}.log_sigma2_bias"] = junk
            states[epoch] = saved(state)
            zero = sum(int((pruned(dense[n], -4.0) == 0).sum()) for n in dense if n.endswith("weight"))
            lines.append(result_line(epoch, params, sparsity_ratio=zero / 2416, test_loss=-15.0))
        name = f"NN_tune_trainable_from_checkpoint_{index:05x}_{index:05d}_{index}_training__init_checkpoint_path=zoos"
        folders.append(write_trial(path / f"{name}_{index}_2022-05-10_11-20-37", params, states, lines))
    return folders


def pruned(weights: torch.Tensor, log_sigma2: float) -> torch.Tensor:
    """The acting weights, written as plainly as the formula."""
    log_alpha = log_sigma2 - 2 * torch.log(weights.abs() + 1e-15)
    return torch.where(log_alpha >= 3, torch.zeros(()), weights)


def zipped(folder: Path, method: int = zipfile.ZIP_STORED) -> Path:
    """The folder as a zip beside it."""
    target = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(target, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent).as_posix())
    return target


def tarred(folder: Path, ending: str = ".tar") -> Path:
    """The folder as a tar beside it."""
    target = folder.with_name(f"{folder.name}{ending}")
    with tarfile.open(target, "w:gz" if ending.endswith("gz") else "w") as archive:
        archive.add(folder, folder.name)
    return target


def without(folder: Path) -> None:
    """Remove a folder."""
    shutil.rmtree(folder)
