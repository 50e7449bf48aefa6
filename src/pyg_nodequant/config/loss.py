r"""What a float model is trained to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from pyg_nodequant.config.checks import check_choice, check_number
from pyg_nodequant.config.choices import LOSSES


@dataclass(frozen=True)
class LossConfig:
    r"""What the float model is trained to do.

    Args:
        name (str): :obj:`"bpr"`, pairs of items scored by inner products, or
            :obj:`"softmax"`, the cross-entropy of a user's whole ranking,
            scored by cosines
            (:func:`~pyg_nodequant.functional.softmax_loss`).
        temperature (float): :math:`\tau` that cosines are divided by.
        user_power (float): A user with :math:`n` items counts :math:`n^p`
            in it: 0 for users alike, 1 for interactions alike.
        popularity (float): Exponent :math:`\gamma` by which an item of
            degree :math:`d` competes more often, :math:`d^{\gamma}` times;
            what popularity explains, scores need not: above 0 the tail gains.
        users (int): Users of a step of :obj:`"softmax"`.
        items (int): Items that compete in it beside the users' own, drawn
            anew each step; 0 for all.

    Example:
        >>> LossConfig(name="softmax").cosine_temperature
        0.2
    """

    name: str = "bpr"
    temperature: float = 0.2
    user_power: float = 0.5
    popularity: float = 0.0
    users: int = 1024
    items: int = 0

    def __post_init__(self) -> None:
        check_choice("loss.name", self.name, LOSSES)
        check_number("loss.temperature", self.temperature, 0, open_low=True)
        check_number("loss.user_power", self.user_power, 0, 1)
        check_number("loss.popularity", self.popularity, 0, 1)
        check_number("loss.users", self.users, 1, integer=True)
        check_number("loss.items", self.items, 0, integer=True)

    @property
    def cosine_temperature(self) -> Optional[float]:
        r"""The temperature of cosine scores; inner products have none."""
        return self.temperature if self.name == "softmax" else None


def other_loss(name: str) -> str:
    r"""Returns the loss of the companion of a float model.

    Example:
        >>> other_loss("softmax")
        'bpr'
    """
    return LOSSES[1 - LOSSES.index(name)]
