r"""Continuous widths by row and axis: a row's score and an axis' profile.

The distortion of a number falls by the same factor with each bit, so where
rows and axes matter independently, :math:`s_{nk} = w_n \sigma_k^2`, the
optimal widths are :math:`\tfrac{1}{2} \log_2 w_n + \tfrac{1}{2} \log_2
\sigma_k^2 - \tfrac{1}{2} \log_2 \theta`, cut at 0 (reverse water-filling): a
score and a profile add *in bits*.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyg_nodequant.functional.allocation import GAUSSIAN_DISTORTION
from pyg_nodequant.functional.transform import gaussian_steps, quantize_axes

# How far below the widest column others may start, in bits.
_DEEP = 32.0
_HALVINGS = 60


class _InwardClamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.low, ctx.high = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, grad = ctx.saved_tensors[0], grads[0]
        # A descent step moves against the gradient.
        outward = (((x <= ctx.low) & (grad > 0)) |
                   ((x >= ctx.high) & (grad < 0)))
        return torch.where(outward, 0, grad), None, None


def axis_widths(score: Tensor, profile: Tensor, max_bits: float) -> Tensor:
    r"""The width of each number of each row,

    .. math::
        b_{nk} = \mathrm{clamp}(a_n + c_k, 0, b_{\max}).

    At a bound the gradient passes where it points inside: a number of no bits
    can get one again.

    Args:
        score (Tensor): Scores :math:`a` of the rows in bits, :math:`(n)`.
        profile (Tensor): Profile :math:`c` of the axes in bits, :math:`(d)`.
        max_bits (float): :math:`b_{\max}`.

    Returns:
        Widths of shape :math:`(n, d)`.

    Example:
        >>> axis_widths(torch.tensor([0.0, 1.5]), torch.tensor([2.0, -1.0]), 3)
        tensor([[2.0000, 0.0000],
                [3.0000, 0.5000]])
    """
    out: Tensor = _InwardClamp.apply(  # type: ignore[no-untyped-call]
        score.unsqueeze(-1) + profile, 0.0, float(max_bits))
    return out


def fill_score(total: Tensor, profile: Tensor, max_bits: float) -> Tensor:
    r"""The scores :math:`a_n` whose :func:`axis_widths` add up to so many bits
    a row, by bisection.

    Args:
        total (Tensor): Bits of each row, in :math:`[0, d \, b_{\max}]`, shape
            :math:`(n)`.
        profile (Tensor): Profile :math:`c`, :math:`(d)`.
        max_bits (float): :math:`b_{\max}`.

    Example:
        >>> fill_score(torch.tensor([3.0]), torch.tensor([2.0, 0.0]), 8)
        tensor([0.5000])
    """
    c = profile.detach().double()
    low = torch.full_like(total, float(-c.max()), dtype=torch.double)
    high = torch.full_like(low, float(max_bits - c.min()))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        less = (middle.unsqueeze(-1) + c).clamp(0, max_bits).sum(-1) < total
        low = torch.where(less, middle, low)
        high = torch.where(less, high, middle)
    return ((low + high) / 2).to(profile.dtype)


def share_profile(weight: Tensor) -> Tensor:
    r"""The profile of axes of weights :math:`w_k`: :math:`c_k = \log w_k /
    \log \rho`, where a bit divides the distortion by :math:`\rho = (D(0) /
    D(8))^{1/8} \approx 3.2`; the widest is 0, none is below -32.

    Example:
        >>> share_profile(torch.tensor([3.21, 1.0, 0.0])).round()
        tensor([  0.,  -1., -32.])
    """
    ratio = math.log(GAUSSIAN_DISTORTION[0] / GAUSSIAN_DISTORTION[8]) / 8
    bits = weight.double().clamp(min=1e-300).log() / ratio
    out: Tensor = (bits - bits.max()).clamp(min=-_DEEP)
    return out.to(torch.get_default_dtype())


def interpolate_axes(x: Tensor, bits: Tensor, spread: Tensor, scale: Tensor,
                     max_bits: int) -> Tensor:
    r"""Quantizes rows at continuous widths: between the two whole ones,

    .. math::
        \hat{x}(b) = (1 - f) \, \hat{x}(\lfloor b \rfloor) + f \, \hat{x}(
        \lfloor b \rfloor + 1), \quad f = b - \lfloor b \rfloor, \qquad
        \frac{\partial \hat{x}}{\partial b} = \hat{x}(\lfloor b \rfloor + 1)
        - \hat{x}(\lfloor b \rfloor),

    what the next bit would change. Rounding passes gradients straight
    through, spreads and scales get their own.

    Args:
        x (Tensor): Rows of shape :math:`(B, d)`.
        bits (Tensor): Widths of each number, :math:`(B, d)`.
        spread (Tensor): Column spreads :math:`\sigma`, :math:`(d)`.
        scale (Tensor): Row scales :math:`r`, :math:`(B, 1)`.
        max_bits (int): The largest width.

    Example:
        >>> one = torch.ones(1)
        >>> rows, scale = torch.tensor([[0.5]]), torch.ones(1, 1)
        >>> at = [float(interpolate_axes(rows, torch.tensor([[b]]), one, scale,
        ...                              8)) for b in (1.0, 1.5, 2.0)]
        >>> at[1] == (at[0] + at[2]) / 2
        True
    """
    low = bits.detach().floor().clamp(0, max_bits - 1).long()
    fraction = bits - low.to(bits.dtype)
    below, above = (quantize_axes(x, width, gaussian_steps(width, spread),
                                  scale) for width in (low, low + 1))
    return below + fraction * (above - below)
