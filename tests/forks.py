"""Programs that start at once: one process imports what they need, and forks for each of them.

A fork has imported the same and remembers nothing of those before it, as a process of its own; it can be killed alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer

_PROGRAM = """
import json, os, sys
for line in sys.stdin:
    code, output = json.loads(line)
    if child := os.fork():
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    for stream in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.stdin = open(os.devnull)
    exec(code, {"__name__": "__main__"})
    sys.exit()
"""


class Fork:
    """A program that was begun.

    Attributes:
        pid: the number of its process.
        returncode: after `wait`; negative is the signal that ended it.
    """

    def __init__(self, parent: subprocess.Popen[str], output: Path) -> None:
        self._parent, self._output = parent, output
        self.pid = int(self._line())
        self.returncode: int | None = None

    def _line(self) -> str:
        assert self._parent.stdout is not None
        return self._parent.stdout.readline() or "0"

    def runs(self) -> bool:
        """Whether it has not ended."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        if self.returncode is None:
            self.returncode = int(self._line())
        return self.returncode

    def kill(self) -> None:
        """End it as kill -9 does."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def output(self) -> str:
        """What it has printed, on both streams."""
        self.wait()
        return self._output.read_text()


class Forks:
    """Begins programs, one after the other."""

    def __init__(self, parent: subprocess.Popen[str], folder: Path) -> None:
        self._parent, self._folder, self._count = parent, folder, 0

    def begin(self, code: str) -> Fork:
        """Run Python code in a fork."""
        output = self._folder / f"output-{self._count}.txt"
        self._count += 1
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps([code, str(output)]) + "\n")
        self._parent.stdin.flush()
        return Fork(self._parent, output)

    def run(self, code: str) -> str:
        """Run Python code in a fork to its end, and give what it printed."""
        fork = self.begin(code)
        assert fork.wait() == 0, fork.output()[-2000:]
        return fork.output()


@contextmanager
def forks(
    prepare: str, folder: Path, environment: Mapping[str, str] | None = None, seconds: float = 600
) -> Iterator[Forks]:
    """A process that has run some code and forks from there; it and what it began are killed after so many seconds."""
    command = [sys.executable, "-c", f"{prepare}\n{_PROGRAM}"]
    with subprocess.Popen(
        command, text=True, env=os.environ | (environment or {}), start_new_session=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:  # fmt: skip
        ends = Timer(seconds, lambda: os.killpg(parent.pid, signal.SIGKILL))
        ends.start()
        try:
            yield Forks(parent, folder)
        finally:
            ends.cancel()
            os.killpg(parent.pid, signal.SIGKILL)
