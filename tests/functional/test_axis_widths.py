import math

import pytest
import torch

from pyg_nodequant import functional as F
from pyg_nodequant.functional.transform import bit_order


def test_widths_add_up_in_bits():
    score, profile = torch.tensor([-1.0, 0.5]), torch.tensor([2.0, 0.0, 9.0])
    found = F.axis_widths(score, profile, 8)
    assert found.tolist() == [[1.0, 0.0, 8.0], [2.5, 0.5, 8.0]]


def test_gradients_at_the_bounds_point_inside():
    score = torch.tensor([0.0], requires_grad=True)
    profile = torch.tensor([-2.0, 3.0, 9.0, 0.0], requires_grad=True)
    for sign, kept in ((1.0, [0, 1, 1, 0]), (-1.0, [1, 1, 0, 1])):
        grads = torch.autograd.grad(
            sign * F.axis_widths(score, profile, 8).sum(), (score, profile))
        assert grads[1].tolist() == [sign * k for k in kept]
        assert grads[0].tolist() == [sign * sum(kept)]


@pytest.mark.parametrize("max_bits", [1, 4, 8])
def test_scores_fill_rows(max_bits):
    generator = torch.Generator().manual_seed(0)
    profile = 3 * torch.randn(12, generator=generator)
    total = torch.rand(50, generator=generator) * 12 * max_bits
    total[0], total[1] = 0.0, 12.0 * max_bits
    score = F.fill_score(total, profile, max_bits)
    bits = F.axis_widths(score, profile, max_bits).sum(1)
    assert torch.allclose(bits, total, atol=1e-3)
    rank = total.argsort()
    assert bool((score[rank].diff() >= 0).all())


def test_profiles_of_weights():
    ratio = 0.000088**(-1 / 8)
    weight = torch.tensor([1.0, ratio, ratio**3, 0.0])
    assert F.share_profile(weight).tolist() == pytest.approx(
        [-3, -2, 0, -32], abs=1e-5)


def test_profiles_are_near_the_greedy_widths():
    weight = torch.logspace(0, -5, 20, dtype=torch.double)
    greedy = torch.bincount(bit_order(weight)[:40], minlength=20)
    profile = F.share_profile(weight)
    score = F.fill_score(torch.tensor([40.0]), profile, 8)
    assert (F.axis_widths(score, profile, 8)[0] - greedy).abs().max() <= 1


def setup():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 3, generator=generator)
    bits = torch.tensor([[1.0, 2.3, 8.0], [0.0, 0.5, 7.9]]).repeat(3, 1)
    return x, bits, torch.tensor([1.0, 0.5, 2.0]), torch.full((6, 1), 1.2)


def whole(x, bits, spread, scale):
    """Number by number."""
    out = torch.zeros_like(x)
    for n in range(x.size(0)):
        for k in range(x.size(1)):
            b = int(bits[n, k])
            if b:
                step = float(scale[n]) * float(spread[k]) * [
                    1.596, 2.987, 4.102, 5.028, 5.83, 6.56, 7.22, 7.85][
                        b - 1] / (2**b - 1)
                v = float(x[n, k]) / step + (2**b - 1) / 2
                v = min(max(round(v), 0), 2**b - 1)
                out[n, k] = step * (v - (2**b - 1) / 2)
    return out


def test_interpolation_against_a_loop():
    x, bits, spread, scale = setup()
    below = whole(x, bits.floor(), spread, scale)
    above = whole(x, bits.ceil(), spread, scale)
    fraction = bits - bits.floor()
    expected = below + fraction * (above - below)
    found = F.interpolate_axes(x, bits, spread, scale, 8)
    assert torch.allclose(found, expected, atol=1e-5)


def test_gradients_of_the_widths():
    x, bits, spread, scale = setup()
    bits, x = bits.requires_grad_(), x.requires_grad_()
    F.interpolate_axes(x, bits, spread, scale, 8).sum().backward()
    low = bits.detach().floor().clamp(max=7)
    expected = (whole(x, low + 1, spread, scale) -
                whole(x, low, spread, scale))
    assert torch.allclose(bits.grad, expected, atol=1e-5)
    assert math.isfinite(float(x.grad.sum())) and bool((x.grad >= 0).all())
