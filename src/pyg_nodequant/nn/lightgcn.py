r"""LightGCN with node-aware precision."""

from __future__ import annotations

import logging
from typing import Any, Optional, Union

import torch
from torch import Tensor
from torch_geometric.nn.models import LightGCN
from torch_geometric.typing import Adj, OptTensor

from pyg_nodequant import functional as F
from pyg_nodequant.config import NodeQuantConfig
from pyg_nodequant.nn.adjacency import (
    AdjacencyCache,
    check_edge_weight,
    fast_path_obstacle,
)
from pyg_nodequant.nn.embedding import (
    NodeAwareQuantEmbedding,
    keep_missing_quantizer_state,
)
from pyg_nodequant.nn.graph_quantizer import GraphQuantizer
from pyg_nodequant.nn.quantizer import NodeAwareQuantizer

log = logging.getLogger(__name__)

#: Bins of degrees among the users, and among the items, that share scales.
DEGREE_BINS = 16


def scale_groups(
    row_scale: str,
    num_nodes: int,
    degree: Optional[Tensor],
    num_users: Optional[int],
) -> Optional[Tensor]:
    r"""The nodes that share a grid or a scale, by number of their group: one
    kind each, users or items, and for :obj:`"group"` one bin of degrees.

    Raises:
        ValueError: If not one degree is given for each node.
    """
    if row_scale == "float16":
        return None
    kind = torch.zeros(num_nodes, dtype=torch.long)
    if num_users is not None:
        kind[num_users:] = 1
    if row_scale == "log8" or degree is None:
        return kind
    if degree.numel() != num_nodes:
        raise ValueError(f"'degree' needs one entry for each of the "
                         f"{num_nodes} nodes (got {degree.numel()})")
    flat, groups = degree.detach().cpu().flatten(), kind * DEGREE_BINS
    for number in (0, 1):
        groups[kind == number] += F.degree_bins(flat[kind == number],
                                                DEGREE_BINS)
    return groups


def new_quantizer(
    model: LightGCN,
    quant: NodeQuantConfig,
    groups: Optional[Tensor] = None,
) -> NodeAwareQuantizer:
    r"""Returns a quantizer of a model's nodes that shares the controller of
    its embedding.
    """
    controller = model.embedding.controller
    size = model.num_nodes, model.embedding_dim, controller, quant.range
    if quant.uses_graph:
        mixed = quant.interval == "message_passing"
        related = quant.gradient == "relation"
        out: NodeAwareQuantizer = GraphQuantizer(
            *size, num_layers=model.num_layers,
            interval_mix=quant.interval_mix if mixed else 0.0,
            relation_weight=quant.relation_weight if related else 0.0)
    else:
        out = NodeAwareQuantizer(
            *size, estimator=quant.estimator,
            width_gradient=quant.width_gradient, row_scale=quant.row_scale,
            groups=groups)
    out.borrow_controller()
    return out.to(model.embedding.weight.device).train(model.training)


