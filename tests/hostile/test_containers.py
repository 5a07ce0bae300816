"""Folders and archives that strangers made: nothing outside of them is read or written, and nothing waits forever.

The reading happens in a process of its own with bounds on time and memory, which counts what became of each input:
this file is run as a script there.
"""

from __future__ import annotations

import bz2
import contextlib
import ctypes
import gzip
import io
import json
import lzma
import os
import random
import shutil
import socket
import stat
import struct
import sys
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hostile.file_attacks import Tally, mutated, report, run_fenced
from raw_zoos import PARAMS, SEED_ZOO, make_zoo, result_line, saved, state_dict, tarred, trial_name, weights_of, zipped
from tiny_runs import make_run
from typer.testing import CliRunner

from zoo_datasets.builders import open_source
from zoo_datasets.builders.containers import folder as containers
from zoo_datasets.builders.containers import native_files
from zoo_datasets.builders.containers.archives import open_container
from zoo_datasets.builders.containers.remote_tree import HttpTree, Listed, RemoteFolder
from zoo_datasets.builders.sources.base import LeftOut, States
from zoo_datasets.cli.app import app
from zoo_datasets.errors import SourceError, ZooError
from zoo_datasets.repository.manifest import read_manifest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="its bounds are those of Linux")

SECRET = "what lies here is none of a file's business"
LIMIT = 1 << 20
SPLICED = [
    b"PK\x01\x02",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"../",
    b"/etc/",
    b"\xff\xff\xff\xff",
    bytes(512),
    b"\x80" + b"\xff" * 11,
    b"7" * 11,
    b"ustar\x0000",
    b"L",
    b"K",
    b"S",
    b"x",
    b"g",
    b"2",
]
TRIAL = f"{SEED_ZOO}/{trial_name(90, 91)}"
Files = Mapping[str, bytes]


def trial_files(root: str = TRIAL, checkpoint: bytes | None = None) -> dict[str, bytes]:
    """The files of one trial."""
    params = PARAMS | {"seed": 91}
    data = saved(state_dict(weights_of(91, 0))) if checkpoint is None else checkpoint
    config = json.dumps(params).encode()
    return {
        f"{root}/params.json": config,
        f"{root}/result.json": result_line(0, params).encode(),
        f"{root}/checkpoint_000000/checkpoints": data,
    }


# Archives, mutated.


def contents_of(path: Path) -> dict[str, bytes | None]:
    """What a container gives: content by name, None of what is refused or a folder."""
    container = open_container(path)
    if not container.entries:
        raise SourceError("it is empty")
    found: dict[str, bytes | None] = dict.fromkeys([*container.entries, *container.refused])
    for entry in container.entries:
        parts = entry.rstrip("/").split("/")
        assert not {"", ".", ".."} & set(parts), entry
        if not entry.endswith("/"):
            with contextlib.suppress(ZooError):
                found[entry] = container.read(entry, LIMIT)
    with contextlib.suppress(ZooError):
        source = open_source(path)
        for block in source.blocks():
            assert all(isinstance(item, (States, LeftOut)) for item in source.read(block))
    return found


def alike(found: Mapping[str, bytes | None], wanted: Mapping[str, bytes | None]) -> bool:
    """Whether everything is there, under its name as it was written, or refused, perhaps under another name."""
    return len(found) >= len(wanted) and all(
        content is None or content == wanted.get(name) for name, content in found.items()
    )


