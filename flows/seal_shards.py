"""Sealing as a Prefect flow: a selection over what policy allows becomes a dataset."""

from __future__ import annotations

from flows.stages import seal
from flows.steps import ProgressReport, custody_flow, custody_task, home_at, report_counts, sole_writer


@custody_flow("seal-shards")
def seal_shards(home: str, where: str = "true", name: str | None = None) -> str:
    """Seal a dataset; its id. `where` is the operator's selection, a condition on the view `trainable`."""
    with sole_writer(home_at(home)):
        dataset, slots, shards = write_shards(home, where, name)
    report_counts("sealed", {"slots": slots, "shards": shards})
    return dataset


@custody_task("write-shards")
def write_shards(home: str, where: str, name: str | None) -> tuple[str, int, int]:
    """(dataset, slots, shards)."""
    sealed = seal.seal(home_at(home), where=where, name=name, progress=ProgressReport("seal"))
    return sealed.dataset, sealed.slots, len(sealed.shards)
