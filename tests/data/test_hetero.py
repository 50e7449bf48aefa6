from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch_geometric.transforms as T
from torch_geometric.data import HeteroData
from torch_geometric.utils import coalesce

from pyg_nodequant.data import (
    DataError,
    Interactions,
    from_hetero,
    synthetic_interactions,
    to_hetero,
)


def assert_equal(a: Interactions, b: Interactions) -> None:
    assert (a.num_users, a.num_items, a.name) == (b.num_users, b.num_items,
                                                  b.name)
    for split in ("train", "val", "test"):
        assert torch.equal(a.edges(split), b.edges(split))
    for one, two in ((a.user_ids, b.user_ids), (a.item_ids, b.item_ids)):
        assert one.dtype == two.dtype and one.tolist() == two.tolist()
    assert a.item_titles == b.item_titles
    assert a.counts == b.counts


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("text", [False, True])
def test_round_trip(blind: bool, text: bool) -> None:
    data = synthetic_interactions(15, 25, 150)
    if text:
        edges = data.train
        data = Interactions.from_edges(
            edges, num_users=15, num_items=25,
            user_ids=np.array([f"u{i}" for i in range(15)], dtype=object))
    data = data.without_test() if blind else data
    assert_equal(Interactions.from_hetero(data.to_hetero()), data)


def test_is_ordinary_pyg_data() -> None:
    interactions = synthetic_interactions(15, 25, 150)
    data = to_hetero(interactions)
    assert data.validate()
    assert data["user"].num_nodes == 15 and data["item"].num_nodes == 25
    graph = data.to_homogeneous()
    assert graph.num_nodes == 40
    assert torch.equal(coalesce(graph.edge_index), interactions.edge_index())
    assert data["item", "rated_by", "user"].edge_index.size(
        1) == interactions.train.size(1)
    assert T.ToUndirected()(data.clone()).num_nodes == 40
    assert "rates" in repr(data)


def book_like(**store: Any) -> HeteroData:
    """What PyG's AmazonBook looks like."""
    data = HeteroData()
    data["user"].num_nodes, data["book"].num_nodes = 6, 8
    edges = torch.tensor([[0, 0, 1, 2, 3, 4, 5, 1, 2, 3],
                          [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]])
    data["user", "rates", "book"].edge_index = edges
    data["book", "rated_by", "user"].edge_index = edges.flip(0)
    for key, value in store.items():
        data["user", "rates", "book"][key] = value
    return data


def test_foreign_data_with_a_test_split() -> None:
    data = book_like(edge_label_index=torch.tensor([[0, 5], [7, 0]]))
    result = from_hetero(data)
    assert result.num_users == 6 and result.num_items == 8
    assert result.test.tolist() == [[0, 5], [7, 0]]
    assert result.val.size(1) == 1 and result.train.size(1) == 9
    assert result.user_ids.tolist() == list(range(6))
    assert result.name == "user-rates-book"


def test_negative_labels_are_no_test_edges() -> None:
    data = book_like(edge_label_index=torch.tensor([[0, 5], [7, 0]]),
                     edge_label=torch.tensor([1.0, 0.0]))
    assert from_hetero(data).test.tolist() == [[0], [7]]


def test_without_a_test_split_one_is_carved() -> None:
    a, b = from_hetero(book_like()), from_hetero(book_like(), split_seed=5)
    assert a.test.size(1) == 2 and a.val.size(1) == 1
    assert a.test.tolist() != b.test.tolist()


@pytest.mark.parametrize("edge_type", [("user", "to", "artist"), "to"])
def test_several_edge_types_and_pos_edge_index(edge_type: Any) -> None:
    data = HeteroData()
    for kind, count in (("user", 3), ("artist", 4), ("tag", 2)):
        data[kind].num_nodes = count
    edges = torch.tensor([[0, 1, 2], [0, 1, 2]])
    store = data["user", "to", "artist"]
    store.edge_index = edges
    store.train_pos_edge_index = edges[:, :1]
    store.val_pos_edge_index = edges[:, 1:2]
    store.test_pos_edge_index = edges[:, 2:]
    data["user", "knows", "user"].edge_index = edges[:, :1]
    data["artist", "has", "tag"].edge_index = edges[:, :1]
    result = from_hetero(data, edge_type)
    assert result.train.tolist() == [[0], [0]]
    assert result.val.tolist() == [[1], [1]]
    assert result.test.tolist() == [[2], [2]]
    with pytest.raises(DataError, match="user, to, artist.*got None"):
        from_hetero(data)


def test_errors() -> None:
    with pytest.raises(DataError, match="which has: none"):
        from_hetero(HeteroData())
    with pytest.raises(DataError, match="got likes"):
        from_hetero(book_like(), "likes")
    with pytest.raises(DataError, match="'edge_label_index' needs to be an"):
        from_hetero(book_like(edge_label_index=torch.rand(2, 3)))
    with pytest.raises(DataError, match="'edge_label_index' needs to be an"):
        from_hetero(book_like(edge_label_index=torch.zeros(3).long()))
    with pytest.raises(DataError, match="'edge_label' .* 3 edges .*got shape"):
        from_hetero(book_like(edge_label_index=torch.zeros(2, 3).long(),
                              edge_label=torch.ones(2)))
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = 2, 2
    data["user", "rates", "item"].weight = torch.ones(2)
    with pytest.raises(DataError, match="needs an 'edge_index'"):
        from_hetero(data)
    data["user", "rates", "item"].edge_index = torch.tensor([[0, 1], [5, 0]])
    with pytest.raises(DataError, match="item rows of 'train'"):
        from_hetero(data)


def test_foreign_attributes_are_left_alone() -> None:
    data = book_like()
    data.counts = torch.ones(2)
    data.name = 3
    data["book"].title = torch.ones(8)
    result = from_hetero(data)
    assert result.item_titles is None and result.name == "user-rates-book"
