"""The embeddings of a caption bank on disk, each text's computed once, and the search for the nearest of them.

A folder belongs to one model (and one set of templates). It holds the embeddings of the bank that was asked last, as
float32 [N, D], mapped into memory, and the digests of the texts that they are of. When the bank changes, what is known
is copied, what is new is computed, and what left the bank is gone with the old file. Embedding a million texts takes
hours on a CPU: what is computed is put down every few thousand texts, and a run that was killed goes on from there.

Up to `exact_up_to` texts the search is exact. Above, usearch's HNSW graph (Malkov and Yashunin 2018, arXiv:1603.09320)
proposes some, whose cosines are then computed from the float32 rows. How often it finds the nearest is measured on the
pictures that it is asked for first, which are answered exactly; a graph that stays under MIN_RECALL is not used.
Adding a text to the graph costs about as much as comparing one picture with 30,000 texts: it is built for those who
will ask that often.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from curation.caption_bank import CaptionBank
from curation.clip_model import Embeddings
from policy.durable import sync_directory, sync_file, write_durably
from policy.errors import ConfigurationError, StorageError

EXACT_UP_TO: Final = 200_000
PART_TEXTS: Final = 4_096  # embedded between two files
BLOCK_ROWS: Final = 65_536  # of embeddings, in memory at once
# The graph: links a node, candidates kept while adding, and while searching (the first that suffices is taken).
CONNECTIVITY: Final = 16
EXPANSION_ADD: Final = 64
EXPANSIONS: Final = (64, 128, 256, 512, 1024)
RESCORED: Final = 16
MEASURED_ON: Final = 512
WANTED_RECALL: Final = 0.99
MIN_RECALL: Final = 0.95
# Texts that left the bank stay in the graph, unseen, until they are so many: then it is built anew.
MAX_GONE: Final = 0.05
# Comparisons that cost as much as adding one text to the graph (measured: 0.4 ms against 16 ns, 384 dimensions).
COMPARISONS_AN_ADDITION: Final = 30_000

Rows = NDArray[np.int64]
Ids = NDArray[np.uint64]
Told = Callable[[int, int], None]
"""Called with (texts done, of how many)."""


class TextEncoder(Protocol):
    """What is needed of a CLIP here."""

    def encode_texts(self, texts: Sequence[str]) -> Embeddings: ...


def bank_embeddings(
    clip: TextEncoder,
    bank: CaptionBank,
    templates: Sequence[str],
    folder: Path | None,
    told: Told = lambda done, total: None,
) -> Embeddings:
    """The bank's embeddings [N, D] float32, normalised, in the bank's order; computed are those not in `folder` yet.

    templates: a text's embedding is the normalised mean over them.

    Raises:
        ConfigurationError: the model gives something else than numbers. StorageError: the disk refuses.
    """
    if folder is None:
        return _embed(clip, bank.texts, templates)
    whole = folder / f"bank-{bank.digest}.npy"
    try:
        if (known := _read(whole, len(bank))) is None:
            known = _complete(clip, bank, templates, whole, told)
        return known
    except OSError as error:
        raise StorageError(f"cannot write ({error.strerror})", where=str(folder)) from error


def _complete(clip: TextEncoder, bank: CaptionBank, templates: Sequence[str], whole: Path, told: Told) -> Embeddings:
    folder, ids = whole.parent, bank.ids
    folder.mkdir(parents=True, exist_ok=True)
    sources = _sources(folder)
    missing = np.ones(len(ids), bool)
    for source in sources:
        missing &= source.rows(ids) < 0

    # What is new is put down a part at a time, so that a kill loses no more than one.
    waiting = np.flatnonzero(missing)
    for start in range(0, len(waiting), PART_TEXTS):
        rows = waiting[start : start + PART_TEXTS]
        told(start, len(waiting))
        part = folder / f"part-{ids[rows[0], 0]:016x}{ids[rows[0], 1]:016x}.npy"
        _write_array(part.with_suffix(".ids"), ids[rows])
        _write_array(part, _embed(clip, [bank[int(row)].text for row in rows], templates))
    told(len(waiting), len(waiting))

    # All of them into one file, in the bank's order.
    sources = _sources(folder)
    places = np.full(len(ids), -1, np.int64)
    origin = np.zeros(len(ids), np.int64)
    for number, source in enumerate(sources):
        rows = source.rows(ids)
        places = np.where(rows >= 0, rows, places)
        origin = np.where(rows >= 0, number, origin)
    temporary = folder / f".{whole.name}.{os.getpid()}.tmp"
    width = sources[0].vectors.shape[1]
    merged = np.lib.format.open_memmap(temporary, "w+", np.float32, (len(ids), width))
    for start in range(0, len(ids), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        for number, source in enumerate(sources):
            of_this = np.flatnonzero(origin[block] == number)
            merged[start + of_this] = source.vectors[places[block][of_this]]
    merged.flush()
    del merged
    _write_array(whole.with_suffix(".ids"), ids)
    sync_file(temporary)
    temporary.replace(whole)
    sync_directory(folder)
    for outdated in (*folder.glob("bank-*.npy"), *folder.glob("bank-*.ids"), *folder.glob("part-*")):
        if outdated.stem != whole.stem:
            outdated.unlink(missing_ok=True)
    found = _read(whole, len(ids))
    assert found is not None  # written just now
    return found


@dataclass(frozen=True, slots=True)
class _Source:
    """Embeddings of an earlier bank, or of a part: `order` sorts `ids` by their first half."""

    ids: Ids
    order: Rows
    vectors: Embeddings

    def rows(self, wanted: Ids) -> Rows:
        """[N, 2] digests -> where each is in `vectors`, -1 where it is not: [N]."""
        return _places(self.ids, self.order, wanted)


def _places(ids: Ids, order: Rows, wanted: Ids) -> Rows:
    if not len(ids):
        return np.full(len(wanted), -1, np.int64)
    at = np.searchsorted(ids[:, 0], wanted[:, 0], sorter=order)
    rows = order[np.minimum(at, len(order) - 1)]
    return np.where((ids[rows] == wanted).all(axis=1), rows, -1)


def _sources(folder: Path) -> list[_Source]:
    found = []
    for path in sorted((*folder.glob("bank-*.npy"), *folder.glob("part-*.npy"))):
        ids = _read_ids(path.with_suffix(".ids"))
        vectors = None if ids is None else _read(path, len(ids))
        if ids is not None and vectors is not None:
            found.append(_Source(ids, np.argsort(ids[:, 0], kind="stable"), vectors))
    return found


def _read(path: Path, rows: int) -> Embeddings | None:
    """Embeddings in a file, or None where there are none that can be used: they are then computed again."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.ndim == 2 and len(found) == rows and found.dtype == np.float32 else None


