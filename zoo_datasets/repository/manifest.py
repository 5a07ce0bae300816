"""manifest.json of one config of a dataset repository: what it holds, where it came from, what was left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from zoo_datasets.documents import MAX_JSON, brief, parse_json, read_text
from zoo_datasets.errors import DocumentError, OutsideError, RepositoryError
from zoo_datasets.networks.kind import LAYERS, NetworkKind
from zoo_datasets.networks.layout import WeightLayout
from zoo_datasets.repository.places import LAYOUTS, MANIFEST, META, META_FOLDER, is_plain, manifest_paths, meta_path
from zoo_datasets.repository.records import (
    COUNT,
    LEFT_OUT,
    OPEN,
    PIXELS,
    SHARDS,
    SOURCE,
    TEXT,
    TEXTS,
    WIDTH,
    YES,
    ZOO,
    Count,
    LeftOut,
    Shard,
    checked,
)
from zoo_datasets.repository.row import (
    EXTRAS,
    FURTHER_TYPES,
    HYPERPARAMETERS,
    OPEN_FORMAT,
    REPOSITORY_FORMAT,
    SPLITS,
    OpenRows,
    arrow_schema,
    further_column,
    meta_schema,
)
from zoo_datasets.specs.bounds import NAME
from zoo_datasets.specs.images import Pixels
from zoo_datasets.storage.files import check_files, write_bytes, write_json


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of manifest.json.

    Attributes:
        source_id: equal for two sources if one may grow into the other.
        zoo: the fields of the zoo's spec, as far as they are known.
        source: what the source says about itself: kind, limits and fingerprint of the images, versions.
        keep_nonfinite: whether states with NaN or infinite weights are rows too.
        extras: columns that follow the weights, as `log_sigma2`.
        unknown: hyperparameters that are null for some models.
        models, states: counts; a model is written if any of its states is.
        meta: the files of the light config, which has all columns but the weights.
        plots: pictures for the card, drawn of these files when it is published; paths relative to the repository.
        network, layout: of all rows; None in an open config.
        open: the columns of an open config, whose rows may be of networks of several shapes.
        layouts: the file that tells its layouts.
    """

    config: str
    source_id: str
    zoo: Mapping[str, Any]
    source: Mapping[str, Any]
    network: NetworkKind | None
    layout: WeightLayout | None
    keep_nonfinite: bool
    models: Count
    states: Count
    shards: tuple[Shard, ...]
    left_out: tuple[LeftOut, ...]
    extras: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    meta: tuple[Shard, ...] = ()
    plots: tuple[str, ...] = ()
    open: OpenRows | None = None
    layouts: tuple[Shard, ...] = ()

    @property
    def schema(self) -> pa.Schema:
        """The columns of its shards, as `datasets` sees them."""
        if self.open is not None:
            return self.open.schema({})
        assert self.layout is not None
        return arrow_schema(self.layout, self.extras, self.unknown)

    @property
    def light_schema(self) -> pa.Schema:
        """The columns of its light config."""
        return meta_schema(self.unknown) if self.open is None else self.open.light_schema()

    def one_layout(self, purpose: str) -> WeightLayout:
        """The layout of all its rows.

        Raises:
            RepositoryError: saying that the purpose needs one layout, if the rows are open.
        """
        if self.layout is None:
            raise RepositoryError(
                f"{self.config}: {purpose} needs networks of one known architecture; its rows are open: each names its "
                "layout"
            )
        return self.layout

    def one_network(self, purpose: str) -> NetworkKind:
        """The network of all its rows.

        Raises:
            RepositoryError: saying that the purpose needs one network, if the rows are open.
        """
        self.one_layout(purpose)
        assert self.network is not None
        return self.network

    @property
    def is_trained(self) -> bool:
        """Whether this package trained the zoo, or the one that its rows were selected from with all their columns."""
        origin, selection = self.source.get("of"), self.source.get("selection")
        if isinstance(origin, Mapping) and not (isinstance(selection, Mapping) and "columns" in selection):
            return origin.get("kind") == "run"
        return self.source.get("kind") == "run"

    @property
    def pixels(self) -> Pixels | None:
        """What a population of others made of its images; None where nothing tells.

        Raises:
            RepositoryError: if it is told, and is no such thing.
        """
        images = self.source.get("images")
        told = images.get("pixels") if isinstance(images, Mapping) else None
        if told is None:
            return None
        try:
            return checked(PIXELS, told, "source.images.pixels")
        except (TypeError, ValueError) as error:
            raise RepositoryError(f"{self.config}: its manifest tells no pixels: {error}") from error

    @property
    def paths(self) -> list[str]:
        """The data files and plots that it lists, relative to the repository."""
        return [*(shard.path for shard in (*self.shards, *self.meta, *self.layouts)), *self.plots]

    @property
    def epochs(self) -> list[int]:
        """The epochs of which there is any row, ascending."""
        return sorted({epoch for shard in self.shards for epoch in shard.epochs})

    def rows(self, split: str | None = None) -> int:
        """Number of rows of a split, or of all."""
        return sum(shard.rows for shard in self.shards if split in (None, shard.split))

    @property
    def splits(self) -> dict[str, int]:
        """Rows of each split that has any, in the order train, validation, test."""
        return {split: self.rows(split) for split in SPLITS if self.rows(split)}

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "format": REPOSITORY_FORMAT if self.open is None else OPEN_FORMAT,
            "config": self.config,
            "source_id": self.source_id,
            "zoo": dict(self.zoo),
            "source": dict(self.source),
            **self._rows_record(),
            "keep_nonfinite": self.keep_nonfinite,
            "extra_columns": list(self.extras),
            "unknown_columns": list(self.unknown),
            "counts": {"models": dataclasses.asdict(self.models), "states": dataclasses.asdict(self.states)},
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
            "meta": [dataclasses.asdict(shard) for shard in self.meta],
            **({} if self.open is None else {"layouts": [dataclasses.asdict(shard) for shard in self.layouts]}),
            "plots": list(self.plots),
            "left_out": [dataclasses.asdict(entry) for entry in self.left_out],
        }

    def _rows_record(self) -> dict[str, Any]:
        if self.open is None:
            assert self.network is not None
            assert self.layout is not None
            return {**self.network.record(), "layout": self.layout.to_list()}
        names = {kind: name for name, kind in FURTHER_TYPES.items()}
        columns = [{"name": column.name, "type": names[column.type], "doc": column.doc} for column in self.open.further]
        return {"open": {"columns": columns, "size": self.open.size, "raw": self.open.raw}}

    @classmethod
    def from_dict(cls, value: Any, origin: str) -> Manifest:
        """The inverse of `to_dict`.

        Raises:
            RepositoryError: naming `origin` and what is wrong.
        """
        try:
            if value["format"] not in (REPOSITORY_FORMAT, OPEN_FORMAT):
                raise RepositoryError(
                    f"{origin}: format {brief(value['format'])} found, this version reads {REPOSITORY_FORMAT} and "
                    f"{OPEN_FORMAT}"
                )
            checked(ZOO, value["zoo"], "zoo")
            checked(SOURCE, value["source"], "source")
            manifest = cls(
                config=checked(TEXT, value["config"], "config"),
                source_id=checked(TEXT, value["source_id"], "source_id"),
                zoo=value["zoo"],
                source=value["source"],
                **_rows_of(value),
                keep_nonfinite=checked(YES, value["keep_nonfinite"], "keep_nonfinite"),
                models=checked(COUNT, value["counts"]["models"], "counts.models"),
                states=checked(COUNT, value["counts"]["states"], "counts.states"),
                shards=checked(SHARDS, value["shards"], "shards"),
                left_out=checked(LEFT_OUT, value["left_out"], "left_out"),
                extras=tuple(
                    name for name in checked(TEXTS, value.get("extra_columns", ()), "extra_columns") if name in EXTRAS
                ),
                unknown=tuple(
                    name
                    for name in HYPERPARAMETERS
                    if name in checked(TEXTS, value.get("unknown_columns", ()), "unknown_columns")
                ),
                meta=checked(SHARDS, value.get("meta", ()), "meta"),
                plots=checked(TEXTS, value.get("plots", ()), "plots"),
            )
        except KeyError as error:
            raise RepositoryError(
                f"{origin} is not a valid manifest: it lacks {error}; build the config again"
            ) from error
        except (TypeError, ValueError) as error:
            if isinstance(error, RepositoryError):
                raise
            raise RepositoryError(f"{origin} is not a valid manifest: {error}; build the config again") from error
        manifest._check_names(origin)
        return manifest

    def _check_names(self, origin: str) -> None:
        """Every path is one of plain names below the repository, and every split a valid one.

        Raises:
            RepositoryError: naming `origin` and the first that is not.
        """
        kinds = ((self.shards, ""), (self.meta, META), (self.layouts, LAYOUTS))
        expected = [(shard.path, f"a file in {self.config}{end}/") for shards, end in kinds for shard in shards]
        expected += [
            (path.removeprefix(f"{META_FOLDER}/"), f"a .png in {META_FOLDER}/{self.config}/") for path in self.plots
        ]
        for path, what in expected:
            if not is_plain(path):
                raise OutsideError(
                    f"{origin} lists {path[:200]!a}, which is no plain path inside the repository; expected {what}"
                )
        for shard in (*self.shards, *self.meta, *self.layouts):
            if shard.split not in SPLITS:
                raise RepositoryError(
                    f"{origin}: split {shard.split[:200]!a} of {shard.path} found, expected {', '.join(SPLITS)}"
                )

    def save(self, repo: Path) -> None:
        """Write manifest.json to its place in a repository."""
        write_json(repo / meta_path(self.config, MANIFEST), self.to_dict())


