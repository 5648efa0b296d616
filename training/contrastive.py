"""The contrastive loss, and its exact gradient for batches that do not fit in memory.

The loss is the symmetric InfoNCE of CLIP (Radford et al. 2021) with every equal caption of the batch as a positive.
Its gradient with respect to the embeddings needs all of them, but no activations; those of the towers are made again
part by part: gradient caching (Gao et al. 2021, arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

# A large negative number, not -inf: 0 * inf would poison the masked rows' gradients.
_CLOSED = -1e4


def contrastive_loss(
    images: torch.Tensor, texts: torch.Tensor, caption_ids: torch.Tensor, fed: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Symmetric InfoNCE over the fed rows; equal captions are positives of one another.

    images, texts [B, D] normalised, caption_ids [B], fed [B] bool. Rows that were not fed are neither positives nor
    negatives, and the divisor stays B.
    """
    closed = torch.where(fed, 0.0, _CLOSED)
    logits = scale * images @ texts.T
    same = ((caption_ids[:, None] == caption_ids[None, :]) & fed[:, None] & fed[None, :]).float()
    targets = same / same.sum(1, keepdim=True).clamp(min=1.0)
    to_text = -(targets * F.log_softmax(logits + closed[None, :], dim=1)).sum()
    to_image = -(targets * F.log_softmax(logits.T + closed[None, :], dim=1)).sum()
    return (to_text + to_image) / (2 * len(fed))


def backward_cached(
    embed: Callable[[slice], torch.Tensor],
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    rows: int,
    rows_at_once: int,
) -> torch.Tensor:
    """Add the gradient of loss_of(embed(all rows)) to the parameters; returns the loss, detached.

    embed: rows -> embeddings [r, D]; called twice for the same rows where they are parts, it must give the same.
    loss_of: embeddings [rows, D] -> loss. rows_at_once: how many rows' activations are in memory at a time.
    """
    if rows_at_once >= rows:
        loss = loss_of(embed(slice(0, rows)))
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
        return loss.detach()
    parts = [slice(start, min(start + rows_at_once, rows)) for start in range(0, rows, rows_at_once)]
    # First all embeddings without their activations, and the loss's gradient at each of them …
    with torch.no_grad():
        embeddings = torch.cat([embed(part) for part in parts])
    embeddings.requires_grad_()
    loss = loss_of(embeddings)
    loss.backward()  # type: ignore[no-untyped-call]
    gradient = embeddings.grad
    assert gradient is not None
    # … then part by part the activations again, and that gradient through them (equation 6 of the paper).
    for part in parts:
        embed(part).backward(gradient[part])  # type: ignore[no-untyped-call]
    return loss.detach()
