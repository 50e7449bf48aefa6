r"""The bit-width controller: one free score a node."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.typing import Adj
from torch_geometric.utils import degree as node_degree

from pyg_nodequant import functional as F


class BitWidthController(MessagePassing):  # type: ignore[misc]
    r"""Holds one free score :math:`\alpha_i` a node and maps it to a width,
    as in the `"node-aware quantization" paper
    <https://arxiv.org/abs/2508.16516>`_:

    .. math::
        b_i = b_{\min} + (b_{\max} - b_{\min}) \, \sigma(\alpha_i).

    :math:`\alpha` starts from the nodes' importance: their degree, or what
    :obj:`num_hops` rounds of mean aggregation make of it, so that a node
    whose neighbours matter starts wider too.

    The controller has two states. Trained, its widths are continuous and
    differentiable. Frozen (:meth:`freeze`), they are the whole widths that
    are served, and :math:`\alpha` no longer matters.

    .. note::
        All parameters exist after construction. :meth:`forward` without
        arguments reads the scores; given an :obj:`edge_index` it first
        smooths them over the graph.

    Args:
        num_nodes (int): The number of nodes :math:`N`.
        max_bits (int, optional): Largest width, in bits.
            (default: :obj:`8`)
        min_bits (int, optional): Smallest width, in bits.
            (default: :obj:`1`)
        degree (Tensor, optional): Degrees of shape :math:`(N)` that
            :math:`\alpha` starts from. (default: :obj:`None`, every node
            starts in the middle of the range)
        num_hops (int, optional): Rounds of message passing that
            :meth:`forward` runs when it is given a graph.
            (default: :obj:`1`)
        **kwargs (optional): Additional arguments of
            :class:`torch_geometric.nn.conv.MessagePassing`.

    Shapes:
        - **input:** :obj:`edge_index` :math:`(2, |\mathcal{E}|)` *(optional)*
        - **output:** widths :math:`(N)`, in bits

    Raises:
        ValueError: If the bounds are not whole numbers with
            :math:`0 \le b_{\min} \le b_{\max} \le 8`, or the degrees not
            one finite, non-negative number a node.

    Example:
        >>> degree = torch.tensor([1.0, 10.0, 100.0])
        >>> controller = BitWidthController(3, max_bits=8, degree=degree)
        >>> bool((controller().diff() > 0).all())
        True
        >>> controller.bit_width
        tensor([2, 3, 6])
    """

    frozen_bits: Tensor

    def __init__(
        self,
        num_nodes: int,
        max_bits: int = 8,
        min_bits: int = 1,
        degree: Optional[Tensor] = None,
        num_hops: int = 1,
        **kwargs: object,
    ) -> None:
        kwargs.setdefault("aggr", "mean")
        super().__init__(**kwargs)
        if not isinstance(max_bits, int) or not 1 <= max_bits <= 8:
            raise ValueError(f"'max_bits' needs to be in [1, 8] "
                             f"(got {max_bits})")
        if not isinstance(min_bits, int) or not 0 <= min_bits <= max_bits:
            raise ValueError(f"'min_bits' needs to be in [0, {max_bits}] "
                             f"(got {min_bits})")
        if degree is not None and degree.numel() != num_nodes:
            raise ValueError(f"'degree' needs one entry for each of the "
                             f"{num_nodes} nodes (got {degree.numel()})")
        if degree is not None and not bool(
            (degree.isfinite() & (degree >= 0)).all()):
            raise ValueError(f"'degree' needs to be finite and at least 0 "
                             f"(got [{float(degree.min())}, "
                             f"{float(degree.max())}])")
        if num_hops < 0:
            raise ValueError(f"'num_hops' needs to be at least 0 "
                             f"(got {num_hops})")
        self.num_nodes = num_nodes
        self.max_bits = max_bits
        self.min_bits = min_bits
        self.num_hops = num_hops
        self.alpha = torch.nn.Parameter(torch.empty(num_nodes))
        # 0 everywhere: not frozen. A buffer, so that a checkpoint carries it.
        self.register_buffer("frozen_bits",
                             torch.zeros(num_nodes, dtype=torch.uint8))
        self.register_buffer("is_frozen_flag", torch.tensor(False))
        start = torch.zeros(num_nodes) if degree is None else F.degree_score(
            degree.detach().float().cpu().flatten())
        self.register_buffer("initial_alpha", start, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Sets :math:`\alpha` to its degree-based start and thaws."""
        with torch.no_grad():
            self.alpha.copy_(self.initial_alpha)
        self.unfreeze()

    def forward(self, edge_index: Optional[Adj] = None) -> Tensor:
        r"""Returns the widths of all nodes, shape :math:`(N)`; whole numbers
        once frozen.

        Args:
            edge_index (torch.Tensor or SparseTensor, optional): If given,
                the scores are first averaged with those of their neighbours,
                :obj:`num_hops` times:
                :math:`\alpha_i \leftarrow \frac{1}{2} \alpha_i + \frac{1}{2}
                \mathrm{mean}_{j \in \mathcal{N}(i)} \alpha_j`.
        """
        if self.is_frozen:
            return self.frozen_bits.to(self.alpha.dtype)
        alpha: Tensor = self.alpha
        if edge_index is not None:
            alpha = self.smooth(alpha, edge_index)
        return F.bit_width(alpha, self.min_bits, self.max_bits)

    def smooth(self, importance: Tensor, edge_index: Adj) -> Tensor:
        r"""Averages a score of shape :math:`(N)` with its neighbours' mean,
        :obj:`num_hops` times. Nodes without neighbours keep half of theirs.
        """
        out = importance.unsqueeze(-1)
        for _ in range(self.num_hops):
            # propagate_type: (x: Tensor)
            out = (out + self.propagate(edge_index, x=out)) / 2
        return out.squeeze(-1)

    def message(self, x_j: Tensor) -> Tensor:
        r"""A neighbour's score, as it is."""
        return x_j

    @torch.no_grad()
    def init_from_graph(self, edge_index: Tensor) -> None:
        r"""Starts :math:`\alpha` from the degrees of :obj:`edge_index`,
        spread over :obj:`num_hops` hops of message passing.
        """
        count = node_degree(edge_index[1], self.num_nodes,
                            dtype=self.alpha.dtype)
        self.alpha.copy_(self.smooth(F.degree_score(count), edge_index))

    @property
    def is_frozen(self) -> bool:
        r"""Whether the widths are the whole ones that are served."""
        return self._frozen

    @property
    def bit_width(self) -> Tensor:
        r"""The whole widths as served, int64 of shape :math:`(N)`."""
        if self.is_frozen:
            return self.frozen_bits.long()
        return F.round_bits(self().detach(), self.min_bits, self.max_bits)

    @torch.no_grad()
    def set_bits(self, bits: Tensor) -> None:
        r"""Moves :math:`\alpha` to the score of each given width."""
        self.alpha.copy_(
            F.inverse_bit_width(bits.to(self.alpha), self.min_bits,
                                self.max_bits))

    @torch.no_grad()
    def freeze(self, bits: Optional[Tensor] = None) -> None:
        r"""Fixes the widths: to :obj:`bits`, or to the rounded current ones.

        Raises:
            ValueError: If a width is outside :math:`[b_{\min}, b_{\max}]` or
                not whole, or not one is given for each node.
        """
        bits = self.bit_width if bits is None else bits
        if bits.numel() != self.num_nodes:
            raise ValueError(f"'bits' needs one width for each of the "
                             f"{self.num_nodes} nodes (got {bits.numel()})")
        parts = bits[bits != bits.round()]
        if parts.numel() > 0:
            raise ValueError(f"'bits' needs to hold whole widths "
                             f"(got {float(parts[0])})")
        if self.num_nodes > 0 and (int(bits.min()) < self.min_bits
                                   or int(bits.max()) > self.max_bits):
            raise ValueError(
                f"'bits' needs to be in [{self.min_bits}, {self.max_bits}] "
                f"(got [{int(bits.min())}, {int(bits.max())}])")
        self.frozen_bits.copy_(bits)
        self.is_frozen_flag.fill_(True)
        self._frozen = True

    def unfreeze(self) -> None:
        r"""Makes the widths continuous and trainable again."""
        self.frozen_bits.zero_()
        self.is_frozen_flag.fill_(False)
        self._frozen = False

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._frozen = bool(self.is_frozen_flag)

    @property
    def width_summary(self) -> str:
        r"""The bounds of the widths and the mean width served, for repr."""
        bits = self.bit_width
        mean = "?" if bits.is_meta else f"{float(bits.float().mean()):.2f}"
        return f"bits={self.min_bits}..{self.max_bits}, avg={mean}"

    def __repr__(self) -> str:
        state = ", frozen" if self.is_frozen else ""
        return (f"{self.__class__.__name__}({self.num_nodes}, "
                f"{self.width_summary}{state})")
