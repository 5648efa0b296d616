"""A process that has trained once, and forks a child for every trainer: what is killed costs no second import.

Torch and what it loads at its first step take seconds, a small run less. Every trainer is a process of its own, and is
killed with -9 from outside or, to be exact, by itself at a file event (PEP 578) within its life.

Read from standard input, a line each: {"call": "module:function", "arguments", "folder", "die"}; written: the child's
pid, then its status. The first call is made in the process itself, so that all is loaded that the others need.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests import warm_process
from tests.warm_process import WarmProcess

FILE_EVENTS = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"})
SAVING = (".writing-", ".retired-")
_POLL_S = 0.0005


@dataclass(frozen=True, slots=True)
class Kill:
    """When a trainer is killed: one of the three.

    after_s: seconds after it was forked. saving: (how many saves it may finish, seconds into the next one).
    event: at which event of files in its folder, counted from its start.
    """

    after_s: float | None = None
    saving: tuple[int, float] | None = None
    event: int | None = None

    @property
    def kind(self) -> str:
        return "saving" if self.saving else "file event" if self.event else "any instant"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a trainer ended. `events`: those of files in its folder, where it ended by itself."""

    status: int
    seconds: float
    error: str
    events: int

    @property
    def was_killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Forked:
    """Trainers, one after the other, each a child of one warm process.

    `call`: "module:function" for all of them. `warm_up`: its arguments for the first call, which nobody kills.
    `is_saving`: whether a name in the trainer's folder says that it is saving.
    """

    def __init__(
        self,
        scratch: Path,
        call: str,
        warm_up: Mapping[str, Any],
        *,
        is_saving: Callable[[str], bool] = lambda name: name.startswith(SAVING),
    ) -> None:
        from tests.builders import ROOT, SINGLE_THREAD  # not for the warm process: it would import all of flows

        self._scratch, self._call, self._warm_up, self._is_saving = scratch, call, warm_up, is_saving
        env = os.environ | SINGLE_THREAD
        self._process = WarmProcess("tests.training.forked", scratch / "forked.log", cwd=ROOT, env=env)
        self._is_warm = False

    def run(self, folder: Path, arguments: Mapping[str, Any], kill: Kill | None = None) -> Ended:
        """Train to the end, or until it is killed. `folder`: the trainer's own, where its files are."""
        if not self._is_warm:
            self._order(self._warm_up, self._scratch, None)
            assert self._process.line() == "warm"
            self._is_warm = True
        started = time.monotonic()
        self._order(arguments, folder, kill.event if kill else None)
        pid = int(self._process.line())
        if kill is not None and self._is_due(kill, folder):
            warm_process.kill(pid)
        status = int(self._process.line())
        said = json.loads((self._scratch / "said.json").read_text()) if status == 0 else {}
        error = (self._scratch / "error").read_text("utf-8")
        return Ended(status, time.monotonic() - started, error, said.get("events", 0))

    def _is_due(self, kill: Kill, folder: Path) -> bool:
        """Waits for the moment; False where the trainer ended before it, or ends itself."""
        if kill.event is not None:
            return False
        if kill.after_s is not None:
            return not self._process.answers_within(kill.after_s)
        assert kill.saving is not None
        saves, was_saving = kill.saving[0], False
        while not self._process.answers_within(_POLL_S):
            try:
                is_saving = any(self._is_saving(name) for name in os.listdir(folder))
            except FileNotFoundError:
                is_saving = False
            if is_saving and not was_saving:
                if saves == 0:
                    return not self._process.answers_within(kill.saving[1])
                saves -= 1
            was_saving = is_saving
        return False

    def _order(self, arguments: Mapping[str, Any], folder: Path, die: int | None) -> None:
        order = {"call": self._call, "arguments": arguments, "folder": str(folder), "die": die}
        self._process.order(order | {"scratch": str(self._scratch)})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.close()


def serve() -> None:
    """Call once, then fork a child a line, until standard input ends."""
    is_warm = False
    for line in sys.stdin:
        order = json.loads(line)
        module, _, function = order["call"].partition(":")
        call = getattr(importlib.import_module(module), function)
        if not is_warm:
            call(**order["arguments"])
            is_warm = True
            print("warm", flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _be_the_trainer(call, order)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _be_the_trainer(call: Callable[..., None], order: dict[str, Any]) -> None:
    scratch, code = Path(order["scratch"]), 70
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, os.devnull, os.O_WRONLY),
        (2, str(scratch / "error"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        os.dup2(os.open(path, flags, 0o600), descriptor)
    try:
        events = _count_events(order["folder"], order["die"])
        call(**order["arguments"])
        (scratch / "said.json").write_text(json.dumps({"events": events()}))
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _count_events(folder: str, die: int | None) -> Callable[[], int]:
    """Counts events of files in the folder from now on; at the `die`th, before it is carried out, kill -9."""
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in FILE_EVENTS and arguments and str(arguments[0]).startswith(folder):
            count += 1
            if count == die:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return lambda: count


if __name__ == "__main__":
    serve()
