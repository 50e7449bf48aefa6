r"""The price of a budget: a multiplier that is raised while too much is spent.

To minimise a loss :math:`L(b)` with a mean cost :math:`c(b) = 0`, the loss
:math:`L + \lambda c` is minimised in :math:`b` while :math:`\lambda` ascends.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# What one unit too much adds to the price at once, in sizes of a worth, and
# the excess up to which the multiplier rises in proportion.
_STIFFNESS = 4.0
_EXCESS = 0.25


@dataclass(frozen=True)
class DualState:
    r"""Where a dual ascent stands.

    Args:
        multiplier (float): The price :math:`\lambda \ge 0`.
        scale (float): The running mean :math:`S` of what a unit of the budget
            is worth.
        steps (int): Steps so far.
    """

    multiplier: float = 0.0
    scale: float = 0.0
    steps: int = 0


def price(state: DualState, excess: float) -> float:
    r"""The price to train with, :math:`\max(0, \lambda + \kappa S c)`: the
    multiplier and, at once, something for the excess :math:`c`;
    :math:`\kappa = 4`.

    That is the gradient of the augmented Lagrangian :math:`L + \lambda c +
    \tfrac{1}{2} \kappa S c^2` ("Multiplier and gradient methods", Hestenes,
    1969). The multiplier alone answers late, and the cost swings about the
    budget.

    Example:
        >>> price(DualState(multiplier=3.0, scale=2.0), 0.5)
        7.0
    """
    return max(0.0, state.multiplier + _STIFFNESS * state.scale * excess)


def dual_ascent(
    state: DualState,
    worth: Tensor,
    excess: float,
    rate: float,
    decay: float = 0.9,
) -> DualState:
    r"""One step of dual ascent on the price of a budget,

    .. math::
        S &\leftarrow \beta S + (1 - \beta) \, \overline{| v_i |} \\
        \lambda &\leftarrow \max(0, \lambda + \eta \, S \,
        \mathrm{clamp}(c, -\tfrac{1}{4}, \tfrac{1}{4})),

    where :math:`v_i = - (\partial L / \partial b_i) / (\partial c / \partial
    b_i)` is what a unit of the budget is worth at :math:`i` and :math:`c` the
    excess over the budget. At the optimum every :math:`v_i = \lambda`: prices
    have the size of worths, whatever the loss is multiplied with, and so have
    the steps. The clamp keeps :math:`\lambda` from running away while a start
    far from the budget is on its way there.

    The first step has nothing to average yet: :math:`S = \overline{|v_i|}`,
    and it starts from :math:`\lambda = \max(0, \overline{v_i})`, the price at
    which the cost would stay where it is.

    Args:
        state (DualState): The state so far.
        worth (Tensor): :math:`v`, of any shape. Gradients of a batch will
            do, they are averaged.
        excess (float): :math:`c`, positive if too much is spent.
        rate (float): :math:`\eta`; at 0.1, a tenth of a unit too much raises
            the price by a hundredth of the worths' size.
        decay (float, optional): :math:`\beta`.

    Example:
        >>> import torch
        >>> worth = torch.tensor([1.0, 3.0])
        >>> state = dual_ascent(DualState(), worth, excess=1.0, rate=0.5)
        >>> state
        DualState(multiplier=2.25, scale=2.0, steps=1)
        >>> dual_ascent(state, worth, excess=-9.0, rate=50.0).multiplier
        0.0
    """
    size = float(worth.abs().mean())
    if state.steps == 0:
        scale, multiplier = size, max(0.0, float(worth.mean()))
    else:
        scale = decay * state.scale + (1 - decay) * size
        multiplier = state.multiplier
    step = rate * scale * min(max(excess, -_EXCESS), _EXCESS)
    return DualState(max(0.0, multiplier + step), scale, state.steps + 1)
