"""Who judges in a decide run: stored evidence in, the decisions that differ from what stands out.

One judge works in this process; where there is much to do, one a core in processes of their own. Those are fresh
interpreters that import neither the caller's main module nor its ledger connection; what passes between is Arrow.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from socket import socketpair
from types import MappingProxyType, TracebackType
from typing import Self

import pyarrow as pa

from curation.recognition import Recognised, Recogniser
from flows.home import Home
from policy.errors import StorageError
from policy.evidence import REMOVED_LIKENESS, Evidence, RemovedLikeness, Shared
from policy.grants import Grants
from policy.judgements import judgement
from policy.keys import KeyRing
from policy.ledger import Ledger
from policy.names import said_of
from policy.registries import Registries
from policy.ruleset import KNOWN, Ruleset, judge
from policy.signals import registry
from policy.suppression import Marks, Suppression
from policy.tombstones import Tombstones
from policy.verdict import Judgement

DECISIONS = pa.schema(
    [
        *((name, pa.string()) for name in ("pair_key", "evidence_id", "rule")),
        ("rule_version", pa.int32()),
        *((name, pa.string()) for name in ("verdict", "reason_code", "reason_detail", "where_found")),
    ]
)
SIGNALS = pa.schema(
    [
        (name, pa.string())
        for name in ("pair_key", "evidence_id", "mechanism", "stance", "where_found", "value", "document_sha256")
    ]
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked anew at every decide, whatever was answered when the evidence was gathered.

    It goes to worker processes: files are named, not held.
    """

    tombstones_path: Path
    keys_path: Path
    epochs: tuple[int, int]  # of the tombstones, and of the suppression list
    registries: Registries | None  # None: the ruleset does not ask them
    grants: Grants

    @classmethod
    def at(cls, home: Home, ledger: Ledger) -> Asked:
        """As they are now, held against the ledger; raises IntegrityError where a file is not the one it knows."""
        registries = home.registries(ledger) if registry.MECHANISM in home.ruleset.mechanisms else None
        epochs = home.tombstones(ledger).epoch, home.suppression(ledger).epoch
        return cls(home.tombstones_path, home.keys_path, epochs, registries, home.grants(ledger))

    def facts(self) -> tuple[object, ...]:
        """What it is that is asked: another answer to any of it may judge any pair otherwise."""
        lists = self.registries.source[1] if self.registries is not None else ()
        grants = sorted((g.grant, g.ended_at is None) for g in self.grants.all)
        return (
            self.epochs,
            tuple((one.name, one.sha256, one.dated_at, one.max_age_days) for one in lists),
            tuple(grants),
        )

    def boundaries(self) -> Iterator[datetime]:
        """The moments from which a list or a grant counts otherwise."""
        for one in self.registries.source[1] if self.registries is not None else ():
            days = timedelta(days=one.max_age_days)
            if datetime.max.replace(tzinfo=UTC) - one.dated_at >= days:  # else: within no calendar
                yield one.dated_at + days
        for grant in self.grants.all:
            yield from (at for at in (grant.valid_from, grant.valid_to, grant.ended_at) if at is not None)

    def tombstones(self) -> Tombstones:
        return Tombstones.load(self.tombstones_path, keys=KeyRing.load(self.keys_path))

    def suppression(self) -> Suppression:
        return Suppression.load(self.tombstones_path, keys=KeyRing.load(self.keys_path))


@dataclass(frozen=True, slots=True)
class Case:
    """All that a judge needs beside the pairs: it travels to worker processes whole."""

    ruleset_text: str
    now: datetime
    asked: Asked
    parts: Mapping[str, str]
    bodies: Mapping[str, bytes]
    anew: tuple[str, ...]  # the mechanisms that are judged of every pair; of a fresh one all are
    dropped: tuple[str, ...]  # those that the ruleset names no more