def mutated_archives(*endings: str) -> Callable[[Tally], None]:
    def batch(tally: Tally) -> None:
        rng = random.Random(11)
        zoo = Path.cwd() / "good" / SEED_ZOO
        if not zoo.exists():
            for trial in make_zoo(zoo, models=2, epochs=(0,)):
                (trial / "checkpoint_000000" / "checkpoints").write_bytes(b"PK" + bytes(200))
        packed = {".zip": zipped(zoo).read_bytes(), ".tar": tarred(zoo).read_bytes()}
        packed["deflated.zip"] = zipped(zoo, zipfile.ZIP_DEFLATED).read_bytes()
        packed |= {".tar.gz": gzip.compress(packed[".tar"], mtime=0), ".tar.xz": lzma.compress(packed[".tar"])}
        packed[".tar.bz2"] = bz2.compress(packed[".tar"])
        for ending in endings:
            path = Path.cwd() / f"zoo{ending}"
            path.write_bytes(packed[ending])
            wanted = contents_of(path)
            for index in range(120):
                path.write_bytes(mutated(packed[ending], rng, SPLICED))
                tally.read(f"{ending} {index}", lambda path=path, wanted=wanted: alike(contents_of(path), wanted))

    return batch


# Archives made by hand: good trials, and members beside them.


def zip_with(members: Iterable[tuple[str, bytes, dict[str, Any]]], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data, fields in [*((n, d, {}) for n, d in trial_files().items()), *members]:
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, method
            for key, value in fields.items():
                setattr(info, key, value)
            with warnings.catch_warnings(action="ignore"):  # of names that are there twice
                archive.writestr(info, data)
    return file.getvalue()


def central(data: bytes, name: str) -> int:
    """Where the record of a member begins."""
    return data.rindex(b"PK\x01\x02", 0, data.rindex(name.encode()))


def with_record(data: bytes, name: str, place: int, value: bytes) -> bytes:
    at = central(data, name) + place
    return data[:at] + value + data[at + len(value) :]


def zips_by_hand() -> dict[str, bytes]:
    link = {"external_attr": (stat.S_IFLNK | 0o777) << 16, "create_system": 3}
    names = [
        "../outside",
        "../../../../tmp/outside",
        "/outside",
        "a/../../outside",
        "..\\outside",
        "C:\\outside",
        "C:outside",
        "a\0b",
        "",
        ".",
        "..",
        "a//b",
        "./a",
        "a/.",
        "a/..",
        "x" * 60_000,
        "d/" * 20_000 + "x",
        f"{TRIAL}/../../x",
        f"{TRIAL}/checkpoint_000001/../../../checkpoints",
        "\x1b[2J\x07[/red]",
        "‮gpj.exe",
        "CON",
        "aux.json",
    ]
    made = {f"member {name[:40]!r}": zip_with([(name, SECRET.encode()[:5], {})]) for name in names}
    made["names that differ in case"] = zip_with([(name.upper(), data, {}) for name, data in trial_files().items()])
    made["members twice"] = zip_with([(name, data, {}) for name, data in trial_files().items()])
    made["file and folder"] = zip_with([(f"{TRIAL}/params.json/x", b"x", {}), (f"{SEED_ZOO}", b"x", {})])
    for target in ("/etc/passwd", "../../../../outside", ".", "loop"):
        made[f"link to {target}"] = zip_with(
            [
                (f"{TRIAL}/checkpoint_000001/checkpoints", target.encode(), link),
                ("loop", target.encode(), link),
                ("folder", target.encode(), link),
                ("folder/x", b"through a link", {}),
            ]
        )
    for kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK):
        made[f"device {kind:o}"] = zip_with([(f"{SEED_ZOO}/stray", b"", {"external_attr": kind << 16})])
    checkpoint = f"{TRIAL}/checkpoint_000000/checkpoints"
    plain = zip_with([])
    for what, place, values in (
        ("flags", 8, (b"\x01\x00", b"\x41\x00", b"\x00\x20")),
        ("method", 10, [bytes([n, 0]) for n in (1, 6, 9, 12, 14, 93, 95, 98, 99)]),
        ("sizes", 20, (bytes(8), b"\xff" * 8, b"\xfe\xff\xff\xff" * 2, struct.pack("<2L", 1, 1 << 31))),
        ("header", 42, (bytes(4), b"\xff" * 4, b"\xfe" * 4)),
    ):
        for value in values:
            made[f"{what} {value.hex()}"] = with_record(plain, checkpoint, place, value)
    made["a bomb"] = zip_with([(f"{TRIAL}/checkpoint_000001/checkpoints", bytes(20_000_000), {})], zipfile.ZIP_DEFLATED)
    small = zip_with([(f"{TRIAL}/checkpoint_000001/checkpoints", bytes(20_000_000), {})], zipfile.ZIP_DEFLATED)
    made["a bomb that claims little"] = with_record(small, "checkpoint_000001/checkpoints", 24, struct.pack("<L", 1000))
    made["bz2"], made["lzma"] = zip_with([], zipfile.ZIP_BZIP2), zip_with([], zipfile.ZIP_LZMA)
    end = plain.rindex(b"PK\x05\x06")
    made["fewer members than there are"] = plain[: end + 8] + b"\x01\0\x01\0" + plain[end + 12 :]
    made["more members than there are"] = plain[: end + 8] + b"\xff\x7f" * 2 + plain[end + 12 :]
    made["bytes before"], made["bytes after"] = bytes(100) + plain, plain + bytes(100)
    made["an archive in a comment"] = plain[: end + 20] + struct.pack("<H", len(plain)) + plain
    return made


