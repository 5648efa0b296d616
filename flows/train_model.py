"""Training as a Prefect flow: one task, resumable at its checkpoints."""

from __future__ import annotations

from flows.stages import train
from flows.steps import ProgressReport, custody_flow, custody_task, home_at, report_counts


@custody_flow("train-model")
def train_model(home: str, dataset: str, kind: str = "diffusion", preset: str | None = None) -> str:
    """Train on a sealed dataset, going on where an interrupted run stopped; the run's id."""
    name, steps, checkpoints = learn(home, dataset, kind, preset)
    report_counts("trained", {"steps": steps, "checkpoints": checkpoints})
    return name


@custody_task("learn")
def learn(home: str, dataset: str, kind: str, preset: str | None) -> tuple[str, int, int]:
    """(run, steps, checkpoints)."""
    result = train.train(
        home_at(home),
        dataset=dataset,
        kind=kind,
        preset=preset,
        steps=None,
        seed=None,
        progress=ProgressReport("train"),
    )
    return result.run, result.steps, len(result.checkpoints)
