"""Training as a Prefect flow: one task, resumable at its checkpoints."""

from __future__ import annotations

from flows.stages.train import Trained, train
from flows.steps import ProgressReport, custody_flow, custody_task, home_at, report_counts


@custody_flow("train-model")
def train_model(home: str, dataset: str, kind: str = "diffusion", preset: str | None = None) -> dict[str, str | float]:
    """Train on a sealed dataset, going on where an interrupted run stopped; its id, steps, images a second."""
    learnt = learn(home, dataset, kind, preset)
    report_counts("trained", {"steps": learnt.steps, "checkpoints": len(learnt.checkpoints)})
    return {"run": learnt.run, "steps": learnt.steps, "images_per_s": round(learnt.images_per_s, 1)}


@custody_task("learn")
def learn(home: str, dataset: str, kind: str, preset: str | None) -> Trained:
    """One run, from its newest checkpoint to its last step."""
    return train(home_at(home), dataset=dataset, kind=kind, preset=preset, progress=ProgressReport("train"))
