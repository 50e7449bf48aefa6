r"""Rows in principal axes whose widths are still being learned."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from pyg_nodequant import functional as F
from pyg_nodequant.nn.transform_rows import AxisCodes, TransformRows


class SoftAxisRows(TransformRows):
    r"""A :class:`~pyg_nodequant.nn.TransformRows` with continuous widths,

    .. math::
        b_{nk} = \mathrm{clamp}(a_n + c_{g(n) k}, 0, b_{\max}),

    a score :math:`a_n` for each node and a profile :math:`c_g` of the axes for
    users and for items, all trained. Rows are quantized between whole widths
    (:func:`~pyg_nodequant.functional.interpolate_axes`): they are to learn
    from and not to be served.

    Args:
        users (Tensor): Latent rows of the users, :math:`(U, d)`.
        items (Tensor): The same of the items, :math:`(I, d)`.
        row_bits (Tensor): Bits of each row to begin with, users before items.
        profile (Tensor): Profiles to begin with, :math:`(2, d)`.
        scale_bits (int, optional): Bits of a stored row scale, 4 or 8.
        max_bits (int, optional): The largest width.

    Example:
        >>> rows = SoftAxisRows(torch.randn(2, 3), torch.randn(4, 3),
        ...                     torch.full((6, ), 8.0), torch.zeros(2, 3))
        >>> rows
        SoftAxisRows(2 users, 4 items, 3 axes, 8.00 bits a row)
    """

    def __init__(
        self,
        users: Tensor,
        items: Tensor,
        row_bits: Tensor,
        profile: Tensor,
        scale_bits: int = 4,
        max_bits: int = 8,
    ) -> None:
        none = torch.zeros(1, users.size(1), dtype=torch.long,
                           device=users.device)
        classes = torch.zeros(len(users) + len(items), dtype=torch.long,
                              device=users.device)
        super().__init__(users, items, none, none, classes, scale_bits)
        self.max_bits = max_bits
        parts = torch.split(row_bits, [len(users), len(items)])
        self.profile = torch.nn.Parameter(profile.detach().clone())
        self.score = torch.nn.Parameter(torch.cat([
            F.fill_score(part, c, max_bits)
            for part, c in zip(parts, profile, strict=True)]))

    def widths(self) -> Tensor:
        r"""The width of each number, :math:`(N, d)`."""
        parts = torch.split(self.score, [self.num_users, self.num_items])
        return torch.cat([F.axis_widths(score, profile, self.max_bits)
                          for score, profile in
                          zip(parts, self.profile, strict=True)])

    def quantized(self, kind: int, widths: Tensor,
                  ids: Optional[Tensor] = None) -> Tensor:
        r"""Rows of users (0) or items (1) at :meth:`widths`, of some or of
        all.
        """
        x, _, _ = self._parts(kind, ids)
        nodes = torch.arange(self.num_users + self.num_items,
                             device=widths.device)
        first = kind * self.num_users
        nodes = nodes[first:first + (self.num_users, self.num_items)[kind]]
        bits = F.gather_rows(widths, nodes if ids is None else ids + first)
        return F.interpolate_axes(x, bits, self.spread(kind),
                                  self._scale(kind, x), self.max_bits)

    def encode(self, kind: int) -> AxisCodes:
        r"""Not for these rows.

        Raises:
            ValueError: Always.
        """
        raise ValueError("rows whose widths are still being learned have no "
                         "codes: their widths need to be whole")

    def _rows(self, kind: int, ids: Optional[Tensor]) -> Tensor:
        return self.quantized(kind, self.widths(), ids)

    def row_bits(self) -> Tensor:
        r"""Code bits of each row, :math:`(N)`."""
        return self.widths().detach().sum(1)
