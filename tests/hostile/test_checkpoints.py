"""Checkpoints that strangers made: mutated and made by hand, they are read as written or refused, and nothing runs.

The reading happens in a process of its own with bounds on time and memory, which counts what became of each input:
this file is run as a script there.
"""

from __future__ import annotations

import functools
import io
import json
import random
import struct
import sys
import types
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hostile.file_attacks import SENTINEL, Tally, mutated, report, run_fenced
from raw_zoos import PARAMS, SEED_ZOO, make_zoo, saved, state_dict, trial_name, weights_of, write_trial
from tiny_runs import make_run
from typer.testing import CliRunner

from zoo_datasets.builders import build_repository, open_source
from zoo_datasets.builders.checkpoints.pickles import load_pickle
from zoo_datasets.builders.checkpoints.torch_file import CheckpointReader, as_files, read_tensors
from zoo_datasets.builders.checkpoints.vocabulary import CHECKPOINT, DATASET
from zoo_datasets.builders.containers.native_files import Template, check_alike, library
from zoo_datasets.builders.sources.base import States
from zoo_datasets.cli.app import app
from zoo_datasets.errors import SourceError
from zoo_datasets.loading.exporting import export_safetensors, load_exported, repository_rows
from zoo_datasets.repository.manifest import read_manifest
from zoo_datasets.runs.run import Run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="its bounds are those of Linux")

COMMAND = f"touch {SENTINEL}"
TENSOR, DICT = b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n)R"
STAND_IN = b"capp.dataset_base\nModelDatasetBase\n)\x81"
# Pieces of pickles, zips and safetensors headers that are written over others.
SPLICED = [
    b"cos\nsystem\n",
    b"cposix\nsystem\n",
    b"cbuiltins\neval\n",
    b"R",
    b"b",
    b"\x81",
    b"\x92",
    b"o",
    b"Q",
    b"t",
    b"(",
    b".",
    b"\x85",
    b"2",
    b"0",
    b"h\0",
    b"q\0",
    b"\x94",
    b"}",
    b"]",
    b"e",
    b"u",
    b"\x93",
    b"N",
    b"\x8a\xff",
    b"\x8b\xff\xff\xff\x7f",
    b"\x8d" + b"\xff" * 8,
    b"X\xff\xff\xff\x7f",
    b"\x8a\x09" + b"\xff" * 9,
    b"ctorch\nDoubleStorage\n",
    b"ctorch\nByteStorage\n",
    TENSOR,
    DICT,
    b"PK\x01\x02",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x06\x07",
    b"../",
    b'"F64"',
    b'"BOOL"',
    b"[0,99999999]",
    b"[9223372036854775807]",
    b"9999999999999999999",
    b"-1",
    b"\x82\x01",
    b"\xff\xff\xff\xff",
]


