"""Captioning as a Prefect flow: a CLIP of the home's own where custody.toml asks for one, then captions in units."""

from __future__ import annotations

from flows.stages import caption
from flows.stages.caption import Captioning
from flows.steps import ProgressReport, custody_flow, custody_task, home_at, report_counts, sole_writer


@custody_flow("caption-images")
def caption_images(home: str) -> dict[str, int]:
    """Caption what has no text that fits; below the threshold it stays without and is deferred."""
    place = home_at(home)
    with sole_writer(place):
        if caption.needs_training(place):
            train_captioner(home)
        captioning = begin_captions(home)
        for unit in range(captioning.units):
            caption_unit(captioning, unit)
        return report_counts("caption-outcomes", write_verdicts(captioning))


@custody_task("train-captioner")
def train_captioner(home: str) -> str:
    """The id of the run that the captioner comes from."""
    return str(caption.train_captioner(home_at(home), ProgressReport("caption")).run)


@custody_task("begin-captions")
def begin_captions(home: str) -> Captioning:
    """Which pictures wait; alt texts are compared with their pictures first, where that is asked for."""
    return Captioning(home_at(home), ProgressReport("caption"))


@custody_task("caption-unit")
def caption_unit(captioning: Captioning, unit: int) -> int:
    """One unit of pictures; how many that were."""
    return captioning.do(unit)


@custody_task("write-verdicts")
def write_verdicts(captioning: Captioning) -> dict[str, int]:
    """All judged anew; captions in counts: asked, kept, deferred."""
    summary = captioning.finish()
    return {"asked": summary.asked, "kept": summary.kept, "deferred": summary.deferred}
