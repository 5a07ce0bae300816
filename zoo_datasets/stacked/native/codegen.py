"""From a list of layers to the constants that the native kernels are compiled with.

A network becomes a chain of stages: a convolution or linear layer, with the pooling, the activation and
the dropout that follow it. A linear layer is a convolution of a 1 × 1 image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from zoo_datasets.errors import NativeError
from zoo_datasets.networks.layers import Activate, Conv, Dropout, Flatten, Layer, Linear, MaxPool
from zoo_datasets.networks.layers.affine import CONV_BOUND, LINEAR_BOUND
from zoo_datasets.networks.layers.passes import EPSILON
from zoo_datasets.networks.variational import K1, K2, K3

# The gradient before pooling of this many vectors is made at a time: half of a first-level cache.
_STRIP_VECTORS = 384


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """The fields of `Stage` in layers.c."""

    inputs: int
    height: int
    width: int
    outputs: int
    kernel: int
    rows: int
    columns: int
    pool: int
    activate: int
    dropout: int
    weight: int
    bias: int

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the stage gives."""
        return self.outputs, self.rows // self.pool, self.columns // self.pool


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisterBlocks:
    """How many accumulators of a stage's loops stay in registers; see `Stage` in layers.c."""

    forward_outputs: int
    forward_columns: int
    weight_outputs: int
    input_inputs: int
    input_columns: int
    strip_outputs: int
    strip_rows: int


@dataclass(slots=True)
class _Chain:
    """What is known while walking along the layers."""

    shape: tuple[int, int, int]
    dropouts: int = 0
    parameters: int = 0


def stages(layers: Sequence[Layer], in_shape: tuple[int, int, int]) -> list[Stage]:
    """The chain of stages of a network for images [C, H, W].

    Raises:
        NativeError: if a layer, or the order of the layers, is none that the kernels know.
    """
    remaining = list(layers)
    chain = _Chain(in_shape)
    stages: list[Stage] = []
    while remaining:
        layer = remaining.pop(0)
        if type(layer) is Flatten:
            channels, height, width = chain.shape
            chain.shape = (channels * height * width, 1, 1)
            continue
        # Exactly these kinds: one that derives from them may have other rules.
        if type(layer) not in (Conv, Linear):
            raise NativeError(f"{type(layer).__name__} is not computed by the native kernels at this place")
        assert isinstance(layer, Conv | Linear)
        stages.append(_stage(layer, remaining, chain))
        chain.shape = stages[-1].output_shape
    if not stages or chain.shape[1:] != (1, 1) or stages[-1].activate or stages[-1].dropout >= 0:
        raise NativeError("the native kernels need a network that ends in a linear layer")
    return stages


def _stage(layer: Conv | Linear, remaining: list[Layer], chain: _Chain) -> Stage:
    channels, height, width = chain.shape
    if isinstance(layer, Conv):
        if layer.stride != 1 or layer.padding != 0 or not layer.bias:
            raise NativeError(f"{layer.name}: the native kernels know stride 1, no padding, and a bias")
        inputs, outputs, kernel = layer.in_channels, layer.out_channels, layer.kernel
    else:
        inputs, outputs, kernel = layer.in_features, layer.out_features, 1
        if (height, width) != (1, 1):
            raise NativeError(f"{layer.name}: a linear layer must follow Flatten")
    if inputs != channels:
        raise NativeError(f"{layer.name} takes {inputs} inputs, but gets {channels} of shape {chain.shape}")
    rows, columns, pool = height - kernel + 1, width - kernel + 1, 1
    if remaining and type(remaining[0]) is MaxPool:
        pool = remaining[0].kernel
        if pool != 2:
            raise NativeError(f"the native kernels pool by 2, not by {pool}")
        remaining.pop(0)
        rows, columns = rows // 2 * 2, columns // 2 * 2
    if rows < 1 or columns < 1:
        raise NativeError(f"{layer.name}: nothing is left of an input of {height} × {width}")
    activate, dropout = 0, -1
    if remaining and isinstance(following := remaining[0], Activate) and type(following) is Activate:
        if following.activation is not None:
            raise NativeError(f"the native kernels know the member's activation, not {following.activation} of a layer")
        remaining.pop(0)
        activate = 1
    if remaining and type(remaining[0]) is Dropout:
        remaining.pop(0)
        dropout = chain.dropouts
        chain.dropouts += 1
    weight = chain.parameters
    bias = weight + outputs * inputs * kernel * kernel
    chain.parameters = bias + outputs
    return Stage(
        inputs=inputs, height=height, width=width, outputs=outputs, kernel=kernel, rows=rows, columns=columns,
        pool=pool, activate=activate, dropout=dropout, weight=weight, bias=bias,
    )  # fmt: skip


def choose_blocks(stage: Stage, registers: int) -> RegisterBlocks:
    """Block sizes of a stage for a machine with so many vector registers (measured on AVX-512 and AVX2)."""
    accumulators = registers * 3 // 4  # the rest hold operands
    columns = min(stage.columns, 4 if registers >= 32 else 2)
    outputs = min(stage.outputs, max(1, registers // 2 // (stage.pool * columns)))
    weight_outputs = _even(stage.outputs, accumulators // stage.kernel)
    inputs = min(stage.inputs, 2 if stage.columns > 1 else accumulators // 2)
    input_columns = _even(stage.columns, accumulators // inputs - stage.kernel + 1)
    if stage.pool == 1:
        strip_outputs, strip_rows = stage.outputs, stage.rows
    else:
        strip_outputs = weight_outputs
        strip_rows = min(stage.rows, max(2, _STRIP_VECTORS // (strip_outputs * stage.columns) // 2 * 2))
    return RegisterBlocks(
        forward_outputs=outputs, forward_columns=columns, weight_outputs=weight_outputs, input_inputs=inputs,
        input_columns=input_columns, strip_outputs=strip_outputs, strip_rows=strip_rows,
    )  # fmt: skip


def _even(size: int, largest: int) -> int:
    """The size of equal blocks, none above `largest`, that `size` is cut into; the last one may be smaller."""
    blocks = -(-size // max(1, largest))
    return -(-size // blocks)


def defines(layers: Sequence[Layer], in_shape: tuple[int, int, int], lanes: int, registers: int) -> str:
    """The preprocessor definitions that stand before the kernels.

    Raises:
        NativeError: if `stages` raises it.
    """
    chain = stages(layers, in_shape)
    blocks = [choose_blocks(stage, registers) for stage in chain]
    strip = max(
        (block.strip_outputs * block.strip_rows * stage.columns for stage, block in zip(chain, blocks, strict=True)
         if stage.pool > 1),
        default=0,
    )  # fmt: skip
    channels, height, width = in_shape
    sizes = {
        "LANES": lanes, "CHANNELS": channels, "PIXELS": height * width, "CLASSES": chain[-1].outputs,
        "PARAMETERS": chain[-1].bias + chain[-1].outputs, "STRIP": strip,
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
