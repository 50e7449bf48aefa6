r"""Transform coding: rotate to principal axes, spend bits by row and axis.

Scores are inner products, so users and items may be rotated and stretched
against each other for nothing. In the axes of the score matrix's singular
vectors a few columns carry most of it: those get wide codes, the others
narrow ones or none, and a row that matters more gets more bytes in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyg_nodequant.functional.allocation import GAUSSIAN_DISTORTION
from pyg_nodequant.functional.quantize import (
    GAUSSIAN_SPAN,
    fake_quantize,
    num_levels,
    symmetric_range,
)

# Rounds of the two-way fit of row scales and column variances.
_ROUNDS = 5


def principal_axes(users: Tensor, items: Tensor,
                   dim: int) -> tuple[Tensor, Tensor]:
    r"""Rotates tables to the principal axes of their score matrix

    .. math::
        U I^{\top} = P S Q^{\top}, \qquad U' = P S^{1/2}, \quad
        I' = Q S^{1/2},

    without forming it, and keeps the :obj:`dim` axes of most energy. All of
    them give the same scores; no fewer give closer ones.

    Args:
        users (Tensor): User rows of shape :math:`(U, d)`.
        items (Tensor): Item rows of shape :math:`(I, d)`.
        dim (int): Axes to keep, in :math:`[1, d]`.

    Returns:
        Users :math:`(U, dim)` and items :math:`(I, dim)`, columns of falling
        energy, each of positive sum over the items' cubes: the result does
        not depend on the signs a library chooses.

    Raises:
        ValueError: If :obj:`dim` is out of range.

    Example:
        >>> users, items = torch.randn(5, 4), torch.randn(6, 4)
        >>> u, i = principal_axes(users, items, 4)
        >>> torch.allclose(u @ i.t(), users @ items.t(), atol=1e-5)
        True
    """
    to_users, to_items = _principal_maps(users, items, dim)
    new_users = users.double() @ to_users
    new_items = items.double() @ to_items
    sign = _principal_sign(new_items)
    return ((new_users * sign).to(users.dtype),
            (new_items * sign).to(items.dtype))


def principal_maps(users: Tensor, items: Tensor,
                   dim: int) -> tuple[Tensor, Tensor]:
    r"""The matrices that bring tables to their :func:`principal_axes`, to
    bring others, such as quantized ones, along.

    Args:
        users (Tensor): User rows of shape :math:`(U, d)`.
        items (Tensor): Item rows of shape :math:`(I, d)`.
        dim (int): Axes to keep, in :math:`[1, d]`.

    Returns:
        Matrices :math:`M` and :math:`N` of users and of items, float64 of
        shape :math:`(d, dim)`. With :obj:`dim` equal to :math:`d`, :math:`M
        N^{\top}` is the identity where the score matrix has full rank.

    Raises:
        ValueError: If :obj:`dim` is out of range.

    Example:
        >>> users, items = torch.randn(9, 4), torch.randn(6, 4)
        >>> m, n = principal_maps(users, items, 4)
        >>> torch.allclose(m @ n.t(), torch.eye(4).double(), atol=1e-5)
        True
    """
    to_users, to_items = _principal_maps(users, items, dim)
    sign = _principal_sign(items.double() @ to_items)
    return to_users * sign, to_items * sign


def _principal_maps(users: Tensor, items: Tensor,
                    dim: int) -> tuple[Tensor, Tensor]:
    if not 1 <= dim <= users.size(1):
        raise ValueError(f"'dim' needs to be in [1, {users.size(1)}], the "
                         f"dimension of the rows (got {dim})")
    left, right = _factor(users.double()), _factor(items.double())
    p, s, q = torch.linalg.svd(left @ right.t())
    # Zeros beyond the rank stay zeros: their axes carry nothing.
    root = torch.where(s > s[0] * 1e-7, s, torch.zeros_like(s)).sqrt()
    inverse = torch.where(root > 0, root.clamp(min=1e-150).reciprocal(),
                          torch.zeros_like(root))
    # P S^1/2 = U M with M = R_i^T Q S^-1/2, and the other way round.
    return (right.t() @ q.t()[:, :dim] * inverse[:dim],
            left.t() @ p[:, :dim] * inverse[:dim])


def _principal_sign(items: Tensor) -> Tensor:
    return torch.where(items.pow(3).sum(0) < 0, -1.0, 1.0)


def _factor(x: Tensor) -> Tensor:
    # R of x = Q R, of shape (d, d), from the Gram matrix's eigenvectors:
    # R^T R = x^T x, which also exists for fewer rows than columns.
    values, vectors = torch.linalg.eigh(x.t() @ x)
    root: Tensor = values.clamp(min=0).sqrt().unsqueeze(1) * vectors.t()
    return root


def quantizing_rotation(x: Tensor, bits: int, rounds: int = 30,
                        seed: int = 0) -> Tensor:
    r"""A rotation after which rows lose little when all of their numbers are
    quantized at one width: alternately quantizes :math:`X R` and takes the
    rotation that brings :math:`X` closest to it (`"Iterative Quantization: A
    Procrustean Approach to Learning Binary Codes"
    <https://doi.org/10.1109/TPAMI.2012.193>`_).

    Args:
        x (Tensor): Rows of shape :math:`(n, d)`.
        bits (int): The width.
        rounds (int, optional): Times that is done.
        seed (int, optional): Of the rotation it begins with.

    Returns:
        A rotation :math:`R` of shape :math:`(d, d)`.

    Example:
        >>> r = quantizing_rotation(torch.randn(50, 4), 2)
        >>> torch.allclose(r @ r.t(), torch.eye(4), atol=1e-5)
        True
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(x.size(1), x.size(1), generator=generator,
                        dtype=torch.float64).to(x.device)
    rotation, rows = torch.linalg.qr(start)[0], x.double()
    width = torch.full((1, 1), float(bits), dtype=torch.float64,
                       device=x.device)
    for _ in range(rounds):
        turned = rows @ rotation
        delta, mu = symmetric_range(turned, width)
        left, _, right = torch.linalg.svd(
            rows.t() @ fake_quantize(turned, width, delta, mu))
        rotation = left @ right
    out: Tensor = rotation.to(x.dtype)
    return out


