from __future__ import annotations

import pytest
import torch
from torch_geometric.nn import LightGCN
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from pyg_nodequant import functional as F

N = 9  # the last two nodes have no edges


def graph(directed: bool, repeated: bool = False, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    edge_index = torch.randint(0, N - 2, (2, 15), generator=generator)
    if not repeated:
        edge_index = edge_index.unique(dim=1)
    if not directed:
        edge_index = torch.cat([edge_index, edge_index.flip(0)], dim=1)
    order = torch.randperm(edge_index.size(1), generator=generator)
    return edge_index[:, order]


def weights(edge_index: torch.Tensor, symmetric: bool) -> torch.Tensor:
    if symmetric:
        return (edge_index.sum(0) % 5 + 1).double() / 3
    return (edge_index[0] * 7 % 5 + 1).double() / 3


def dense(edge_index, weight=None):
    """Adds up the messages of the edges one by one: row receives."""
    out = torch.zeros(N, N, dtype=torch.double)
    for e, (source, target) in enumerate(edge_index.t().tolist()):
        out[target, source] += 1.0 if weight is None else float(weight[e])
    return out


def slow_adjacency(edge_index, weight=None):
    out = dense(edge_index, weight)
    degree = out.sum(1).tolist()
    for i in range(N):
        for j in range(N):
            if out[i, j] != 0:
                out[i, j] /= (degree[i] * degree[j])**0.5 or 1.0
                if degree[i] == 0 or degree[j] == 0:
                    out[i, j] = 0.0
    return out


def slow_propagate(x, matrix, alpha):
    out = torch.zeros_like(x)
    for a in alpha:
        out = out + a * x
        x = matrix @ x
    return out


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_build_adjacency(directed, repeated, weighted):
    edge_index = graph(directed, repeated)
    weight = weights(edge_index, not directed) if weighted else None
    adjacency = F.build_adjacency(edge_index, N, weight, dtype=torch.double)
    matrix = adjacency.matrix.to_dense()
    assert torch.allclose(matrix, slow_adjacency(edge_index, weight))
    assert adjacency.num_nodes == N
    assert adjacency.is_symmetric == torch.allclose(matrix, matrix.t())
    if not adjacency.is_symmetric:
        assert torch.equal(adjacency.transposed.to_dense(), matrix.t())


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_build_adjacency_is_gcn_norm(directed, weighted):
    edge_index = graph(directed, repeated=True)
    weight = weights(edge_index, not directed).float() if weighted else None
    adjacency = F.build_adjacency(edge_index, N, weight)
    _, norm = gcn_norm(edge_index, weight, N, add_self_loops=False)
    expected = dense(edge_index, norm).float()
    assert torch.allclose(adjacency.matrix.to_dense(), expected)


def test_build_adjacency_without_normalization():
    edge_index = graph(True)
    weight = weights(edge_index, False)
    adjacency = F.build_adjacency(edge_index, N, weight, normalize=False,
                                  dtype=torch.double)
    assert torch.equal(adjacency.matrix.to_dense(), dense(edge_index, weight))


def test_adjacency_of_no_edges():
    adjacency = F.build_adjacency(torch.empty(2, 0, dtype=torch.long), N)
    assert adjacency.is_symmetric
    x = torch.randn(N, 2)
    assert torch.equal(F.propagate(x, adjacency, [0.5, 0.5]), x * 0.5)


@pytest.mark.parametrize("bad", [-1, N])
def test_build_adjacency_of_unknown_nodes(bad):
    edge_index = torch.tensor([[0, 1], [1, bad]])
    low, high = min(bad, 0), max(bad, 1)
    with pytest.raises(ValueError, match=rf"'edge_index' needs to hold nodes "
                       rf"in \[0, 8\] \(got \[{low}, {high}\]\)"):
        F.build_adjacency(edge_index, N)


def test_csr_from_coo():
    edge_index = graph(True, repeated=True)
    value = torch.arange(edge_index.size(1)).double()
    out = F.csr_from_coo(edge_index[0], edge_index[1], value, N)
    assert out.layout == torch.sparse_csr
    expected = torch.zeros(N, N, dtype=torch.double)
    for e, (row, col) in enumerate(edge_index.t().tolist()):
        expected[row, col] += float(value[e])
    assert torch.equal(out.to_dense(), expected)


def test_adjacency_to():
    adjacency = F.build_adjacency(graph(True), N)
    assert adjacency.to(torch.device("cpu")) is adjacency
    moved = adjacency.to(torch.device("meta"))
    assert moved.matrix.device.type == moved.transposed.device.type == "meta"
    moved = F.build_adjacency(graph(False), N).to(torch.device("meta"))
    assert moved.is_symmetric


ALPHAS = [[1.0], [0.25] * 4, [0.5, 0.2, 0.2, 0.1], [0.0, 0.0, 1.0]]


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_propagate(directed, weighted, alpha):
    edge_index = graph(directed, repeated=True)
    weight = weights(edge_index, not directed) if weighted else None
    adjacency = F.build_adjacency(edge_index, N, weight, dtype=torch.double)
    matrix = slow_adjacency(edge_index, weight)
    x = torch.randn(N, 3, dtype=torch.double, requires_grad=True,
                    generator=torch.Generator().manual_seed(0))
    grad = torch.randn(N, 3, dtype=torch.double,
                       generator=torch.Generator().manual_seed(1))
    out = F.propagate(x, adjacency, alpha)
    expected = slow_propagate(x, matrix, alpha)
    assert torch.allclose(out, expected)
    [by_out] = torch.autograd.grad(out, x, grad)
    [by_expected] = torch.autograd.grad(expected, x, grad)
    assert torch.allclose(by_out, by_expected)
    assert torch.autograd.gradcheck(
        lambda x: F.propagate(x, adjacency, alpha), x)


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("alpha", [None, torch.tensor([0.5, 0.2, 0.2, 0.1])])
def test_propagate_is_light_gcn(directed, weighted, alpha):
    edge_index = graph(directed, repeated=True)
    weight = weights(edge_index, not directed).float() if weighted else None
    model = LightGCN(N, 4, 3, alpha=alpha)
    adjacency = F.build_adjacency(edge_index, N, weight)
    x = model.embedding.weight.detach().clone().requires_grad_()
    out = F.propagate(x, adjacency, model.alpha.tolist())
    expected = model.get_embedding(edge_index, weight)
    assert torch.allclose(out, expected, atol=1e-6)
    grad = torch.randn(N, 4)
    out.backward(grad)
    expected.backward(grad)
    assert torch.allclose(x.grad, model.embedding.weight.grad, atol=1e-6)


def test_isolated_nodes_keep_their_own_row():
    adjacency = F.build_adjacency(graph(False), N)
    x = torch.randn(N, 2)
    out = F.propagate(x, adjacency, [0.25] * 4)
    assert torch.allclose(out[-2:], x[-2:] / 4)


def test_propagate_under_autocast():
    adjacency = F.build_adjacency(graph(False), N)
    x = torch.randn(N, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = F.propagate(x, adjacency, [0.5, 0.5])
    assert out.dtype == torch.float32
    assert torch.equal(out, F.propagate(x, adjacency, [0.5, 0.5]))


def test_gather_rows():
    x = torch.randn(5, 3, requires_grad=True)
    index = torch.tensor([4, 1, 1, 0, 4, 4])
    grad = torch.randn(6, 3)
    F.gather_rows(x, index).backward(grad)
    expected = [[0.0] * 3 for _ in range(5)]
    for row, node in zip(grad.tolist(), index.tolist()):
        expected[node] = [a + b for a, b in zip(expected[node], row)]
    assert torch.equal(F.gather_rows(x, index), x[index])
    assert torch.allclose(x.grad, torch.tensor(expected))
    assert F.gather_rows(x, index.view(2, 3)).shape == (2, 3, 3)


def test_gather_rows_gradient_is_deterministic():
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(0, 7, (20000, ), generator=generator)
    grad = torch.randn(20000, 8, generator=generator) * 1e4

    def gradient(threads: int) -> torch.Tensor:
        x = torch.zeros(7, 8, requires_grad=True)
        torch.set_num_threads(threads)
        F.gather_rows(x, index).backward(grad)
        return x.grad

    before = torch.get_num_threads()
    try:
        results = [gradient(threads) for threads in (1, 2, 2, 4)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])
