"""The contrastive loss: empty slots weigh nothing, equal captions agree, parts have the gradient of the whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.contrastive import backward_cached, contrastive_loss


def test_rows_that_were_not_fed_change_no_gradient() -> None:
    """An empty slot is neither a positive nor a negative: whatever stands in its row, loss and gradients stay."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 8, generator=generator)
    texts = torch.nn.functional.normalize(torch.randn(6, 8, generator=generator), dim=-1)
    ids, fed = torch.tensor([0, 1, 2, 1, -1, -1]), torch.tensor([True] * 4 + [False] * 2)
    results = []
    for filler in (0.0, 3.0):
        rows = torch.where(fed[:, None], images, filler).requires_grad_()
        loss = contrastive_loss(torch.nn.functional.normalize(rows, dim=-1), texts, ids, fed, torch.tensor(10.0))
        loss.backward()
        results.append((loss.item(), rows.grad[:4].clone(), rows.grad[4:].abs().sum().item()))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    assert results[1][2] == 0.0


def test_equal_captions_are_positives_of_one_another() -> None:
    """Two pictures of one caption pull on it together; treating one as the other's negative would cost more."""
    images = torch.eye(4)[[0, 0, 2, 3]]
    texts = torch.eye(4)[[0, 0, 2, 3]]
    fed, scale = torch.ones(4, dtype=torch.bool), torch.tensor(50.0)
    together = contrastive_loss(images, texts, torch.tensor([0, 0, 2, 3]), fed, scale)
    apart = contrastive_loss(images, texts, torch.tensor([0, 1, 2, 3]), fed, scale)
    assert float(together) == pytest.approx(float(apart), abs=1e-4)
    mixed = torch.eye(4)[[0, 1, 2, 3]]
    pulled = contrastive_loss(mixed, texts, torch.tensor([0, 0, 2, 3]), fed, scale)
    assert float(pulled) > float(together)


def gradients(rows_at_once: int, dtype: torch.dtype) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Loss and all gradients of a small network with a learned temperature over 24 rows, two of them empty."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(10, 32), nn.GELU(), nn.Linear(32, 8)).to(dtype)
    scale = nn.Parameter(torch.tensor(2.0, dtype=dtype))
    pictures = torch.randn(24, 10, dtype=dtype)
    texts = torch.nn.functional.normalize(torch.randn(24, 8, dtype=dtype), dim=-1)
    ids, fed = torch.arange(24) // 2, torch.arange(24) < 22
    pictures[22:] = 0
    loss = backward_cached(
        lambda rows: torch.nn.functional.normalize(network(pictures[rows]), dim=-1),
        lambda images: contrastive_loss(images, texts, ids, fed, scale.exp()),
        len(pictures),
        rows_at_once,
    )
    return loss, [p.grad for p in (*network.parameters(), scale) if p.grad is not None]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
@pytest.mark.parametrize("rows_at_once", [1, 6, 9, 23])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(
    rows_at_once: int, dtype: torch.dtype, tolerance: float
) -> None:
    """Loss and every gradient, the temperature's too, are those of the one large batch to the last digits."""
    whole, in_parts = gradients(24, dtype), gradients(rows_at_once, dtype)
    assert len(whole[1]) == len(in_parts[1]) == 5
    assert float(whole[0]) == pytest.approx(float(in_parts[0]), rel=tolerance)
    for one, other in zip(whole[1], in_parts[1], strict=True):
        assert one.abs().max() > 1e-4
        assert torch.allclose(one, other, rtol=0, atol=tolerance)


def test_parts_that_only_see_themselves_would_not_do() -> None:
    """Adding up the losses of small batches, as plain accumulation does, is another gradient: negatives are missing."""
    torch.manual_seed(3)
    images = torch.nn.functional.normalize(torch.randn(8, 4), dim=-1)
    texts, ids = torch.nn.functional.normalize(torch.randn(8, 4), dim=-1), torch.arange(8)
    fed, scale = torch.ones(8, dtype=torch.bool), torch.tensor(10.0)
    whole, parts = images.clone().requires_grad_(), images.clone().requires_grad_()
    contrastive_loss(whole, texts, ids, fed, scale).backward()
    for rows in (slice(0, 4), slice(4, 8)):
        (contrastive_loss(parts[rows], texts[rows], ids[rows], fed[rows], scale) / 2).backward()
    assert not torch.allclose(whole.grad, parts.grad, atol=1e-3)
