r"""Learning-rate schedules that know when they are finished."""

from __future__ import annotations

import math
from typing import Any, Optional, Protocol


class Schedule(Protocol):
    r"""What a stage asks of its schedule. All of its state is JSON."""

    @property
    def finished(self) -> bool:
        r"""Whether the stage has taken its last step."""

    @property
    def settling(self) -> bool:
        r"""Whether the learning rate is falling for the last time."""

    def factor(self) -> float:
        r"""What the peak learning rate is multiplied with, in [0, 1]."""

    def advance(self) -> None:
        r"""Counts one optimizer step."""

    def observe(self, metric: Optional[float]) -> None:
        r"""Takes in a validation metric, larger is better; :obj:`None` if
        there is no validation split.
        """

    def state_dict(self) -> dict[str, Any]:
        r"""Its state as JSON."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        r"""Continues from a state."""


def cosine(fraction: float, floor: float = 0.0) -> float:
    r"""Falls from 1 to :obj:`floor` as :obj:`fraction` goes from 0 to 1.

    Example:
        >>> cosine(0.0), cosine(1.0), cosine(1.0, floor=0.05)
        (1.0, 0.0, 0.05)
    """
    fraction = min(max(fraction, 0.0), 1.0)
    return floor + (1 - floor) * (1 + math.cos(math.pi * fraction)) / 2


class CosineSchedule:
    r"""A fixed number of steps along one cosine down to :obj:`floor`."""

    def __init__(self, num_steps: int, floor: float = 0.05) -> None:
        self.num_steps, self.floor, self.step = num_steps, floor, 0

    @property
    def finished(self) -> bool:
        r"""Whether all steps are taken."""
        return self.step >= self.num_steps

    @property
    def settling(self) -> bool:
        r"""Always: the learning rate falls from the start."""
        return True

    def factor(self) -> float:
        r"""The cosine at the current step."""
        return cosine(self.step / max(self.num_steps, 1), self.floor)

    def advance(self) -> None:
        r"""Counts one step."""
        self.step += 1

    def observe(self, metric: Optional[float]) -> None:
        r"""A fixed schedule looks at no metric."""

    def state_dict(self) -> dict[str, Any]:
        r"""The step."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        r"""Continues from a step."""
        self.step = int(state["step"])


class PlateauSchedule:
    r"""Constant until validation stops improving, then one cosine to zero.

    Constant learning rates keep finding better models for longer than a
    fixed horizon guessed beforehand would let them, and the fall at the end
    is worth several percent. The fall takes :obj:`anneal` times the steps up
    to the best model (from which the loop goes on), and starts early enough
    to end by :obj:`max_steps`.

    Args:
        max_steps (int): Upper bound of all steps.
        patience (int): Evaluations without improvement that end the
            constant part.
        anneal (float): Length of the fall, in units of the constant part.
        rewind (bool): Whether the fall goes on from the best model, so that
            the steps after it do not count.

    Example:
        >>> schedule = PlateauSchedule(max_steps=100, patience=1, anneal=0.5)
        >>> for metric in [0.1, 0.2, 0.2]:
        ...     for _ in range(10):
        ...         schedule.advance()
        ...     schedule.observe(metric)
        >>> schedule.settling, schedule.last_step
        (True, 40)
    """

    def __init__(self, max_steps: int, patience: int, anneal: float,
                 rewind: bool = True) -> None:
        self.max_steps = max_steps
        self.patience = patience
        self.anneal = anneal
        self.rewind = rewind
        self.step = 0
        self.best = -math.inf
        self.best_step = 0
        self.bad = 0
        #: Steps of the constant part that count, and where the fall began.
        self.constant: Optional[int] = None
        self.anneal_from: Optional[int] = None
        self.planned: Optional[int] = None

    @classmethod
    def replay(cls, constant: int, last_step: int) -> PlateauSchedule:
        r"""The course of another schedule's :attr:`plan`, whatever the
        metrics say.
        """
        out = cls(last_step, patience=1,
                  anneal=(last_step - constant) / max(constant, 1))
        out.planned = constant
        return out

    @property
    def settling(self) -> bool:
        r"""Whether the fall has begun."""
        return self.anneal_from is not None

    @property
    def length(self) -> int:
        r"""Steps of the fall, once it has begun."""
        return max(1, round(self.anneal * (self.constant or 0)))

    @property
    def last_step(self) -> int:
        r"""The step the stage ends at, as far as is known."""
        if self.anneal_from is None:
            return self.max_steps
        return min(self.max_steps, self.anneal_from + self.length)

    @property
    def plan(self) -> tuple[int, int]:
        r"""The course that led to the last model: constant steps, and all
        steps; without those that were thrown away.
        """
        constant = self.step if self.constant is None else self.constant
        return constant, constant + self.step - (self.anneal_from or self.step)

    @property
    def finished(self) -> bool:
        r"""Whether the fall is over."""
        return self.step >= self.last_step

    def factor(self) -> float:
        r"""1, then the cosine."""
        if self.anneal_from is None:
            return 1.0
        length = max(1, self.last_step - self.anneal_from)
        return cosine((self.step - self.anneal_from) / length)

    def advance(self) -> None:
        r"""Counts one step; the fall starts by itself if time runs out."""
        self.step += 1
        latest = self.max_steps / (1 + self.anneal)
        start = latest if self.planned is None else self.planned
        if not self.settling and self.step >= start:
            self.begin_anneal(self.step)

    def begin_anneal(self, constant: int) -> None:
        r"""Starts the fall now, after :obj:`constant` steps that count."""
        if self.anneal_from is None:
            self.anneal_from, self.constant = self.step, constant

    def observe(self, metric: Optional[float]) -> None:
        r"""Counts evaluations without improvement."""
        if metric is None or self.settling or self.planned is not None:
            return
        if metric > self.best:
            self.best, self.best_step, self.bad = metric, self.step, 0
        else:
            self.bad += 1
            if self.bad >= self.patience:
                self.begin_anneal(self.best_step if self.rewind else
                                  self.step)

    def state_dict(self) -> dict[str, Any]:
        r"""Everything but the settings."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        r"""Continues from a state."""
        for name in _STATE:
            setattr(self, name, state[name])


_STATE = ("step", "best", "best_step", "bad", "constant", "anneal_from")
