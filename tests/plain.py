"""Plain references for the tests: tiny images, and one member trained alone with nn.Module and torch.optim."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch.nn import functional

from zoo_datasets.images.prepare import ImageData, Split
from zoo_datasets.images.table import get_image_spec
from zoo_datasets.networks.architectures import get_architecture
from zoo_datasets.networks.channels import permutations
from zoo_datasets.networks.layers import build_layout
from zoo_datasets.networks.module import Network
from zoo_datasets.specs.members import Limits, Member, members_of
from zoo_datasets.specs.spec import ZooSpec
from zoo_datasets.specs.zoos import get_zoo
from zoo_datasets.stacked import BlockRecipe, StepSettings, augmentation, initialise, streams


def tiny_images(images: str = "mnist", size: int = 28, train: int = 60, val: int = 20, test: int = 20) -> ImageData:
    """Images of bright patches, one place a class: learnable, and made in a moment."""
    spec = get_image_spec(images)
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.arange(count) % spec.classes
        pixels = torch.randint(0, 120, (count, spec.channels, size, size), generator=generator)
        for row, label in enumerate(labels.tolist()):
            top, left = 3 + 5 * (label // 5), 3 + 4 * (label % 5)
            pixels[row, :, top : top + 5, left : left + 5] += 130
        return Split(pixels.to(torch.uint8), labels)

    return ImageData(spec=spec, size=size, fingerprint="tiny", train=split(train), val=split(val), test=split(test))


def tiny_zoo(name: str = "mnist_cnn_s", **changes) -> ZooSpec:
    """A zoo of the table with a few fields changed."""
    return dataclasses.replace(get_zoo(name), **({"epochs": 2, "seeds": 3} | changes))


def members(zoo: ZooSpec, count: int | None = None) -> list[Member]:
    return members_of(zoo, Limits(), count)


class KeyedDropout(torch.nn.Module):
    """Dropout with the member's stream instead of torch's generator."""

    def __init__(self, member: Member, layer: int) -> None:
        super().__init__()
        self.member, self.layer, self.at = member, layer, (1, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        mask = streams.dropout_masks(
            torch.tensor([self.member.seed]), torch.tensor([self.member.hyperparameters.dropout], dtype=torch.float64),
            epoch=self.at[0], step=self.at[1], layer=self.layer, count=x.numel(), dtype=x.dtype,
        )  # fmt: skip
        return x * mask.view(x.shape)


def plain_module(zoo: ZooSpec, member: Member, data: ImageData, dtype: torch.dtype = torch.float32) -> Network:
    """The member at epoch 0 as an ordinary module."""
    layers = get_architecture(zoo.architecture).layers(data.channels, data.classes)
    module = Network(layers, member.hyperparameters.activation, member.hyperparameters.dropout)
    weights = initialise(layers, torch.tensor([member.seed]), [member.hyperparameters.init])[0]
    module.load_state_dict(build_layout(layers).unflatten(weights), strict=False)
    for index, name in enumerate([name for name, _ in module.named_children() if name.startswith("dropout")]):
        setattr(module, name, KeyedDropout(member, index))
    return module.to(dtype)


def plain_optimizer(zoo: ZooSpec, member: Member, module: Network, steps: int):
    point = member.hyperparameters
    if point.optimizer == "adam":
        optimizer = torch.optim.Adam(module.parameters(), lr=point.lr, weight_decay=point.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            module.parameters(), lr=point.lr, weight_decay=point.weight_decay, momentum=point.momentum
        )
    scheduler = None
    if zoo.scheduler:
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=point.lr, total_steps=steps)
    return optimizer, scheduler


def train_alone(
    zoo: ZooSpec, member: Member, data: ImageData, steps: int, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """The flat weights [D] of one member after so many steps of ordinary PyTorch training."""
    module = plain_module(zoo, member, data, dtype).train()
    size = member.hyperparameters.batch_size
    images = len(data.train.labels)
    in_epoch = -(-images // size)
    optimizer, scheduler = plain_optimizer(zoo, member, module, steps)
    seed = torch.tensor([member.seed])
    for step in range(steps):
        epoch, within = 1 + step // in_epoch, step % in_epoch
        index = streams.permutations(seed, epoch, images)[0, within * size : (within + 1) * size]
        pixels = data.train.images[index]
        if zoo.augmentation:
            pixels = augmentation.augment(pixels[None], zoo.augmentation, seed, epoch=epoch, step=within)[0]
        for part in module.modules():
            if isinstance(part, KeyedDropout):
                part.at = (epoch, within)
        optimizer.zero_grad()
        functional.cross_entropy(module(data.normalise(pixels, dtype)), data.train.labels[index]).backward()
        optimizer.step()
        if scheduler:
            scheduler.step()
    layers = module.layers
    layout = build_layout(layers)
    state = module.state_dict()
    return torch.cat([state[spec.name].flatten() for spec in layout.tensors])


def recipe_of(zoo: ZooSpec, chosen: list[Member], data: ImageData) -> BlockRecipe:
    point = chosen[0].hyperparameters
    return BlockRecipe(
        layers=get_architecture(zoo.architecture).layers(data.channels, data.classes),
        activation=point.activation, optimizer=point.optimizer, batch_size=point.batch_size,
        augmentation=zoo.augmentation, seeds=torch.tensor([member.seed for member in chosen]),
        dropout=torch.tensor([member.hyperparameters.dropout for member in chosen], dtype=torch.float64),
    )  # fmt: skip


def settings_of(chosen: list[Member], count: int) -> StepSettings:
    points = [member.hyperparameters for member in chosen]

    def column(values):
        return torch.tensor(values, dtype=torch.float64)

    return StepSettings(
        lr=column([point.lr for point in points]), weight_decay=column([point.weight_decay for point in points]),
        momentum=column([point.momentum or 0.0 for point in points]), count=count,
    )  # fmt: skip


def permute_row_by_row(weights: np.ndarray, layers, rng: np.random.Generator) -> np.ndarray:
    """Weights [B, D] with the channels of every group reordered, in numpy, a row and a tensor at a time."""
    layout, groups = build_layout(layers), permutations(layers)
    made = weights.copy()
    for row in made:
        orders = [rng.permutation(group.channels) for group in groups]
        for group, order in zip(groups, orders, strict=True):
            for use in group.uses:
                spec = next(spec for spec in layout.tensors if spec.name == use.tensor)
                part = row[spec.offset : spec.offset + spec.size].reshape(spec.shape)
                if use.axis == 0:
                    part[:] = part[order]
                else:
                    blocks = part.reshape(spec.shape[0], group.channels, -1)
                    part[:] = blocks[:, order].reshape(spec.shape)
    return made


class _VariationalLayer(torch.nn.Module):
    """A convolution or linear layer with variational dropout, one model alone, as the method's authors write it.

    `draw` gives standard normal numbers of a shape; the linear bias has no noise.
    """

    def __init__(self, layer: torch.nn.Module, draw) -> None:
        super().__init__()
        self.layer, self.draw, self.conv = layer, draw, isinstance(layer, torch.nn.Conv2d)
        self.bound = 8.0 if self.conv else 10.0
        self.log_sigma2 = torch.nn.Parameter(torch.full_like(layer.weight, -10.0))
        if self.conv:
            self.log_sigma2_bias = torch.nn.Parameter(torch.full_like(layer.bias, -10.0))

    def alphas(self):
        pairs = [(self.layer.weight, self.log_sigma2)]
        pairs += [(self.layer.bias, self.log_sigma2_bias)] if self.conv else []
        return [(w, (s - 2 * torch.log(w.abs() + 1e-15)).clamp(-self.bound, self.bound)) for w, s in pairs]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        alphas = self.alphas()
        if not self.training:
            weight, *bias = [torch.where(alpha >= 3, 0.0, w) for w, alpha in alphas]
            bias = bias[0] if bias else self.layer.bias
            return functional.conv2d(x, weight, bias) if self.conv else functional.linear(x, weight, bias)
        variances = [alpha.exp() * w * w for w, alpha in alphas]
        spread = functional.conv2d if self.conv else functional.linear
        variance = spread(x * x, *variances)
        return self.layer(x) + torch.sqrt(variance + 1e-15) * self.draw(variance)

    def divergence(self) -> torch.Tensor:
        k1, k2, k3 = 0.63576, 1.8732, 1.48695
        parts = [
            -(k1 * torch.sigmoid(k2 + k3 * alpha) - 0.5 * torch.log1p(torch.exp(-alpha)) - k1).sum()
            for _, alpha in self.alphas()
        ]
        return sum(parts)


def variational(module: Network, draw=torch.randn_like) -> list[_VariationalLayer]:
    """Give every convolution and linear layer of a module noise; `draw(output)` may be one a layer."""
    layers = [(name, part) for name, part in module.named_children() if hasattr(part, "weight")]
    made = []
    for number, (name, part) in enumerate(layers):
        made.append(_VariationalLayer(part, draw if draw is torch.randn_like else draw(number)))
        setattr(module, name, made[-1])
    return made
