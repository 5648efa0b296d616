"""A process of the tests' own that has imported everything, and forks a child for every order: the pipe to it.

Imports nothing of ours: the processes themselves import this as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class WarmProcess:
    """A module that reads orders from its standard input, a JSON line each, and answers by lines.

    `log`: where its standard error goes, which is quoted when it ends too soon.
    """

    def __init__(self, module: str, log: Path, *, cwd: Path, env: Mapping[str, str]) -> None:
        self._log_path, self._log = log, log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=cwd,
            env=dict(env),
        )

    def order(self, order: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()

    def line(self) -> str:
        """The next line that it says, waited for."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._log_path.read_text("utf-8")
        return line.decode().strip()

    def answers_within(self, seconds: float) -> bool:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return bool(ready)

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()
        self._log.close()


def kill(pid: int) -> None:
    """kill -9, whether it is still there or not."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
