r"""The node-aware quantizer's formulas: ranges, integer codes, estimators.

Row :math:`i` has a width :math:`b_i`, a range :math:`\Delta_i` and an offset
:math:`\mu_i`. With :math:`s_i = 2^{b_i} - 1` levels,

.. math::
    v &= \mathrm{round}\Big( \mathrm{clamp}\Big(
    \frac{e - \mu_i}{\Delta_i}, 0, 1 \Big) s_i \Big) \\
    q &= \frac{v}{s_i} \Delta_i + \mu_i .

All tensors here broadcast: values are :math:`(B, d)`, widths, ranges and
offsets :math:`(B)` or :math:`(B, 1)`.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

#: Span of the optimal uniform quantizer of a standard Gaussian, in standard
#: deviations, for widths of 0 to 8 bits.
GAUSSIAN_SPAN = (0.0, 1.596, 2.987, 4.102, 5.028, 5.83, 6.56, 7.22, 7.85)


def column(x: Tensor) -> Tensor:
    r"""Turns :math:`(B)` into :math:`(B, 1)`; leaves other shapes alone."""
    return x.unsqueeze(-1) if x.dim() == 1 else x


def num_levels(bits: Tensor) -> Tensor:
    r"""The largest code :math:`s = 2^b - 1`; differentiable in :math:`b`.

    Example:
        >>> num_levels(torch.tensor([1.0, 2.0, 8.0]))
        tensor([  1.,   3., 255.])
    """
    return torch.exp2(bits) - 1


class _HalfSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.to(torch.float16).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        return grad[0]


def snap_float16(x: Tensor) -> Tensor:
    r"""Rounds to the nearest float16, the precision that scales and offsets
    are stored at; the gradient passes straight through.

    Example:
        >>> snap_float16(torch.tensor([0.1]))
        tensor([0.1000])
        >>> float(snap_float16(torch.tensor([0.1]))) == 0.0999755859375
        True
    """
    out: Tensor = _HalfSTE.apply(x)  # type: ignore[no-untyped-call]
    return out


def gaussian_span(bits: Tensor) -> Tensor:
    r"""The span :math:`K_b` of :data:`GAUSSIAN_SPAN`, linear between whole
    widths and differentiable there.

    Example:
        >>> gaussian_span(torch.tensor([1.0, 1.5, 8.0]))
        tensor([1.5960, 2.2915, 7.8500])
    """
    table = torch.tensor(GAUSSIAN_SPAN, dtype=bits.dtype, device=bits.device)
    low = bits.detach().floor().clamp(0, len(GAUSSIAN_SPAN) - 2).long()
    fraction = bits - low.to(bits.dtype)
    return table[low] + fraction * (table[low + 1] - table[low])


def safe_sqrt(square: Tensor) -> Tensor:
    r"""The square root of numbers of at least 0, with gradient 0 at 0, where
    that of the root is not finite.

    Example:
        >>> safe_sqrt(torch.tensor([0.0, 9.0]))
        tensor([0., 3.])
    """
    root = torch.where(square > 0, square, torch.ones_like(square)).sqrt()
    return torch.where(square > 0, root, torch.zeros_like(square))


def symmetric_range(x: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    r"""The symmetric Gaussian range of each row

    .. math::
        \Delta_i = K_{b_i} \sqrt{\tfrac{1}{d} \sum_k x_{ik}^2}, \qquad
        \mu_i = -\Delta_i / 2 .

    Args:
        x (Tensor): Rows of shape :math:`(B, d)`.
        bits (Tensor): Widths in bits, shape :math:`(B)`.

    Returns:
        :math:`\Delta` and :math:`\mu`, each of shape :math:`(B, 1)`.

    Example:
        >>> delta, mu = symmetric_range(torch.tensor([[1., -1.]]),
        ...                             torch.tensor([1.0]))
        >>> delta, mu
        (tensor([[1.5960]]), tensor([[-0.7980]]))
    """
    rms = safe_sqrt(x.square().mean(-1, keepdim=True))
    delta = column(gaussian_span(bits)) * rms
    return delta, -delta / 2


def minmax_range(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""The range :math:`\mu_i = \min_k x_{ik}`,
    :math:`\Delta_i = \max_k x_{ik} - \mu_i` of each row.

    Example:
        >>> minmax_range(torch.tensor([[1., 3.]]))
        (tensor([[2.]]), tensor([[1.]]))
    """
    mu = x.amin(-1, keepdim=True)
    return x.amax(-1, keepdim=True) - mu, mu


