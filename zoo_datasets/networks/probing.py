"""What a network made by code of a user's own is: tried out once, before anything is written."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import torch
from torch import Tensor, nn

from zoo_datasets.errors import SpecError
from zoo_datasets.networks.layers.module import Alone, Module, make_network, parts_of, seeded_by
from zoo_datasets.networks.layers.passes import StackedPass, side_by_side
from zoo_datasets.text import one_line

_BATCH = 4
_SEED = 1
_TOLERANCE = 1e-3  # of logits of a stack, against those of each member


def probed(layer: Module) -> Module:
    """The layer with its tensors, and with why its members are computed one at a time, if they are.

    Raises:
        SpecError: if the code is not allowed or fails, if weights do not follow from torch's generator, or if this is
            a network that cannot be trained or stored.
    """
    try:
        with seeded_by(_SEED):
            before = _foreign_states()
            module = make_network(layer)
            foreign = before != _foreign_states()
            layer = dataclasses.replace(layer, parts=parts_of(module))
        with seeded_by(_SEED):
            again = make_network(layer)
        state, other = module.state_dict(), again.state_dict()
        if foreign or any(not torch.equal(state[name], other[name]) for name in state):
            raise SpecError("its weights do not follow from torch's generator alone; draw all of them from it")
        _check_norms(module)
        draws = _try_passes(layer, module)
        alone: Alone = "draws" if draws else "" if _works_in_stacks(layer) else "vmap"
    except SpecError as error:
        text = str(error)
        raise SpecError(text if layer.factory in text else f"{layer.factory}: {text}") from error
    return dataclasses.replace(layer, alone=alone)


def _foreign_states() -> tuple[str, str]:
    return repr(random.getstate()), repr(np.random.get_state())


def _check_norms(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats and part.momentum is None:
            raise SpecError(
                f"{name} averages over all batches, whose number is not stored; expected a BatchNorm with a momentum"
            )


def _images(layer: Module) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randn(_BATCH, layer.in_channels, layer.image_size, layer.image_size, generator=generator)


def _try_passes(layer: Module, module: nn.Module) -> bool:
    """Whether a network draws random numbers in training, after a pass of each kind."""
    images = _images(layer)
    constants = {name: value.clone() for name, value in _unstored(layer, module).items()}
    draws = {}
    for training in (False, True):
        with seeded_by(_SEED):
            before, foreign = torch.get_rng_state(), _foreign_states()
            try:
                logits = module.train(training)(images)
            except Exception as error:
                line = one_line(error)[:200]
                raise SpecError(
                    f"its forward pass of images {list(images.shape)} raised {type(error).__name__}: {line}"
                ) from error
            draws[training] = not torch.equal(before, torch.get_rng_state())
            if foreign != _foreign_states():
                raise SpecError("its forward pass draws from another generator than torch's; draw from that one")
        shape: list[int] | str = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if shape != [_BATCH, layer.classes] or logits.dtype != torch.float32:
            found = shape if logits.__class__ is not Tensor else f"{shape} of {logits.dtype}"
            raise SpecError(
                f"it gives {found} for {_BATCH} images, expected float32 [{_BATCH}, {layer.classes}]: a number for "
                "each class"
            )
    if draws[False]:
        raise SpecError("it draws random numbers in evaluation too, so that its figures could not be verified")
    changed = [name for name, value in _unstored(layer, module).items() if not torch.equal(value, constants[name])]
    if changed:
        raise SpecError(
            f"training changes {changed[0]}, which is no float32 tensor of its state dict and would be lost; register "
            "it as such a buffer"
        )
    if not logits.requires_grad:
        raise SpecError("its output does not depend on its parameters: it has no gradient")
    return draws[True]


def _unstored(layer: Module, module: nn.Module) -> dict[str, Tensor]:
    """The buffers that no file holds, but for counters of batches."""
    stored = {name for name, _, _ in layer.parts}
    buffers = {name: value for name, value in module.named_buffers() if name not in stored}
    return {name: value for name, value in buffers.items() if name.rpartition(".")[2] != "num_batches_tracked"}


def _works_in_stacks(layer: Module) -> bool:
    """Whether two members computed together give what each gives by itself, in training and in evaluation."""
    try:
        members = []
        for seed in (_SEED, _SEED + 1):
            with seeded_by(seed):
                members.append({name: value.clone() for name, value in make_network(layer).state_dict().items()})
        images = torch.stack([_images(layer), _images(layer).flip(0)])
        logits = {}
        for alone in ("", "vmap"):
            one = dataclasses.replace(layer, alone=alone)
            for training in (False, True):
                tensors = {name: torch.stack([member[name] for member in members]) for name, _, _ in layer.parts}
                leaves = [tensors[name].requires_grad_() for name, _, kind in layer.parts if kind == "parameter"]
                out = one.stacked(side_by_side(images), StackedPass(tensors, 2, torch.tanh, training))
                gradients = torch.autograd.grad(out.square().mean(), leaves, allow_unused=True)
                logits[alone, training] = [out.detach(), *(g for g in gradients if g is not None)]
        return all(
            len(logits["", training]) == len(logits["vmap", training])
            and all(
                torch.allclose(stacked, single, _TOLERANCE, _TOLERANCE)
                for stacked, single in zip(logits["", training], logits["vmap", training], strict=True)
            )
            for training in (False, True)
        )
    except Exception:  # noqa: BLE001 - whatever a user's forward pass does with tensors that are stacks
        return False