class QuantLightGCN(LightGCN):  # type: ignore[misc]
    r"""LightGCN whose embeddings have node-aware precision
    (`arXiv 2508.16516 <https://arxiv.org/abs/2508.16516>`_).

    .. math::
        x = \sum_{l=0}^{L} \alpha_l \hat{A}^l E, \qquad
        q_i = \frac{v_i}{2^{b_i} - 1} \Delta_i + \mu_i

    :obj:`where="output"` quantizes the propagated rows :math:`x_i` that are
    served, :obj:`"input"` the layer-0 rows :math:`e_i` before propagation,
    and :obj:`"both"` both. With :obj:`cosine_temperature` the propagated rows
    are first brought to one length (:func:`~pyg_nodequant.functional.
    cosine_rows`), so that they are scored by cosines. In every other
    respect it is a :class:`torch_geometric.nn.LightGCN`: methods, signatures,
    initial values, and float checkpoints, which load strictly.

    .. note::
        :obj:`alpha` is LightGCN's buffer of layer weights. The controller's
        scores are :obj:`embedding.controller.alpha`.

    .. note::
        A node without edges is left with :math:`\alpha_0 e_i`, which is the
        accident of its initial value. :class:`~pyg_nodequant.Trainer` gives
        such nodes rows by rule; in a loop of your own, see
        :func:`~pyg_nodequant.functional.settle_cold_rows`.

    Args:
        num_nodes (int): The number of nodes :math:`N`.
        embedding_dim (int): Numbers a row, :math:`d`.
        num_layers (int): The number of propagation layers :math:`L`.
        alpha (float or torch.Tensor, optional): The layer weights.
            (default: :math:`1 / (L + 1)`)
        quant (NodeQuantConfig, optional): Uses its :obj:`where`,
            :obj:`max_bits`, :obj:`min_bits`, :obj:`range`,
            :obj:`estimator`, :obj:`width_gradient`, :obj:`row_scale`,
            :obj:`interval` and :obj:`gradient`; with :obj:`recipe="float"`
            nothing is quantized.
        degree (torch.Tensor, optional): Degrees of shape :math:`(N)` that
            the widths start from, and whose 16 bins :obj:`row_scale="group"`
            tells apart (without them, kinds and widths alone).
        num_users (int, optional): Nodes from here on are items: they share
            no scales or grids with the nodes before. (default: :obj:`None`,
            all nodes are of one kind)
        cosine_temperature (float, optional): Scores are cosines divided by
            it. (default: :obj:`None`, inner products)
        **kwargs (optional): Additional arguments of the underlying
            :class:`torch_geometric.nn.conv.LGConv` layers.

    Example:
        >>> edge_index = torch.tensor([[0, 2, 1, 2], [2, 0, 2, 1]])
        >>> model = QuantLightGCN(3, 8, 2, quant=NodeQuantConfig(max_bits=4))
        >>> model.get_embedding(edge_index).shape
        torch.Size([3, 8])
        >>> model
        QuantLightGCN(3, 8, num_layers=2, where=output, bits=1..4, avg=2.00)
    """

    alpha: Tensor
    embedding: NodeAwareQuantEmbedding
    cosine_temperature: Optional[float] = None

    def __init__(
        self,
        num_nodes: int,
        embedding_dim: int,
        num_layers: int,
        alpha: Optional[Union[float, Tensor]] = None,
        *,
        quant: Optional[NodeQuantConfig] = None,
        degree: Optional[Tensor] = None,
        num_users: Optional[int] = None,
        cosine_temperature: Optional[float] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_nodes, embedding_dim, num_layers, alpha, **kwargs)
        self._add_quantizers(quant, degree, num_users, cosine_temperature)

    def _add_quantizers(
        self,
        quant: Optional[NodeQuantConfig],
        degree: Optional[Tensor],
        num_users: Optional[int] = None,
        cosine_temperature: Optional[float] = None,
    ) -> None:
        quant = quant or NodeQuantConfig()
        groups = scale_groups(quant.row_scale, self.num_nodes, degree,
                              num_users)
        min_bits, max_bits = quant.width_bounds
        self.embedding = NodeAwareQuantEmbedding.from_embedding(
            self.embedding, max_bits=max_bits, min_bits=min_bits,
            degree=degree, range=quant.range, estimator=quant.estimator,
            width_gradient=quant.width_gradient)
        self.quant = quant
        #: Turn off to see the float model behind; :obj:`True` by default.
        self.quantization_enabled = quant.recipe != "float"
        if not self.alpha.is_floating_point():
            # LightGCN takes over the type of a whole number; weights loaded
            # into such a buffer would be cut to integers.
            self.alpha = self.alpha.to(torch.get_default_dtype())
        self.output_quantizer: Optional[NodeAwareQuantizer] = None
        if self.quant.where != "input":
            self.output_quantizer = new_quantizer(self, quant, groups)
        if self.quant.where != "output" and self.quant.uses_graph:
            self.embedding.quantizer = new_quantizer(self, quant)
        self.register_load_state_dict_pre_hook(keep_missing_quantizer_state)
        self.cosine_temperature = cosine_temperature
        self._adjacency = AdjacencyCache()
        self._relations = AdjacencyCache()  # always normalised
        self._obstacle: Optional[str] = None

    def reset_parameters(self) -> None:
        r"""Re-initialises the table, the widths and the ranges."""
        super().reset_parameters()
        # LightGCN's constructor resets before the quantizers are there.
        if isinstance(self.embedding, NodeAwareQuantEmbedding):
            self.embedding.controller.reset_parameters()
            self.embedding.quantizer.reset_parameters()
            if self.output_quantizer is not None:
                self.output_quantizer.reset_parameters()

    def get_embedding(
        self,
        edge_index: Adj,
        edge_weight: OptTensor = None,
        n_id: Optional[Tensor] = None,
    ) -> Tensor:
        r"""Returns the embeddings that are scored, in eval mode exactly
        those that are served.

        Args:
            edge_index (torch.Tensor or SparseTensor): The graph.
            edge_weight (torch.Tensor, optional): The weight of each edge.
            n_id (torch.Tensor, optional): The nodes to return, shape
                :math:`(B)`; only their rows are quantized. (default:
                :obj:`None`, all nodes)
        """
        self.attach_graph(edge_index, edge_weight)
        x: Tensor
        if self.quantization_enabled and self.quant.where != "output":
            x = self.embedding.quantized_weight()
        else:
            x = self.embedding.weight
        return self.quantize_output(
            self.propagate_embedding(x, edge_index, edge_weight), n_id)

    def attach_graph(self, edge_index: Adj,
                     edge_weight: OptTensor = None) -> None:
        r"""Tells the graph to quantizers that need it
        (:obj:`quant.interval="message_passing"`,
        :obj:`quant.gradient="relation"`), as :meth:`get_embedding` does.

        Raises:
            ValueError: If they need it and it is no tensor.
        """
        # A packed embedding has no quantizer any more.
        places = (getattr(self.embedding, "quantizer", None),
                  self.output_quantizer)
        found = [place for place in places
                 if isinstance(place, GraphQuantizer)]
        if not found:
            return
        if not isinstance(edge_index, Tensor):
            raise ValueError(f"'edge_index' needs to be a tensor for "
                             f"quant.interval=message_passing and "
                             f"quant.gradient=relation "
                             f"(got {type(edge_index).__name__})")
        check_edge_weight(edge_index, edge_weight)
        adjacency = self._relations.get(
            edge_index, self.num_nodes, edge_weight, True, torch.float32)
        for quantizer in found:
            quantizer.adjacency = adjacency

    def quantize_output(self, x: Tensor,
                        n_id: Optional[Tensor] = None) -> Tensor:
        r"""Returns rows :obj:`n_id` of the propagated table :obj:`x`,
        quantized if :obj:`where` says so.
        """
        quantizer = self.output_quantizer
        if not self.quantization_enabled or quantizer is None:
            return x if n_id is None else F.gather_rows(x, n_id)
        if n_id is None:
            out: Tensor = quantizer(x)
        elif n_id.numel() < self.num_nodes:
            if isinstance(quantizer, GraphQuantizer):
                quantizer.refresh(x)
            out = quantizer(F.gather_rows(x, n_id), n_id, x)
        else:  # a batch larger than the table: each row is needed once
            out = F.gather_rows(quantizer(x), n_id)
        return out

    def seed_noise(self, seed: Optional[int]) -> None:
        r"""Makes the noise of :obj:`estimator="noise"` a function of a seed,
        to be given anew at each step; of torch's global generator if it is
        :obj:`None`.
        """
        self.embedding.quantizer.noise_seed = seed
        if self.output_quantizer is not None:
            self.output_quantizer.noise_seed = (None if seed is None
                                                else seed + 1)

    def propagate_embedding(
        self,
        x: Tensor,
        edge_index: Adj,
        edge_weight: OptTensor = None,
    ) -> Tensor:
        r"""Returns :math:`\sum_l \alpha_l \hat{A}^l x`, by sparse products
        with one cached matrix where that is valid, by message passing
        elsewhere (the reason is logged once); as cosine rows if scores are
        cosines.
        """
        out = self._propagate(x, edge_index, edge_weight)
        if self.cosine_temperature is None:
            return out
        return F.cosine_rows(out, self.cosine_temperature)

    def _propagate(self, x: Tensor, edge_index: Adj,
                   edge_weight: OptTensor) -> Tensor:
        check_edge_weight(edge_index, edge_weight)
        obstacle = fast_path_obstacle(self.convs, edge_index, edge_weight,
                                      self.alpha)
        if obstacle is None:
            normalize = bool(self.convs[0].normalize) if self.convs else True
            adjacency = self._adjacency.get(
                edge_index, self.num_nodes, edge_weight, normalize,
                torch.promote_types(x.dtype, torch.float32))
            return F.propagate(x, adjacency, self.alpha.tolist())
        if obstacle != self._obstacle and not torch.compiler.is_compiling():
            log.info("QuantLightGCN propagates by message passing: %s",
                     obstacle)
            self._obstacle = obstacle
        out = x * self.alpha[0]
        for i, conv in enumerate(self.convs):
            x = conv(x, edge_index, edge_weight)
            out = out + x * self.alpha[i + 1]
        result: Tensor = out
        return result

    def forward(
        self,
        edge_index: Adj,
        edge_label_index: OptTensor = None,
        edge_weight: OptTensor = None,
    ) -> Tensor:
        r"""Returns the scores of :obj:`edge_label_index`, quantizing only
        the rows they need.
        """
        if edge_label_index is None:
            scores: Tensor = super().forward(edge_index, None, edge_weight)
            return scores
        count = edge_label_index.size(1)
        rows = self.get_embedding(edge_index, edge_weight,
                                  n_id=edge_label_index.flatten())
        return (rows[:count] * rows[count:]).sum(dim=-1)

    @torch.no_grad()
    def recommend(
        self,
        edge_index: Adj,
        edge_weight: OptTensor = None,
        src_index: OptTensor = None,
        dst_index: OptTensor = None,
        k: int = 1,
        sorted: bool = True,
        *,
        exclude_edge_index: Optional[Tensor] = None,
        batch_size: int = 1024,
    ) -> Tensor:
        r"""Returns the top-:math:`k` node ids, as in PyG, holding
        :obj:`batch_size` rows of scores at a time.

        Args:
            edge_index (torch.Tensor or SparseTensor): The graph.
            edge_weight (torch.Tensor, optional): The weight of each edge.
            src_index (torch.Tensor, optional): Nodes to recommend to.
            dst_index (torch.Tensor, optional): Nodes to recommend from.
            k (int, optional): Number of recommendations.
            sorted (bool, optional): Whether to sort them by score.
            exclude_edge_index (torch.Tensor, optional): Pairs of global ids
                :math:`(2, M)` never to recommend, *e.g.*, the training
                edges. Lists that run short are padded with :obj:`-1`.
            batch_size (int, optional): Source nodes scored at a time.

        Raises:
            ValueError: If :obj:`k` exceeds the number of candidates, or
                :obj:`batch_size` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"'batch_size' needs to be at least 1 "
                             f"(got {batch_size})")
        out = self.get_embedding(edge_index, edge_weight)
        device = out.device
        nodes = torch.arange(self.num_nodes, device=device)
        # Masks and negative ids select nodes too, as in PyG.
        src_index = nodes if src_index is None else nodes[src_index]
        dst_index = nodes if dst_index is None else nodes[dst_index]
        if not 1 <= k <= dst_index.numel():
            raise ValueError(f"'k' needs to be in [1, {dst_index.numel()}], "
                             f"the number of candidates (got {k})")
        # Repeated candidates share a column of the mask, as repeated sources
        # share a row.
        targets, column = dst_index.unique(return_inverse=True)
        position = torch.full((self.num_nodes, ), -1, device=device)
        position[targets] = torch.arange(targets.numel(), device=device)
        candidates = out[dst_index]
        result = torch.empty(src_index.numel(), k, dtype=torch.long,
                             device=device)
        row_of = torch.full((self.num_nodes, ), -1, device=device)
        for start in range(0, src_index.numel(), batch_size):
            users = src_index[start:start + batch_size]
            scores = out[users] @ candidates.t()
            if exclude_edge_index is not None:
                unique, inverse = users.unique(return_inverse=True)
                row_of.fill_(-1)
                row_of[unique] = torch.arange(unique.numel(), device=device)
                row = row_of[exclude_edge_index[0]]
                col = position[exclude_edge_index[1]]
                hit = (row >= 0) & (col >= 0)
                mask = torch.zeros(unique.numel(), targets.numel(),
                                   dtype=torch.bool, device=device)
                mask[row[hit], col[hit]] = True
                scores.masked_fill_(mask[inverse][:, column], -torch.inf)
            top = scores.topk(k, dim=-1, sorted=sorted)
            ids = dst_index[top.indices]
            ids[top.values == -torch.inf] = -1
            result[start:start + batch_size] = ids
        return result

    @property
    def mean_bits(self) -> float:
        r"""The mean width of the nodes as served, in bits."""
        return float(self.embedding.controller.bit_width.float().mean())

    def storage_loss(self) -> Tensor:
        r"""The storage cost :math:`\frac{1}{N} \sum_i b_i d`, bits a node."""
        return self.embedding.storage_loss()

    @classmethod
    def from_lightgcn(
        cls,
        model: LightGCN,
        quant: Optional[NodeQuantConfig] = None,
        degree: Optional[Tensor] = None,
        num_users: Optional[int] = None,
    ) -> QuantLightGCN:
        r"""Wraps a float LightGCN, sharing its embedding parameter."""
        out = cls(model.num_nodes, model.embedding_dim, model.num_layers,
                  model.alpha.detach().clone(), quant=quant, degree=degree,
                  num_users=num_users)
        out.convs = model.convs
        out.embedding.weight = model.embedding.weight
        out.to(model.embedding.weight.device)
        out.train(model.training)
        return out

    @classmethod
    def quantize_(
        cls,
        model: LightGCN,
        quant: Optional[NodeQuantConfig] = None,
        degree: Optional[Tensor] = None,
        num_users: Optional[int] = None,
    ) -> QuantLightGCN:
        r"""Turns a float LightGCN into this class in place: the same object,
        embedding parameter and layers, with quantizers added.

        Args:
            model (LightGCN): A model of exactly PyG's class.
            quant (NodeQuantConfig, optional): As in the constructor.
            degree (torch.Tensor, optional): As in the constructor.
            num_users (int, optional): As in the constructor.

        Raises:
            ValueError: If :obj:`model` is of another class, whose methods
                this one would replace.
        """
        if type(model) is not LightGCN:
            raise ValueError(f"'model' needs to be exactly a LightGCN "
                             f"(got {type(model).__name__})")
        cls._add_quantizers(model, quant, degree, num_users)
        model.__class__ = cls  # last: a model that fails stays a LightGCN
        out: QuantLightGCN = model
        return out

    def __repr__(self) -> str:
        quant = "float" if not self.quantization_enabled else (
            f"where={self.quant.where}, {self.embedding.width_summary}")
        return (f"{self.__class__.__name__}({self.num_nodes}, "
                f"{self.embedding_dim}, num_layers={self.num_layers}, "
                f"{quant})")
