from __future__ import annotations

import pytest
import torch

from pyg_nodequant import functional as F


def test_storage_loss():
    bits = torch.tensor([1.0, 2.5, 8.0], requires_grad=True)
    loss = F.storage_loss(bits, 64)
    assert loss.item() == pytest.approx(sum(b * 64 for b in (1, 2.5, 8)) / 3)
    loss.backward()
    assert bits.grad.tolist() == pytest.approx([64 / 3] * 3)
