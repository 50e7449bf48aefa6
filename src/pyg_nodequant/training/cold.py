r"""Gives nodes without a training interaction their rows, and keeps them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from pyg_nodequant import functional as F
from pyg_nodequant.nn import QuantLightGCN


@torch.no_grad()
def settle_cold_nodes(model: QuantLightGCN, edge_index: Tensor,
                      degree: Tensor, num_users: int) -> None:
    r"""Sets the layer-0 rows of cold nodes such that their propagated float
    rows are those of :func:`~pyg_nodequant.functional.settle_cold_rows`.

    A node without edges keeps nothing but :math:`\alpha_0` times its own
    layer-0 row, and no other node sees it.

    Args:
        model (QuantLightGCN): The model.
        edge_index (Tensor): The training graph, users before items.
        degree (Tensor): Training degrees of all nodes, :math:`(N)`.
        num_users (int): How many of them are users.
    """
    cold = (degree == 0).to(edge_index.device)
    if not bool(cold.any()):
        return
    weight = model.embedding.weight
    rows = F.settle_cold_rows(model.propagate_embedding(weight, edge_index),
                              degree.to(edge_index.device), num_users)
    weight[cold] = rows[cold] / model.alpha[0]
    for quantizer in (model.embedding.quantizer, model.output_quantizer):
        if quantizer is not None:  # learned ranges start from the new rows
            index = cold.nonzero().squeeze(-1)
            x = weight if quantizer is model.embedding.quantizer else rows
            quantizer.calibrate(x[index], index)


def hold_rows(parameters: Iterable[torch.nn.Parameter],
              held: Tensor) -> list[RemovableHandle]:
    r"""Keeps rows of parameters as they are: they get no gradient, which Adam
    without weight decay leaves alone.

    Args:
        parameters (iterable): Parameters of :math:`N` rows each.
        held (Tensor): Which rows, boolean of shape :math:`(N)`.

    Returns:
        Handles that end it.
    """
    if not bool(held.any()):
        return []

    def hold(grad: Tensor) -> Tensor:
        mask = held.view(-1, *[1] * (grad.dim() - 1))
        return grad.masked_fill(mask, 0.0)

    return [
        parameter.register_hook(hold)  # type: ignore[no-untyped-call]
        for parameter in parameters]
