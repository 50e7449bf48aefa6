r"""What a query is turned into before codes are scanned.

For a query :math:`q` and a class, the score of a row is

.. math::
    s = r \left(\sum_k q_k m_k + \sum_t x_t w_t\right) + o \sum_k q_k n_k,

with :math:`x_t` the bits of its string and a weight :math:`w_t = q_k a_k 2^p`
for bit :math:`p` of dimension :math:`k`. Four neighbouring bits have 16
values, so :math:`\sum_t x_t w_t` is a sum over half bytes of table entries.
The entries are stored as integers, in steps of :math:`\delta` and from their
smallest value on, in one byte or, where that would be too coarse, in two:

.. math::
    \sum_t x_t w_t = c + \delta \sum_h T_h[\textrm{half byte } h] + e, \quad
    |e| \le \eta,

with :math:`\eta` half a step for each half byte. Nothing here depends on the
widths but the weights, and :math:`\eta` is a bound, not an estimate: no row
whose score exceeds :math:`\theta` has a scanned score below :math:`\theta -
|r| \eta`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyg_nodequant.runtime._jit import jit
from pyg_nodequant.runtime.row_classes import RowClasses
from pyg_nodequant.runtime.row_codes import bit_starts, string_bytes

Array = np.ndarray[Any, Any]

# Entries get a second byte where the bound of one byte's error is above this
# share of the scores' spread: beyond it, scoring the rows let through again
# costs more than looking twice.
_COARSE = 0.4
# Roundings to single precision, of which a score has fewer than 16; see
# `plan_queries`.
_ROUNDING = 2.0**-20


class ClassTables(NamedTuple):
    r"""The classes of a table as kernels read them, class by class."""

    widths: Array  #: [C, d] uint8
    bits: Array  #: [C, d] int32, the first bit of each dimension
    steps: Array  #: [C, d] float32
    offsets: Array  #: [C, d] float32
    uses_offset: Array  #: [C, d] bool
    sizes: Array  #: [C] int64, bytes of a string
    entries: Array  #: [C] int64, where the class's entries begin in a plan


class QueryPlans(NamedTuple):
    r"""The plans of some queries."""

    tables: Array
    r"""[Q, E] uint8: by class, 32 entries a byte, then their high bytes."""
    terms: Array
    r"""[Q, C, 5] float32: :math:`c + \sum_k q_k m_k`, :math:`\delta`,
    :math:`\eta`, :math:`\sum_k q_k n_k` and the bound of the last's error."""
    high: Array
    r"""[Q, C] bool: whether entries have a second byte."""
    norms: Array
    r"""[Q] float64: the largest :math:`|q_k|`; all else is for a query of
    which that is 1."""
    peaks: Array
    r"""[Q] float64: a bound of the magnitudes of all sums at a scale of 1."""


def class_tables(classes: RowClasses) -> ClassTables:
    r"""Returns classes in the form that kernels read."""
    sizes = string_bytes(classes.bits)
    entries = np.cumsum(64 * sizes) - 64 * sizes
    bits = np.stack([bit_starts(row) for row in classes.widths])
    out = ClassTables(*map(np.ascontiguousarray, (
        classes.widths, bits.astype(np.int32), classes.steps, classes.offsets,
        classes.uses_offset, sizes, entries)))
    for array in out:  # all alike, or kernels would be compiled again
        array.setflags(write=False)
    return out


def plan_bytes(classes: ClassTables) -> int:
    r"""The bytes of one query's entries."""
    return int(64 * classes.sizes.sum())


@jit
def plan_queries(queries: Array, classes: ClassTables,
                 plans: QueryPlans) -> None:
    r"""Fills in the plans of queries."""
    weights = np.zeros(8 * classes.sizes.max())
    sums = np.zeros(16)
    for q in range(queries.shape[0]):
        low = plans.tables[q]
        norm = 0.0
        for k in range(queries.shape[1]):
            norm = max(norm, abs(queries[q, k]))
        plans.norms[q] = norm if norm > 0 else 1.0
        for c in range(len(classes.sizes)):
            size = classes.sizes[c]
            constant = magnitude = turn = turn_size = 0.0
            t = 0
            for k in range(queries.shape[1]):
                x = queries[q, k] / plans.norms[q]
                step = np.float64(classes.steps[c, k])
                offset = np.float64(classes.offsets[c, k])
                width = np.int64(classes.widths[c, k])
                constant += x * offset
                top = offset + step * ((1 << width) - 1)
                magnitude += abs(x) * max(abs(offset), abs(top))
                if classes.uses_offset[c, k]:
                    turn += x
                    turn_size += abs(x)
                for p in range(width):
                    weights[t] = x * step * (1 << p)
                    t += 1
            halves = (t + 3) // 4  # half bytes that hold bits
            weights[t:8 * size] = 0.0

            widest = total = square = 0.0
            for h in range(2 * size):
                reach = 0.0
                for t in range(4 * h, 4 * h + 4):
                    reach += abs(weights[t])
                    square += weights[t] * weights[t]
                    constant += min(weights[t], 0.0)
                widest = max(widest, reach)
                total += reach
            # The scores' spread if bits were thrown: sqrt(square) / 2.
            coarse = size * widest / 255 > _COARSE * 0.5 * np.sqrt(square)
            # Kept from 0 where weights are lost in single precision anyway.
            delta = np.float64(np.float32(
                max(widest / (65535 if coarse else 255), 1e-30)))
            inverse = 1 / delta
            for h in range(2 * size):
                least = 0.5
                for t in range(4 * h, 4 * h + 4):
                    least -= min(weights[t], 0.0) * inverse
                sums[0] = least
                for p in range(4):  # all sums without a bit, and with it
                    weight = weights[4 * h + p] * inverse
                    for v in range(1 << p):
                        sums[(1 << p) + v] = sums[v] + weight
                at = classes.entries[c] + 16 * h
                for v in range(16):
                    low[at + v] = np.uint8(np.int32(sums[v]))
                if coarse:
                    at += 32 * size
                    for v in range(16):
                        low[at + v] = np.uint8(np.int32(sums[v]) >> 8)
            # Sums, products and rows that are rounded to single precision:
            # each loses at most 2^-24 of one of these magnitudes.
            lost = _ROUNDING * (abs(constant) + total + magnitude)
            plans.high[q, c] = coarse
            plans.terms[q, c, 0] = constant
            plans.terms[q, c, 1] = delta
            plans.terms[q, c, 2] = (0.5 * halves * delta *
                                    (1 + _ROUNDING) + lost)
            plans.terms[q, c, 3] = turn
            plans.terms[q, c, 4] = _ROUNDING * turn_size
            peak = abs(constant) + 2 * total + magnitude + turn_size
            plans.peaks[q] = max(plans.peaks[q], peak)


@jit
def make_plans(queries: Array, classes: ClassTables) -> QueryPlans:
    r"""Returns the plans of queries :math:`(Q, d)`, finite
    :obj:`float64`.
    """
    count, number = len(queries), len(classes.sizes)
    plans = QueryPlans(
        np.zeros((count, 64 * classes.sizes.sum()), np.uint8),
        np.zeros((count, number, 5), np.float32),
        np.zeros((count, number), np.bool_), np.ones(count), np.zeros(count))
    plan_queries(queries, classes, plans)
    return plans
