"""The fast path: a block of members trained by kernels that the system's C compiler makes at run time.

The kernels (`native.c` and the files that it names) hold members in the innermost dimension, one member a
vector lane, so a block has as many members as a vector register has floats. `codegen.py` says which layers they know.
`NativeBlock` has the interface of `TorchBlock`; calls run one thread and release Python's lock.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from zoo_datasets.errors import NativeError
from zoo_datasets.images.prepare import ImageData, Split
from zoo_datasets.native.compiler import Compiler, compile_library, find_compiler
from zoo_datasets.networks.layers import Layer, Linear, build_layout
from zoo_datasets.networks.variational import LOG_SIGMA2, acting, noise_bounds
from zoo_datasets.stacked.block import MASK, TRAINED, BlockRecipe, Tally
from zoo_datasets.stacked.native.codegen import ACTIVATION_NUMBERS, defines, stages, variational_defines
from zoo_datasets.stacked.optimizers import OPTIMIZERS, State, StepSettings
from zoo_datasets.stacked.streams import dropout_thresholds, permutations

# Numbers of native.c.
OPTIMIZER_NUMBERS: Final = {"adam": 1, "sgd": 2, "adamw": 3, "sgd_nesterov": 4, "rmsprop": 5}
_GRADIENTS_ONLY: Final = 0
_SOURCES: Final = ("layers.c", "math.c", "norm.c", "native.c")
_VARIATIONAL: Final = "variational.c"
_FIELD: Final = "field.c"
_ALIGNMENT: Final = 64
_REVISIONS: Final = {"portable": "portable-2"}

Shape = tuple[int, int, int]


class _Job(ctypes.Structure):
    """`Job` of native.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("parameters", "first", "second", "workspace", "buffers")),
        *((name, ctypes.c_void_p) for name in ("images", "labels", "normalised", "order")),
        *((name, ctypes.c_int64) for name in ("length", "batch_size", "first_step", "steps", "steps_before")),
        *((name, ctypes.c_void_p) for name in ("lr", "momentum", "weight_decay", "keys", "threshold", "scale")),
        *((name, ctypes.c_void_p) for name in ("loss", "correct")),
        *((name, ctypes.c_int32) for name in ("epoch", "activation", "optimizer", "dropout")),
        *((name, ctypes.c_void_p) for name in ("mask", "log_sigma2", "log_sigma2_first", "log_sigma2_second")),
        ("kl_weight", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("clip", "smoothing", "points", "targets")),
    ]


def unknown_settings(
    activations: Iterable[str] = (), optimizers: Iterable[str] = (), augmentation: Sequence[str] = ()
) -> str | None:
    """Which of the settings of some members the native kernels do not know; None where they know all."""
    for what, names, numbers in (
        ("activations", activations, ACTIVATION_NUMBERS),
        ("optimizers", optimizers, OPTIMIZER_NUMBERS),
    ):
        unknown = [name for name in names if name not in numbers]
        if unknown:
            return f"the native kernels know the {what} {', '.join(numbers)}, not {', '.join(unknown)}"
    if augmentation:
        return f"the native kernels know no augmentation, but the zoo has {', '.join(augmentation)}"
    return None


def supports(layers: Sequence[Layer], in_shape: Shape, activation: str = "relu", field: bool = False) -> str | None:
    """Why the native kernels do not compute such a network on images [C, H, W], or points [C, 1, points]; None where
    they do."""
    unknown = unknown_settings((activation,))
    if unknown is not None:
        return unknown
    try:
        stages(layers, in_shape, field)
    except NativeError as error:
        return str(error)
    return None


def available(
    layers: Sequence[Layer] | None = None,
    in_shape: Shape | None = None,
    activation: str = "relu",
    field: bool = False,
) -> str | None:
    """Why the native kernels cannot be used on this machine; None where they can.

    Compiles them for the network, or where none is given for a tiny one; afterwards they lie in the cache.
    """
    if layers is None or in_shape is None:
        layers, in_shape = (Linear("probe", 1, 2),), (1, 1, 1)
    reason = supports(layers, in_shape, activation, field)
    if reason is not None:
        return reason
    try:
        load_kernels(layers, in_shape, field=field)
    except NativeError as error:
        return str(error)
    return None


