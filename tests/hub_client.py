"""A process that uses a hub as people do: the real `zoo`, `datasets` and `huggingface_hub`, one line of JSON a task.

Waiting between tries is cut short; how long it would have been is told.
"""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from hub_server import SIGNATURE, WRITER


class Client:
    """Starts the process; `zoo` runs a command of ours, `load` loads with `datasets` alone or with `load_zoo`."""

    def __init__(self, url: str, home: Path, prefix: tuple[str, ...] = (), offline: bool = False) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | {
            "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HF_TOKEN": WRITER,
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": str(int(offline)),
            "PYTHONPATH": str(Path(__file__).parent),
        }  # fmt: skip
        self.process = subprocess.Popen(
            [*prefix, sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def ask(self, **task):
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the client died: {self.process.wait()}"
        return json.loads(line)

    def zoo(self, *arguments, code=0, token=WRITER, **options):
        """The output of a command that ends with this code; the seconds that it waited are in `waited`."""
        answer = self.ask(zoo=[str(argument) for argument in arguments], token=token, **options)
        assert answer["code"] == code, answer
        assert token not in answer["output"] or not token
        assert SIGNATURE not in answer["output"]
        assert "Traceback" not in answer["output"]
        self.waited = answer["slept"]
        return answer["output"]

    def load(self, *arguments, ours=False, **options):
        """The rows of each split, and a digest of all of them."""
        answer = self.ask(load=arguments, options=options, ours=ours)
        assert "rows" in answer, answer["output"]
        return answer["rows"], answer["digest"]

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


def _do(task):
    import zoo_datasets.hub.push

    zoo_datasets.hub.push.FILES_PER_COMMIT = task.get("files_per_commit", 100)
    if "zoo" in task:
        return _zoo(task["zoo"])
    if "download" in task:
        import huggingface_hub

        return {"folder": huggingface_hub.snapshot_download(task["download"], repo_type="dataset")}
    return _load(task["load"], task["options"], task["ours"])


def _zoo(arguments):
    from zoo_datasets.cli.app import main

    sys.argv = ["zoo", *arguments]
    try:
        main()
    except SystemExit as stop:
        return {"code": stop.code or 0}


def _load(arguments, options, ours):
    import datasets

    from zoo_datasets.loading.load import load_zoo
    from zoo_datasets.specs.spec import digest_of

    batched = options.pop("batched", False)
    loaded = (load_zoo if ours else datasets.load_dataset)(*arguments, **options)
    parts = loaded if isinstance(loaded, dict) else {"all": loaded}
    if batched:
        from zoo_datasets.loading.batches import batches

        loaders = {split: batches(part, 4, ["weights"], shuffle=True) for split, part in parts.items()}
        rows = {split: sum(len(batch["weights"]) for batch in loader) for split, loader in loaders.items()}
        return {"rows": rows, "digest": None}
    if options.get("streaming"):
        return {"rows": {split: sum(1 for _ in part) for split, part in parts.items()}, "digest": None}
    digest = digest_of([[split, _content(part.with_format("arrow")[:])] for split, part in parts.items()])
    return {"rows": {split: len(part) for split, part in parts.items()}, "digest": digest}


def _content(table):
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    return {
        name: hashlib.sha256(np.asarray(column.flatten()).tobytes()).hexdigest()
        if name == "weights"
        else str(column.to_pylist())
        for name, column in columns.items()
    }


def serve() -> None:
    answers, slept, sleep = sys.stdout, [], time.sleep

    def shortly(seconds):
        slept.append(seconds)
        sleep(min(seconds, 0.02))

    time.sleep = shortly
    for line in sys.stdin:
        task, output = json.loads(line), io.StringIO()
        slept.clear()
        os.environ["HF_TOKEN"] = task.get("token", WRITER) or ""
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                answer = _do(task)
            except Exception as error:  # noqa: BLE001 - whatever it is, the test sees it
                answer = {"code": None, "error": f"{type(error).__name__}: {error}"}
                output.write(answer["error"])
        waited = [seconds for seconds in slept if seconds >= 0.1]
        answers.write(json.dumps({**answer, "output": output.getvalue(), "slept": waited}) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
