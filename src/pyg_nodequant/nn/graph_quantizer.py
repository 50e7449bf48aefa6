r"""A quantizer whose ranges and gradients know of the graph."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from pyg_nodequant import functional as F
from pyg_nodequant.nn.controller import BitWidthController
from pyg_nodequant.nn.quantizer import NodeAwareQuantizer


class GraphQuantizer(NodeAwareQuantizer):
    r"""A :class:`~pyg_nodequant.NodeAwareQuantizer` for the nodes of a graph,
    with two ideas of `arXiv 2508.16516 <https://arxiv.org/abs/2508.16516>`_.

    *Intervals.* The logarithm of a row's scale, its root mean square or, with
    :obj:`range="minmax"`, its range, is refined over the layers of the graph
    (:func:`~pyg_nodequant.functional.neighbour_log_scale`):

    .. math::
        \ln \Delta_i = \ln K_{b_i} + (1 - \gamma) \ln \sigma_i
        + \gamma \, m_i ,

    with :math:`K = 1` for :obj:`"minmax"`. The factor that a width asks for is
    left out of what is passed on: neighbours may have other widths. The
    :math:`m_i` come from all current rows; they get no gradient.

    *Gradients.* A row follows its neighbours' gradients, too, as far as their
    rounding errors agree
    (:func:`~pyg_nodequant.functional.relation_gradient`).

    .. note::
        The graph has to be known: :class:`~pyg_nodequant.QuantLightGCN`
        says it with :meth:`~pyg_nodequant.QuantLightGCN.attach_graph`. When
        all rows are quantized, :math:`m` is formed anew; when some are, the
        last one counts (:meth:`refresh`), which is part of the state. Until
        there is one, a row's own scale is all there is.

    Args:
        num_nodes (int): The number of nodes :math:`N`.
        dim (int): Numbers a row, :math:`d`.
        controller (BitWidthController, optional): Gives the widths.
        range (str, optional): :obj:`"symmetric"`, :obj:`"minmax"` or, if
            :obj:`interval_mix` is 0, :obj:`"learned"`.
            (default: :obj:`"symmetric"`)
        interval_mix (float, optional): The neighbours' share :math:`\gamma`.
            (default: :obj:`0.0`)
        num_layers (int, optional): Layers of message passing.
            (default: :obj:`1`)
        relation_weight (float, optional): The weight :math:`\varrho` of the
            neighbours' gradients. (default: :obj:`0.0`)

    Shapes:
        - **input:** rows :math:`(B, d)`, node ids :math:`(B)` *(optional)*
        - **output:** quantized rows :math:`(B, d)`

    Raises:
        ValueError: If learned ranges are to be mixed.

    Example:
        >>> edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> quantizer = GraphQuantizer(3, 4, interval_mix=0.5)
        >>> quantizer.adjacency = F.build_adjacency(edges, 3)
        >>> quantizer(torch.randn(3, 4)).shape
        torch.Size([3, 4])
    """

    neighbour_scale: Tensor

    def __init__(
        self,
        num_nodes: int,
        dim: int,
        controller: Optional[BitWidthController] = None,
        range: str = "symmetric",
        *,
        interval_mix: float = 0.0,
        num_layers: int = 1,
        relation_weight: float = 0.0,
    ) -> None:
        if interval_mix > 0 and range == "learned":
            raise ValueError("'range' needs to be symmetric or minmax to be "
                             "mixed with neighbours' (got 'learned')")
        super().__init__(num_nodes, dim, controller, range)
        self.interval_mix = interval_mix
        self.num_layers = num_layers
        self.relation_weight = relation_weight
        #: The normalised matrix of the graph, once it is known; no state.
        self.adjacency: Optional[F.Adjacency] = None
        if interval_mix > 0:
            self.register_buffer("neighbour_scale",
                                 torch.full((num_nodes, ), torch.nan))

    def reset_parameters(self) -> None:
        r"""Forgets the neighbours' scales."""
        super().reset_parameters()
        if "neighbour_scale" in self._buffers:
            self.neighbour_scale.fill_(torch.nan)

    @torch.no_grad()
    def refresh(self, x: Tensor) -> None:
        r"""Forms the neighbours' scales from all rows, :math:`(N, d)`."""
        if self.interval_mix > 0 and self.adjacency is not None:
            own, _ = self._own_scale(x.float())
            self.neighbour_scale.copy_(F.neighbour_log_scale(
                own.squeeze(-1).log(), self.adjacency, self.interval_mix,
                self.num_layers))

    def _own_scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # A row's scale, and the centre of its range.
        if self.range == "symmetric":
            own = F.row_scale(x, torch.ones_like(x[0]))
            return own, torch.zeros_like(own)
        own, low = F.minmax_range(x)
        return own, low + own / 2

    def _range(self, x: Tensor, bits: Tensor,
               n_id: Optional[Tensor]) -> tuple[Tensor, Tensor]:
        if self.interval_mix == 0:
            return super()._range(x, bits, n_id)
        if n_id is None:
            self.refresh(x)
        own, centre = self._own_scale(x)
        near = self.neighbour_scale
        near = near if n_id is None else near[n_id]
        near = torch.where(near.isnan(), own.detach().squeeze(-1).log(), near)
        delta = F.mix_scale(own, near, self.interval_mix)
        if self.range == "symmetric":
            delta = F.column(F.gaussian_span(bits)) * delta
        return delta, centre - delta / 2

    def _estimated(self, out: Tensor, x: Tensor, bits: Tensor, delta: Tensor,
                   mu: Tensor, n_id: Optional[Tensor]) -> Tensor:
        if (self.relation_weight == 0 or self.adjacency is None
                or not x.requires_grad):
            return out
        residual = F.rounding_residual(x, bits, delta, mu)
        return F.relation_gradient(out, x, residual, self.adjacency,
                                   self.relation_weight, n_id)

    def __getstate__(self) -> dict[str, Any]:
        # The graph is no state: copies and pickles are told it anew.
        return {**self.__dict__, "adjacency": None}
