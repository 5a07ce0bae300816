"""Taking a zoo out of a repository: off the card first, and then its files."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import DatasetCard

from zoo_datasets.errors import RepositoryError, UnknownNameError
from zoo_datasets.repository.card import CARD, card_without, configs_of, read_card, zoos_of
from zoo_datasets.repository.listing import files_among
from zoo_datasets.repository.places import LIGHT_ENDINGS, META_FOLDER, folders_of
from zoo_datasets.storage.files import check_files, write_bytes
from zoo_datasets.storage.locks import LOCK, locked_card, locked_zoo


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """What taking a zoo out removes, or has removed.

    Attributes:
        location: of the repository.
        files: paths in the repository.
        bytes: of the files.
        commit: of the Hub; None of a folder, and if nothing was removed yet.
    """

    location: str
    name: str
    files: tuple[str, ...]
    bytes: int
    commit: str | None = None


def check_removable(card: DatasetCard, name: str, origin: str) -> None:
    """Refuse to remove what is no zoo with folders of its own.

    Raises:
        UnknownNameError: if the card lists no such zoo.
        RepositoryError: naming `origin`, if it is a part of a zoo, or lists files of other folders.
    """
    configs = configs_of(card)
    zoos = zoos_of(configs)
    if name in configs and name not in zoos:
        whole = next(name.removesuffix(end) for end in LIGHT_ENDINGS if name.endswith(end))
        raise RepositoryError(f"{origin}: {name} is a part of {whole}; remove that one")
    if name not in zoos:
        raise UnknownNameError("config", name, zoos)
    own = [f"{name}{end}" for end in ("", *LIGHT_ENDINGS)]
    listed = [path for config in own for _, path in files_among(configs.get(config, {}), ())]
    elsewhere = [path for path in listed if path.partition("/")[0] not in folders_of(name)]
    if elsewhere or configs[name].get("data_dir") or not isinstance(configs[name].get("data_files"), list):
        raise RepositoryError(
            f"{origin}: {name} was not written by `zoo build` and has files outside of {name}/; edit {CARD} by hand"
        )


def files_of_zoo(name: str, paths: Iterable[str]) -> list[str]:
    """Those of the paths in a repository that lie in the folders of a zoo."""
    return sorted(path for path in paths if path.startswith(tuple(f"{folder}/" for folder in folders_of(name))))


def listed_but_gone(card: DatasetCard, paths: Collection[str]) -> list[str]:
    """The zoos that a card lists and of which none of the files exists.

    Args:
        paths: of all files of the repository, or of those in the zoos' folders.
    """
    configs = configs_of(card)
    return [
        name
        for name in zoos_of(configs)
        if (entry := configs[name]).get("data_files")
        and isinstance(entry["data_files"], list)
        and not entry.get("data_dir")
        and not {path for _, path in files_among(entry, paths)}.intersection(paths)
    ]


def gone_message(repo: str | Path, name: str) -> str:
    """That a zoo is listed of which no file exists, and what to do."""
    return (
        f"{repo} lists {name} in {CARD}, but none of its files exists; build it again, or take it off the card with "
        f"`zoo remove {repo} {name}`"
    )


def local_files(repo: Path, names: Iterable[str]) -> list[str]:
    """The files in the folders of zoos of a local repository, hidden ones of builds too."""
    folders = [repo / folder for name in names for folder in folders_of(name)]
    return [
        file.relative_to(repo).as_posix()
        for folder in folders
        if folder.is_dir() and not folder.is_symlink()
        for file in sorted(folder.iterdir())
        if not file.is_dir() or file.is_symlink()
    ]


def remove_local(repo: Path, name: str, *, dry_run: bool) -> Removal:
    """Take a zoo out of a local repository; other zoos, and the text between the card's marks, stay.

    Raises:
        UnknownNameError: if the card lists no such zoo.
        RepositoryError: if the card cannot be read, or the zoo is in use or not one of `zoo build`.
        StorageError: if the repository cannot be written to.
    """
    if not (repo / CARD).is_file():
        raise RepositoryError(f"{repo} is no dataset repository: there is no {CARD} in it")
    check_removable(read_card(repo), name, str(repo / CARD))
    check_files(repo, [*folders_of(name), META_FOLDER], links=False)
    paths = [path for path in local_files(repo, [name]) if Path(path).name != LOCK]
    removal = Removal(
        location=str(repo), name=name, files=tuple(paths), bytes=sum((repo / path).lstat().st_size for path in paths)
    )
    if dry_run:
        return removal
    (repo / name).mkdir(exist_ok=True)  # for its lock
    with locked_zoo(repo, name), locked_card(repo):
        write_bytes(repo / CARD, card_without(read_card(repo), name).encode())
        for path in paths:
            (repo / path).unlink(missing_ok=True)
    for folder in folders_of(name):
        (repo / folder / LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # files of others stay
            (repo / folder).rmdir()
    return removal
