r"""Ranges that look closer at a row: around its mean, of least error."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_nodequant.functional.quantize import (
    column,
    fake_quantize,
    gaussian_span,
    safe_sqrt,
    symmetric_range,
)

#: The factors of the Gaussian span that :func:`mse_range` tries. On Gaussian
#: rows of 64 numbers the best of them is within 0.1, 0.2, 0.5 and 1.5 % of the
#: least error at 1, 2, 3 and 4 bits.
SPAN_FACTORS = tuple(number / 20 for number in range(10, 29))

# Numbers that are looked at at once, so that they stay in the cache.
_PART = 1 << 19


def meanstd_range(x: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    r"""The Gaussian range around the mean of each row

    .. math::
        \Delta_i = K_{b_i} \sigma_i, \qquad
        \mu_i = \bar{x}_i - \Delta_i / 2, \qquad
        \sigma_i^2 = \tfrac{1}{d} \sum_k (x_{ik} - \bar{x}_i)^2 ,

    which needs a stored offset, and wins where rows are not centred at 0.

    Args:
        x (Tensor): Rows of shape :math:`(B, d)`.
        bits (Tensor): Widths in bits, shape :math:`(B)`.

    Returns:
        :math:`\Delta` and :math:`\mu`, each of shape :math:`(B, 1)`.

    Example:
        >>> meanstd_range(torch.tensor([[1., 3.]]), torch.tensor([1.0]))
        (tensor([[1.5960]]), tensor([[1.2020]]))
    """
    mean = x.mean(-1, keepdim=True)
    sigma = safe_sqrt((x - mean).square().mean(-1, keepdim=True))
    delta = column(gaussian_span(bits)) * sigma
    return delta, mean - delta / 2


@torch.no_grad()
def mse_factor(x: Tensor, bits: Tensor, delta: Tensor) -> Tensor:
    r"""The factor of each row's symmetric range that costs it least:

    .. math::
        f_i = \arg\min_{f} \sum_k \big( x_{ik} - q_{ik}(f \Delta_i) \big)^2

    over :data:`SPAN_FACTORS`, the smallest of equal ones; without gradient.

    Args:
        x (Tensor): Rows of shape :math:`(B, d)`.
        bits (Tensor): Widths in bits, shape :math:`(B)`.
        delta (Tensor): Ranges :math:`\Delta`, shape :math:`(B, 1)`.

    Returns:
        :math:`f` of shape :math:`(B, 1)`.

    Example:
        >>> x = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
        >>> mse_factor(x, torch.tensor([1.0]), torch.tensor([[1.596]]))
        tensor([[1.2500]])
    """
    out = torch.ones_like(delta)
    rows = max(_PART // max(x.size(-1), 1), 1)
    for start in range(0, x.size(0), rows):
        part = slice(start, start + rows)
        least = torch.full_like(delta[part], torch.inf)
        for factor in SPAN_FACTORS:
            span = factor * delta[part]
            q = fake_quantize(x[part], bits[part], span, -span / 2)
            error = q.sub_(x[part]).square_().sum(-1, keepdim=True)
            better = error < least
            least = torch.where(better, error, least)
            out[part].masked_fill_(better, factor)
    return out


def mse_range(x: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    r"""The symmetric range of least squared error of each row

    .. math::
        \Delta_i = f_i K_{b_i} \sqrt{\tfrac{1}{d} \sum_k x_{ik}^2}, \qquad
        \mu_i = -\Delta_i / 2

    with the :func:`mse_factor` :math:`f_i`. The search has no gradient; the
    root mean square and :math:`K_b` have theirs.

    Args:
        x (Tensor): Rows of shape :math:`(B, d)`.
        bits (Tensor): Widths in bits, shape :math:`(B)`.

    Returns:
        :math:`\Delta` and :math:`\mu`, each of shape :math:`(B, 1)`.

    Example:
        >>> x = torch.tensor([[1.0, -1.0]])
        >>> delta, mu = mse_range(x, torch.tensor([1.0]))
        >>> delta, mu
        (tensor([[1.9950]]), tensor([[-0.9975]]))
    """
    delta, _ = symmetric_range(x, bits)
    delta = mse_factor(x.detach(), bits.detach(), delta.detach()) * delta
    return delta, -delta / 2
