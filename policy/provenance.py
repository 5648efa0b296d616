"""Manifests and records: what a dataset is, where it lies, who learnt from it.

Roots are Merkle tree hashes as in RFC 6962 section 2.1 (SHA-256, 0x00 before a leaf, 0x01 before a node).
The dataset root covers (ordinal, commitment) only and never changes, whatever is removed later;
each storage generation has a root of its own over files, offsets and digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Self

from policy.errors import IntegrityError

MANIFEST_VERSION = 1


def merkle_root(leaves: Iterable[bytes]) -> str:
    """Merkle tree hash of the leaves' data (RFC 6962, 2.1), in hex. An empty tree hashes the empty string."""
    level = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]
    if not level:
        return hashlib.sha256(b"").hexdigest()
    # Pairing neighbours and carrying an odd last node up unchanged is the RFC's split at the largest power of two.
    while len(level) > 1:
        pairs = [hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = pairs + ([level[-1]] if len(level) % 2 else [])
    return level[0].hex()


def dataset_root(commitments: Sequence[bytes]) -> str:
    """Root over (ordinal, commitment): leaf = ordinal as 8 bytes big-endian, then the 32-byte commitment."""
    return merkle_root(i.to_bytes(8, "big") + c for i, c in enumerate(commitments))


def canonical_json(value: object) -> str:
    """Sorted keys, no spaces, UTF-8 as it is: the form that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def config_digest(config: object) -> str:
    """blake2b-16 of the canonical JSON, in hex."""
    return hashlib.blake2b(canonical_json(config).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class ShardManifest:
    """One tar: its file name within the generation, digest, and the ordinals [first_ordinal, first_ordinal + slots)."""

    path: str
    sha256: str
    size_bytes: int
    index_sha256: str
    first_ordinal: int
    slots: int
    live: int


@dataclass(frozen=True, slots=True)
class Generation:
    """One storage of a dataset's slots. `removals`: the removals applied since generation 0."""

    dataset: str
    number: int
    root: str
    shards: tuple[ShardManifest, ...]
    removals: tuple[str, ...] = ()

    @staticmethod
    def root_of(shards: Iterable[ShardManifest]) -> str:
        return merkle_root(canonical_json(asdict(s)).encode() for s in shards)

    def to_json(self) -> str:
        return json.dumps({"version": MANIFEST_VERSION, **asdict(self)}, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, *, where: str = "generation.json") -> Self:
        data = _read_object(text, where)
        try:
            shards = tuple(ShardManifest(**s) for s in data["shards"])
            generation = cls(data["dataset"], data["number"], data["root"], shards, tuple(data["removals"]))
        except (KeyError, TypeError) as error:
            raise IntegrityError(f"not a generation manifest ({error})", where=where) from error
        if generation.root != cls.root_of(shards):
            raise IntegrityError("the root does not cover the shards that are listed", where=where)
        return generation


@dataclass(frozen=True, slots=True)
class ClassRange:
    """The slots [start, stop), all of one class of policy.revocability.Revocability."""

    revocability: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class DatasetManifest:
    """The ordered slots, fixed: their number and the root over their commitments (leaves.bin, 32 bytes each).

    `occurrences`: pairs of a page and a picture, known when the slots were fixed, whose bytes are those of a slot.
    `near_duplicates`: other pictures for which the slots' pictures stood then. None: sealed before they were counted.
    `classes`: how revocable the slots are, as ranges that follow one another; None: sealed before slots had classes.
    """

    dataset: str
    root: str
    slots: int
    image_size: int
    purpose: str
    ruleset_digest: str
    selection_digest: str
    parent: str | None
    sealed_at: str
    occurrences: int | None = None
    near_duplicates: int | None = None
    classes: tuple[ClassRange, ...] | None = None

    def to_json(self) -> str:
        return json.dumps({"version": MANIFEST_VERSION, **asdict(self)}, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, *, where: str = "dataset.json") -> Self:
        data = _read_object(text, where)
        try:
            if data.get("classes") is not None:
                data["classes"] = tuple(ClassRange(**each) for each in data["classes"])
            manifest = cls(**{k: v for k, v in data.items() if k != "version"})
            if manifest.classes is not None:
                _check_classes(manifest.classes, manifest.slots)
        except (TypeError, ValueError) as error:
            raise IntegrityError(f"not a dataset manifest ({error})", where=where) from error
        return manifest


def _check_classes(classes: Sequence[ClassRange], slots: int) -> None:
    """ValueError unless the ranges follow one another from the first slot to the last."""
    reached = 0
    for each in classes:
        if each.start != reached or not reached < each.stop or each.revocability not in range(4):
            raise ValueError(f"class {each.revocability} of [{each.start}, {each.stop}) behind slot {reached}")
        reached = each.stop
    if reached != slots:
        raise ValueError(f"classes of {reached} slots, not of {slots}")


@dataclass(frozen=True, slots=True)
class UpstreamModel:
    """A component a model stands on. `training_data`: "run:<id>" when it was trained here, else what is known of it."""

    role: str
    name: str
    digest: str
    licence: str
    training_data: str


@dataclass(frozen=True, slots=True)
class Phase:
    """Ordinal ranges [start, stop) that are permuted together, and for how many epochs.

    With `window_shards`, slots are mixed only within windows of so many shards of `shard_slots` slots (order version
    2): what is read at one time then lies in few files. 0: all are mixed with all.
    """

    ranges: tuple[tuple[int, int], ...]
    epochs: int
    shard_slots: int = 0
    window_shards: int = 0

    @property
    def slots(self) -> int:
        return sum(stop - start for start, stop in self.ranges)


@dataclass(frozen=True, slots=True)
class NumericContract:
    """What bit-equality is claimed under; another one makes a checkpoint TAINTED, never "erased"."""

    threads: int
    world_size: int
    device: str
    precision: str
    deterministic: bool
    versions: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a run under one dataset, order and numeric contract."""

    segment: int
    dataset: str
    dataset_root: str
    slots: int
    order_version: int
    order_key: str
    first_position: int
    batch_size: int
    phases: tuple[Phase, ...]
    contract: NumericContract


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A run: what was to be learnt from what, under which code, seed and upstream models.

    kind: diffusion | clip | unlearning (training/unlearning.py).
    """

    run: str
    kind: str
    config_digest: str
    config_json: str
    code_version: str
    dataset: str
    dataset_root: str
    seed: int
    upstream: tuple[UpstreamModel, ...]
    parent_checkpoint: str | None
    started_at: str
    segments: tuple[Segment, ...]

    def to_json(self) -> str:
        return json.dumps({"version": MANIFEST_VERSION, **asdict(self)}, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, *, where: str = "run.json") -> Self:
        data = _read_object(text, where)
        try:
            data.pop("version")
            data["upstream"] = tuple(UpstreamModel(**u) for u in data["upstream"])
            data["segments"] = tuple(_segment(s) for s in data["segments"])
            return cls(**data)
        except (KeyError, TypeError) as error:
            raise IntegrityError(f"not a run record ({error})", where=where) from error


@dataclass(frozen=True, slots=True)
class ScheduleEntry:
    """A slot that is empty from a step on (0: never seen)."""

    ordinal: int
    first_empty_step: int


def schedule_digest(schedule: Iterable[ScheduleEntry]) -> str:
    """sha256 over (first empty step, ordinal) of every entry, rising, as 8 bytes big-endian each; in hex."""
    digest = hashlib.sha256()
    for step, ordinal in sorted((e.first_empty_step, e.ordinal) for e in schedule):
        digest.update(step.to_bytes(8, "big") + ordinal.to_bytes(8, "big"))
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Auc:
    """How well scores tell members from non-members: 0.5 not at all, 1 always. [low, high]: the 95 % interval.

    `tpr_at_1pct`: the share of members that are found while 1 % of non-members are taken for some; None: fewer than
    100 non-members.
    """

    value: float
    low: float
    high: float
    members: int
    non_members: int
    tpr_at_1pct: float | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """One AUC less another of the same samples, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Forgetting:
    """Removed samples (members) against held-out ones that no model saw (non-members); see training/membership.py.

    `draws`: of timestep and noise, a sample. `lowered`: before less after. `auc_reference`, `above_reference`: of an
    exact replay, and after less that; None: there was none. `calibrated`: scores less the reference's.
    """

    draws: int
    auc_before: Auc
    auc_after: Auc
    lowered: Difference
    auc_reference: Auc | None = None
    above_reference: Difference | None = None
    calibrated_before: Auc | None = None
    calibrated_after: Auc | None = None

    @classmethod
    def from_fields(cls, data: dict[str, Any]) -> Self:
        """From parsed JSON; KeyError or TypeError: it is none."""
        kinds = {"lowered": Difference, "above_reference": Difference}
        read: dict[str, Any] = {k: v if v is None or k == "draws" else kinds.get(k, Auc)(**v) for k, v in data.items()}
        return cls(**read)


@dataclass(frozen=True, slots=True)
class Unlearning:
    """How a checkpoint was made to approximate not having seen some slots: never erased, never exact.

    `config_json`: the method's settings, canonical. `ordinals`: the slots; `removals`: the ids they were removed by.
    `retained_before`, `retained_after`: mean loss of slots that stay. `forgetting`: None: not measured, too few slots.
    """

    method: str
    config_json: str
    steps: int
    ordinals: tuple[int, ...]
    removals: tuple[str, ...]
    retained_before: float
    retained_after: float
    forgetting: Forgetting | None

    @classmethod
    def from_fields(cls, data: dict[str, Any]) -> Self:
        """From parsed JSON; KeyError or TypeError: it is none."""
        measured = data["forgetting"]
        read = {
            "ordinals": tuple(int(o) for o in data["ordinals"]),
            "removals": tuple(str(r) for r in data["removals"]),
            "forgetting": None if measured is None else Forgetting.from_fields(measured),
        }
        return cls(**{**data, **read})


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """What a checkpoint is and saw. `positions`: slots consumed; `state`: exact | tainted.

    `tally`, `origins`: exposures by licence and by where the caption came from, of exactly what was seen.
    `files`: (name, sha256) of every file beside the record.
    `parent_sha256`: the parent record's `digest`, so that records form a chain.
    `unlearning`: of a checkpoint that approximates not having seen some slots, how; such a one is tainted.

    The schedule is stored once a run, and only ever grows: a record's JSON holds its digest instead. Read back alone,
    a record has `schedule_sha256` and no entries, until `with_schedule` is given the run's.
    """

    checkpoint: str
    run: str
    segment: int
    step: int
    positions: int
    dataset: str
    dataset_root: str
    schedule: tuple[ScheduleEntry, ...]
    tally: tuple[tuple[str, int], ...]
    files: tuple[tuple[str, str], ...]
    parent: str | None
    upstream: tuple[UpstreamModel, ...]
    state: str
    saved_at: str
    origins: tuple[tuple[str, int], ...] = ()
    parent_sha256: str | None = None
    schedule_sha256: str = ""
    unlearning: Unlearning | None = None

    @property
    def digest(self) -> str:
        """sha256 of the record's JSON, in hex: what a child's `parent_sha256` is."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def with_schedule(self, run_schedule: Iterable[ScheduleEntry], *, where: str = "schedule.json") -> Self:
        """The record with its entries, those of the run's schedule below its step; IntegrityError: they are not."""
        if not self.schedule_sha256:
            return self
        entries = tuple(e for e in run_schedule if e.first_empty_step < self.step)
        if schedule_digest(entries) != self.schedule_sha256:
            raise IntegrityError(
                f"the schedule below step {self.step} is not the one that {self.checkpoint} recorded", where=where
            )
        ordered = sorted(entries, key=lambda e: (e.first_empty_step, e.ordinal))
        return replace(self, schedule=tuple(ordered), schedule_sha256="")

    def to_json(self) -> str:
        data = {"version": MANIFEST_VERSION, **asdict(self)}
        del data["schedule"]
        data["schedule_sha256"] = self.schedule_sha256 or schedule_digest(self.schedule)
        # What is not set is left out: the digest of a record outlives fields that come later.
        for name in ("origins", "parent_sha256", "unlearning"):
            if not data[name]:
                del data[name]
        return json.dumps(data, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, *, where: str = "provenance.json") -> Self:
        data = _read_object(text, where)
        try:
            data.pop("version")
            # Records of older builds hold all entries.
            data["schedule"] = tuple(ScheduleEntry(**e) for e in data.get("schedule", ()))
            data["tally"] = tuple((str(k), int(v)) for k, v in data["tally"])
            data["origins"] = tuple((str(k), int(v)) for k, v in data.get("origins", ()))
            data["files"] = tuple((str(k), str(v)) for k, v in data["files"])
            data["upstream"] = tuple(UpstreamModel(**u) for u in data["upstream"])
            if data.get("schedule_sha256") == schedule_digest(()):
                data["schedule_sha256"] = ""
            if data.get("unlearning") is not None:
                data["unlearning"] = Unlearning.from_fields(data["unlearning"])
            return cls(**data)
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"not a checkpoint record ({error})", where=where) from error


def utc_text(moment: datetime) -> str:
    """ISO 8601 in UTC, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _read_object(text: str, where: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise IntegrityError(f"unreadable JSON ({error})", where=where) from error
    if not isinstance(data, dict):
        raise IntegrityError("not a JSON object", where=where)
    if data.get("version", 0) > MANIFEST_VERSION:
        raise IntegrityError(f"written by a newer version ({data['version']})", where=where, remedy="Update Custody")
    return data


def _segment(data: dict[str, Any]) -> Segment:
    phases = tuple(
        Phase(
            tuple((int(a), int(b)) for a, b in p["ranges"]),
            int(p["epochs"]),
            int(p.get("shard_slots", 0)),
            int(p.get("window_shards", 0)),
        )
        for p in data.pop("phases")
    )
    contract = data.pop("contract")
    contract["versions"] = tuple((str(k), str(v)) for k, v in contract["versions"])
    return Segment(**data, phases=phases, contract=NumericContract(**contract))