def lanes() -> int:
    """Members of a full block on this machine.

    Raises:
        NativeError: if there is no compiler.
    """
    return find_compiler().lanes


def instructions() -> str:
    """The vector instructions that the kernels use: avx512, avx2, neon or portable.

    Raises:
        NativeError: if there is no compiler.
    """
    return find_compiler().instructions


def path_name(instruction_set: str | None = None) -> str:
    """What runs call the native path with some instructions, or with those of this machine: `native-avx2`.

    Kernels that round otherwise than those of earlier versions have another name: without fused multiplication and
    addition, tanh was a unit in the last place below 1 where it is saturated, and so had a gradient.

    Raises:
        NativeError: if none are given and there is no compiler.
    """
    name = instruction_set or instructions()
    return f"native-{_REVISIONS.get(name, name)}"


def load_kernels(
    layers: Sequence[Layer], in_shape: Shape, variational: bool = False, field: bool = False
) -> ctypes.CDLL:
    """The compiled kernels of a network for images [C, H, W]; those of variational dropout or fields where asked for.

    Raises:
        NativeError: if there is no compiler, or it fails, or the kernels do not know such a network.
    """
    compiler = find_compiler()
    return _load(compiler, kernel_source(layers, in_shape, compiler, variational, field), variational)


def kernel_source(
    layers: Sequence[Layer], in_shape: Shape, compiler: Compiler, variational: bool = False, field: bool = False
) -> str:
    """The whole C source for a network: its constants, then the files of kernels."""

    def text(name: str) -> str:
        return (resources.files("zoo_datasets.stacked.native") / name).read_text(encoding="utf-8")

    parts = [defines(layers, in_shape, compiler.lanes, compiler.registers, field), *map(text, _SOURCES)]
    if field:
        parts.append(text(_FIELD))
    if variational:
        parts += [variational_defines(layers, in_shape, compiler.registers), text(_VARIATIONAL)]
    return "".join(parts)


@functools.lru_cache(maxsize=64)
def _load(compiler: Compiler, source: str, variational: bool) -> ctypes.CDLL:
    """The library of a source, remembered for the compiler that `compile_library` takes."""
    library = compile_library(source)
    library.zoo_workspace_size.restype = ctypes.c_int64
    library.zoo_parameters.restype = ctypes.c_int64
    library.zoo_job_size.restype = ctypes.c_int64
    library.zoo_train.restype = library.zoo_evaluate.restype = library.zoo_prefer_large_pages.restype = None
    if variational:
        library.zoo_noise_size.restype = ctypes.c_int64
        library.zoo_train_noisy.restype = None
    if library.zoo_job_size() != ctypes.sizeof(_Job):
        raise NativeError("the compiled kernels do not fit this version of the package; empty the cache of kernels")
    return library


