"""Archives from strangers: whatever is in them, they are read or refused, and nothing else happens."""

import gzip
import io
import lzma
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_zoos import make_zoo, tarred, zipped

from zoo_datasets.builders import open_source
from zoo_datasets.builders.containers.archives import open_container
from zoo_datasets.builders.sources.base import LeftOut, States
from zoo_datasets.builders.sources.raw.trials import find_zoo
from zoo_datasets.errors import ZooError

MEMORY = 48_000_000
LIMIT = 1 << 20
FUZZ = settings(
    max_examples=120, deadline=20_000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def explore(folder, name, content):
    """Open an archive, read everything in it, and build from it; only our errors may come out.

    Gives what was read, by path, or the reason why the archive was refused.
    """
    archive = folder / name
    archive.write_bytes(content)
    before = sorted(folder.parent.rglob("*"))
    tracemalloc.start()
    try:
        return _explore(archive)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY + 4 * len(content), f"{peak:,} bytes for an archive of {len(content):,}"
        assert sorted(folder.parent.rglob("*")) == before


def _explore(archive):
    try:
        container = open_container(archive)
    except ZooError as error:
        return str(error)
    found = {}
    for entry in container.entries:
        assert not entry.startswith("/")
        assert not {"..", "."} & set(entry.rstrip("/").split("/"))
        if not entry.endswith("/"):
            try:
                found[entry] = container.read(entry, LIMIT)
                assert len(found[entry]) <= LIMIT
            except ZooError as error:
                found[entry] = str(error)
    try:
        find_zoo(container)
        source = open_source(archive)
        for block in source.blocks():
            assert all(isinstance(item, (States, LeftOut)) for item in source.read(block))
    except ZooError:
        pass
    return found


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Good ones, by ending: what is mutated. The checkpoint is small, so that headers are hit often."""
    zoo = tmp_path_factory.mktemp("good") / "tune_zoo_mnist_uniform"
    (trial,) = make_zoo(zoo, models=1, epochs=(0,))
    (trial / "checkpoint_000000" / "checkpoints").write_bytes(b"PK" + bytes(200))
    packed = {".zip": zipped(zoo).read_bytes(), ".tar": tarred(zoo).read_bytes()}
    packed["deflated.zip"] = zipped(zoo, zipfile.ZIP_DEFLATED).read_bytes()
    return packed | {".tar.gz": gzip.compress(packed[".tar"], mtime=0), ".tar.xz": lzma.compress(packed[".tar"])}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


place = st.floats(0, 1, exclude_max=True)
change = st.one_of(
    st.tuples(st.just("set"), place, st.binary(min_size=1, max_size=4)),
    st.tuples(
        st.just("set"), place, st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"PK\x01\x02", b"../", b"\x7f"])
    ),
    st.tuples(st.just("cut"), place, st.just(b"")),
    st.tuples(st.just("add"), place, st.binary(min_size=1, max_size=64)),
    st.tuples(st.just("copy"), place, place),
)


def mutated(content, changes):
    for kind, where, what in changes:
        at = int(where * len(content))
        if kind == "set":
            content = content[:at] + what + content[at + len(what) :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "add":
            content = content[:at] + what + content[at:]
        else:
            source = int(what * len(content))
            content = content[:at] + content[source : source + 512] + content[at + 512 :]
    return content


@FUZZ
@given(
    ending=st.sampled_from([".zip", "deflated.zip", ".tar", ".tar.gz", ".tar.xz"]), changes=st.lists(change, max_size=6)
)
def test_mutated_archives_are_read_or_refused(archives, folder, ending, changes):
    explore(folder, f"zoo{ending}", mutated(archives[ending], changes))


name = st.one_of(
    st.text(max_size=30),
    st.lists(
        st.sampled_from(["..", ".", "", "a", "checkpoint_1", "checkpoints", "params.json", "result.json", "C:", "\\"]),
        min_size=1, max_size=6,
    ).map("/".join),
)  # fmt: skip


@FUZZ
@given(entries=st.lists(st.tuples(name, st.binary(max_size=40), st.booleans()), max_size=8))
def test_zips_of_any_names_are_read_or_refused(folder, entries):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path, content, packed in entries:
            info = zipfile.ZipInfo("x")
            info.filename = path
            info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            try:
                archive.writestr(info, content)
            except (UnicodeEncodeError, UserWarning):
                continue
    found = explore(folder, "zoo.zip", file.getvalue())
    assert isinstance(found, dict)


KINDS = [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE,
         tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE]  # fmt: skip
SIZES = [None, 0, 10**9, 8**11, -512, -1024]


@FUZZ
@given(entries=st.lists(
    st.tuples(name, st.binary(max_size=600), st.sampled_from(KINDS), st.sampled_from(SIZES)),
    max_size=8,
))  # fmt: skip
def test_tars_of_any_entries_are_read_or_refused(folder, entries):
    file = io.BytesIO()
    for path, content, kind, size in entries:
        info = tarfile.TarInfo(path.replace("\0", "")[:90])
        info.type, info.linkname = kind, "../../etc/passwd"
        info.size = len(content) if size is None else size
        header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        file.write(header + content + bytes(-len(content) % 512))
    found = explore(folder, "zoo.tar", file.getvalue() + bytes(1024))
    if isinstance(found, dict):
        assert not [content for content in found.values() if isinstance(content, bytes) and b"root:" in content]


def header(kind, size, path="a"):
    info = tarfile.TarInfo(path)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def test_chains_and_circles_of_tar_headers_end(folder):
    chain = (header(tarfile.GNUTYPE_LONGNAME, 2) + b"b\0" + bytes(510)) * 5000
    found = explore(folder, "chain.tar", chain + header(tarfile.REGTYPE, 0) + bytes(1024))
    assert "is not a tar archive, or is cut short or broken" in found
    first = header(tarfile.REGTYPE, 0, "first")
    back = header(tarfile.REGTYPE, -1024, "back")
    found = explore(folder, "circle.tar", first + back + bytes(1024))
    assert "is not a tar archive, or is cut short or broken" in found
    digits = header(tarfile.XHDTYPE, 16_000) + b"1" * 16_000 + bytes(384)
    assert isinstance(explore(folder, "digits.tar", digits + header(tarfile.REGTYPE, 0) + bytes(1024)), (str, dict))
    claims = header(tarfile.GNUTYPE_LONGNAME, 10**9) + bytes(1024)
    assert "a header claims a name of 1,000,000,000 bytes" in explore(folder, "claims.tar", claims)


def test_a_tar_of_many_headers_costs_little_memory(folder):
    many = b"".join(header(tarfile.FIFOTYPE, 0, f"{index:x}") for index in range(5_000))
    found = explore(folder, "many.tar", many + bytes(1024))
    assert len(found) == 5_000


def test_deep_names_cost_no_more_memory_than_their_length(folder):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for index in range(4):
            archive.writestr(f"{index}/{'a/' * 9_000}checkpoint_1/checkpoints", b"")
    found = explore(folder, "deep.zip", file.getvalue())
    assert isinstance(found, dict)


def test_overlapping_members_and_bombs_are_refused(folder):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", b"x" * 100)
        archive.writestr("b", b"y" * 100)
    content = bytearray(file.getvalue())
    second = content.rindex(b"PK\x01\x02")
    struct.pack_into("<L", content, second + 42, 0)  # where its header is: on that of the first
    assert "overlaps what follows it" in explore(folder, "overlap.zip", bytes(content))
    bomb = gzip.compress(bytes(300 << 20), mtime=0)
    assert "a bomb; it was refused" in explore(folder, "bomb.tar.gz", bomb)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files")
def test_archives_that_were_refused_are_closed(folder, archives):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        explore(folder, "zoo.tar", archives[".tar"])
        explore(folder, "zoo.zip", archives[".zip"][:-10])
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
