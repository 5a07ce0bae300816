"""Run the engine's tests once for each kind of vector instructions of this machine, and once without a compiler.

`ZOO_NATIVE` chooses the instructions of the native kernels, two variables of torch those of the plain path.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from zoo_datasets.native.compiler import instruction_sets

TESTS = ("tests/stacked", "tests/training/test_trainer.py")
TORCH = {
    "avx512": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "portable": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}


def main() -> int:
    paths = (*instruction_sets(), "none")
    failed = []
    for path in paths:
        begun = time.monotonic()
        print(f"== {path}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *TESTS],
            env=os.environ | {"ZOO_NATIVE": path} | TORCH.get(path, {}),
            cwd=Path(__file__).parents[1],
            check=False,
        )
        print(f"== {path}: exit {done.returncode} after {time.monotonic() - begun:.0f} s", flush=True)
        if done.returncode:
            failed.append(path)
    print(f"paths: {', '.join(paths)}; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
