"""Where the published zoos lie: in Zenodo records, some on the authors' file server."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_datasets.builders.containers.archives import is_archive, stem
from zoo_datasets.builders.containers.locate import remote_folder
from zoo_datasets.builders.sources.raw.names import raw_size, read_folder_name
from zoo_datasets.documents import parse_json
from zoo_datasets.errors import DownloadError, MissingError, SourceError, UnknownNameError
from zoo_datasets.repository.credit import MODEL_ZOOS, Credit
from zoo_datasets.repository.populations import WEIGHTCLIP
from zoo_datasets.specs.axes import GRID_FIELDS
from zoo_datasets.specs.spec import ZooSpec
from zoo_datasets.specs.zoos import dense_name, get_zoo
from zoo_datasets.storage.downloads import download
from zoo_datasets.storage.remote import Http, HttpFile, shown
from zoo_datasets.terminal import Fetched

# Environment variables that put a mirror in the place of each server.
ZENODO_VARIABLE, FILES_VARIABLE = "ZOO_ZENODO", "ZOO_FILES"
ZENODO = "https://zenodo.org"
FILES = "https://ai.unisg.ch/files"
_DOI = "10.5281/zenodo."
# Folder names inside the published archives, and those of their trials, by Ray Tune 1.
_AUTHORS_ZOO = re.compile(
    r"tune_zoo_[a-z0-9_]+?_((?P<init>uniform|kaiming_uniform)|hyperparameter_10_(fixed|random)_seeds?)"
    r"|cnn[-_](small|large)_[a-z0-9_]+?_(ard|ard_vd|magn_\d0)"
)
_AUTHORS_TRIAL = re.compile(
    r"NN_tune_trainable_(from_checkpoint_)?[0-9a-f]{5}_(?P<number>\d{5})_\d+_.+_202[0-3]-\d\d-\d\d_\d\d-\d\d-\d\d",
    re.ASCII,
)
_WEIGHTCLIP_ZOO = re.compile(r"tune_zoo_.+_(cnn3|resnet18slim)")
_WEIGHTCLIP_TRIAL = re.compile(r"NN_tune_trainable_seed=\d{1,9}", re.ASCII)
AUTHORS = Credit(
    origin="published",
    authors="Konstantin Schürholt, Diyar Taskiran, Boris Knyazev, Xavier Giró-i-Nieto and Damian Borth",
    licence="cc-by-4.0",
    paper=MODEL_ZOOS,
)
_MAX_RECORD = 1 << 26
_NAMED = 20  # files of a record that an error lists

# Zenodo records of twins, by the images of their parents.
TWIN_RECORDS: Mapping[str, int] = {"mnist": 7023335, "svhn": 7027566}
# Paths on the file server; those that end with a slash are folders, listed as JSON.
_TREES = "weight_space_learning/model_zoos"
_EUROSAT_TWINS = f"{_TREES}/eurosat-modelzoo/cnn-small_eurosat_sparsified/cnn-small_eurosat"
SERVED: Mapping[str, str] = {
    "cifar10_resnet18": "tar_files/tune_zoo_cifar10_resnet18_kaiming_uniform.tar",
    "cifar100_resnet18": "tar_files/tune_zoo_cifar100_resnet18_kaiming_uniform.tar",
    "cifar10_cnn_l_sparse": f"{_TREES}/core-modelzoo/cnn-large_cifar10_sparsified/cnn-large_cifar10_ard_vd/",
    "eurosat_cnn_s_sparse": f"{_EUROSAT_TWINS}_ard_vd/",
    **{f"eurosat_cnn_s_magnitude{percent}": f"{_EUROSAT_TWINS}_magn_{percent}/" for percent in range(10, 100, 10)},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Original:
    """Where a published zoo lies: an archive, or a folder (whose URL ends with a slash).

    Attributes:
        file: its name.
        md5: its published checksum as hexadecimal digits, where there is one.
    """

    url: str
    file: str
    md5: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it lies there file by file."""
        return self.url.endswith("/")

    @property
    def location(self) -> str:
        """The URL with the checksum, as builders take it."""
        return self.url if self.md5 is None else f"{self.url}#md5={self.md5}"


def find_original(name: str, file: str | None = None) -> Original:
    """Where the zoo of this name lies.

    Args:
        file: of a Zenodo record, needed if its name does not identify the zoo; also a preprocessed one.

    Raises:
        UnknownNameError: if the table of zoos has no such name.
        SourceError: if it is not published, or no file of its record matches it.
        DownloadError: if Zenodo cannot be reached.
    """
    zoo = get_zoo(name)
    served = SERVED.get(name)
    if served is not None and file is None:
        url = f"{_base(FILES_VARIABLE, FILES)}/{served}"
        return Original(url=url, file=served.rstrip("/").rsplit("/", 1)[-1])
    record = TWIN_RECORDS.get(zoo.images) if zoo.parent is not None else _record_of(zoo)
    if record is None:
        raise SourceError(
            f"{name} is not among the zoos whose authors published them in a known place; "
            f"train it (`zoo train {zoo.parent or name}`), or build it from a path or URL of your own"
        )
    return _choose(zoo, record, _files_of(record), file)


def download_published(name: str, out: Path, *, file: str | None = None, fetched: Fetched | None = None) -> Path:
    """Fetch a published zoo into a folder, resuming a partial download; returns its path.

    Raises:
        UnknownNameError, SourceError: if there is no such zoo, or it is not published.
        DownloadError, StorageError: if it cannot be fetched, is not what its checksum says, or cannot be kept.
    """
    original = find_original(name, file)
    target = out / original.file
    if original.is_folder:
        remote_folder(original.url, target, fetched).prepare_all()
    else:
        download(HttpFile.probe(Http(), original.url), target, md5=original.md5, fetched=fetched)
    return target


