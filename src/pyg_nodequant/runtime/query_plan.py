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

where :math:`c` is chosen so that the error lies evenly about 0. Nothing here
depends on the widths but the weights, and :math:`\eta` is the exact bound of
the rounded entries, not an estimate: no row whose score exceeds
:math:`\theta` has a scanned score below :math:`\theta - |r| \eta`.
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


def make_plans(queries: Array, classes: ClassTables) -> QueryPlans:
    r"""Returns the plans of queries :math:`(Q, d)`, finite
    :obj:`float64`.
    """
    count, number = len(queries), len(classes.sizes)
    plans = QueryPlans(
        np.zeros((count, plan_bytes(classes)), dtype=np.uint8),
        np.zeros((count, number, 5), dtype=np.float32),
        np.zeros((count, number), dtype=np.bool_),
        np.ones(count), np.zeros(count))
    plan_queries(queries, classes, plans)
    return plans


@jit
def plan_queries(queries: Array, classes: ClassTables,
                 plans: QueryPlans) -> None:
    r"""Fills in the plans of queries."""
    weights = np.zeros(8 * classes.sizes.max())
    sums = np.zeros(16)
    lowest = np.array([0, 0, 1, 0, 2, 0, 1, 0, 3, 0, 1, 0, 2, 0, 1, 0])
    for q in range(queries.shape[0]):
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
            levels = 65535 if coarse else 255
            # Kept from 0 where weights are lost in single precision anyway.
            delta = np.float64(np.float32(max(widest / levels, 1e-30)))
            inverse = 1 / delta
            below = above = 0.0
            for h in range(2 * size):
                least = 0.0
                for p in range(4):
                    least += min(weights[4 * h + p], 0.0)
                sums[0] = -least
                low = high = 0.0
                at = classes.entries[c] + 16 * h
                for v in range(16):
                    if v:  # the sum without the lowest bit, and that bit
                        p = lowest[v]
                        sums[v] = sums[v & (v - 1)] + weights[4 * h + p]
                    level = min(int(sums[v] * inverse + 0.5), levels)
                    error = sums[v] - level * delta
                    low, high = min(low, error), max(high, error)
                    plans.tables[q, at + v] = level & 255
                    if coarse:
                        plans.tables[q, at + 32 * size + v] = level >> 8
                below += low
                above += high
            constant += 0.5 * (below + above)
            # Sums, products and rows that are rounded to single precision:
            # each loses at most 2^-24 of one of these magnitudes.
            lost = _ROUNDING * (abs(constant) + total + magnitude)
            plans.high[q, c] = coarse
            plans.terms[q, c, 0] = constant
            plans.terms[q, c, 1] = delta
            plans.terms[q, c, 2] = (0.5 * (above - below) *
                                    (1 + _ROUNDING) + lost)
            plans.terms[q, c, 3] = turn
            plans.terms[q, c, 4] = _ROUNDING * turn_size
            peak = abs(constant) + 2 * total + magnitude + turn_size
            plans.peaks[q] = max(plans.peaks[q], peak)
