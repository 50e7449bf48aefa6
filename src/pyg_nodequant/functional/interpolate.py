r"""Rows between whole widths: their difference is the width's gradient."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from pyg_nodequant.functional.quantize import (
    GAUSSIAN_SPAN,
    code_ratio,
    column,
    num_levels,
    row_position,
)

Range = tuple[Tensor, Tensor]


def neighbour_bits(bits: Tensor) -> tuple[Tensor, Tensor]:
    r"""The whole widths :math:`\lfloor b \rfloor` and
    :math:`\lfloor b \rfloor + 1` around continuous ones, at most 7 and 8;
    without gradient.

    Example:
        >>> neighbour_bits(torch.tensor([1.2, 3.0, 8.0]))
        (tensor([1., 3., 7.]), tensor([2., 4., 8.]))
    """
    low = bits.detach().floor().clamp(0, len(GAUSSIAN_SPAN) - 2)
    return low, low + 1


def _value(x: Tensor, levels: Tensor, delta: Tensor, mu: Tensor,
           noise: Optional[Tensor]) -> Tensor:
    position = row_position(x, delta, mu).clamp_(0, 1)
    return code_ratio(position, levels, noise).mul_(delta).add_(mu)


class _Interpolate(torch.autograd.Function):
    # Only the input is kept for the backward pass, where the two rows are
    # computed again.
    @staticmethod
    def forward(ctx: Any, x: Tensor, fraction: Tensor,
                noise: Optional[Tensor], *sides: Tensor) -> Tensor:
        ctx.save_for_backward(x, fraction, noise, *sides)
        # Exact at both ends.
        low, high = (_value(x, levels, delta, mu, noise)
                     for levels, delta, mu in (sides[:3], sides[3:]))
        return torch.lerp(low, high, fraction)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Optional[Tensor], ...]:
        x, fraction, noise, *sides = ctx.saved_tensors
        grad_x = torch.zeros_like(x)
        difference = torch.zeros_like(x)
        by_range: list[Optional[Tensor]] = []
        for sign, share, (levels, delta, mu) in (
                (-1, 1 - fraction, sides[:3]), (1, fraction, sides[3:])):
            grad = grads[0] * share
            position = row_position(x, delta, mu)
            inside = (position >= 0) & (position <= 1) & (delta > 0)
            position.clamp_(0, 1)
            ratio = code_ratio(position, levels, noise)
            grad_x += torch.where(inside, grad, 0)
            by_delta = grad * torch.where(inside, ratio - position, ratio)
            by_mu = torch.where(inside, 0, grad)
            by_range += [None, by_delta.sum_to_size(delta.shape),
                         by_mu.sum_to_size(mu.shape)]
            difference.add_(ratio.mul_(delta).add_(mu), alpha=sign)
        by_fraction = (grads[0] * difference).sum_to_size(fraction.shape)
        return (grad_x, by_fraction, None, *by_range)


def interpolate_quantize(x: Tensor, bits: Tensor, low: Range, high: Range,
                         noise: Optional[Tensor] = None) -> Tensor:
    r"""Rows at a continuous width: between those of its whole neighbours,

    .. math::
        q(b) = (1 - f) \, q_{\lfloor b \rfloor} + f \,
        q_{\lfloor b \rfloor + 1}, \qquad f = b - \lfloor b \rfloor .

    At whole widths this is :func:`fake_quantize`. In between it is what a
    row would be on average if its width were rounded up with probability
    :math:`f`, so that its derivative

    .. math::
        \frac{\partial q}{\partial b} =
        q_{\lfloor b \rfloor + 1} - q_{\lfloor b \rfloor}

    is exact, and says what one bit more changes, instead of what a fraction
    of a level would. Rounding within the two rows passes gradients straight
    through to values and ranges. A row of width 0 is 0.

    Args:
        x (Tensor): Rows of shape :math:`(B, d)`.
        bits (Tensor): Widths in :math:`[0, 8]`, shape :math:`(B)`.
        low (tuple): :math:`\Delta, \mu` at the lower width of
            :func:`neighbour_bits`, :math:`(B)` or :math:`(B, 1)`.
        high (tuple): The same at the upper one.
        noise (Tensor, optional): As in :func:`fake_quantize`, in steps of
            either width.

    Returns:
        :math:`q` of shape :math:`(B, d)`.

    Example:
        >>> x = torch.tensor([[0.0, 0.4, 1.0]])
        >>> unit = torch.tensor([1.0]), torch.tensor([0.0])
        >>> bits = torch.tensor([1.5], requires_grad=True)
        >>> out = interpolate_quantize(x, bits, unit, unit)
        >>> out
        tensor([[0.0000, 0.1667, 1.0000]], grad_fn=<_InterpolateBackward>)
        >>> out.sum().backward()
        >>> bits.grad
        tensor([0.3333])
    """
    below, above = neighbour_bits(bits)
    live = column(below) > 0
    delta, mu = (torch.where(live, column(part), 0) for part in low)
    out: Tensor = _Interpolate.apply(  # type: ignore[no-untyped-call]
        x, column(bits - below), noise, column(num_levels(below)), delta, mu,
        column(num_levels(above)), column(high[0]), column(high[1]))
    return out
