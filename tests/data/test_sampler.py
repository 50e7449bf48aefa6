from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pyg_nodequant.data import (
    BPRSampler,
    DataError,
    load_named,
    sampler,
    synthetic_interactions,
)

Batch = tuple[Tensor, Tensor, Tensor]


def small() -> tuple[Tensor, int, int]:
    data = synthetic_interactions(20, 40, 150, test_fraction=0,
                                  val_fraction=0)
    assert int(data.degree()[:20].max()) < 40
    return data.train, 20, 40


def joined(batches: list[Batch]) -> Tensor:
    return torch.cat([torch.stack(batch) for batch in batches], dim=1)


@pytest.mark.parametrize("batch_size", [1, 7, 30, 1000])
def test_every_edge_once_and_negatives_true(batch_size: int) -> None:
    edges, num_users, num_items = small()
    train = {(int(u), int(i)) for u, i in edges.t()}
    sampler = BPRSampler(edges, num_users, num_items, batch_size)
    for epoch in range(3):
        batches = list(sampler.epoch(epoch))
        assert len(batches) == sampler.steps_per_epoch
        assert all(len(user) == batch_size for user, _, _ in batches[:-1])
        user, positive, negative = joined(batches).tolist()
        assert sorted(zip(user, positive)) == sorted(train)
        assert not train & set(zip(user, negative))
        assert all(0 <= item < num_items for item in negative)


def test_batches_depend_on_seed_epoch_and_step_only() -> None:
    edges, *sizes = small()
    first = BPRSampler(edges, *sizes, batch_size=8, seed=3)
    list(first.epoch(0))
    batches = list(first.epoch(4))
    shuffled = edges[:, torch.randperm(edges.size(1))]
    again = BPRSampler(shuffled, *sizes, batch_size=8, seed=3)
    for start in (0, 5, len(batches)):
        rest = list(again.epoch(4, start_step=start))
        assert len(rest) == len(batches) - start
        for one, two in zip(batches[start:], rest):
            assert torch.equal(torch.stack(one), torch.stack(two))
    other_epoch = joined(list(first.epoch(5)))
    other_seed = joined(list(BPRSampler(edges, *sizes, 8, seed=4).epoch(4)))
    for other in (other_epoch, other_seed):
        assert not torch.equal(other[:2], joined(batches)[:2])
        assert not torch.equal(other[2], joined(batches)[2])


def test_negatives_are_uniform() -> None:
    # One user with 4 of 12 items: 8 unseen items, equally likely.
    edges = torch.tensor([[0, 0, 0, 0], [0, 3, 4, 11]])
    draws = BPRSampler(edges, 1, 12, batch_size=4, seed=1)
    counts = torch.zeros(12)
    for epoch in range(2000):
        for _, _, negative in draws.epoch(epoch):
            counts += torch.bincount(negative, minlength=12)
    assert counts[[0, 3, 4, 11]].sum() == 0
    unseen = counts[[1, 2, 5, 6, 7, 8, 9, 10]]
    expected = 2000 * 4 / 8
    assert float(((unseen - expected)**2 / expected).sum()) < 24.3  # chi2(7)


def test_order_is_uniform() -> None:
    # Where edge 0 of 4 comes, over many epochs.
    order = np.empty(4, dtype=np.int32)
    counts = np.zeros((4, 4))
    for key in range(4000):
        sampler._shuffle(sampler.stream_key(0, key), order)
        counts[order, np.arange(4)] += 1
    assert float(((counts - 1000)**2 / 1000).sum()) < 33.7  # chi2(12 > 9)


def test_full_users_are_skipped() -> None:
    edges = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 2, 0, 2]])
    draws = BPRSampler(edges, 3, 3, batch_size=10)
    assert draws.num_skipped == 3 and draws.num_edges == 2
    (user, positive, negative), = draws.epoch(0)
    assert user.tolist() == [1, 1]
    assert sorted(positive.tolist()) == [0, 2]
    assert negative.tolist() == [1, 1]
    with pytest.raises(DataError, match="no training edge has a negative"):
        BPRSampler(edges[:, :3], 1, 3, batch_size=1)


def test_kernels_in_python() -> None:
    edges, num_users, num_items = small()
    draws = BPRSampler(edges, num_users, num_items, batch_size=100, seed=2)
    key = sampler.stream_key(2, 0, 1)
    slow = np.empty(edges.size(1), dtype=np.int32)
    fast = slow.copy()
    with np.errstate(over="ignore"):
        sampler._shuffle.py_func(key, slow)
        sampler._shuffle(key, fast)
        assert slow.tolist() == fast.tolist()
        batch = np.empty((3, 60), dtype=np.int64)
        sampler._fill_batch.py_func(
            sampler.stream_key(2, 1, 1), 0, slow, draws._users, draws._items,
            draws._indptr, num_items, *batch)
    want = torch.stack(next(draws.epoch(1)))[:, :60]
    assert batch.tolist() == want.tolist()


def test_negative_is_the_unseen_item_of_its_rank() -> None:
    edges, num_users, num_items = small()
    draws = BPRSampler(edges, num_users, num_items, batch_size=200)
    user, _, negative = next(draws.epoch(0))
    key = sampler.stream_key(0, 1, 0)
    for place in range(len(user)):
        seen = set(edges[1, edges[0] == user[place]].tolist())
        unseen = [item for item in range(num_items) if item not in seen]
        rank = sampler.draw_below(key, place, len(unseen))
        assert unseen[rank] == negative[place]


@pytest.mark.parametrize("edges, options, message", [
    ([[0], [0]], {"batch_size": 0}, "'batch_size' .*at least 1 .got 0"),
    ([[0], [0]], {"seed": -1}, "'seed'"),
    ([[0], [5]], {}, r"item rows of 'edges' .*\[0, 4\] .got 5 to 5"),
    ([[4], [0]], {}, "user rows of 'edges'"),
    ([[0, 1, 0], [0, 0, 0]], {}, "each edge once"),
    ([[], []], {}, "of 0 edges"),
])
def test_errors(edges: list, options: dict, message: str) -> None:
    arguments = {"batch_size": 4, "seed": 0, **options}
    with pytest.raises(ValueError, match=message):
        BPRSampler(torch.tensor(edges, dtype=torch.long), 4, 5, **arguments)


def test_bad_epoch_and_step_are_told_at_once() -> None:
    draws = BPRSampler(torch.tensor([[0], [0]]), 1, 2, batch_size=4)
    with pytest.raises(ValueError, match="'epoch' .*got -1"):
        draws.epoch(-1)
    with pytest.raises(ValueError, match=r"'start_step' .*\[0, 1\] .got 2"):
        draws.epoch(0, start_step=2)


def test_gowalla_epoch(real_data) -> None:
    data = load_named("gowalla", real_data, val_fraction=0.0)
    draws = BPRSampler(data.train, data.num_users, data.num_items, 8192)
    seen = 0
    indptr, indices = data.csr("train")
    keys = np.repeat(np.arange(data.num_users),
                     np.diff(indptr)) * data.num_items + indices
    for user, _, negative in draws.epoch(0):
        seen += len(user)
        drawn = (user * data.num_items + negative).numpy()
        place = np.searchsorted(keys, drawn).clip(max=keys.size - 1)
        assert not (keys[place] == drawn).any()
    assert seen == 810_128
