"""Files that are whole or as before, whatever is killed and whenever the power goes: the one way everything is written.

Temporary name in the same directory, fsync, rename, fsync of the directory (POSIX rename is atomic; without the last
step it may be forgotten).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_UNFINISHED = re.compile(r"\..*\.(\d{1,9})\.(?:tmp|making)(?:\.wal)?")


def write_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace a file, making its directory where there is none. Raises OSError; the old file then stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """fsync a file that something else wrote. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """fsync a directory: a rename or an unlink in it becomes durable. Raises OSError."""
    sync_file(path)


def sweep_unfinished(directory: Path, *, below: bool = True) -> tuple[Path, ...]:
    """Remove what processes that are gone were still writing here (and below); what a living one writes stays.

    A kill -9 in the middle of a write leaves a copy of what was being written, which no erasure would find.
    """
    swept = []
    for path in directory.rglob(".*") if below else directory.glob(".*"):
        named = _UNFINISHED.fullmatch(path.name)
        if named and not _is_running(int(named[1])):
            path.unlink(missing_ok=True)
            swept.append(path)
    return tuple(swept)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
