r"""From a float model to the rows that transform coding starts with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from pyg_nodequant import functional as F
from pyg_nodequant.config import NodeQuantConfig
from pyg_nodequant.nn import TransformRows

# Bytes a node where no budget is given.
DEFAULT_BYTES = 11.0
# Bits that each axis gets on average, where their number is not given.
AXIS_BITS = 3.6
# Classes of a table: their numbers take half a byte a row.
_CLASSES = 16
# Nodes of a class from which its columns' weights are its own.
_OWN_PROFILE = 32
# Times that bits are given anew after the other side's.
_ROUNDS = 3


@dataclass(frozen=True)
class PlanAxes:
    r"""The axes that rows of a plan are in.

    Args:
        used (Tensor): Which of the plan's first axes the rows have, boolean.
        rotation (Tensor, optional): What these were turned by before.
    """

    used: Tensor
    rotation: Optional[Tensor] = None

    def turn(self, users: Tensor, items: Tensor) -> Tensor:
        r"""Returns the float rows of users, then items, in these axes: first
        those that the rows have, then all others.
        """
        full = torch.cat(F.principal_axes(users, items, users.size(1)))
        count = self.used.numel()
        first, rest = full[:, :count], full[:, count:]
        if self.rotation is not None:
            first = first @ self.rotation
        return torch.cat([first[:, self.used], first[:, ~self.used], rest], 1)


def axes_for(quant: NodeQuantConfig, num_nodes: int) -> int:
    r"""Returns how many axes rows of a budget may use: with all of them at
    hand, water-filling gives one bit to many, of which fine-tuning makes
    little.

    Example:
        >>> axes_for(NodeQuantConfig("transform", bytes_per_node=11.0), 100)
        24
    """
    if quant.bytes_per_user is not None and quant.bytes_per_item is not None:
        size = max(quant.bytes_per_user, quant.bytes_per_item)
    else:
        budget = quant.budget_bytes(num_nodes)
        size = DEFAULT_BYTES if budget is None else budget / num_nodes
    bits = min(AXIS_BITS, 0.75 * quant.max_bits)
    return max(1, round(8 * size / bits))


class TransformPlan:
    r"""Who gets how many bytes: rows by the tempered sensitivity of the
    rankings to them, columns of a row by their share in it.

    The rankings change by about :math:`\tfrac12 \sum_{nk} h_{nk} e_{nk}^2`
    (:func:`~pyg_nodequant.functional.directional_curvature`) and a number of
    :math:`b` bits errs by :math:`e_{nk}^2 \approx r_n^2 \sigma_k^2 D(b)`. With
    :math:`s_{nk} = h_{nk} r_n^2 \sigma_k^2` and :math:`w_n = \sum_k s_{nk}`,
    row :math:`n` counts as :math:`w_n^p`; its number of bytes is its class,
    and a class shares out its bits by :math:`\sum_n w_n^{p-1} s_{nk}` over
    its rows.

    A product is worth no more than its worse factor: an axis that items hardly
    keep is not worth a user's bits. So each side's column is weighted with the
    share of its energy that the other side keeps, :math:`1 - \overline{D}_k`,
    and the bits are given anew, a few times.

    Args:
        users (Tensor): The float model's users, :math:`(U, d)`.
        items (Tensor): Its items, :math:`(I, d)`.
        quant (NodeQuantConfig): The settings.
        seed (int, optional): Of the shuffled control.
        excluded (Tensor, optional): Users and items that do not count in a
            ranking, :math:`(2, M)`, sorted by user.
    """

    def __init__(self, users: Tensor, items: Tensor, quant: NodeQuantConfig,
                 seed: int = 0, excluded: Optional[Tensor] = None) -> None:
        self.quant = quant
        self.seed = seed
        axes = users.size(1)
        if quant.axes is not None:
            axes = min(axes, quant.axes)
        elif quant.allocation != "uniform":
            axes = min(axes, axes_for(quant, len(users) + len(items)))
        self.kinds = F.principal_axes(users, items, axes)
        #: The axes of the rows that were made last.
        self.axes = PlanAxes(torch.ones(axes, dtype=torch.bool,
                                        device=users.device))
        if quant.allocation == "uniform":
            rotation = F.quantizing_rotation(torch.cat(self.kinds),
                                             quant.bits, seed=seed)
            self.kinds = (self.kinds[0] @ rotation, self.kinds[1] @ rotation)
            self.axes = PlanAxes(self.axes.used, rotation)
            return
        curvature = F.directional_curvature(
            *self.kinds, temperature=quant.temperature, excluded=excluded)
        shares, weights = [], []
        for x, h in zip(self.kinds, curvature, strict=True):
            spread = F.column_spread(x)
            share = h * (F.row_scale(x, spread) * spread).square()
            weight = share.sum(1).clamp(min=1e-300)
            tempered = weight**quant.sensitivity_power
            weights.append(tempered)
            shares.append(share * (tempered / weight).unsqueeze(1))
        self.weights: list[Tensor] = weights
        self.shares: list[Tensor] = shares

    def uniform_rows(self) -> TransformRows:
        r"""Returns rows of one width."""
        users, items = self.kinds
        widths = torch.full((1, users.size(1)), self.quant.bits,
                            device=users.device)
        classes = torch.zeros(len(users) + len(items), dtype=torch.long,
                              device=users.device)
        return TransformRows(users, items, widths, widths, classes,
                             self.quant.scale_bits)

    def rows(self, total: tuple[int, int] | int) -> TransformRows:
        r"""Returns rows whose codes have so many bytes: of users and of items,
        or of both together.
        """
        widths, classes = self._give(self.shares_kept(total), total,
                                     control=True)
        return self.assemble(widths, classes)

    def shares_kept(self, total: tuple[int, int] | int) -> list[Tensor]:
        r"""What each number counts, of users and of items, in view of what the
        other side keeps of its axis.
        """
        shares = self.shares
        for _ in range(_ROUNDS):
            widths, classes = self._give(shares, total, control=False)
            users, items = (self._kept(kind, widths[kind], classes[kind])
                            for kind in (0, 1))
            shares = [self.shares[0] * items, self.shares[1] * users]
        return shares

    def assemble(self, widths: list[Tensor],
                 classes: list[Tensor]) -> TransformRows:
        r"""Returns rows of given classes, without axes that nobody uses."""
        used = (torch.cat(widths) > 0).any(0)
        if not bool(used.any()):
            used[0] = True
        self.axes = PlanAxes(used)
        rows, tables = ([x[:, used] for x in parts]
                        for parts in (self.kinds, widths))
        return TransformRows(rows[0], rows[1], tables[0], tables[1],
                             torch.cat(classes), self.quant.scale_bits)

    def _kept(self, kind: int, widths: Tensor, classes: Tensor) -> Tensor:
        # The share of each column's energy that is left after quantization.
        share = self.shares[kind]
        distortion = torch.tensor(F.GAUSSIAN_DISTORTION, dtype=share.dtype,
                                  device=share.device)
        lost = (share * distortion[widths][classes]).sum(0)
        return 1 - lost / share.sum(0).clamp(min=1e-300)

    def _give(self, shares: list[Tensor], total: tuple[int, int] | int,
              control: bool) -> tuple[list[Tensor], list[Tensor]]:
        # Widths of the classes, and the class of each row, of both kinds.
        users = self.kinds[0].size(0)
        if isinstance(total, int):
            levels, lowest = self._levels(self.weights, shares, total)
            parts, lows = [levels[:users], levels[users:]], [lowest] * 2
        else:
            found = [self._levels([w], [s], t) for w, s, t in
                     zip(self.weights, shares, total, strict=True)]
            parts, lows = [f[0] for f in found], [f[1] for f in found]
        widths, classes = [], []
        for kind, (part, low, share) in enumerate(
                zip(parts, lows, shares, strict=True)):
            if control and self.quant.allocation == "shuffled":
                part = F.shuffled(part, 2 * self.seed + kind)
            used, numbers = torch.unique(part, return_inverse=True)
            widths.append(self._widths(used, low, part, share))
            classes.append(numbers)
        return widths, classes

    def _levels(self, weights: list[Tensor], shares: list[Tensor],
                total: int) -> tuple[Tensor, int]:
        # Bytes of each row beyond the fewest, and the fewest.
        rows = sum(w.numel() for w in weights)
        lowest, count = self.window(rows, total)
        gains = []
        for weight, share in zip(weights, shares, strict=True):
            column = share.sum(0)
            column = column / column.sum().clamp(min=1e-300)
            widths = F.byte_profiles(column, lowest, count,
                                     self.quant.max_bits)
            gains.append((weight, F.profile_distortion(column, widths)))
        return F.allocate_levels(gains, total - lowest * rows), lowest

    def window(self, rows: int, total: int) -> tuple[int, int]:
        r"""The fewest bytes of a row, and how many numbers of bytes there are:
        as many as there may be classes, about the mean.

        Raises:
            ValueError: If no rows have so many bytes.
        """
        top = self.kinds[0].size(1) * self.quant.max_bits // 8
        mean = total / max(rows, 1)
        lowest = max(0, min(round(mean) - _CLASSES // 2 + 1, top - 1))
        lowest = max(lowest, min(self.quant.min_bytes, int(mean)))
        count = min(_CLASSES, top - lowest + 1)
        extra = total - lowest * rows
        if not 0 <= extra <= (count - 1) * rows:
            raise ValueError(
                f"the budget leaves {mean:.2f} bytes a row for codes, which "
                f"needs to be in [0, {top}] with {self.kinds[0].size(1)} axes "
                f"of at most {self.quant.max_bits} bits")
        return lowest, count

    def _widths(self, used: Tensor, lowest: int, levels: Tensor,
                share: Tensor) -> Tensor:
        lines, everyone = [], share.sum(0)
        for level in used:
            mine = levels == level
            own = int(mine.sum()) >= _OWN_PROFILE
            lines.append(share[mine].sum(0) if own else everyone)
        profiles = [F.byte_profiles(line, lowest + int(level), 1,
                                    self.quant.max_bits)
                    for line, level in zip(lines, used, strict=True)]
        return torch.cat(profiles)
