r"""Widths: from a node's free score to bits, and back to whole numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def bit_width(alpha: Tensor, min_bits: float, max_bits: float) -> Tensor:
    r"""The continuous width of each node (`arXiv 2508.16516
    <https://arxiv.org/abs/2508.16516>`_)

    .. math::
        b_i = b_{\min} + (b_{\max} - b_{\min}) \, \sigma(\alpha_i).

    Args:
        alpha (Tensor): Free scores, shape :math:`(N)`.
        min_bits (float): Smallest width, in bits.
        max_bits (float): Largest width, in bits.

    Example:
        >>> bit_width(torch.tensor([0.0]), 1, 8)
        tensor([4.5000])
    """
    return min_bits + (max_bits - min_bits) * torch.sigmoid(alpha)


def bit_width_slope(alpha: Tensor, min_bits: float,
                    max_bits: float) -> Tensor:
    r"""The derivative :math:`\partial b_i / \partial \alpha_i` of
    :func:`bit_width`.

    Example:
        >>> bit_width_slope(torch.tensor([0.0]), 1, 8)
        tensor([1.7500])
    """
    share = torch.sigmoid(alpha)
    return (max_bits - min_bits) * share * (1 - share)


def inverse_bit_width(
    bits: Tensor,
    min_bits: float,
    max_bits: float,
    margin: float = 1e-3,
) -> Tensor:
    r"""The score :math:`\alpha_i` whose :func:`bit_width` is :math:`b_i`;
    widths are kept :obj:`margin` of the range away from both bounds, where
    the score would be infinite.

    Example:
        >>> alpha = inverse_bit_width(torch.tensor([2.0, 4.5]), 1, 8)
        >>> bit_width(alpha, 1, 8)
        tensor([2.0000, 4.5000])
    """
    if max_bits == min_bits:
        return torch.zeros_like(bits)
    ratio = (bits - min_bits) / (max_bits - min_bits)
    return torch.logit(ratio.clamp(margin, 1 - margin))


def round_bits(bits: Tensor, min_bits: int, max_bits: int) -> Tensor:
    r"""Whole widths :math:`\mathrm{round}(b_i)` within the bounds, as int64.

    Example:
        >>> round_bits(torch.tensor([1.2, 3.7]), 1, 8)
        tensor([1, 4])
    """
    return bits.round().clamp(min_bits, max_bits).long()


def budget_total(num_nodes: int, target_bits: float) -> int:
    r"""The largest sum of whole widths whose mean is at most
    :obj:`target_bits`: :math:`\lfloor N b^{*} \rfloor`, robust to the
    representation error of the target.

    Example:
        >>> budget_total(3, 2.5)
        7
    """
    return int(math.floor(num_nodes * target_bits + 1e-9))


def project_to_budget(
    bits: Tensor,
    target_bits: float,
    min_bits: int,
    max_bits: int,
) -> Tensor:
    r"""Whole widths nearest to continuous ones that meet a budget exactly.

    All widths are shifted by one common offset, found by bisection, and
    rounded; the few nodes that tie at the last step are filled in by their
    rounding residue, then by lowest id, so that
    :math:`\sum_i b_i = \lfloor N b^{*} \rfloor` holds exactly.

    Args:
        bits (Tensor): Continuous widths, shape :math:`(N)`.
        target_bits (float): The mean width to meet, in
            [:obj:`min_bits`, :obj:`max_bits`].
        min_bits (int): Smallest width.
        max_bits (int): Largest width.

    Raises:
        ValueError: If the target is outside the bounds.

    Example:
        >>> project_to_budget(torch.tensor([1.1, 2.0, 3.4]), 2.0, 1, 8)
        tensor([1, 2, 3])
    """
    if not min_bits <= target_bits <= max_bits:
        raise ValueError(f"'target_bits' needs to be in "
                         f"[{min_bits}, {max_bits}] (got {target_bits})")
    value = bits.detach().double()
    total = budget_total(value.numel(), target_bits)
    low, high = float(min_bits - value.max() - 1), float(
        max_bits - value.min() + 1)
    for _ in range(80):
        middle = (low + high) / 2
        if int(round_bits(value + middle, min_bits, max_bits).sum()) <= total:
            low = middle
        else:
            high = middle
    out = round_bits(value + low, min_bits, max_bits)
    missing = total - int(out.sum())
    if missing > 0:  # nodes that tie: one bit each, nearest first
        gap = (out + 0.5) - (value + low)
        gap[out >= max_bits] = math.inf
        chosen = torch.sort(gap, stable=True).indices[:missing]
        out[chosen] += 1
    return out


def degree_score(degree: Tensor) -> Tensor:
    r"""The starting score of a node: a node of higher degree starts wider.

    The standardised logarithm of the degree,

    .. math::
        \alpha_i = \frac{\ln(1 + d_i) - \mathrm{mean}}{\mathrm{std}} - 0.5,

    centres the widths a little below the middle of the range. Equal degrees
    give equal scores of :math:`-0.5`.

    Args:
        degree (Tensor): Degrees, shape :math:`(N)`, non-negative.

    Example:
        >>> alpha = degree_score(torch.tensor([1.0, 10.0, 100.0]))
        >>> bool((alpha.diff() > 0).all())
        True
    """
    # In double: the rounding of the mean would stand out where degrees agree.
    log_degree = torch.log1p(degree.double())
    centred = log_degree - log_degree.mean()
    std = centred.square().mean().sqrt()
    score = centred / std.clamp(min=1e-6) - 0.5
    return score.to(torch.get_default_dtype())
