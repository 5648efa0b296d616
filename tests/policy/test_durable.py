"""Files that are whole or as before: what a killed writer leaves is swept, what a living one writes is not."""

import os
import subprocess
import sys
from pathlib import Path

from policy.durable import sweep_unfinished, write_durably


def test_only_what_the_dead_were_writing_is_swept(tmp_path: Path) -> None:
    """A temporary file goes when the process named in it has gone; finished files and living writers' stay."""
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    write_durably(tmp_path / "ab" / "picture.jpg", b"whole")
    half = tmp_path / "ab" / f".picture.jpg.{int(gone.stdout)}.tmp"
    copy = tmp_path / f".audit.duckdb.{int(gone.stdout)}.making"
    living = tmp_path / f".audit.duckdb.{os.getpid()}.making"
    for path in (half, copy, living):
        path.write_bytes(b"half")
    assert set(sweep_unfinished(tmp_path, below=False)) == {copy}
    assert set(sweep_unfinished(tmp_path)) == {half}
    assert living.exists()
    assert [p.name for p in (tmp_path / "ab").iterdir()] == ["picture.jpg"]