class Judging:
    """Judges stored evidence under one ruleset at one time."""

    def __init__(self, case: Case) -> None:
        ruleset, asked = Ruleset.parse(case.ruleset_text), case.asked
        self._ruleset, self._now = ruleset, case.now
        self._tombstones, self._grants = asked.tombstones(), asked.grants
        self._suppression = asked.suppression()
        self._recogniser = _recogniser(ruleset, self._suppression) if self._suppression else None
        self._copies: Mapping[str | None, Recognised] = {}  # of a chunk's hashes those of removed pictures' copies
        # No lists at all answer nothing; where the ruleset does not ask them they have not been asked.
        self._silent = asked.registries.silent if asked.registries is not None else None
        self._lists = asked.registries if asked.registries is not None and asked.registries.lists else None
        self._shared = Shared(case.parts, case.bodies)
        self._dropped = {rule: judgement(rule, None, "not-asked") for rule in case.dropped}
        self._anew = case.anew
        self._versions = {rule: ruleset.rule_version(rule) for rule in KNOWN}

    def chunk(self, pairs: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Decisions and signals that are new of the pairs of a chunk.

        `pairs`: columns pair_key, evidence_id, body_json, fresh (all mechanisms are judged), rules, said (digests of
        what each rule said last).
        """
        decisions: list[tuple[object, ...]] = []
        signals: list[tuple[object, ...]] = []
        if self._recogniser is not None:
            self._copies = _copies(self._recogniser, pairs.column("body_json").to_pylist())
        columns, versions, mechanisms = pairs.to_pydict(), self._versions, self._ruleset.mechanisms
        for pair, evidence_id, body, fresh, rules, words in zip(*(columns[name] for name in _CHUNK), strict=True):
            stood = dict(zip(rules, words, strict=True)) if rules else _NOTHING_STOOD
            # `_value_`: what `value` looks up in Python, which is felt with seventeen decisions a pair.
            for judged in self._judge(body, stood, mechanisms if fresh else self._anew):
                mechanism, verdict, reason = judged.mechanism, judged.verdict, judged.reason
                said = verdict._value_ if verdict is not None else "unset"
                last = (versions[mechanism], said, reason.code, reason.detail, judged.where)
                if rules and (said_last := stood.get(mechanism)) is not None and said_last == _digest(last):
                    continue
                decisions.append((pair, evidence_id, mechanism, *last))
                for s in judged.signals:
                    stance = s.stance._value_
                    signals.append((pair, evidence_id, s.mechanism, stance, s.where, s.value, s.document_sha256))
        return _table(decisions, DECISIONS), _table(signals, SIGNALS)

    def _judge(self, body: str, stood: Mapping[str, int], mechanisms: Iterable[str]) -> list[Judgement]:
        evidence = self._asked_anew(Evidence.from_json(body, self._shared, tombstoned="", registry=self._silent))
        judged = [judge(self._ruleset, name, evidence, self._now) for name in mechanisms]
        # An end to what stands of mechanisms that the ruleset names no more; a removal's hold is none of those.
        return [*judged, *(self._dropped[rule] for rule in stood if rule in self._dropped)] if stood else judged

    def _asked_anew(self, evidence: Evidence) -> Evidence:
        """What tombstones, lists and grants say of it now; where there is none of them, that is nothing."""
        if self._lists:
            evidence = replace(evidence, registry=self._lists.answers_for(evidence))
        if grants := self._grants.grants_for(evidence):
            evidence = replace(evidence, grants=grants)
        removal = self._removal(evidence) if self._tombstones.epoch else None
        if removal:
            return replace(evidence, tombstoned=removal)
        likeness = self._likeness(evidence) if self._recogniser is not None else None
        return replace(evidence, removed_likeness=likeness) if likeness is not None else evidence

    def _likeness(self, evidence: Evidence) -> RemovedLikeness | None:
        """What removed picture it is like, unless somebody has let it in."""
        found: RemovedLikeness | None = None
        if (measured := evidence.score(REMOVED_LIKENESS)) is not None:
            found = RemovedLikeness("", "embedding", measured)
        if (copy := self._copies.get(evidence.pdq)) is not None:
            found = RemovedLikeness(copy.removal, copy.method, copy.likeness)
        sha256 = evidence.content_sha256
        return None if found is None or (sha256 and self._suppression.is_spared(sha256)) else found

    def _removal(self, evidence: Evidence) -> str | None:
        """The removal whose tombstone covers the pair, by its addresses, its bytes, or what is said of it."""
        urls = (evidence.image_url, *((evidence.page_url,) if evidence.page_url else ()))
        found = next(filter(None, map(self._tombstones.covers_url, urls)), None)
        sha256 = evidence.content_sha256
        found = found or (self._tombstones.covers_content(sha256) if sha256 else None)
        if found is None and self._tombstones.hears:
            found = self._tombstones.covers_said(said_of(evidence), content=sha256, url=evidence.image_url)
        return found


def _recogniser(ruleset: Ruleset, suppression: Suppression) -> Recogniser:
    """Who tells copies by their hashes: embeddings were asked when they came, and stand in the evidence."""
    rules = ruleset.tombstone
    hashes = [(removal, Marks(marks.hashes)) for removal, marks in suppression.marks()]
    return Recogniser(hashes, max_distance=rules.pdq_max_distance, min_cosine=rules.min_cosine, model="")


def _copies(recogniser: Recogniser, bodies: Iterable[str]) -> dict[str | None, Recognised]:
    """The hashes in a chunk's evidence that are those of copies, all asked at once."""
    hashes = sorted({found[1] for body in bodies if (found := _PDQ.search(body)) is not None})
    return {value: copy for value, copy in zip(hashes, recogniser.by_hash(hashes), strict=True) if copy is not None}


_PDQ = re.compile(r'"pdq":"([0-9a-f]{64})"')  # in canonical JSON, where no text has quotes that are not escaped
_NOTHING_STOOD: Mapping[str, int] = MappingProxyType({})
_CHUNK = ("pair_key", "evidence_id", "body_json", "fresh", "rules", "said")


def _digest(last_words: tuple[object, ...]) -> int:
    """As DuckDB's md5_number_lower over the same columns: 64 bits, to be compared, not to be trusted by anybody.

    Not the evidence id or the ruleset's digest: the same answer on newer evidence is confirmed, not repeated.
    """
    text = "\x1f".join(map(str, last_words)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.md5(text, usedforsecurity=False).digest()[8:], "little")


def _table(rows: list[tuple[object, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table([_array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


def _array(values: tuple[object, ...], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:  # a lone surrogate, which UTF-8 has no bytes for, can reach us from a JSON escape
        return pa.array([v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for v in values], kind)


# ── workers ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Judges:
    """Judges one table of pairs after the other: in this process (`here`), in `workers` of their own, or in both."""

    def __init__(self, case: Case, workers: int, *, here: bool) -> None:
        self._workers = [_Worker(case) for _ in range(workers)]
        self._own = Judging(case) if here or not workers else None

    def judge(self, chunks: Iterable[pa.Table]) -> Iterator[tuple[int, pa.Table, pa.Table]]:
        """(number of the chunk, decisions, signals), as they are done."""
        for number, chunk in enumerate(chunks):
            yield from self._take(0.0)
            while (idle := next((w for w in self._workers if w.number is None), None)) is None and self._own is None:
                yield from self._take()
            if idle is not None:
                idle.give(number, chunk)
            elif self._own is not None:
                yield number, *self._own.chunk(chunk)
        while any(w.number is not None for w in self._workers):
            yield from self._take()

    def _take(self, timeout_s: float | None = None) -> Iterator[tuple[int, pa.Table, pa.Table]]:
        busy = {w.connection: w for w in self._workers if w.number is not None}
        for connection in wait(list(busy), timeout_s):
            yield busy[connection].take()  # type: ignore[index]  # wait() returns what it was given

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.stop()


class _Worker:
    """A process and the chunk it has in hand."""

    def __init__(self, case: Case) -> None:
        self.number: int | None = None
        ours, theirs = socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from flows.stages.judging import work; work()", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        self.connection = Connection(ours.detach())
        self._send(pickle.dumps(case))

    def give(self, number: int, chunk: pa.Table) -> None:
        self._send(_written(chunk))
        self.number = number

    def take(self) -> tuple[int, pa.Table, pa.Table]:
        assert self.number is not None
        try:
            answer = self.number, _read(self.connection.recv_bytes()), _read(self.connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._ended() from error
        self.number = None
        return answer

    def stop(self) -> None:
        self.connection.close()
        self._process.kill()  # it holds nothing that is not sent
        self._process.wait()

    def _send(self, data: bytes) -> None:
        try:
            self.connection.send_bytes(data)
        except OSError as error:
            raise self._ended() from error

    def _ended(self) -> StorageError:
        return StorageError(
            "a judging process ended before its work was done",
            where="custody decide",
            remedy="Run the same command again: what was appended stays; if memory is short, close other programs",
        )


def work() -> None:
    """A worker's whole life: its case, then one chunk after another until its connection closes."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    connection = Connection(int(sys.argv[1]))
    judging = Judging(pickle.loads(connection.recv_bytes()))  # our own process's words, over a socket of our own
    while True:
        try:
            chunk = connection.recv_bytes()
        except (EOFError, OSError):
            return
        for table in judging.chunk(_read(chunk)):
            connection.send_bytes(_written(table))


def _written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _read(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
