"""Mutations of files, and a fenced process in which strangers' files are read and what happens is counted."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from zoo_datasets.errors import ZooError

SECONDS_EACH = 20
SECONDS_ALL = 240
MEMORY = 1_500_000_000  # bytes of address space beyond what the imports took
GROWTH = 600_000_000  # bytes in use beyond what the imports took
SENTINEL = "executed"
_RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class", "ctypes.dlopen")
_LINKS = ("os.symlink", "os.link")  # whose second argument is what is made
_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate")


class Endless(BaseException):
    """An input that took too long; no handler of errors catches it."""


@dataclasses.dataclass
class Tally:
    """What became of a batch of inputs.

    Attributes:
        tried: inputs read; each is one of the following.
        alike: read as what was written.
        refused: refused by an error of ours, or left out with a reason.
        changed: read as something else.
        crashed: any other exception, or too long; each with its input's name.
    """

    tried: int = 0
    alike: int = 0
    refused: int = 0
    changed: list[str] = dataclasses.field(default_factory=list)
    crashed: list[str] = dataclasses.field(default_factory=list)
    reasons: Counter[str] = dataclasses.field(default_factory=Counter)

    def read(self, name: str, function: Callable[[], bool]) -> None:
        """Count one input; `function` reads it and gives whether it is what was written."""
        self.tried += 1
        signal.alarm(SECONDS_EACH)
        try:
            alike = function()
        except ZooError as error:
            self.refuse(str(error))
        except (Exception, Endless) as error:  # noqa: BLE001  # that none comes is what is tested
            where = traceback.extract_tb(error.__traceback__)[-3:]
            self.crashed.append(f"{name}: {error!r:.200} at {[f'{f.filename}:{f.lineno}' for f in where]}")
        else:
            self.alike += alike
            if not alike:
                self.changed.append(name)
        finally:
            signal.alarm(0)

    def refuse(self, reason: str) -> None:
        """Count an input that was refused for a reason that can be shown."""
        self.refused += 1
        self.reasons[reason[:60]] += 1
        if len(reason) > 2000 or "Traceback" in reason:
            self.crashed.append(f"a reason that cannot be shown: {reason[:200]!r}")


def mutated(data: bytes, rng: random.Random, spliced: Sequence[bytes]) -> bytes:
    """The data with one to three changes: bits flipped, cut, bytes inserted, spans swapped or copied, pieces of
    `spliced` written over it, numbers saturated."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(7)
        span = rng.choice((1, 4, 16, 64, 512))
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[at : None if rng.random() < 0.3 else at + span]
        elif kind == 2:
            changed[at:at] = rng.randbytes(span)
        elif kind == 3:
            other = rng.randrange(len(changed) + 1)
            one, two = bytes(changed[at : at + span]), bytes(changed[other : other + span])
            changed[at : at + span], changed[other : other + span] = two, one
        elif kind == 4:
            piece = rng.choice(spliced)
            changed[at : at + len(piece)] = piece
        elif kind == 5:
            changed[at : at + rng.choice((1, 2, 4, 8))] = rng.choice((b"\xff", b"\0", b"\x7f")) * rng.choice((2, 4, 8))
        else:
            changed[at:at] = bytes(changed[at : at + span])
    return bytes(changed)


@contextlib.contextmanager
def fenced(folder: Path) -> Iterator[dict[str, list[str]]]:
    """Bound memory and time, and note what is run, and what is written outside of `folder`.

    Everything the reading needs must be imported and compiled before.
    """
    seen: dict[str, list[str]] = {"ran": [], "outside": []}
    allowed = str(folder)
    armed = True

    def inside(path: Any) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return True  # an open file's number
        text = os.path.realpath(os.fsdecode(path))
        return text.startswith(allowed) or text == os.devnull

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if not armed:
            return
        if event in _RUNS:
            seen["ran"].append(f"{event} {str(arguments)[:100]}")
        elif event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not inside(arguments[0]):
            seen["outside"].append(f"open {arguments[0]!r}")
        elif event in _CHANGES and not all(map(inside, arguments[event in _LINKS :][:1])):
            seen["outside"].append(f"{event} {arguments[0]!r}")

    def too_long(number: int, frame: object) -> None:
        raise Endless(f"more than {SECONDS_EACH} s")

    sys.addaudithook(watch)
    signal.signal(signal.SIGALRM, too_long)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, most))
    try:
        yield seen
    finally:
        armed = False
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def report(folder: Path, batches: dict[str, Callable[[Tally], None]]) -> None:
    """Run batches in this process, fenced, and print their counts as one line of JSON."""
    tallies = {name: Tally() for name in batches}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with fenced(folder) as seen:
        for name, batch in batches.items():
            batch(tallies[name])
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    values = {name: vars(tally) for name, tally in tallies.items()}
    print(json.dumps({"batches": values, "grown": grown, **seen}))


def run_fenced(script: str, folder: Path) -> dict[str, Any]:
    """What a test file's own process reports when it is run as a script with a folder, within the time limit; nothing
    may have run and nothing may be written outside of the folder."""
    (folder / "work").mkdir()
    tests = Path(__file__).parent.parent
    environment = os.environ | {
        "PYTHONPATH": str(tests),
        "TMPDIR": str(folder / "work"),
        "HF_HOME": str(folder / "work" / "hub"),
        "ZOO_CACHE": str(folder / "work" / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    before = outside_of(folder)
    done = subprocess.run(
        [sys.executable, script, str(folder / "work")],
        capture_output=True, text=True, timeout=SECONDS_ALL, env=environment, cwd=folder / "work",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    value: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for name, batch in value["batches"].items():
        numbers = {key: len(each) if isinstance(each, list) else each for key, each in batch.items()}
        print(name, {key: number for key, number in numbers.items() if key != "reasons"})
    assert value["ran"] == [], value["ran"][:5]
    assert value["outside"] == [], value["outside"][:5]
    assert value["grown"] < GROWTH, value["grown"]
    assert not [here for here, _, files in os.walk(folder) if SENTINEL in files]
    assert outside_of(folder) == before
    shutil.rmtree(folder / "work", ignore_errors=True)  # some paths are longer than tools can take
    return value


def outside_of(folder: Path) -> list[str]:
    """The files beside the folder that is written to."""
    paths = (path for each in folder.iterdir() if each.name != "work" for path in (each, *each.rglob("*")))
    return sorted(map(str, paths))
