from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_nodequant import functional as F


def test_bit_width():
    alpha = torch.tensor([-50.0, -1.0, 0.0, 2.0, 50.0])
    out = F.bit_width(alpha, 1, 8).tolist()
    for a, b in zip(alpha.tolist(), out):
        assert b == pytest.approx(1 + 7 / (1 + math.exp(-a)))


def test_bit_width_gradient():
    alpha = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.double,
                         requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: F.bit_width(a, 1, 8), alpha)


def test_inverse_bit_width():
    bits = torch.tensor([1.5, 2.0, 4.5, 7.9])
    alpha = F.inverse_bit_width(bits, 1, 8)
    assert torch.allclose(F.bit_width(alpha, 1, 8), bits, atol=1e-5)
    ends = F.inverse_bit_width(torch.tensor([1.0, 8.0]), 1, 8, margin=0.01)
    assert torch.allclose(F.bit_width(ends, 1, 8),
                          torch.tensor([1.07, 7.93]), atol=1e-5)


def test_inverse_of_a_single_width():
    assert F.inverse_bit_width(torch.full((2, ), 3.0), 3, 3).tolist() == [0, 0]


def test_round_bits():
    bits = torch.tensor([0.2, 1.4, 1.5, 2.5, 9.0])
    out = F.round_bits(bits, 1, 8)
    assert out.dtype == torch.long
    expected = [min(max(round(b), 1), 8) for b in bits.tolist()]
    assert out.tolist() == expected == [1, 1, 2, 2, 8]


@pytest.mark.parametrize("n, target, total", [
    (3, 2.5, 7), (10, 2.1, 21), (1000, 1.1, 1100), (3, 1 / 3, 1), (0, 2.0, 0),
])
def test_budget_total(n, target, total):
    assert F.budget_total(n, target) == total


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(1, 60),
       low=st.integers(0, 3), high=st.integers(4, 8), part=st.floats(0, 1),
       coarse=st.booleans())
def test_projection_meets_the_budget(seed, size, low, high, part, coarse):
    generator = torch.Generator().manual_seed(seed)
    bits = torch.rand(size, generator=generator) * 10 - 1
    if coarse:  # many ties
        bits = bits.round()
    target = low + (high - low) * part
    out = F.project_to_budget(bits, target, low, high)
    assert int(out.sum()) == F.budget_total(size, target)
    assert int(out.min()) >= low and int(out.max()) <= high
    # Wider stays wider.
    order = bits.argsort(stable=True)
    assert bool((out[order].diff()[bits[order].diff() > 1e-6] >= 0).all())


@pytest.mark.parametrize("seed", range(8))
def test_projection_is_the_nearest(seed):
    # A common shift and rounding minimises sum (b_i - value_i)^2 among all
    # whole widths of this sum: the last brute force there is.
    generator = torch.Generator().manual_seed(seed)
    bits = torch.rand(5, generator=generator) * 4
    out = F.project_to_budget(bits, 2.0, 1, 4)
    values = bits.double().tolist()
    best = min(
        sum((b - v)**2 for b, v in zip(choice, values))
        for choice in itertools.product(range(1, 5), repeat=5)
        if sum(choice) == 10)
    cost = sum((b - v)**2 for b, v in zip(out.tolist(), values))
    assert cost == pytest.approx(best, abs=1e-9)


def test_projection_gives_ties_to_the_lowest_id():
    bits = torch.full((4, ), 2.5)
    assert F.project_to_budget(bits, 2.5, 1, 8).tolist() == [3, 3, 2, 2]
    assert F.project_to_budget(bits, 2.0, 1, 8).tolist() == [2] * 4


def test_projection_at_the_bounds():
    bits = torch.tensor([1.0, 5.0, 3.0])
    assert F.project_to_budget(bits, 1, 1, 8).tolist() == [1] * 3
    assert F.project_to_budget(bits, 8, 1, 8).tolist() == [8] * 3
    assert F.project_to_budget(bits, 3, 3, 3).tolist() == [3] * 3


@pytest.mark.parametrize("target", [0.5, 8.5])
def test_projection_outside_the_bounds(target):
    with pytest.raises(ValueError, match=r"'target_bits' needs to be in "
                       r"\[1, 8\] \(got"):
        F.project_to_budget(torch.ones(3), target, 1, 8)


def test_degree_score():
    degree = torch.tensor([0.0, 1.0, 5.0, 100.0])
    out = F.degree_score(degree)
    logs = [math.log(1 + d) for d in degree.tolist()]
    mean = sum(logs) / 4
    std = math.sqrt(sum((v - mean)**2 for v in logs) / 4)
    assert out.tolist() == pytest.approx([(v - mean) / std - 0.5
                                          for v in logs])
    assert out.dtype == torch.float32


@pytest.mark.parametrize("size, degree", [(1, 3.0), (1000, 10.0), (777, 3.0)])
def test_equal_degrees(size, degree):
    out = F.degree_score(torch.full((size, ), degree))
    assert out.tolist() == pytest.approx([-0.5] * size)
