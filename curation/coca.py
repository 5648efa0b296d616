"""CoCa through open_clip: captions whose words the model chooses itself (Yu et al. 2022, arXiv:2205.01917).

open_clip's own `generate` needs a class that transformers 5 no longer has, so the loop is ours, over `_encode_image`
and `forward(..., output_labels=False)`: greedy, sampled from the k likeliest, or by beams. What a picture is captioned
with depends on the picture, the model and the decoding alone: batches have one fixed shape, and what is drawn is drawn
from the picture's own bytes. How sure a caption is says the cosine of picture and text under the contrastive half of
the same model, so that a threshold and its calibration mean the same as with retrieval.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from curation.caption_bank import MODEL, BankText
from curation.captions import PROPOSED, CaptionResult, Proposal, chosen
from curation.clip_model import BATCH_ROWS, ClipModel, ClipSpec, Rgb, import_open_clip, load_clip, stack_filled
from policy.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

CAPTION_ORIGIN: Final = "coca"
Method = Literal["greedy", "top-k", "beam"]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How words are chosen. `max_tokens`: generated at most, the end included; a longer caption is cut.

    `beams`, `length_penalty`: beam search keeps so many; they are ranked by log probability / length^penalty.
    `no_repeat_ngram`: no sequence of so many tokens comes twice (0: it may). `top_k`, `temperature`, `seed`: sampling.
    """

    method: Method = "beam"
    max_tokens: int = 30
    beams: int = 6
    length_penalty: float = 1.0
    no_repeat_ngram: int = 0
    top_k: int = 10
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in ("greedy", "top-k", "beam"):
            raise ConfigurationError(
                f"unknown decoding {self.method!r}", where="[captions]", remedy='There are "greedy", "top-k", "beam"'
            )
        if not (1 <= self.beams <= BATCH_ROWS and self.max_tokens >= 1 and self.top_k >= 1 and self.temperature > 0):
            raise ConfigurationError(
                f"beams must be from 1 to {BATCH_ROWS}, max_tokens and top_k at least 1, temperature above 0",
                where="[captions]",
            )

    def __str__(self) -> str:
        shared = f"max {self.max_tokens}" + (f", no {self.no_repeat_ngram}-gram twice" * bool(self.no_repeat_ngram))
        match self.method:
            case "greedy":
                return f"greedy, {shared}"
            case "top-k":
                return f"top-{self.top_k} at {self.temperature:g}, seed {self.seed}, {shared}"
            case "beam":
                return f"{self.beams} beams, length penalty {self.length_penalty:g}, {shared}"


@dataclass(frozen=True, slots=True)
class Generated:
    """A text the model made. `tokens`: its words alone. `log_probability`: of all `length` tokens, with the end."""

    text: str
    tokens: tuple[int, ...]
    log_probability: float
    length: int

    @property
    def mean_log_probability(self) -> float:
        """A token's, natural logarithm."""
        return self.log_probability / self.length

    def ranked_by(self, length_penalty: float) -> float:
        """log probability / length^penalty: the larger the better."""
        return float(self.log_probability / self.length**length_penalty)


@dataclass(slots=True)
class _Path:
    """Tokens chosen so far. `greedy`: each of them was the likeliest."""

    tokens: tuple[int, ...] = ()
    log_probability: float = 0.0
    greedy: bool = True


@dataclass(slots=True)
class _Search:
    """The beams of one picture. `open`: those that go on; `ended`: (tokens, log probability, length)."""

    open: list[_Path] = field(default_factory=lambda: [_Path()])
    ended: list[tuple[tuple[int, ...], float, int]] = field(default_factory=list)


