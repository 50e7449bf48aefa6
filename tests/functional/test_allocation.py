from __future__ import annotations

import itertools
import math

import pytest
import torch

from pyg_nodequant import functional as F
from pyg_nodequant.functional.allocation import GAUSSIAN_DISTORTION
from pyg_nodequant.functional.quantize import GAUSSIAN_SPAN


def table(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.double)


def slow_curvature(users, items, temperature):
    u, i, d = users.size(0), items.size(0), users.size(1)
    out_users, out_items = [], [0.0] * i
    for a in range(u):
        scores = [
            sum(float(users[a, k] * items[b, k]) for k in range(d)) /
            temperature for b in range(i)
        ]
        total = sum(math.exp(s) for s in scores)
        p = [math.exp(s) / total for s in scores]
        mean = [sum(p[b] * float(items[b, k]) for b in range(i))
                for k in range(d)]
        second = sum(p[b] * float(items[b].square().sum()) for b in range(i))
        out_users.append(second - sum(m * m for m in mean))
        for b in range(i):
            out_items[b] += (p[b] * (1 - p[b]) *
                             float(users[a].square().sum()))
    return out_users + out_items


@pytest.mark.parametrize("temperature, chunk_scores",
                         [(1.0, 1024), (0.5, 14), (0.5, 1)])
def test_listwise_curvature(temperature, chunk_scores):
    users, items = table(5, 3), table(7, 3, seed=1)
    out = F.listwise_curvature(users, items, temperature, chunk_scores)
    assert out.tolist() == pytest.approx(
        slow_curvature(users, items, temperature))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_listwise_curvature_is_that_of_the_loss(temperature):
    # The trace of the Hessian of sum_u T^2 KL_u in each row.
    users, items = table(3, 2), table(4, 2, seed=1)
    teacher = users @ items.t()

    def loss(rows):
        scores = rows[:3] @ rows[3:].t()
        log_q = torch.log_softmax(scores / temperature, -1)
        log_p = torch.log_softmax(teacher / temperature, -1)
        return temperature**2 * (log_p.exp() * (log_p - log_q)).sum()

    rows = torch.cat([users, items])
    hessian = torch.autograd.functional.hessian(loss, rows)
    trace = [sum(float(hessian[n, k, n, k]) for k in range(2))
             for n in range(7)]
    out = F.listwise_curvature(users, items, temperature)
    assert out.tolist() == pytest.approx(trace)


def dense_propagation(adjacency, alpha):
    matrix = adjacency.matrix.to_dense()
    out = torch.zeros_like(matrix)
    power = torch.eye(matrix.size(0), dtype=matrix.dtype)
    for a in alpha:
        out += a * power
        power = matrix @ power
    return out


@pytest.mark.parametrize("directed", [False, True])
def test_propagated_curvature(directed):
    edge_index = torch.tensor([[0, 1, 2, 3, 0, 4], [3, 3, 4, 4, 4, 0]])
    if not directed:
        edge_index = torch.cat([edge_index, edge_index.flip(0)], dim=1)
    adjacency = F.build_adjacency(edge_index, 6, dtype=torch.double)
    assert adjacency.is_symmetric != directed
    alpha = [0.4, 0.3, 0.3]
    curvature = torch.rand(6, generator=torch.Generator().manual_seed(0),
                           dtype=torch.double)
    p = dense_propagation(adjacency, alpha)
    expected = [sum(float(p[j, i])**2 * float(curvature[j]) for j in range(6))
                for i in range(6)]
    out = F.propagated_curvature(curvature, adjacency, alpha,
                                 num_samples=20000)
    assert out.tolist() == pytest.approx(expected, rel=0.05)
    again = F.propagated_curvature(curvature, adjacency, alpha, 16, seed=3)
    same = F.propagated_curvature(curvature, adjacency, alpha, 16, seed=3)
    assert torch.equal(again, same)


def test_sensitivity():
    x, h = table(4, 3), torch.arange(4.0).double()
    expected = [float(h[i]) * sum(v * v for v in x[i].tolist()) / 3
                for i in range(4)]
    assert F.sensitivity(h, x).tolist() == pytest.approx(expected)


def test_distortion_belongs_to_the_span():
    x = torch.linspace(-7, 7, 28001, dtype=torch.double)
    density = torch.exp(-x.square() / 2)
    density /= density.sum()
    for bits in range(1, 7):
        span = torch.tensor([GAUSSIAN_SPAN[bits]]).double()
        q = F.fake_quantize(x[None], torch.tensor([float(bits)]).double(),
                            span, -span / 2)
        error = float((density * (q[0] - x).square()).sum())
        assert error == pytest.approx(GAUSSIAN_DISTORTION[bits], rel=0.05)


