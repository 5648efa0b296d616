"""One lock file beside the ledger: writers alone, readers together, and a name for who is in the way."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Final

from policy.errors import BusyError, StorageError

_RETRY_S: Final = 0.02


class FileLock:
    """A held flock(2) lock; released by `release`, by the process's end, whatever the end.

    A child that inherits the descriptor by fork would keep the lock alive after its parent: `forget` closes it there
    without unlocking.
    """

    def __init__(self, path: Path, *, exclusive: bool, wait_s: float) -> None:
        """Take the lock, trying for `wait_s` seconds; raises `BusyError` naming the holder, `StorageError`."""
        self.path = path
        self._exclusive = exclusive
        try:
            # A file object, so that a lock that is dropped without `release` goes too, with a ResourceWarning.
            self._file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise StorageError(f"cannot open the lock file ({error.strerror})", where=str(path)) from error
        try:
            self._take(wait_s)
        except BaseException:
            self.forget()
            raise

    def release(self) -> None:
        """Unlock and close; a second call does nothing."""
        if self._file.closed:
            return
        if self._exclusive:
            with contextlib.suppress(OSError):  # a full disk must not keep the lock held
                self._file.truncate(0)
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self.forget()

    def forget(self) -> None:
        """Close without unlocking: for a forked child."""
        self._file.close()

    def _take(self, wait_s: float) -> None:
        kind = fcntl.LOCK_EX if self._exclusive else fcntl.LOCK_SH
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(self._file, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise BusyError(
                        f"held by {self._holder()}", where=str(self.path), remedy="Wait until it has finished"
                    ) from None
                time.sleep(_RETRY_S)
        if self._exclusive:
            with contextlib.suppress(OSError):  # the name is a courtesy, the lock is what counts
                self._file.truncate(0)
                os.pwrite(self._file.fileno(), f"{os.getpid()}\n".encode(), 0)

    def _holder(self) -> str:
        """The writer named in the file; without one, readers hold it."""
        pid = os.pread(self._file.fileno(), 32, 0).decode("ascii", "replace").strip()
        if pid and Path(f"/proc/{pid}").exists():
            return f"the writing process {pid}"
        return "one or more reading processes"