def row_scale(x: Tensor, spread: Tensor) -> Tensor:
    r"""The scale of each row against column spreads :math:`\sigma`,

    .. math::
        r_i = \sqrt{\tfrac{1}{d} \sum_k (x_{ik} / \sigma_k)^2},

    shape :math:`(B, 1)`. Columns of spread 0 do not count.

    Example:
        >>> row_scale(torch.tensor([[2.0, 6.0]]), torch.tensor([1.0, 3.0]))
        tensor([[2.]])
    """
    used = spread > 0
    weight = torch.where(used, spread.clamp(min=1e-30).square().reciprocal(),
                         torch.zeros_like(spread))
    square = (x.square() @ weight / used.sum().clamp(min=1)).unsqueeze(-1)
    # The gradient of a square root at 0 is not finite.
    safe = torch.where(square > 0, square, torch.ones_like(square)).sqrt()
    return torch.where(square > 0, safe, torch.zeros_like(square))


def column_spread(x: Tensor) -> Tensor:
    r"""The spread :math:`\sigma_k` of each column over rows that are scaled to
    equal size: the fixed point of

    .. math::
        \sigma_k^2 = \tfrac{1}{n} \sum_i x_{ik}^2 / r_i^2

    with the :func:`row_scale` :math:`r_i`, shape :math:`(d)`.

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [10.0, 20.0]])
        >>> column_spread(x) / column_spread(x)[0]
        tensor([1., 2.])
    """
    return two_way_fit(x, x.square().mean(0).sqrt())[1]


