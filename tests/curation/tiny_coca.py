"""A CoCa small enough to be trained in a test: six captions of coloured shapes, 16 pixels, one layer each."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curation.clip_model import Rgb, import_open_clip, picture_transform

ARCHITECTURE = "custody-test-coca"
CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 4,
                   "attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 8, "output_tokens": True},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1, "embed_cls": True,
                 "output_tokens": True},
    "multimodal_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1,
                       "attn_pooler_heads": 2},
    "custom_text": True,
}  # fmt: skip
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}
SHAPES = ("square", "cross")
CAPTIONS = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]


def drawn(caption: str, seed: int = 0) -> Rgb:
    """A coloured shape on grey, a little moved and noisy: [16, 16, 3]."""
    _, colour, shape = caption.split()
    rng = np.random.default_rng([seed, *caption.encode()])
    picture = rng.integers(120, 136, (16, 16, 3)).astype(np.uint8)
    y, x = rng.integers(2, 5, 2)
    if shape == "square":
        picture[y : y + 10, x : x + 10] = COLOURS[colour]
    else:
        picture[y + 4 : y + 6, x : x + 10] = picture[y : y + 10, x + 4 : x + 6] = COLOURS[colour]
    return picture


@contextmanager
def known_to_open_clip(folder: Path) -> Iterator[None]:
    """Within this block open_clip knows the architecture by its name."""
    open_clip = import_open_clip()
    (folder / f"{ARCHITECTURE}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder)
    try:
        yield
    finally:
        open_clip.factory._MODEL_CONFIG_PATHS.remove(folder)
        open_clip.factory._rescan_model_configs()


def trained_weights(path: Path) -> Path:
    """A safetensors file of the weights that have learnt the captions: the same every time, learnt once a process.

    Within `known_to_open_clip`.
    """
    path.write_bytes(_learnt(120))
    return path


@functools.cache
def _learnt(steps: int) -> bytes:
    """Learn the captions, with the few words that they have; then these words get their places among 49,408."""
    from open_clip.coca_model import CoCa
    from safetensors.torch import save

    open_clip = import_open_clip()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        whole = open_clip.create_model(ARCHITECTURE, pretrained=None, load_weights=False)
        preprocess = picture_transform(whole.visual.preprocess_cfg)
        ids = open_clip.get_tokenizer(ARCHITECTURE)(CAPTIONS)
        words = torch.unique(ids)  # 0, which fills up, stays 0
        ids = torch.searchsorted(words, ids)
        few = {part: {**CONFIG[part], "vocab_size": len(words)} for part in ("text_cfg", "multimodal_cfg")}
        model = CoCa(embed_dim=CONFIG["embed_dim"], vision_cfg=CONFIG["vision_cfg"], **few)
        torch.nn.init.normal_(model.text_decoder.text_projection, std=0.2)  # open_clip leaves what was in memory
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
        own = torch.arange(len(CAPTIONS))
        for step in range(steps):
            pixels = torch.stack([preprocess(drawn(caption, step)) for caption in CAPTIONS])
            said = model(pixels, ids)
            caption_loss = torch.nn.functional.cross_entropy(said["logits"].transpose(1, 2), said["labels"])
            logits = said["logit_scale"] * said["image_features"] @ said["text_features"].T
            contrastive = sum(torch.nn.functional.cross_entropy(side, own) for side in (logits, logits.T))
            optimizer.zero_grad()
            (caption_loss + 0.2 * contrastive).backward()
            optimizer.step()
            with torch.no_grad():
                # One feature is 1 whatever is read: by it the words that were never learnt are made unlikely.
                model.text_decoder.ln_final.weight[0], model.text_decoder.ln_final.bias[0] = 0.0, 1.0
    learnt = model.state_dict()
    for name, axis in (("text.token_embedding.weight", 0), ("text_decoder.text_projection", 1)):
        wide = torch.zeros_like(whole.state_dict()[name])
        if axis:
            wide[0] = -30.0
        learnt[name] = wide.index_copy_(axis, words, learnt[name])
    return save({name: value.contiguous() for name, value in learnt.items()})
