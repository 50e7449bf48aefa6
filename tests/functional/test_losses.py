from __future__ import annotations

import math

import pytest
import torch

from pyg_nodequant import functional as F


def batch(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 3, generator=generator, dtype=torch.double)


def test_bpr_loss():
    u, p, n = batch(0), batch(1), batch(2)
    total = 0.0
    for b in range(5):
        margin = sum(float(u[b, k] * (p[b, k] - n[b, k])) for k in range(3))
        total -= math.log(1 / (1 + math.exp(-margin)))
    assert float(F.bpr_loss(u, p, n)) == pytest.approx(total / 5)


def test_bpr_loss_of_huge_margins():
    u, p = torch.full((1, 1), 1e3), torch.full((1, 1), -1e3)
    assert float(F.bpr_loss(u, p, -p)) == 2e6
    assert float(F.bpr_loss(u, -p, p)) == 0


def test_bpr_loss_gradient():
    args = [batch(i).requires_grad_() for i in range(3)]
    assert torch.autograd.gradcheck(F.bpr_loss, args)


def test_l2_loss():
    a, b = batch(0), batch(1)
    total = sum(v * v for t in (a, b) for row in t.tolist() for v in row)
    assert float(F.l2_loss(a, b)) == pytest.approx(total / (2 * 5))
    assert float(F.l2_loss(torch.ones(0, 3))) == 0
