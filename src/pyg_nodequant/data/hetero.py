"""To and from :class:`torch_geometric.data.HeteroData`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np
import torch
from torch import Tensor

from pyg_nodequant.data.assemble import Edges, assemble, edge_arrays
from pyg_nodequant.data.errors import DataError
from pyg_nodequant.data.interactions import Interactions

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

EdgeType = tuple[str, str, str]

# Which attributes of an edge store hold which split, in order of preference.
_PARTS = {
    "train": ("train_pos_edge_index", "edge_index"),
    "val": ("val_edge_label_index", "val_pos_edge_index"),
    "test": ("edge_label_index", "test_pos_edge_index"),
}


def to_hetero(interactions: Interactions) -> HeteroData:
    r"""Returns the interactions as PyG data.

    Node types :obj:`"user"` and :obj:`"item"` carry :obj:`num_nodes` and
    :obj:`original_id` (items :obj:`title` too, where there are titles); the
    edge type :obj:`("user", "rates", "item")` holds the training edges as
    :obj:`edge_index`, the test edges as :obj:`edge_label_index` and the
    validation edges as :obj:`val_edge_label_index`; its reverse
    :obj:`("item", "rated_by", "user")` holds :obj:`edge_index`.

    Example:
        >>> data = Interactions.from_edges(torch.tensor([[0, 1], [1, 0]]),
        ...                                val_fraction=0.0)
        >>> to_hetero(data)["user", "rates", "item"].edge_index.tolist()
        [[0, 1], [1, 0]]
    """
    from torch_geometric.data import HeteroData

    data = HeteroData()
    data.name = interactions.name
    data.counts = dict(interactions.counts)
    for kind, count, ids in (
        ("user", interactions.num_users, interactions.user_ids),
        ("item", interactions.num_items, interactions.item_ids),
    ):
        data[kind].num_nodes = count
        data[kind].original_id = (torch.from_numpy(ids.copy())
                                  if ids.dtype == np.int64 else ids.tolist())
    if interactions.item_titles is not None:
        data["item"].title = list(interactions.item_titles)
    rates = data["user", "rates", "item"]
    rates.edge_index = interactions.train
    rates.edge_label_index = interactions.test
    rates.val_edge_label_index = interactions.val
    data["item", "rated_by",
         "user"].edge_index = interactions.train.flip(0)
    return data


def from_hetero(
    data: HeteroData,
    edge_type: Union[str, EdgeType, None] = None,
    *,
    test_fraction: float = 0.2,
    val_fraction: float = 0.1,
    split_seed: int = 0,
) -> Interactions:
    r"""Makes interactions from PyG data, PyG's own data sets included.

    Test edges are :obj:`edge_label_index` (where :obj:`edge_label` is above
    zero, if it is there), validation edges :obj:`val_edge_label_index`; the
    :obj:`*_pos_edge_index` of PyG's ``LastFM`` are understood too. What is
    absent is carved by :obj:`split_seed`. All nodes are kept, so feature rows
    still fit.

    Args:
        data (HeteroData): The graph.
        edge_type (str or tuple, optional): The bipartite edge type, or its
            relation; may be left out where there is only one (its reverse
            does not count).
        test_fraction (float): Share of the edges held out for testing.
        val_fraction (float): Share of the rest held out for validation.
        split_seed (int): Seed of what is carved.

    Raises:
        DataError: If the edge type is absent, ambiguous or has no edges.

    Example:
        >>> from torch_geometric.data import HeteroData
        >>> data = HeteroData()
        >>> data["user"].num_nodes, data["book"].num_nodes = 2, 3
        >>> data["user", "rates", "book"].edge_index = torch.tensor(
        ...     [[0, 0, 1, 1], [0, 1, 1, 2]])
        >>> result = from_hetero(data, test_fraction=0.25, val_fraction=0.0)
        >>> result.name, result.train.shape, result.test.shape
        ('user-rates-book', torch.Size([2, 3]), torch.Size([2, 1]))
    """
    source, relation, target = _choose(data, edge_type)
    store = data[source, relation, target]
    parts: dict[str, Edges] = {}
    for part, names in _PARTS.items():
        name = next((name for name in names if name in store), None)
        if name is not None:
            users, items = edge_arrays(store[name], name)
            if name == "edge_label_index" and "edge_label" in store:
                positive = _positive(store.edge_label, users.size)
                users, items = users[positive], items[positive]
            parts[part] = users, items
    if "train" not in parts:
        raise DataError(f"the edge type ({source}, {relation}, {target}) "
                        f"needs an 'edge_index'")
    sizes = {}
    for kind in (source, target):
        sizes[kind] = data[kind].num_nodes
        if sizes[kind] is None:
            raise DataError(f"the node type '{kind}' needs 'num_nodes'")
    name, counts = data.get("name"), data.get("counts")
    titles = data[target].get("title")
    result = assemble(
        parts,
        _ids(data[source], sizes[source]),
        _ids(data[target], sizes[target]),
        item_titles=titles if isinstance(titles, list) else None,
        test_fraction=test_fraction,
        val_fraction=val_fraction,
        split_seed=split_seed,
        name=(name if isinstance(name, str)
              else f"{source}-{relation}-{target}"),
    )
    # What reading once did stays known; who has no edges is known anew.
    if isinstance(counts, dict):
        fresh = ("users_without_train", "items_without_train")
        result.counts.update({key: value for key, value in counts.items()
                              if key not in fresh})
    return result


def _choose(data: HeteroData,
            edge_type: Union[str, EdgeType, None]) -> EdgeType:
    all_types: list[EdgeType] = list(data.edge_types)
    listed = ", ".join(f"({', '.join(kind)})" for kind in all_types) or "none"
    if edge_type is not None:
        chosen = [kind for kind in all_types
                  if edge_type in (kind, kind[1]) and kind[0] != kind[2]]
    else:
        chosen = []
        for kind in all_types:
            pairs = [(other[2], other[0]) for other in chosen]
            if kind[0] != kind[2] and (kind[0], kind[2]) not in pairs:
                chosen.append(kind)
    if len(chosen) != 1:
        raise DataError(f"'edge_type' needs to name one edge type between two "
                        f"different node types of the data, which has: "
                        f"{listed} (got {edge_type})")
    return chosen[0]


def _positive(labels: Tensor, size: int) -> np.ndarray:
    if labels.shape != (size, ):
        raise DataError(f"'edge_label' needs to hold one label for each of "
                        f"the {size} edges of 'edge_label_index' (got shape "
                        f"{list(labels.shape)})")
    positive: np.ndarray = (labels > 0).cpu().numpy()
    return positive


def _ids(store: Any, count: int) -> np.ndarray:
    ids: Optional[Any] = store.get("original_id")
    if ids is None:
        return np.arange(count)
    if isinstance(ids, Tensor):
        numbers: np.ndarray = ids.cpu().numpy()
        return numbers
    return np.array(ids, dtype=object)