def cost(weight, power, bits):
    return sum(w**power * GAUSSIAN_DISTORTION[b] for w, b in zip(weight, bits))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("low, high, power", [(1, 4, 1.0), (0, 3, 0.5)])
def test_allocation_is_optimal(seed, low, high, power):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(5, generator=generator).double().pow(4) * 100 + 1e-3
    target = low + (high - low) * (seed + 1) / 7
    out = F.allocate_bits(weight, target, low, high, power).tolist()
    total = F.budget_total(5, target)
    assert sum(out) == total
    values = weight.tolist()
    best = min(
        cost(values, power, choice)
        for choice in itertools.product(range(low, high + 1), repeat=5)
        if sum(choice) == total)
    assert cost(values, power, out) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("target", [1.0, 1.0001, 2.0, 2.345, 7.99, 8.0])
def test_allocation_meets_the_budget(target):
    weight = torch.rand(997, generator=torch.Generator().manual_seed(0))
    weight[::7] = 0
    out = F.allocate_bits(weight, target)
    assert out.dtype == torch.long
    assert int(out.sum()) == F.budget_total(997, target)
    assert int(out.min()) >= 1 and int(out.max()) <= 8
    order = weight.argsort()  # a larger weight gets no fewer bits
    larger = weight[order].diff() > 0
    assert bool((out[order].diff()[larger] >= 0).all())


@pytest.mark.parametrize("target", [0.0, 0.001, 0.5, 1.0, 2.345, 8.0])
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_allocation_from_no_bits_on_meets_the_budget(target, power):
    weight = torch.rand(997, generator=torch.Generator().manual_seed(0))
    weight[::7] = 0
    out = F.allocate_bits(weight, target, min_bits=0, power=power)
    assert int(out.sum()) == F.budget_total(997, target)
    assert int(out.min()) >= 0 and int(out.max()) <= 8
    assert bool((out == 0).any()) == (target < 8)
    if target <= 1:  # who does not matter has no bits as long as others do
        assert not bool(out[::7].any())


def test_no_bits_at_all():
    assert F.allocate_bits(torch.ones(3), 0.0, 0, 8).tolist() == [0, 0, 0]
    # One for each that counts, before a second one is worth it.
    assert F.allocate_bits(torch.tensor([3.0, 2.0, 0.0]), 2 / 3,
                           0).tolist() == [1, 1, 0]
    assert F.allocate_bits(torch.tensor([9.0, 1.0, 1.0]), 2 / 3,
                           0).tolist() == [2, 0, 0]


def test_ties_go_to_the_lowest_id():
    assert F.allocate_bits(torch.ones(5), 1.6).tolist() == [2, 2, 2, 1, 1]
    zeros = F.allocate_bits(torch.zeros(5), 1.6)
    assert zeros.tolist() == [2, 2, 2, 1, 1]
    # Of power 0 the sensitivities say nothing.
    out = F.allocate_bits(torch.tensor([1.0, 9.0, 0.0]), 2 / 3 + 1, power=0.0)
    assert out.tolist() == [2, 2, 1]


def test_very_different_sensitivities():
    out = F.allocate_bits(torch.tensor([1e30, 1e-30, 0.0]), 10 / 3)
    assert out.tolist() == [8, 1, 1]
    out = F.allocate_bits(torch.tensor([1e30, 1e-30, 0.0]), 4.0)
    assert out.tolist() == [8, 3, 1]


def test_one_width():
    assert F.allocate_bits(torch.ones(3), 4, 4, 4).tolist() == [4, 4, 4]


@pytest.mark.parametrize("low, high", [(-1, 8), (1, 9), (5, 4)])
def test_wrong_bounds(low, high):
    with pytest.raises(ValueError, match=r"need to be in \[0, 8\] and in "
                       rf"order \(got {low} and {high}\)"):
        F.allocate_bits(torch.ones(3), 4, low, high)


@pytest.mark.parametrize("target", [0.9, 8.1])
def test_wrong_target(target):
    with pytest.raises(ValueError, match=r"'target_bits' needs to be in "
                       rf"\[1, 8\] \(got {target}\)"):
        F.allocate_bits(torch.ones(3), target)


def test_excluded_items_have_no_curvature():
    g = torch.Generator().manual_seed(1)
    users, items = (torch.randn(n, 3, generator=g) for n in (4, 6))
    out = torch.zeros(4, 6, dtype=torch.bool)
    out[:, 2] = True
    pairs = out.nonzero().t()
    kept = torch.tensor([0, 1, 3, 4, 5])
    expected = F.listwise_curvature(users, items[kept], 0.7)
    found = F.listwise_curvature(users, items, 0.7, 12, pairs)
    assert torch.allclose(found[:4], expected[:4], atol=1e-5)
    assert torch.allclose(found[4:][kept], expected[4:], atol=1e-5)
    assert float(found[4 + 2]) == 0
