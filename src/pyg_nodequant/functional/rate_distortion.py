r"""How good a code of the tables could be: a rate-distortion bound.

To second order, the list-wise KL of a table with errors :math:`e_{nk}` is
:math:`\frac{1}{2U} \sum_{nk} h_{nk} e_{nk}^2`, where :math:`h_{nk}` is the
curvature of component :math:`k` of row :math:`n` and errors of different
components are taken to be uncorrelated. If the components are independent
Gaussians, reverse water-filling says how small that can be at a given rate
(Cover and Thomas, "Elements of Information Theory", section 10.3.3).
"""

from __future__ import annotations

import math
from typing import Optional

import torch
from torch import Tensor

from pyg_nodequant.functional.pairs import pairs_between
from pyg_nodequant.functional.transform import two_way_fit


@torch.no_grad()
def directional_curvature(
    users: Tensor,
    items: Tensor,
    temperature: float = 1.0,
    chunk_scores: int = 2**22,
    excluded: Optional[Tensor] = None,
) -> tuple[Tensor, Tensor]:
    r"""The Fisher information :math:`h_{nk}` of the ranking in every component
    of every row: with :math:`p_u` the softmax of user :math:`u`'s scores over
    all items,

    .. math::
        h_{uk} &= \sum_i p_{ui} q_{ik}^2 - \Big( \sum_i p_{ui} q_{ik} \Big)^2
        \\
        h_{ik} &= \sum_u p_{ui} (1 - p_{ui}) q_{uk}^2 .

    Summed over :math:`k` it is
    :func:`~pyg_nodequant.functional.allocation.listwise_curvature`.

    Args:
        users (Tensor): User embeddings of shape :math:`(U, d)`.
        items (Tensor): Item embeddings of shape :math:`(I, d)`.
        temperature (float, optional): Divides the scores.
            (default: :obj:`1.0`)
        chunk_scores (int, optional): Scores that are held at a time.
        excluded (Tensor, optional): Users and items that are left out of the
            ranking, *e.g.*, what a user has seen: :math:`(2, M)`, sorted by
            user.

    Returns:
        Curvatures of the users, :math:`(U, d)`, and of the items,
        :math:`(I, d)`, as float64; scores are formed in the tables' own
        type, but no narrower than float32.

    Example:
        >>> users, items = torch.tensor([[1.0, 0.0]]), torch.eye(2)
        >>> directional_curvature(0 * users, items)[0]
        tensor([[0.2500, 0.2500]], dtype=torch.float64)
        >>> directional_curvature(users, 0 * items)[1]
        tensor([[0.2500, 0.0000],
                [0.2500, 0.0000]], dtype=torch.float64)
    """
    dtype = torch.promote_types(users.dtype, items.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    users, items = users.to(dtype), items.to(dtype)
    item_square = items.square()
    user_curvature = torch.empty_like(users, dtype=torch.double)
    item_curvature = torch.zeros_like(items, dtype=torch.double)
    chunk_size = max(1, chunk_scores // max(items.size(0), 1))
    for start in range(0, users.size(0), chunk_size):
        rows = slice(start, start + chunk_size)
        part = users[rows]
        scores = part @ items.t() / temperature
        if excluded is not None:
            scores[pairs_between(excluded, start, start + chunk_size)] = (
                torch.finfo(scores.dtype).min)
        p = torch.softmax(scores, dim=-1)
        user_curvature[rows] = p @ item_square - (p @ items).square()
        p.addcmul_(p, p, value=-1)  # p (1 - p)
        item_curvature += p.t() @ part.square()
    return user_curvature.clamp_(min=0), item_curvature.clamp_(min=0)


@torch.no_grad()
def reverse_water_filling(
    weighted_variance: Tensor,
    rate: float,
    count: Optional[Tensor] = None,
) -> tuple[float, float]:
    r"""The least distortion of independent Gaussians at a total rate of
    :math:`R` bits: with :math:`s_j` their variances times their weights, and
    :math:`n_j` of each kind,

    .. math::
        D = \sum_j n_j \min(\theta, s_j), \qquad
        R = \sum_j n_j \max \Big( 0, \tfrac{1}{2} \log_2
        \frac{s_j}{\theta} \Big).

    It is exact. Sorted downwards, the :math:`m` largest components get bits
    when :math:`\theta` is below :math:`s_m`, that is from the rate
    :math:`R_m = \sum_{j < m} \frac{N_j}{2} \log_2 (s_j / s_{j+1})` with
    :math:`N_j = n_1 + \dots + n_j` on; there :math:`\theta = s_m 2^{-2 (R -
    R_m) / N_m}`.

    Args:
        weighted_variance (Tensor): :math:`s \ge 0`, of any shape.
        rate (float): Bits to spend on all components together.
        count (Tensor, optional): How many there are of each, :math:`n > 0`,
            of the same shape; need not be whole. (default: :obj:`None`, one)

    Returns:
        The water level :math:`\theta` and the distortion :math:`D`.

    Raises:
        ValueError: If the rate or a variance is negative or not finite, or a
            count not positive and finite.

    Example:
        >>> reverse_water_filling(torch.tensor([4.0, 1.0, 0.0]), 1.0)
        (1.0, 2.0)
        >>> reverse_water_filling(torch.tensor([4.0]), 2.0, torch.tensor([2]))
        (1.0, 2.0)
    """
    if not 0 <= rate < math.inf:
        raise ValueError(f"'rate' needs to be finite and at least 0 "
                         f"(got {rate})")
    s = weighted_variance.double().flatten()
    if s.numel() == 0:
        return 0.0, 0.0
    for bound in torch.stack(s.aminmax()).tolist():
        if not 0 <= bound < math.inf:
            raise ValueError(f"'weighted_variance' needs to be finite and at "
                             f"least 0 (got {bound})")
    s, order = s.sort(descending=True)
    s = s[:int(s.count_nonzero())]
    if s.numel() == 0:
        return 0.0, 0.0
    number = torch.arange(1, s.numel() + 1, dtype=s.dtype, device=s.device)
    rest = s
    if count is not None:
        n = _checked_count(count, weighted_variance)[order[:s.numel()]]
        number, rest = n.cumsum(0), s * n
    log = s.log2()
    # Sums of steps and not differences of sums: they grow with m for sure,
    # and nothing cancels.
    start = (log[:-1] - log[1:]).mul_(number[:-1]).mul_(0.5).cumsum_(0)
    active = 1 + int(torch.searchsorted(start, rate, right=True))
    spare = rate - (float(start[active - 2]) if active > 1 else 0.0)
    total = float(number[active - 1])
    theta = float(s[active - 1]) * 2.0**(-2 * spare / total)
    return theta, total * theta + float(rest[active:].sum())


def _checked_count(count: Tensor, like: Tensor) -> Tensor:
    n = count.double().flatten()
    if count.shape != like.shape or not bool(
            (n.isfinite() & (n > 0)).all()):
        raise ValueError(f"'count' needs to be positive and finite, of shape "
                         f"{tuple(like.shape)} (got shape "
                         f"{tuple(count.shape)})")
    return n


def _row_model(x: Tensor) -> Tensor:
    # v_nk = r_n^2 l_k. Rows and columns of zeros have none and take no part
    # in the means.
    x = x.detach().double()
    rows = (x != 0).any(1)
    scale, spread = two_way_fit(x[rows], (x != 0).any(0).double())
    out = torch.zeros_like(x)
    out[rows] = (scale * spread).square_()
    return out


def distortion_bound(
    users: Tensor,
    items: Tensor,
    rate: float,
    temperature: float = 1.0,
) -> float:
    r"""The least :func:`quadratic_distortion` of tables that take
    :math:`R` bits in all, in nats a user:

    .. math::
        \frac{1}{2U} D(R) \quad \textrm{with} \quad
        s_{nk} = h_{nk} \, r_n^2 \lambda_k ,

    by :func:`reverse_water_filling`. A component's variance is modelled as a
    scale of its row times one of its column, separately for users and items:
    :math:`r_n^2` is the mean of :math:`x_{nk}^2 / \lambda_k` over the columns,
    :math:`\lambda_k` that of :math:`x_{nk}^2 / r_n^2` over the rows.

    .. note::
        It is a yardstick and not a theorem about given tables. Components are
        taken to be independent Gaussians (others of the same variances are
        no harder to code), and the KL is of second order. Errors are taken to
        be uncorrelated: a code that shapes them to the whole Fisher matrix,
        and not only to its diagonal, can go below. What describes the code
        (curvatures, scales, classes of rows) is not in the rate.

        Vector quantizers may come near. A scalar quantizer stays above in
        every Gaussian component that it gives bits to: by up to 1.53 dB, its
        value at high rates, if the levels are entropy coded, and without
        that, at uniform levels, by 1.6 dB at 1 bit, 2.8 dB at 2 bits and
        4.7 dB at 4 bits.

    Args:
        users (Tensor): User embeddings of shape :math:`(U, d)`.
        items (Tensor): Item embeddings of shape :math:`(I, d)`.
        rate (float): Bits of both tables together.
        temperature (float, optional): Divides the scores.
            (default: :obj:`1.0`)

    Raises:
        ValueError: If the rate is negative or not finite.

    Example:
        >>> users, items = torch.tensor([[1.0, 1.0]]), torch.eye(2)
        >>> [round(distortion_bound(users, items, rate), 9)
        ...  for rate in (0.0, 7.0)]
        [0.5, 0.09375]
    """
    curvature = directional_curvature(users, items, temperature)
    return sampled_bound(curvature, users, items, rate, users.size(0))


def sampled_bound(curvature: tuple[Tensor, Tensor], users: Tensor,
                  items: Tensor, rate: float, num_users: int) -> float:
    r"""The :func:`distortion_bound` from a sample of :obj:`num_users` users
    and the curvatures in it, each user standing for as many of all.
    """
    weight = num_users / max(users.size(0), 1)
    of_users, of_items = (h * _row_model(x) for h, x in zip(
        curvature, (users, items), strict=True))
    # Items are curved by all users.
    s = torch.cat([of_users.flatten(), weight * of_items.flatten()])
    count = torch.ones_like(s)
    count[:of_users.numel()] = max(weight, 1.0)
    _, distortion = reverse_water_filling(s, rate, count)
    return 0.5 * distortion / max(num_users, 1)


@torch.no_grad()
def quadratic_distortion(
    users: Tensor,
    items: Tensor,
    quantized_users: Tensor,
    quantized_items: Tensor,
    temperature: float = 1.0,
) -> float:
    r"""The second-order list-wise KL of quantized tables, in nats a user:

    .. math::
        \frac{1}{2U} \sum_{nk} h_{nk} (x_{nk} - \hat{x}_{nk})^2 .

    For small errors that are uncorrelated and of zero mean it is what
    :func:`~pyg_nodequant.functional.distillation.listwise_kl_loss` comes to on
    average, its factor :math:`T^2` included.

    Args:
        users (Tensor): User embeddings of shape :math:`(U, d)`.
        items (Tensor): Item embeddings of shape :math:`(I, d)`.
        quantized_users (Tensor): What is left of the users, same shape.
        quantized_items (Tensor): What is left of the items, same shape.
        temperature (float, optional): Divides the scores.
            (default: :obj:`1.0`)

    Raises:
        ValueError: If a quantized table has another shape.

    Example:
        >>> users, items = torch.tensor([[1.0, 1.0]]), torch.eye(2)
        >>> quadratic_distortion(users, items, users, 0.5 * items)
        0.0625
    """
    tables = {"users": (users, quantized_users),
              "items": (items, quantized_items)}
    for name, (x, quantized) in tables.items():
        if quantized.shape != x.shape:
            raise ValueError(f"'quantized_{name}' needs to have the shape "
                             f"{tuple(x.shape)} of '{name}' "
                             f"(got {tuple(quantized.shape)})")
    curvature = directional_curvature(users, items, temperature)
    return curved_errors(curvature, list(tables.values()))


def curved_errors(curvature: tuple[Tensor, Tensor],
                  tables: list[tuple[Tensor, Tensor]]) -> float:
    r"""The :func:`quadratic_distortion` of tables and what is left of them,
    from curvatures that are known already.
    """
    total = 0.0
    for h, (x, quantized) in zip(curvature, tables, strict=True):
        error = x.double() - quantized.double()
        total += float((h * error.square_()).sum())
    return 0.5 * total / max(tables[0][0].size(0), 1)
