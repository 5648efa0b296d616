"""Which captioner custody.toml asks for, and from which score on a caption of it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from curation.clip_model import newest_checkpoint
from flows.home import Home
from flows.pace import Pace
from flows.stages.captioning.bank import build_bank
from flows.stages.captioning.calibration import UNQUALIFIED, calibrated
from flows.stages.removing.exposure import require_standing
from flows.stages.train import newest_run
from flows.terminal import Progress
from policy.errors import ConfigurationError

if TYPE_CHECKING:
    from curation.caption_index import Told
    from curation.captions import Captioner
    from curation.clip_model import ClipModel
    from curation.coca import CocaModel, Decoding

RETRIEVAL, COCA = "retrieval", "coca"
TRAINED = "trained:"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model of custody.toml in memory. `coca`: None of a CLIP. `name`: with the decoding, where there is one."""

    clip: ClipModel
    coca: CocaModel | None
    name: str


@dataclass(frozen=True, slots=True)
class KeptFrom:
    """The score from which on a caption is kept.

    `without_qualifiers`: it is proven of texts without what qualifies them, so they are given without. `measured_at`:
    when it was measured, naive UTC; None where custody.toml says it. What was deferred before is asked again.
    """

    threshold: float
    without_qualifiers: bool = False
    measured_at: datetime | None = None


class CaptionerChoice:
    """What [captions] names; loaded when something of it is needed, so that a run with nothing to do loads nothing.

    Raises:
        ConfigurationError: the settings contradict one another. InputError: there is no such run. RefusedError: it was
        withdrawn, or saw what was removed since.
    """

    def __init__(self, home: Home) -> None:
        self._home, self._settings = home, home.settings.captions
        settings, where = self._settings, str(home.settings_path)
        if settings.kind not in (RETRIEVAL, COCA):
            raise ConfigurationError(
                f"captions.kind is {settings.kind!r}", where=where, remedy=f'There are "{RETRIEVAL}" and "{COCA}"'
            )
        is_trained = settings.pretrained.startswith(TRAINED)
        if settings.kind == COCA and is_trained:
            raise ConfigurationError(
                f"captions.pretrained is {settings.pretrained!r}, a CLIP of our own, which writes no captions",
                where=where,
                remedy=f'Name the weights of a CoCa and their architecture, or set kind = "{RETRIEVAL}"',
            )
        run = settings.pretrained.removeprefix(TRAINED)
        self.run_dir = newest_run(home, "clip", None if run == "latest" else run) if is_trained else None
        if self.run_dir is not None:
            newest = newest_checkpoint(self.run_dir)
            require_standing(home, f"{self.run_dir.name}-{newest.name.removeprefix('step-')}")
        self.decoding = _decoding(home) if settings.kind == COCA else None

    @property
    def run(self) -> str | None:
        """The run of ours that the model comes from."""
        return self.run_dir.name if self.run_dir is not None else None

    @property
    def origin(self) -> str:
        """What a caption of it is called in the ledger."""
        return "coca" if self.decoding is not None else "clip-retrieval"

    @property
    def digest(self) -> str:
        """The model's; one of ours need not be loaded for it."""
        return self._identity[1]

    @property
    def name(self) -> str:
        """The model's, with how a CoCa's words are chosen."""
        return self._identity[0]

    @cached_property
    def _identity(self) -> tuple[str, str]:
        from curation.clip_model import trained_identity

        if self.run_dir is not None:
            return trained_identity(self.run_dir)
        return self.loaded.name, self.loaded.clip.digest

    @cached_property
    def loaded(self) -> Loaded:
        """The model in memory.

        Raises:
            ConfigurationError: the weights are not on this machine, are not those expected, or do not fit.
        """
        from curation.clip_model import ClipSpec, is_weights_file, load_clip

        settings, device = self._settings, self._home.settings.clip.device
        if self.run_dir is not None:
            clip = load_clip(ClipSpec(None, f"{TRAINED}{self.run_dir}"), device)
            return Loaded(clip, None, clip.name)
        weights = settings.pretrained
        if is_weights_file(weights):
            weights = str(self._home.path / weights)  # a scheduled run starts anywhere
        spec = ClipSpec(settings.architecture or None, weights, settings.pretrained_sha256)
        if self.decoding is None:
            clip = load_clip(spec, device)
            return Loaded(clip, None, clip.name)
        from curation.coca import load_coca

        coca = load_coca(spec, device)
        return Loaded(coca.clip, coca, f"{coca.name} ({self.decoding})")

    @property
    def cache(self) -> Path:
        """Where what is computed of this model is kept."""
        from curation.captions import captioner_folder

        chosen = [str(self.decoding)] if self.decoding is not None else list(self._settings.templates)
        return captioner_folder(self._home.path / "cache", self.digest, chosen)

    def kept_from(self, progress: Progress) -> KeptFrom:
        """custody.toml's threshold, else one that is measured on pairs of the ledger.

        Raises:
            ConfigurationError: there are too few pairs to measure it on.
        """
        if self._settings.threshold:
            return KeptFrom(self._settings.threshold)
        found = calibrated(self._home, self, progress)
        measured_at = datetime.fromisoformat(found.measured_at).replace(tzinfo=None)
        return KeptFrom(found.threshold, found.criterion == UNQUALIFIED, measured_at)

    def captioner(self, kept_from: KeptFrom, expected: int, progress: Progress) -> Captioner:
        """The captioner, ready to be asked for `expected` pictures.

        Raises:
            ConfigurationError: the bank is empty, or a phrase list cannot be read.
        """
        from curation.captions import RetrievalCaptioner
        from curation.coca import CocaCaptioner

        loaded = self.loaded
        if loaded.coca is not None and self.decoding is not None:
            return CocaCaptioner(loaded.coca, threshold=kept_from.threshold, decoding=self.decoding)
        return RetrievalCaptioner(
            loaded.clip,
            build_bank(self._home),
            threshold=kept_from.threshold,
            without_qualifiers=kept_from.without_qualifiers,
            cache_dir=self._home.path / "cache",
            templates=self._settings.templates,
            expected=expected,
            told=_told(progress),
        )


def _told(progress: Progress) -> Told:
    """How the embedding of a bank is told: with its rate and what remains."""
    paces: dict[int, Pace] = {}

    def told(done: int, total: int) -> None:
        if total:
            pace = paces.setdefault(total, Pace(progress, "phrases", total))
            pace.add(done - pace.done)

    return told


def _decoding(home: Home) -> Decoding:
    from curation.coca import Decoding

    settings = home.settings.captions
    return Decoding(
        method=settings.decoding,  # type: ignore[arg-type]  # what is none is refused there
        max_tokens=settings.max_tokens,
        beams=settings.beams,
        length_penalty=settings.length_penalty,
        no_repeat_ngram=settings.no_repeat_ngram,
        top_k=settings.top_k,
        temperature=settings.temperature,
        seed=settings.seed,
    )