class NativeBlock:
    """Up to `lanes()` members that train as one, by the native kernels on the CPU in float32.

    The methods and the state are `TorchBlock`'s. A member's numbers do not depend on its place in the
    block nor on the other members.
    """

    _of_fields: ClassVar[bool] = False

    def __init__(self, recipe: BlockRecipe, data: ImageData) -> None:
        """Compiles the kernels, or takes them from the cache.

        Raises:
            NativeError: if there is no compiler or it fails, the kernels do not know such a network, activation,
                optimizer or augmentation, or there are more members than lanes.
        """
        self.in_shape = self._in_shape(recipe, data)
        reason = unknown_settings((recipe.activation,), (recipe.optimizer,), recipe.augmentation)
        reason = reason or supports(recipe.layers, self.in_shape, field=self._of_fields)
        if reason is not None:
            raise NativeError(reason)
        self.recipe = recipe
        self.lanes = lanes()
        self._members = len(recipe.seeds)
        if not 1 <= self._members <= self.lanes:
            raise NativeError(f"a block has {self._members} members, expected 1 to {self.lanes} on this machine")
        self._kernels = load_kernels(recipe.layers, self.in_shape, recipe.variational, self._of_fields)
        self._parameters = self._kernels.zoo_parameters()
        self._noisy = self._noisy_rows(recipe)
        # The last member fills the lanes that are left over; its copies are dropped again in `store`.
        self._lanes = torch.arange(self.lanes).clamp(max=self._members - 1)
        self._fixed = self._fixed_arrays(recipe, data)
        layout = build_layout(recipe.layers)
        self._trained = torch.cat([torch.full((spec.size,), spec.kind == "parameter") for spec in layout.tensors])
        self._weights = _aligned(torch.zeros(self._parameters, self.lanes))
        self._running = _aligned(torch.zeros(layout.size - self._parameters, self.lanes))
        self._state: State = {}

    def _fixed_arrays(self, recipe: BlockRecipe, data: ImageData) -> dict[str, Tensor]:
        rates = recipe.dropout.to(torch.float64)[self._lanes]
        if not bool(((rates >= 0) & (rates < 1)).all()):
            raise NativeError(f"dropout rates {recipe.dropout.tolist()}, expected all of them in [0, 1)")
        seeds = recipe.seeds.to(torch.int64)[self._lanes]
        keys = torch.stack((seeds & 0xFFFFFFFF, (seeds >> 32) & 0xFFFFFFFF))
        arrays = self._inputs(recipe, data) | {
            "keys": _as_words(keys),
            "threshold": _as_words(dropout_thresholds(rates)),
            "scale": (1.0 / (1.0 - rates)).to(torch.float32),
            "workspace": self._workspace(recipe.batch_size),
        }
        if recipe.label_smoothing is not None:
            arrays["smoothing"] = recipe.label_smoothing[self._lanes].to(torch.float32)
        return {name: _aligned(array) for name, array in arrays.items()}

    def _in_shape(self, recipe: BlockRecipe, data: ImageData) -> Shape:
        """What the network is computed on at a time."""
        channels, height, width = data.train.images.shape[1:]
        return channels, height, width

    def _inputs(self, recipe: BlockRecipe, data: ImageData) -> dict[str, Tensor]:
        """What the kernels make the inputs of the network from."""
        channels = self.in_shape[0]
        bytes_ = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(256, channels, 1, 1)
        return {"normalised": data.normalise(bytes_).view(256, channels).T.contiguous()}

    def _workspace(self, images: int) -> Tensor:
        """Memory for the kernels to train on a batch of so many images."""
        size = self._kernels.zoo_workspace_size(ctypes.c_int64(images))
        if self.recipe.variational:
            size += self._kernels.zoo_noise_size(ctypes.c_int64(images))
        memory = torch.empty(size, dtype=torch.uint8)
        self._kernels.zoo_prefer_large_pages(ctypes.c_void_p(memory.data_ptr()), ctypes.c_int64(size))
        return memory

    def _noisy_rows(self, recipe: BlockRecipe) -> Tensor:
        """Which parameters have noise: bool [P, 1]."""
        bounds = noise_bounds(recipe.layers)
        tensors = build_layout(recipe.layers).tensors
        return torch.cat(
            [torch.full((spec.size, 1), spec.name in bounds) for spec in tensors if spec.kind == "parameter"]
        )

    def load(self, weights: Tensor, state: State | None = None) -> None:
        """Take over weights [K, D] and the state, each [K, P]; without the optimizer's, it is that before any step."""
        for name, tensor in (state or {}).items():
            if tensor.shape != (self._members, self._parameters):
                raise ValueError(f"{name} {list(tensor.shape)}, expected [{self._members}, {self._parameters}]")
        self._state = {name: self._inside(tensor) for name, tensor in (state or {}).items()}
        trained = self._state.pop(TRAINED, None)
        if weights.shape != (self._members, len(self._trained)):
            raise ValueError(f"weights {list(weights.shape)}, expected [{self._members}, {len(self._trained)}]")
        self._running = self._inside(weights[:, ~self._trained])
        self._weights = self._inside(weights[:, self._trained]) if trained is None else trained
        if not self._state.keys() & set(self.recipe.state):
            self._state |= {name: _aligned(torch.zeros_like(self._weights)) for name in self.recipe.state}
        if self.recipe.variational:
            # The kernels step all rows; where there is no noise, zero without a gradient stays zero.
            self._state[LOG_SIGMA2] = _aligned(torch.where(self._noisy, self._state[LOG_SIGMA2], 0.0))

    def store(self) -> tuple[Tensor, State]:
        """Weights [K, D], those that act, and the state [K, P]."""
        state = self._state
        if self.recipe.variational:
            state = state | {TRAINED: self._weights, LOG_SIGMA2: self._log_sigma2()}
        weights = torch.empty(self._members, len(self._trained))
        weights[:, self._trained] = self._outside(self._acting())
        weights[:, ~self._trained] = self._outside(self._running)
        return weights, {name: self._outside(tensor) for name, tensor in state.items()}

    def _log_sigma2(self) -> Tensor:
        return torch.where(self._noisy, self._state[LOG_SIGMA2], -torch.inf)

    def _acting(self) -> Tensor:
        return _aligned(acting(self._weights, self._log_sigma2())) if self.recipe.variational else self._weights

    def order(self, epoch: int, size: int) -> Tensor:
        """The order of `size` images in an epoch: int32 [K, size]."""
        return permutations(self.recipe.seeds, epoch, size).to(torch.int32)

    def train(
        self,
        split: Split,
        order: Tensor,
        *,
        epoch: int,
        first_step: int,
        settings: Sequence[StepSettings],
        kl_weight: float = 0.0,
    ) -> Tally:
        """Take `len(settings)` steps from step `first_step` of an epoch; gives the running train metrics.

        Args:
            order: int [K, size], the images of the whole epoch; the last batch may be a shorter one.
        """
        size = self.recipe.batch_size
        used = order[:, first_step * size : (first_step + len(settings)) * size]
        if not settings or used.shape[1] <= (len(settings) - 1) * size:
            raise ValueError(
                f"{len(settings)} steps of {size} images from step {first_step} on, expected 1 or more that "
                f"end within the order of {order.shape[1]} images"
            )
        own = OPTIMIZERS[self.recipe.optimizer].state
        arrays = {
            "lr": self._per_step([step.lr for step in settings], torch.float64),
            "momentum": self._per_step([step.momentum for step in settings], torch.float32),
            "weight_decay": self._per_step([step.weight_decay for step in settings], torch.float32),
            "first": self._state[own[0]],
            "second": self._state[own[-1]],
        }
        if MASK in self._state:
            arrays["mask"] = self._state[MASK]
        if self.recipe.clip_norm is not None:
            arrays["clip"] = self.recipe.clip_norm[self._lanes].to(torch.float32)
        if self.recipe.variational:
            arrays |= {
                "log_sigma2_first": self._state[f"{LOG_SIGMA2}.{own[0]}"],
                "log_sigma2_second": self._state[f"{LOG_SIGMA2}.{own[-1]}"],
            }
        numbers: dict[str, float] = {
            "epoch": epoch,
            "first_step": first_step,
            "steps": len(settings),
            "steps_before": settings[0].count,
        }
        numbers |= {"optimizer": OPTIMIZER_NUMBERS[self.recipe.optimizer], "kl_weight": kl_weight}
        return self._pass(split, used, arrays, numbers)

    def gradients(
        self, split: Split, index: Tensor, *, epoch: int, step: int, kl_weight: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One training pass on images int [K, B]: mean cross-entropy [K], correct predictions [K], gradients [K, P].

        In a variational block the gradients of log σ² follow those of the weights: [K, 2 P].
        """
        buffers = [torch.zeros_like(self._weights) for _ in range(1 + self.recipe.variational)]
        numbers: dict[str, float] = {"epoch": epoch, "first_step": step, "steps": 1, "optimizer": _GRADIENTS_ONLY}
        numbers |= {"batch_size": index.shape[1], "kl_weight": kl_weight}
        tally = self._pass(split, index, dict(zip(("first", "second"), buffers, strict=False)), numbers)
        gradients = torch.cat([self._outside(tensor) for tensor in buffers], dim=1)
        return tally.mean_loss.to(torch.float32), tally.correct, gradients

    def evaluate(self, split: Split) -> Tally:
        """Loss and accuracy on all images of a split, without dropout and noise."""
        numbers = {"length": len(split.labels)}
        return self._call(self._kernels.zoo_evaluate, split, {"parameters": self._acting()}, numbers, len(split.labels))

    def _pass(self, split: Split, used: Tensor, arrays: dict[str, Tensor], numbers: dict[str, float]) -> Tally:
        if len(used) != self._members:
            raise ValueError(f"an order for {len(used)} members, expected {self._members}")
        lowest, highest = (int(bound) for bound in torch.aminmax(used))
        if lowest < 0 or highest >= len(split.labels):
            raise ValueError(f"the order names images {lowest} to {highest}, but there are {len(split.labels)}")
        order = used.to(torch.int32)[self._lanes].contiguous()
        numbers = {"length": order.shape[1], **numbers}
        arrays = arrays | {"order": order, "parameters": self._weights}
        batch = int(numbers.get("batch_size", self.recipe.batch_size))
        if batch > self.recipe.batch_size:
            arrays["workspace"] = self._workspace(batch)
        entry = self._kernels.zoo_train
        if self.recipe.variational:
            entry, arrays = self._kernels.zoo_train_noisy, arrays | {"log_sigma2": self._state[LOG_SIGMA2]}
        return self._call(entry, split, arrays, numbers, order.shape[1])

    def _call(
        self, entry: Any, split: Split, arrays: dict[str, Tensor], numbers: Mapping[str, float], images: int
    ) -> Tally:
        """Run a job on the images of a split."""
        if tuple(split.images.shape[1:]) != self.in_shape or split.images.dtype != torch.uint8:
            raise ValueError(
                f"images {split.images.dtype} {list(split.images.shape)}, expected torch.uint8 {['N', *self.in_shape]}"
            )
        images_of = {"images": split.images.contiguous(), "labels": split.labels.to(torch.int64).contiguous()}
        return self._run(entry, arrays | images_of, numbers, images)

    def _run(self, entry: Any, arrays: Mapping[str, Tensor], numbers: Mapping[str, float], images: int) -> Tally:
        """Fill in a job, run it, and give what it added up."""
        arrays = {
            **self._fixed,
            "buffers": self._running,
            **arrays,
            "loss": torch.zeros(self.lanes, dtype=torch.float64),
            "correct": torch.zeros(self.lanes, dtype=torch.int64),
        }
        job = _Job(
            batch_size=self.recipe.batch_size,
            activation=ACTIVATION_NUMBERS[self.recipe.activation],
            dropout=int(bool((self.recipe.dropout > 0).any())),
        )
        for name, number in numbers.items():
            setattr(job, name, number)
        for name, tensor in arrays.items():
            setattr(job, name, tensor.data_ptr())
        entry(ctypes.byref(job))
        return self._tally(arrays["loss"], arrays["correct"], images)

    def _tally(self, loss: Tensor, correct: Tensor, images: int) -> Tally:
        return Tally(loss[: self._members], correct[: self._members], images)

    def _per_step(self, values: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Settings [K] of each step as [steps, lanes]."""
        return _aligned(torch.stack(tuple(values)).to(dtype)[:, self._lanes].contiguous())

    def _inside(self, members: Tensor) -> Tensor:
        """[K, P] to the kernels' [P, lanes]."""
        return _aligned(members.to(torch.float32)[self._lanes].T.contiguous())

    def _outside(self, tensor: Tensor) -> Tensor:
        """The kernels' [P, lanes] to [K, P]."""
        return tensor[:, : self._members].T.contiguous()


def _as_words(values: Tensor) -> Tensor:
    """Integers below 2^32 as int32 of the same bits."""
    return torch.where(values >= 2**31, values - 2**32, values).to(torch.int32)


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor, which the kernels read a vector at a time; torch's allocator aligns new ones to 64 bytes."""
    assert tensor.data_ptr() % _ALIGNMENT == 0
    return tensor