def two_way_fit(x: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    r"""Fits :func:`row_scale` and :func:`column_spread` in turn, beginning
    with a spread: the likeliest variances :math:`r_i^2 \sigma_k^2` of
    Gaussians.

    Args:
        x (Tensor): Rows of shape :math:`(n, d)`.
        spread (Tensor): The spread to begin with, :math:`(d)`.

    Returns:
        Scales :math:`r`, :math:`(n, 1)`, and spreads, :math:`(d)`.
    """
    for _ in range(_ROUNDS):
        scale = row_scale(x, spread)
        rows = torch.where(scale > 0, x / scale.clamp(min=1e-30),
                           torch.zeros_like(x))
        spread = rows.square().mean(0).sqrt()
    return scale, spread


def bit_order(weight: Tensor, max_bits: int = 8) -> Tensor:
    r"""The columns that get the first, second, ... bit of a row.

    A bit goes where it takes away most of :math:`\sum_k w_k D(b_k)`; the
    distortion :math:`D` is convex, so any number of first entries is the best
    use of so many bits.

    Args:
        weight (Tensor): Weights :math:`w` of the columns, shape :math:`(d)`.
        max_bits (int, optional): Most bits of a column.

    Returns:
        Column numbers, int64 of shape :math:`(d \cdot max\_bits)`.

    Example:
        >>> bit_order(torch.tensor([8.0, 1.0]), 2)
        tensor([0, 0, 1, 1])
    """
    gain = _gains(weight, max_bits).flatten()
    order = gain.argsort(descending=True, stable=True)
    return order % weight.numel()


def _gains(weight: Tensor, max_bits: int) -> Tensor:
    # The logarithm of what each further bit takes away, [max_bits, n].
    distortion = torch.tensor(GAUSSIAN_DISTORTION, dtype=torch.float64,
                              device=weight.device)
    drop = (distortion[:max_bits] - distortion[1:max_bits + 1]).log()
    log = weight.double().clamp(min=1e-300).log()
    return drop.unsqueeze(1) + log.unsqueeze(0)


def byte_profiles(weight: Tensor, lowest: int, count: int,
                  max_bits: int = 8) -> Tensor:
    r"""Widths of rows of :obj:`lowest`, :obj:`lowest + 1`, ... bytes: the
    first :math:`8 B` entries of :func:`bit_order`.

    Args:
        weight (Tensor): Column weights, :math:`(d)`, or one line of them for
            each number of bytes, :math:`(count, d)`.
        lowest (int): The fewest bytes.
        count (int): How many numbers of bytes.
        max_bits (int, optional): Most bits of a column.

    Returns:
        Widths, int64 of shape :math:`(count, d)`.

    Example:
        >>> byte_profiles(torch.tensor([9.0, 3.0, 1.0]), 1, 2, 8)
        tensor([[3, 3, 2],
                [6, 5, 5]])
    """
    lines = weight.expand(count, -1) if weight.dim() == 1 else weight
    dim = lines.size(1)
    return torch.stack([
        torch.bincount(bit_order(line, max_bits)[:8 * (lowest + number)],
                       minlength=dim)
        for number, line in enumerate(lines)])


def profile_distortion(weight: Tensor, widths: Tensor) -> Tensor:
    r"""The distortion :math:`\sum_k w_k D(b_{ck})` of each class,
    float64 of shape :math:`(C)`.

    Example:
        >>> profile_distortion(torch.ones(2), torch.tensor([[0, 0], [1, 1]]))
        tensor([2.0000, 0.7268], dtype=torch.float64)
    """
    distortion = torch.tensor(GAUSSIAN_DISTORTION, dtype=torch.float64,
                              device=weight.device)
    return distortion[widths] @ weight.double()


def allocate_levels(groups: Sequence[tuple[Tensor, Tensor]],
                    total: int) -> Tensor:
    r"""Levels that minimise :math:`\sum_i w_i D_{g(i)}(l_i)` under
    :math:`\sum_i l_i = total`, for convex falling :math:`D_g`.

    Args:
        groups (sequence): For each group of rows their weights :math:`w` and
            the distortions :math:`D(0), \dots, D(L - 1)` of its levels, as
            many for each group.
        total (int): The sum of all levels.

    Returns:
        Levels as int64, one group after the other; equal gains go to the
        lowest row.

    Raises:
        ValueError: If no levels have this sum.

    Example:
        >>> allocate_levels([(torch.tensor([9.0, 1.0]),
        ...                   torch.tensor([1.0, .3, .1]))], 3)
        tensor([2, 1])
    """
    gains = []
    for weight, distortion in groups:
        # Not quite convex where a level is full: what comes late may not
        # gain more than what came before it.
        drop = distortion[:-1].double() - distortion[1:].double()
        drop = torch.cummin(drop.clamp(min=1e-300), 0).values
        gains.append(drop.log().unsqueeze(1) +
                     weight.double().clamp(min=1e-300).log().unsqueeze(0))
    gain = torch.cat(gains, 1)
    steps, count = gain.shape
    if not 0 <= total <= count * steps:
        raise ValueError(f"'total' needs to be in [0, {count * steps}] "
                         f"(got {total})")
    order = gain.flatten().argsort(descending=True, stable=True)[:total]
    return torch.bincount(order % count, minlength=count)


def gaussian_steps(widths: Tensor, spread: Tensor) -> Tensor:
    r"""The step of each column of each class, :math:`a_{ck} = \sigma_k
    K_{b_{ck}} / (2^{b_{ck}} - 1)`, and 0 where a width is 0.

    Args:
        widths (Tensor): Widths :math:`b` of shape :math:`(C, d)`.
        spread (Tensor): Column spreads :math:`\sigma`, :math:`(d)`.

    Example:
        >>> gaussian_steps(torch.tensor([[1, 0]]), torch.tensor([2.0, 2.0]))
        tensor([[3.1920, 0.0000]])
    """
    table = torch.tensor(
        [0.0] + [span / (2**b - 1) for b, span in enumerate(GAUSSIAN_SPAN)
                 if b], dtype=torch.float32, device=spread.device)
    return table[widths] * spread


class _LogSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scale: Tensor, grid: Tensor, codes: int) -> Tensor:
        low, step = grid.double().unbind(-1)
        power = scale.double().clamp(min=1e-300).log2()
        code = ((power - low) / step.clamp(min=1e-12)).round()
        out = torch.exp2(low + code.clamp(0, codes - 2) * step)
        return torch.where(scale > 0, out, torch.zeros_like(out)).to(
            scale.dtype)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        return grad[0], None, None