def _read_ids(path: Path) -> Ids | None:
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.ndim == 2 and found.shape[1] == 2 and found.dtype == np.uint64 else None


def _write_array(path: Path, array: NDArray[Any]) -> None:
    held = io.BytesIO()
    np.save(held, array, allow_pickle=False)
    write_durably(path, held.getvalue())


def _embed(clip: TextEncoder, texts: Sequence[str], templates: Sequence[str]) -> Embeddings:
    total = sum(
        clip.encode_texts([template.replace("{}", text) for text in texts]).astype(np.float64) for template in templates
    )
    found: Embeddings = np.asarray(total / np.linalg.norm(total, axis=1, keepdims=True), dtype=np.float32)
    if not np.isfinite(found).all():
        raise ConfigurationError("the model's embeddings of some texts are no numbers", where="[captions]")
    return found


# The search


@dataclass(frozen=True, slots=True)
class Recall:
    """How often the graph found the nearest text of `measured` pictures, with `expansion` candidates kept in mind.

    `expansion` 0: too seldom, whatever it kept; the search is exact.
    """

    expansion: int
    recall: float
    measured: int


class BankIndex:
    """The search for the texts nearest to pictures among a bank's embeddings."""

    def __init__(
        self,
        embeddings: Embeddings,
        ids: Ids,
        *,
        folder: Path | None = None,
        name: str = "",
        exact_up_to: int = EXACT_UP_TO,
        expected: int = 0,
        told: Told = lambda done, total: None,
    ) -> None:
        """embeddings [N, D] normalised, ids [N, 2]: the texts' digests. folder, name: where a graph is kept.

        expected: how many pictures will be asked for; a graph that costs more than it saves is not built.
        """
        self.embeddings = embeddings
        self.recall: Recall | None = None
        self._graph: Any = None
        self._asked: list[Embeddings] = []
        if len(embeddings) > exact_up_to:
            self._ids, self._order = ids, np.argsort(ids[:, 0], kind="stable")
            self._recall_file = None if folder is None else folder / f"index-{name}.json"
            self._graph = _graph(embeddings, ids, folder, name, expected, told)
            self.recall = _read_recall(self._recall_file)

    @property
    def is_exact(self) -> bool:
        """Whether every answer is the nearest there is."""
        return self._graph is None or (self.recall is not None and self.recall.expansion == 0)

    def search(self, queries: Embeddings, top: int) -> tuple[Rows, NDArray[np.float64]]:
        """queries [Q, D], normalised -> (rows of the bank [Q, top], their cosines), the nearest first.

        Where the bank has fewer texts than `top`, it is as many as it has.
        """
        top = min(top, len(self.embeddings))
        if self.is_exact:
            return exact_nearest(self.embeddings, queries, top)
        if self.recall is None:
            answer = exact_nearest(self.embeddings, queries, max(top, 1))
            self._measure(queries)
            return answer
        self._graph.expansion_search = self.recall.expansion
        return self._approximate(queries, top)

    def _approximate(self, queries: Embeddings, top: int) -> tuple[Rows, NDArray[np.float64]]:
        proposed = self._proposed(queries, max(top, RESCORED))
        cosines = np.full(proposed.shape, -np.inf)
        for number, (query, rows) in enumerate(zip(queries, proposed, strict=True)):
            known = rows >= 0
            cosines[number, known] = (self.embeddings[rows[known]] @ query).astype(np.float64)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :top]
        rows, best = np.take_along_axis(proposed, order, 1), np.take_along_axis(cosines, order, 1)
        # Where the graph knows too few that are still in the bank, nobody guesses.
        short = np.flatnonzero(~np.isfinite(best).all(axis=1))
        if len(short):
            rows[short], best[short] = exact_nearest(self.embeddings, queries[short], top)
        return rows, best

    def _proposed(self, queries: Embeddings, count: int) -> Rows:
        """What the graph proposes, as rows of the bank [Q, count]; -1 for texts that left it, and for none."""
        found = self._graph.search(np.ascontiguousarray(queries, np.float32), count)
        keys = np.zeros((len(queries), count), np.uint64)
        given = np.atleast_2d(np.asarray(found.keys, np.uint64))
        keys[:, : given.shape[1]] = given
        # A single query is answered in a shape of its own, without counts.
        counts: Any = getattr(found, "counts", given.shape[1])
        real = np.arange(count) < np.reshape(counts, (-1, 1))
        at = np.searchsorted(self._ids[:, 0], keys.ravel(), sorter=self._order)
        rows = self._order[np.minimum(at, len(self._order) - 1)]
        there = (self._ids[rows, 0] == keys.ravel()).reshape(keys.shape) & real
        return np.where(there, rows.reshape(keys.shape), -1)

    def _measure(self, queries: Embeddings) -> None:
        """Collect queries; with enough of them find the smallest expansion that finds the nearest often enough."""
        self._asked.append(queries)
        if sum(map(len, self._asked)) < MEASURED_ON:
            return
        asked, self._asked = np.concatenate(self._asked), []
        _, best = exact_nearest(self.embeddings, asked, 1)
        for expansion in EXPANSIONS:
            self._graph.expansion_search = expansion
            _, found = self._approximate(asked, 1)
            # Equal cosines are equally right: two spellings may have one embedding.
            recall = float((found[:, 0] >= best[:, 0] - 1e-6).mean())
            if recall >= WANTED_RECALL:
                break
        self.recall = Recall(expansion if recall >= MIN_RECALL else 0, recall, len(asked))
        if self._recall_file is not None:
            write_durably(self._recall_file, json.dumps(asdict(self.recall)).encode())


