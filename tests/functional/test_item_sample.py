from __future__ import annotations

import math

import pytest
import torch

from pyg_nodequant import functional as F

LISTS = torch.tensor([[9, 4, 7], [9, 2, -1], [3, 4, -1]])


def draw(seed, num_items=50, count=8, lists=LISTS):
    generator = torch.Generator().manual_seed(seed)
    return F.sample_items(lists, num_items, count, generator)


@pytest.mark.parametrize("count, first", [
    (2, {9}), (4, {9, 3}), (6, {9, 3, 4}), (8, {9, 3, 4, 2}),
    (10, {9, 3, 4, 2, 7}), (30, {9, 3, 4, 2, 7})])
def test_who_is_in_the_sample(count, first):
    for seed in range(20):
        items, log_weight = draw(seed, count=count)
        assert items.tolist() == sorted(set(items.tolist()))
        assert len(items) == len(log_weight) == count
        assert 0 <= int(items.min()) and int(items.max()) < 50
        assert first <= set(items.tolist())
        # Others stand for all that are not among the first, evenly.
        share = math.log((50 - len(first)) / (count - len(first)))
        for item, weight in zip(items.tolist(), log_weight.tolist()):
            expected = 0.0 if item in first else share
            assert weight == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("count", [50, 51, 10**6])
def test_all_items(count):
    items, log_weight = draw(0, count=count)
    assert items.tolist() == list(range(50))
    assert log_weight.tolist() == [0.0] * 50


def test_users_without_lists():
    items, log_weight = draw(0, lists=torch.full((2, 3), -1))
    assert len(items.unique()) == 8
    assert log_weight.exp().sum().item() == pytest.approx(50)


def test_the_generator_alone_decides():
    torch.manual_seed(1)
    first = draw(3, 10**6, 100)
    torch.manual_seed(2)
    again, other = draw(3, 10**6, 100), draw(4, 10**6, 100)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("count", [8, 40])  # sparse and dense draws
def test_the_partition_function_is_unbiased(count):
    # 5 standard errors of a mean over 4,000 seeds, all fixed.
    scores = torch.randn(50, generator=torch.Generator().manual_seed(0),
                         dtype=torch.double)
    total = scores.exp().sum()
    found = []
    for seed in range(4000):
        items, log_weight = draw(seed, count=count)
        found.append((scores[items] + log_weight).exp().sum())
    sums = torch.stack(found)
    error = sums.std() / len(sums)**0.5
    assert float(error) < 0.02 * float(total)
    assert float((sums.mean() - total).abs()) < 5 * float(error)


def test_each_other_item_is_as_likely():
    counts = torch.zeros(50)
    for seed in range(4000):
        counts[draw(seed)[0]] += 1
    first = torch.tensor([2, 3, 4, 9])
    assert counts[first].tolist() == [4000.0] * 4
    counts[first] = 4000 * 4 / 46  # what the 46 others should have
    spread = (4000 * (4 / 46) * (42 / 46))**0.5
    assert float((counts - 4000 * 4 / 46).abs().max()) < 5 * spread


def test_a_large_catalogue_costs_no_more():
    # No tensor of ten to the twelve could be made.
    items, log_weight = draw(0, 10**12, 64)
    assert len(items.unique()) == 64 and int(items.max()) > 10**10
    assert log_weight.double().exp().sum().item() == pytest.approx(1e12,
                                                                   rel=1e-5)


def test_others_stand_for_all_of_them():
    g = torch.Generator().manual_seed(0)
    values = torch.rand(50, generator=g)
    first = torch.tensor([3, 7])
    found = []
    for _ in range(4000):
        ids, log_weight = F.with_others(first, 50, 10, g)
        assert {3, 7} <= set(ids.tolist()) and len(ids) == 12
        found.append(float((values[ids] * log_weight.exp()).sum()))
    error = torch.tensor(found).std() / math.sqrt(len(found))
    assert abs(sum(found) / len(found) - float(values.sum())) < 4 * error


@pytest.mark.parametrize("count", [48, 1000])
def test_others_that_are_all_taken(count):
    ids, log_weight = F.with_others(torch.tensor([3, 7]), 50, count,
                                    torch.Generator())
    assert torch.equal(ids, torch.arange(50))
    assert not bool(log_weight.any())
