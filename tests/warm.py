"""A process that has imported everything once and forks a child for every command: what `custody …` would do, sooner.

Torch, open_clip and the rest take seconds to import, a stage on a few pictures less. Each command still is a process
of its own, runs the console script's `main`, and can be killed with -9 from outside or at an exact moment within.

Read from standard input, a line each: {"argv", "out", "err", "moment"}; written: the child's pid, then its status.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import re
import signal
import sys
from typing import Any

PRELOADED = (
    "curation.captions",
    "curation.clip_model",
    "curation.duplicates",
    "curation.language",
    "curation.near_embedding",
    "curation.nsfw",
    "curation.shard_reader",
    "curation.shards",
    "flows.cli",
    "flows.removal_prompt",
    "flows.stages.audits",
    "flows.stages.caption",
    "flows.stages.crawl",
    "flows.stages.duplicates",
    "flows.stages.inspection",
    "flows.stages.look",
    "flows.stages.removing.applying",
    "flows.stages.removing.approving",
    "flows.stages.sample",
    "flows.stages.train",
    "flows.stages.trace",
    "flows.stages.verify",
    "flows.stages.why",
    "numpy.ma",
    "onnxruntime",
    "policy.incoming",
    "rich.table",
    "timm",
    "training.clip",
    "training.loop",
    "training.recompute",
    "training.sampling",
    "transformers.models.bert.modeling_bert",  # the text tower: imported when one is made, and 600 modules with it
)


def say_no_pandas() -> None:
    """Answer at once where pandas is asked for and is not installed.

    DuckDB asks of every parameter of a statement whether it is pandas': a search of all of sys.path, each time.
    PyArrow asks once, and must have asked before.
    """
    import pyarrow as pa

    if importlib.util.find_spec("pandas") is None:
        pa.array([0])
        sys.modules.setdefault("pandas", None)  # type: ignore[arg-type]


def serve() -> None:
    """Fork a child a line, until standard input ends."""
    from curation.clip_model import cure_torchvision

    cure_torchvision()
    for name in (*PRELOADED, "open_clip"):
        importlib.import_module(name)
    from flows.stages.train import code_version

    code_version()  # read once: what others write meanwhile is not what runs here
    say_no_pandas()
    gc.freeze()  # a child neither looks through what it was given nor copies it for that
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _be_the_command(order)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _be_the_command(order: dict[str, Any]) -> None:
    from flows.cli import main

    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, order["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, order["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        os.dup2(os.open(path, flags, 0o600), descriptor)
    sys.argv = ["custody", *order["argv"]]
    if order["moment"]:
        _die_at(*order["moment"])
    code = 70
    try:
        main()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _die_at(pattern: str, count: int, before: bool) -> None:
    """kill -9 to this process when the `count`th rename to a path that matches is done, or just before it."""
    left = count

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        # Raised before the rename itself: the next event, whatever it is, finds it done.
        is_done = left == 0
        if left > 0 and event == "os.rename" and re.search(pattern, os.fspath(arguments[1])):
            left -= 1
        if left == 0 and (is_done or before):
            left = -1  # the kill is an event as well
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


if __name__ == "__main__":
    serve()