class CocaModel:
    """A loaded CoCa: pictures to texts of its own. `clip`: its contrastive half."""

    def __init__(self, clip: ClipModel, tokenizer: Any) -> None:
        self.clip = clip
        self.name, self.digest = clip.name, clip.digest
        self._model, self._tokenizer = clip.model, tokenizer
        self.start, self.end = int(tokenizer.sot_token_id), int(tokenizer.eot_token_id)
        # The end of a text is all that may be said besides words.
        self._never = [self.start, int(self._model.pad_id)]
        # One place is taken by the token that the text tower adds itself.
        self.longest = int(self._model.context_length) - 1

    def generate(self, pictures: Sequence[Rgb], decoding: Decoding, best: int = 1) -> list[tuple[Generated, ...]]:
        """[H, W, 3] uint8 pictures -> the `best` texts for each, the likeliest first; one unless by beams."""
        each = decoding.beams if decoding.method == "beam" else 1
        at_once = BATCH_ROWS // each
        found: list[tuple[Generated, ...]] = []
        for start in range(0, len(pictures), at_once):
            part = pictures[start : start + at_once]
            embedded = self._embedded(part, each)
            if decoding.method == "beam":
                found += self._by_beams(len(part), embedded, decoding, best)
            else:
                found += self._one_by_one(part, embedded, decoding)
        return found

    def _embedded(self, pictures: Sequence[Rgb], each: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What the decoder sees of the pictures, each `each` times: latent [32, D], tokens [32, Q, W]."""
        import torch

        pixels = stack_filled([self.clip.preprocess(picture) for picture in pictures]).to(self.clip.device)
        rows = torch.arange(BATCH_ROWS, device=self.clip.device) // each
        with torch.inference_mode():
            latent, tokens = self._model._encode_image(pixels)
            return latent[rows], tokens[rows]

    def _log_probabilities(
        self, embedded: tuple[torch.Tensor, torch.Tensor], paths: Sequence[tuple[int, ...]], decoding: Decoding
    ) -> NDArray[np.float32]:
        """Of every next token, [len(paths), V]; -inf for what may not come. All paths have one length."""
        import torch

        tokens = torch.full((BATCH_ROWS, len(paths[0]) + 1), self.start, dtype=torch.int64)
        tokens[: len(paths), 1:] = torch.tensor(paths, dtype=torch.int64).reshape(len(paths), -1)
        latent, embs = embedded
        with torch.inference_mode():
            said = self._model(
                None, tokens.to(self.clip.device), image_latent=latent, image_embs=embs, output_labels=False
            )
            logits = said["logits"][: len(paths), -1].float()
            scores: NDArray[np.float32] = torch.log_softmax(logits, -1).cpu().numpy()
        scores[:, self._never] = -np.inf
        if not paths[0]:
            scores[:, self.end] = -np.inf  # saying nothing is no caption
        if decoding.no_repeat_ngram:
            for row, path in zip(scores, paths, strict=True):
                row[list(_would_repeat(path, decoding.no_repeat_ngram))] = -np.inf
        return scores

    def _length(self, decoding: Decoding) -> int:
        return min(decoding.max_tokens, self.longest)

    def _one_by_one(
        self, pictures: Sequence[Rgb], embedded: tuple[torch.Tensor, torch.Tensor], decoding: Decoding
    ) -> list[tuple[Generated, ...]]:
        """Greedy, or sampled: one token after the other, until each text has ended."""
        paths: list[tuple[int, ...]] = [()] * len(pictures)
        sums, ended = np.zeros(len(pictures)), np.zeros(len(pictures), np.int64)
        draws = [_draws(picture, decoding.seed, self._length(decoding)) for picture in pictures]
        for step in range(self._length(decoding)):
            scores = self._log_probabilities(embedded, paths, decoding)
            for number, row in enumerate(scores):
                if ended[number]:
                    paths[number] += (self.end,)  # keeps its place in the batch
                    continue
                token = int(row.argmax()) if decoding.method == "greedy" else _drawn(row, draws[number][step], decoding)
                paths[number] += (token,)
                sums[number] += float(row[token])
                if token == self.end:
                    ended[number] = step + 1
            if ended.all():
                break
        results: list[tuple[Generated, ...]] = []
        for path, total, length in zip(paths, sums, ended, strict=True):
            tokens = path[: length - 1] if length else path
            results.append((self._generated(tokens, float(total), int(length) or len(path)),))
        return results

    def _by_beams(
        self, count: int, embedded: tuple[torch.Tensor, torch.Tensor], decoding: Decoding, best: int
    ) -> list[tuple[Generated, ...]]:
        """Beam search. The path of the likeliest tokens is never dropped, so no result is worse than the greedy one."""
        searches = [_Search() for _ in range(count)]
        limit, beams = self._length(decoding), decoding.beams
        for step in range(limit):
            if not any(search.open for search in searches):
                break
            # Every picture has `beams` rows of the batch, whether it needs them or not.
            idle = (self.end,) * step
            rows = [path for s in searches for path in _filled_to(beams, [p.tokens for p in s.open], idle)]
            scores = self._log_probabilities(embedded, rows, decoding)
            for number, search in enumerate(searches):
                if search.open:
                    _advance(search, scores[number * beams :][: len(search.open)], self.end, beams, step + 1 == limit)
                    if _is_decided(search, decoding, limit, best):
                        search.open = []
        return [self._ranked(search, decoding, best) for search in searches]

    def _ranked(self, search: _Search, decoding: Decoding, best: int) -> tuple[Generated, ...]:
        made = [self._generated(*ended) for ended in search.ended]
        made.sort(key=lambda g: (-g.ranked_by(decoding.length_penalty), g.tokens))
        by_text: dict[str, Generated] = {}
        for generated in made:
            by_text.setdefault(generated.text, generated)
        return tuple(by_text.values())[:best]

    def _generated(self, tokens: tuple[int, ...], log_probability: float, length: int) -> Generated:
        return Generated(detokenised(self._tokenizer.decode(list(tokens))), tokens, log_probability, length)


def load_coca(spec: ClipSpec, device: str = "cpu") -> CocaModel:
    """Load a CoCa from the disk, by open_clip's tag or by path.

    Raises:
        ConfigurationError: the weights are not on this machine or not those expected, the architecture has no text
            decoder, or the model does not take the pictures that its preprocessing makes.
    """
    open_clip = import_open_clip()
    config = open_clip.get_model_config(spec.architecture) if spec.architecture else None
    if spec.architecture is not None and config is not None and "multimodal_cfg" not in config:
        known = ", ".join(name for name in open_clip.list_models() if name.startswith("coca"))
        raise ConfigurationError(
            f"{spec.architecture} has no text decoder: it can compare texts with pictures but write none",
            where='[captions] kind = "coca"',
            remedy=f'Name one of {known}, or use kind = "retrieval"',
        )
    if config is not None and config["text_cfg"].get("hf_model_name"):
        raise ConfigurationError(
            f"{spec.architecture} reads text with a tokenizer that is downloaded", where="[captions]",
            remedy="Use coca_ViT-B-32 or coca_ViT-L-14, whose tokenizer open_clip carries",
        )  # fmt: skip
    clip = load_clip(spec, device)
    try:
        clip.encode_images([np.zeros((8, 8, 3), np.uint8)])
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigurationError(
            f"{clip.name} does not take the pictures that its preprocessing makes ({str(error)[:200]})",
            where="[captions]", remedy="Name the architecture that these weights were made for",
        ) from error  # fmt: skip
    return CocaModel(clip, open_clip.get_tokenizer(spec.architecture))


class CocaCaptioner:
    """A CoCa's own texts, kept from `threshold` (the cosine of picture and text under its contrastive half) on."""

    origin = CAPTION_ORIGIN
    bank_digest = ""
    without_qualifiers = False

    def __init__(self, coca: CocaModel, *, threshold: float | None, decoding: Decoding) -> None:
        if threshold is None:
            raise ConfigurationError(
                "there is no score from which on a caption of this CoCa is kept",
                where="[captions]",
                remedy="Set threshold (a cosine), or seal enough pairs with alt text to calibrate on",
            )
        self.coca, self.threshold, self.decoding = coca, threshold, decoding

    @property
    def digest(self) -> str:
        return self.coca.digest

    @property
    def name(self) -> str:
        return f"{self.coca.name} ({self.decoding})"

    def sureness(self, proposals: Sequence[Proposal]) -> float:
        """The cosine of picture and text under the model's contrastive half; the others say the same in other words."""
        return proposals[0].cosine

    def propose(self, pictures: Sequence[Rgb], top: int = PROPOSED) -> list[tuple[Proposal, ...]]:
        """The model's texts for each picture, at most `top`, the likeliest first; more than one only by beams."""
        made = self.coca.generate(pictures, self.decoding, top)
        images = self.coca.clip.encode_images(pictures)
        texts = self.coca.clip.encode_texts([generated.text for several in made for generated in several])
        proposed, at = [], 0
        for image, several in zip(images, made, strict=True):
            cosines = texts[at : at + len(several)] @ image
            at += len(several)
            proposed.append(
                tuple(
                    Proposal(self._text(generated), float(cosine), generated.mean_log_probability)
                    for generated, cosine in zip(several, cosines, strict=True)
                )
            )
        return proposed

    def caption_images(self, pictures: Sequence[Rgb]) -> list[CaptionResult]:
        """[H, W, 3] uint8 pictures -> one result each, in their order."""
        return [result for result in chosen(self, self.propose(pictures)) if result is not None]

    def _text(self, generated: Generated) -> BankText:
        return BankText(generated.text, (f"generated:{self.coca.digest}",), MODEL, ())


_BEFORE_PUNCTUATION: Final = re.compile(r"\s+([.,;:!?%)\]}]|'(?:s|t|re|ve|m|ll|d)\b)")
_AFTER_OPENING: Final = re.compile(r"([(\[{])\s+")


def detokenised(text: str) -> str:
    """A decoded text as it is written: single spaces, none before punctuation."""
    text = _BEFORE_PUNCTUATION.sub(r"\1", " ".join(text.split()))
    return _AFTER_OPENING.sub(r"\1", text)


def _would_repeat(path: tuple[int, ...], n: int) -> set[int]:
    """The tokens after which a sequence of n tokens would stand in `path` twice."""
    if len(path) < n - 1:
        return set()
    last = path[len(path) - n + 1 :]
    return {path[i + n - 1] for i in range(len(path) - n + 1) if path[i : i + n - 1] == last}


def _draws(picture: Rgb, seed: int, count: int) -> NDArray[np.float64]:
    """Uniform numbers that belong to a picture's bytes and the seed: [count]."""
    named = hashlib.blake2b(repr((seed, picture.shape)).encode(), digest_size=16, person=b"coca-top-k")
    named.update(np.ascontiguousarray(picture).tobytes())
    return np.random.Generator(np.random.Philox(key=int.from_bytes(named.digest(), "big"))).random(count)


def _drawn(log_probabilities: NDArray[np.float32], draw: float, decoding: Decoding) -> int:
    """One of the k likeliest tokens, by their probabilities at the temperature."""
    order = np.argsort(-log_probabilities, kind="stable")[: decoding.top_k]
    order = order[np.isfinite(log_probabilities[order])]
    weights = log_probabilities[order].astype(np.float64) / decoding.temperature
    share = np.cumsum(np.exp(weights - weights.max()))
    return int(order[np.searchsorted(share, draw * share[-1], side="right").clip(max=len(order) - 1)])


def _filled_to(count: int, paths: Sequence[tuple[int, ...]], idle: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [*paths, *([idle] * (count - len(paths)))]


def _advance(search: _Search, scores: NDArray[np.float32], end: int, beams: int, is_last: bool) -> None:
    """One more token for the beams of a picture. scores [beams that are open, V]."""
    totals = scores + np.array([[path.log_probability] for path in search.open], np.float64)
    flat = totals.ravel()
    # Twice as many as beams: though as many as there are end, enough go on.
    best = np.argpartition(-flat, min(2 * beams, len(flat) - 1))[: 2 * beams]
    best = best[np.lexsort((best, -flat[best]))]
    likeliest = {number: int(row.argmax()) for number, row in enumerate(scores) if search.open[number].greedy}
    going, rank = list[_Path](), 0
    # The greedy path first: whatever the others score, it stays.
    places = [number * scores.shape[1] + token for number, token in likeliest.items()]
    for place in [*places, *(int(p) for p in best if int(p) not in places)]:
        number, token = divmod(place, scores.shape[1])
        if not np.isfinite(flat[place]):
            continue
        path, is_greedy = search.open[number], place in places
        rank += 1
        if token == end:
            if is_greedy or rank <= beams:
                search.ended.append((path.tokens, float(flat[place]), len(path.tokens) + 1))
        elif len(going) < beams:
            going.append(_Path((*path.tokens, token), float(flat[place]), is_greedy))
    if is_last:
        search.ended += [(path.tokens, path.log_probability, len(path.tokens)) for path in going]
        going = []
    search.open = going


def _is_decided(search: _Search, decoding: Decoding, limit: int, best: int) -> bool:
    """Whether nothing that is open can come among the best any more: its sum only falls, its length ends at `limit`."""
    if len(search.ended) < best or not search.open:
        return False
    ranks = sorted((total / length**decoding.length_penalty for _, total, length in search.ended), reverse=True)
    lengths = (limit, len(search.open[0].tokens) + 1)
    bound = max(p.log_probability / length**decoding.length_penalty for p in search.open for length in lengths)
    return bool(bound <= ranks[best - 1])
