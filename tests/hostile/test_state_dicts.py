"""Files of tensors, indices and tables that strangers made: mutated and made by hand, they are read as written or
refused, and nothing runs.

The reading happens in a process of its own with bounds on time and memory, which counts what became of each input:
this file is run as a script there.
"""

from __future__ import annotations

import io
import json
import random
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile.file_attacks import SENTINEL, Tally, mutated, report, run_fenced
from safetensors.torch import save
from state_folders import NAME, mlp, same, write_folder

from zoo_datasets.builders import Reading, StateDictOptions, build_repository, open_source
from zoo_datasets.builders.checkpoints.structure import as_files
from zoo_datasets.builders.state_dicts.formats.numpy_file import describe_npz, unpack_npz
from zoo_datasets.builders.state_dicts.formats.safetensors_file import describe_safetensors
from zoo_datasets.builders.state_dicts.formats.torch_state import describe_torch
from zoo_datasets.builders.state_dicts.kinds import FileKind
from zoo_datasets.builders.state_dicts.layouts import filling_of
from zoo_datasets.builders.state_dicts.table import read_table
from zoo_datasets.errors import CheckpointError, SourceError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="its bounds are those of Linux")

MUTATIONS = 1500
SPLICED = [
    b'"shape":[',
    b'"data_offsets":[0,',
    b"[" * 40,
    b"9" * 20,
    b"-1",
    b"null",
    b'{"a":',
    b"BF16",
    b"cos\nsystem\n",
    b"R",
    b"\x93NUMPY",
]


