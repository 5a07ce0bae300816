"""Checkpoints are read as torch reads them, and nothing in them runs, hangs or fills the memory."""

import collections
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo_datasets.builders.checkpoints.pickled import Name
from zoo_datasets.builders.checkpoints.pickles import load_pickle
from zoo_datasets.builders.checkpoints.torch_file import CheckpointReader, as_files, parse_structure, read_tensors
from zoo_datasets.builders.checkpoints.vocabulary import CHECKPOINT, DATASET
from zoo_datasets.errors import CheckpointError


def saved(state, **options):
    file = io.BytesIO()
    torch.save(state, file, **options)
    return file.getvalue()


def state(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (8, 1, 5, 5), "a.bias": (8,), "b.weight": (3, 7), "b.bias": (3,)}
    return collections.OrderedDict((k, torch.randn(s, generator=generator).to(dtype)) for k, s in shapes.items())


def archive(data_pkl, members=None, method=zipfile.ZIP_STORED, root="archive"):
    """A torch-like zip with a pickle of one's own."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as zipped:
        zipped.writestr(f"{root}/data.pkl", data_pkl)
        for name, content in (members or {}).items():
            zipped.writestr(f"{root}/{name}", content)
    return file.getvalue()


def tensor_pickle(*, count=4, offset=0, shape=(4,), stride=(1,), key="0", storage="FloatStorage", name="w"):
    """The pickle of a state dict with one tensor, as torch writes it, with any numbers."""

    def number(value):
        return b"\x8a" + bytes([9]) + value.to_bytes(9, "little", signed=True)

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def many(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    reference = (
        b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text("cpu") + number(count) + b"tQ"
    )
    hooks = b"ccollections\nOrderedDict\n)R"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + number(offset) + many(shape) + many(stride)
    return b"\x80\x02" + hooks + b"(" + text(name) + tensor + b"\x89" + hooks + b"tRu."


def refusal(read, *arguments):
    """The reason for which something is refused; empty where it is read."""
    try:
        read(*arguments)
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors_are_those_that_torch_reads(dtype):
    data = saved(state(dtype=dtype))
    found = read_tensors(data)
    expected = torch.load(io.BytesIO(data), weights_only=True)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], tensor.float().numpy())


def test_views_of_shared_storages_are_read_where_they_do_not_overlap():
    base = torch.arange(24.0)
    views = {"t": base[:12].view(3, 4).t(), "tail": base[12:].view(2, 6)[:, ::2]}
    found = read_tensors(saved(views))
    assert all(np.array_equal(found[name], views[name].numpy()) for name in views)
    with pytest.raises(CheckpointError, match="'a' and 'b' lie on each other"):
        read_tensors(saved({"a": base[:5], "b": base[4:]}))
    with pytest.raises(CheckpointError, match=r"claims 20 elements of a storage of 5"):
        read_tensors(saved({"a": torch.arange(5.0).expand(4, 5)}))


def test_parameters_scalars_empty_tensors_and_plain_dicts_are_read():
    values = {"p": torch.nn.Parameter(torch.ones(2, 2)), "s": torch.tensor(3), "e": torch.zeros(0, 4)}
    found = read_tensors(saved(values))
    assert [found[name].shape for name in "pse"] == [(2, 2), (), (0, 4)]
    assert found["s"] == 3


def test_a_structure_is_worked_out_once_and_slices_many_files():
    reader = CheckpointReader()
    files = [saved(state(seed)) for seed in range(5)]
    structures = {id(reader.structure(data)) for data in files}
    assert len(structures) == 1
    structure = reader.structure(files[0])
    stacked = as_files(files)
    for tensor in structure.tensors:
        found = structure.gather(stacked, tensor)
        for seed in range(5):
            assert np.array_equal(found[seed], state(seed)[tensor.name].flatten().numpy())


def test_a_file_that_only_looks_the_same_has_its_own_structure():
    reader = CheckpointReader()
    one = saved({"a": torch.ones(6), "b": torch.zeros(2, 3)})
    other = saved({"a": torch.ones(6), "c": torch.zeros(2, 3)})
    assert len(one) == len(other)
    names = [[tensor.name for tensor in reader.structure(data).tensors] for data in (one, other, one)]
    assert names == [["a", "b"], ["a", "c"], ["a", "b"]]


def test_a_flipped_bit_in_a_tensor_is_seen():
    reader = CheckpointReader()
    data = bytearray(saved(state()))
    reader.structure(bytes(data))
    (first, *_) = reader.structure(bytes(data)).tensors
    data[first.start + 3] ^= 4
    with pytest.raises(CheckpointError, match="checksum of a tensor's bytes is wrong"):
        reader.structure(bytes(data))


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_reducer_is_named_and_not_run(tmp_path, protocol):
    witness = tmp_path / "witness"
    data = archive(pickle.dumps({"a": Evil(witness)}, protocol))
    with pytest.raises(CheckpointError, match=r"posix.system|opcode|system"):
        read_tensors(data)
    assert not witness.exists()


@pytest.mark.parametrize("name", ["builtins\neval", "os\nsystem", "torch\nload", "torch.storage\n_load_from_bytes",
                                  "collections\nOrderedDict.fromkeys", "numpy\nload"])  # fmt: skip
def test_names_outside_the_vocabulary_are_refused(name):
    code = b"\x80\x02c" + name.encode() + b"\nX\x01\x00\x00\x00a\x85R."
    with pytest.raises(CheckpointError, match=r"nothing of it was run"):
        load_pickle(code, CHECKPOINT)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"count": 2**60, "shape": (2**60,)}, r"has 16 bytes, expected 4,611,686,018,427,387,904"),
        ({"shape": (2**30, 2**30), "stride": (2**30, 1)}, r"claims 1,152,921,504,606,846,976 elements"),
        ({"shape": (2, 2), "stride": (0, 1)}, r"overlaps itself"),
        ({"shape": (2, 2), "stride": (1, 1)}, r"overlaps itself"),
        ({"offset": 1}, r"reaches to element 4 of a storage of 4"),
        ({"offset": -1}, r"not whole numbers from 0 on"),
        ({"stride": (2,)}, r"reaches to element 6"),
        ({"shape": (4, 1), "stride": (1,)}, r"not tuples of one length"),
        ({"shape": (1,) * 9, "stride": (1,) * 9}, r"9 dimensions"),
        ({"key": "../0"}, r"there is no member data/\.\./0"),
        ({"key": "7"}, r"there is no member data/7"),
        ({"storage": "FancyStorage"}, r"names torch.FancyStorage"),
        ({"storage": "DoubleStorage"}, r"has 16 bytes, expected 32"),
    ],
)
def test_tensors_that_cannot_be_are_refused_with_their_reason(changes, reason):
    members = {"data/0": np.arange(4, dtype=np.float32).tobytes()}
    assert np.array_equal(read_tensors(archive(tensor_pickle(), members))["w"], np.arange(4))
    with pytest.raises(CheckpointError, match=reason):
        read_tensors(archive(tensor_pickle(**changes), members))


def test_what_is_no_checkpoint_is_refused_with_its_reason():
    whole = saved(state())
    members = {"data/0": bytes(16)}
    for data, reason in (
        (b"", "it is empty"),
        (b"hello", "not a zip archive"),
        (whole[:-30], "is cut short"),
        (whole[: len(whole) // 2], "is cut short"),
        (saved(state(), _use_new_zipfile_serialization=False), "old format"),
        (saved([1, 2]), "holds a list, expected a state dict"),
        (saved({}), "holds a dict, expected a state dict"),
        (saved({"a": torch.ones(2), "epoch": 3}), "entry 'epoch' is a int, expected a tensor"),
        (archive(tensor_pickle(), members, zipfile.ZIP_DEFLATED), "is compressed"),
        (archive(b"\x80\x02" + b"}" * 2 + b"."), "another number of values than one"),
        (archive(b"\x80\x02(((."), "another number of values"),
        (archive(b"\x80\x02h\x07."), "never kept"),
        (archive(b"\x80\x02X\xff\xff\xff\x7fabc"), "cut short or broken"),
        (archive(tensor_pickle(), members | {"byteorder": b"big"}), "big-endian"),
    ):
        with pytest.raises(CheckpointError, match=reason):
            read_tensors(data)


def test_members_that_lie_on_each_other_are_refused():
    data = bytearray(archive(tensor_pickle(), {"data/0": bytes(16), "data/1": bytes(16)}))
    directory = data.find(b"PK\x01\x02")
    second = data.find(b"PK\x01\x02", directory + 4)
    third = data.find(b"PK\x01\x02", second + 4)
    data[third + 42 : third + 46] = data[second + 42 : second + 46]
    with pytest.raises(CheckpointError, match="overlaps what follows it"):
        read_tensors(bytes(data))


@pytest.mark.parametrize("vocabulary", [CHECKPOINT, DATASET])
def test_short_pickles_cannot_make_much_work_or_memory(vocabulary):
    double = b"\x80\x02" + b"X\x01\x00\x00\x00a" + b"2\x86" * 20_000 + b"."
    recall = b"\x80\x02(" + b"K\x07K\x07\x86" * 10_000 + b"lq\x00ccollections\nOrderedDict\nq\x01"
    recall += b"h\x01h\x00\x85R0" * 10_000 + b"."
    paths = b"\x80\x02cpathlib\nPosixPath\nq\x00X\x08\x00\x00\x00aaaaaaaa" + b"q\x01h\x00h\x01h\x01\x86R" * 90 + b"."
    keys = b"\x80\x02})" + b"2\x86" * 100 + b"Ns."
    tracemalloc.start()
    for data in (double, recall, paths, keys):
        assert len(refusal(load_pickle, data, vocabulary)) < 300
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_stand_ins_keep_attributes_and_run_nothing():
    code = (b"\x80\x02capp.dataset_base\nModelDatasetBase\n)\x81}X\x05\x00\x00\x00pathscpathlib\nPosixPath\n"
            b"X\x01\x00\x00\x00/X\x01\x00\x00\x00z\x86Rsb.")  # fmt: skip
    found = load_pickle(code, DATASET)
    assert (found.name, found.attributes) == (Name("app.dataset_base", "ModelDatasetBase"), {"paths": "/z"})
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        load_pickle(code, CHECKPOINT)


WHOLE = saved(state())
READER = CheckpointReader()
READER.structure(WHOLE)


def resigned(data):
    """The same archive with a right checksum of data.pkl, so that a mutation reaches the pickle's reader."""
    start = WHOLE.find(b"\x80\x02")
    with zipfile.ZipFile(io.BytesIO(WHOLE)) as zipped:
        size = zipped.infolist()[0].file_size
    place = WHOLE.find(b"PK\x01\x02") + 16
    return data[:place] + struct.pack("<I", zlib.crc32(data[start : start + size])) + data[place + 4 :]


