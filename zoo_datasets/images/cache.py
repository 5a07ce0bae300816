"""Prepared images on disk: one safetensors file each, which any process maps into memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file

from zoo_datasets.documents import StrPath, parse_json
from zoo_datasets.errors import StorageError
from zoo_datasets.images.cutting import ROLES
from zoo_datasets.images.data import ImageData
from zoo_datasets.images.split import Role, Split
from zoo_datasets.specs.images import ImageSpec
from zoo_datasets.storage.files import cache_folder, replacing
from zoo_datasets.storage.locks import hold
from zoo_datasets.storage.remembered import digest_as_expected
from zoo_datasets.text import one_line

Read = tuple[dict[Role, Split], dict[str, Any]]
SpecOf = Callable[[Mapping[Role, Split], Mapping[str, Any]], ImageSpec]


def find_prepared(name: str, spec_of: SpecOf, fingerprint: str | None, cache_dir: StrPath | None) -> ImageData | None:
    """The images of a fingerprint that were prepared here before, whatever they were read from; None if none were."""
    if fingerprint is None:
        return None
    pattern = cache_file(name, "*", cache_dir)
    for file in sorted(pattern.parent.glob(pattern.name)):
        if _recorded_fingerprint(file) == fingerprint and (cached := _read_cache(file, spec_of)) is not None:
            return cached[0]
    return None


def cache_file(name: str, key: str, cache_dir: StrPath | None) -> Path:
    return Path(cache_dir or cache_folder()).expanduser() / "images" / f"{name}-{key}.safetensors"


def prepared_images(file: Path, spec_of: SpecOf, read: Callable[[], Read], origin: str) -> ImageData:
    """What the cache holds, which is read and written first where there is nothing."""
    cached = _read_cache(file, spec_of)
    if cached is None:
        with _locked(file):
            cached = _read_cache(file, spec_of)  # another process may have written it meanwhile
            if cached is None:
                _write_cache(file, *read())
                cached = _read_cache(file, spec_of)
    if cached is None:
        raise StorageError(f"{file} was written but cannot be read back; check the disk, or set ZOO_CACHE to another")
    data, notice = cached
    if notice:
        warnings.warn(one_line(f"{origin}: {notice}"), UserWarning, stacklevel=4)
    return data


def fingerprint_of(splits: dict[Role, Split], spec: ImageSpec) -> str:
    digest = hashlib.sha256(json.dumps([spec.mean, spec.std, spec.classes]).encode())
    for role, split in splits.items():
        digest.update(json.dumps([role, list(split.images.shape)]).encode())
        digest.update(split.images.contiguous().numpy().data)
        digest.update(split.labels.contiguous().numpy().data)
    return digest.hexdigest()


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Let one process at a time prepare a dataset."""
    with contextlib.ExitStack() as stack:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold(file.with_suffix(".lock")))
        except OSError as error:
            raise StorageError(
                f"prepared images cannot be kept in {file.parent}: {error}; set ZOO_CACHE to a folder to write to"
            ) from error
        yield


def _write_cache(file: Path, splits: dict[Role, Split], description: dict[str, Any]) -> None:
    tensors = {f"{role}.images": split.images.contiguous() for role, split in splits.items()}
    tensors |= {f"{role}.labels": split.labels.contiguous() for role, split in splits.items()}
    with replacing(file) as temporary:
        # One metadata key only: safetensors writes several in random order.
        save_file(tensors, temporary, metadata={"description": json.dumps(description)})


def _recorded_fingerprint(file: Path) -> str | None:
    """What the header of a file of the cache says; None if it cannot be read."""
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            return str(parse_json(opened.metadata()["description"])["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
        return None


def _read_cache(file: Path, spec_of: SpecOf) -> tuple[ImageData, str] | None:
    """What `_write_cache` wrote, mapped into memory; None where there is no file, or other bytes than were written."""
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            description = parse_json(opened.metadata()["description"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        splits = {
            role: Split(tensors[f"{role}.images"], tensors[f"{role}.labels"])
            for role in ROLES
            if role != "val" or "val.images" in tensors
        }
        if any((part.images.dtype, part.labels.dtype) != (torch.uint8, torch.int64) for part in splits.values()):
            return None
        spec = spec_of(splits, description)
        fingerprint = description["fingerprint"]
        if digest_as_expected(file, fingerprint, lambda _: fingerprint_of(splits, spec)) != fingerprint:
            return None
        data = ImageData(
            spec=spec,
            size=splits["train"].images.shape[-1],
            fingerprint=fingerprint,
            train=splits["train"],
            val=splits.get("val"),
            test=splits["test"],
        )
        return data, str(description["notice"])
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
        return None
