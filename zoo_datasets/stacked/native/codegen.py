"""From a list of layers to the constants that the native kernels are compiled with.

A network becomes stages in the order in which they are computed: a convolution or linear layer with the max-pooling
behind it, another pooling, a normalisation or a sum of two branches, each with the activation and the dropout that
follow it. A linear layer is a convolution of a 1 × 1 image; so is an identity, which carries an activation or a dropout
that nothing else can, an average of one pixel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Final, Literal

from zoo_datasets.errors import NativeError
from zoo_datasets.networks.layers import (
    Activate,
    AveragePool,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAveragePool,
    Layer,
    Linear,
    MaxPool,
    Residual,
    Shift,
    Sine,
    flat_layers,
)
from zoo_datasets.networks.layers.affine import CONV_BOUND, LINEAR_BOUND
from zoo_datasets.networks.layers.passes import EPSILON
from zoo_datasets.networks.layout import TensorKind
from zoo_datasets.networks.variational import K1, K2, K3

# Numbers of math.c; a stage has 0 for no activation, 1 for the member's, 2 and more for one of its own.
ACTIVATION_NUMBERS: Final = {
    "tanh": 0, "relu": 1, "sigmoid": 2, "gelu": 3, "silu": 4, "leaky_relu": 5, "elu": 6, "selu": 7, "none": 8,
}  # fmt: skip
_MEMBERS_ACTIVATION, _FIRST_OWN = 1, 2
IMAGES: Final = -1
# The gradient before pooling of this many vectors is made at a time: half of a first-level cache.
_STRIP_VECTORS = 384
# A pixel's place in its window is a signed byte.
_LARGEST_WINDOW = 11
# Above, a block takes gigabytes: of weights with their optimizer's state, and of activations, which are kept for every
# sample of a batch where there is normalisation.
_MOST_WEIGHTS, _MOST_KEPT = 1_000_000, 300_000

Shape = tuple[int, int, int]
Kind = Literal["CONV", "AVERAGE", "MAXIMUM", "NORM", "SUM"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """The fields of `Stage` in layers.c."""

    kind: Kind
    source: int
    inputs: int
    height: int
    width: int
    outputs: int
    rows: int
    columns: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    pool: int = 1
    window_rows: int = 1
    window_columns: int = 1
    activate: int = 0
    dropout: int = -1
    weight: int = 0
    bias: int = 0
    biased: int = 0
    noise: int = -1
    mean: int = 0
    variance: int = 0
    other: int = IMAGES
    adds: int = 0
    adds_other: int = 0
    slot: int = 0
    remade: int = 0
    sine: float = 0.0
    shift: float = 0.0

    @property
    def output_shape(self) -> Shape:
        """Channels, height and width of what the stage gives."""
        return self.outputs, self.rows // self.pool, self.columns // self.pool


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisterBlocks:
    """How many accumulators of a stage's loops stay in registers; see `Stage` in layers.c."""

    forward_outputs: int
    forward_columns: int
    weight_outputs: int
    weight_inputs: int
    input_inputs: int
    input_columns: int
    strip_outputs: int
    strip_rows: int


def stages(layers: Sequence[Layer], in_shape: Shape, field: bool = False) -> list[Stage]:
    """The stages of a network for images [C, H, W]; of a field, for points of C coordinates: [C, 1, points].

    Raises:
        NativeError: if a layer, or the order of the layers, is none that the kernels know.
    """
    _check_kinds(layers, _KNOWN_OF_FIELDS if field else _KNOWN)
    walk = _Walk(_offsets(layers, "parameter"), _offsets(layers, "buffer"), in_shape, field)
    walk.follow(layers)
    if not any(stage.kind == "CONV" for stage in walk.stages) or walk.shape[1:] != (in_shape[1:] if field else (1, 1)):
        raise NativeError("the native kernels need a network that ends in a linear layer")
    chain = _with_remade(_with_slots(_with_adds(walk.stages)))
    _check_size(chain, walk.offsets[""])
    return chain


