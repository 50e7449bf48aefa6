from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_nodequant import functional as F

BITS = torch.tensor([0.3, 1.0, 1.5, 2.2, 3.0, 4.9, 7.4, 8.0]).double()
RANGES = {
    "symmetric": F.symmetric_range,
    "meanstd": F.meanstd_range,
    "mse": F.mse_range,
    "minmax": lambda x, bits: F.minmax_range(x),
}


def rows(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 9, generator=generator, dtype=torch.double)


def quantized(x, bits, make, noise=None):
    low, high = (make(x, whole) for whole in F.neighbour_bits(bits))
    return F.interpolate_quantize(x, bits, low, high, noise)


def unfused(x, bits, low, high, noise=None):
    """The same from torch's own operations, straight through."""

    def at(whole, delta, mu):
        levels = F.column(F.num_levels(whole))
        safe = torch.where(delta > 0, delta, 1)
        position = torch.where(delta > 0, (x - mu) / safe, 0).clamp(0, 1)
        code = position * levels
        if noise is None:
            code = code + (code.round() - code).detach()
        else:
            code = code + noise * (levels > 0)
        out = code / levels.clamp(min=1e-12) * delta + mu
        return torch.where(F.column(whole) > 0, out, 0)

    below, above = F.neighbour_bits(bits)
    f = F.column(bits - below)
    return (1 - f) * at(below, *low) + f * at(above, *high)


def test_neighbour_bits():
    low, high = F.neighbour_bits(BITS.clone().requires_grad_())
    assert low.tolist() == [0, 1, 1, 2, 3, 4, 7, 7]
    assert high.tolist() == [1, 2, 2, 3, 4, 5, 8, 8]
    assert not low.requires_grad and not high.requires_grad


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), name=st.sampled_from(sorted(RANGES)))
def test_whole_widths_are_those_of_the_plain_quantizer(seed, name):
    x, bits = rows(seed).float(), torch.arange(1.0, 9.0)
    delta, mu = RANGES[name](x, bits)
    assert torch.equal(quantized(x, bits, RANGES[name]),
                       F.fake_quantize(x, bits, delta, mu))


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("noisy", [False, True])
def test_value_and_gradients_are_those_of_the_unfused_formula(name, noisy):
    bits = BITS.clone()
    noise = F.rounding_noise(rows(), 1) if noisy else None
    weight, found = rows(5), []
    for form in (F.interpolate_quantize, unfused):
        x, b = rows().requires_grad_(), bits.clone().requires_grad_()
        sides = [tuple(part.detach().requires_grad_()
                       for part in RANGES[name](x, whole))
                 for whole in F.neighbour_bits(b)]
        out = form(x, b, *sides, noise)
        (out * weight).sum().backward()
        grads = [leaf.grad for leaf in (x, b, *sides[0], *sides[1])]
        found.append([out, *grads])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", RANGES)
def test_the_gradient_of_the_width_is_that_of_finite_differences(name):
    x = rows()
    bits = torch.tensor([0.3, 1.2, 1.5, 2.2, 3.4, 4.9, 6.7, 7.4]).double()
    bits.requires_grad_()
    weight = rows(3)
    (quantized(x, bits, RANGES[name]) * weight).sum().backward()
    with torch.no_grad():  # linear between whole widths: any step will do
        step = 0.05
        up, down = (quantized(x, bits + s, RANGES[name])
                    for s in (step, -step))
        expected = ((up - down) / (2 * step) * weight).sum(-1)
        low, high = F.neighbour_bits(bits)
        apart = (quantized(x, high, RANGES[name]) -
                 quantized(x, low, RANGES[name]))
    torch.testing.assert_close(bits.grad, expected)
    torch.testing.assert_close(bits.grad, (apart * weight).sum(-1))


def test_noise_has_exact_gradients():
    # Nothing is rounded: away from the ends of the ranges the function is
    # smooth.
    x = rows()
    noise = F.rounding_noise(x, 2)
    bits = torch.tensor([1.2, 1.5, 2.2, 3.4, 4.9, 6.7, 7.4, 2.5]).double()

    def function(x, bits):
        low, high = (F.symmetric_range(x, w) for w in F.neighbour_bits(bits))
        return F.interpolate_quantize(x, bits, low, high, noise)

    assert torch.autograd.gradcheck(
        function, (x.requires_grad_(), bits.requires_grad_()))


def test_a_width_of_zero_is_a_row_of_zeros():
    x, bits = rows()[:2] + 4, torch.tensor([0.0, 0.5]).double()
    delta, mu = F.minmax_range(x)
    out = F.interpolate_quantize(x, bits, (delta, mu), (delta, mu))
    assert out[0].tolist() == [0] * 9
    one = F.fake_quantize(x[1:], torch.ones(1).double(), delta[1:], mu[1:])
    torch.testing.assert_close(out[1:], one / 2)
