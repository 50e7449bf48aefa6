import math

import pytest
import torch

from pyg_nodequant import functional as F
from pyg_nodequant.functional import ScoreDistortion, score_distortion


def table(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.double)


def noisy(x, seed, size=0.1):
    return x + size * table(*x.shape, seed=seed)


def slow_kl(users, items, new_users, new_items, temperature):
    total = 0.0
    for u in range(len(users)):
        p = torch.softmax(items @ users[u] / temperature, 0)
        q = torch.softmax(new_items @ new_users[u] / temperature, 0)
        total += sum(float(a) * math.log(float(a) / float(b))
                     for a, b in zip(p, q))
    return temperature**2 * total / len(users)


@pytest.mark.parametrize("chunk_scores", [2**22, 20, 1])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_score_distortion(temperature, chunk_scores):
    users, items = table(5, 3), table(7, 3, seed=1)
    new = noisy(users, 2), noisy(items, 3)
    out = score_distortion(users, items, *new, 30.0, temperature,
                           chunk_scores=chunk_scores)
    assert isinstance(out, ScoreDistortion)
    assert all(type(value) is float for value in out)
    assert out.kl == pytest.approx(
        slow_kl(users, items, *new, temperature))
    assert out.quadratic == pytest.approx(
        F.quadratic_distortion(users, items, *new, temperature))
    assert out.bound == pytest.approx(
        F.distortion_bound(users, items, 30.0, temperature))


@pytest.mark.parametrize("chunk_scores", [2**22, 1])
def test_what_does_not_count(chunk_scores):
    users, items = table(5, 3), table(7, 3, seed=1)
    new = noisy(users, 2), noisy(items, 3)
    pairs = torch.tensor([[0, 0, 3, 4], [1, 6, 2, 0]])
    out = score_distortion(users, items, *new, 30.0, 0.5, excluded=pairs,
                           chunk_scores=chunk_scores)
    total = 0.0
    for u in range(5):
        keep = [i for i in range(7) if [u, i] not in pairs.t().tolist()]
        total += slow_kl(users[u:u + 1], items[keep], new[0][u:u + 1],
                         new[1][keep], 0.5)
    assert out.kl == pytest.approx(total / 5)
    whole = score_distortion(users, items, *new, 30.0, 0.5)
    assert out.quadratic != whole.quadratic and out.bound != whole.bound
    # As if those items were far away, whatever is served of them:
    far = torch.cat([items, torch.zeros(1, 3)])
    near = torch.cat([new[1], 100 * torch.ones(1, 3)])
    every = torch.stack([torch.arange(5), torch.full((5, ), 7)])
    out = score_distortion(users, far, new[0], near, 30.0, 0.5,
                           excluded=every)
    assert out.kl == pytest.approx(whole.kl)


def test_nothing_lost():
    users, items = table(5, 3).float(), table(7, 3, seed=1).float()
    out = score_distortion(users, items, users, items, 9.0)
    assert 0 <= out.kl < 1e-6 and out.quadratic == 0 and out.bound > 0


def test_a_sample_stands_for_all_users():
    # All users twice, and a "sample" that is each of them once.
    users, items = table(6, 3), table(8, 3, seed=1)
    new = noisy(users, 2), noisy(items, 3)
    whole = score_distortion(torch.cat([users, users]), items,
                             torch.cat([new[0], new[0]]), new[1], 60.0)
    half = score_distortion(users, items, *new, 60.0, num_users=12)
    assert half == pytest.approx(whole)
    assert half.bound != pytest.approx(
        score_distortion(users, items, *new, 60.0).bound)


def test_a_random_sample_comes_near():
    users, items = table(3000, 4), table(30, 4, seed=1)
    new = noisy(users, 2), noisy(items, 3)
    whole = score_distortion(users, items, *new, 12000.0)
    part = score_distortion(users[:600], items, new[0][:600], new[1],
                            12000.0, num_users=3000)
    assert part == pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize("change, match", [
    ({"quantized_users": table(5, 2)}, "'quantized_users' needs to have the"),
    ({"quantized_items": table(6, 3)}, "'quantized_items' needs to have the"),
    ({"num_users": 4}, r"'num_users' needs to be at least 5, .*\(got 4\)"),
    ({"rate": -1.0}, "'rate' needs to be finite"),
])
def test_wrong_arguments(change, match):
    users, items = table(5, 3), table(7, 3, seed=1)
    arguments = {"users": users, "items": items, "quantized_users": users,
                 "quantized_items": items, "rate": 3.0, **change}
    with pytest.raises(ValueError, match=match):
        score_distortion(**arguments)