def _check_size(chain: Sequence[Stage], weights: int) -> None:
    kept = sum(math.prod(stage.output_shape) for stage in chain if not stage.remade)
    if weights > _MOST_WEIGHTS:
        raise NativeError(f"the native kernels train up to {_MOST_WEIGHTS:,} weights, not {weights:,}")
    if any(stage.kind == "NORM" for stage in chain) and kept > _MOST_KEPT:
        raise NativeError(
            f"with normalisation the native kernels keep up to {_MOST_KEPT:,} numbers a sample, not {kept:,}"
        )


def _check_kinds(layers: Sequence[Layer], known: tuple[type[Layer], ...]) -> None:
    for layer in layers:
        # Exactly these kinds: one that derives from them may have other rules.
        if type(layer) not in known:
            raise NativeError(f"{type(layer).__name__} is not computed by the native kernels at this place")
        if isinstance(layer, Residual):
            _check_kinds(layer.sublayers(), known)


def _offsets(layers: Sequence[Layer], kind: TensorKind) -> dict[str, int]:
    """Where each tensor of a kind begins among all of them; "" is where they end."""
    tensors = [tensor for layer in flat_layers(layers) for tensor in layer.tensors() if tensor.kind == kind]
    ends = [0, *itertools.accumulate(math.prod(tensor.shape) for tensor in tensors)]
    return dict(zip([*(tensor.name for tensor in tensors), ""], ends, strict=True))


@dataclass(slots=True)
class _Walk:
    """What is known while walking along the layers.

    Attributes:
        offsets, running: of what is trained, and of running statistics, by name.
        shape: of what the last layer gave.
        points: whether pixels are points, each on its own.
        at: the stage that gave it.
    """

    offsets: Mapping[str, int]
    running: Mapping[str, int]
    shape: Shape
    points: bool = False
    at: int = IMAGES
    dropouts: int = 0
    weighted: int = 0
    stages: list[Stage] = field(default_factory=list)

    def follow(self, layers: Sequence[Layer]) -> None:
        """Add the stages of some layers."""
        remaining = list(layers)
        while remaining:
            layer = remaining.pop(0)
            if isinstance(layer, Flatten):
                self.shape = (math.prod(self.shape), 1, 1)
                continue
            if isinstance(layer, Conv | Linear):
                stage = _pooled(self._affine(layer), remaining)
            elif isinstance(layer, AveragePool | MaxPool):
                stage = self._window(layer.kernel, layer.kernel, "MAXIMUM" if isinstance(layer, MaxPool) else "AVERAGE")
            elif isinstance(layer, GlobalAveragePool):
                stage = self._window(*self.shape[1:], "AVERAGE")
            elif isinstance(layer, BatchNorm):
                stage = self._norm(layer)
            elif isinstance(layer, Residual):
                stage = self._sum(layer)
            else:
                remaining.insert(0, layer)
                stage = self._window(1, 1, "AVERAGE")  # the identity, for an activation or a dropout alone
            self._add(self._finished(stage, remaining))

    def _add(self, stage: Stage) -> None:
        self.at, self.shape = len(self.stages), stage.output_shape
        self.stages.append(stage)

    def _affine(self, layer: Conv | Linear) -> Stage:
        channels, height, width = self.shape
        kernel, stride, padding, biased = 1, 1, 0, True
        if isinstance(layer, Conv):
            inputs, outputs = layer.in_channels, layer.out_channels
            kernel, stride, padding, biased = layer.kernel, layer.stride, layer.padding, layer.bias
        else:
            inputs, outputs = layer.in_features, layer.out_features
            if (height, width) != (1, 1) and not self.points:
                raise NativeError(f"{layer.name}: a linear layer must follow Flatten")
        if inputs != channels:
            raise NativeError(f"{layer.name} takes {inputs} inputs, but gets {channels} of shape {self.shape}")
        height, width = height + 2 * padding, width + 2 * padding
        if min(height, width) < kernel:
            raise NativeError(f"{layer.name}: nothing is left of an input of {height} × {width}")
        weight = self.offsets[f"{layer.name}.weight"]
        self.weighted += 1
        return Stage(
            kind="CONV", source=self.at, inputs=inputs, height=height, width=width, outputs=outputs, kernel=kernel,
            stride=stride, padding=padding, rows=(height - kernel) // stride + 1,
            columns=(width - kernel) // stride + 1, weight=weight, bias=weight + outputs * inputs * kernel * kernel,
            biased=int(biased), noise=self.weighted - 1,
        )  # fmt: skip

    def _norm(self, layer: BatchNorm) -> Stage:
        if layer.channels != self.shape[0]:
            raise NativeError(f"{layer.name} takes {layer.channels} channels, but gets {self.shape}")
        return replace(
            self._window(1, 1, "NORM"),
            weight=self.offsets[f"{layer.name}.weight"],
            bias=self.offsets[f"{layer.name}.bias"],
            mean=self.running[f"{layer.name}.running_mean"],
            variance=self.running[f"{layer.name}.running_var"],
        )

    def _sum(self, layer: Residual) -> Stage:
        """The stages of both branches, the shortcut's first, as everywhere; returns that of their sum."""
        start, shape = self.at, self.shape
        self.follow(layer.shortcut)
        shortcut, given = self.at, self.shape
        self.at, self.shape = start, shape
        self.follow(layer.body)
        if self.shape != given:
            raise NativeError(f"the body of a residual block gives {self.shape}, its shortcut {given}")
        return replace(self._window(1, 1, "SUM"), other=shortcut)

    def _window(self, rows: int, columns: int, kind: Kind) -> Stage:
        channels, height, width = self.shape
        if height < rows or width < columns:
            raise NativeError(f"nothing is left of an input of {height} × {width} that is pooled by {rows}")
        if kind == "MAXIMUM" and rows > _LARGEST_WINDOW:
            raise NativeError(f"the native kernels pool by up to {_LARGEST_WINDOW}, not by {rows}")
        return Stage(
            kind=kind, source=self.at, inputs=channels, height=height, width=width, outputs=channels,
            rows=height // rows, columns=width // columns, window_rows=rows, window_columns=columns,
        )  # fmt: skip

    def _finished(self, stage: Stage, remaining: list[Layer]) -> Stage:
        """The stage with the activation or sine, the dropout and the constant that follow it."""
        if remaining and isinstance(layer := remaining[0], Sine):
            remaining.pop(0)
            stage = replace(stage, sine=layer.omega)
        elif remaining and isinstance(layer := remaining[0], Activate):
            remaining.pop(0)
            number = _FIRST_OWN + ACTIVATION_NUMBERS.get(layer.activation or "", -1)
            if layer.activation is None:
                number = _MEMBERS_ACTIVATION
            elif layer.activation not in ACTIVATION_NUMBERS:
                raise NativeError(
                    f"the native kernels know the activations {', '.join(ACTIVATION_NUMBERS)}, not {layer.activation}"
                )
            stage = replace(stage, activate=number)
        if remaining and isinstance(remaining[0], Dropout):
            remaining.pop(0)
            stage = replace(stage, dropout=self.dropouts)
            self.dropouts += 1
        if remaining and isinstance(layer := remaining[0], Shift):
            remaining.pop(0)
            stage = replace(stage, shift=layer.amount)
        return stage


