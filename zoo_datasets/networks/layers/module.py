"""A whole network that code of a user's own makes: any `nn.Module`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call, vmap

from zoo_datasets.errors import LayerError, SpecError
from zoo_datasets.networks.code import is_allowed, load_factory, working_directory
from zoo_datasets.networks.layers.base import Extent, Layer, LayerTensor, Width
from zoo_datasets.networks.layers.passes import VECTOR_LOOP, ModuleBuild, ModulePass, StackedPass
from zoo_datasets.networks.layers.walks import ChannelWalk, GraphNodes, GraphWalk, Stream
from zoo_datasets.specs.bounds import FACTORY, MAX_FACTORY
from zoo_datasets.text import one_line

Factory = Annotated[str, Field(pattern=f"^{FACTORY}$", max_length=MAX_FACTORY)]
TensorName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_.]+$")]
Length = Annotated[int, Field(ge=0, le=1 << 30)]
Part = tuple[TensorName, tuple[Length, ...], Literal["parameter", "buffer"]]
Argument = tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)], bool | int | float | str]
Alone = Literal["", "draws", "vmap"]

# torch's generator of the CPU is one for all threads: who seeds it has it for himself.
GENERATOR: Final = threading.RLock()
_MADE: Final = threading.local()


@dataclass(frozen=True, slots=True)
class Module(Layer):
    """The only layer of a network that a function of a user's own makes.

    Attributes:
        factory: of the function, `my_package.models:make_model`; imported if its package was allowed.
        image_size: height and width of the images.
        parts: name, shape and kind of each float32 tensor of its state dict, in its order. The other ones, such as
            counters, are what the function makes them.
        arguments: what the function is given besides, by name.
        alone: why members are computed one at a time: the network draws random numbers in training, or its forward
            pass does not work under `torch.func.vmap`; "" where they are computed together.
    """

    stem: ClassVar[str] = "module"
    factory: Factory
    in_channels: Width
    classes: Width
    image_size: Extent
    parts: tuple[Part, ...]
    arguments: tuple[Argument, ...] = ()
    alone: Alone = ""

    def tensors(self) -> tuple[LayerTensor, ...]:
        """Those of its state dict, which the function draws."""
        return tuple(LayerTensor(name, shape, kind) for name, shape, kind in self.parts)

    def sublayers(self) -> None:
        """None: what it is made of is not known here."""

    def build(self, modules: ModuleBuild) -> None:
        """Nothing: `module_of_layers` makes the network, which is no part of another one."""

    def forward(self, x: Tensor, modules: ModulePass) -> Tensor:
        """Not to be computed as a part of a network: `module_of_layers` makes it."""
        raise LayerError("a module of code of one's own is a network by itself; expected no other layers beside it")

    def stacked(self, x: Tensor, state: StackedPass) -> Tensor:
        """Images [B, K · C, H, W] to logits [K, B, classes]; buffers are updated where `training`."""
        batch, members = len(x), state.members
        images = x.reshape(batch, members, -1, *x.shape[2:]).transpose(0, 1).contiguous()
        if self.alone or members == 1:
            return torch.stack([self._alone(images[number], number, state) for number in range(members)])
        tensors = {name: state.tensors[name] for name, _, _ in self.parts}
        # Copies of the last member fill the vectors: no member is computed by the scalar code of a tensor's end.
        copies = next(copies for copies in range(members, VECTOR_LOOP * members + 1, members)
                      if copies * batch % VECTOR_LOOP == 0) - members  # fmt: skip
        if copies:
            images = torch.cat([images, images[-1:].expand(copies, *images.shape[1:])])
            tensors = {
                name: torch.cat([tensor, tensor[-1:].detach().expand(copies, *tensor.shape[1:])])
                for name, tensor in tensors.items()
            }
        module = self.made(x.device).train(state.training)
        with _steady_attention():
            logits, buffers = vmap(lambda own, batch: _called(module, own, batch), randomness="error")(tensors, images)
        self._keep(state, {name: buffer[:members] for name, buffer in buffers.items()})
        return torch.as_tensor(logits[:members])

    def _alone(self, images: Tensor, number: int, state: StackedPass) -> Tensor:
        """Logits [B, classes] of one member of the stack."""
        module = self.made(images.device).train(state.training)
        own = {name: state.tensors[name][number] for name, _, _ in self.parts}
        seeded = contextlib.nullcontext() if state.generators is None else seeded_by(state.generators[number])
        with seeded if self.alone == "draws" and state.training else contextlib.nullcontext(), _steady_attention():
            logits, buffers = _called(module, own, images)
        self._keep(state, buffers, number)
        return logits

    def _keep(self, state: StackedPass, buffers: Mapping[str, Tensor], number: int | None = None) -> None:
        if state.training:
            with torch.no_grad():
                for name, _, kind in self.parts:
                    if kind == "buffer":
                        stored = state.tensors[name] if number is None else state.tensors[name][number]
                        stored.copy_(buffers[name])

    def fresh(self) -> nn.Module:
        """A network as the function makes it, whose tensors are those that are recorded.

        Raises:
            SpecError: if the code is not allowed, fails, or makes a network of other tensors.
        """
        module = make_network(self)
        parts = parts_of(module)
        if parts != self.parts:
            raise SpecError(
                f"{self.factory} makes another network than the one that is recorded: {self._differs(parts)}"
            )
        return module

    def _differs(self, parts: tuple[Part, ...]) -> str:
        recorded, here = ({name: (list(shape), kind) for name, shape, kind in each} for each in (self.parts, parts))
        for name in (*recorded, *here):
            if recorded.get(name) != here.get(name):
                texts = [
                    "missing" if name not in each else f"a {each[name][1]} {each[name][0]}" for each in (recorded, here)
                ]
                return f"{name} is {texts[0]} in the record, {texts[1]} here"
        return "its tensors come in another order"

    def made(self, device: torch.device) -> nn.Module:
        """The network that passes of this thread are computed with, whatever its weights."""
        key = (self, str(device))
        cache: dict[Any, nn.Module] = _MADE.__dict__.setdefault("modules", {})
        if key not in cache:
            with seeded_by(0):
                cache[key] = self.fresh().to(device)
        return cache[key]

    def subsamples(self) -> bool:
        """False: no version of the package computed it in another way."""
        return False

    def walk_channels(self, walk: ChannelWalk, stream: Stream) -> Stream:
        """Not known: which of its channels are alike is not recorded."""
        raise LayerError(f"{self.factory} is code, whose channels are not known, nor how they can be permuted")

    def noise_bounds(self) -> dict[str, float]:
        """An empty dictionary: noise belongs to layers that are known."""
        return {}

    def inputs(self) -> int:
        """The channels of its images."""
        return self.in_channels

    def walk_graph(self, walk: GraphWalk, nodes: GraphNodes) -> GraphNodes:
        """Not known: what it computes is not recorded."""
        raise LayerError(f"{self.factory} is code, of which no graph can be made")

    def reads_out(self) -> bool:
        """False: its representations are not known."""
        return False

    def raw_places(self, dropout: bool) -> None:
        """The authors' module lists have no such layers."""