def tar_header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "", **fields: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def tar_with(*parts: bytes, before: bytes = b"", end: bytes = bytes(1024)) -> bytes:
    files = b"".join(tar_header(name, size=len(data)) + padded(data) for name, data in trial_files().items())
    return before + files + b"".join(parts) + end


def pax(values: Mapping[str, str], kind: bytes = tarfile.XHDTYPE) -> bytes:
    body = b""
    for key, value in values.items():
        record = f" {key}={value}\n".encode("utf-8", "surrogateescape")
        length = len(record) + len(str(len(record) + 3))
        body += str(length).encode() + record
    return tar_header("pax", kind, len(body)) + padded(body)


def tars_by_hand() -> dict[str, bytes]:
    checkpoint = f"{TRIAL}/checkpoint_000001/checkpoints"
    made: dict[str, bytes] = {}
    for name in (
        "../outside",
        "/outside",
        "a/../../outside",
        "..",
        ".",
        "./",
        "/",
        "//",
        "a\\..\\b",
        "C:/x",
        f"{TRIAL}/../x",
        "\x1b[2J[/red]",
        "\udcff",
        "x" * 99,
    ):
        data = SECRET.encode()[:5]
        made[f"member {name!r}"] = tar_with(tar_header(name, size=len(data)) + padded(data))
        made[f"folder {name!r}"] = tar_with(tar_header(name, tarfile.DIRTYPE))
        made[f"pax member {name!r}"] = tar_with(pax({"path": name}), tar_header("a", size=5) + padded(data))
    for target in ("/etc/passwd", "../../../../outside", "../outside/secret", ".", "..", checkpoint, "x" * 99):
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            made[f"link {kind!r} to {target}"] = tar_with(
                tar_header(checkpoint, kind, link=target),
                tar_header("folder", kind, link=target),
                tar_header("folder/x", size=1) + padded(b"x"),
                tar_header(f"{TRIAL}/result.json", kind, link=target),
            )
        made[f"pax link to {target}"] = tar_with(
            pax({"linkpath": target}), tar_header(checkpoint, tarfile.SYMTYPE, link="a")
        )
    for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, b"V", b"M", b"D", b"Z", b"\xff"):
        made[f"of kind {kind!r}"] = tar_with(
            tar_header(checkpoint, kind), tar_header(f"{SEED_ZOO}/x", kind, devmajor=1, devminor=5)
        )
    for size in (1, 511, 1 << 30, 8**11 - 1, 1 << 40, 1 << 62, 1 << 63, (1 << 88) - 1, -1, -512, -(1 << 62)):
        for kind in (
            tarfile.REGTYPE,
            tarfile.DIRTYPE,
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.GNUTYPE_SPARSE,
        ):
            made[f"{size:,} bytes of kind {kind!r}"] = tar_with(tar_header("a", kind, size))
    for key, value in (
        ("size", "99999999999999999999"),
        ("size", "-512"),
        ("size", "x"),
        ("size", "9" * 5000),
        ("path", ""),
        ("path", "\0"),
        ("mtime", "inf"),
        ("mtime", "nan"),
        ("hdrcharset", "BINARY"),
        ("uid", "9" * 5000),
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.map", "0,1," * 4000),
        ("GNU.sparse.map", "x"),
        ("GNU.sparse.size", "1" + "0" * 30),
        ("GNU.sparse.realsize", "1" + "0" * 18),
        ("GNU.sparse.name", "../outside"),
    ):
        for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE):
            sparse = (
                {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1000"}
                if "sparse" in key
                else {}
            )
            for header in (pax(sparse | {key: value}, kind), pax({key: value}, kind)):
                made[f"pax {key} = {value[:20]!r} {kind!r} {len(made)}"] = tar_with(
                    header, tar_header("a", size=512), b"9" * 512
                )
    for record in (b"999999999999 path=a\n", b"0 path=a\n", b"-5 path=a\n", b"12 path=aaaa", b"\xff\xfe", b"=" * 500):
        header = tar_header("pax", tarfile.XHDTYPE, len(record)) + padded(record)
        made[f"pax record {record[:20]!r}"] = tar_with(header, tar_header("a"))
    made["a chain of long names"] = tar_with((tar_header("a", tarfile.GNUTYPE_LONGNAME, 2) + padded(b"b")) * 3000)
    made["a chain of pax headers"] = tar_with(pax({"comment": "x"}) * 3000, tar_header("a"))
    made["5,000 headers"] = tar_with(b"".join(tar_header(f"{n:x}") for n in range(5_000)))
    made["members twice"] = tar_with(before=tar_with(end=b""))
    made["no end"], made["one block of end"] = tar_with(end=b""), tar_with(end=bytes(512))
    made["a damaged header"] = tar_with(b"\x01" * 512, tar_header("lost"))
    made["an end in the middle"] = tar_with(bytes(512), tar_header("lost"))
    made["nothing"], made["zeros"], made["noise"] = b"", bytes(10_240), random.Random(1).randbytes(10_240)
    return made


def packed_by_hand() -> dict[str, bytes]:
    """Compressed archives by file names: bombs, cut short, damaged, of another kind than their names say."""
    good = tar_with()
    zeros = bytes(1 << 20)
    bomb = b"".join(gzip.compress(zeros, mtime=0) for _ in range(30))
    made = {}
    for ending, pack in (
        (".tar.gz", lambda data: gzip.compress(data, mtime=0)),
        (".tar.xz", lzma.compress),
        (".tar.bz2", bz2.compress),
    ):
        data = pack(good)
        for share in (0, 1, 5, 10, len(data) // 2, len(data) - 9, len(data) - 1):
            made[f"{share} bytes of {ending}"] = (ending, data[:share])
        made[f"noise after {ending}"] = (ending, data + random.Random(2).randbytes(500))
        made[f"a bomb {ending}"] = (ending, pack(bytes(30 << 20)) if ending != ".tar.xz" else pack(zeros) * 100)
        made[f"twice {ending}"] = (ending, pack(data))
        made[f"as a plain tar {ending}"] = (".tar", pack(data))
    made["a bomb of many parts"] = (".tgz", bomb)
    made["many empty parts"] = (".tgz", gzip.compress(b"", mtime=0) * 20_000)
    made["a name without an end"] = (".tgz", b"\x1f\x8b\x08\x08" + bytes(6) + b"a" * 300_000)
    made["a huge dictionary"] = (
        ".tar.xz",
        lzma.compress(good, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 24}]).replace(
            b"\x21\x01\x18", b"\x21\x01\x28"
        ),
    )
    made["a zip"], made["a tar as a zip"] = (".tar", zip_with([])), (".zip", good)
    return {f"{name}|{ending}": data for name, (ending, data) in made.items()}