_KNOWN: Final = (
    Conv, Linear, BatchNorm, AveragePool, MaxPool, GlobalAveragePool, Activate, Dropout, Flatten, Residual, Shift,
    Sine,
)  # fmt: skip
_KNOWN_OF_FIELDS: Final = (Linear, Activate, Shift, Sine)


def _pooled(stage: Stage, remaining: list[Layer]) -> Stage:
    """The stage with the max-pooling by 2 that follows it, where one does."""
    follows = bool(remaining) and isinstance(pool := remaining[0], MaxPool) and pool.kernel == 2
    if not follows or min(stage.rows, stage.columns) < 2:
        return stage
    remaining.pop(0)
    return replace(stage, pool=2, rows=stage.rows // 2 * 2, columns=stage.columns // 2 * 2)


def _read(stage: Stage) -> list[int]:
    """The stages that a stage reads, or the images."""
    return [stage.source, stage.other] if stage.kind == "SUM" else [stage.source]


def _with_adds(chain: Sequence[Stage]) -> list[Stage]:
    """The stages, which know whether a later one has already set the gradient of what they read."""
    known: list[int] = []
    done = []
    for stage in reversed(chain):
        adds = []
        for source in _read(stage):
            adds.append(int(source in known))
            known.append(source)
        done.append(replace(stage, adds=adds[0], adds_other=adds[-1]))
    return done[::-1]


def _with_slots(chain: Sequence[Stage]) -> list[Stage]:
    """The stages, each with a slot for the gradient of what it gives, free again once its backward pass is over."""
    slots: dict[int, int] = {len(chain) - 1: 0}
    free: list[int] = []
    for number in range(len(chain) - 1, -1, -1):
        for source in _read(chain[number]):
            if source != IMAGES and source not in slots:
                slots[source] = free.pop() if free else len(set(slots.values()))
        free.append(slots[number])
    return [replace(stage, slot=slots[number]) for number, stage in enumerate(chain)]


def _with_remade(chain: Sequence[Stage]) -> list[Stage]:
    """The stages, of which normalisations are made anew for the backward pass, instead of being kept for every sample,
    where nothing behind the next normalisation reads them."""
    last = {source: number for number, stage in enumerate(chain) for source in _read(stage)}
    norms = [number for number, stage in enumerate(chain) if stage.kind == "NORM"]
    ends = dict(zip(norms, [*norms, len(chain)][1:], strict=True))
    return [
        replace(stage, remade=int(number in ends and last.get(number, number) < ends[number]))
        for number, stage in enumerate(chain)
    ]


def choose_blocks(stage: Stage, registers: int) -> RegisterBlocks:
    """Block sizes of a stage for a machine with so many vector registers (measured on AVX-512 and AVX2)."""
    if stage.kind != "CONV":
        return RegisterBlocks(**dict.fromkeys(RegisterBlocks.__slots__, 1))
    accumulators = registers * 3 // 4  # the rest hold operands
    columns = min(stage.columns, 4 if registers >= 32 else 2)
    outputs = min(stage.outputs, max(1, registers // 2 // (stage.pool * columns)))
    weight_outputs = _even(stage.outputs, accumulators // stage.kernel)
    weight_inputs = 1
    inputs = min(stage.inputs, 2 if stage.columns > 1 else accumulators // 2)
    input_columns = _even(stage.columns, accumulators // inputs - stage.kernel + 1)
    if stage.pool == 1 and (stage.stride > 1 or stage.padding or _by_point(stage)):
        # Not for the others: where blocks of the gradient of the input end decides how it is rounded.
        outputs, columns = _forward_blocks(stage, registers)
        inputs, input_columns = _input_blocks(stage, registers)
    if _by_point(stage):
        weight_outputs, weight_inputs = _point_blocks(stage, registers)
    if stage.pool == 1:
        strip_outputs, strip_rows = stage.outputs, stage.rows
    else:
        strip_outputs = weight_outputs
        strip_rows = min(stage.rows, max(2, _STRIP_VECTORS // (strip_outputs * stage.columns) // 2 * 2))
    return RegisterBlocks(
        forward_outputs=outputs, forward_columns=columns, weight_outputs=weight_outputs,
        weight_inputs=weight_inputs, input_inputs=inputs,
        input_columns=input_columns, strip_outputs=strip_outputs, strip_rows=strip_rows,
    )  # fmt: skip


def _forward_blocks(stage: Stage, registers: int) -> tuple[int, int]:
    """Outputs and columns of the forward pass that take the fewest cycles: two sums in one, four until a sum is there
    to be added to, and loads, which are not quite hidden (measured on AVX-512)."""

    def cycles(outputs: int, columns: int) -> float:
        return max(outputs * columns, 10) / 2 + (outputs + columns) / 4

    return _cheapest(
        (stage.outputs, stage.columns), cycles, lambda outputs, columns: outputs * columns + columns < registers - 1
    )


def _input_blocks(stage: Stage, registers: int) -> tuple[int, int]:
    """Inputs and columns of the gradient of the input, likewise; sums are also loaded and stored for each row."""
    kernel, stride = stage.kernel, stage.stride
    steps = stage.outputs * kernel / stride

    def sums(inputs: int, columns: int) -> int:
        return inputs * ((columns - 1) * stride + kernel)

    def cycles(inputs: int, columns: int) -> float:
        step = max(inputs * columns * kernel, 10 * -(-kernel // stride)) / 2 + (inputs * kernel + columns) / 4
        return steps * step + 1.5 * sums(inputs, columns)

    return _cheapest(
        (stage.inputs, stage.columns), cycles, lambda inputs, columns: sums(inputs, columns) + kernel < registers
    )


def _by_point(stage: Stage) -> bool:
    """Whether a stage has a 1 × 1 filter and several columns, whose sums do not depend on how they are cut."""
    return stage.pool == 1 and stage.kernel == 1 and stage.columns > 1


def _point_blocks(stage: Stage, registers: int) -> tuple[int, int]:
    """Outputs and inputs of the gradient of the weights of a 1 × 1 filter, likewise."""

    def cycles(outputs: int, inputs: int) -> float:
        return max(outputs * inputs, outputs + inputs, 8) / 2

    return _cheapest(
        (stage.outputs, stage.inputs), cycles, lambda outputs, inputs: outputs * inputs + outputs < registers - 1
    )


def _cheapest(
    sizes: tuple[int, int], cycles: Callable[[int, int], float], fits: Callable[[int, int], bool]
) -> tuple[int, int]:
    """The blocks into which two sizes are cut at the least cost, smaller ones at their ends included; (1, 1) if none
    fits."""

    def total(block: tuple[int, int]) -> float:
        cuts = [
            [(part, size // part), *([(size % part, 1)] if size % part else [])]
            for size, part in zip(sizes, block, strict=True)
        ]
        return sum(many * more * cycles(one, other) for one, many in cuts[0] for other, more in cuts[1])

    first, second = (range(1, min(size, 32) + 1) for size in sizes)
    pairs = itertools.product(first, second)
    return min((pair for pair in pairs if fits(*pair)), key=total, default=(1, 1))


def _even(size: int, largest: int) -> int:
    """The size of equal blocks, none above `largest`, that `size` is cut into; the last one may be smaller."""
    blocks = -(-size // max(1, largest))
    return -(-size // blocks)


def defines(layers: Sequence[Layer], in_shape: Shape, lanes: int, registers: int, field: bool = False) -> str:
    """The preprocessor definitions that stand before the kernels.

    Raises:
        NativeError: if `stages` raises it.
    """
    chain = stages(layers, in_shape, field)
    blocks = [choose_blocks(stage, registers) for stage in chain]
    strip = max(
        (block.strip_outputs * block.strip_rows * stage.columns for stage, block in zip(chain, blocks, strict=True)
         if stage.pool > 1),
        default=0,
    )  # fmt: skip
    padded = max((stage.inputs * stage.height * stage.width for stage in chain if stage.padding), default=0)
    remade = max((math.prod(stage.output_shape) for stage in chain if stage.remade), default=0)
    channels, height, width = in_shape
    sizes = {
        "LANES": lanes, "CHANNELS": channels, "PIXELS": height * width, "CLASSES": chain[-1].outputs,
        "PARAMETERS": _offsets(layers, "parameter")[""], "BUFFERS": _offsets(layers, "buffer")[""],
        "STRIP": strip, "PADDED": padded, "REMADE": remade, "SLOTS": 1 + max(stage.slot for stage in chain),
        "NORMS": sum(stage.kind == "NORM" for stage in chain),
    }  # fmt: skip
    lines = [f"#define {name} {value}" for name, value in sizes.items()]
    return "\n".join([*lines, _table("STAGES", "stage", chain, registers), "", ""])


def variational_defines(layers: Sequence[Layer], in_shape: tuple[int, int, int], registers: int) -> str:
    """What variational.c needs besides: its constants, and the stages without their pooling."""
    constants = {"K1": K1, "K2": K2, "K3": K3, "EPSILON": EPSILON, "CONV_BOUND": CONV_BOUND}
    lines = [f"#define {name} {value}f" for name, value in (constants | {"LINEAR_BOUND": LINEAR_BOUND}).items()]
    flat = [replace(stage, pool=1) for stage in stages(layers, in_shape)]
    return "\n".join([*lines, _table("FLAT_STAGES", "flat", flat, registers), "", ""])


def _table(macro: str, name: str, chain: Sequence[Stage], registers: int) -> str:
    """A macro that calls its argument with the name and the fields of each stage."""
    lines = [f"#define {macro}(S) \\"]
    for number, stage in enumerate(chain):
        values = asdict(stage) | asdict(choose_blocks(stage, registers))
        lines.append(f"  S({name}{number}, {', '.join(f'.{field} = {value}' for field, value in values.items())}) \\")
    return "\n".join([*lines, ""])