def is_published(name: str, folder: str, trials: Sequence[str]) -> bool:
    """Whether a raw zoo is known to be a published one, by the names that the authors gave inside their archives: of
    the zoo's folder and of its trials. (Bytes that are fetched from where it is published have its checksum, or
    nothing is built of them.)

    Args:
        name: of the zoo, as its images, architecture and folder tell.
        folder: the zoo's own, inside its archive.
        trials: names of the trials' folders.
    """
    try:
        zoo, dense = get_zoo(name), get_zoo(dense_name(name))
    except UnknownNameError:
        return False
    match = _AUTHORS_ZOO.fullmatch(folder)
    theirs = {hit["number"] for trial in trials if (hit := _AUTHORS_TRIAL.fullmatch(trial))}  # Ray counts trials
    return (
        (dense.published or dense.doi is not None)
        and match is not None
        and 2 * len(theirs) > len(trials)
        and match["init"] in (None, *zoo.init)
    )


def common_to_all(name: str, folder: str, trials: Sequence[str]) -> dict[str, Any]:
    """The hyperparameters that all members of a published zoo share, by column; empty for any other zoo.

    See `is_published`.
    """
    if not is_published(name, folder, trials):
        return {}
    spec = get_zoo(name)
    common = {axis: getattr(spec, axis)[0] for axis in GRID_FIELDS if len(getattr(spec, axis)) == 1}
    return common | {"momentum": spec.momentum, "batch_size": spec.batch_size}


def credit_of(name: str, folder: str, trials: Sequence[str]) -> Credit:
    """Whose the models of a raw zoo are, by the names inside; see `is_published`."""
    if is_published(name, folder, trials):
        return AUTHORS
    theirs = sum(_WEIGHTCLIP_TRIAL.fullmatch(trial) is not None for trial in trials)
    return WEIGHTCLIP if _WEIGHTCLIP_ZOO.fullmatch(folder) and 2 * theirs > len(trials) else Credit()


def doi_of(name: str, credit: Credit) -> str | None:
    """The DOI of a published zoo; None for any other."""
    return get_zoo(name).doi if credit == AUTHORS else None


def _record_of(zoo: ZooSpec) -> int | None:
    return int(zoo.doi.removeprefix(_DOI)) if zoo.doi is not None else None


def _base(variable: str, usual: str) -> str:
    return (os.environ.get(variable) or usual).rstrip("/")


def _files_of(record: int) -> list[dict[str, Any]]:
    """The files of a Zenodo record: key, checksum and links of each, as its API has them."""
    url = f"{_base(ZENODO_VARIABLE, ZENODO)}/api/records/{record}"
    data = bytearray()
    try:
        for position, piece in HttpFile(Http(), url, accept="application/json").pieces():
            data[position:] = piece
            if len(data) > _MAX_RECORD:
                raise DownloadError(f"{shown(url)} has more than {_MAX_RECORD:,} bytes; a Zenodo record was expected")
        files: list[dict[str, Any]] = parse_json(data)["files"]
        if not all({"key", "links"} <= entry.keys() and "self" in entry["links"] for entry in files):
            raise KeyError("links")
    except MissingError as error:
        raise MissingError(f"Zenodo has no record {record}: {error}, or set {ZENODO_VARIABLE} to a mirror") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadError(
            f"{shown(url)} is not a record as Zenodo's API gives them (files with key, checksum and links.self); "
            f"check {ZENODO_VARIABLE}"
        ) from error
    return files


def _choose(zoo: ZooSpec, record: int, files: Sequence[dict[str, Any]], wanted: str | None) -> Original:
    """The one file of a record that is the zoo: the wanted one, or the one with a matching name.

    Raises:
        SourceError: if none or several match; the message lists the files.
    """
    if wanted is not None:
        matching = [entry for entry in files if entry["key"] == wanted]
    else:
        matching = [entry for entry in files if _is_of(zoo, str(entry["key"]))]
    if len(matching) != 1:
        keys = sorted(str(entry["key"]) for entry in files)
        more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
        raise SourceError(
            f"Zenodo record {record} has {len(matching)} files that are {wanted or zoo.name}, 1 expected; it has "
            f"{', '.join(keys[:_NAMED]) or 'none'}{more}. Choose one: zoo download {zoo.name} --file NAME"
        )
    (entry,) = matching
    algorithm, _, digits = str(entry.get("checksum", "")).partition(":")
    # A mirror may hold Zenodo's own answers, whose links lead back to Zenodo.
    url = re.sub(rf"^{re.escape(ZENODO)}(?=/)", _base(ZENODO_VARIABLE, ZENODO), str(entry["links"]["self"]))
    return Original(url=url, file=Path(str(entry["key"])).name, md5=digits if algorithm == "md5" else None)


def _is_of(zoo: ZooSpec, key: str) -> bool:
    """Whether a file's name is that of a zoo's archive."""
    if not is_archive(Path(key)):
        return False
    folder_name = read_folder_name(stem(Path(key)))
    suffix = (zoo.parent or zoo.name).removeprefix(f"{zoo.images}_{zoo.architecture}")
    percent = None if zoo.amount is None else round(zoo.amount * 100)
    return (
        folder_name.images in (None, zoo.images)
        and (folder_name.size, folder_name.suffix) == (raw_size(zoo.architecture), suffix)
        and (folder_name.sparsifier, folder_name.percent) == (zoo.sparsifier, percent)
    )
