"""Listing and reading many small files by functions that the system's C compiler makes at run time.

A zoo has a folder and a file for each model and epoch: what Python adds to each of them takes longer than the
system does. The functions release Python's lock, so that threads read at the same time. Without a compiler there
are none, and the containers do the same in Python.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_datasets.builders.checkpoints.torch_file import Structure
from zoo_datasets.errors import NativeError
from zoo_datasets.native.compiler import compile_library

_STAMP = struct.Struct("=2q")


class _Text(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("size", ctypes.c_int64), ("capacity", ctypes.c_int64)]


class _Listing(ctypes.Structure):
    _fields_ = [("entries", _Text), ("refused", _Text), ("stamps", _Text)]


class _Structure(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("length", "pieces", "checksums")),
        *((name, ctypes.c_void_p) for name in ("piece", "checksum", "same")),
    ]


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None if no compiler is available."""
    try:
        source = resources.files("zoo_datasets.builders.containers") / "files.c"
        compiled = compile_library(source.read_text(encoding="utf-8"))
    except (NativeError, OSError):
        return None
    pointer, number, text = ctypes.c_void_p, ctypes.c_int64, ctypes.c_char_p
    compiled.zoo_list.argtypes = [text, text, pointer]
    compiled.zoo_read.argtypes = [ctypes.c_int, text, number, pointer, pointer, pointer]
    compiled.zoo_check.argtypes = [number, pointer, pointer, pointer]
    compiled.zoo_free.argtypes = [pointer]
    compiled.zoo_crc32.argtypes = [text, number]
    compiled.zoo_crc32.restype = ctypes.c_uint32
    compiled.zoo_read.restype = compiled.zoo_check.restype = compiled.zoo_free.restype = None
    return compiled


@dataclass(frozen=True, slots=True)
class Tree:
    """What lies below a folder.

    Attributes:
        entries: paths relative to it in sorted order, those of folders with a slash at the end.
        refused: those that cannot be read: links and devices, and folders with the number of the system's error.
        stamps: changes when the size of a file changes, or the time at which it was written; files whose names begin
            with a dot do not count.
    """

    entries: list[str]
    refused: dict[str, int | None]
    stamps: bytes


def list_tree(root: str, threads: int = 1) -> Tree | None:
    """What lies below a folder, its folders listed by `threads` threads; None without a compiler."""
    functions = library()
    if functions is None:
        return None
    try:
        with os.scandir(root) as listing:
            if threads <= 1 or not any(entry.is_dir(follow_symlinks=False) for entry in listing):
                return Tree(*_list_below(functions, root, ""))
        # Once and here: what comes or goes meanwhile is in or out, and each folder is listed by one thread.
        with os.scandir(root) as listing:
            named = {
                f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name: entry for entry in listing
            }
    except OSError as error:
        return Tree([], {"": error.errno}, b"")
    top_level = sorted(named)
    folders = [path for path in top_level if path.endswith("/")]
    pool = ThreadPoolExecutor(threads)
    try:
        below = dict(zip(folders, pool.map(lambda path: _list_below(functions, root, path), folders), strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    trees = [below[path] if path in below else _own(path, named[path]) for path in top_level]
    return Tree(
        list(itertools.chain.from_iterable(tree[0] for tree in trees)),
        {path: number for tree in trees for path, number in tree[1].items()},
        b"".join(tree[2] for tree in trees),
    )


_Listed = tuple[list[str], dict[str, int | None], bytes]  # as the attributes of `Tree`


def _own(path: str, entry: os.DirEntry[str]) -> _Listed:
    """A file of the root itself."""
    refused: dict[str, int | None] = {} if entry.is_file(follow_symlinks=False) else {path: None}
    return [path], refused, b"" if path.startswith(".") else _STAMP.pack(*_stamp(entry))


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:  # it vanished, as files.c has it
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _list_below(functions: ctypes.CDLL, root: str, name: str) -> _Listed:
    listing = _Listing()
    try:
        fine = functions.zoo_list(os.fsencode(root), os.fsencode(name), ctypes.byref(listing))
        entries, refused = _texts(listing.entries), _texts(listing.refused)
        stamps = ctypes.string_at(listing.stamps.data, listing.stamps.size) if listing.stamps.size else b""
    finally:
        for text in (listing.entries, listing.refused, listing.stamps):
            functions.zoo_free(text.data)
    if not fine:
        raise MemoryError(f"{root}/{name}: no memory left for the list of its files")
    return sorted(entries), dict(map(_refused, refused)), stamps


def _texts(text: _Text) -> list[str]:
    return os.fsdecode(ctypes.string_at(text.data, text.size - 1)).split("\0") if text.size else []


def _refused(text: str) -> tuple[str, int | None]:
    if not text.startswith("/"):
        return text, None
    number, _, path = text[1:].partition(":")
    return path, int(number)


@dataclass(frozen=True, slots=True)
class Template:
    """What files of one structure have in common, as the compiled functions take it."""

    length: int
    _told: _Structure
    _kept: tuple[Any, ...]

    @classmethod
    def of(cls, structure: Structure) -> Template:
        """The template of a structure.

        Raises:
            ValueError: if it refers to bytes outside the file.
        """
        pieces = np.array([(start, len(same)) for start, same in structure.pieces], np.int64).reshape(-1, 2)
        checksums = np.array(structure.checksums, np.int64).reshape(-1, 3)
        ends = (pieces.sum(axis=1), checksums[:, :2].sum(axis=1), checksums[:, 2] + 4)
        if any((end > structure.length).any() for end in ends) or any((p < 0).any() for p in (pieces, checksums)):
            raise ValueError(f"a structure of {structure.length:,} bytes refers to places outside of them")
        same = np.frombuffer(b"".join(same for _, same in structure.pieces), np.uint8)
        c_structure = _Structure(structure.length, len(pieces), len(checksums), _at(pieces), _at(checksums), _at(same))
        return cls(structure.length, c_structure, (pieces, checksums, same))


def read_alike(
    folder: int, paths: Sequence[str], template: Template, memory: NDArray[np.uint8]
) -> NDArray[np.bool_] | None:
    """Read files below an open folder into memory, one after another, each taking the template's length.

    Args:
        memory: uint8 [len(paths) · length + 1] or more.

    Returns:
        bool [len(paths)], true for each file that has the structure and is undamaged; the memory of the others is
        undefined. None without a compiler.
    """
    functions = library()
    if functions is None:
        return None
    _check_memory(memory, len(paths) * template.length + 1)
    good = np.zeros(len(paths), np.bool_)
    c_structure = ctypes.byref(template._told)
    functions.zoo_read(folder, _joined(paths), len(paths), c_structure, _at(memory), _at(good))
    return good


def check_alike(memory: NDArray[np.uint8], count: int, template: Template) -> NDArray[np.bool_] | None:
    """Which of `count` consecutive files in memory have the template's structure and are undamaged.

    Returns:
        bool [count]; None without a compiler.
    """
    functions = library()
    if functions is None:
        return None
    _check_memory(memory, count * template.length)
    good = np.zeros(count, np.bool_)
    functions.zoo_check(count, ctypes.byref(template._told), _at(memory), _at(good))
    return good


def _check_memory(memory: NDArray[np.uint8], size: int) -> None:
    if memory.size < size or not memory.flags.c_contiguous:
        raise ValueError(f"memory of {memory.size:,} bytes, expected {size:,} or more that lie together")


def _joined(paths: Sequence[str]) -> bytes:
    return os.fsencode("\0".join(paths))


def _at(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
