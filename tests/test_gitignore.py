"""What the commands of README and docs/ write is ignored by git: nobody commits paid replies or weights by accident."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

_WRITES = re.compile(r"--(?:out|output_dir|save_split|semantic_cache|interest_file|assignment_file)[= ]([\w./-]+)")
# what commands write without being told where, and what is paid for, in a folder of any name
_DEFAULTS = [
    ".cache/recbole_eimf/replies-mine.jsonl",
    "interests/mine/interests.jsonl",
    "results/tune/EIMF-mine/best.yaml",
    "results/eimf_ablation-ml-100k/table.md",
    "saved/EIMF-Nov-27.pth",
    "my_replies/interests.jsonl",
    "my_replies/assignment.csv.gz",
    "my_replies/batch_requests.jsonl",
    "cache/replies-mine.jsonl",
    "my_run/model.safetensors",
    "my_run/model.pth",
]


def _ignored(path: str) -> bool:
    return (
        subprocess.run(["git", "check-ignore", "-q", "--no-index", path], cwd=REPOSITORY, check=False).returncode == 0
    )


def test_outputs_are_ignored():
    if not shutil.which("git") or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    named = {
        f"{path}/mine/result.json" if not Path(path).suffix else path
        for page in [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
        for path in _WRITES.findall(page.read_text(encoding="utf-8"))
        if not path.split("/")[0].isupper()
        and path not in ("dataset_atomic", "...")  # MODEL, OUT: the reader's own names
    }
    assert len(named) >= 5
    assert [path for path in [*sorted(named), *_DEFAULTS] if not _ignored(path)] == []