@settings(max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
@given(
    changes=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    in_pickle=st.booleans(),
    cut=st.one_of(st.none(), st.integers(0, len(WHOLE))),
)
def test_mutated_checkpoints_are_read_or_refused(changes, in_pickle, cut):
    data = bytearray(WHOLE)
    start = WHOLE.find(b"\x80\x02")
    for position, value in changes:
        data[start + position % 700 if in_pickle else position] = value
    mutated = resigned(bytes(data))[:cut]
    for read in (read_tensors, READER.structure):
        assert len(refusal(read, mutated)) < 400


@settings(max_examples=300, deadline=2000)
@given(st.binary(max_size=300), st.sampled_from([CHECKPOINT, DATASET]))
def test_any_bytes_are_a_pickle_or_refused(data, vocabulary):
    for candidate in (data, b"\x80\x02" + data + b"."):
        assert len(refusal(load_pickle, candidate, vocabulary)) < 400


@settings(max_examples=200, deadline=2000)
@given(st.lists(st.sampled_from([
    b"}", b"]", b")", b"(", b"t", b"u", b"e", b"s", b"a", b"b", b"R", b"\x81", b"Q", b"2", b"0", b"1", b"N", b"K\x01",
    b"q\x00", b"h\x00", b"\x94", b"\x85", b"\x86", b"\x87", b"d", b"l", b"ccollections\nOrderedDict\n", b"\x93",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"cpathlib\nPosixPath\n", b"X\x01\x00\x00\x00a", b"ctorch\nFloatStorage\n",
    b"cx.dataset_base\nModelDatasetBase\n", b"\x8a\x01\xff", b"G" + bytes(8),
]), max_size=40))  # fmt: skip
def test_any_order_of_opcodes_is_a_value_or_refused(codes):
    assert len(refusal(load_pickle, b"\x80\x02" + b"".join(codes) + b".", DATASET)) < 400


def test_half_precision_that_overflows_becomes_infinite_and_not_wrong():
    found = read_tensors(saved({"a": torch.tensor([1e300, -1e300, 1.0], dtype=torch.float64)}))
    assert found["a"].tolist() == [float("inf"), float("-inf"), 1.0]


def test_a_structure_holds_what_the_pickle_says_about_names_and_dtypes():
    structure = parse_structure(saved(state(dtype=torch.float16)))
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in structure.tensors][:2] == [
        ("a.weight", "float16", (8, 1, 5, 5)), ("a.bias", "float16", (8,)),
    ]  # fmt: skip
