from __future__ import annotations

import math

import pytest
import torch

from pyg_nodequant import functional as F


def test_scale_gradient():
    x = torch.tensor([[1.0], [2.0]], requires_grad=True)
    factor = torch.tensor([[0.5], [3.0]])
    out = F.scale_gradient(x, factor)
    assert torch.equal(out, x)
    (out * torch.tensor([[7.0], [11.0]])).sum().backward()
    assert x.grad.tolist() == [[3.5], [33.0]]


def test_lsq_factor():
    bits = torch.tensor([0.0, 1.0, 2.5, 8.0], requires_grad=True)
    out = F.lsq_factor(bits, 64)
    assert out.shape == (4, 1) and not out.requires_grad
    levels = [1, 1, 2**2.5 - 1, 255]
    assert out.flatten().tolist() == pytest.approx(
        [1 / math.sqrt(64 * s) for s in levels])


def test_rounding_noise():
    x = torch.zeros(4000, 3)
    noise = F.rounding_noise(x, 7)
    assert noise.shape == x.shape and noise.dtype == x.dtype
    assert -0.5 <= float(noise.min()) and float(noise.max()) < 0.5
    assert abs(float(noise.mean())) < 0.02
    assert float(noise.square().mean()) == pytest.approx(1 / 12, rel=0.05)
    state = torch.get_rng_state()
    assert torch.equal(F.rounding_noise(x, 7), noise)
    assert not torch.equal(F.rounding_noise(x, 8), noise)
    assert torch.equal(torch.get_rng_state(), state)  # untouched


def test_rounding_noise_without_a_seed_follows_torch():
    x = torch.zeros(5, 2)
    torch.manual_seed(3)
    first = F.rounding_noise(x)
    assert not torch.equal(F.rounding_noise(x), first)
    torch.manual_seed(3)
    assert torch.equal(F.rounding_noise(x), first)