def module_of(layers: Sequence[Layer]) -> Module | None:
    """The layer of a network that code of a user's own makes; None of others."""
    return layers[0] if len(layers) == 1 and isinstance(layers[0], Module) else None


def can_compute(layers: Sequence[Layer]) -> bool:
    """Whether nothing that is not allowed stands between these layers and their computation."""
    module = module_of(layers)
    return module is None or is_allowed(module.factory)


def check_code(layers: Sequence[Layer]) -> None:
    """See that the code of a network, where it is code, can be run.

    Raises:
        SpecError: if it is not allowed, or not there.
    """
    if (module := module_of(layers)) is not None:
        load_factory(module.factory)


def make_network(layer: Module) -> nn.Module:
    """What the function of a layer makes.

    Raises:
        SpecError: if the code is not allowed or fails, or this is no network whose weights can be kept.
    """
    import inspect

    factory = load_factory(layer.factory)
    given: dict[str, Any] = dict(layer.arguments)
    with contextlib.suppress(TypeError, ValueError):
        if "image_size" in inspect.signature(factory).parameters:
            given["image_size"] = layer.image_size
    try:
        with working_directory():
            module = factory(in_channels=layer.in_channels, classes=layer.classes, **given)
    except Exception as error:
        names = ", ".join(["in_channels", "classes", *given])
        raise SpecError(
            f"{layer.factory} raised {type(error).__name__} when called with {names}: {one_line(error)[:200]}"
        ) from error
    if not isinstance(module, nn.Module):
        raise SpecError(f"{layer.factory} returned a {type(module).__name__}, expected an nn.Module")
    return module