def _rows_of(value: Any) -> dict[str, Any]:
    """What a manifest says of its rows' networks and columns."""
    if value["format"] == REPOSITORY_FORMAT:
        network = NetworkKind.recorded(
            checked(TEXT, value["architecture"], "architecture"),
            checked(WIDTH, value["in_channels"], "in_channels"),
            checked(WIDTH, value["classes"], "classes"),
            value.get(LAYERS),
        )
        return {"network": network, "layout": WeightLayout.from_list(value["layout"])}
    columns = checked(OPEN, value["open"], "open")
    further = tuple(further_column(column["name"], column["type"], column["doc"]) for column in columns["columns"])
    if len({column.name for column in further}) != len(further):
        raise DocumentError("open: a column stands in it twice")
    return {
        "network": None,
        "layout": None,
        "open": OpenRows(further=further, size=columns["size"], raw=columns["raw"]),
        "layouts": checked(SHARDS, value["layouts"], "layouts"),
    }


def parse_manifest(text: str, origin: str, config: str) -> Manifest:
    """The manifest of a config that a text holds.

    Raises:
        RepositoryError: naming `origin` and what is wrong: it may be that of another config, or list a file that
            lies outside of the repository.
    """
    try:
        value = parse_json(text)
    except DocumentError as error:
        raise RepositoryError(f"{origin} could not be read: {error}; build the config again") from error
    manifest = Manifest.from_dict(value, origin)
    if manifest.config != config:  # it says where to write
        raise RepositoryError(f"{origin} is that of config {manifest.config[:200]!a}; build {config} again")
    return manifest


