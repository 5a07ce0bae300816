"""A small population in the format of the Small CNN Zoo, written as its description has it, and read back likewise."""

import csv
import gzip
import io
import json

import numpy as np
import torch
from torch import nn

# Each variable of TensorFlow with its shape: bias before kernel, HWIO and (in, out).
SHAPES = {
    "sequential/conv2d/bias:0": (16,),
    "sequential/conv2d/kernel:0": (3, 3, 1, 16),
    "sequential/conv2d_1/bias:0": (16,),
    "sequential/conv2d_1/kernel:0": (3, 3, 16, 16),
    "sequential/conv2d_2/bias:0": (16,),
    "sequential/conv2d_2/kernel:0": (3, 3, 16, 16),
    "sequential/dense/bias:0": (10,),
    "sequential/dense/kernel:0": (16, 10),
}
STEPS = (0, 1, 2, 3, 20, 40, 60, 80, 86)


def layout(shapes=SHAPES, **more):
    """The text of layout.csv."""
    rows, start = [], 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        rows.append({"varname": name, "start_idx": start, "end_idx": start + size, "size": size, "shape": str(shape)})
        start += size
    return _csv([row | more for row in rows])


def _csv(rows):
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def metrics(runs, steps=STEPS, dataset="mnist", generator=None):
    """The rows of metrics.csv: run by run, step by step."""
    generator = generator or np.random.default_rng(1)
    rows = []
    for run in range(runs):
        config = {
            "activation": ("relu", "tanh")[run % 2], "b_init": "zeros", "dataset": dataset, "dnn_architecture": "cnn",
            "dropout": float(generator.uniform(0, 0.7)), "epochs": steps[-1], "epochs_between_checkpoints": 20,
            "init_std": 0.05 * (run + 1), "l2reg": 1e-4 * (run + 1), "learning_rate": 0.001 * (run + 1),
            "num_layers": 3, "num_units": 16, "optimizer": ("adam", "sgd", "rmsprop")[run % 3], "random_seed": 42,
            "train_fraction": (0.1, 0.25, 0.5, 1.0)[run % 4], "w_init": ("glorot_normal", "he_normal")[run % 2],
        }  # fmt: skip
        for step in steps:
            accuracy, loss = generator.uniform(0.1, 0.9), generator.uniform(0.3, 2.3)
            rows.append(
                {f"config.{name}": value for name, value in config.items()}
                | {"modeldir": f"/runs/{dataset}/{run}", "step": step, "test_accuracy": accuracy, "test_loss": loss}
                | {"train_accuracy": accuracy + 0.01, "train_loss": loss - 0.1}
            )
    return rows


def write_zoo(folder, rows, weights, shapes=SHAPES, index=False):
    """The three files; `index`: with the index of pandas as a first column without a name."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "weights.npy", weights)
    (folder / "layout.csv").write_text(layout(shapes))
    text = _csv([{"": number} | row for number, row in enumerate(rows)] if index else rows)
    (folder / "metrics.csv.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def small_zoo(folder, runs=4, **options):
    """A zoo with random weights; returns the rows of its table and the weights as they are stored."""
    generator = np.random.default_rng(0)
    rows = metrics(runs, generator=generator, **{k: v for k, v in options.items() if k in ("steps", "dataset")})
    weights = generator.normal(scale=0.2, size=(len(rows), 4970)).astype(np.float32)
    write_zoo(folder, rows, weights, index=options.get("index", False))
    return rows, weights


def tensors(row, shapes=SHAPES):
    """The variables of a row of weights, by name, as TensorFlow has them."""
    values, start = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        values[name] = torch.from_numpy(np.array(row[start : start + size])).reshape(shape)
        start += size
    return values


class Reference(nn.Module):
    """Three convolutions of stride 2, `valid`, the mean over all pixels, and a dense layer; of a row of weights."""

    def __init__(self, row, activation):
        super().__init__()
        self.values = tensors(row)
        self.activation = {"relu": torch.relu, "tanh": torch.tanh}[activation]

    def forward(self, x):
        for layer in ("conv2d", "conv2d_1", "conv2d_2"):
            kernel = self.values[f"sequential/{layer}/kernel:0"]
            height, width, _, outputs = kernel.shape
            # Written out: each output pixel is the sum over a window of 3 × 3 pixels, every other pixel.
            windows = x.unfold(2, height, 2).unfold(3, width, 2)
            x = torch.einsum("bcyxhw,hwco->boyx", windows, kernel)
            x = self.activation(x + self.values[f"sequential/{layer}/bias:0"].view(1, outputs, 1, 1))
        x = x.mean(dim=(2, 3))
        return x @ self.values["sequential/dense/kernel:0"] + self.values["sequential/dense/bias:0"]


def as_json(path):
    return json.loads(path.read_text())
