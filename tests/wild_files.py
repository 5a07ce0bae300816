"""Checkpoints as those of the CNN Wild Park, whose settings are objects of OmegaConf, without OmegaConf."""

import io
import sys
import types
import zipfile
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

CLASSES = {
    "omegaconf.dictconfig": ["DictConfig"],
    "omegaconf.listconfig": ["ListConfig"],
    "omegaconf.base": ["ContainerMetadata", "Metadata"],
    "omegaconf.nodes": ["IntegerNode", "StringNode", "AnyNode", "Extra"],
    "create_random_cnns": ["CNNConfig", "Other"],
}


@contextmanager
def omegaconf():
    """The classes by name, importable while files are written."""
    made = {}
    modules = {name: types.ModuleType(name) for name in ("omegaconf", *CLASSES)}
    for module, names in CLASSES.items():
        for name in names:
            made[name] = type(name, (), {"__module__": module})
            setattr(modules[module], name, made[name])
    sys.modules.update(modules)
    try:
        yield types.SimpleNamespace(**made)
    finally:
        for name in modules:
            del sys.modules[name]


def instance(kind, **attributes):
    thing = kind()
    thing.__dict__.update(attributes)
    return thing


def node(classes, value, key, integer="IntegerNode"):
    if isinstance(value, list):
        metadata = instance(classes.ContainerMetadata, ref_type=list, object_type=list, key=key, element_type=Any)
        content = [node(classes, item, place, integer) for place, item in enumerate(value)]
        return instance(classes.ListConfig, _metadata=metadata, _parent=None, _content=content)
    kind = getattr(classes, integer) if isinstance(value, int) else classes.StringNode
    metadata = instance(classes.Metadata, ref_type=type(value), object_type=type(value), optional=False, key=key)
    return instance(kind, _metadata=metadata, _parent=None, _val=value)


def settings(classes, config, integer="IntegerNode", dataclass="CNNConfig"):
    """A configuration as the authors' training saved it."""
    kind = getattr(classes, dataclass)
    metadata = instance(classes.ContainerMetadata, ref_type=Any, object_type=kind, flags={"readonly": True})
    content = {key: node(classes, value, key, integer) for key, value in config.items()}
    return instance(classes.DictConfig, _metadata=metadata, _parent=None, _content=content)


ACTIVATIONS = {
    "relu": functional.relu, "gelu": functional.gelu, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
    "leaky_relu": functional.leaky_relu, "none": lambda x: x,
}  # fmt: skip


class Reference(nn.Module):
    """A CNN of the park as its text describes it."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        widths = config["channels"]
        self.layers = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], config["kernel_size"][i], config["stride"][i], config["padding"][i])
            for i in range(config["n_layers"])
        )
        self.fc = nn.Linear(widths[-1], config["n_classes"])

    def forward(self, x):
        outputs = []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            source = self.config["residual"][number]
            if source > -1:
                shared = min(x.shape[1], outputs[source].shape[1])
                x = torch.cat([x[:, :shared] + outputs[source][:, :shared], x[:, shared:]], 1)
            x = ACTIVATIONS[self.config["activation"][number]](x)
            outputs.append(x)
        return self.fc(x.mean((2, 3)))


def config_of(channels, residual, activation, kernels=None, stride=None):
    layers = len(channels)
    kernels = kernels or [3] * layers
    return {
        "n_layers": layers, "n_classes": 10, "channels": [3, *channels], "kernel_size": kernels,
        "stride": stride or [1] * layers, "padding": [kernel // 2 for kernel in kernels], "residual": residual,
        "activation": activation,
    }  # fmt: skip


CONFIGS = (
    config_of([4, 8, 4, 4], [-1, -1, 0, 0], ["none", "tanh", "gelu", "leaky_relu"], [5, 3, 7, 3]),
    config_of([8, 4], [-1, -1], ["relu", "sigmoid"]),
    config_of([4, 16, 8, 16, 4], [-1, 0, 0, 1, 2], ["sigmoid", "none", "relu", "tanh", "gelu"]),
)


def checkpoint(config, epoch, settings_of=None, **options):
    """A file, and the network whose weights it holds; its settings are those of `settings_of` where given."""
    torch.manual_seed(epoch + config["n_layers"])
    network = Reference(config)
    file = io.BytesIO()
    with omegaconf() as classes:
        content = {
            "model": network.state_dict(),
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.001, "weight_decay": 0.0, "params": [0]}]},
            "config": settings(classes, settings_of or config, **options),
            "iteration": epoch,
            "last_result": {"test/acc": np.float64(0.01 * epoch), "test/loss": 2.0 / epoch},
        }
        torch.save(content, file)
    return file.getvalue(), network


def park(path, configs=CONFIGS, epochs=(10, 20)):
    """Write an archive; returns the networks by model and epoch."""
    networks = {}
    with zipfile.ZipFile(path, "w") as archive:
        for number, config in enumerate(configs):
            trial = f"cifar10_zooV2/NN_tune_trainable_{number:05d}"
            for epoch in epochs:
                data, networks[trial, epoch] = checkpoint(config, epoch)
                archive.writestr(f"{trial}/checkpoint_{epoch:06d}/checkpoint.pt", data)
    return networks
