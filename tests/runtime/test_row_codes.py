from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_nodequant.runtime import row_codes
from pyg_nodequant.runtime.row_codes import (
    GAUSSIAN_SPAN,
    bit_starts,
    dequantize_rows,
    gaussian_span,
    num_levels,
    pack_codes,
    pad_strings,
    quantize_rows,
    string_bytes,
    unpack_codes,
)


def slow_strings(codes, widths):
    # Writes every bit down as a character, then reads eight at a time.
    strings = []
    for row in codes:
        text = ""
        for code, width in zip(row, widths, strict=True):
            for bit in range(width):
                text += str((int(code) >> bit) & 1)
        text += "0" * (-len(text) % 8)
        strings.append([
            sum(int(text[start + bit]) << bit for bit in range(8))
            for start in range(0, len(text), 8)
        ])
    size = (sum(widths) + 7) // 8
    return np.array(strings, dtype=np.uint8).reshape(len(codes), size)


def random_codes(rng, n, widths):
    top = num_levels(widths)
    return rng.integers(0, top + 1, size=(n, len(widths))).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=130),
       st.integers(0, 3), st.integers(0, 1000))
def test_pack_against_bit_loop(widths, n, seed):
    codes = random_codes(np.random.default_rng(seed), n, widths)
    strings = pack_codes(codes, widths)
    assert strings.shape == (n, string_bytes(sum(widths)))
    assert np.array_equal(strings, slow_strings(codes, widths))
    assert np.array_equal(unpack_codes(strings, widths), codes)


def test_kernels_as_python(monkeypatch):
    rng = np.random.default_rng(0)
    widths = np.array([3, 0, 8, 1, 5, 7, 8, 2])
    codes = random_codes(rng, 5, widths)
    strings = np.zeros((5, 5), dtype=np.uint8)
    starts = bit_starts(widths)
    row_codes._pack.py_func(codes, starts, widths, strings)
    assert np.array_equal(strings, pack_codes(codes, widths))
    read = np.empty_like(codes)
    row_codes._unpack.py_func(pad_strings(strings), starts, widths, read)
    assert np.array_equal(read, codes)
    steps, offsets = rng.normal(size=(2, 8))
    uses = rng.integers(0, 2, 8).astype(bool)
    scale, shift = rng.normal(size=(2, 5))
    out = np.empty((5, 8))
    monkeypatch.setattr(row_codes, "decode_number",
                        row_codes.decode_number.py_func)
    row_codes.decode_rows.py_func(pad_strings(strings), starts, widths, steps,
                                  offsets, uses, scale, shift, out)
    for i in range(5):
        for k in range(8):
            x = scale[i] * (offsets[k] + steps[k] * int(codes[i, k]))
            x += shift[i] * uses[k]
            assert out[i, k] == np.float32(x)


def test_quantize_against_scalar_formula():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 7)).astype(np.float32)
    widths = rng.integers(0, 9, 30)
    span = np.abs(rng.normal(size=30)).astype(np.float32) + 0.5
    low = rng.normal(size=30).astype(np.float32)
    codes = quantize_rows(x, widths, span, low)
    for i in range(30):
        for k in range(7):
            part = (x[i, k] - low[i]) / span[i]
            part = np.float32(min(max(part, 0), 1))
            assert codes[i, k] == round(float(part * np.float32(
                2**widths[i] - 1)))


def test_quantize_without_range_gives_zero():
    assert not quantize_rows([[1.0, -2.0]], [3], [0.0], [0.0]).any()


def test_gaussian_span():
    x = np.random.default_rng(2).normal(size=(9, 11))
    span = gaussian_span(x, np.arange(9))
    for b in range(9):
        rms = (sum(v * v for v in x[b]) / 11)**0.5
        assert span[b] == pytest.approx(GAUSSIAN_SPAN[b] * rms, rel=1e-6)
    half = gaussian_span(x[:1], [1.5])[0]
    ends = gaussian_span(x[[0, 0]], [1, 2])
    assert half == pytest.approx(ends.mean(), rel=1e-6)


def test_dequantize_forms():
    codes, widths = [[0, 1], [3, 2], [0, 0]], [1, 2, 0]
    plain = dequantize_rows(codes, [2.0, 2.0, 2.0])
    assert plain.tolist() == [[0, 2], [6, 4], [0, 0]]
    shifted = dequantize_rows(codes, [1.0, 1.0, 1.0], [5.0, 6.0, 7.0],
                              widths=widths)
    assert shifted.tolist() == [[5, 6], [9, 8], [0, 0]]
    centred = dequantize_rows(codes, [1.0, 2.0, 1.0], widths=widths,
                              centered=True)
    assert centred.tolist() == [[-.5, .5], [3, 1], [0, 0]]
    with pytest.raises(ValueError, match="'widths' needs to be given"):
        dequantize_rows(codes, [1.0, 1.0, 1.0], centered=True)


@pytest.mark.parametrize("seed", range(5))
def test_same_formulas_as_in_torch(seed):
    torch = pytest.importorskip("torch")
    twin = importlib.import_module("pyg_nodequant.functional.quantize")
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, 9)).astype(np.float32)
    widths = rng.integers(1, 9, 40)
    bits = torch.from_numpy(widths)
    delta, mu = twin.symmetric_range(torch.from_numpy(x), bits.float())
    span = gaussian_span(x, widths)
    assert span == pytest.approx(delta.numpy()[:, 0], rel=1e-6)
    codes = twin.quantize(torch.from_numpy(x), bits, delta, mu).numpy()
    mine = quantize_rows(x, widths, delta.numpy()[:, 0], mu.numpy()[:, 0])
    assert np.array_equal(mine, codes)
    rows = twin.dequantize(torch.from_numpy(codes), bits, delta, mu).numpy()
    scale = delta.numpy()[:, 0] / num_levels(widths)
    mine = dequantize_rows(codes, scale, widths=widths, centered=True)
    assert mine == pytest.approx(rows, rel=1e-5, abs=1e-6)