def row_position(x: Tensor, delta: Tensor, mu: Tensor) -> Tensor:
    r"""Where values are in their range, :math:`(e - \mu) / \Delta`."""
    # A row of range 0 (all of its values equal) sits at code 0.
    safe = torch.where(delta > 0, delta, torch.ones_like(delta))
    return torch.where(delta > 0, (x - mu) / safe, torch.zeros_like(x))


def quantize(x: Tensor, bits: Tensor, delta: Tensor, mu: Tensor) -> Tensor:
    r"""Integer codes :math:`v \in \{0, \dots, 2^{b_i} - 1\}` of each value.

    Args:
        x (Tensor): Rows of shape :math:`(B, d)`.
        bits (Tensor): Whole widths in bits, shape :math:`(B)`.
        delta (Tensor): Ranges :math:`\Delta`, :math:`(B)` or :math:`(B, 1)`.
        mu (Tensor): Offsets :math:`\mu`, same shape.

    Returns:
        Codes as uint8, shape :math:`(B, d)`.

    Example:
        >>> quantize(torch.tensor([[0.0, 0.4, 1.0]]), torch.tensor([2]),
        ...          torch.tensor([1.0]), torch.tensor([0.0]))
        tensor([[0, 1, 3]], dtype=torch.uint8)
    """
    levels = column(num_levels(bits.to(x.dtype)))
    position = row_position(x, column(delta), column(mu)).clamp(0, 1)
    return (position * levels).round().to(torch.uint8)


def dequantize(codes: Tensor, bits: Tensor, delta: Tensor,
               mu: Tensor) -> Tensor:
    r"""The values :math:`q = v / s_i \cdot \Delta_i + \mu_i` of codes.

    Example:
        >>> dequantize(torch.tensor([[0, 1, 3]]), torch.tensor([2]),
        ...            torch.tensor([1.0]), torch.tensor([0.0]))
        tensor([[0.0000, 0.3333, 1.0000]])
    """
    delta, mu = column(delta), column(mu)
    levels = column(num_levels(bits.to(delta.dtype)))
    return codes.to(delta.dtype) / levels.clamp(min=1) * delta + mu


def _code(position: Tensor, levels: Tensor,
          noise: Optional[Tensor]) -> Tensor:
    out = position * levels
    if noise is None:
        return out.round_()
    # No noise where there are no levels.
    return out.addcmul_(noise, (levels > 0).to(noise.dtype))


def code_ratio(position: Tensor, levels: Tensor,
               noise: Optional[Tensor]) -> Tensor:
    r"""The code over its largest, :math:`v / s`, of clamped positions in
    :math:`[0, 1]`; with noise, :math:`t + u / s` instead of rounding.
    """
    return _code(position, levels, noise).div_(levels.clamp(min=1e-12))


