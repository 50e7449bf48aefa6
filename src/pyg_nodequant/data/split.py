"""Carving test and validation edges, by a seed of their own or by time."""

from __future__ import annotations

from typing import Optional

import numpy as np

from pyg_nodequant.data.counter_random import random_order
from pyg_nodequant.data.errors import DataError

_STREAMS = {"test": 0, "val": 1}  # so that test and val are independent draws


def held_out_size(num_edges: int, fraction: float) -> int:
    r"""Returns :math:`\lfloor f E + 1/2 \rfloor`, the size of a held-out part.

    Example:
        >>> held_out_size(100_000, 0.2), held_out_size(3, 0.1)
        (20000, 0)
    """
    return int(fraction * num_edges + 0.5)


def carve(
    num_edges: int,
    fraction: float,
    part: str,
    *,
    split_seed: int = 0,
    times: Optional[np.ndarray] = None,
) -> np.ndarray:
    r"""Chooses which edges are held out.

    At random, it depends on :obj:`split_seed` and the number of edges only:
    never on a training seed, on the machine or on the version of a library.
    With :obj:`times` the latest edges are held out, of all users together
    (so nothing that is trained on happened after what is tested, but for
    equal times, which stay in order).

    Args:
        num_edges (int): Number of edges, in their canonical order.
        fraction (float): Share of the edges to hold out.
        part (str): :obj:`"test"` or :obj:`"val"`.
        split_seed (int): Seed of the random choice.
        times (np.ndarray, optional): One time an edge.

    Returns:
        A boolean mask :obj:`[num_edges]`, true where an edge is held out.

    Raises:
        DataError: If no edge would be left, or an argument is not allowed.

    Example:
        >>> int(carve(10, 0.2, "test").sum())
        2
        >>> carve(4, 0.5, "test", times=np.array([3, 9, 1, 7])).tolist()
        [False, True, False, True]
    """
    if not fraction >= 0:  # NaN neither
        raise DataError(f"'data.{part}_fraction' needs to be a number of at "
                        f"least 0 (got {fraction})")
    if not 0 <= split_seed < 2**64:
        raise DataError(f"'data.split_seed' needs to be an integer in "
                        f"[0, 2**64) (got {split_seed})")
    size = held_out_size(num_edges, fraction)
    if size >= num_edges:
        raise DataError(f"'data.{part}_fraction' needs to leave training "
                        f"interactions (got {fraction:g}, which holds out "
                        f"{size} of {num_edges})")
    if times is None:
        order = random_order(split_seed, _STREAMS[part], num_edges)
    else:
        order = np.argsort(times, kind="stable")[::-1]
    mask = np.zeros(num_edges, dtype=bool)
    mask[order[:size]] = True
    return mask
