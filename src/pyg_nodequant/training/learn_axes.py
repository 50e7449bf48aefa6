r"""Learns widths by row and axis, and makes rows of whole ones."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Optional

import torch
from torch import Tensor

from pyg_nodequant import functional as F
from pyg_nodequant.config import NodeQuantConfig
from pyg_nodequant.nn import SoftAxisRows, TransformRows
from pyg_nodequant.training.schedule import CosineSchedule, Schedule
from pyg_nodequant.training.stages import ALPHA_EPS, TransformStage
from pyg_nodequant.training.transform_plan import TransformPlan

# Lets a width move by a few bits within some hundred steps.
_BITS_LR = 0.02


class LearnAxesStage(TransformStage):
    r"""Trains rows and continuous widths together by the list-wise KL to the
    float model, a share of BPR, and the price of their bytes, which follows a
    dual ascent on the mean number of bytes a row: of all rows, or of users
    and of items.
    """

    name = "learn_axes"
    keeps_best = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        if not self.context.target_bytes:
            raise RuntimeError("learning widths needs a budget")
        users, items = self.rows.num_users, self.rows.num_items
        self.groups = ([slice(0, users), slice(users, users + items)]
                       if len(self.context.target_bytes) == 2 else
                       [slice(0, users + items)])
        self.duals = [F.DualState() for _ in self.groups]
        # Of the last loss: its widths, prices and excesses.
        self.widths = torch.empty(0)
        self.prices: list[float] = []
        self.excesses: list[float] = []

    @property
    def soft(self) -> SoftAxisRows:
        r"""The rows that are trained."""
        if not isinstance(self.rows, SoftAxisRows):
            raise RuntimeError("these rows have no widths to learn")
        return self.rows

    def make_schedule(self, steps_per_epoch: int) -> Schedule:
        r"""A fixed number of steps along a cosine."""
        return CosineSchedule(self.config.quant.learn_steps)

    def make_optimizer(self) -> torch.optim.Optimizer:
        r"""Adam on everything, scores and profiles in a group of their own."""
        return torch.optim.Adam([
            {"params": [self.soft.weight, self.soft.log_spread],
             "lr": self.config.quant.finetune_lr},
            {"params": [self.soft.score, self.soft.profile],
             "lr": _BITS_LR, "eps": ALPHA_EPS},
        ], fused=True)

    def user_rows(self, ids: Tensor) -> Tensor:
        r"""Rows of users at the widths of this step."""
        return self.soft.quantized(0, self.widths, ids)

    def item_rows(self, ids: Optional[Tensor] = None) -> Tensor:
        r"""Rows of items at the widths of this step."""
        return self.soft.quantized(1, self.widths, ids)

    def loss(self, step: int, users: Tensor, positives: Tensor,
             negatives: Tensor) -> Tensor:
        r"""KL + BPR + the price of the bytes."""
        self.widths = self.soft.widths()
        self.widths.retain_grad()
        self.prices, self.excesses = [], []
        loss = super().loss(step, users, positives, negatives)
        targets = self.context.target_bytes or ()
        for group, dual, target in zip(self.groups, self.duals, targets,
                                       strict=True):
            excess = self.widths[group].sum(1).mean() / 8 - target
            self.excesses.append(float(excess.detach()))
            self.prices.append(F.price(dual, self.excesses[-1]))
            loss = loss + self.prices[-1] * excess
        return loss

    @torch.no_grad()
    def after_backward(self) -> None:
        r"""Raises or lowers the prices."""
        gradient = self.widths.grad
        if gradient is None:
            raise RuntimeError("the widths got no gradient")
        moving = (self.widths > 0) & (self.widths < self.soft.max_bits)
        for number, group in enumerate(self.groups):
            # What a byte is worth to each row, in those of its numbers that
            # are free to take part of it.
            free = moving[group]
            count = free.sum(1)
            rows = count > 0
            if not bool(rows.any()):
                continue
            mean = torch.where(free, gradient[group], 0).sum(1)[rows]
            mean = mean / count[rows] * (8 * len(free))
            self.duals[number] = F.dual_ascent(
                self.duals[number], self.prices[number] - mean,
                self.excesses[number], self.config.quant.dual_rate)

    def state_dict(self) -> dict[str, Any]:
        r"""The states of the dual ascents."""
        return {"duals": [asdict(dual) for dual in self.duals]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        r"""Continues from a state."""
        self.duals = [F.DualState(**dual) for dual in state["duals"]]


class LearnedPlan(TransformPlan):
    r"""Whole widths nearest to learned ones that meet a budget.

    All rows' bytes are moved by one offset and rounded, so that they have the
    sum that is asked for; a class of :math:`B` bytes has the profile of its
    kind, moved by one offset and rounded to :math:`8 B` bits. As a row's
    learned widths depend on its score and the profile alone, that loses
    nothing but the rounding.

    Args:
        users (Tensor): The float model's users, :math:`(U, d)`.
        items (Tensor): Its items, :math:`(I, d)`.
        quant (NodeQuantConfig): The settings.
        row_bits (Tensor): Learned bits of each row, users before items.
        profile (Tensor): Learned profiles, :math:`(2, axes)`.
    """

    def __init__(self, users: Tensor, items: Tensor, quant: NodeQuantConfig,
                 row_bits: Tensor, profile: Tensor) -> None:
        self.quant = quant
        self.kinds = F.principal_axes(users, items, profile.size(1))
        self.row_bytes = row_bits / 8
        self.profile = profile

    def rows(self, total: tuple[int, int] | int) -> TransformRows:
        r"""Returns rows whose codes have so many bytes: of users and of items,
        or of both together.
        """
        counts = [len(x) for x in self.kinds]
        if isinstance(total, int):
            parts = torch.split(self._bytes(self.row_bytes, total), counts)
        else:
            parts = tuple(self._bytes(*part) for part in zip(
                torch.split(self.row_bytes, counts), total, strict=True))
        axes = self.profile.size(1)
        widths, classes = [], []
        for part, profile in zip(parts, self.profile, strict=True):
            used, numbers = torch.unique(part, return_inverse=True)
            widths.append(torch.stack([
                F.project_to_budget(profile, 8 * int(level) / axes, 0,
                                    self.quant.max_bits) for level in used]))
            classes.append(numbers)
        return self.assemble(widths, classes)

    def _bytes(self, wanted: Tensor, total: int) -> Tensor:
        lowest, count = self.window(len(wanted), total)
        return F.project_to_budget(wanted, total / max(len(wanted), 1), lowest,
                                   lowest + count - 1)
