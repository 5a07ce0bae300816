"""Settings of OmegaConf in files of `torch.save`, without OmegaConf: inert stand-ins, and their plain values."""

from __future__ import annotations

from typing import Any, Final

from zoo_datasets.builders.checkpoints.pickled import Name, StandIn
from zoo_datasets.builders.checkpoints.vocabulary import Vocabulary
from zoo_datasets.builders.checkpoints.wrapped import WRAPPED
from zoo_datasets.documents import brief
from zoo_datasets.errors import CheckpointError

_CLASSES: Final = frozenset(
    {
        Name("omegaconf.dictconfig", "DictConfig"),
        Name("omegaconf.listconfig", "ListConfig"),
        Name("omegaconf.base", "ContainerMetadata"),
        Name("omegaconf.base", "Metadata"),
        Name("omegaconf.nodes", "AnyNode"),
        Name("omegaconf.nodes", "BooleanNode"),
        Name("omegaconf.nodes", "FloatNode"),
        Name("omegaconf.nodes", "IntegerNode"),
        Name("omegaconf.nodes", "StringNode"),
    }
)
_TYPES: Final = frozenset({Name("typing", "Any"), Name("typing", "List")})
_CONTENT, _VALUE = "_content", "_val"
_DEPTH = 8


def vocabulary(dataclass: Name) -> Vocabulary:
    """What checkpoints with settings of one dataclass may name: these classes exactly, each a stand-in."""
    return Vocabulary(
        calls=WRAPPED.calls,
        stand_in=frozenset({*_CLASSES, dataclass}).__contains__,
        values=_TYPES,
        remedy="expected settings of OmegaConf beside tensors, and nothing else",
    )


def plain(value: Any, depth: int = 0) -> Any:
    """The values of a setting: dict, list, str, int, float, bool or None.

    Raises:
        CheckpointError: if it is none.
    """
    if depth > _DEPTH:
        raise CheckpointError(f"its settings are nested more than {_DEPTH} deep")
    if isinstance(value, StandIn):
        held = value.attributes
        if _VALUE not in held and _CONTENT not in held:
            raise CheckpointError(f"its settings hold an object of {value.name} without a value")
        return plain(held[_VALUE] if _VALUE in held else held[_CONTENT], depth + 1)
    if isinstance(value, dict):
        return {key: plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item, depth + 1) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise CheckpointError(f"its settings hold {brief(type(value).__name__)}, expected plain values")