def exact_nearest(embeddings: Embeddings, queries: Embeddings, top: int) -> tuple[Rows, NDArray[np.float64]]:
    """The `top` rows of embeddings [N, D] nearest to each query [Q, D], and their cosines: [Q, top] each.

    Of equal ones the first comes first. In blocks: neither N nor N x Q need fit into memory.
    """
    rows = np.zeros((len(queries), 0), np.int64)
    cosines = np.zeros((len(queries), 0))
    for start in range(0, len(embeddings), BLOCK_ROWS):
        block = (queries @ embeddings[start : start + BLOCK_ROWS].T).astype(np.float64)
        here = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
        if block.shape[1] > 4 * top:
            # Those that tie with the last one taken stay in, so that the first of equals is not lost.
            least = np.partition(block, block.shape[1] - top, axis=1)[:, -top, None]
            most = int((block >= least).sum(axis=1).max(initial=top))
            chosen = np.sort(np.argpartition(-block, most - 1, axis=1)[:, :most], axis=1)
            here, block = np.take_along_axis(here, chosen, 1), np.take_along_axis(block, chosen, 1)
        rows, cosines = np.concatenate((rows, here), 1), np.concatenate((cosines, block), 1)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :top]
        rows, cosines = np.take_along_axis(rows, order, 1), np.take_along_axis(cosines, order, 1)
    return rows, cosines