def read_manifest(repo: Path, config: str) -> Manifest | None:
    """The manifest of a config in a local repository; None if it has none.

    Raises:
        RepositoryError: if it is broken, or one of the files that it lists lies outside of the repository, also
            behind a link.
    """
    if not NAME.fullmatch(config):
        return None
    for path in manifest_paths(config):
        file = repo / path
        check_files(repo, [path])
        try:
            text = read_text(file, MAX_JSON)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, DocumentError) as error:
            raise RepositoryError(f"{file} could not be read: {error}") from error
        manifest = parse_manifest(text, str(file), config)
        check_files(repo, manifest.paths)
        return manifest
    return None


# The column without whose figures there is no such plot.
PLOTS = {"accuracy": "train_acc", "sparsity": "sparsity"}


def existing_plots(repo: Path, manifest: Manifest) -> tuple[str, ...]:
    """The plots that a manifest lists, if the files of all of them exist; else none."""
    return manifest.plots if all((repo / plot).is_file() for plot in manifest.plots) else ()


def with_moved_plots(repo: Path, manifest: Manifest) -> Manifest:
    """The manifest with its plots where they belong, copying those that an earlier version put beside the shards.

    Raises:
        StorageError: if one cannot be written.
    """
    names = {f"{name}.png" for name in PLOTS}
    moved = {plot: meta_path(manifest.config, Path(plot).name) for plot in manifest.plots if Path(plot).name in names}
    for plot, path in moved.items():
        if plot != path:
            write_bytes(repo / path, (repo / plot).read_bytes())
    return dataclasses.replace(manifest, plots=tuple(moved.values()))


def remove_beside_shards(repo: Path, config: str) -> None:
    """Delete the manifest and plots of a config that an earlier version put beside its shards."""
    for name in (MANIFEST, *(f"{plot}.png" for plot in PLOTS)):
        (repo / config / name).unlink(missing_ok=True)
