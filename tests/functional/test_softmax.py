import torch
from hypothesis import given
from hypothesis import strategies as st

from pyg_nodequant.functional import cosine_rows, softmax_loss


def test_cosine_rows_score_by_cosines():
    a, b = torch.randn(5, 7), torch.randn(4, 7)
    scores = cosine_rows(a, 0.3) @ cosine_rows(b, 0.3).t()
    expected = torch.nn.functional.cosine_similarity(
        a[:, None], b[None], dim=-1) / 0.3
    assert torch.allclose(scores, expected, atol=1e-5)


def test_a_row_of_zeros_stays_one():
    x = torch.zeros(2, 3, requires_grad=True)
    out = cosine_rows(x, 0.2)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(2, 3))
    assert bool(torch.isfinite(x.grad).all())


def reference(users, items, pairs, power, log_weight):
    """Users one by one."""
    total = weights = 0.0
    for u in range(users.size(0)):
        mine = pairs[1][pairs[0] == u]
        if mine.numel() == 0:
            continue
        scores = items @ users[u]
        all_scores = scores if log_weight is None else scores + log_weight
        weight = mine.numel()**power
        total = total + weight * (all_scores.logsumexp(0)
                                  - scores[mine].mean())
        weights += weight
    return total / weights


@given(seed=st.integers(0, 10**6), power=st.sampled_from([0.0, 0.5, 1.0]),
       chunk=st.integers(1, 60), weighted=st.booleans())
def test_softmax_loss_and_gradients(seed, power, chunk, weighted):
    g = torch.Generator().manual_seed(seed)
    users = torch.randn(6, 3, dtype=torch.float64, generator=g)
    items = torch.randn(9, 3, dtype=torch.float64, generator=g)
    chosen = torch.rand(6, 9, generator=g) < 0.3
    chosen[2] = False  # a user without items
    chosen[0, 0] = True
    pairs = chosen.nonzero().t()
    log_weight = torch.rand(9, dtype=torch.float64,
                            generator=g) if weighted else None
    results = []
    for loss in (softmax_loss, reference):
        a, b = users.clone().requires_grad_(), items.clone().requires_grad_()
        extra = (chunk, ) if loss is softmax_loss else ()
        value = loss(a, b, pairs, power, log_weight, *extra)
        value.backward()
        results.append((value, a.grad, b.grad))
    for ours, theirs in zip(*results):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_no_pairs_no_loss():
    users = torch.randn(2, 3, requires_grad=True)
    loss = softmax_loss(users, torch.randn(4, 3),
                        torch.zeros(2, 0, dtype=torch.long))
    loss.backward()
    assert float(loss) == 0 and not bool(users.grad.any())
