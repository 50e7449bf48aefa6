import pytest
import torch

from pyg_nodequant import functional as F

N, DIM = 12, 4


def edges():
    generator = torch.Generator().manual_seed(0)
    user = torch.randint(0, 5, (18, ), generator=generator)
    item = torch.randint(5, N - 1, (18, ), generator=generator)
    pairs = torch.stack([user, item]).unique(dim=1)
    return torch.cat([pairs, pairs.flip(0)], 1)


def dense():
    a = torch.zeros(N, N)
    a[tuple(edges())] = 1
    root = a.sum(1).clamp(min=1).sqrt()
    return a / root.view(-1, 1) / root.view(1, -1)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_residuals_are_in_half_steps():
    x = random(N, DIM)
    bits = torch.arange(N) % 3 + 1.0
    delta, mu = F.symmetric_range(x, bits)
    q = F.fake_quantize(x, bits, delta, mu)
    step = delta / F.num_levels(bits).unsqueeze(1)
    found = F.rounding_residual(x, bits, delta, mu)
    inside = (x - mu >= 0) & (x - mu <= delta)
    assert bool((~inside).any())
    assert torch.allclose(found[inside], (2 * (q - x) / step)[inside],
                          atol=1e-4)
    assert float(found.abs().max()) <= 1
    assert not bool(found[~inside].any())
    none = F.rounding_residual(x, bits, 0 * delta, 0 * mu)
    assert not bool(none.any())


@pytest.mark.parametrize("ids", [None, [3, 7, 7, 0, 11, 3, 3, 9], [6]])
def test_the_term_against_dense_matrices(ids):
    count = N if ids is None else len(ids)
    n_id = None if ids is None else torch.tensor(ids)
    gradient = random(count, DIM)
    residual = random(count, DIM, seed=1).clamp(-1, 1)
    if ids is not None:  # rows of a node are the same, and so is their error
        residual = random(N, DIM, seed=1).clamp(-1, 1)[n_id]
    found = F.relation_term(gradient, residual,
                            F.build_adjacency(edges(), N), n_id)
    nodes = list(range(N)) if ids is None else ids
    sums, errors = torch.zeros(N, DIM), torch.zeros(N, DIM)
    for row, node in enumerate(nodes):
        sums[node] += gradient[row]
        errors[node] = residual[row]
    whole = torch.zeros(N, DIM)
    for k in range(DIM):
        d = torch.diag(errors[:, k])
        whole[:, k] = d @ dense() @ d @ sums[:, k]
    total = torch.zeros(N, DIM)
    for row, node in enumerate(nodes):
        total[node] += found[row]
    present = torch.zeros(N, 1)
    present[nodes] = 1
    assert torch.allclose(total, whole * present, atol=1e-6)


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.99])
def test_it_always_descends(weight):
    adjacency = F.build_adjacency(edges(), N)
    for seed in range(20):
        g = random(N, DIM, seed=seed)
        t = random(N, DIM, seed=100 + seed).sign()
        h = g + weight * F.relation_term(g, t, adjacency)
        square = float(g.square().sum())
        assert float((h * g).sum()) >= (1 - weight) * square - 1e-5
        assert float(h.norm()) <= (1 + weight) * float(g.norm()) + 1e-5


def test_values_stay_and_only_latent_rows_get_more():
    x = random(N, DIM).requires_grad_()
    bits = torch.full((N, ), 2.0, requires_grad=True)
    adjacency = F.build_adjacency(edges(), N)
    target = random(N, DIM, seed=5)

    def gradients(weight):
        delta, mu = F.symmetric_range(x, bits)
        out = F.fake_quantize(x, bits, delta, mu)
        if weight is not None:
            t = F.rounding_residual(x, bits, delta, mu)
            assert not t.requires_grad
            same = F.relation_gradient(out, x, t, adjacency, weight)
            assert torch.equal(same, out)
            out = same
        loss = (out * target).sum()
        return torch.autograd.grad(loss, (x, bits))

    plain, zero, more = (gradients(w) for w in (None, 0.0, 0.3))
    assert torch.equal(plain[0], zero[0])
    assert torch.equal(plain[1], more[1])  # widths learn as ever
    t = F.rounding_residual(x, bits, *F.symmetric_range(x, bits))
    expected = plain[0] + 0.3 * t * (dense() @ (t * target))
    assert torch.allclose(more[0], expected, atol=1e-5)
    assert not torch.allclose(more[0], plain[0], atol=1e-3)


def test_neighbours_outside_the_batch_do_not_count():
    adjacency = F.build_adjacency(edges(), N)
    one = F.relation_term(torch.ones(1, DIM), torch.ones(1, DIM), adjacency,
                          torch.tensor([2]))
    assert not bool(one.any())
