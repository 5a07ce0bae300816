"""The system's C compiler: finding it, compiling at run time, and the cache of what was compiled.

The cache lies under `$ZOO_CACHE/native`, or `~/.cache/zoo-datasets/native`. A library's name is the hash of
its source, the compiler and its version, the flags, and what the compiler knows of this processor; beside it
stands its checksum, so a damaged file is compiled anew instead of being loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from zoo_datasets import files
from zoo_datasets.errors import NativeError, StorageError
from zoo_datasets.files import sha256_of, write_bytes

# Without -ffast-math: NaN and infinity keep their meaning, and no sum is reordered.
FLAGS = (
    "-std=gnu11", "-O2", "-fPIC", "-shared", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
    "-fno-strict-aliasing",
)  # fmt: skip
_CANDIDATES = ("cc", "gcc", "clang")
_TUNING = ("-march=native", "-mcpu=native")
_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiler:
    """A compiler that works, and the vectors of the processor it compiles for.

    Attributes:
        command: the program and its flags.
        instructions: name of the vector instructions.
        lanes: floats in a vector register.
        registers: number of vector registers.
        identity: version and predefined macros, which name every instruction set in use.
    """

    command: tuple[str, ...]
    instructions: str
    lanes: int
    registers: int
    identity: str


def find_compiler() -> Compiler:
    """`$CC`, or the first of cc, gcc and clang in the path.

    Raises:
        NativeError: there is none, or it does not work.
    """
    return _find_compiler(os.environ.get("CC", ""), os.environ.get("PATH", ""))


@functools.lru_cache(maxsize=8)
def _find_compiler(chosen: str, path: str) -> Compiler:
    candidates: tuple[str, ...] = _CANDIDATES
    options: list[str] = []
    if chosen:
        program, *options = shlex.split(chosen)
        candidates = (program,)
    found = next((place for name in candidates if (place := shutil.which(name, path=path))), None)
    if found is None:
        raise NativeError(
            f"no C compiler ({' or '.join(candidates)}) in the path; install gcc or clang, or name one in $CC"
        )
    reasons = []
    for tuning in (*_TUNING, None):
        command = (found, *options, *FLAGS, *([tuning] if tuning else []))
        try:
            macros = _run((*command, "-dM", "-E", "-x", "c", os.devnull))
        except NativeError as error:
            reasons.append(str(error))
            continue
        instructions, lanes, registers = _vectors(set(macros.split()))
        version = _run((found, *options, "--version"))
        return Compiler(
            command=command,
            instructions=instructions,
            lanes=lanes,
            registers=registers,
            identity=version + macros,
        )
    raise NativeError(reasons[-1])


def _vectors(macros: set[str]) -> tuple[str, int, int]:
    """Name, floats in a vector register, and number of registers, by the compiler's predefined macros."""
    if {"__AVX512F__", "__AVX512DQ__"} <= macros:
        return "avx512", 16, 32
    if {"__AVX2__", "__FMA__"} <= macros:
        return "avx2", 8, 16
    if "__aarch64__" in macros:
        return "neon", 4, 32
    return "portable", 4, 16


def cache_folder() -> Path:
    """Where compiled libraries are kept."""
    return files.cache_folder() / "native"


def compile_library(source: str) -> ctypes.CDLL:
    """The library of a C source, from the cache or compiled.

    Raises:
        NativeError: no compiler, or it refuses the source; the message has its first line of complaint.
    """
    compiler = find_compiler()
    parts = (source, *compiler.command, compiler.identity, platform.machine(), platform.processor())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    cached = cache_folder() / f"{key}.so"
    checksum = cached.with_suffix(".sha256")
    with contextlib.suppress(OSError):  # missing, unreadable or not loadable: compiled anew
        if checksum.read_text(encoding="ascii").strip() == sha256_of(cached):
            return ctypes.CDLL(str(cached))
    with tempfile.TemporaryDirectory(prefix="zoo-native-", ignore_cleanup_errors=True) as folder:
        built = Path(folder) / f"{key}.so"
        written = Path(folder) / f"{key}.c"
        written.write_text(source, encoding="utf-8")
        _run((*compiler.command, str(written), "-o", str(built), "-lm"))
        with contextlib.suppress(StorageError):  # a cache that cannot be written costs time only
            write_bytes(cached, built.read_bytes())
            write_bytes(checksum, sha256_of(built).encode())
        try:
            return ctypes.CDLL(str(built))
        except OSError as error:
            raise NativeError(f"the compiled kernels cannot be loaded: {error}") from error


def _run(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeError(f"the C compiler {command[0]} could not be run: {error}") from error
    if done.returncode != 0:
        complaints = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
        raise NativeError(f"the C compiler {command[0]} failed with status {done.returncode}: {complaints[0]}")
    return done.stdout
