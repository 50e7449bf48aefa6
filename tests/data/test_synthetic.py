from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from pyg_nodequant.data import DataError, synthetic_interactions
from pyg_nodequant.data.synthetic import _share


@pytest.mark.parametrize("users, items, edges", [
    (1, 1, 1), (1, 9, 9), (9, 1, 9), (5, 7, 7), (5, 7, 35), (5, 7, 34),
    (20, 30, 30), (20, 30, 500), (40, 25, 600)])
def test_exact_number_and_nobody_left_out(users: int, items: int,
                                          edges: int) -> None:
    data = synthetic_interactions(users, items, edges, test_fraction=0,
                                  val_fraction=0)
    assert data.train.size(1) == edges  # distinct: the constructor checks
    assert int(data.degree().min()) >= 1
    assert data.counts["duplicates_removed"] == 0


def test_seeds() -> None:
    def graph(**seeds: int) -> torch.Tensor:
        data = synthetic_interactions(30, 40, 300, **seeds)
        edges = torch.cat([data.train, data.val, data.test], 1)
        return edges[:, np.lexsort(edges.numpy()[::-1])]

    assert torch.equal(graph(), graph())
    assert torch.equal(graph(), graph(split_seed=1))
    assert not torch.equal(graph(), graph(data_seed=1))
    a = synthetic_interactions(30, 40, 300)
    b = synthetic_interactions(30, 40, 300, split_seed=1)
    assert not torch.equal(a.test, b.test)


def test_same_bytes_on_every_machine() -> None:
    data = synthetic_interactions()
    digest = hashlib.sha256(data.train.numpy().astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "e474d1bbc01f8140"


def test_default_shape() -> None:
    data = synthetic_interactions()
    assert data.train.size(1) == 28_800
    assert data.val.size(1) == 3_200 and data.test.size(1) == 8_000
    degree = data.degree().numpy()
    for part in (degree[:1000], degree[1000:]):  # heavy tails
        assert part.max() > 8 * np.median(part)
    assert data.item_titles is not None
    assert data.item_titles[7].startswith("Item 7 (community ")


def test_communities_say_more_than_popularity() -> None:
    # Recall@20 of the popular items against those of a user's community.
    data = synthetic_interactions()
    assert data.item_titles is not None
    group = np.array([int(title.split()[-1][:-1])
                      for title in data.item_titles])
    popularity = data.degree()[1000:].numpy().astype(float)
    (indptr, seen), (test_ptr, test) = data.csr("train", "val"), data.csr(
        "test")
    recall = {"popular": [], "community": []}
    for user in range(data.num_users):
        mine, wanted = (part[1][part[0][user]:part[0][user + 1]]
                        for part in ((indptr, seen), (test_ptr, test)))
        if not wanted.size:
            continue
        share = np.bincount(group[mine], minlength=group.max() + 1)
        for name, score in (("popular", popularity.copy()),
                            ("community", popularity * share[group])):
            score[mine] = -1
            top = np.argsort(-score, kind="stable")[:20]
            recall[name].append(np.isin(wanted, top).mean())
    assert np.mean(recall["community"]) > 2.5 * np.mean(recall["popular"])


@pytest.mark.parametrize("edges", [6, 36])
def test_impossible_number(edges: int) -> None:
    with pytest.raises(DataError,
                       match=rf"num_interactions.*\[7, 35\].*got {edges}"):
        synthetic_interactions(5, 7, edges)


def test_data_seed_is_named() -> None:
    for seed in (-1, 2**64):
        with pytest.raises(DataError, match=f"'data.data_seed' .*got {seed}"):
            synthetic_interactions(5, 7, 20, data_seed=seed)


def test_no_split_by_time() -> None:
    with pytest.raises(DataError, match="'data.split' = time"):
        synthetic_interactions(5, 7, 20, split="time")


@pytest.mark.parametrize("total", [0, 1, 17, 99, 100])
def test_share(total: int) -> None:
    weights = np.array([1.0, 2.0, 50.0, 1.5])
    room = np.array([40, 20, 10, 30])
    shares = _share(total, weights, room)
    assert shares.sum() == total
    assert (shares <= room).all() and (shares >= 0).all()
