import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pyg_nodequant import functional as F
from pyg_nodequant.data import synthetic_interactions
from pyg_nodequant.training import popularity
from pyg_nodequant.training.popularity import PopularityLift


@pytest.fixture(scope="module")
def data():
    return synthetic_interactions(60, 80, 1500)


@pytest.fixture(scope="module")
def tables(data):
    g = torch.Generator().manual_seed(0)
    users = torch.randn(60, 6, generator=g)
    items = torch.randn(80, 6, generator=g)
    degree = data.degree("train")[60:].clamp(min=1).float()
    # Scores that know taste and popularity.
    return (torch.cat([users, torch.ones(60, 1)], 1),
            torch.cat([items, degree.log().unsqueeze(1)], 1))


def slow_lift(users, items, data):
    degree = torch.bincount(data.train[1], minlength=80).clamp(min=1)
    shown = []
    for u in range(60):
        seen = data.train[1][data.train[0] == u].tolist()
        if not seen:
            continue
        order = (items @ users[u]).argsort(descending=True).tolist()
        shown += [i for i in order if i not in seen][:20]
    logs = [math.log(int(degree[i])) for i in shown]
    chosen = [math.log(int(degree[i])) for i in data.train[1]]
    return math.exp(np.mean(logs) - np.mean(chosen))


def test_the_lift_of_a_ranking(data, tables):
    lift = PopularityLift(data)(*tables)
    assert lift == pytest.approx(slow_lift(*tables, data))
    flat = tables[0][:, :6], tables[1][:, :6]
    assert PopularityLift(data)(*flat) < lift


def test_the_least_discount_that_is_enough(data, tables):
    lift = PopularityLift(data)
    degree = data.degree("train")[60:]
    start = lift(*tables)
    least = lift(*F.discount_popularity(*tables, degree, 1.0))
    for share in (0.9, 0.5, 0.1):
        target = least + share * (start - least)
        found = lift.discount(*tables, target)
        assert 0 < found < 1
        assert lift(*F.discount_popularity(*tables, degree, found)) <= target
        less = F.discount_popularity(*tables, degree, found - 1 / 256)
        assert lift(*less) > target
    assert lift.discount(*tables, start) == 0.0
    assert lift.discount(*tables, 1e-3) == 1.0  # nothing is enough


def test_the_lift_falls_with_the_discount(data, tables):
    lift, degree = PopularityLift(data), data.degree("train")[60:]
    lifts = [lift(*F.discount_popularity(*tables, degree, g))
             for g in np.linspace(0, 1, 21)]
    assert lifts == sorted(lifts, reverse=True)


def test_users_are_sampled(data, tables, monkeypatch):
    whole = PopularityLift(data)(*tables)
    monkeypatch.setattr(popularity, "_USERS", 40)
    part = PopularityLift(data, seed=1)
    assert part.users.size == 40
    assert part(*tables) == pytest.approx(whole, rel=0.1)
    assert part(*tables) == PopularityLift(data, seed=1)(*tables)
    assert part(*tables) != PopularityLift(data, seed=2)(*tables)


def test_nothing_left_to_show():
    data = synthetic_interactions(20, 10, 150)
    full = torch.cartesian_prod(torch.arange(20), torch.arange(10)).t()
    none = full[:, :0]
    data = replace(data, train=full.contiguous(), val=none, test=none)
    assert PopularityLift(data)(torch.ones(20, 2), torch.ones(10, 2)) == 1.0
