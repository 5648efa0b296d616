"""Training as a Prefect flow: one task, resumable at its checkpoints."""

from __future__ import annotations

from functools import partial

from flows.stages.train import Trained, train
from flows.steps import ProgressReport, custody_flow, custody_task, home_at, report_counts, report_line


@custody_flow("train-model")
def train_model(home: str, dataset: str, kind: str = "diffusion", preset: str | None = None) -> dict[str, str | float]:
    """Train on a sealed dataset, going on where an interrupted run stopped; its id, steps, images a second."""
    learnt = learn(home, dataset, kind, preset)
    report_counts("trained", {"steps": learnt.steps, "checkpoints": len(learnt.checkpoints)})
    return {"run": learnt.run, "steps": learnt.steps, "images_per_s": round(learnt.images_per_s, 1)}


@custody_task("learn")
def learn(home: str, dataset: str, kind: str, preset: str | None) -> Trained:
    """One run, from its newest checkpoint to its last step. What a removal from it will cost is told beforehand."""
    return train(
        home_at(home),
        dataset=dataset,
        kind=kind,
        preset=preset,
        progress=ProgressReport("train"),
        tell=partial(report_line, "expected-redo"),
    )
