from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.utils import coalesce, to_undirected

from pyg_nodequant.data import DataError, Interactions


def random_interactions(seed: int = 0) -> Interactions:
    generator = torch.Generator().manual_seed(seed)
    edges = torch.stack([torch.randint(0, 12, (90, ), generator=generator),
                         torch.randint(0, 17, (90, ), generator=generator)])
    return Interactions.from_edges(edges, num_users=13, num_items=18,
                                   test_fraction=0.2)


def pairs(edges: torch.Tensor) -> set[tuple[int, int]]:
    return {(int(u), int(i)) for u, i in edges.t()}


def test_parts_are_disjoint_and_complete() -> None:
    data = random_interactions()
    parts = [pairs(data.edges(s)) for s in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert data.counts["duplicates_removed"] == 90 - len(set.union(*parts))
    assert data.num_nodes == 31


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_edge_index(split: str) -> None:
    data = random_interactions()
    users, items = data.edges(split)
    want = coalesce(to_undirected(torch.stack([users, items + 13])))
    assert torch.equal(data.edge_index(split), want)


def test_degree() -> None:
    data = random_interactions()
    want = [0] * data.num_nodes
    for user, item in pairs(data.train):
        want[user] += 1
        want[13 + item] += 1
    assert data.degree().tolist() == want
    assert data.degree().dtype == torch.long


@pytest.mark.parametrize("splits", [(), ("train", ), ("test", "train"),
                                    ("train", "val", "test"),
                                    ("val", "val")])
def test_csr(splits: tuple[str, ...]) -> None:
    data = random_interactions()
    want: list[list[int]] = [[] for _ in range(13)]
    for split in set(splits) or {"train"}:
        for user, item in pairs(data.edges(split)):
            want[user].append(item)
    indptr, indices = data.csr(*splits)
    assert indptr.dtype == np.int64 and indices.dtype == np.int32
    rows = [indices[indptr[u]:indptr[u + 1]].tolist() for u in range(13)]
    assert rows == [sorted(row) for row in want]


def test_without_test() -> None:
    data = random_interactions()
    blind = data.without_test()
    assert blind.test.shape == (2, 0) and data.test.size(1) > 0
    assert torch.equal(blind.train, data.train)
    assert torch.equal(blind.val, data.val)
    assert blind.csr("test")[1].size == 0


def test_is_frozen_and_says_what_it_is() -> None:
    data = random_interactions()
    with pytest.raises(FrozenInstanceError):
        data.name = "other"  # type: ignore[misc]
    assert repr(data).startswith("Interactions('edges', 13 users, 18 items,")


def test_overlap_stays_in_the_first_of_train_val_test() -> None:
    both = torch.tensor([[0, 1], [0, 1]])
    data = Interactions.from_edges(
        both[:, :1], val=both, test=torch.cat([both, both[:, 1:]], 1),
        num_items=3)
    assert data.train.tolist() == [[0], [0]]
    assert data.val.tolist() == [[1], [1]]
    assert data.test.tolist() == [[], []]
    assert data.counts["overlap_removed"] == 3
    assert data.counts["duplicates_removed"] == 1
    assert data.counts["users_without_train"] == 1
    assert data.counts["items_without_train"] == 2


def fields(**changes: Any) -> dict[str, Any]:
    empty = torch.empty((2, 0), dtype=torch.long)
    return {"num_users": 2, "num_items": 2,
            "train": torch.tensor([[0, 1], [1, 0]]), "val": empty,
            "test": empty, "user_ids": np.arange(2),
            "item_ids": np.arange(2), **changes}


@pytest.mark.parametrize("changes, message", [
    ({"user_ids": np.arange(3)}, "one id for each of the 2 users .got 3"),
    ({"item_titles": ["x"]}, "one title for each of the 2 items .got 1"),
    ({"train": torch.tensor([[0.0], [0.0]])}, "int64 tensor of shape"),
    ({"train": torch.tensor([0, 1])}, "int64 tensor of shape"),
    ({"train": torch.tensor([[0], [2]])}, r"item rows of 'train'.*\[0, 1\]"),
    ({"train": torch.tensor([[-1], [1]])}, r"user rows of 'train'"),
    ({"train": torch.tensor([[1, 0], [0, 0]])}, "sorted by"),
    ({"train": torch.tensor([[0, 0], [0, 0]])}, "without duplicates"),
    ({"test": torch.tensor([[1], [0]])}, "disjoint"),
    ({"user_ids": np.array([7, 7])}, "'user_ids' needs to hold different ids"),
    ({"item_ids": np.array(["a", "a"], dtype=object)}, "'item_ids' .*differ"),
    ({"user_ids": np.array([0.5, 1])}, "integers only or text only .got fl"),
    ({"user_ids": np.array(["a", 1], dtype=object)}, "only .got int, str"),
    ({"user_ids": ["a", "b"]}, "array of one dimension .got list"),
])
def test_constructor_checks(changes: dict[str, Any], message: str) -> None:
    Interactions(**fields())
    with pytest.raises(DataError, match=message):
        Interactions(**fields(**changes))


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match="one of train, val, test .got 'x'"):
        random_interactions().degree("x")


def test_no_edges() -> None:
    with pytest.raises(DataError, match="holds no interactions"):
        Interactions.from_edges(torch.empty((2, 0), dtype=torch.long))


@pytest.mark.parametrize("edges", [
    torch.tensor([0, 1, 2]), torch.tensor([[0, 1], [1, 2], [2, 3]]),
    torch.rand(2, 3), torch.ones(2, 3, dtype=torch.bool), [[0], [1]]])
def test_from_edges_of_another_form(edges: Any) -> None:
    with pytest.raises(DataError, match=r"'val' needs to be an integer .*E"):
        Interactions.from_edges(torch.tensor([[0], [0]]), edges)