def _graph(embeddings: Embeddings, ids: Ids, folder: Path | None, name: str, expected: int, told: Told) -> Any:
    """The graph of exactly these texts, or of them and a few that left; from the disk as far as it is there.

    None where what is lacking would cost more than `expected` exact searches.
    """
    path = None if folder is None else folder / f"index-{name}.usearch"
    if path is not None and (whole := _opened(path, embeddings.shape[1], view=True)) is not None:
        return whole
    graph, new = _continued(folder, embeddings.shape[1], ids)
    if len(new) * COMPARISONS_AN_ADDITION > expected * len(ids):
        return None
    for start in range(0, len(new), BLOCK_ROWS // 4):
        rows = new[start : start + BLOCK_ROWS // 4]
        told(start, len(new))
        graph.add(ids[rows, 0], np.ascontiguousarray(embeddings[rows]))
    told(len(new), len(new))
    if path is None or folder is None:
        return graph
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        graph.save(str(temporary))
        sync_file(temporary)
        temporary.replace(path)
        sync_directory(folder)
        for outdated in folder.glob("index-*"):
            if outdated.stem != path.stem:
                outdated.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write ({error.strerror})", where=str(path)) from error
    del graph
    return _opened(path, embeddings.shape[1], view=True)


def _continued(folder: Path | None, width: int, ids: Ids) -> tuple[Any, Rows]:
    """A graph to add to, and the rows that it lacks: an older one if few of its texts left, else an empty one."""
    from usearch.index import Index

    for path in sorted(folder.glob("index-*.usearch")) if folder is not None else ():
        graph = _opened(path, width, view=False)
        if graph is None:
            continue
        known = np.sort(np.asarray(graph.keys, np.uint64))
        at = np.minimum(np.searchsorted(known, ids[:, 0]), max(len(known) - 1, 0))
        there = known[at] == ids[:, 0] if len(known) else np.zeros(len(ids), bool)
        if len(known) - int(there.sum()) <= MAX_GONE * len(known):
            return graph, np.flatnonzero(~there)
    graph = Index(ndim=width, metric="ip", dtype="bf16", connectivity=CONNECTIVITY, expansion_add=EXPANSION_ADD)
    return graph, np.arange(len(ids))


def _opened(path: Path, width: int, *, view: bool) -> Any:
    """A graph on disk, mapped or read; None where there is none of this width."""
    from usearch.index import Index

    if not path.is_file():
        return None
    try:
        graph = Index.restore(str(path), view=view)
    except Exception:  # usearch raises its own kinds for a file that is none; the graph is then built again
        return None
    return graph if graph is not None and graph.ndim == width else None


def _read_recall(path: Path | None) -> Recall | None:
    try:
        return None if path is None else Recall(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
