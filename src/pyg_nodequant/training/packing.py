r"""From a trained model to the file that is served."""

from __future__ import annotations

from typing import Any, Optional, Union

import torch
from torch import Tensor
from torch_geometric.nn import LGConv

from pyg_nodequant.data import Interactions
from pyg_nodequant.nn import (
    NodeAwareQuantizer,
    QuantLightGCN,
    TransformRows,
    stored_table,
)
from pyg_nodequant.runtime import (
    Catalogue,
    FloatTable,
    PackedGraph,
    PackedRecommender,
    PackedTable,
    RowClasses,
)


@torch.no_grad()
def pack_model(
    model: Union[QuantLightGCN, TransformRows],
    edge_index: Tensor,
    interactions: Interactions,
    metadata: Optional[dict[str, Any]] = None,
) -> PackedRecommender:
    r"""Packs what a model serves.

    :obj:`where="output"` and :obj:`"both"` pack the propagated rows,
    :obj:`"input"` the layer-0 rows together with the training graph, and a
    float model its propagated rows in float32. Users have seen their train
    and validation items.

    Args:
        model (QuantLightGCN or TransformRows): The trained model.
        edge_index (Tensor): The training graph, users before items.
        interactions (Interactions): The data it was trained on.
        metadata (dict, optional): Anything that JSON can hold.

    Raises:
        ValueError: If a row does not fit its stored precision, or if, for
            :obj:`where="input"`, opening the file would not propagate as the
            model does.
    """
    model = model.eval()
    graph = None
    users: PackedTable | FloatTable
    items: PackedTable | FloatTable
    if isinstance(model, TransformRows):
        users, items = pack_axes(model, 0), pack_axes(model, 1)
    elif not model.quantization_enabled:
        rows = model.get_embedding(edge_index).cpu().numpy()
        users = FloatTable(rows[:interactions.num_users])
        items = FloatTable(rows[interactions.num_users:])
    else:
        model.attach_graph(edge_index)
        if model.quant.where == "input":
            check_propagation(model)
            quantizer, x = model.embedding.quantizer, model.embedding.weight
            graph = pack_graph(edge_index, interactions.num_users,
                               interactions.num_items, model.num_layers)
        else:
            assert model.output_quantizer is not None
            quantizer, x = model.output_quantizer, model.embedding.weight
            if model.quant.where == "both":
                x = model.embedding.quantized_weight()
            x = model.propagate_embedding(x, edge_index)
        users, items = pack_rows(quantizer, x, interactions.num_users)
    catalogue = Catalogue(interactions.user_ids, interactions.item_ids,
                          interactions.item_titles,
                          interactions.csr("train", "val"))
    return PackedRecommender(users, items, graph=graph, catalogue=catalogue,
                             metadata=metadata or {})


def pack_graph(edge_index: Tensor, num_users: int, num_items: int,
               num_layers: int) -> PackedGraph:
    r"""The items of each user, from the graph that a model propagates over:
    each edge once in both directions, users before items, in any order.

    Raises:
        ValueError: If the edges are not such a graph.
    """
    source, target = edge_index.cpu()
    num_nodes = num_users + num_items
    forward, back = source < num_users, target < num_users
    keys = (source * num_nodes + target)[forward].sort().values
    mirrored = (target * num_nodes + source)[back].sort().values
    if bool((forward == back).any()) or not torch.equal(keys, mirrored):
        raise ValueError(f"'edge_index' needs to join users, nodes below "
                         f"{num_users}, and items in both directions to be "
                         f"packed (got edges without their opposites, or "
                         f"between nodes of one kind)")
    users, nodes = keys // num_nodes, keys % num_nodes
    indptr = torch.zeros(num_users + 1, dtype=torch.long)
    torch.cumsum(torch.bincount(users, minlength=num_users), 0,
                 out=indptr[1:])
    return PackedGraph(indptr.numpy(), (nodes - num_users).numpy(), num_items,
                       num_layers)


def check_propagation(model: QuantLightGCN) -> None:
    r"""Raises :class:`ValueError` unless a model propagates as
    :class:`~pyg_nodequant.runtime.PackedGraph` does: the mean over layers of
    symmetrically normalised sums.
    """
    if model.cosine_temperature is not None:
        raise ValueError("a model that scores by cosines cannot be packed "
                         "where='input'; use where='output'")
    share = torch.full_like(model.alpha, 1 / (model.num_layers + 1))
    if not torch.allclose(model.alpha, share):
        raise ValueError(f"'alpha' needs to be 1 / {model.num_layers + 1} for "
                         f"every layer to pack where='input' "
                         f"(got {model.alpha.tolist()})")
    for conv in model.convs:
        if type(conv) is not LGConv or not conv.normalize or (
                conv.aggr, conv.flow) != ("add", "source_to_target"):
            raise ValueError(f"the layers need to be LGConv with their "
                             f"default arguments to pack where='input' "
                             f"(got {conv}, normalize="
                             f"{getattr(conv, 'normalize', None)})")


def pack_rows(quantizer: NodeAwareQuantizer, x: Tensor,
              num_users: int) -> tuple[PackedTable, PackedTable]:
    r"""Packs rows :obj:`x` of shape :math:`(N, d)` into a table of users and
    one of items. Where there are widths of 0, the users' class of that width
    holds the row that they share.
    """
    stored = quantizer.encode(x)
    return (stored_table(stored, slice(0, num_users)),
            stored_table(stored, slice(num_users, None)))


def pack_axes(rows: TransformRows, kind: int) -> PackedTable:
    r"""Packs the users (0) or the items (1) of transform-coded rows."""
    stored = rows.encode(kind)
    classes = RowClasses.gaussian(stored.widths.cpu().numpy(),
                                  stored.spread.cpu().numpy())
    low, step = stored.grid.tolist()
    return PackedTable.from_classes(
        stored.codes.cpu().numpy(), stored.class_ids.cpu().numpy(), classes,
        stored.scale.cpu().numpy(), scale_dtype=f"log{rows.scale_bits}",
        log=(low, step))


def embedding_bytes(users: PackedTable, items: PackedTable) -> int:
    r"""The size of a file of two tables without a catalogue."""
    bare = PackedRecommender(users, items)
    return int(bare.storage()["embedding_bytes"])