def snap_log_scale(scale: Tensor, grid: Tensor, bits: int) -> Tensor:
    r"""Rounds scales to the logarithmic grid they are stored on,

    .. math::
        r = 2^{l + c h}, \quad c \in \{0, \dots, 2^{bits} - 2\},

    and 0, which has a code of its own; the gradient passes straight through.

    Args:
        scale (Tensor): Scales :math:`r \ge 0` of any shape.
        grid (Tensor): :math:`(l, h)`, shape :math:`(2)`, or a grid for each
            scale, their shape and :math:`2`.
        bits (int): Bits of a code.

    Example:
        >>> snap_log_scale(torch.tensor([0.0, 0.9, 5.0, 99.0]),
        ...                torch.tensor([0.0, 1.0]), 2)
        tensor([0., 1., 4., 4.])
    """
    out: Tensor = _LogSTE.apply(  # type: ignore[no-untyped-call]
        scale, grid, 2**bits)
    return out


def log_grid(scale: Tensor, bits: int) -> Tensor:
    r"""The grid :math:`(l, h)` of :func:`snap_log_scale` that spans the
    positive scales, float32 of shape :math:`(2)`.

    Example:
        >>> log_grid(torch.tensor([0.0, 1.0, 4.0]), 2)
        tensor([0., 1.])
    """
    used = scale[scale > 0].double().log2()
    if used.numel() == 0:
        return torch.zeros(2, device=scale.device)
    low, high = used.min(), used.max()
    return torch.stack([low, (high - low) / (2**bits - 2)]).float()


def quantize_axes(x: Tensor, widths: Tensor, steps: Tensor,
                  scale: Tensor) -> Tensor:
    r"""Quantizes and dequantizes rows, differentiably,

    .. math::
        \hat{x}_{ik} = r_i a_{ik} \big( v_{ik} - \tfrac{1}{2} (2^{b_{ik}} -
        1) \big).

    Args:
        x (Tensor): Rows of shape :math:`(B, d)`.
        widths (Tensor): Widths :math:`b` of each number, :math:`(B, d)`.
        steps (Tensor): Steps :math:`a` of each number, :math:`(B, d)`.
        scale (Tensor): Row scales :math:`r`, :math:`(B, 1)`.

    Example:
        >>> one = torch.ones(1, 1)
        >>> quantize_axes(torch.tensor([[.2, .9]]), torch.tensor([[2, 2]]),
        ...               one.expand(1, 2), one)
        tensor([[0.5000, 0.5000]])
    """
    bits = widths.to(x.dtype)
    delta = scale * steps * num_levels(bits)
    return fake_quantize(x, bits, delta, -delta / 2)
