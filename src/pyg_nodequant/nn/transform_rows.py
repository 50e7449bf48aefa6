r"""Rows in principal axes, each number at its own width."""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
from torch import Tensor
from torch_geometric.typing import Adj, OptTensor

from pyg_nodequant import functional as F


class AxisCodes(NamedTuple):
    r"""What is stored of the rows of one kind, users or items: a row of class
    :math:`c` reads :math:`r_i a_{ck} (v_{ik} - (2^{b_{ck}} - 1) / 2)`.

    Args:
        codes (Tensor): Integer codes :math:`v`, uint8 of shape :math:`(n, d)`.
        class_ids (Tensor): Their classes, uint8 of shape :math:`(n)`.
        widths (Tensor): Widths :math:`b` of each class, :math:`(C, d)`.
        spread (Tensor): The column spreads that the steps follow from
            (:func:`~pyg_nodequant.functional.gaussian_steps`), each exactly a
            float16, shape :math:`(d)`.
        scale (Tensor): Row scales :math:`r` on the grid, :math:`(n)`.
        grid (Tensor): The grid of the scales, :math:`(2)`.
    """

    codes: Tensor
    class_ids: Tensor
    widths: Tensor
    spread: Tensor
    scale: Tensor
    grid: Tensor


class TransformRows(torch.nn.Module):
    r"""The rows that a transform-coded model serves, in principal axes.

    .. math::
        \hat{x}_{ik} = r_i a_{c_i k} \big( v_{ik} - \tfrac{1}{2}
        (2^{b_{c_i k}} - 1) \big)

    A row's class says how many bits each axis gets; its scale is the size of
    its latent row against the spreads of the columns, which are learned, and
    everything is at the precision it is stored in from the start: what is
    trained is what is served.

    Args:
        users (Tensor): Latent rows of the users to begin with, :math:`(U, d)`.
        items (Tensor): The same of the items, :math:`(I, d)`.
        user_widths (Tensor): Widths of the users' classes, :math:`(C, d)`.
        item_widths (Tensor): Widths of the items' classes, :math:`(C', d)`.
        class_ids (Tensor): The class of each node, users before items.
        scale_bits (int, optional): Bits of a stored row scale, 4 or 8.

    Raises:
        ValueError: If the shapes do not fit each other.

    Example:
        >>> rows = TransformRows(torch.randn(2, 3), torch.randn(4, 3),
        ...                      torch.tensor([[4, 2, 0]]),
        ...                      torch.tensor([[4, 2, 0], [5, 3, 1]]),
        ...                      torch.tensor([0, 0, 0, 1, 1, 0]))
        >>> rows.get_embedding().shape
        torch.Size([6, 3])
        >>> rows
        TransformRows(2 users, 4 items, 3 axes, 7.00 bits a row)
    """

    user_widths: Tensor
    item_widths: Tensor
    class_ids: Tensor
    grids: Tensor

    def __init__(
        self,
        users: Tensor,
        items: Tensor,
        user_widths: Tensor,
        item_widths: Tensor,
        class_ids: Tensor,
        scale_bits: int = 4,
    ) -> None:
        super().__init__()
        dims = {x.size(1) for x in (users, items, user_widths, item_widths)}
        count = users.size(0) + items.size(0)
        if len(dims) != 1 or class_ids.numel() != count:
            raise ValueError(
                f"rows and widths need as many columns, and each node a class "
                f"(got {list(users.shape)}, {list(items.shape)}, "
                f"{list(user_widths.shape)}, {list(item_widths.shape)} and "
                f"{class_ids.numel()} classes)")
        self.num_users, self.num_items = users.size(0), items.size(0)
        self.scale_bits = scale_bits
        self.weight = torch.nn.Parameter(torch.cat([users, items]).detach())
        spreads = [F.column_spread(x.detach()) for x in (users, items)]
        self.log_spread = torch.nn.Parameter(
            torch.stack(spreads).clamp(min=1e-8).log())
        self.register_buffer("user_widths", user_widths.to(torch.uint8))
        self.register_buffer("item_widths", item_widths.to(torch.uint8))
        self.register_buffer("class_ids", class_ids.to(torch.uint8))
        self.register_buffer("grids", torch.stack([
            F.log_grid(F.row_scale(x.detach(), spread), scale_bits)
            for x, spread in zip((users, items), spreads, strict=True)]))
        #: There is no float model behind; here for the trainer's sake.
        self.quantization_enabled = True

    @property
    def embedding_dim(self) -> int:
        r"""The number of axes."""
        return self.weight.size(1)

    @property
    def mean_bits(self) -> float:
        r"""Code bits a number, over all rows and axes."""
        return float(self.row_bits().mean() / self.embedding_dim)

    def get_embedding(
        self,
        edge_index: Optional[Adj] = None,
        edge_weight: OptTensor = None,
        n_id: Optional[Tensor] = None,
    ) -> Tensor:
        r"""Returns the rows that are scored, as
        :meth:`QuantLightGCN.get_embedding` does; the graph is not needed.

        Args:
            n_id (torch.Tensor, optional): The nodes to return, users before
                items. (default: :obj:`None`, all of them)
        """
        if n_id is None:
            return torch.cat([self.user_rows(), self.item_rows()])
        is_item = n_id >= self.num_users
        out = self.weight.new_empty(n_id.numel(), self.embedding_dim)
        out = out.index_put((~is_item, ), self.user_rows(n_id[~is_item]))
        return out.index_put((is_item, ), self.item_rows(
            n_id[is_item] - self.num_users))

    forward = get_embedding

    def user_rows(self, ids: Optional[Tensor] = None) -> Tensor:
        r"""Quantized rows of some users, or all."""
        return self._rows(0, ids)

    def item_rows(self, ids: Optional[Tensor] = None) -> Tensor:
        r"""Quantized rows of some items, or all."""
        return self._rows(1, ids)

    def spread(self, kind: int) -> Tensor:
        r"""The stored column spreads of users (0) or items (1)."""
        return F.snap_float16(self.log_spread[kind].exp())

    @torch.no_grad()
    def encode(self, kind: int) -> AxisCodes:
        r"""Returns what is stored of users (0) or items (1).

        Raises:
            ValueError: If a latent row is not finite.
        """
        x, classes, widths = self._parts(kind, None)
        if not bool(torch.isfinite(x).all()):
            raise ValueError("the rows need to be finite to be packed (got "
                             "NaN or infinite values)")
        spread, scale = self.spread(kind), self._scale(kind, x)
        bits = widths[classes].to(x.dtype)
        delta = (scale * F.gaussian_steps(widths, spread)[classes] *
                 F.num_levels(bits))
        codes = F.quantize(x, bits, delta, -delta / 2)
        return AxisCodes(codes, classes.to(torch.uint8), widths, spread,
                         scale.squeeze(-1), self.grids[kind])

    def _parts(self, kind: int,
               ids: Optional[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        first = kind * self.num_users
        part = slice(first, first + (self.num_users, self.num_items)[kind])
        x, classes = self.weight[part], self.class_ids[part]
        if ids is not None:
            x = F.gather_rows(self.weight, ids + first)
            classes = classes[ids]
        widths = self.item_widths if kind else self.user_widths
        return x, classes.long(), widths.long()

    def _scale(self, kind: int, x: Tensor) -> Tensor:
        # The spreads say how the scale is formed, they are not trained by it.
        scale = F.row_scale(x, self.spread(kind).detach())
        return F.snap_log_scale(scale, self.grids[kind], self.scale_bits)

    def _rows(self, kind: int, ids: Optional[Tensor]) -> Tensor:
        x, classes, widths = self._parts(kind, ids)
        steps = F.gaussian_steps(widths, self.spread(kind))[classes]
        return F.quantize_axes(x, widths[classes], steps,
                               self._scale(kind, x))

    def row_bits(self) -> Tensor:
        r"""Code bits of each row, :math:`(N)`."""
        users = self.class_ids[:self.num_users].long()
        items = self.class_ids[self.num_users:].long()
        return torch.cat([
            self.user_widths.sum(1, dtype=torch.float64)[users],
            self.item_widths.sum(1, dtype=torch.float64)[items]])

    def __repr__(self) -> str:
        return (f"{self.__class__.__name__}({self.num_users} users, "
                f"{self.num_items} items, {self.embedding_dim} axes, "
                f"{float(self.row_bits().mean()):.2f} bits a row)")
