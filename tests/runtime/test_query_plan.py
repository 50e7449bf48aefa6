from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_nodequant.runtime import RowClasses, query_plan
from pyg_nodequant.runtime.query_plan import (
    class_tables,
    make_plans,
    plan_bytes,
)
from pyg_nodequant.runtime.row_codes import num_levels, pack_codes


def score(plans, classes, q, c, string):
    """A row's score at scale 1 and offset 0 by the plan, and its margin."""
    size, at = classes.sizes[c], classes.entries[c]
    total = 0
    for plane in range(2 if plans.high[q, c] else 1):
        entries = plans.tables[q, at + 32 * size * plane:]
        for b, byte in enumerate(string.tolist()):
            total += (int(entries[32 * b + (byte & 15)]) +
                      int(entries[32 * b + 16 + (byte >> 4)])) << 8 * plane
    constant, delta, margin, turn, slack = map(float, plans.terms[q, c])
    return constant + delta * total, margin, turn, slack


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_the_margin_holds_and_is_tight(seed, dim):
    rng = np.random.default_rng(seed)
    widths = rng.integers(0, 9, (3, dim))
    given_classes = RowClasses(widths, rng.normal(size=(3, dim)) *
                               np.exp(rng.normal(size=(3, dim))),
                               rng.normal(size=(3, dim)),
                               rng.integers(0, 2, (3, dim)))
    classes = class_tables(given_classes)
    queries = rng.normal(size=(2, dim)) * np.exp(9 * rng.normal(size=(2, 1)))
    plans = make_plans(queries, classes)
    assert plans.tables.shape == (2, plan_bytes(classes))
    for q in range(2):
        x = queries[q] / np.abs(queries[q]).max()
        assert plans.norms[q] == np.abs(queries[q]).max()
        for c in range(3):
            uses = given_classes.uses_offset[c]
            codes = rng.integers(0, num_levels(widths[c]) + 1, (20, dim))
            for code, string in zip(codes, pack_codes(codes, widths[c]),
                                    strict=True):
                found, margin, turn, slack = score(plans, classes, q, c,
                                                   string)
                exact = x @ (given_classes.offsets[c].astype(float) +
                             given_classes.steps[c].astype(float) * code)
                assert abs(found - exact) <= margin
                assert abs(turn - x[uses].sum()) <= slack + 1e-12
            # No more than half a step of each half byte, and roundings.
            delta = float(plans.terms[q, c, 1])
            size = int(classes.sizes[c])
            magnitude = np.abs(x) @ (
                np.abs(given_classes.offsets[c]) +
                2 * np.abs(given_classes.steps[c]) * num_levels(widths[c]))
            assert margin <= size * delta * 1.001 + 2.0**-18 * magnitude


def test_coarse_tables_get_a_second_byte():
    # Long rows of wide codes: one byte an entry would let too many pass.
    classes = class_tables(RowClasses(np.full((2, 256), [[1], [8]])))
    query = np.random.default_rng(0).normal(size=(1, 256))
    assert make_plans(query, classes).high.tolist() == [[False, True]]


def test_a_zero_query_has_a_plan():
    classes = class_tables(RowClasses([[3, 0, 8]]))
    plans = make_plans(np.zeros((1, 3)), classes)
    assert plans.norms.tolist() == [1.0]
    assert not plans.tables.any() and plans.terms[0, 0, 0] == 0
    assert 0 <= plans.terms[0, 0, 2] < 1e-28


def test_kernel_as_python():
    rng = np.random.default_rng(1)
    classes = class_tables(RowClasses(rng.integers(0, 9, (2, 6)),
                                      rng.normal(size=(2, 6))))
    queries = rng.normal(size=(2, 6))
    plans = make_plans(queries, classes)
    again = query_plan.QueryPlans(*(np.zeros_like(part) for part in plans))
    query_plan.plan_queries.py_func(queries, classes, again)
    for one, other in zip(plans, again, strict=True):
        assert other == pytest.approx(one)