def header(entries: Any, data: bytes = b"") -> bytes:
    """A file of safetensors with any header."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: Any, offsets: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


MADE_BY_HAND = {
    "empty": b"",
    "short": b"\x01\0\0",
    "a header as long as all memory": struct.pack("<Q", 1 << 62),
    "a header longer than the file": struct.pack("<Q", 100) + b"{}",
    "no object": header([1, 2]),
    "nested": header(b"[" * 100_000),
    "numbers": header(b'{"a":' + b"9" * 100_000 + b"}"),
    "not UTF-8": header(b'{"\xff": 1}'),
    "no tensors": header({"__metadata__": {"a": "b"}}),
    "metadata that are no texts": header({"__metadata__": {"a": 1}, "w": entry([1], [0, 4])}, bytes(4)),
    "metadata that are a list": header({"__metadata__": ["a"], "w": entry([1], [0, 4])}, bytes(4)),
    "no such dtype": header({"w": entry([1], [0, 4], "F33")}, bytes(4)),
    "a shape below 0": header({"w": entry([-1], [0, 4])}, bytes(4)),
    "a shape of truths": header({"w": entry([True], [0, 4])}, bytes(4)),
    "a shape beyond 64 bits": header({"w": entry([1 << 40, 1 << 40], [0, 4])}, bytes(4)),
    "many axes": header({"w": entry([1] * 9, [0, 4])}, bytes(4)),
    "more than its bytes": header({"w": entry([2], [0, 4])}, bytes(8)),
    "beyond the end": header({"w": entry([2], [0, 8])}, bytes(4)),
    "before the beginning": header({"w": entry([1], [-4, 0])}, bytes(4)),
    "turned round": header({"w": entry([1], [4, 0])}, bytes(4)),
    "on each other": header({"a": entry([1], [0, 4]), "b": entry([1], [0, 4])}, bytes(4)),
    "a gap": header({"a": entry([1], [0, 4]), "b": entry([1], [8, 12])}, bytes(12)),
    "bytes of nobody": header({"a": entry([1], [0, 4])}, bytes(8)),
    "one name twice": header(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        bytes(8),
    ),
    "a long name": header({"w" * 5000: entry([1], [0, 4])}, bytes(4)),
}  # fmt: skip


@pytest.mark.parametrize("kind", MADE_BY_HAND)
def test_headers_made_by_hand_are_refused_on_one_line(kind):
    with pytest.raises(CheckpointError) as raised:
        describe_safetensors(MADE_BY_HAND[kind])
    assert len(str(raised.value)) < 500
    assert "\n" not in str(raised.value)


def npy(text: str, data: bytes = b"") -> bytes:
    """A `.npy` file with any header."""
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text.encode() + data


def packed(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


ARRAYS = {
    "no array": {"a.npy": b"plain"},
    "another file": {"a.txt": b""},
    "objects": {"a.npy": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", bytes(8))},
    "a call": {
        "a.npy": npy(f"{{'descr': __import__('os').system('touch {SENTINEL}'), 'fortran_order': 0, 'shape': (1,)}}\n")
    },
    "big-endian": {"a.npy": npy("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }\n", bytes(4))},
    "texts": {"a.npy": npy("{'descr': '<U4', 'fortran_order': False, 'shape': (1,), }\n", bytes(16))},
    "fields": {"a.npy": npy("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (1,), }\n", bytes(4))},
    "below 0": {"a.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n", bytes(4))},
    "too many": {"a.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999,), }\n", bytes(4))},
    "nested": {"a.npy": npy("(" * 5000)},
    "long": {"a.npy": npy("{'descr': '<f4'" + " " * 60_000)},
    "a bomb": {"a.npy": bytes(1 << 24)},
}  # fmt: skip


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_made_by_hand_are_refused(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as raised:
        describe_npz(unpack_npz(packed(ARRAYS[kind])))
    assert len(str(raised.value)) < 500
    assert not (tmp_path / SENTINEL).exists()


def test_an_index_names_nothing_outside_of_its_folder(tmp_path):
    write_folder(tmp_path / "in", {"a/model.safetensors": mlp(0)})
    write_folder(tmp_path, {"secret.safetensors": mlp(1)})
    for number, name in enumerate(("../secret.safetensors", "/etc/passwd", "..", "a/b", "", "c:\\x")):
        folder = tmp_path / "in" / f"b{number}"
        folder.mkdir()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    for number, text in enumerate(("{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "[" * 100_000)):
        folder = tmp_path / "in" / f"c{number}"
        folder.mkdir()
        (folder / "model.safetensors.index.json").write_text(text)
    result = build_repository(tmp_path / "in", tmp_path / "repo", NAME)
    assert result.rows == 1
    assert len(result.left_out) == 11


def test_links_are_not_followed(tmp_path):
    write_folder(tmp_path / "in", {"a.safetensors": mlp(0)})
    write_folder(tmp_path, {"outside.safetensors": mlp(1)})
    (tmp_path / "in" / "b.safetensors").symlink_to(tmp_path / "outside.safetensors")
    result = build_repository(tmp_path / "in", tmp_path / "repo", NAME)
    assert result.rows == 1
    assert "link" in result.left_out[0].reason


def test_names_and_texts_of_strangers_are_shown_escaped(tmp_path):
    odd = "m\x1b[31m\n.safetensors"
    write_folder(tmp_path / "in", {"a.safetensors": mlp(0), "b.safetensors": mlp(1)}, metadata={"x\x1b": "y\x1b[0m"})
    (tmp_path / "in" / odd).write_bytes(b"nothing")
    (tmp_path / "in" / "b\udcff.safetensors").write_bytes(save(mlp(2)))
    result = build_repository(tmp_path / "in", tmp_path / "repo", NAME)
    assert result.rows == 2
    text = (tmp_path / "repo" / "README.md").read_text() + "".join(result.warnings)
    assert "\x1b" not in text


def test_tables_that_are_none_are_refused(tmp_path):
    for name, data in {
        "a.csv": b"\xff\xfe", "b.parquet": b"PAR1", "c.jsonl": b"[1]\n", "d.jsonl": b"{" * 100_000, "e.txt": b"a",
        "f.csv": b'"' * 100_001, "g.csv": b"," * 5000 + b"\n", "h.jsonl": b'{"a": 1}\n{', "i.csv": b"",
        "j.csv": b'a,b\n"x,1\ny,2\n',
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SourceError) as raised:
            read_table(tmp_path / name)
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 600
    with pytest.raises(SourceError, match="could not be read"):
        read_table(tmp_path / "missing.csv")


def values_of(kind: FileKind, data: bytes) -> dict[str, torch.Tensor]:
    """The state dict in the bytes of a file of a kind."""
    kind.structure.check(data)
    layout = filling_of([(kind,)], "it", cast=False)
    weights = np.zeros(layout.layout.size, np.float32)
    raw = np.zeros(layout.layout.raw_bytes, np.uint8)
    moves = layout.moves(kind)
    for move in moves.flat:
        weights[move.start : move.start + move.tensor.size] = kind.structure.gather(as_files([data]), move.tensor)[0]
    for move in moves.raw:
        values = kind.structure.gather_bytes(as_files([data]), move.tensor)[0]
        raw[move.start : move.start + len(values)] = values
    return layout.layout.restore(torch.from_numpy(weights), raw.tobytes())


def mutations(
    state: dict[str, Any], data: bytes, read: Callable[[bytes], dict[str, torch.Tensor]]
) -> Callable[[Tally], None]:
    def run(tally: Tally) -> None:
        rng = random.Random(1)
        for number in range(MUTATIONS):
            changed = mutated(data, rng, SPLICED)
            tally.read(str(number), lambda changed=changed: same(read(changed), state))

    return run


def read_npz(data: bytes) -> dict[str, torch.Tensor]:
    content = unpack_npz(data)
    return values_of(describe_npz(content), content)


def main(folder: Path) -> None:
    state = mlp(0) | {"n": torch.tensor(3)}
    torch.save({"epoch": 3, "loss": np.float64(1), "state_dict": state | {"tied": state["fc1.bias"]}}, folder / "a.pt")
    stream = io.BytesIO()
    np.savez(stream, **{name: tensor.numpy() for name, tensor in state.items()})
    plain = save(state, {"seed": "1"})
    wrapped = (folder / "a.pt").read_bytes()
    describe_torch(wrapped), values_of(describe_safetensors(plain), plain), read_npz(stream.getvalue())
    batches = {
        "safetensors": mutations(state, plain, lambda data: values_of(describe_safetensors(data), data)),
        "torch": mutations(
            state | {"tied": state["fc1.bias"]}, wrapped, lambda data: values_of(describe_torch(data), data)
        ),
        "npz": mutations(state, stream.getvalue(), read_npz),
    }
    report(folder, batches)


@pytest.mark.slow
def test_mutations_are_read_or_refused_and_nothing_runs(tmp_path):
    value = run_fenced(__file__, tmp_path)
    for name, batch in value["batches"].items():
        assert batch["crashed"] == [], batch["crashed"][:5]
        assert batch["refused"] > MUTATIONS // 4, name
    # What is no data but names, shapes or numbers may change unseen in files without checksums; in torch's it may not.
    assert len(value["batches"]["torch"]["changed"]) < MUTATIONS // 50


def test_an_index_or_a_document_beside_files_is_bounded(tmp_path):
    write_folder(tmp_path / "in", {"a/m.safetensors": mlp(0)})
    (tmp_path / "in" / "a" / "config.json").write_text("[" * 100_000)
    options = StateDictOptions(columns_from="config.json")
    with pytest.raises(SourceError, match="nested too deeply"):
        open_source(tmp_path / "in", Reading(name=NAME, state_dicts=options))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
