r"""From a float model to the rows that transform coding starts with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

import torch
from torch import Tensor

from pyg_nodequant import functional as F
from pyg_nodequant.config import NodeQuantConfig
from pyg_nodequant.nn import QuantLightGCN, TransformRows
from pyg_nodequant.training.packing import (
    embedding_bytes,
    pack_axes,
    pack_rows,
)

# Classes of a table: their numbers take half a byte a row.
_CLASSES = 16
# Nodes of a class from which its columns' weights are its own.
_OWN_PROFILE = 32
# Bytes a node where no budget is given.
DEFAULT_BYTES = 11.0
# Times that bits are given anew after the other side's.
_ROUNDS = 3
# Times that the size of a file is asked for.
_TRIES = 8


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
    """

    def __init__(self, users: Tensor, items: Tensor, quant: NodeQuantConfig,
                 seed: int = 0) -> None:
        self.quant = quant
        self.seed = seed
        axes = min(quant.axes, users.size(1))
        self.kinds = F.principal_axes(users, items, axes)
        if quant.allocation == "uniform":
            rotation = F.quantizing_rotation(torch.cat(self.kinds),
                                             quant.bits, seed=seed)
            self.kinds = (self.kinds[0] @ rotation, self.kinds[1] @ rotation)
            return
        curvature = F.directional_curvature(*self.kinds)
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
        shares = self.shares
        for _ in range(_ROUNDS):
            widths, classes = self._give(shares, total, control=False)
            users, items = (self._kept(kind, widths[kind], classes[kind])
                            for kind in (0, 1))
            shares = [self.shares[0] * items, self.shares[1] * users]
        widths, classes = self._give(shares, total, control=True)
        used = (torch.cat(widths) > 0).any(0)
        if not bool(used.any()):
            used[0] = True
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
        gains = []
        for weight, share in zip(weights, shares, strict=True):
            column = share.sum(0)
            column = column / column.sum().clamp(min=1e-300)
            widths = F.byte_profiles(column, lowest, count,
                                     self.quant.max_bits)
            gains.append((weight, F.profile_distortion(column, widths)))
        return F.allocate_levels(gains, extra), lowest

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


def meet_bytes(
    size: Callable[[int], int],
    budget: int,
    start: int,
    unit: int = 1,
    least: int = 0,
    most: int = 2**62,
) -> int:
    r"""Returns the largest amount found whose size is within a budget.

    Sizes grow by about :obj:`unit` with each one more; what else there is in
    a file is not known beforehand, so it is asked.

    Args:
        size (callable): The size in bytes of an amount.
        budget (int): The most bytes.
        start (int): The amount to begin with.
        unit (int, optional): Bytes of one more.

    Raises:
        ValueError: If the budget is too small for any amount.

    Example:
        >>> meet_bytes(lambda amount: 1000 + amount, 1500, 0)
        500
    """
    good: Optional[int] = None
    bad: Optional[int] = None
    amount = min(max(start, least), most)
    for _ in range(_TRIES):
        found = size(amount)
        if found <= budget:
            good = amount
            if budget - found < unit:
                break
        else:
            bad = amount
        low = least if good is None else good + 1
        high = most if bad is None else bad - 1
        if low > high:
            break
        guess = amount + (budget - found) // unit
        if good is not None and bad is not None and not low <= guess <= high:
            guess = (good + bad) // 2
        amount = min(max(guess, low), high)
    if good is None:
        if size(least) > budget:
            raise ValueError(f"the budget of {budget} bytes is smaller than "
                             f"what a file needs beside its codes (at least "
                             f"{size(least)} bytes)")
        good = least
    return good


def transform_budget(plan: TransformPlan,
                     quant: NodeQuantConfig) -> tuple[int, int] | int:
    r"""Bytes of codes that meet a budget: of users and of items, or of both
    together.
    """
    counts = [x.size(0) for x in plan.kinds]
    if quant.bytes_per_user is not None and quant.bytes_per_item is not None:
        # Half a byte says the class.
        side = 0.5 + quant.scale_bits / 8
        users, items = (int((size - side) * count) for size, count in zip(
            (quant.bytes_per_user, quant.bytes_per_item), counts,
            strict=True))
        if min(users, items) < 0:
            raise ValueError(f"'quant.bytes_per_user' and 'quant.bytes_per_"
                             f"item' need at least {side:g} for the scale and "
                             f"the class")
        return users, items

    def size(total: int) -> int:
        rows = plan.rows(total)
        return embedding_bytes(pack_axes(rows, 0), pack_axes(rows, 1))

    budget = quant.budget_bytes(sum(counts))
    if budget is None:
        budget = int(DEFAULT_BYTES * sum(counts))
    top = plan.kinds[0].size(1) * quant.max_bits // 8 * sum(counts)
    return meet_bytes(size, budget, budget - sum(counts), most=top)


def node_budget(model: QuantLightGCN, rows: Tensor,
                widths: Callable[[int], Tensor], budget: int,
                quant: NodeQuantConfig, num_users: int) -> int:
    r"""The sum of node-only widths that meets a budget of bytes."""
    controller = model.embedding.controller
    quantizer = model.output_quantizer
    if quantizer is None:
        raise ValueError("a budget in bytes needs quant.where=output: the "
                         "graph that 'input' packs has no width")
    low, high = quant.min_bits * len(rows), quant.max_bits * len(rows)

    def size(total: int) -> int:
        controller.freeze(widths(total))
        quantizer.calibrate(rows)
        return embedding_bytes(*pack_rows(quantizer, rows, num_users))

    unit = (rows.size(1) + 7) // 8
    return meet_bytes(size, budget, budget // unit, unit, low, high)
