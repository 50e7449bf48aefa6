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


def tables(*rows, dim=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, dim, generator=generator, dtype=torch.double)
            for n in rows]


@pytest.mark.parametrize("chunk_scores", [1, 14, 2**22])
def test_distillation_over_a_sample(chunk_scores):
    users, items, teacher_users, teacher_items = tables(5, 7, 5, 7)
    log_weight, = torch.randn(1, 7, dtype=torch.double,
                              generator=torch.Generator().manual_seed(1))
    leaves = [users.requires_grad_(), items.requires_grad_()]
    out = F.distillation_loss(users, items, teacher_users, teacher_items, 0.7,
                              chunk_scores, log_weight)
    p = torch.softmax(teacher_users @ teacher_items.t() / 0.7 + log_weight, 1)
    q = torch.log_softmax(users @ items.t() / 0.7 + log_weight, 1)
    expected = 0.49 * (p * (p.log() - q)).sum(1).mean()
    assert float(out.detach()) == pytest.approx(float(expected.detach()))
    for one, other in zip(torch.autograd.grad(out, leaves),
                          torch.autograd.grad(expected, leaves)):
        assert torch.allclose(one, other)


def test_a_weight_stands_for_equal_items():
    users, items, teacher_users, teacher_items = tables(4, 5, 4, 5)
    times = torch.tensor([1, 3, 1, 2, 1])

    def repeated(x):
        return x.repeat_interleave(times, 0)

    whole = F.distillation_loss(users, repeated(items), teacher_users,
                                repeated(teacher_items))
    sample = F.distillation_loss(users, items, teacher_users, teacher_items,
                                 log_weight=times.log().double())
    assert float(sample) == pytest.approx(float(whole))


def test_no_weights_are_weights_of_one():
    x = [t.float() for t in tables(4, 5, 4, 5)]
    assert torch.equal(F.distillation_loss(*x), F.distillation_loss(
        *x, log_weight=torch.zeros(5)))


def four_scores(dtype=torch.double):
    """Scores of 4 users: student's and teacher's, of 3 first items (one user
    has two, one has none) and of 5 random ones.
    """
    top, random = tables(4, 4, dim=3)[0], tables(4, 4, dim=5)[0]
    teacher_top = tables(8, dim=3)[0][4:].sort(1, descending=True).values + 1
    teacher_random = tables(8, dim=5)[0][4:]
    teacher_top[1, 2] = -torch.inf
    teacher_top[2] = -torch.inf
    return [t.to(dtype) for t in (top, random, teacher_top, teacher_random)]


def test_ranking_distillation_loss():
    top, random, teacher_top, teacher_random = four_scores()
    weight = [math.exp(-r / 2.5) for r in (1, 2, 3)]
    total, pairs = 0.0, 0
    for b in range(4):
        for r in range(3):
            for j in range(5):
                if teacher_top[b, r] > teacher_random[b, j]:
                    gap = float(top[b, r] - random[b, j])
                    loss = math.log(1 + math.exp(-gap))
                    total += weight[r] / sum(weight) * loss / 5
                    pairs += 1
    assert 0 < pairs < 4 * 3 * 5 - 3 * 5 - 5  # some rank the other way round
    out = F.ranking_distillation_loss(top, random, teacher_top,
                                      teacher_random, 2.5)
    assert float(out) == pytest.approx(total / 4)


def test_margin_distillation_loss():
    top, random, teacher_top, teacher_random = four_scores()
    teacher_random[3, 1] = -torch.inf
    total = 0.0
    for b in range(4):
        errors = [
            float((top[b, r] - random[b, j])
                  - (teacher_top[b, r] - teacher_random[b, j]))**2
            for r in range(3) for j in range(5)
            if math.isfinite(teacher_top[b, r] - teacher_random[b, j])]
        assert len(errors) == (15, 10, 0, 12)[b]
        total += sum(errors) / max(len(errors), 1)
    out = F.margin_distillation_loss(top, random, teacher_top, teacher_random)
    assert float(out) == pytest.approx(total / 4)
    shift = torch.tensor([[3.0], [-50.0], [2.0], [1.0]])
    shifted = F.margin_distillation_loss(top + shift, random + shift,
                                         teacher_top, teacher_random)
    assert float(shifted) == pytest.approx(float(out))


def test_score_distillation_loss():
    scores, _, teacher, _ = four_scores()
    total = 0.0
    for b in range(4):
        errors = [float(s - t)**2 for s, t in zip(scores[b], teacher[b])
                  if math.isfinite(t)]
        total += sum(errors) / max(len(errors), 1)
    out = F.score_distillation_loss(scores, teacher)
    assert float(out) == pytest.approx(total / 4)


PAIR_LOSSES = [F.ranking_distillation_loss, F.margin_distillation_loss,
               lambda top, random, a, b: F.score_distillation_loss(
                   torch.cat([top, random], 1), torch.cat([a, b], 1))]


@pytest.mark.parametrize("loss", PAIR_LOSSES)
def test_gradients_of_pairs(loss):
    top, random, *teacher = four_scores()
    assert torch.autograd.gradcheck(
        lambda *x: loss(*x, *teacher),
        (top.requires_grad_(), random.requires_grad_()))
    loss(top, random, *teacher).backward()
    assert float(top.grad[2].abs().sum()) == 0  # has no first items
    assert float(top.grad[1, 2]) == 0
    assert float(top.grad[[0, 1, 3]].abs().sum()) > 0


@pytest.mark.parametrize("loss", PAIR_LOSSES)
def test_pairs_of_no_users_and_of_huge_scores(loss):
    none = torch.zeros(0, 3)
    assert float(loss(none, none, none, none)) == 0
    huge = torch.full((1, 2), 1e4)
    assert math.isfinite(float(loss(-huge, huge, huge, -huge)))
    assert float(loss(huge, -huge, huge, -huge)) == 0


@pytest.mark.parametrize("loss", PAIR_LOSSES)
def test_pairs_are_float32_in_half_precision(loss):
    scores = four_scores(torch.bfloat16)
    out = loss(*scores)
    assert out.dtype == torch.float32
    assert torch.equal(out, loss(*(s.float() for s in scores)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(out, loss(*scores))


def test_a_student_that_ranks_as_its_teacher_costs_least():
    # The best scores are the teacher's, or, of ranking, those in its order.
    top, random, teacher_top, teacher_random = four_scores()
    for loss in PAIR_LOSSES[1:]:
        clean = teacher_top.masked_fill(teacher_top == -torch.inf, 0.0)
        assert float(loss(clean, teacher_random, teacher_top,
                          teacher_random)) == 0
    there = teacher_top[[0, 3]], teacher_random[[0, 3]]
    right = float(F.ranking_distillation_loss(*there, *there))
    wrong = float(F.ranking_distillation_loss(*(-x for x in there), *there))
    assert right < wrong


@pytest.mark.parametrize("chunk_scores", [1, 20, 2**22])
def test_excluded_items_are_in_no_ranking(chunk_scores):
    g = torch.Generator().manual_seed(3)
    tables = [torch.randn(n, 4, dtype=torch.float64, generator=g)
              for n in (5, 7, 5, 7)]
    out = torch.rand(5, 7, generator=g) < 0.4
    out[1] = False
    users, items = (x.clone().requires_grad_() for x in tables[:2])
    loss = F.distillation_loss(users, items, *tables[2:], 0.5, chunk_scores,
                               excluded=out.nonzero().t())
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
