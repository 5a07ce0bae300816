"""The system's C compiler: finding it, compiling at run time, and the cache of what was compiled.

The cache lies under `$ZOO_CACHE/native`, or `~/.cache/zoo-datasets/native`. A library's name is the hash of
its source, the compiler and its version, the flags, and what the compiler knows of this processor; beside it
stands its checksum, so a damaged file is compiled anew instead of being loaded.

A compiled library is code: one is loaded only where nobody but this user and root could have put it. `$ZOO_NATIVE`
chooses the instructions that it may use (`avx512`, `avx2`, `portable`, `neon`), or none at all (`none`).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

from zoo_datasets.errors import NativeError
from zoo_datasets.storage import files
from zoo_datasets.storage.files import sha256_of, write_bytes

# Without -ffast-math: NaN and infinity keep their meaning, and no sum is reordered.
FLAGS = (
    "-std=gnu11", "-O2", "-fPIC", "-shared", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
    "-fno-strict-aliasing",
)  # fmt: skip
_CANDIDATES = ("cc", "gcc", "clang")
_SECONDS = 300.0
_THIS_PROCESSOR: tuple[tuple[str, ...], ...] = (("-march=native",), ("-mcpu=native",), ())
# By the value of $ZOO_NATIVE: the flags to try, in order; the first ones that the compiler takes are used.
_TUNING: dict[str, tuple[tuple[str, ...], ...]] = {
    "": _THIS_PROCESSOR,
    "avx512": _THIS_PROCESSOR[:1],
    "avx2": (("-march=native", "-mno-avx512f"),),
    "neon": _THIS_PROCESSOR,
    "portable": ((),),
}
SWITCH = "ZOO_NATIVE"
SWITCHED_OFF = "none"


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
    """`$CC`, or the first of cc, gcc and clang in the path; for the instructions that `$ZOO_NATIVE` asks for.

    Raises:
        NativeError: if there is none, it does not work, this machine lacks the instructions, or they are switched off.
    """
    return _find_compiler(os.environ.get("CC", ""), os.environ.get("PATH", ""), os.environ.get(SWITCH, ""))


def instruction_sets() -> tuple[str, ...]:
    """The values of `$ZOO_NATIVE` that this machine and its compiler can run, the fastest first."""
    names = []
    for name in _TUNING:
        with contextlib.suppress(NativeError):
            if name:
                _find_compiler(os.environ.get("CC", ""), os.environ.get("PATH", ""), name)
                names.append(name)
    return tuple(names)


@functools.lru_cache(maxsize=16)
def _find_compiler(named: str, path: str, wanted: str) -> Compiler:
    if wanted == SWITCHED_OFF:
        raise NativeError(f"the native kernels are switched off ({SWITCH}={SWITCHED_OFF})")
    if wanted not in _TUNING:
        names = ", ".join((*filter(None, _TUNING), SWITCHED_OFF))
        raise NativeError(f"{SWITCH} is {wanted!r}, expected one of {names}, or nothing")
    candidates: tuple[str, ...] = _CANDIDATES
    options: list[str] = []
    if named:
        program, *options = shlex.split(named)
        candidates = (program,)
    program_path = next((place for name in candidates if (place := shutil.which(name, path=path))), None)
    if program_path is None:
        raise NativeError(
            f"no C compiler ({' or '.join(candidates)}) in the path; install gcc or clang, or name one in $CC"
        )
    reasons = []
    for tuning in _TUNING[wanted]:
        command = (program_path, *options, *FLAGS, *tuning)
        try:
            macros = _run((*command, "-dM", "-E", "-x", "c", os.devnull))
        except NativeError as error:
            reasons.append(str(error))
            continue
        instructions, lanes, registers = _vectors(set(macros.split()))
        if wanted and instructions != wanted:
            raise NativeError(f"{SWITCH} asks for {wanted}, but this machine and its compiler have {instructions}")
        version = _run((program_path, *options, "--version"))
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


def _user_cache() -> Path:
    return Path.home() / ".cache" / "zoo-datasets"


def compile_library(source: str) -> ctypes.CDLL:
    """The library of a C source, from the cache or compiled.

    Warns:
        UserWarning: others than this user and root can write to the cache, so it is not used.

    Raises:
        NativeError: if there is no compiler, it refuses the source (the message has its first line of complaint), or
            no folder can execute what was compiled.
    """
    compiler = find_compiler()
    parts = (source, *compiler.command, compiler.identity, platform.machine(), platform.processor())
    name = f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}.so"
    folder = _trusted_folder()
    with contextlib.suppress(OSError):  # missing, unreadable or not loadable: compiled anew
        return _load(folder / name)
    with tempfile.TemporaryDirectory(prefix="zoo-native-", ignore_cleanup_errors=True) as temporary:
        built, written = Path(temporary) / name, Path(temporary) / "kernels.c"
        written.write_text(source, encoding="utf-8")
        _run((*compiler.command, str(written), "-o", str(built), "-lm"))
        try:  # what is loaded is the cached library: a temporary folder may be mounted such that nothing in it executes
            return _keep_and_load(built, folder / name)
        except OSError as error:  # a cache that cannot be written or executed costs time only
            of_cache = error
        try:
            return ctypes.CDLL(str(built))
        except OSError as error:
            raise NativeError(
                f"the compiled kernels can be loaded neither from {folder} ({of_cache}) "
                f"nor from {tempfile.gettempdir()} ({error}); "
                "set ZOO_CACHE or TMPDIR to a folder where one can write and execute (not mounted noexec)"
            ) from error


def _load(library: Path) -> ctypes.CDLL:
    """Load a library that is what was written, and that nobody else can have written.

    Raises:
        OSError: if it is missing, damaged, not to be trusted, or cannot be executed.
    """
    checksum = library.with_suffix(".sha256")
    for path in (library, checksum):
        reason = distrust(path)
        if reason is not None:
            warnings.warn(f"compiling the kernels again: {reason}", UserWarning, stacklevel=2)
            raise PermissionError(reason)
    if checksum.read_bytes().strip() != sha256_of(library).encode():
        raise FileNotFoundError(f"{library} does not have the checksum that stands beside it")
    return ctypes.CDLL(str(library))


def _keep_and_load(built: Path, library: Path) -> ctypes.CDLL:
    _make_folders(library.parent)
    write_bytes(library, built.read_bytes())
    write_bytes(library.with_suffix(".sha256"), sha256_of(built).encode())
    for path in (library, library.with_suffix(".sha256")):
        path.chmod(0o644)
    return _load(library)


def distrust(path: Path) -> str | None:
    """Why somebody else could have put a file there, or could replace it; None where only this user and root can.

    The file and every folder above it must belong to this user or root and be writable by nobody else. Others may
    add files to a folder with the sticky bit, such as /tmp, but cannot replace those of this user.
    """
    if not hasattr(os, "geteuid"):
        return None  # no owners and modes of this kind
    real = Path(os.path.realpath(path))
    for place in (real, *real.parents):
        status = os.lstat(place)
        if status.st_uid not in (0, os.geteuid()):
            return f"{place} belongs to another user"
        sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
            return f"{place} can be written by other users"
    return None


def _trusted_folder() -> Path:
    """The cache; the user's own where others can write to that; else a new private folder of this process."""
    reasons = []
    for folder in (cache_folder(), _user_cache() / "native"):
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        reason = distrust(existing)
        if reason is None:
            break
        reasons.append(reason)
    else:
        folder = _private_folder()
    if reasons:
        warnings.warn(
            f"compiled kernels are not taken from {cache_folder()}: {reasons[0]}; they are compiled into {folder}. "
            "Run `chmod go-w` on it, or set ZOO_CACHE to a folder of your own",
            UserWarning,
            stacklevel=2,
        )
    return folder


@functools.cache
def _private_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="zoo-native-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _make_folders(folder: Path) -> None:
    """Make the missing folders of a path, writable by this user alone."""
    for place in (*reversed(folder.parents), folder):
        with contextlib.suppress(FileExistsError):
            place.mkdir(mode=0o755)


def _run(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeError(f"the C compiler {command[0]} could not be run: {error}") from error
    if done.returncode != 0:
        complaints = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
        raise NativeError(f"the C compiler {command[0]} failed with status {done.returncode}: {complaints[0]}")
    return done.stdout
