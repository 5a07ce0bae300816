"""Published sets of INRs in small, written by what their formats say, and their functions in plain NumPy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

OMEGA, OFFSET = 30.0, 0.5
SIDE = 8  # pixels of the images


def siren(
    seed: int, stems: tuple[str, ...] = ("seq.0", "seq.1", "seq.2"), out: int = 1, hidden: int = 6
) -> dict[str, Tensor]:
    """The state dict of a network of sines 2 → hidden → hidden → out, whose function is smooth."""
    random = torch.Generator().manual_seed(seed)
    widths = (2, hidden, hidden, out)
    state = {}
    for place, stem in enumerate(stems):
        shape = (widths[place + 1], widths[place])
        state[f"{stem}.weight"] = torch.randn(shape, generator=random) * (0.1 if place < 2 else 0.2)
        state[f"{stem}.bias"] = torch.randn(shape[0], generator=random) * 0.05
    return state


def value_at(
    state: Mapping[str, Tensor], points: np.ndarray, omega: float = OMEGA, offset: float = OFFSET
) -> np.ndarray:
    """What a state dict, its layers in order, gives at points [N, 2]: float64 [N, C]."""
    stems = list(dict.fromkeys(name.rpartition(".")[0] for name in state))
    x = points
    for place, stem in enumerate(stems):
        x = x @ state[f"{stem}.weight"].double().numpy().T + state[f"{stem}.bias"].double().numpy()
        x = np.sin(omega * x) if place < len(stems) - 1 else x + offset
    return x


def picture_of(state: Mapping[str, Tensor], side: int = SIDE, first: str = "column", **how: float) -> np.ndarray:
    """What it draws, pixel by pixel: float64 [C, side, side]."""
    at = np.linspace(-1, 1, side)
    values = [
        [
            value_at(state, np.array([[at[c], at[r]] if first == "column" else [at[r], at[c]]]), **how)[0]
            for c in range(side)
        ]
        for r in range(side)
    ]
    return np.array(values).transpose(2, 0, 1)


def psnr_of(picture: np.ndarray, pixels: np.ndarray) -> float:
    """In dB, of a picture and uint8 pixels."""
    return float(-10 * np.log10(np.mean((picture - pixels / 255.0) ** 2)))


def save(folder: Path, files: Mapping[str, Any]) -> Path:
    """Files under a folder: JSON by their ending, all others by torch.save."""
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            path.write_text(json.dumps(value))
        else:
            torch.save(value, path)
    return folder


def dws_mnist(folder: Path, count: int = 6) -> tuple[Path, dict[str, dict[str, Tensor]]]:
    """A folder as mnist-inrs.zip has it, its networks by the names of their folders."""
    states = {}
    for number in range(count):
        split = "training" if number < count - 2 else "testing"
        states[f"mnist_png_{split}_{number % 3}_{number}"] = siren(number)
    files = {f"mnist-inrs/{name}/checkpoints/model_final.pth": state for name, state in states.items()}
    return save(folder, files) / "mnist-inrs", states


def write_images(folder: Path, pixels: Mapping[str, list[np.ndarray]]) -> Path:
    """Images uint8 [side, side] by split, as Parquet in the layout of the Hub."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    for split, images in pixels.items():
        rows = {"image": [Image.fromarray(image) for image in images], "label": [0] * len(images)}
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return folder
