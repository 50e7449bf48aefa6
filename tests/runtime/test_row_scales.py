from __future__ import annotations

import numpy as np
import pytest

from pyg_nodequant.runtime.row_classes import unpack_nibbles
from pyg_nodequant.runtime.row_scales import SCALE_DTYPES, RowScales


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_stores_rounded(dtype):
    values = np.random.default_rng(0).normal(size=50)
    stored = RowScales.store(values, dtype)
    expected = values.astype(dtype).astype(np.float32)
    assert np.array_equal(stored.values, expected)
    rows = np.array([3, 3, 0])
    assert np.array_equal(stored[rows], expected[rows])


def test_equal_scales_are_stored_once():
    stored = RowScales.store([0.1] * 9, "float16")
    assert stored.data.shape == (1, )
    assert stored.values.tolist() == [float(np.float16(0.1))] * 9
    assert RowScales.store([0.1] * 9, "float16", share=False).data.size == 9


@pytest.mark.parametrize("dtype,top", [("log8", 255), ("log4", 15)])
@pytest.mark.parametrize("n", [200, 201])
def test_log_scales(dtype, top, n):
    rng = np.random.default_rng(1)
    values = np.exp(rng.normal(size=n))
    values[:3] = 0
    stored = RowScales.store(values, dtype)
    assert stored.data.dtype == np.uint8
    codes = stored.data
    if dtype == "log4":
        assert len(codes) == (n + 1) // 2
        assert not any(unpack_nibbles(codes, 2 * len(codes))[n:])
        codes = unpack_nibbles(codes, n)
    assert not stored.values[:3].any() and codes[3:].min() == 1
    assert codes.max() == top
    step = float(stored.log[1])
    error = np.abs(np.log2(stored.values[3:] / values[3:]))
    assert error.max() <= step / 2 + 1e-5
    low, high = stored.log
    for code, value in zip(codes[3:], stored.values[3:], strict=True):
        power = float(low) + (int(code) - 1) * float(high)
        assert value == np.float32(2.0**power)


@pytest.mark.parametrize("dtype", ["log8", "log4"])
@pytest.mark.parametrize("values", [[], [0.0, 0.0], [0.25], [3.0, 3.0],
                                    [0.0, 0.5, 4.0]])
def test_log_scales_of_few(values, dtype):
    stored = RowScales.store(values, dtype)
    assert stored.values == pytest.approx(values, rel=1e-6)
    assert stored.largest == pytest.approx(max(values, default=0))
    assert stored.is_finite


@pytest.mark.parametrize("dtype", SCALE_DTYPES)
@pytest.mark.parametrize("n", [0, 1, 2, 9, 10])
def test_every_way_to_look_at_them_agrees(dtype, n):
    values = np.random.default_rng(n).permutation(2.0**np.arange(n) / 4)
    stored = RowScales.store(values, dtype)
    expected = stored.values
    assert expected == pytest.approx(values, rel=.35)
    assert expected.dtype == np.float32 and stored.size == n
    before = stored.resident_bytes
    assert before == stored.data.nbytes
    for rows in (slice(1, None), slice(None, -1), slice(1, 7, 3),
                 slice(None, None, -1), np.arange(n)[::-1],
                 np.arange(n, dtype=np.uint32), np.zeros(0, dtype=int)):
        assert np.array_equal(stored[rows], expected[rows])
    largest = float(expected.max(initial=0))
    assert stored.largest == largest <= stored.bound
    scanned = stored.scanned
    if dtype == "float16":
        scanned = scanned.view(np.float16)
    else:
        assert scanned.dtype == np.float32
    assert np.array_equal(scanned, expected)
    made = 4 * n if dtype.startswith("log") else 0
    assert stored.resident_bytes == before + made
    assert stored.largest == largest


@pytest.mark.parametrize("dtype,top", [("log8", 254), ("log4", 14)])
@pytest.mark.parametrize("low,step", [(-3.0, 0.125), (-9.0, np.float32(0.1)),
                                      (2.5, 0.0)])
def test_scales_on_a_given_grid_are_kept(dtype, top, low, step):
    steps = np.arange(top + 1)
    grid = np.exp2(low + steps * float(step)).astype(np.float32)
    values = np.append(grid[::3], 0)
    stored = RowScales.store(values, dtype, log=(low, step))
    assert np.array_equal(stored.values, values)
    assert stored.log.tolist() == [low, step]
    # Others go to the nearest logarithm, or to an end.
    near = RowScales.store([grid[1] * 1.001, 1e-9, 1e9], dtype,
                           log=np.array([low, step]))
    assert near.values.tolist() == [grid[1], grid[0], grid[-1]]
    with pytest.raises(ValueError, match="within float32"):
        RowScales.store([], dtype, log=(low, 1000.0))


@pytest.mark.parametrize("log", [(0.0, -1.0), (np.inf, 1.0), (0.0, np.nan),
                                 (0.1, 1.0), (1e300, 1.0), (1.0, ), 1.0,
                                 (0.0, None)])
def test_refuses_other_grids(log):
    with pytest.raises(ValueError, match="'log' needs to be two finite float"):
        RowScales.store([1.0], "log4", log=log)
    for dtype in ("float16", "float32"):
        with pytest.raises(ValueError, match="'log' needs to be None for sca"
                           "les in float"):
            RowScales.store([1.0], dtype, log=log)


@pytest.mark.parametrize("values,dtype,message", [
    ([1e6], "float16", "finite in float16"),
    ([np.nan], "float32", "finite in float32"),
    ([-1.0], "log8", "at least 0 in log8"),
    ([-1.0], "log4", "at least 0 in log4"),
    ([np.inf], "log8", "finite and at least 0"),
    ([1.0], "int8", "'scale_dtype' needs to be one of"),
    ([[1.0]], "float16", "one dimension"),
])
def test_refuses(values, dtype, message):
    with pytest.raises(ValueError, match=message):
        RowScales.store(values, dtype)
