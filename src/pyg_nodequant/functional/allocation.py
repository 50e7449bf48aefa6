r"""Who gets the bits: widths from how much a row's error hurts the ranking.

A row quantized at :math:`b` bits is distorted by about
:math:`D(b) \, \overline{x_i^2}` a dimension. To second order, the list-wise
KL between the float scores and the quantized ones grows by that distortion
times the row's curvature :math:`H_i`, the Fisher information of the softmax
over a user's scores. The bits are then given where they take away most.
"""

from __future__ import annotations

from typing import Optional, Sequence

import torch
from torch import Tensor

from pyg_nodequant.functional.bitwidth import budget_total
from pyg_nodequant.functional.pairs import pairs_between
from pyg_nodequant.functional.propagate import Adjacency, propagate

#: Mean squared error of the optimal uniform quantizer of a unit Gaussian
#: whose range is :data:`~pyg_nodequant.functional.quantize.GAUSSIAN_SPAN`,
#: for widths of 0 to 8 bits.
GAUSSIAN_DISTORTION = (1.0, .3634, .1188, .0374, .0115, .0035, .0010, .000305,
                       .000088)


def listwise_curvature(
    users: Tensor,
    items: Tensor,
    temperature: float = 1.0,
    chunk_scores: int = 2**22,
    excluded: Optional[Tensor] = None,
) -> Tensor:
    r"""The Fisher information :math:`H_i` of the ranking in every row: with
    :math:`p_u` the softmax of user :math:`u`'s scores over all items,

    .. math::
        H_u &= \sum_i p_{ui} \lVert q_i \rVert^2
        - \Big\lVert \sum_i p_{ui} q_i \Big\rVert^2 \\
        H_i &= \sum_u p_{ui} (1 - p_{ui}) \lVert q_u \rVert^2 .

    Args:
        users (Tensor): User embeddings of shape :math:`(U, d)`.
        items (Tensor): Item embeddings of shape :math:`(I, d)`.
        temperature (float, optional): Divides the scores.
        chunk_scores (int, optional): Scores that are held at a time.
        excluded (Tensor, optional): Users and items that are left out of the
            ranking, *e.g.*, what a user has seen: :math:`(2, M)`, sorted by
            user.

    Returns:
        Curvatures of the users, then of the items, :math:`(U + I)`.

    Example:
        >>> h = listwise_curvature(torch.ones(1, 2), torch.eye(2))
        >>> h
        tensor([0.5000, 0.5000, 0.5000])
    """
    item_norm = items.square().sum(-1)
    user_norm = users.square().sum(-1)
    user_curvature = torch.zeros_like(user_norm)
    item_curvature = torch.zeros_like(item_norm)
    chunk_size = max(1, chunk_scores // max(items.size(0), 1))
    for start in range(0, users.size(0), chunk_size):
        rows = slice(start, start + chunk_size)
        scores = users[rows] @ items.t() / temperature
        if excluded is not None:
            scores[pairs_between(excluded, start, start + chunk_size)] = (
                torch.finfo(scores.dtype).min)
        p = torch.softmax(scores, dim=-1)
        mean = p @ items
        user_curvature[rows] = p @ item_norm - mean.square().sum(-1)
        norm = user_norm[rows]
        item_curvature += norm @ p
        item_curvature -= norm @ p.square_()
    return torch.cat([user_curvature, item_curvature]).clamp_(min=0)


def propagated_curvature(
    curvature: Tensor,
    adjacency: Adjacency,
    alpha: Sequence[float],
    num_samples: int = 64,
    seed: int = 0,
) -> Tensor:
    r"""The curvature of the layer-0 rows whose propagation
    :math:`P = \sum_l \alpha_l \hat{A}^l` has curvature :math:`H`:

    .. math::
        H^{(0)}_i = \sum_j P_{ji}^2 H_j
        = \mathbb{E}_z \big[ \big( P^{\top} (\sqrt{H} \odot z)
        \big)_i^2 \big],

    estimated with random signs :math:`z`, because squaring :math:`P` entry by
    entry would need it densely.

    Args:
        curvature (Tensor): :math:`H`, shape :math:`(N)`.
        adjacency (Adjacency): The normalised matrix.
        alpha (sequence of float): Layer weights.
        num_samples (int, optional): Random sign vectors; the relative error
            is about :math:`\sqrt{2 / S}`.
        seed (int, optional): Their seed.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (curvature.numel(), num_samples),
                          generator=generator).to(curvature) * 2 - 1
    back = Adjacency(adjacency.transposed, adjacency.matrix) \
        if adjacency.transposed is not None else adjacency
    out = propagate(curvature.sqrt().unsqueeze(-1) * signs, back, alpha)
    return out.square().mean(-1)


def sensitivity(curvature: Tensor, rows: Tensor) -> Tensor:
    r"""The sensitivity :math:`w_i = H_i \, \overline{x_i^2}` of each row to
    its own relative quantization error, shape :math:`(N)`.

    Example:
        >>> sensitivity(torch.tensor([2.0]), torch.tensor([[1.0, 3.0]]))
        tensor([10.])
    """
    return curvature * rows.square().mean(-1)


def allocate_bits(
    sensitivity: Tensor,
    target_bits: float,
    min_bits: int = 1,
    max_bits: int = 8,
    power: float = 1.0,
) -> Tensor:
    r"""Whole widths that minimise :math:`\sum_i w_i^{p} D(b_i)` under
    :math:`\sum_i b_i = \lfloor N b^{*} \rfloor`.

    :math:`D` is convex, so giving one bit at a time to the row of largest
    gain :math:`w_i^{p} (D(b) - D(b + 1))` is optimal; all gains are ranked at
    once. Equal gains go to the lowest id.

    Args:
        sensitivity (Tensor): Sensitivities :math:`w`, shape :math:`(N)`.
        target_bits (float): Mean width :math:`b^{*}` to meet, in
            [:obj:`min_bits`, :obj:`max_bits`].
        min_bits (int, optional): Smallest width, at least 0.
        max_bits (int, optional): Largest width, at most 8.
        power (float, optional): The exponent :math:`p` that tempers the
            sensitivity; 0 gives every row the same width.

    Returns:
        Widths as int64, shape :math:`(N)`.

    Raises:
        ValueError: If the target is outside the bounds.

    Example:
        >>> allocate_bits(torch.tensor([100.0, 1.0, 0.0]), 2.0)
        tensor([4, 1, 1])
    """
    top = len(GAUSSIAN_DISTORTION) - 1
    if not 0 <= min_bits <= max_bits <= top:
        raise ValueError(f"'min_bits' and 'max_bits' need to be in [0, {top}] "
                         f"and in order (got {min_bits} and {max_bits})")
    if not min_bits <= target_bits <= max_bits:
        raise ValueError(f"'target_bits' needs to be in "
                         f"[{min_bits}, {max_bits}] (got {target_bits})")
    num_nodes = sensitivity.numel()
    bits = torch.full((num_nodes, ), min_bits, dtype=torch.long,
                      device=sensitivity.device)
    steps = max_bits - min_bits
    extra = budget_total(num_nodes, target_bits) - min_bits * num_nodes
    if steps == 0 or extra <= 0:
        return bits
    distortion = torch.tensor(GAUSSIAN_DISTORTION, dtype=torch.float64,
                              device=sensitivity.device)
    drop = distortion[min_bits:max_bits] - distortion[min_bits + 1:max_bits +
                                                      1]
    # Logarithms keep gains of very different sizes apart and put rows of
    # zero sensitivity last without losing the order of their own steps.
    weight = sensitivity.double().clamp(min=1e-300).log() * power
    gain = drop.log().unsqueeze(1) + weight.unsqueeze(0)  # [steps, N]
    order = gain.flatten().argsort(descending=True, stable=True)[:extra]
    bits += torch.bincount(order % num_nodes, minlength=num_nodes)
    return bits


def shuffled(values: Tensor, seed: int) -> Tensor:
    r"""Deals values out at random, the control of any allocation: the same
    budget and the same widths, but to other rows.

    Example:
        >>> shuffled(torch.arange(5), 0)
        tensor([4, 0, 1, 3, 2])
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(values.numel(), generator=generator)
    return values[order.to(values.device)]
