from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_nodequant.runtime import FloatTable, PackedTable, RowClasses
from pyg_nodequant.runtime.row_fit import choose_bits, fit_rows

D = 6


def table(form, n=40, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D)) * np.exp(rng.normal(size=(n, 1)))
    widths = rng.choice([1, 4, 4, 8], n)
    if form == "groups":
        return PackedTable.from_float(x, widths, groups=rng.integers(0, 3, n))
    if form == "gaussian":
        classes = RowClasses.gaussian([[4, 4, 3, 3, 2, 2], [5, 5, 4, 4, 3, 3]],
                                      np.geomspace(2, 1, D))
        ids = rng.integers(0, 2, n)
        codes = rng.integers(0, 2**classes.widths[ids].astype(int))
        return PackedTable.from_classes(codes, ids, classes,
                                        np.exp(rng.normal(size=n)),
                                        scale_dtype="log4", log=(-3.0, .5))
    if form == "mixed":
        classes = RowClasses([[4, 4, 2, 1, 0, 0], [3, 3, 3, 2, 0, 0],
                              [8, 8, 8, 8, 8, 8]],
                             rng.uniform(.1, .5, (3, D)),
                             -rng.uniform(.1, .5, (3, D)), [1, 1, 1, 1, 0, 0])
        ids = rng.integers(0, 2, n)
        codes = np.minimum(rng.integers(0, 2, (n, D)),
                           classes.widths[ids] > 0)
        return PackedTable.from_classes(codes, ids, classes,
                                        rng.uniform(.5, 2, n),
                                        rng.normal(size=n))
    kind, scale_dtype = form.split()
    return PackedTable.from_float(x, widths, kind, scale_dtype=scale_dtype)


FORMS = ["symmetric float16", "symmetric float32", "symmetric log8",
         "minmax float16", "minmax log8", "groups", "mixed",
         "symmetric log4", "gaussian"]


@pytest.mark.parametrize("form", FORMS)
def test_rows_stay_in_the_form_of_the_table(form):
    old = table(form)
    rows = table(form, seed=1).dequantize()
    common = np.bincount(old.bits).argmax()
    new = fit_rows(old, rows, np.full(len(rows), common))
    assert len(new) == len(rows) and new.classes is not None
    assert new.classes.to_bytes() == old.classes.to_bytes()
    mine, theirs = new.encode("t")[1], old.encode("t")[1]
    assert {name: array.dtype for name, array in mine.items()} == {
        name: array.dtype for name, array in theirs.items()}
    for log in {"t.log", "t.log4"} & theirs.keys():
        assert np.array_equal(mine[log], theirs[log])
    if form == "groups":
        assert (new.scale == old.scale[0]).all()
    assert (new.bits == common).all()


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_near_what_was_given(form):
    old = table(form)
    some = old.bits == np.bincount(old.bits).argmax()
    rows = old.dequantize()[some]
    found = fit_rows(old, rows, old.bits[some]).dequantize()
    error = np.linalg.norm(found - rows) / np.linalg.norm(rows)
    # Rows that a class of the table can hold come back nearly as they were.
    assert error < {"groups": .2, "mixed": .3,
                    "symmetric log4": .15}.get(form, .08)


@given(st.integers(0, 10**6), st.sampled_from(["symmetric", "minmax"]),
       st.sampled_from([1, 2, 3, 8]))
@settings(max_examples=40, deadline=None)
def test_never_much_worse_than_from_float(seed, kind, width):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(5, D)) * rng.uniform(.01, 9)).astype(np.float32)
    old = PackedTable.from_float(x, width, kind, scale_dtype="float32")
    new = fit_rows(old, x, old.bits)
    error = np.square(new.dequantize() - x).sum()
    least = np.square(old.dequantize() - x).sum()
    assert error <= 1.25 * least + 1e-9


def test_wider_rows_are_nearer():
    old = table("symmetric float16")
    x = np.random.default_rng(3).normal(size=(4, D)).astype(np.float32)
    errors = []
    for width in (1, 4, 8):
        bits = choose_bits(old, old.widths, 4, width)
        new = fit_rows(old, x, bits)
        assert (new.widths == width).all()
        errors.append(np.square(new.dequantize() - x).sum())
    assert errors[0] > errors[1] > errors[2]
    mixed = fit_rows(old, x, np.array([1, 8, 4, 1]) * D)
    assert mixed.widths.tolist() == [1, 8, 4, 1]


def test_widths_are_those_of_like_rows():
    widths = np.repeat([1, 2, 4, 8], 50)
    degree = np.repeat([1, 5, 20, 90], 50)
    old = PackedTable.from_float(np.ones((200, D)), widths)
    asked = np.array([0, 1, 5, 20, 22, 90, 10**6])
    bits = choose_bits(old, widths, 7, like=(degree, asked))
    # At least the mean of the rows of that degree and a few beside them.
    assert (bits / D).tolist() == [1, 2, 4, 8, 8, 8, 8]
    assert (choose_bits(old, widths, 2) / D).tolist() == [4, 4]
    assert (choose_bits(old, widths[:0], 1) / D).tolist() == [1]
    zeros = PackedTable.from_float(np.ones((2, D)), 0)
    assert choose_bits(zeros, zeros.widths, 1).tolist() == [0]
    for width in (5, 4.5, -1):
        with pytest.raises(ValueError, match=r"'width' needs to be one of 1, "
                           r"2, 4, 8, the widths of the table's"):
            choose_bits(old, widths, 1, width)
    floats = FloatTable(np.eye(3))
    assert choose_bits(floats, floats.widths, 1, 32).tolist() == [96]
    with pytest.raises(ValueError, match=r"'width' needs to be 32"):
        choose_bits(floats, floats.widths, 1, 4)


def test_the_best_class_of_a_width():
    classes = RowClasses([[4, 4], [4, 4]], [[.1], [1.]], [[-.75], [-7.5]])
    old = PackedTable.from_classes([[0, 3], [1, 2], [1, 1]], [0, 0, 1],
                                   classes, np.ones(3))
    new = fit_rows(old, np.float32([[7.5, -7.5], [.75, -.75]]), [8, 8])
    assert new.class_ids.tolist() == [1, 0]
    assert new.dequantize() == pytest.approx(
        np.float32([[7.5, -7.5], [.75, -.75]]))


def test_zero_rows_and_no_rows():
    for form in FORMS:
        assert len(fit_rows(table(form), np.zeros((0, D)), [])) == 0
    for form in FORMS[:5]:
        found = fit_rows(table(form), np.zeros((2, D)),
                         [4 * D, D]).dequantize()
        assert (found == 0).all()


def test_floats():
    old = FloatTable(np.eye(3))
    rows = np.float32([[1, 2, 3]])
    assert np.array_equal(fit_rows(old, rows, [96]).rows, rows)


def test_rows_beyond_the_precision():
    old = table("symmetric float16")
    with pytest.raises(ValueError, match="'rows' needs to fit the scales of "
                       "the table, which are float16"):
        fit_rows(old, np.full((1, D), 1e30, dtype=np.float32), [4 * D])
