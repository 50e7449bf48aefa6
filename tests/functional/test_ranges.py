from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_nodequant import functional as F
from pyg_nodequant.functional import ranges
from pyg_nodequant.functional.quantize import GAUSSIAN_SPAN

WIDTHS = torch.arange(1, 9).double()


def rows(seed: int = 0, spread: float = 1.0, shift: float = 0.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 11, generator=generator, dtype=torch.double)
    return x * spread + shift


def slow_error(x, bits, delta):
    """The squared error of a row, number by number."""
    total, levels = 0.0, 2.0**bits - 1
    for value in x:
        position = min(max((value + delta / 2) / delta, 0.0), 1.0)
        q = round(position * levels) / levels * delta - delta / 2
        total += (q - value)**2
    return total


def test_meanstd_range():
    x = rows(shift=3.0)
    delta, mu = F.meanstd_range(x, WIDTHS)
    assert delta.shape == mu.shape == (8, 1)
    for i, row in enumerate(x.tolist()):
        mean = sum(row) / 11
        sigma = math.sqrt(sum((v - mean)**2 for v in row) / 11)
        span = GAUSSIAN_SPAN[i + 1] * sigma
        assert float(delta[i]) == pytest.approx(span)
        assert float(mu[i]) == pytest.approx(mean - span / 2)


def test_meanstd_range_of_centred_rows_is_symmetric():
    x = rows()
    x -= x.mean(-1, keepdim=True)
    for a, b in zip(F.meanstd_range(x, WIDTHS), F.symmetric_range(x, WIDTHS)):
        torch.testing.assert_close(a, b)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), shift=st.floats(2, 50))
def test_meanstd_range_serves_shifted_rows_better(seed, shift):
    x = rows(seed, shift=shift)

    def error(delta, mu):
        q = F.fake_quantize(x, WIDTHS, delta, mu)
        return (q - x).square().mean(-1)

    # On the whole: a short row at few bits may be lucky either way.
    assert (error(*F.meanstd_range(x, WIDTHS)).sum()
            < error(*F.symmetric_range(x, WIDTHS)).sum())


def test_meanstd_range_gradient():
    x = rows().requires_grad_()
    bits = (WIDTHS - 0.5).requires_grad_()
    assert torch.autograd.gradcheck(F.meanstd_range, (x, bits))


def test_a_constant_row_has_a_finite_gradient():
    x = torch.full((1, 3), 2.0, requires_grad=True)
    bits = torch.tensor([2.0], requires_grad=True)
    delta, mu = F.meanstd_range(x, bits)
    assert float(delta) == 0 and float(mu) == 2
    F.fake_quantize(x, bits, delta, mu).sum().backward()
    assert bool(x.grad.isfinite().all() & bits.grad.isfinite().all())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), offset=st.sampled_from([0.0, 0.4]),
       spread=st.floats(1e-3, 1e3))
def test_mse_factor_is_the_best_of_the_grid(seed, offset, spread):
    x, bits = rows(seed, spread), WIDTHS - offset
    span, _ = F.symmetric_range(x, bits)
    factor = F.mse_factor(x, bits, span)
    assert factor.shape == (8, 1) and not factor.requires_grad
    for i in range(8):
        errors = [slow_error(x[i].tolist(), float(bits[i]),
                             f * float(span[i])) for f in F.SPAN_FACTORS]
        chosen = F.SPAN_FACTORS.index(float(factor[i]))
        assert errors[chosen] <= min(errors) * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_mse_range_never_loses_to_the_gaussian_span(seed):
    x = rows(seed).float()
    bits = WIDTHS.float()

    def error(delta, mu):
        return (F.fake_quantize(x, bits, delta, mu) - x).square().sum(-1)

    best = error(*F.mse_range(x, bits))
    plain = error(*F.symmetric_range(x, bits))
    assert (best <= plain * (1 + 1e-5)).all()
    assert (best < plain).any()


def test_mse_range_is_a_symmetric_one():
    x = rows()
    span, _ = F.symmetric_range(x, WIDTHS)
    delta, mu = F.mse_range(x, WIDTHS)
    assert torch.equal(delta, F.mse_factor(x, WIDTHS, span) * span)
    assert torch.equal(mu, -delta / 2)


def test_mse_range_gradient():
    # Where the factor stays: it is a constant of the gradient.
    x = rows().requires_grad_()
    bits = (WIDTHS - 0.5).requires_grad_()
    assert torch.autograd.gradcheck(F.mse_range, (x, bits), eps=1e-7)


def test_mse_factor_in_parts(monkeypatch):
    x = rows().repeat(7, 1)
    bits = WIDTHS.repeat(7)
    delta, _ = F.symmetric_range(x, bits)
    whole = F.mse_factor(x, bits, delta)
    monkeypatch.setattr(ranges, "_PART", 33)  # three rows at once
    assert torch.equal(F.mse_factor(x, bits, delta), whole)
    assert F.mse_factor(x[:0], bits[:0], delta[:0]).shape == (0, 1)


def test_mse_range_of_zeros():
    delta, mu = F.mse_range(torch.zeros(2, 3), torch.tensor([1.0, 4.0]))
    assert not delta.any() and not mu.any()
