"""Captioning as a Prefect flow: a CLIP of the home's own where custody.toml asks for one, then captions."""

from __future__ import annotations

from flows.stages import caption
from flows.steps import ProgressReport, custody_flow, custody_task, home_at, report_counts, sole_writer


@custody_flow("caption-images")
def caption_images(home: str) -> dict[str, int]:
    """Caption what has no alt text; below the threshold it stays without and is deferred."""
    place = home_at(home)
    with sole_writer(place):
        if caption.needs_training(place):
            train_captioner(home)
        return report_counts("caption-outcomes", write_captions(home))


@custody_task("train-captioner")
def train_captioner(home: str) -> str:
    """The id of the run that the captioner comes from."""
    return str(caption.train_captioner(home_at(home), ProgressReport("caption")).run)


@custody_task("write-captions")
def write_captions(home: str) -> dict[str, int]:
    """Captions in counts: asked, kept, deferred."""
    summary = caption.caption(home_at(home), ProgressReport("caption"))
    return {"asked": summary.asked, "kept": summary.kept, "deferred": summary.deferred}
