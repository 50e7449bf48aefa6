r"""Row scales at the precision they are stored in."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from pyg_nodequant import functional as F
from pyg_nodequant.config import ROW_SCALES, check_choice

#: Bits of a logarithm.
LOG_BITS = 8
# Groups there may be, and the widths that they are told apart by.
_GROUPS, _WIDTHS = 256, 9


class StoredScale(torch.nn.Module):
    r"""Rounds the steps :math:`r_i = \Delta_i / s_i` of rows to what a file
    holds of them; gradients pass straight through.

    * :obj:`"float16"`: one float16 a row.
    * :obj:`"log8"`: one logarithm of 8 bits a row, on a grid for each group
      (:func:`~pyg_nodequant.functional.snap_log_scale`).
    * :obj:`"group"`: one float16 for all rows of one group and width, the
      root mean square of their steps
      (:func:`~pyg_nodequant.functional.shared_step`).

    Grids reach an octave beyond the steps of all rows. They are fixed by
    :meth:`fix_grids`; before, they are those of the rows given.

    Args:
        num_nodes (int): The number of nodes :math:`N`.
        form (str): One of the three.
        groups (Tensor, optional): The group of each node, in
            :math:`[0, 255]`, shape :math:`(N)`. (default: :obj:`None`, all
            are in one)

    Raises:
        ValueError: If the form or the groups are not of this kind.

    Example:
        >>> scale = StoredScale(3, "group")
        >>> step, bits = torch.tensor([[1.0], [7.0], [9.0]]), torch.ones(3)
        >>> scale(step, bits - torch.tensor([1, 0, 0]))[0]
        tensor([[1.0000],
                [8.0625],
                [8.0625]])
    """

    groups: Tensor
    grids: Tensor
    fixed_flag: Tensor

    def __init__(self, num_nodes: int, form: str,
                 groups: Optional[Tensor] = None) -> None:
        super().__init__()
        check_choice("row_scale", form, ROW_SCALES)
        self.form = form
        self._fixed = False
        if form == "float16":
            return
        if groups is None:
            groups = torch.zeros(num_nodes, dtype=torch.uint8)
        if groups.numel() != num_nodes:
            raise ValueError(f"'groups' needs one entry for each of the "
                             f"{num_nodes} nodes (got {groups.numel()})")
        low, high = (0, 0) if num_nodes == 0 else (
            int(groups.min()), int(groups.max()))
        if low < 0 or high >= _GROUPS:
            raise ValueError(f"'groups' needs to be in [0, 255] "
                             f"(got [{low}, {high}])")
        self.register_buffer("groups", groups.detach().to(torch.uint8))
        if form == "log8":
            self.register_buffer("grids", torch.zeros(high + 1, 2))
            self.register_buffer("fixed_flag", torch.tensor(False))

    def reset_parameters(self) -> None:
        r"""Forgets the grids."""
        if self.form == "log8":
            self.grids.zero_()
            self.fixed_flag.fill_(False)
        self._fixed = False

    @property
    def needs_all(self) -> bool:
        r"""Whether the scale of a row depends on the rows of all nodes."""
        return self.form == "group" or (self.form == "log8"
                                        and not self._fixed)

    def forward(
        self,
        step: Tensor,
        bits: Tensor,
        n_id: Optional[Tensor] = None,
    ) -> tuple[Tensor, Optional[Tensor]]:
        r"""Returns the stored steps of nodes :obj:`n_id`, :math:`(B, 1)`, and
        the grid of each, :math:`(B, 2)`, if they are logarithms.

        Args:
            step (Tensor): The steps of these nodes or, if :attr:`needs_all`,
                of all, :math:`(N, 1)`.
            bits (Tensor): Their whole widths, :math:`(B)` or :math:`(N)`.
            n_id (Tensor, optional): The nodes. (default: :obj:`None`, all)
        """
        if self.form == "float16":
            return F.snap_float16(step), None
        if self.form == "group":
            cell = self.groups.long() * _WIDTHS + bits.long()
            shared = F.snap_float16(
                F.shared_step(step, cell, _GROUPS * _WIDTHS))
            index = cell if n_id is None else cell[n_id]
            return F.gather_rows(shared, index), None
        grids = self.grids.float() if self._fixed else self._fit(step, bits)
        given = n_id if self._fixed else None
        groups = self.groups if given is None else self.groups[given]
        grid = grids[groups.long()]
        out = F.snap_log_scale(step, grid.unsqueeze(1), LOG_BITS)
        if given is not n_id and n_id is not None:
            return F.gather_rows(out, n_id), grid[n_id]
        return out, grid

    @torch.no_grad()
    def fix_grids(self, step: Tensor, bits: Tensor) -> None:
        r"""Fixes the grids to those of the steps of all nodes."""
        if self.form == "log8":
            self.grids.copy_(self._fit(step, bits))
            self.fixed_flag.fill_(True)
            self._fixed = True

    def groups_of(self, n_id: Optional[Tensor]) -> Optional[Tensor]:
        r"""The groups of nodes that share scales; :obj:`None` if none do."""
        if self.form != "group":
            return None
        return self.groups if n_id is None else self.groups[n_id]

    @torch.no_grad()
    def _fit(self, step: Tensor, bits: Tensor) -> Tensor:
        grids = []
        for group in range(self.grids.size(0)):
            used = step[(self.groups == group) & (bits > 0)].float()
            grids.append(
                F.log_grid(torch.cat([used / 2, used * 2]), LOG_BITS))
        return torch.stack(grids)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str,
                              *args: Any) -> None:
        # A module that was made without groups takes over those it loads.
        grids = state_dict.get(f"{prefix}grids")
        if self.form == "log8" and grids is not None:
            self.grids = self.grids.new_zeros(grids.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._fixed = self.form == "log8" and bool(self.fixed_flag)