class _FakeQuantize(torch.autograd.Function):
    # One function instead of ten operations: only the input is kept for the
    # backward pass, where the codes are computed again.
    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: Tensor, delta: Tensor,
                mu: Tensor, noise: Optional[Tensor],
                centered: bool) -> Tensor:
        ctx.save_for_backward(x, levels, delta, mu, noise)
        position = row_position(x, delta, mu).clamp_(0, 1)
        if not centered:
            return code_ratio(position, levels, noise).mul_(delta).add_(mu)
        out = _code(position, levels, noise).sub_(levels / 2)
        return out.div_(levels.clamp(min=1e-12)).mul_(delta)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Optional[Tensor], ...]:
        x, levels, delta, mu, noise = ctx.saved_tensors
        grad = grads[0]
        position = row_position(x, delta, mu)
        inside = (position >= 0) & (position <= 1) & (delta > 0)
        grad_x = torch.where(inside, grad, 0).sum_to_size(x.shape)
        if not any(ctx.needs_input_grad[1:]):
            return grad_x, None, None, None, None, None
        position.clamp_(0, 1)
        ratio = code_ratio(position, levels, noise)
        residual = ratio - position
        grad_levels = -(grad * residual) * delta / levels.clamp(min=1e-12)
        grad_delta = grad * torch.where(inside, residual, ratio)
        grad_mu = torch.where(inside, 0, grad)
        return (grad_x, grad_levels.sum_to_size(levels.shape),
                grad_delta.sum_to_size(delta.shape),
                grad_mu.sum_to_size(mu.shape), None, None)


def fake_quantize(x: Tensor, bits: Tensor, delta: Tensor, mu: Tensor,
                  noise: Optional[Tensor] = None,
                  centered: bool = False) -> Tensor:
    r"""Quantizes and dequantizes, differentiably.

    Rounding passes gradients straight through (`"Estimating or Propagating
    Gradients Through Stochastic Neurons for Conditional Computation"
    <https://arxiv.org/abs/1308.3432>`_); the clamp cuts them outside the
    range. Widths may be continuous, and receive their gradient through
    :math:`s_i` (and through the range, if that depends on them). With
    :math:`t` the clamped position and :math:`v = \mathrm{round}(t s)`,

    .. math::
        \frac{\partial q}{\partial e} = [\text{inside}], \quad
        \frac{\partial q}{\partial \mu} = [\text{outside}], \quad
        \frac{\partial q}{\partial \Delta} =
        \frac{v}{s} - t \, [\text{inside}], \quad
        \frac{\partial q}{\partial s} =
        \Big( t - \frac{v}{s} \Big) \frac{\Delta}{s} .

    With :obj:`noise` :math:`u`, nothing is rounded: :math:`v = t s + u`, and
    the gradients above are exact (`"Differentiable Model Compression via
    Pseudo Quantization Noise" <https://arxiv.org/abs/2104.09987>`_).

    Args:
        x (Tensor): Rows of shape :math:`(B, d)`.
        bits (Tensor): Widths in bits, shape :math:`(B)`.
        delta (Tensor): Ranges :math:`\Delta`, :math:`(B)` or :math:`(B, 1)`.
        mu (Tensor): Offsets :math:`\mu`, same shape.
        noise (Tensor, optional): Numbers in :math:`[-\frac{1}{2},
            \frac{1}{2}]`, in steps, added instead of rounding, shape
            :math:`(B, d)`.
        centered (bool, optional): Whether :math:`\mu = -\Delta / 2` for all;
            :math:`q = (v - s / 2) / s \cdot \Delta` then keeps the digits of
            values much smaller than their range.

    Returns:
        :math:`q` of shape :math:`(B, d)`.

    Example:
        >>> fake_quantize(torch.tensor([[0.0, 0.4, 1.0]]),
        ...               torch.tensor([2.0]), torch.tensor([1.0]),
        ...               torch.tensor([0.0]))
        tensor([[0.0000, 0.3333, 1.0000]])
    """
    out: Tensor = _FakeQuantize.apply(  # type: ignore[no-untyped-call]
        x, column(num_levels(bits)), column(delta), column(mu), noise,
        centered)
    return out


def stored_step(delta: Tensor, bits: Tensor) -> Tensor:
    r"""The row scale :math:`r_i = \Delta_i / s_i`, snapped to the float16 it
    is stored at, shape of :obj:`delta`.

    Example:
        >>> stored_step(torch.tensor([[3.0]]), torch.tensor([2.0]))
        tensor([[1.]])
    """
    levels = column(num_levels(bits.to(delta.dtype))).clamp(min=1)
    return snap_float16(delta / levels)
