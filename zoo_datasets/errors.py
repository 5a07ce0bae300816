"""Errors that a user can cause: each says what was found, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from zoo_datasets.text import one_line

# Of names that a file may hold: characters, and names that a message compares with.
_LONGEST_NAME, _MOST_NAMES = 100, 200
# A table of so many names is listed whole; of a longer one those that are nearest.
_LISTED, _NEAREST = 16, 3


class ZooError(Exception):
    """Base of all errors of this package; the command line prints it on one line and exits 1.

    Messages may quote the files of others: `str` gives one line without control characters.
    """

    def __str__(self) -> str:
        return one_line(" ".join(map(str, self.args)))


class UnknownNameError(ZooError, KeyError):
    """A name that stands in no table; the message says which names are near."""

    def __init__(self, what: str, name: str, names: Iterable[str], remedy: str = "") -> None:
        self.what, self.name, self.names, self.remedy = what, name, sorted(names), remedy
        shown = str(name)[:_LONGEST_NAME]
        super().__init__(f"there is no {what} named {shown!r}; {self._hint(shown)}{' ' + remedy if remedy else ''}")

    def _hint(self, shown: str) -> str:
        names = self.names[:_MOST_NAMES]
        near = difflib.get_close_matches(shown, names, n=_NEAREST, cutoff=0.5)
        if near:
            return f"did you mean {' or '.join(near)}?"
        if len(self.names) <= _LISTED:
            return f"known: {', '.join(names)}."
        return f"nearest of {len(self.names):,}: {', '.join(difflib.get_close_matches(shown, names, _NEAREST, 0.0))}."

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, list[str], str]]:
        # So that it comes back from other processes: pickle would call the class with the message alone.
        return type(self), (self.what, self.name, self.names, self.remedy)


class SpecError(ZooError, ValueError):
    """A zoo, image or training specification that cannot be carried out."""


class DocumentError(ZooError, ValueError):
    """A text that is no JSON or YAML, or one beyond the bounds of what is read; "it …", without the file's name."""


class ImagesError(ZooError, ValueError):
    """An image dataset that cannot be loaded or is not what its spec expects."""


class LayoutError(ZooError, ValueError):
    """Tensors that do not fit a weight layout; the message names the tensor."""


class LayerError(ZooError, NotImplementedError):
    """A layer of a kind that has no rule for what is asked of it; the message names the kind and the rule."""


class RunError(ZooError, ValueError):
    """A run on disk that is broken, or that is asked to become another run."""


class DamagedError(RunError):
    """A file of a run that holds other bytes than were written, or stands in the place of another."""


class CohortInUseError(RunError):
    """A cohort that another process is training at this moment."""


class SourceError(ZooError, ValueError):
    """Something that no dataset repository can be built from."""


class CheckpointError(SourceError):
    """One file of a source that is refused: what was found in it and what was expected."""


class RepositoryError(ZooError, ValueError):
    """A dataset repository that is broken, or that is asked to overwrite something."""


class OutsideError(RepositoryError):
    """A repository that names a file which is not its own."""


class NotCachedError(RepositoryError):
    """Something of a dataset on the Hub that the cache lacks while the Hub is out of reach."""


class HubError(ZooError, OSError):
    """The Hub could not be reached, or refused; holds no token and no signed address."""


class StorageError(ZooError, OSError):
    """A file that could not be written (full disk, read-only folder)."""


class NativeError(ZooError, RuntimeError):
    """The native kernels cannot be used (no compiler, an unknown kind of network); the plain path remains."""


class DownloadError(ZooError, OSError):
    """Something remote that could not be fetched; never a reason to leave a state out."""


class MissingError(DownloadError):
    """A remote file or folder that does not exist."""
