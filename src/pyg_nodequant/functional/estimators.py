r"""Estimators of gradients that rounding does not have."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from pyg_nodequant.functional.quantize import column, num_levels


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        return grad[0] * ctx.saved_tensors[0], None


def scale_gradient(x: Tensor, factor: Tensor) -> Tensor:
    r"""Returns :obj:`x`, whose gradient is multiplied by :obj:`factor`.

    Example:
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> scale_gradient(x, torch.tensor([0.5])).backward()
        >>> x, x.grad
        (tensor([3.], requires_grad=True), tensor([0.5000]))
    """
    out: Tensor = _ScaleGradient.apply(  # type: ignore[no-untyped-call]
        x, factor)
    return out


def lsq_factor(bits: Tensor, dim: int) -> Tensor:
    r"""The factor of the gradients of learned ranges (`"Learned Step Size
    Quantization" <https://arxiv.org/abs/1902.08153>`_)

    .. math::
        g_i = \frac{1}{\sqrt{d \, (2^{b_i} - 1)}} ,

    that keeps them in proportion to those of the rows, whatever the width
    and the number :math:`d` of values that share a range.

    Args:
        bits (Tensor): Widths in bits, shape :math:`(B)`.
        dim (int): Numbers a row, :math:`d`.

    Returns:
        :math:`g` of shape :math:`(B, 1)`, without gradient.

    Example:
        >>> lsq_factor(torch.tensor([1.0, 2.0]), 4)
        tensor([[0.5000],
                [0.2887]])
    """
    levels = column(num_levels(bits.detach())).clamp(min=1)
    return (dim * levels).rsqrt()


def rounding_noise(x: Tensor, seed: Optional[int] = None) -> Tensor:
    r"""Uniform noise in :math:`[-\frac{1}{2}, \frac{1}{2})`, in steps, shape
    and device of :obj:`x`: what rounding adds to values that fill many steps.

    Args:
        x (Tensor): Gives the shape.
        seed (int, optional): Decides the noise alone. (default: :obj:`None`,
            torch's global generator does)

    Example:
        >>> a = rounding_noise(torch.zeros(2, 3), seed=1)
        >>> torch.equal(a, rounding_noise(torch.zeros(2, 3), seed=1))
        True
    """
    generator = None
    if seed is not None:
        generator = torch.Generator(x.device).manual_seed(seed)
    return torch.rand(x.shape, generator=generator, dtype=x.dtype,
                      device=x.device) - 0.5
