"""The compiler at run time: what it is, what it may use, and which libraries are loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo_datasets.errors import NativeError
from zoo_datasets.native import compiler
from zoo_datasets.stacked.native import block as native


def missing_compiler() -> str | None:
    try:
        compiler.find_compiler()
    except NativeError as error:
        return str(error)
    return None


needs_compiler = pytest.mark.skipif(missing_compiler() is not None, reason=f"no native kernels: {missing_compiler()}")


def test_no_compiler_is_a_reason(monkeypatch, tmp_path):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("ZOO_NATIVE", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no C compiler (cc or gcc or clang) in the path" in native.available()
    monkeypatch.setenv("CC", "/nowhere/cc -m64")
    assert "no C compiler (/nowhere/cc)" in native.available()


def test_a_compiler_that_fails_is_a_reason(monkeypatch, tmp_path):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'error: out of ideas' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.delenv("ZOO_NATIVE", raising=False)
    monkeypatch.setenv("CC", str(broken))
    assert native.available() == f"the C compiler {broken} failed with status 3: error: out of ideas"


def test_a_compiler_that_only_preprocesses_is_a_reason(monkeypatch, tmp_path):
    broken = tmp_path / "cc"
    broken.write_text('#!/bin/sh\ncase "$*" in *.so*) echo "error: no linker" >&2; exit 1;; esac\n')
    broken.chmod(0o755)
    monkeypatch.delenv("ZOO_NATIVE", raising=False)
    monkeypatch.setenv("CC", str(broken))
    assert native.available() == f"the C compiler {broken} failed with status 1: error: no linker"


@needs_compiler
def test_a_source_that_does_not_compile_is_an_error():
    with pytest.raises(NativeError, match="nonsense"):
        compiler.compile_library("nonsense nonsense;")


ANSWER = "int answer(void) { return 42; }"


@needs_compiler
@pytest.mark.parametrize("damage", ["truncated", "overwritten", "no checksum"])
def test_a_damaged_library_in_the_cache_is_compiled_anew(damage, monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    assert compiler.compile_library(ANSWER).answer() == 42
    (library,) = compiler.cache_folder().glob("*.so")
    whole = library.read_bytes()
    if damage == "no checksum":
        library.with_suffix(".sha256").unlink()
    library.unlink()  # not in place: this process has it mapped
    library.write_bytes(whole[:1000] if damage == "truncated" else b"\0" * len(whole))
    assert compiler.compile_library(ANSWER).answer() == 42
    assert library.with_suffix(".sha256").read_text() == compiler.sha256_of(library)


@needs_compiler
def test_what_is_in_the_cache_is_not_compiled_again(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    compiler.compile_library(ANSWER)
    before = {path: path.stat().st_mtime_ns for path in compiler.cache_folder().iterdir()}
    monkeypatch.setattr(compiler.subprocess, "run", None)
    assert compiler.compile_library(ANSWER).answer() == 42
    assert {path: path.stat().st_mtime_ns for path in compiler.cache_folder().iterdir()} == before


@needs_compiler
def test_a_cache_that_cannot_be_written_costs_time_only(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(blocked))
    assert compiler.compile_library(ANSWER).answer() == 42


@needs_compiler
@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"0" * 64])
def test_a_damaged_checksum_is_a_miss(content, monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    assert compiler.compile_library(ANSWER).answer() == 42
    (checksum,) = compiler.cache_folder().glob("*.sha256")
    checksum.write_bytes(content)
    assert compiler.compile_library(ANSWER).answer() == 42
    assert checksum.read_text() == compiler.sha256_of(checksum.with_suffix(".so"))


OPEN_TO_OTHERS = {
    "nothing": lambda cache, library: None,
    "the library": lambda cache, library: library.chmod(0o666),
    "its checksum": lambda cache, library: library.with_suffix(".sha256").chmod(0o664),
    "its folder": lambda cache, library: library.parent.chmod(0o777),
    "the cache": lambda cache, library: cache.chmod(0o777),
    "a folder above": lambda cache, library: cache.parent.chmod(0o770),
}


def planted(cache: Path, monkeypatch) -> Path:
    """A library in a cache that answers 7 where the source of its name answers 42."""
    with monkeypatch.context() as patch:
        patch.setattr(compiler.ctypes, "CDLL", lambda path: None)  # a path that was loaded once stays as it was
        compiler.compile_library(ANSWER)
    (library,) = (cache / "native").glob("*.so")
    source = cache / "other.c"
    source.write_text(ANSWER.replace("42", "7"))
    library.unlink()
    subprocess.run([*compiler.find_compiler().command, source, "-o", library], check=True)
    library.with_suffix(".sha256").write_text(compiler.sha256_of(library))
    return library


@needs_compiler
@pytest.mark.parametrize("way", OPEN_TO_OTHERS)
def test_a_library_that_others_can_have_written_is_not_loaded(way, monkeypatch, tmp_path):
    cache = tmp_path / "above" / "cache"
    monkeypatch.setenv("ZOO_CACHE", str(cache))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    library = planted(cache, monkeypatch)
    OPEN_TO_OTHERS[way](cache, library)
    if way == "nothing":  # what was planted is what would be loaded
        assert compiler.compile_library(ANSWER).answer() == 7
        return
    with pytest.warns(UserWarning, match="can be written by other users"):
        assert compiler.compile_library(ANSWER).answer() == 42


@needs_compiler
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_a_library_of_another_user_is_not_loaded(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    library = planted(tmp_path / "cache", monkeypatch)
    os.chown(library, 4321, -1)
    with pytest.warns(UserWarning, match="belongs to another user"):
        assert compiler.compile_library(ANSWER).answer() == 42


@needs_compiler
def test_what_is_written_to_the_cache_is_trusted_whatever_the_umask(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "a" / "b"))
    before = os.umask(0o002)
    try:
        compiler.compile_library(ANSWER)
    finally:
        os.umask(before)
    (library,) = compiler.cache_folder().glob("*.so")
    assert compiler.distrust(library) is None


@needs_compiler
def test_a_temporary_folder_that_does_not_execute_is_not_needed(monkeypatch, tmp_path):
    """As on a noexec mount: the library is loaded from the cache at the first command as at the second."""
    loaded = no_execution_in(Path(compiler.tempfile.gettempdir()), monkeypatch, but=tmp_path)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    assert compiler.compile_library(ANSWER).answer() == 42
    assert compiler.compile_library(ANSWER).answer() == 42
    assert [Path(path).parent for path in loaded] == [tmp_path / "native"] * 2


@needs_compiler
def test_where_nothing_executes_the_reason_is_said(monkeypatch, tmp_path):
    no_execution_in(Path("/"), monkeypatch)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    with pytest.raises(NativeError, match="set ZOO_CACHE or TMPDIR to a folder where one can write and execute"):
        compiler.compile_library(ANSWER)


def no_execution_in(folder: Path, monkeypatch, but: Path | None = None) -> list[str]:
    """Make loading below a folder fail as on a noexec mount; returns what is loaded all the same."""
    load, loaded = compiler.ctypes.CDLL, []

    def refuse(path):
        if Path(path).is_relative_to(folder) and not (but and Path(path).is_relative_to(but)):
            raise OSError(f"{path}: failed to map segment from shared object")
        loaded.append(path)
        return load(path)

    monkeypatch.setattr(compiler.ctypes, "CDLL", refuse)
    return loaded


@needs_compiler
def test_the_switch_chooses_the_instructions(monkeypatch):
    for name in compiler.instruction_sets():
        monkeypatch.setenv("ZOO_NATIVE", name)
        assert native.instructions() == name
        assert native.available() is None
    monkeypatch.setenv("ZOO_NATIVE", "none")
    assert native.available() == "the native kernels are switched off (ZOO_NATIVE=none)"
    monkeypatch.setenv("ZOO_NATIVE", "sse9")
    assert "ZOO_NATIVE is 'sse9', expected one of avx512, avx2, neon, portable, none" in native.available()
    absent = next(name for name in ("avx512", "neon") if name not in compiler.instruction_sets())
    monkeypatch.setenv("ZOO_NATIVE", absent)
    assert native.available() is not None


NARROW_STRIDED = """
import torch
from torch.nn import functional
from zoo_datasets.networks.architectures import Conv
from zoo_datasets.stacked import StackedNetwork
torch.set_num_threads(1)
for channels in range(1, 8):
    network = StackedNetwork([Conv("c", channels, 2 * channels, 1, stride=2, bias=False)], "relu")
    for _ in range(15):
        images = torch.randn(1, 8, channels, 32, 32)
        weight = torch.randn(1, 2 * channels, channels, 1, 1, requires_grad=True)
        (gradient,) = torch.autograd.grad(network({"c.weight": weight}, images).square().sum(), weight)
    outputs = functional.conv2d(images[0].double(), weight[0].double(), stride=2)
    (expected,) = torch.autograd.grad(outputs.square().sum(), weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-2)
print("whole")
"""


def test_narrow_strided_convolutions_do_not_end_the_process():
    """With AVX2 alone, torch's backward pass of them on memory with channels last corrupts the heap."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run(
        [sys.executable, "-c", NARROW_STRIDED],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr
