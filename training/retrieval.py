"""What a CLIP is worth on pairs that were never fed: which they are, and how many find their own text.

From which score on its captions are kept is another question, asked against the bank they are chosen from
(flows/stages/captioning/calibration.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from curation.clip_model import ClipModel, Embeddings, Retrieval
from curation.images import DecodeError
from curation.shard_reader import DatasetReader
from policy.errors import InputError
from training.clip_inputs import picture


def recall_at(images: Embeddings, texts: Embeddings, k: int) -> float:
    """Image-to-text recall: the share of rows whose own text [N, D] is among the k nearest to their picture [N, D].

    Equal texts count as one: a row whose text is another's too is not pushed back by it.
    """
    scores = images @ texts.T
    better = (scores > np.diagonal(scores)[:, None]).sum(axis=1)
    return float((better < k).mean())


def measure_retrieval(clip: ClipModel, reader: DatasetReader, held_out: Sequence[int]) -> Retrieval:
    """Retrieval among live held-out slots' own texts; one whose picture cannot be decoded is passed over.

    Raises:
        InputError: fewer than two are left.
    """
    pictures = {}
    for ordinal in held_out:
        try:
            pictures[ordinal] = picture(reader, ordinal)
        except DecodeError:
            continue
    if len(pictures) < 2:
        raise InputError("fewer than two held-out pairs are left to measure on", where=str(reader.directory))
    images = clip.encode_images(list(pictures.values()))
    texts = clip.encode_texts([reader.caption(ordinal) or "" for ordinal in pictures])
    return Retrieval(clip.digest, recall_at(images, texts, 1), recall_at(images, texts, 5), len(pictures))


def choose_held_out(reader: DatasetReader, count: int, empty: Iterable[int] = ()) -> tuple[int, ...]:
    """`count` live ordinals that are never fed: those whose sample key hashes lowest, whatever the dataset's order.

    Only pairs whose picture occurs once are taken: a twin in training would flatter the measure. Their texts may be
    others' too, as those of the pictures that will be captioned.

    Raises:
        InputError: there are too few.
    """
    closed = set(empty)
    live = [int(o) for o in np.flatnonzero(reader.live()) if int(o) not in closed]
    pictures = {o: hashlib.sha256(reader.image_bytes(o) or b"").digest() for o in live}
    _, first, counts = np.unique([*pictures.values()], return_index=True, return_counts=True)
    single = [live[i] for i in first[counts == 1].tolist()]
    if len(single) < count or len(live) < 2 * count:
        raise InputError(
            f"{len(live)} samples, {len(single)} of them unlike all others, are too few to hold out {count}",
            where=str(reader.directory),
            remedy="Seal more pairs with alt text, or lower held_out",
        )
    return tuple(sorted(sorted(single, key=lambda o: held_out_rank(reader.key(o) or ""))[:count]))


def held_out_rank(sample_key: str) -> bytes:
    """By this the held-out pairs are chosen, whatever the dataset's order."""
    return hashlib.blake2b(sample_key.encode(), digest_size=16, person=b"clip-held-out").digest()
