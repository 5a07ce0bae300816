"""The same rows as a `datasets` builder: from a source into its Arrow cache, without a repository."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from zoo_datasets.builders.shards.rows import RowMaker, without_nonfinite
from zoo_datasets.builders.sources.base import Source, States
from zoo_datasets.builders.sources.table import Location, open_source
from zoo_datasets.loading.caches import prepared
from zoo_datasets.repository.row import SPLITS
from zoo_datasets.storage.remote import is_url


@dataclass
class ZooConfig(datasets.BuilderConfig):  # type: ignore[misc]
    """What to read. `fingerprint` stands for the source's content, so that a changed source has another cache.

    `source` is one of the user's, which processes of `num_proc` get as a pickle; else `source_path` is opened.
    """

    source_path: str = ""
    keep_nonfinite: bool = False
    fingerprint: str = ""
    source: Source | None = None

    def opened(self) -> Source:
        """The source."""
        return open_source(self.source_path) if self.source is None else self.source

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: Any = None) -> str:
        """The name of its cache, in which the fingerprint stands for a user's source, whose pickle may change."""
        told = {name: value for name, value in config_kwargs.items() if name != "source"}
        return str(super().create_config_id(told, custom_features))


class ZooBuilder(datasets.ArrowBasedBuilder):  # type: ignore[misc]
    """Rows of a source, in the order of the shards. `zoo_builder` makes one."""

    BUILDER_CONFIG_CLASS = ZooConfig

    def _info(self) -> datasets.DatasetInfo:
        source = self.config.opened()
        return datasets.DatasetInfo(features=datasets.Features.from_arrow_schema(RowMaker(source, "").schema))

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        """A unit of work is one epoch of one block; `num_proc` and streaming divide the list of them."""
        source = self.config.opened()
        generators = []
        for split in SPLITS:
            units = [
                (index, epoch)
                for index, block in enumerate(source.blocks())
                if block.of(split).models
                for epoch in block.epochs
            ]
            if units:
                generators.append(datasets.SplitGenerator(name=split, gen_kwargs={"units": units, "split": split}))
        return generators

    def _save_info(self) -> None:
        super()._save_info()
        if not is_url(str(self._output_dir)):
            prepared.write_note(Path(self._output_dir))

    def _generate_tables(self, units: list[tuple[int, int]], split: str) -> Iterator[tuple[Any, pa.Table]]:
        source = self.config.opened()
        rows = RowMaker(source, self.config.name)
        blocks = [block.of(split) for block in source.blocks()]
        for number, (index, epoch) in enumerate(units):
            for part, states in enumerate(source.read(blocks[index].at(epoch))):
                if not isinstance(states, States):
                    continue
                kept = states if self.config.keep_nonfinite or source.keeps_nonfinite else without_nonfinite(states)[0]
                if kept.models:
                    yield (number, part), pa.Table.from_batches([rows.batch(kept)])


def zoo_builder(
    source: Location | Source, name: str | None = None, *, keep_nonfinite: bool = False, cache_dir: Path | None = None
) -> ZooBuilder:
    """A builder of a source's rows: `zoo_builder(path).download_and_prepare()`, then `.as_dataset()`.

    The rows, their columns and splits are those of the repository that `build_repository` would make. What cannot be a
    row is left out without a list of it: build a repository where that matters.

    Args:
        source: a run, a raw zoo or a `.pt` file, at a path or behind a URL; or a source of your own, which can be
            pickled if several processes prepare it.
        name: what the rows have as `zoo`; the zoo's name unless given.
        keep_nonfinite: whether states with NaN or infinite weights become rows too.
        cache_dir: of the Arrow files; None: where `datasets` keeps its own. A changed source is prepared anew, and
            so is what is damaged there.

    Raises:
        SourceError, RunError, DownloadError: if the source cannot be read.
        StorageError: if damaged Arrow files cannot be deleted; names their folder.
    """
    own = isinstance(source, Source)
    opened = source if isinstance(source, Source) else open_source(source)
    options: dict[str, Any] = {
        "cache_dir": None if cache_dir is None else str(cache_dir),
        "dataset_name": "zoo_datasets",
        "config_name": name or opened.name,
        "keep_nonfinite": keep_nonfinite,
        "fingerprint": opened.fingerprint(),
        **({"source": opened} if own else {"source_path": _absolute(source)}),
    }
    root = Path(cache_dir or datasets.config.HF_DATASETS_CACHE)
    builder: ZooBuilder = prepared.opened(ZooBuilder, root, **options)
    return ZooBuilder(**options) if prepared.renew(Path(builder.cache_dir), need_note=False) else builder


def _absolute(location: Any) -> str:
    return str(location) if is_url(str(location)) else str(Path(location).resolve())
