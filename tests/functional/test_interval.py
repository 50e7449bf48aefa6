import math

import pytest
import torch

from pyg_nodequant import functional as F

USERS, N = 5, 12


def edges(seed=0):
    """A bipartite graph in which the last node has no edges."""
    generator = torch.Generator().manual_seed(seed)
    user = torch.randint(0, USERS, (18, ), generator=generator)
    item = torch.randint(USERS, N - 1, (18, ), generator=generator)
    pairs = torch.stack([user, item]).unique(dim=1)
    return torch.cat([pairs, pairs.flip(0)], 1)


def dense(edge_index):
    a = torch.zeros(N, N, dtype=torch.double)
    a[edge_index[1], edge_index[0]] = 1
    root = a.sum(1).clamp(min=1).sqrt()
    return a / root.view(-1, 1) / root.view(1, -1)


def reference(rho, edge_index, mix, layers):
    """Node by node, neighbour by neighbour."""
    a, rho = dense(edge_index), rho.double()
    known = [math.isfinite(float(r)) for r in rho]
    own = [float(r) if k else 0.0 for r, k in zip(rho, known, strict=True)]
    refined = list(own)
    for _ in range(layers):
        mean = []
        for i in range(N):
            near = [j for j in range(N) if a[i, j] > 0 and known[j]]
            total = sum(float(a[i, j]) for j in near)
            mean.append(sum(float(a[i, j]) * refined[j] for j in near) / total
                        if near else own[i])
        refined = [(1 - mix) * o + mix * m for o, m in
                   zip(own, mean, strict=True)]
    return torch.tensor(mean)


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("zeros", [[], [0, USERS], list(range(USERS))])
def test_against_a_loop(mix, layers, zeros):
    rho = torch.randn(N, generator=torch.Generator().manual_seed(1))
    rho[zeros] = -math.inf
    adjacency = F.build_adjacency(edges(), N)
    found = F.neighbour_log_scale(rho, adjacency, mix, layers)
    expected = reference(rho, edges(), mix, layers)
    assert torch.allclose(found, expected.float(), atol=1e-5)


def test_equal_scales_stay_equal():
    adjacency = F.build_adjacency(edges(), N)
    found = F.neighbour_log_scale(torch.full((N, ), 1.5), adjacency, 0.7, 3)
    assert torch.allclose(found, torch.full((N, ), 1.5))


def test_scales_do_not_collapse_however_many_layers():
    rho = torch.randn(N, generator=torch.Generator().manual_seed(2))
    adjacency = F.build_adjacency(edges(), N)
    for layers in (1, 8, 64):
        near = F.neighbour_log_scale(rho, adjacency, 0.5, layers)
        refined = 0.5 * rho + 0.5 * near
        assert float(refined.std()) > 0.4 * float(rho.std())


def test_mixing():
    scale = torch.tensor([[2.0], [0.0], [3.0]], requires_grad=True)
    near = torch.tensor([0.5, 0.5, -1.0], requires_grad=True)
    out = F.mix_scale(scale, near, 0.25)
    expected = [2**0.75 * math.exp(0.125), 0.0, 3**0.75 * math.exp(-0.25)]
    assert out.flatten().tolist() == pytest.approx(expected)
    out.sum().backward()
    assert near.grad is None  # the neighbours' part has no gradient
    assert bool(scale.grad.isfinite().all())
    assert float(scale.grad[0]) == pytest.approx(
        0.75 * 2**-0.25 * math.exp(0.125))
