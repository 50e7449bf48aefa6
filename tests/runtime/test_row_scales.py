from __future__ import annotations

import numpy as np
import pytest

from pyg_nodequant.runtime.row_scales import RowScales


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


def test_log_scales():
    rng = np.random.default_rng(1)
    values = np.exp(rng.normal(size=200))
    values[:3] = 0
    stored = RowScales.store(values, "log8")
    assert stored.data.dtype == np.uint8
    assert not stored.values[:3].any() and (stored.data[3:] > 0).all()
    step = float(stored.log[1])
    error = np.abs(np.log2(stored.values[3:] / values[3:]))
    assert error.max() <= step / 2 + 1e-5
    low, high = stored.log
    for code, value in zip(stored.data[3:], stored.values[3:], strict=True):
        power = float(low) + (int(code) - 1) * float(high)
        assert value == np.float32(2.0**power)


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [0.25], [3.0, 3.0]])
def test_log_scales_of_few(values):
    stored = RowScales.store(values, "log8").values
    assert stored == pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize("values,dtype,message", [
    ([1e6], "float16", "finite in float16"),
    ([np.nan], "float32", "finite in float32"),
    ([-1.0], "log8", "at least 0 in log8"),
    ([np.inf], "log8", "finite and at least 0"),
    ([1.0], "int8", "'scale_dtype' needs to be one of"),
    ([[1.0]], "float16", "one dimension"),
])
def test_refuses(values, dtype, message):
    with pytest.raises(ValueError, match=message):
        RowScales.store(values, dtype)