def parts_of(module: nn.Module) -> tuple[Part, ...]:
    """Name, shape and kind of the float32 tensors of a network's state dict, in its order.

    Raises:
        SpecError: naming the tensor that is lazy, tied to another one, or floating but not float32; or where there is
            no parameter.
    """
    owners: dict[int, str] = {}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, tensor in (*parameters.items(), *module.named_buffers(remove_duplicate=False)):
        if nn.parameter.is_lazy(tensor):
            raise SpecError(f"{name} is lazy: it has no shape before the first images; expected modules that are not")
        owner = owners.setdefault(id(tensor), name)
        if owner != name:
            raise SpecError(f"{name} and {owner} are one tensor; expected one of its own for each, none shared or tied")
    parts: list[Part] = []
    for name, tensor in module.state_dict().items():
        parameter = name in parameters
        if not isinstance(tensor, Tensor):
            raise SpecError(f"{name} of the state dict is a {type(tensor).__name__}, expected a tensor")
        if tensor.dtype == torch.float32:
            parts.append((name, tuple(tensor.shape), "parameter" if parameter else "buffer"))
        elif parameter or tensor.is_floating_point() or tensor.is_complex():
            raise SpecError(f"{name} is {tensor.dtype}, expected torch.float32; call .float() on the module")
    if not any(kind == "parameter" for _, _, kind in parts):
        raise SpecError("the module has no parameters, so that there is nothing to train")
    if frozen := [name for name, parameter in parameters.items() if not parameter.requires_grad]:
        raise SpecError(f"{frozen[0]} requires no gradient; expected a buffer for what is not trained")
    return tuple(parts)


@contextlib.contextmanager
def seeded_by(seed: int) -> Iterator[None]:
    """torch's generators as they are after `manual_seed`; afterwards they are what they were."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with GENERATOR, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _called(module: nn.Module, own: Mapping[str, Tensor], images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of one member, and its buffers afterwards; `own` stays as it is."""
    buffers = {name for name, _ in module.named_buffers()}
    # All other tensors are constants, but for counters of the batches, which nothing reads.
    tensors = {name: tensor.clone() if name in buffers else tensor for name, tensor in own.items()}
    tensors |= {name: buffer.clone() for name, buffer in module.named_buffers() if name not in tensors}
    logits = functional_call(module, tensors, (images,))
    return logits, {name: tensors[name].detach() for name in own if name in buffers}


class _SteadyAttention:
    """While any thread computes a network: attention by matrix products and a softmax, which `vmap` knows how to stack,
    and none of torch's fused paths, of which it does not."""

    def __init__(self) -> None:
        self._lock, self._users, self._before = threading.Lock(), 0, (True, True)

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._users:
                flash: bool = torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
                self._before = torch.backends.mha.get_fastpath_enabled(), flash
                self._enable(False, False)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._enable(*self._before)

    @staticmethod
    def _enable(fast_path: bool, flash: bool) -> None:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch.backends.cuda.enable_flash_sdp(flash)  # of the CPU too


_steady_attention = _SteadyAttention()
