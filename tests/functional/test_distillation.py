from __future__ import annotations

import math

import pytest
import torch

from pyg_nodequant import functional as F


def batch(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 3, generator=generator, dtype=torch.double)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_listwise_kl_loss(temperature):
    s, t = batch(0), batch(1)

    def softmax(row):
        total = sum(math.exp(v / temperature) for v in row)
        return [math.exp(v / temperature) / total for v in row]

    total = 0.0
    for b in range(5):
        p, q = softmax(t[b].tolist()), softmax(s[b].tolist())
        total += sum(x * math.log(x / y) for x, y in zip(p, q))
    out = F.listwise_kl_loss(s, t, temperature)
    assert float(out) == pytest.approx(temperature**2 * total / 5)


def test_listwise_kl_loss_gradient():
    s, t = batch(0).requires_grad_(), batch(1)
    assert torch.autograd.gradcheck(
        lambda x: F.listwise_kl_loss(x, t, 0.5), s)


@pytest.mark.parametrize("chunk_scores", [1, 14, 2**22])
def test_distillation_loss_is_the_listwise_loss(chunk_scores):
    generator = torch.Generator().manual_seed(0)

    def table(rows, dim):
        return torch.randn(rows, dim, generator=generator,
                           dtype=torch.double)

    users, items = table(5, 3), table(7, 3)
    teacher_users, teacher_items = table(5, 4), table(7, 4)
    leaves = [users.requires_grad_(), items.requires_grad_()]
    out = F.distillation_loss(users, items, teacher_users, teacher_items, 0.7,
                              chunk_scores)
    expected = F.listwise_kl_loss(users @ items.t(),
                                  teacher_users @ teacher_items.t(), 0.7)
    assert float(out) == pytest.approx(float(expected))
    for one, other in zip(torch.autograd.grad(2 * out, leaves),
                          torch.autograd.grad(2 * expected, leaves),
                          strict=True):
        assert torch.allclose(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_distillation_is_float32_under_autocast(dtype):
    tables = [batch(i).to(dtype).requires_grad_() for i in range(4)]
    users, items, teacher_users, teacher_items = (t.float() for t in tables)
    expected = F.distillation_loss(users, items, teacher_users, teacher_items)
    expected.backward()
    gradient, tables[0].grad = tables[0].grad, None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.distillation_loss(*tables)
        loss.backward()
        listwise = F.listwise_kl_loss((users @ items.t()).to(dtype),
                                      teacher_users @ teacher_items.t())
    assert loss.dtype == listwise.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert torch.equal(tables[0].grad, gradient)


@pytest.mark.parametrize("chunk_scores", [1, 20, 2**22])
def test_excluded_items_are_in_no_ranking(chunk_scores):
    g = torch.Generator().manual_seed(3)
    tables = [torch.randn(n, 4, dtype=torch.float64, generator=g)
              for n in (5, 7, 5, 7)]
    out = torch.rand(5, 7, generator=g) < 0.4
    out[1] = False
    users, items = (x.clone().requires_grad_() for x in tables[:2])
    loss = F.distillation_loss(users, items, *tables[2:], 0.5, chunk_scores,
                             out.nonzero().t())
    loss.backward()
    a, b = (x.clone().requires_grad_() for x in tables[:2])
    expected = 0
    for u in range(5):
        keep = ~out[u]
        expected = expected + F.listwise_kl_loss(
            (b[keep] @ a[u])[None], (tables[3][keep] @ tables[2][u])[None],
            0.5) / 5
    expected.backward()
    assert torch.allclose(loss, expected, atol=1e-10)
    assert torch.allclose(users.grad, a.grad, atol=1e-9)
    assert torch.allclose(items.grad, b.grad, atol=1e-9)


def test_a_user_who_has_seen_everything_costs_nothing():
    g = torch.Generator().manual_seed(3)
    tables = [torch.randn(n, 4, generator=g) for n in (1, 3, 1, 3)]
    users = tables[0].requires_grad_()
    loss = F.distillation_loss(users, *tables[1:],
                             excluded=torch.ones(1, 3).nonzero().t())
    loss.backward()
    assert float(loss) == 0 and not bool(users.grad.any())
