r"""The stage that learns the widths within a budget."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from pyg_nodequant import functional as F
from pyg_nodequant.nn import BitWidthController
from pyg_nodequant.training.schedule import CosineSchedule, Schedule
from pyg_nodequant.training.stages import (
    ALPHA_EPS,
    ALPHA_LR,
    FinetuneStage,
    float_params,
)

# How far inside its bounds a width starts: at a bound the sigmoid is flat.
_INSIDE = 0.25


def start_widths(controller: BitWidthController, bits: Tensor) -> None:
    r"""Starts the scores from whole widths, those at a bound a quarter of a
    bit inside of it.
    """
    low, high = controller.min_bits, controller.max_bits
    controller.set_bits(bits.float().clamp(low + _INSIDE, high - _INSIDE))


class LearnStage(FinetuneStage):
    r"""Trains rows and continuous widths together on

    .. math::
        \mathrm{KL} + w \, \mathrm{BPR} + \mathrm{L2} + p
        \Big( \frac{1}{N} \sum_i b_i - b^{*} \Big),

    where the price :math:`p` (:func:`~pyg_nodequant.functional.price`)
    follows a dual ascent until the mean width is :math:`b^{*}`. The last
    widths count, not those of the best validation: only they have paid for
    their bits.
    """

    name = "learn"
    keeps_best = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.dual = F.DualState()
        self.price = 0.0  # that the last loss was formed with

    def make_schedule(self, steps_per_epoch: int) -> Schedule:
        r"""A fixed number of steps along a cosine."""
        return CosineSchedule(self.config.quant.learn_steps)

    def make_optimizer(self) -> torch.optim.Optimizer:
        r"""Adam on everything, the scores in a group of their own."""
        return torch.optim.Adam([
            {"params": float_params(self.model),
             "lr": self.config.quant.finetune_lr},
            {"params": [self.model.embedding.controller.alpha],
             "lr": ALPHA_LR, "eps": ALPHA_EPS},
        ], fused=True)

    def excess(self) -> Tensor:
        r"""How many bits the mean width is above the budget."""
        target = self.context.target_bits
        if target is None:
            raise RuntimeError("learning widths needs a budget")
        bits: Tensor = self.model.embedding.controller()
        return bits.mean() - target

    def loss(self, step: int, users: Tensor, positives: Tensor,
             negatives: Tensor) -> Tensor:
        r"""KL + BPR + L2 + the price of the excess."""
        loss = super().loss(step, users, positives, negatives)
        excess = self.excess()
        self.price = F.price(self.dual, float(excess.detach()))
        return loss + self.price * excess

    @torch.no_grad()
    def after_backward(self) -> None:
        r"""Raises or lowers the price."""
        controller = self.model.embedding.controller
        gradient = controller.alpha.grad
        if gradient is None:
            raise RuntimeError("the scores of the widths got no gradient")
        slope = F.bit_width_slope(controller.alpha, controller.min_bits,
                                  controller.max_bits)
        # In the widths, times N; the price itself is part of the gradient.
        worth = self.price - gradient / slope * gradient.numel()
        self.dual = F.dual_ascent(self.dual, worth, float(self.excess()),
                                  self.config.quant.dual_rate)

    def state_dict(self) -> dict[str, Any]:
        r"""The state of the dual ascent."""
        return asdict(self.dual)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        r"""Continues from a state."""
        self.dual = F.DualState(**state)