def small_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = {"a.weight": (4, 1, 3, 3), "a.bias": (4,), "b.weight": (3, 7), "b.bias": (3,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


STATE = small_state()
WHOLE = saved(STATE)
WANTED = {name: tensor.numpy() for name, tensor in STATE.items()}
WORDS = np.arange(4, dtype=np.float32)


def same(found: Mapping[str, Any], wanted: Mapping[str, Any] = WANTED) -> bool:
    return list(found) == list(wanted) and all(
        np.shape(found[name]) == np.shape(wanted[name]) and np.array_equal(found[name], wanted[name]) for name in wanted
    )


# Archives and pickles made by hand.


def archive(data_pkl: bytes, members: Mapping[str, bytes] | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    """A torch-like zip, its checksums right; names are written as they are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as zipped:
        for name, content in {"archive/data.pkl": data_pkl, **(members or {})}.items():
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, method
            zipped.writestr(info, content)
    return file.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def tensor(
    count: int = 4,
    offset: int = 0,
    shape: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
    key: str = "0",
    storage: str = "FloatStorage",
) -> bytes:
    """The opcodes of one tensor, as torch writes them, with any numbers."""
    claims = b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text("cpu") + number(count) + b"tQ"
    numbers = b"".join(b"(" + b"".join(map(number, values)) + b"t" for values in (shape, stride))
    return TENSOR + b"(" + claims + number(offset) + numbers + b"\x89" + DICT + b"tR"


def state_of(*tensors: bytes, names: str = "w") -> bytes:
    items = b"".join(text(f"{names}{index or ''}") + value for index, value in enumerate(tensors))
    return b"\x80\x02" + DICT + b"(" + items + b"u."


def pickles_by_hand() -> dict[str, bytes]:
    """Pickles that would run something, or take much time or memory, were they loaded."""
    made: dict[str, bytes] = {}
    for name in (
        "os system",
        "posix system",
        "nt system",
        "subprocess getoutput",
        "builtins exec",
        "builtins eval",
        "builtins __import__",
        "builtins getattr",
        "__builtin__ eval",
        "torch load",
        "torch.hub load",
        "torch.storage _load_from_bytes",
        "torch._utils _rebuild_device_tensor_from_numpy",
        "functools partial",
        "torch.serialization load",
        "pickle loads",
        "runpy _run_code",
        "numpy.core.multiarray _reconstruct",
        "codecs encode",
        "collections OrderedDict.fromkeys",
        "webbrowser open",
        "pydoc pipepager",
        "shutil rmtree",
        "torch FloatStorage",
        "collections OrderedDict",
    ):
        module, attribute = name.split()
        named = f"c{module}\n{attribute}\n".encode()
        made[name] = b"\x80\x02" + named + text(COMMAND) + b"\x85R."
        made[f"{name}, protocol 0"] = f"c{module}\n{attribute}\n(V{COMMAND}\ntR.".encode()
        made[f"{name}, from the stack"] = (
            b"\x80\x04" + text(module) + text(attribute) + b"\x93" + text(COMMAND) + b"\x85R."
        )
        made[f"{name}, INST"] = f"(V{COMMAND}\ni{module}\n{attribute}\n.".encode()
        made[f"{name}, OBJ"] = b"(" + named + text(COMMAND) + b"o."
        made[f"{name}, NEWOBJ"] = b"\x80\x02" + named + text(COMMAND) + b"\x85\x81."
        made[f"{name}, NEWOBJ_EX"] = b"\x80\x04" + named + text(COMMAND) + b"\x85}\x92."
        made[f"{name}, in a state dict"] = state_of(named + text(COMMAND) + b"\x85R")
        made[f"{name}, as a hook"] = state_of(tensor().removesuffix(DICT + b"tR") + named + text(COMMAND) + b"\x85RtR")
        made[f"{name}, as a storage"] = state_of(tensor().replace(b"ctorch\nFloatStorage\n", named))
        made[f"{name}, as a state"] = b"\x80\x02" + DICT + named + text(COMMAND) + b"\x85Rb."
    chain = b"cbuiltins\ngetattr\ncbuiltins\n__import__\n" + text("os") + b"\x85R" + text("system") + b"\x86R"
    made["getattr chain"] = b"\x80\x02" + chain + text(COMMAND) + b"\x85R."
    made["__setstate__"] = b"\x80\x02" + DICT + b"}" + text("__setstate__") + b"cos\nsystem\nsb" + text(COMMAND) + b"b."
    made["__setstate__ of a stand-in"] = b"\x80\x02" + STAND_IN + b"}" + text("__reduce__") + b"cos\nsystem\nsb."
    made["a stand-in's __class__"] = b"\x80\x02" + STAND_IN + b"}" + text("__class__") + STAND_IN + b"sbR."
    for code in (b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"):
        made[f"extension {code.hex()}"] = b"\x80\x02" + code + b")R."
    for opener, name in ((b"\x8b", "LONG4"), (b"X", "BINUNICODE"), (b"B", "BINBYTES"), (b"T", "BINSTRING")):
        for size in (0x7FFFFFFF, 0xFFFFFFFF, 0x80000000):
            made[f"{name} of {size:,}"] = b"\x80\x02" + opener + struct.pack("<I", size) + b"x" * 50 + b"."
    for opener, name in ((b"\x8d", "BINUNICODE8"), (b"\x8e", "BINBYTES8"), (b"\x96", "BYTEARRAY8"), (b"\x95", "FRAME")):
        for size in (1 << 40, (1 << 63) - 1, (1 << 64) - 1):
            made[f"{name} of {size:,}"] = b"\x80\x05" + opener + struct.pack("<Q", size) + b"x" * 50 + b"."
    deep = 100_000
    made["tuples, 100,000 deep"] = b"\x80\x02N" + b"\x85" * deep + b"."
    made["tuples in a state"] = state_of(b"N" + b"\x85" * deep)
    made["lists, 100,000 deep"] = b"\x80\x02" + b"]" * deep + b"a" * (deep - 1) + b"."
    made["dictionaries, 100,000 deep"] = b"\x80\x02" + b"}K\x01" * deep + b"N" + b"s" * deep + b"."
    made["stand-ins, 20,000 deep"] = b"\x80\x02" + (STAND_IN + b"}K\x01") * 20_000 + b"N" + b"sb" * 20_000 + b"."
    made["marks"] = b"\x80\x02" + b"(" * 300_000 + b"."
    made["laughs"] = b"\x80\x02N" + b"2\x86" * 200 + b"."
    made["laughs as a key"] = b"\x80\x02}N" + b"2\x86" * 200 + b"Ns."
    made["laughs as a state"] = state_of(b"N" + b"2\x86" * 200)
    made["laughs as a reference"] = b"\x80\x02N" + b"2\x86" * 200 + b"Q."
    made["laughs of lists"] = b"\x80\x02]" + b"(22e" * 10_000 + b"."
    made["a list in itself"] = b"\x80\x02]q\0h\0a."
    made["a dictionary in itself"] = b"\x80\x02}q\0K\x01h\0s."
    made["memo"] = b"\x80\x02N" + b"".join(b"r" + struct.pack("<I", 2**32 - 1 - n) for n in range(20_000)) + b"."
    made["memo that is not there"] = b"\x80\x02j\xff\xff\xff\xff."
    made["paths of paths"] = b"\x80\x02" + b"cpathlib\nPosixPath\n" + text("a" * 4000) + b"\x85R." + b"R" * 5
    made["never stops"] = b"\x80\x02" + b"N0" * 300_000
    made["a huge number as text"] = b"I" + b"9" * 1_000_000 + b"\n."
    made["a name without an end"] = b"\x80\x02c" + b"a" * 1_000_000
    made["empty"], made["a point"] = b"", b"."
    return made


def storages_by_hand() -> dict[str, bytes]:
    """Tensors that claim what is not there."""
    large = (1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) + 1, (1 << 126))
    changes: dict[str, dict[str, Any]] = {
        "dtype too wide": {"storage": "DoubleStorage"},
        "dtype too narrow": {"storage": "ByteStorage"},
        "a quantised dtype": {"storage": "QInt8Storage"},
        "untyped": {"storage": "UntypedStorage"},
        "expanded": {"shape": (1 << 40,), "stride": (0,)},
        "expanded twice": {"shape": (4, 1 << 40), "stride": (1, 0)},
        "overlapping": {"shape": (3, 2), "stride": (1, 1)},
        "reaching out": {"shape": (2, 2), "stride": (3, 1)},
        "offset": {"offset": 1},
        "negative offset": {"offset": -1},
        "negative stride": {"stride": (-1,)},
        "negative shape": {"shape": (-4,)},
        "negative count": {"count": -4},
        "twice negative": {"shape": (-2, -2), "stride": (2, 1)},
        "more dimensions": {"shape": (1,) * 60 + (4,), "stride": (1,) * 61},
        "no strides": {"stride": ()},
        "key outside": {"key": "../../outside"},
        "absolute key": {"key": "/etc/passwd"},
        "key with NUL": {"key": "0\0"},
        "key with backslash": {"key": "..\\0"},
        "no key": {"key": ""},
        "count is short": {"count": 3, "shape": (3,)},
    }
    for size in large:
        changes |= {
            f"{size:,} in storage": {"count": size, "shape": (size,)},
            f"{size:,} elements": {"shape": (size,)},
            f"{size:,} × {size:,}": {"shape": (size, size), "stride": (size, 1)},
            f"offset {size:,}": {"offset": size},
            f"stride {size:,}": {"stride": (size,)},
            f"empty, of {size:,} columns": {"shape": (0, size), "stride": (1, 1)},
            f"empty, of {size:,} × {size:,}": {"shape": (size, 0, size), "stride": (1, 1, 1)},
            f"empty, offset {size:,}": {"shape": (0,), "offset": size},
        }
    made = {name: state_of(tensor(**change)) for name, change in changes.items()}
    made["two on each other"] = state_of(tensor(shape=(3,)), tensor(shape=(2,), offset=2))
    made["the same thrice"] = state_of(tensor(), tensor(), tensor())
    made["10,001 tensors"] = state_of(*[tensor(shape=(0,))] * 10_001)
    return made


def patched(data: bytes, places: Mapping[int, bytes]) -> bytes:
    changed = bytearray(data)
    for at, value in places.items():
        changed[at : at + len(value)] = value
    return bytes(changed)


def zips_by_hand() -> dict[str, bytes]:
    """Archives that contradict themselves, around a checkpoint that is good."""
    end = WHOLE.rindex(b"PK\x05\x06")
    central = [at for at in range(len(WHOLE)) if WHOLE.startswith(b"PK\x01\x02", at)]
    headers = [struct.unpack_from("<L", WHOLE, at + 42)[0] for at in central]
    u16, u32 = (functools.partial(struct.pack, code) for code in ("<H", "<L"))
    made = {}
    for value in (0, 1, 0xFFFE, 0xFFFF):
        made[f"{value} members"] = patched(WHOLE, {end + 8: u16(value) * 2})
        made[f"disk {value}"] = patched(WHOLE, {end + 4: u16(value or 7)})
    for value in (0, 1, len(WHOLE), 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF):
        made[f"directory of {value:,} bytes"] = patched(WHOLE, {end + 12: u32(value)})
        made[f"directory at {value:,}"] = patched(WHOLE, {end + 16: u32(value)})
        for index, at in enumerate(central):
            for what, place in (("compressed", 20), ("size", 24), ("header", 42)):
                made[f"{what} {value:,} of member {index}"] = patched(WHOLE, {at + place: u32(value)})
            made[f"sizes {value:,} of member {index}"] = patched(WHOLE, {at + 20: u32(value) * 2})
    for index, (at, header) in enumerate(zip(central, headers, strict=True)):
        for method in (8, 9, 12, 14, 93, 99):
            made[f"method {method} of member {index}"] = patched(WHOLE, {at + 10: u16(method), header + 8: u16(method)})
        made[f"member {index} is encrypted"] = patched(WHOLE, {at + 8: u16(1), header + 6: u16(1)})
        made[f"member {index} on the first"] = patched(WHOLE, {at + 42: u32(headers[0])})
        made[f"member {index} on the next"] = patched(WHOLE, {at + 42: u32(headers[(index + 1) % len(headers)])})
        for length in (0, 1, 0xFFFF):
            made[f"name of {length} in member {index}"] = patched(
                WHOLE, {header + 26: u16(length), at + 28: u16(length)}
            )
            made[f"extra of {length} in member {index}"] = patched(WHOLE, {header + 28: u16(length)})
            made[f"record's extra of {length} in member {index}"] = patched(WHOLE, {at + 30: u16(length)})
    start, size = (struct.unpack_from("<L", WHOLE, end + place)[0] for place in (16, 12))
    for count, told, place in (
        (len(central), 1 << 63, start),
        (1 << 63, size, start),
        (len(central), size, 1 << 63),
        (1 << 40, 1 << 40, 0),
        (0, 0, 0),
        ((1 << 64) - 1, (1 << 64) - 1, (1 << 64) - 1),
    ):
        large = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, told, place)
        for where in (end, 0, 1 << 63, (1 << 64) - 1):
            locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, where, 1)
            tail = patched(WHOLE[end:], {8: b"\xff" * 12})
            made[f"large directory {count:,} {told:,} {place:,} {where:,}"] = WHOLE[:end] + large + locator + tail
    return made


def archives_by_hand() -> dict[str, bytes]:
    """Archives of odd names and sizes, whose checksums are right."""
    good, storage = state_of(tensor()), {"archive/data/0": WORDS.tobytes()}
    other = state_of(tensor(shape=(2,)))
    return {
        "another data.pkl beside the folder": archive(good, storage | {"data.pkl": other}),
        "another storage beside the folder": archive(good, storage | {"data/0": bytes(16)}),
        "deflated": archive(good, storage, zipfile.ZIP_DEFLATED),
        "a bomb": archive(good + bytes(40_000_000), storage, zipfile.ZIP_DEFLATED),
        "a pickle of 20 MB": archive(b"\x80\x02" + b"N0" * 10_000_000 + b".", storage),
        "no storage": archive(good),
        "a short storage": archive(good, {"archive/data/0": bytes(15)}),
        "big-endian": archive(good, storage | {"archive/byteorder": b"big"}),
        "no archive": b"PK",
        "nothing": b"",
        "only an end": b"PK\x05\x06" + bytes(18),
        "a tar": bytes(10_240),
    }


def odd_steps() -> dict[str, bytes]:
    """Tensors [1, 2, 2] whose first stride is never stepped."""
    steps = (0, 4, 1 << 62, (1 << 63) - 1, 1 << 63, 1 << 126)
    storage = {"archive/data/0": WORDS.tobytes()}
    made = {f"{step:,}": state_of(tensor(shape=(1, 2, 2), stride=(step, 1, 2))) for step in steps}
    return {name: archive(data, storage) for name, data in made.items()}


def harmless_archives() -> dict[str, bytes]:
    """Names that lead outside, of members that no tensor needs: nothing is unpacked, so they harm nothing."""
    storage = {"archive/data/0": WORDS.tobytes()}
    names = (
        "../outside",
        "/outside",
        "archive/../../outside",
        "archive\\..\\outside",
        "C:/outside",
        "a\0b",
        "x" * 5000,
    )
    made = {repr(name)[:40]: archive(state_of(tensor()), storage | {name: b"x"}) for name in names}
    many = {f"archive/data/{index}": b"" for index in range(1, 30_000)}
    return made | {"30,000 members": archive(state_of(tensor()), storage | many)}


def headers_by_hand() -> dict[str, bytes]:
    """Safetensors files whose headers lie."""

    def file(header: Any, data: bytes = bytes(16), length: int | None = None) -> bytes:
        content = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(content) if length is None else length) + content + data

    def entry(dtype: str = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "data_offsets": offsets}

    good = {"w": entry()}
    made = {
        f"header of {length:,}": file(good, length=length)
        for length in (0, 1, 1 << 31, 1 << 40, 1 << 63, (1 << 64) - 1)
    }
    made |= {
        "overlap": file({"a": entry(shape=(2,), offsets=(0, 8)), "b": entry(shape=(3,), offsets=(4, 16))}),
        "gap": file({"a": entry(shape=(1,), offsets=(0, 4)), "b": entry(shape=(2,), offsets=(8, 16))}),
        "reversed": file({"w": entry(offsets=(16, 0))}),
        "negative": file({"w": entry(shape=(-4,))}),
        "beyond": file({"w": entry(shape=(8,), offsets=(0, 32))}),
        "not UTF-8": file(b'{"\xff\xfe": 1}'),
        "twice": file(b'{"w":' + json.dumps(entry()).encode() + b',"w":' + json.dumps(entry()).encode() + b"}"),
        "unknown dtype": file({"w": entry("F7")}),
        "wrong dtype": file({"w": entry("F64")}),
        "overflow": file({"w": entry(shape=(1 << 33, 1 << 33))}),
        "overflow to 4": file({"w": entry(shape=((1 << 62) + 1, 4))}),
        "wide overflow": file({"w": entry(shape=((1 << 64) - 1, (1 << 64) - 1))}),
        "deep": file(b'{"w":' + b"[" * 200_000),
        "no object": file([1]),
        "text": file({"w": "text"}),
        "empty": b"",
        "short": b"\x01",
        "zeros": bytes(64),
        "trailing bytes": file(good, bytes(17)),
        "fractions": file({"w": entry(shape=(0.5,))}),
        "text in metadata": file({"__metadata__": {"zoo_datasets": "{" * 100_000}, **good}),
        "no text in metadata": file({"__metadata__": {"zoo_datasets": 5}, **good}),
    }
    for dtype, width in (
        ("F8_E4M3", 1),
        ("F8_E5M2", 1),
        ("F8_E8M0", 1),
        ("U64", 8),
        ("U16", 2),
        ("BOOL", 1),
        ("C64", 8),
        ("F4", 1),
        ("BF16", 2),
    ):
        made[f"of {dtype}"] = file({"w": entry(dtype, (16 // width,))})
    return made


# What is done in the process of its own.


def read_alone(tally: Tally, inputs: Mapping[str, bytes], wanted: Mapping[str, Any]) -> None:
    """Each input by the reader, and by the compiled functions: what these take, the reader takes too."""
    reader = CheckpointReader()
    structure = reader.structure(WHOLE)
    template = Template.of(structure)
    for name, data in inputs.items():
        fine: list[bool] = []

        def read(data: bytes = data, fine: list[bool] = fine) -> bool:
            found = reader.structure(data)
            files = as_files([data])
            values = {one.name: found.gather(files, one).reshape(one.shape) for one in found.tensors}
            fine.append(same(values, wanted) and same(read_tensors(data), wanted))
            return fine[0]

        tally.read(name, read)
        if len(data) == template.length and library() is not None:
            good = check_alike(np.frombuffer(data, np.uint8).copy(), 1, template)
            if good is None or (good[0] and fine != [True]):
                tally.crashed.append(f"{name}: only the compiled functions take it")


def mutated_checkpoints(tally: Tally) -> None:
    rng = random.Random(1)
    read_alone(tally, {f"mutation {n}": mutated(WHOLE, rng, SPLICED) for n in range(500)}, WANTED)


def legacy_checkpoints(tally: Tally) -> None:
    rng = random.Random(2)
    old = saved(STATE, _use_new_zipfile_serialization=False)
    read_alone(tally, {"old": old} | {f"mutation {n}": mutated(old, rng, SPLICED) for n in range(150)}, WANTED)


def contents(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        found = {name: opened.read(name) for name in opened.namelist()}
    return {f"archive/{name.partition('/')[2]}": content for name, content in found.items()}


def resigned(data: bytes, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Archives whose pickle is mutated and whose checksums are right, so that the pickle's reader meets it."""
    rng = random.Random(seed)
    members = contents(data)
    original = members.pop("archive/data.pkl")
    for index in range(count):
        yield f"mutation {index}", archive(mutated(original, rng, SPLICED), members)


def mutated_pickles(tally: Tally) -> None:
    read_alone(tally, dict(resigned(WHOLE, 3, 500)), WANTED)


def pickles(tally: Tally) -> None:
    storage = {"archive/data/0": WORDS.tobytes()}
    made = pickles_by_hand()
    read_alone(tally, {name: archive(data, storage) for name, data in made.items()}, {})
    for name, data in made.items():
        for vocabulary in (CHECKPOINT, DATASET):
            tally.read(name, lambda data=data, vocabulary=vocabulary: inert(load_pickle(data, vocabulary)))


def inert(value: object) -> bool:
    return type(value).__module__ in ("builtins", "zoo_datasets.builders.checkpoints.pickled")


def storages(tally: Tally) -> None:
    storage = {"archive/data/0": WORDS.tobytes()}
    read_alone(tally, {name: archive(data, storage) for name, data in storages_by_hand().items()}, {"w": WORDS})


def zips(tally: Tally) -> None:
    read_alone(tally, zips_by_hand(), WANTED)


def archives(tally: Tally) -> None:
    read_alone(tally, archives_by_hand(), {})


def harmless(tally: Tally) -> None:
    read_alone(tally, harmless_archives(), {"w": WORDS})
    read_alone(tally, odd_steps(), {"w": WORDS.reshape(1, 2, 2).transpose(0, 2, 1)})


def preprocessed_file() -> bytes:
    """A small dataset of the authors, under the name of a class that is there only while it is written."""
    names = ("checkpoints_to_datasets", "checkpoints_to_datasets.dataset_base")
    modules = [types.ModuleType(name) for name in names]
    made = type("ModelDatasetBase", (), {"__module__": names[1]})
    modules[1].__dict__["ModelDatasetBase"] = made
    sys.modules.update(zip(names, modules, strict=True))
    content = {}
    for seed, key in enumerate(("trainset", "valset", "testset")):
        content[key] = made()
        content[key].__dict__.update(
            data_in=[state_dict(weights_of(seed, 0))],
            paths=[Path(SEED_ZOO) / trial_name(seed, seed)],
            epochs=[0],
            properties={"test_acc": [0.5], "training_iteration": [0], "ggap": [0.1]},
        )
    data = saved(content)
    for name in names:
        del sys.modules[name]
    return data


def read_source(path: Path) -> bool:
    """Read all states of a source; whether its weights are those that were written."""
    source = open_source(path)
    found = [item for block in source.blocks() for item in source.read(block)]
    rows = [row for item in found if isinstance(item, States) for row in item.weights]
    if not rows:
        raise SourceError(str(found))
    return all(any(torch.equal(row, weights_of(seed, 0)) for seed in range(3)) for row in rows)


def preprocessed(tally: Tally) -> None:
    data, folder = preprocessed_file(), Path.cwd() / "pt"
    folder.mkdir()
    rng = random.Random(6)
    inputs = dict(resigned(data, 4, 250))
    inputs |= {f"damage {index}": mutated(data, rng, SPLICED) for index in range(100)}
    inputs |= {
        name: archive(attack, {"archive/data/0": bytes(16)})
        for name, attack in pickles_by_hand().items()
        if len(attack) < 50_000
    }
    attribute = functools.partial(preprocessed_with, contents(data))
    inputs |= {
        "paths that are lists": attribute("paths", b"]]a"),
        "epochs that are huge": attribute("epochs", b"]" + number(1 << 100) + b"a"),
        "epochs that are many bits": attribute("epochs", b"]" + number(1 << 40) + b"a"),
        "paths of dots": attribute("paths", b"]" + text("../..") + b"a"),
        "long paths": attribute("paths", b"]" + text("a" * 4000 + "/b") + b"a"),
        "paths of NUL": attribute("paths", b"]" + text("a\0b/c\0d") + b"a"),
        "deep paths": attribute("paths", b"]N" + b"2\x86" * 200 + b"a"),
        "figures that are deep": attribute(
            "properties", b"}" + text("training_iteration") + b"]N" + b"2\x86" * 200 + b"as"
        ),
    }
    for name, content in inputs.items():
        path = folder / "dataset.pt"
        path.write_bytes(content)
        tally.read(name, lambda path=path: read_source(path))
        path.unlink()


def preprocessed_with(members: Mapping[str, bytes], name: str, value: bytes) -> bytes:
    """The dataset with a value of one's own in the place of an attribute of its trainset."""
    others = dict(members)
    data = others.pop("archive/data.pkl")
    end = data.index(b"b", data.index(b"training_iteration"))  # where the attributes are set
    while not _sets_state(data, end):
        end = data.index(b"b", end + 1)
    attack = b"(" + text(name) + value + b"u"
    return archive(data[:end] + attack + data[end:], others)


def _sets_state(data: bytes, at: int) -> bool:
    """Whether the byte at a place is a BUILD, as pickle's own disassembler sees it."""
    import pickletools

    return any(opcode.name == "BUILD" and place == at for opcode, _, place in pickletools.genops(data))


def mutated_safetensors(tally: Tally) -> None:
    """Epochs of a run, and exported rows; they carry no checksum, so other values may come out."""
    rng = random.Random(5)
    run = make_run(Path.cwd() / "run", growth=((4, 0),))
    cohort = run.cohorts()[0]
    file, wanted = cohort.epoch_file(0), cohort.weights(0)
    original = file.read_bytes()
    exported, row, kept = _exported(run)
    head = 8 + int.from_bytes(original[:8], "little")
    for index in range(250):
        in_header = index % 3 == 0  # most of the file is values
        changed = (
            mutated(original[:head], rng, SPLICED) + original[head:] if in_header else mutated(original, rng, SPLICED)
        )
        _replace(file, changed)
        tally.read(f"epoch {index}", lambda: torch.equal(cohort.weights(0), wanted))
        head_of_row = 8 + int.from_bytes(row[:8], "little")
        changed = (
            mutated(row[:head_of_row], rng, SPLICED) + row[head_of_row:] if in_header else mutated(row, rng, SPLICED)
        )
        _replace(exported, changed)
        tally.read(f"row {index}", lambda: same(_plain(load_exported(exported)), kept))
    _replace(file, original)


def _exported(run: Run) -> tuple[Path, bytes, dict[str, Any]]:
    build_repository(run.path, Path.cwd() / "repo_of_run")
    (path, *_) = export_safetensors(
        repository_rows(Path.cwd() / "repo_of_run", "digits_cnn_s"), Path.cwd() / "exported"
    )
    return path, path.read_bytes(), _plain(load_exported(path))


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value) if isinstance(value, torch.Tensor) else str(value) for name, value in row.items()}


def _replace(path: Path, data: bytes) -> None:
    path.unlink()  # tensors of the last one may still be mapped
    path.write_bytes(data)


def safetensors_by_hand(tally: Tally) -> None:
    cohort = Run.open(Path.cwd() / "run").cohorts()[0]
    file, exported = cohort.epoch_file(0), Path.cwd() / "row.safetensors"
    original = file.read_bytes()
    for name, data in headers_by_hand().items():
        _replace(file, data)
        exported.write_bytes(data)
        tally.read(name, lambda: bool(cohort.weights(0).numel()) and False)
        tally.read(f"{name}, exported", lambda: bool(load_exported(exported)) and False)
    _replace(file, original)


def builds(tally: Tally) -> None:
    """One `zoo build` over a folder of trials with bad checkpoints, among good ones."""
    zoo, repo = Path.cwd() / SEED_ZOO, Path.cwd() / "repo"
    make_zoo(zoo, models=3, epochs=(0,))
    rng = random.Random(7)
    # The first of those that are left out are printed.
    odd_names = {"[/red]\x1b[2J\0‮": torch.ones(3)}
    attacks = {f"odd names {index}": saved(odd_names) for index in range(20)}
    for index in range(150):
        attacks[f"mutation {index}"] = mutated(saved(state_dict(weights_of(len(attacks) + 4, 0))), rng, SPLICED)
    storage = {"archive/data/0": WORDS.tobytes()}
    for made in (pickles_by_hand(), storages_by_hand()):
        attacks |= {name: archive(data, storage) for name, data in list(made.items())[::3]}
    attacks |= dict(list(zips_by_hand().items())[::5]) | archives_by_hand()
    attacks["odd names"] = archive(state_of(tensor(), names="[/red]\x1b[2J\0\n‮" * 20), storage)
    for index, data in enumerate(attacks.values(), 4):
        params = PARAMS | {"seed": index}
        write_trial(zoo / trial_name(index, index), params, {0: data})
    result = CliRunner().invoke(app, ["build", str(zoo), "--out", str(repo), "--num-proc", "2"])
    if result.exit_code or result.exception is not None:
        tally.crashed.append(f"zoo build: {result.exception!r} {result.output[-500:]}")
        return
    if "\x1b" in result.output:
        tally.crashed.append("zoo build printed an escape sequence")
    manifest = read_manifest(repo, "mnist_cnn_s")
    assert manifest is not None
    rows = {
        row["seed"]: np.array(row["weights"], np.float32)
        for shard in manifest.shards
        for row in pq.read_table(repo / shard.path).to_pylist()
    }
    reasons = {entry.model: entry.reason for entry in manifest.left_out}
    for index, name in enumerate(attacks, 4):
        tally.tried += 1
        if index in rows:
            alike = np.array_equal(rows[index], weights_of(index, 0).numpy())
            tally.alike += alike
            tally.changed += [] if alike else [name]
        else:
            tally.refuse(reasons[trial_name(index, index)])


BATCHES = {
    "mutated checkpoints": mutated_checkpoints,
    "mutated old checkpoints": legacy_checkpoints,
    "mutated pickles with right checksums": mutated_pickles,
    "pickles by hand": pickles,
    "storages by hand": storages,
    "zips by hand": zips,
    "archives by hand": archives,
    "harmless archives": harmless,
    "preprocessed datasets": preprocessed,
    "mutated safetensors": mutated_safetensors,
    "safetensors by hand": safetensors_by_hand,
    "zoo build": builds,
}
# Batches whose files carry checksums or are wrong as a whole: another value that is read is a failure.
CHECKED = [
    "mutated checkpoints",
    "mutated old checkpoints",
    "storages by hand",
    "zips by hand",
    "archives by hand",
    "harmless archives",
    "safetensors by hand",
    "zoo build",
]


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "outside").write_text("what lies here is none of a file's business")
    batches: dict[str, Any] = run_fenced(__file__, folder)["batches"]
    return batches


@pytest.mark.parametrize("batch", BATCHES)
def test_each_input_is_read_as_written_or_refused(counts, batch):
    found = counts[batch]
    assert found["crashed"] == []
    assert found["tried"] == found["alike"] + found["refused"] + len(found["changed"]) > 0
    if batch in CHECKED:
        assert found["changed"] == []


def test_many_inputs_are_tried_and_most_are_refused(counts):
    tried = {batch: found["tried"] for batch, found in counts.items()}
    assert sum(tried.values()) > 3000
    assert counts["mutated old checkpoints"]["refused"] == tried["mutated old checkpoints"]
    assert counts["safetensors by hand"]["refused"] == tried["safetensors by hand"]
    assert counts["archives by hand"]["refused"] == tried["archives by hand"]
    assert counts["harmless archives"]["alike"] == tried["harmless archives"]


if __name__ == "__main__":
    library()
    CliRunner().invoke(app, ["list"])  # imports what commands import
    report(Path(sys.argv[1]), dict(BATCHES))
