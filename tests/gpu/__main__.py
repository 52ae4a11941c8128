"""Everything that needs a GPU, in one go: ``make test-gpu``, or ``python -m tests.gpu [options of gpu_epoch.py]``.

The tests of this folder and those that skip parts without CUDA, then the benchmark of an epoch. Without a GPU it says
so and exits with 2: nothing has been tested then.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[2]
TESTS = ["tests/gpu", "tests/model/test_devices.py", "tests/data/test_prefetch.py", "tests/test_resume.py"]


def main(options: list[str]) -> int:
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        print(
            f"No GPU was tested: torch {torch.__version__}, {built}, sees none. Look at nvidia-smi, and at the torch "
            "that is installed (https://pytorch.org/get-started/locally).",
            file=sys.stderr,
        )
        return 2
    for number in range(torch.cuda.device_count()):
        print(f"cuda:{number}: {torch.cuda.get_device_name(number)}", flush=True)
    tests = subprocess.run([sys.executable, "-m", "pytest", "-rs", *TESTS], cwd=REPOSITORY).returncode
    epochs = subprocess.run([sys.executable, "benchmarks/gpu_epoch.py", *options], cwd=REPOSITORY).returncode
    return tests or epochs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
