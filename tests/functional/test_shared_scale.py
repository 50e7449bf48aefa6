from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_nodequant import functional as F


@settings(max_examples=50, deadline=None)
@given(degrees=st.lists(st.integers(0, 30), min_size=1, max_size=60),
       bins=st.integers(1, 20))
def test_degree_bins(degrees, bins):
    out = F.degree_bins(torch.tensor(degrees), bins).tolist()
    for degree, number in zip(degrees, out):
        lower = sum(other < degree for other in degrees)
        assert number == lower * bins // len(degrees)
        assert 0 <= number < bins


def test_degree_bins_of_different_degrees_are_equal_in_size():
    degree = torch.randperm(160, generator=torch.Generator().manual_seed(0))
    for values in (degree, degree.float(), degree.view(1, -1)[0]):
        assert F.degree_bins(values).bincount().tolist() == [10] * 16
    assert F.degree_bins(torch.empty(0)).tolist() == []


def test_shared_step():
    generator = torch.Generator().manual_seed(1)
    step = torch.rand(50, 1, generator=generator)
    group = torch.randint(0, 6, (50, ), generator=generator)
    group[group == 4] = 5
    out = F.shared_step(step, group, 7)
    assert out.shape == (7, 1) and out.dtype == step.dtype
    for g in range(7):
        values = step[group == g].flatten().tolist()
        mean = sum(v * v for v in values) / max(len(values), 1)
        assert float(out[g]) == pytest.approx(math.sqrt(mean))


def test_shared_step_is_that_of_the_common_root_mean_square():
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(2))
    bits = torch.full((20, ), 3.0)
    delta, _ = F.symmetric_range(x, bits)
    shared = F.shared_step(delta / 7, torch.zeros(20, dtype=torch.long), 1)
    whole, _ = F.symmetric_range(x.view(1, -1), bits[:1])
    torch.testing.assert_close(shared, whole / 7)


def test_shared_step_gradient():
    step = torch.rand(9, 1, dtype=torch.double) + 0.1
    group = torch.arange(9) % 3
    assert torch.autograd.gradcheck(
        lambda s: F.shared_step(s, group, 4), step.requires_grad_())
    zero = torch.zeros(2, 1, requires_grad=True)
    F.shared_step(zero, torch.zeros(2, dtype=torch.long), 1).sum().backward()
    assert zero.grad.tolist() == [[0.0], [0.0]]