def by_hand(make: Callable[[], Mapping[str, bytes]], ending: str = "") -> Callable[[Tally], None]:
    """Read each archive; every 25th is built as well."""

    def batch(tally: Tally) -> None:
        for number, (name, data) in enumerate(make().items()):
            path = Path.cwd() / f"{SEED_ZOO}{ending or name.rpartition('|')[2]}"
            path.write_bytes(data)
            wanted: dict[str, bytes | None] = dict(trial_files())
            tally.read(name, lambda path=path, wanted=wanted: harmless(contents_of(path), wanted))
            if number % 25 == 0:
                tally.read(f"{name}, built", lambda path=path: built(path))
            path.unlink()

    return batch


def harmless(found: Mapping[str, bytes | None], wanted: Mapping[str, bytes | None]) -> bool:
    """Whether what was good is there, as it was written or refused, and nothing from outside."""
    return all(name in found and found[name] in (None, data) for name, data in wanted.items()) and not any(
        data and (SECRET.encode() in data or b"root:" in data) for data in found.values()
    )


def built(path: Path, *options: str) -> bool:
    """Build a source by the command; whether all rows are what was written, and no secret is in the repository."""
    repo = Path.cwd() / "repo"
    shutil.rmtree(repo, ignore_errors=True)
    result = CliRunner().invoke(app, ["build", str(path), "--out", str(repo), "--name", "mnist_cnn_s", *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert not [
        file
        for file in repo.rglob("*")
        if file.is_symlink() or (file.is_file() and SECRET.encode() in file.read_bytes())
    ]
    assert SECRET not in result.output
    manifest = read_manifest(repo, "mnist_cnn_s")
    assert manifest is not None
    rows = [row for shard in manifest.shards for row in pq.read_table(repo / shard.path).to_pylist()]
    return all(row["weights"] == weights_of(row["seed"], row["epoch"]).tolist() for row in rows)


# Folders.


def write(root: Path, files: Files) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def folders_by_hand(outside: Path) -> dict[str, Callable[[Path], None]]:
    """What is done to a zoo's folder, which holds good trials, by names."""
    checkpoint, results = "checkpoint_000000/checkpoints", "result.json"
    secret, other = outside / "secret", outside / "trial"

    def instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
        def change(trial: Path) -> None:
            target = trial / name
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
            make(target)

        return change

    def deep(trial: Path) -> None:
        descriptors = [os.open(trial, os.O_RDONLY)]
        for _ in range(300):  # longer than a path can be
            os.mkdir("deep" * 4, dir_fd=descriptors[-1])
            descriptors.append(os.open("deep" * 4, os.O_RDONLY, dir_fd=descriptors[-1]))
            os.close(descriptors.pop(0))
        os.close(descriptors.pop())

    def wide(trial: Path) -> None:
        for number in range(1000):
            (trial / f"checkpoint_{number + 5:06d}").mkdir()

    def bind(target: Path) -> None:
        with contextlib.chdir(target.parent), socket.socket(socket.AF_UNIX) as opened:
            opened.bind(target.name)

    def sparse(size: int) -> Callable[[Path], None]:
        def make(target: Path) -> None:
            with target.open("wb") as file:
                file.truncate(size)

        return make

    made: dict[str, Callable[[Path], None]] = {"deep": deep, "wide": wide}
    for name in (checkpoint, results, "params.json", "checkpoint_000000", "stray"):
        made |= {
            f"{name}: link to a secret": instead(name, lambda path: path.symlink_to(secret)),
            f"{name}: link to a folder": instead(name, lambda path: path.symlink_to(other)),
            f"{name}: link to a like file": instead(name, lambda path, name=name: path.symlink_to(other / name)),
            f"{name}: link to itself": instead(name, lambda path: path.symlink_to(path)),
            f"{name}: link to nothing": instead(name, lambda path: path.symlink_to("nothing")),
            f"{name}: link to its parent": instead(name, lambda path: path.symlink_to("..")),
            f"{name}: link to /dev/zero": instead(name, lambda path: path.symlink_to("/dev/zero")),
            f"{name}: pipe": instead(name, os.mkfifo),
            f"{name}: socket": instead(name, bind),
            f"{name}: folder": instead(name, lambda path: (path / "checkpoints").mkdir(parents=True)),
            f"{name}: sparse": instead(name, sparse(1 << 40)),
            f"{name}: sparse, 80 MB": instead(name, sparse(80 << 20)),
            f"{name}: gone": instead(name, lambda path: None),
            f"{name}: empty": instead(name, lambda path: path.touch()),
            f"{name}: unreadable": lambda trial, name=name: (trial / name).exists() and (trial / name).chmod(0),
        }
    for index, odd in enumerate(
        (
            "RESULT.JSON",
            "Params.json",
            "CHECKPOINT_000000",
            os.fsdecode(b"\xff\xfe"),
            "a\nb",
            "\x1b[2J[red]",
            "checkpoint_0",
            "checkpoint_999999999",
            "checkpoint_" + "9" * 200,
            "-rf",
            "x" * 255,
        )
    ):
        made[f"odd file {index}"] = lambda trial, odd=odd: (trial / odd).touch()
        made[f"odd folder {index}"] = lambda trial, odd=odd: write(trial, {f"{odd}/checkpoints": b"x"})
    return made


def folders(tally: Tally) -> None:
    """One zoo with a trial for each attack, and a good one; read with and without a compiler, and by the command."""
    root, outside = Path.cwd() / "folders" / SEED_ZOO, Path.cwd().parent / "outside"
    attacks = folders_by_hand(outside)
    good = make_zoo(root, models=len(attacks) + 1, epochs=(0,))
    for trial, change in zip(good, attacks.values(), strict=False):
        change(trial)
    with without_privileges():
        for name, options in (("one thread", ()), ("four threads", ("--num-proc", "4"))):
            tally.read(name, lambda options=options: built(root, *options))
        without = (native_files, containers)
        compiled = containers.library
        for module in without:
            module.library = lambda: None
        tally.read("without a compiler", lambda: built(root))
        for module in without:
            module.library = compiled
        manifest = read_manifest(Path.cwd() / "repo", "mnist_cnn_s")
        assert manifest is not None
        reasons = {entry.model: entry.reason for entry in manifest.left_out}
        for trial, name in zip(good, attacks, strict=False):
            tally.tried += 1
            if trial.name in reasons:
                tally.refuse(reasons[trial.name])
            else:
                tally.alike += 1
                bad = ("checkpoints: ", "result.json: ", "000000: ")
                if any(f"{what}" in name for what in bad) and not name.endswith(("unreadable", "sparse")):
                    tally.crashed.append(f"{name} was read")


LIBRARY = ctypes.CDLL(None)


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Root may read and write everything: without those capabilities it is like any other user."""
    header, values = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    LIBRARY.capget(header, values)
    effective = values[0]
    values[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    LIBRARY.capset(header, values)
    try:
        yield
    finally:
        values[0] = effective
        LIBRARY.capset(header, values)


def sources_that_are_no_files(tally: Tally) -> None:
    """Pipes, links, sparse and unreadable files in the place of a source, and within a run."""
    folder = Path.cwd() / "odd"
    folder.mkdir()
    for ending in (".zip", ".tar", ".tar.gz", ".pt", ""):
        makes: dict[str, Callable[[Path], object]] = {
            "pipe": os.mkfifo,
            "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
            "loop": lambda path: path.symlink_to(path),
            "empty": lambda path: path.touch(),
            "folder": lambda path: path.mkdir(),
            "sparse": lambda path: sparse_file(path),
            "unreadable": lambda path: path.touch(0),
            "unreadable folder": lambda path: path.mkdir(0),
        }
        for name, make in makes.items():
            path = folder / f"{len(list(folder.iterdir()))}{ending}"
            make(path)
            with without_privileges():
                tally.read(f"{name}{ending}", lambda path=path: built(path) and False)
    run = make_run(Path.cwd() / "run", growth=((4, 1),))
    pipe = run.cohorts()[0].epoch_file(1)
    pipe.unlink()
    os.mkfifo(pipe)
    tally.read("pipe in a run", lambda: bool(list(open_and_read(run.path))))


def sparse_file(path: Path) -> None:
    """A terabyte of zeros that ends like a zip whose directory is most of it."""
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 40)
        start = (1 << 40) - (1 << 31)
        large = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1 << 20, 1 << 20, 1 << 31, start)
        file.write(large + struct.pack("<4sLQL", b"PK\x06\x07", 0, 1 << 40, 1))
        file.write(b"PK\x05\x06" + bytes(4) + b"\xff" * 12 + bytes(2))


def open_and_read(path: Path) -> list[States | LeftOut]:
    source = open_source(path)
    return [item for block in source.blocks() for item in source.read(block)]


def vanishing(tally: Tally) -> None:
    """Files that vanish or become something else between their listing and their reading."""
    secret = Path.cwd().parent / "outside" / "secret"
    changes: dict[str, Callable[[Path], object]] = {
        "file": lambda trial: (trial / "checkpoint_000000" / "checkpoints").unlink(),
        "trial": shutil.rmtree,
        "becomes a pipe": lambda trial: replaced(trial, os.mkfifo),
        "zoo": lambda trial: shutil.rmtree(trial.parent),
        "becomes a link": lambda trial: replaced(trial, lambda path: path.symlink_to(secret)),
        "becomes a folder": lambda trial: replaced(trial, Path.mkdir),
        "shrinks": lambda trial: resized(trial, 100),
        "grows": lambda trial: resized(trial, 1 << 40),
    }
    for name, change in changes.items():
        for packed in (False, True):
            zoo = Path.cwd() / f"vanishing {name} {packed}" / SEED_ZOO
            trials = make_zoo(zoo, models=3, epochs=(0,))

            def read(zoo: Path = zoo, packed: bool = packed, change: Any = change, trial: Path = trials[1]) -> bool:
                source = open_source(tarred(zoo) if packed else zoo)
                change(trial)
                found = [item for block in source.blocks() for item in source.read(block)]
                states = sum(len(item.models) if isinstance(item, States) else len(item.epochs) for item in found)
                return states == source.states == 3

            tally.read(f"{name}, packed: {packed}", read)
    zoo = Path.cwd() / "listed" / SEED_ZOO
    trials = make_zoo(zoo, models=60, epochs=(0,))
    thread = threading.Thread(target=lambda: [shutil.rmtree(trial, ignore_errors=True) for trial in trials[5:]])
    thread.start()
    for index in range(20):
        tally.read(f"while they are deleted {index}", lambda: bool(open_and_read(zoo)))
    thread.join()


def replaced(trial: Path, make: Callable[[Path], object]) -> None:
    file = trial / "checkpoint_000000" / "checkpoints"
    file.unlink()
    make(file)


def resized(trial: Path, size: int) -> None:
    os.truncate(trial / "checkpoint_000000" / "checkpoints", size)


class Served:
    """A remote folder whose listings are a stranger's."""

    shown = "https://example.org/zoo/"

    def __init__(self, listing: list[Listed]) -> None:
        self._listing = listing

    def list(self, path: str) -> list[Listed]:
        return [] if path else self._listing

    def file(self, path: str) -> Any:
        return Pieces(b"x" * 10)


class Pieces:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.shown = "https://example.org/zoo/file"

    def pieces(self, **_: Any) -> Iterator[tuple[int, bytes]]:
        yield 0, self._data


def remote_listings(tally: Tally) -> None:
    """Names, sizes and times that a server tells: files lie in the mirror only."""
    names = [
        "../outside/x",
        "..",
        ".",
        "",
        "/etc/x",
        "a/../../x",
        "..\\x",
        "C:\\x",
        "a\0b",
        "x" * 300,
        "\ud800",
        "\udcff",
        "a\nb",
        "same",
        "same",
    ]
    for index, (name, folder) in enumerate((name, folder) for name in names for folder in (False, True)):
        for size, version in (
            (None, ""),
            (10, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (-1, "x" * 10_000),
            (1 << 70, "\ud800"),
        ):
            entries = [Listed(name=name, folder=folder, size=size, version=version)] * 2
            tally.read(f"{name[:20]!r} {folder} {size}", lambda entries=entries, index=index: mirrored(entries, index))
    texts = [
        "[{}]",
        "{}",
        "5",
        '[{"name": 1}]',
        "[" * 100_000,
        '[{"name": "a", "type": "file", "size": 1e999}]',
        '[{"name": "a", "type": "file", "size": "x"}]',
        '[{"name": "a", "type": "file", "size": -5}]',
        "\ud800",
        "NaN",
        "[NaN]",
        '[{"name": "\\ud800", "type": "file", "size": 1}]',
        '[{"name": "\\ud800", "type": "directory"}]',
        '[{"name": {"a": []}, "type": "file"}]',
        f'[{{"name": "a", "type": "file", "size": {"9" * 5000}}}]',
        '[{"name": "a", "type": "file", "size": true, "mtime": {"a": 1}}]',
    ]
    for text in texts:
        tally.read(f"listing {text[:40]!r}", lambda text=text: listed(text))


def mirrored(entries: list[Listed], index: int) -> bool:
    mirror = Path.cwd() / "mirrors" / str(index)
    container = RemoteFolder(Served(entries), "zoo", mirror)
    container.fingerprint()
    for entry in container.entries:
        with contextlib.suppress(ZooError):
            container.read(entry, LIMIT)
    return True


def listed(text: str) -> bool:
    tree = HttpTree.__new__(HttpTree)
    tree.shown, tree._http, tree._url = "https://example.org/zoo/", None, "https://example.org/zoo/"  # type: ignore[assignment]
    original = sys.modules[HttpTree.__module__].HttpFile  # type: ignore[attr-defined]
    sys.modules[HttpTree.__module__].HttpFile = lambda *_, **__: Pieces(text.encode("utf-8", "surrogatepass"))  # type: ignore[attr-defined]
    try:
        tree.list("")
    finally:
        sys.modules[HttpTree.__module__].HttpFile = original  # type: ignore[attr-defined]
    return True


BATCHES = {
    "mutated zips": mutated_archives(".zip", "deflated.zip"),
    "mutated tars": mutated_archives(".tar"),
    "mutated compressed tars": mutated_archives(".tar.gz", ".tar.xz", ".tar.bz2"),
    "zips by hand": by_hand(zips_by_hand, ".zip"),
    "tars by hand": by_hand(tars_by_hand, ".tar"),
    "compressed tars by hand": by_hand(packed_by_hand),
    "folders": folders,
    "sources that are no files": sources_that_are_no_files,
    "vanishing files": vanishing,
    "remote listings": remote_listings,
}
# Plain tars have no checksums of contents; in the others a change that is not seen is a failure.
UNCHECKED = ["mutated tars"]


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("hostile")
    write(folder / "outside", {"secret": SECRET.encode(), **trial_files("trial")})
    found: dict[str, Any] = run_fenced(__file__, folder)["batches"]
    assert (folder / "outside" / "secret").read_text() == SECRET
    return found


@pytest.mark.parametrize("batch", BATCHES)
def test_each_container_is_read_as_written_or_refused(counts, batch):
    found = counts[batch]
    assert found["crashed"] == []
    assert found["tried"] == found["alike"] + found["refused"] + len(found["changed"]) > 0
    if batch not in UNCHECKED:
        assert found["changed"] == []


def test_many_containers_are_tried_and_some_of_each_kind_are_refused(counts):
    assert sum(found["tried"] for found in counts.values()) > 1300
    assert all(found["refused"] for batch, found in counts.items() if batch != "vanishing files")


if __name__ == "__main__":
    containers.library()
    CliRunner().invoke(app, ["list"])  # imports what commands import
    report(Path(sys.argv[1]), dict(BATCHES))
