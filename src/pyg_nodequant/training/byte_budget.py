r"""Amounts of code that fill a budget of bytes, by the size of the file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

from torch import Tensor

from pyg_nodequant.config import NodeQuantConfig
from pyg_nodequant.nn import QuantLightGCN
from pyg_nodequant.runtime import PackedTable
from pyg_nodequant.training.packing import (
    embedding_bytes,
    pack_axes,
    pack_rows,
)
from pyg_nodequant.training.transform_plan import (
    DEFAULT_BYTES,
    TransformPlan,
)

# Times that the size of a file is asked for.
_TRIES = 8


def meet_bytes(
    size: Callable[[int], int],
    budget: int,
    start: int,
    unit: int = 1,
    least: int = 0,
    most: int = 2**62,
) -> int:
    r"""Returns the largest amount found whose size is within a budget.

    Sizes grow by about :obj:`unit` with each one more; what else there is in
    a file is not known beforehand, so it is asked.

    Args:
        size (callable): The size in bytes of an amount.
        budget (int): The most bytes.
        start (int): The amount to begin with.
        unit (int, optional): Bytes of one more.
        least (int, optional): The smallest amount there is.
        most (int, optional): The largest.

    Raises:
        ValueError: If the budget is too small for any amount.

    Example:
        >>> meet_bytes(lambda amount: 1000 + amount, 1500, 0)
        500
    """
    good: Optional[int] = None
    bad: Optional[int] = None
    amount = min(max(start, least), most)
    for _ in range(_TRIES):
        found = size(amount)
        if found <= budget:
            good = amount
            if budget - found < unit:
                break
        else:
            bad = amount
        low = least if good is None else good + 1
        high = most if bad is None else bad - 1
        if low > high:
            break
        guess = amount + (budget - found) // unit
        if good is not None and bad is not None and not low <= guess <= high:
            guess = (good + bad) // 2
        amount = min(max(guess, low), high)
    if good is None:
        if size(least) > budget:
            raise ValueError(f"the budget of {budget} bytes is smaller than "
                             f"what a file needs beside its codes (at least "
                             f"{size(least)} bytes)")
        good = least
    return good


def transform_budget(plan: TransformPlan,
                     quant: NodeQuantConfig) -> tuple[int, int] | int:
    r"""Bytes of codes that meet a budget: of users and of items, or of both
    together.
    """
    counts = [x.size(0) for x in plan.kinds]
    if quant.bytes_per_user is not None and quant.bytes_per_item is not None:
        # Half a byte says the class.
        side = 0.5 + quant.scale_bits / 8
        users, items = (int((size - side) * count) for size, count in zip(
            (quant.bytes_per_user, quant.bytes_per_item), counts,
            strict=True))
        if min(users, items) < 0:
            raise ValueError(f"'quant.bytes_per_user' and 'quant.bytes_per_"
                             f"item' need at least {side:g} for the scale and "
                             f"the class")
        return users, items

    def size(total: int) -> int:
        rows = plan.rows(total)
        return embedding_bytes(pack_axes(rows, 0), pack_axes(rows, 1))

    budget = quant.budget_bytes(sum(counts))
    if budget is None:
        budget = int(DEFAULT_BYTES * sum(counts))
    top = plan.kinds[0].size(1) * quant.max_bits // 8 * sum(counts)
    return meet_bytes(size, budget, budget - sum(counts), most=top)


def node_budget(model: QuantLightGCN, rows: Tensor,
                widths: Callable[[int], Tensor], budget: int,
                quant: NodeQuantConfig, num_users: int) -> int:
    r"""The sum of node-only widths that meets a budget of bytes."""
    controller = model.embedding.controller
    quantizer = model.output_quantizer
    if quantizer is None:
        raise ValueError("a budget in bytes needs quant.where=output: the "
                         "graph that 'input' packs has no width")
    low, high = quant.min_bits * len(rows), quant.max_bits * len(rows)

    def size(total: int) -> int:
        controller.freeze(widths(total))
        quantizer.calibrate(rows)
        tables = pack_rows(quantizer, rows, num_users)
        spare = 0
        if quant.row_scale == "group":
            spare = sum(_chance_bytes(table) for table in tables)
        return embedding_bytes(*tables) + spare

    unit = (rows.size(1) + 7) // 8
    return meet_bytes(size, budget, budget // unit, unit, low, high)


def _chance_bytes(table: PackedTable) -> int:
    # The offsets of groups follow from their steps and are not stored, unless
    # all of them happen to be float16: which fine-tuning may bring about if
    # they are few.
    count = len(table.classes)
    return 2 * count if count <= 8 else 0
