"""A checkpoint of the CNN Wild Park: what it says of its tensors and beside them, and its weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from zoo_datasets.builders.checkpoints.pickled import Name, TensorStub
from zoo_datasets.builders.checkpoints.structure import Slices, StoredTensor, as_files, structure_of
from zoo_datasets.builders.checkpoints.torch_file import member_bytes, open_archive, read_pickle, state_tensors
from zoo_datasets.builders.sources.populations.wild_park.network import WildConfig, record_of
from zoo_datasets.builders.sources.populations.wild_park.omegaconf import plain, vocabulary
from zoo_datasets.documents import brief, finite_number
from zoo_datasets.errors import CheckpointError
from zoo_datasets.networks.records import NetworkRecord
from zoo_datasets.specs.bounds import MAX_EPOCH

_VOCABULARY = vocabulary(Name("create_random_cnns", "CNNConfig"))
PICKLE = "data.pkl"
_NUMBER = re.compile(r"(\d{1,9})$")
# Figures as the files call them.
FIGURES: Final = {
    f"{split}_{figure}": f"{split}/{figure}" for split in ("train", "val", "test") for figure in ("loss", "acc")
}


@dataclass(frozen=True, slots=True)
class WildState:
    """What one file says of its tensors, and beside them.

    Attributes:
        tensors: where they lie, in the order of the layout.
        checksum: of the pickle that says so.
    """

    epoch: int
    config: str
    record: NetworkRecord
    tensors: tuple[StoredTensor, ...]
    checksum: int
    figures: Mapping[str, float | None]
    optimizer: Mapping[str, Any]


class WildCheckpoint:
    """A checkpoint while it is interpreted.

    Raises:
        CheckpointError: if it is none of the Wild Park.
    """

    def __init__(self, data: Slices) -> None:
        self._members, self._starts = open_archive(data)
        content = read_pickle(data, self._members, self._starts, _VOCABULARY)
        if not isinstance(content, dict) or not {"model", "config"} <= content.keys():
            raise CheckpointError("it holds no model with a config, expected a checkpoint of the CNN Wild Park")
        self._content = content

    def described(self, path: str) -> WildState:
        """All that it says."""
        config = self._config()
        record = record_of(config)
        result = self._content.get("last_result")
        results = result if isinstance(result, dict) else {}
        return WildState(
            epoch=self._epoch(path),
            config=config,
            record=record,
            tensors=self._tensors(record),
            checksum=self._members[PICKLE].crc,
            figures={name: finite_number(results.get(theirs)) for name, theirs in FIGURES.items()},
            optimizer=self._optimizer(),
        )

    def _config(self) -> str:
        """The settings as JSON."""
        try:
            config = plain(self._content["config"])
            return json.dumps({name: config[name] for name in WildConfig.__dataclass_fields__}, allow_nan=False)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"its settings lack {brief(str(error))}, or are none") from None

    def _epoch(self, path: str) -> int:
        """The number of epochs behind it: its `iteration`, else what the folder is named by."""
        iteration = self._content.get("iteration")
        if iteration is None and (number := _NUMBER.search(path.split("/")[-2])):
            iteration = int(number[1])
        if isinstance(iteration, bool) or not isinstance(iteration, int) or not 0 <= iteration <= MAX_EPOCH:
            raise CheckpointError(f"its iteration is {brief(iteration)}, expected a whole number of epochs")
        return iteration

    def _optimizer(self) -> dict[str, Any]:
        """Learning rate and weight decay, where the optimizer's state says them."""
        optimizer = self._content.get("optimizer")
        groups = optimizer.get("param_groups") if isinstance(optimizer, dict) else None
        group = groups[0] if isinstance(groups, list) and groups and isinstance(groups[0], dict) else {}
        return {name: finite_number(group.get(name)) for name in ("lr", "weight_decay")}

    def _tensors(self, record: NetworkRecord) -> tuple[StoredTensor, ...]:
        """Where the tensors lie, which are those of the record and no others.

        Raises:
            CheckpointError: naming one that is not.
        """
        state = self._content["model"]
        if not isinstance(state, dict) or not all(isinstance(value, TensorStub) for value in state.values()):
            raise CheckpointError("its model is no state dict")
        shapes = {name: (stub.shape, stub.storage.dtype) for name, stub in state.items()}
        expected = {spec.name: (spec.shape, spec.dtype) for spec in record.layout.tensors}
        if shapes != expected:
            other = min(str(name) for name in {*shapes, *expected} if shapes.get(name) != expected.get(name))
            here, wanted = _shown(shapes.get(other)), _shown(expected.get(other))
            raise CheckpointError(f"its tensor {brief(other)} is {here}, its settings say {wanted}")
        tensors = {tensor.name: tensor for tensor in state_tensors(state, self._members, self._starts)}
        return tuple(tensors[spec.name] for spec in record.layout.tensors)


def weights_of(data: bytes, state: WildState) -> NDArray[np.float32]:
    """The flat weights [D] of a file that was described before.

    Raises:
        CheckpointError: if it is another one by now, or damaged.
    """
    members, starts = open_archive(data)
    if PICKLE not in members or crc32(member_bytes(data, members, starts, PICKLE)) != state.checksum:
        raise CheckpointError("it is another file than when it was first read; run the command again")
    structure = structure_of(data, members, starts, state.tensors)
    structure.check(data)
    files = as_files([data])
    return np.concatenate([structure.gather(files, tensor)[0] for tensor in state.tensors])


def _shown(tensor: tuple[tuple[int, ...], str] | None) -> str:
    return "missing" if tensor is None else f"{tensor[1]} of {list(tensor[0])}"
