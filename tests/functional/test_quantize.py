from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_nodequant import functional as F
from pyg_nodequant.functional.quantize import GAUSSIAN_SPAN
from pyg_nodequant.runtime import row_codes

WIDTHS = torch.arange(1, 9)


def round_half_even(x: float) -> int:
    low = math.floor(x)
    if x - low != 0.5:
        return low if x - low < 0.5 else low + 1
    return low if low % 2 == 0 else low + 1


def slow_code(x: float, bits: float, delta: float, mu: float) -> int:
    if delta <= 0:
        return 0
    position = min(max((x - mu) / delta, 0.0), 1.0)
    return round_half_even(position * (2.0**bits - 1))


def slow_value(x: float, bits: float, delta: float, mu: float) -> float:
    return slow_code(x, bits, delta, mu) / (2.0**bits - 1) * delta + mu


def rows(seed: int = 0):
    """Double rows, some of them outside of their range."""
    bits = WIDTHS.double()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(bits), 6, generator=generator, dtype=torch.double)
    delta = torch.rand(len(bits), generator=generator).double() * 3 + 0.5
    mu = -torch.rand(len(bits), generator=generator).double() * 1.5
    return x, bits, delta, mu


def test_column():
    assert F.column(torch.ones(3)).shape == (3, 1)
    assert F.column(torch.ones(3, 1)).shape == (3, 1)
    assert F.column(torch.ones(3, 2)).shape == (3, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_num_levels_is_exact(dtype):
    bits = torch.arange(9).repeat(37).to(dtype)  # long enough for SIMD
    expected = [2**b - 1 for b in range(9)] * 37
    assert F.num_levels(bits).tolist() == expected


def test_num_levels_gradient():
    bits = torch.tensor([1.0, 2.5, 8.0], dtype=torch.double,
                        requires_grad=True)
    F.num_levels(bits).sum().backward()
    expected = [math.log(2) * 2**b for b in (1.0, 2.5, 8.0)]
    assert bits.grad.tolist() == pytest.approx(expected)


def test_snap_float16():
    x = torch.tensor([0.1, 1e-9, 3.0, 2049.0, 1e6], requires_grad=True)
    out = F.snap_float16(x)
    with np.errstate(over="ignore"):
        expected = np.float16(x.detach().numpy()).astype(np.float32)
    assert out.tolist() == expected.tolist()
    assert out.dtype == torch.float32
    out.sum().backward()
    assert x.grad.tolist() == [1] * 5


def test_gaussian_span():
    grid = torch.linspace(0, 8, 65)
    out = F.gaussian_span(grid).tolist()
    for bits, span in zip(grid.tolist(), out):
        low = min(int(bits), 7)
        a, b = GAUSSIAN_SPAN[low], GAUSSIAN_SPAN[low + 1]
        assert span == pytest.approx(a + (bits - low) * (b - a), rel=1e-6)


def test_gaussian_span_gradient():
    bits = torch.tensor([0.0, 1.0, 1.5, 7.2, 8.0], requires_grad=True)
    F.gaussian_span(bits).sum().backward()
    slopes = [b - a for a, b in zip(GAUSSIAN_SPAN, GAUSSIAN_SPAN[1:])]
    expected = [slopes[0], slopes[1], slopes[1], slopes[7], slopes[7]]
    assert bits.grad.tolist() == pytest.approx(expected, rel=1e-5)


def test_gaussian_span_is_near_the_optimum():
    # The span that minimises the error of a uniform quantizer of a Gaussian.
    x = torch.linspace(-6, 6, 24001, dtype=torch.double)
    density = torch.exp(-x.square() / 2)
    density /= density.sum()

    def error(span: float, bits: int) -> float:
        q = F.fake_quantize(x[None], torch.tensor([float(bits)]).double(),
                            torch.tensor([span]).double(),
                            torch.tensor([-span / 2]).double())
        return float((density * (q[0] - x).square()).sum())

    for bits in range(1, 7):
        best = error(GAUSSIAN_SPAN[bits], bits)
        for factor in (0.95, 1.05):
            assert best < error(GAUSSIAN_SPAN[bits] * factor, bits)


def test_symmetric_range():
    x, bits, _, _ = rows()
    delta, mu = F.symmetric_range(x, bits)
    assert delta.shape == mu.shape == (8, 1)
    for i in range(8):
        rms = math.sqrt(sum(v * v for v in x[i].tolist()) / 6)
        expected = GAUSSIAN_SPAN[int(bits[i])] * rms
        assert float(delta[i]) == pytest.approx(expected)
        assert float(mu[i]) == pytest.approx(-expected / 2)


def test_symmetric_range_gradient():
    x, bits, _, _ = rows()
    x.requires_grad_()
    bits = (bits - 0.5).requires_grad_()
    assert torch.autograd.gradcheck(F.symmetric_range, (x, bits))


def test_a_row_of_zeros_has_gradient_zero():
    x = torch.zeros(2, 3)
    x[1] = 1.0
    x.requires_grad_()
    bits = torch.tensor([2.0, 2.0], requires_grad=True)
    delta, mu = F.symmetric_range(x, bits)
    assert delta[0] == mu[0] == 0
    F.fake_quantize(x, bits, delta, mu).square().sum().backward()
    assert x.grad[0].tolist() == [0, 0, 0]
    assert bool(x.grad.isfinite().all() & bits.grad.isfinite().all())


def test_minmax_range():
    x, _, _, _ = rows()
    delta, mu = F.minmax_range(x)
    for i, row in enumerate(x.tolist()):
        assert float(mu[i]) == min(row)
        assert float(delta[i]) == max(row) - min(row)


def test_quantize_and_dequantize():
    x, bits, delta, mu = rows()
    codes = F.quantize(x, bits, delta, mu)
    values = F.dequantize(codes, bits, delta, mu)
    assert codes.dtype == torch.uint8
    for i in range(8):
        for k in range(6):
            args = [float(t) for t in (x[i, k], bits[i], delta[i], mu[i])]
            assert int(codes[i, k]) == slow_code(*args)
            assert float(values[i, k]) == pytest.approx(slow_value(*args))


def test_shapes_broadcast():
    x, bits, delta, mu = rows()
    flat = F.quantize(x, bits, delta, mu)
    tall = F.quantize(x, bits[:, None], delta[:, None], mu[:, None])
    assert torch.equal(flat, tall)


def test_range_of_zero():
    x = torch.full((1, 3), 5.0)
    bits, delta, mu = torch.tensor([4]), torch.zeros(1), torch.full((1, ), 5.)
    assert F.quantize(x, bits, delta, mu).tolist() == [[0, 0, 0]]
    assert F.fake_quantize(x, bits.float(), delta, mu).tolist() == [[5.] * 3]


def test_width_of_zero():
    bits = torch.zeros(1)
    out = F.dequantize(torch.zeros(1, 2, dtype=torch.uint8), bits,
                       torch.ones(1), torch.ones(1))
    assert out.tolist() == [[1, 1]]


@pytest.mark.parametrize("offset", [0.0, 0.37])
def test_fake_quantize(offset):
    x, bits, delta, mu = rows()
    bits = (bits - offset)  # continuous widths too
    out = F.fake_quantize(x, bits, delta, mu)
    for i in range(8):
        for k in range(6):
            args = [float(t) for t in (x[i, k], bits[i], delta[i], mu[i])]
            assert float(out[i, k]) == pytest.approx(slow_value(*args))


def test_fake_quantize_equals_the_integer_path():
    x, bits, delta, mu = rows()
    codes = F.quantize(x, bits, delta, mu)
    assert torch.equal(F.dequantize(codes, bits, delta, mu),
                       F.fake_quantize(x, bits, delta, mu))


@pytest.mark.parametrize("offset", [0.0, 0.37])
def test_fake_quantize_gradients(offset):
    x, bits, delta, mu = rows()
    bits = bits - offset
    weight = torch.randn(8, 6, dtype=torch.double,
                         generator=torch.Generator().manual_seed(1))
    leaves = [t.clone().requires_grad_() for t in (x, bits, delta, mu)]
    (F.fake_quantize(*leaves) * weight).sum().backward()
    by_x, for_bits, for_delta, for_mu = (leaf.grad for leaf in leaves)
    inside = outside = 0
    for i in range(8):
        b, d, m = float(bits[i]), float(delta[i]), float(mu[i])
        levels = 2**b - 1
        by_bits = by_delta = by_mu = 0.0
        for k in range(6):
            g, e = float(weight[i, k]), float(x[i, k])
            position = (e - m) / d
            code = slow_code(e, b, d, m)
            if 0 <= position <= 1:
                # q = round(p s) / s * delta + mu, with round'(.) = 1
                inside += 1
                assert float(by_x[i, k]) == pytest.approx(g)
                by_delta += g * (code / levels - position)
                by_mu += 0.0  # -1 through the position, +1 directly
                ds = (position / levels - code / levels**2) * d
            else:
                outside += 1
                assert float(by_x[i, k]) == 0
                by_delta += g * code / levels
                by_mu += g
                clamped = float(position > 1)
                ds = (clamped / levels - code / levels**2) * d
            by_bits += g * ds * math.log(2) * 2**b
        assert float(for_delta[i]) == pytest.approx(by_delta, abs=1e-9)
        assert float(for_mu[i]) == pytest.approx(by_mu, abs=1e-9)
        assert float(for_bits[i]) == pytest.approx(by_bits, abs=1e-9)
    assert inside > 5 and outside > 5


def test_noise_instead_of_rounding():
    x, bits, delta, mu = rows()
    noise = F.rounding_noise(x, 4)
    out = F.fake_quantize(x, bits, delta, mu, noise)
    for i in range(8):
        levels = 2.0**int(bits[i]) - 1
        for k in range(6):
            position = float((x[i, k] - mu[i]) / delta[i])
            code = min(max(position, 0.0), 1.0) * levels + float(noise[i, k])
            assert float(out[i, k]) == pytest.approx(
                code / levels * float(delta[i]) + float(mu[i]))
    assert (out - x).abs().max() > 0  # zero noise gives the clamped values
    still = F.fake_quantize(x, bits, delta, mu, torch.zeros_like(x))
    low, high = F.column(mu), F.column(mu + delta)
    torch.testing.assert_close(still, x.clamp(low, high))


@pytest.mark.parametrize("offset", [0.0, 0.37])
def test_noise_has_exact_gradients(offset):
    x, bits, delta, mu = rows()
    noise = F.rounding_noise(x, 4)
    leaves = [t.requires_grad_() for t in (x, bits - offset, delta, mu)]
    assert torch.autograd.gradcheck(
        lambda *given: F.fake_quantize(*given, noise), leaves)


def test_noise_of_a_width_of_zero():
    x = torch.randn(1, 4)
    out = F.fake_quantize(x, torch.zeros(1), torch.ones(1), torch.ones(1),
                          F.rounding_noise(x, 1))
    assert out.tolist() == [[1.0] * 4]


def test_centred_values_keep_their_digits():
    x = torch.linspace(-1e-3, 1e-3, 64)[None]
    bits, delta = torch.tensor([8.0]), torch.tensor([1.0])
    out = F.fake_quantize(x, bits, delta, -delta / 2, None, True)
    code = F.quantize(x, bits, delta, -delta / 2).double()
    exact = (code - 127.5) / 255
    assert ((out - exact).abs() <= 2e-7 * exact.abs()).all()
    loose = F.fake_quantize(x, bits, delta, -delta / 2)
    assert ((loose - exact).abs() > 2e-6 * exact.abs()).any()
    assert torch.allclose(out, loose, atol=1e-6)


@pytest.mark.parametrize("noisy", [False, True])
def test_centred_gradients_are_those_of_others(noisy):
    x, bits, delta, _ = rows()
    noise = F.rounding_noise(x, 3) if noisy else None
    found = []
    for centered in (False, True):
        leaves = [t.clone().requires_grad_() for t in (x, bits, delta)]
        out = F.fake_quantize(*leaves, -leaves[2] / 2, noise, centered)
        out.square().sum().backward()
        found.append([out, *(leaf.grad for leaf in leaves)])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b)


def test_safe_sqrt():
    square = torch.tensor([0.0, 4.0], requires_grad=True)
    out = F.safe_sqrt(square)
    assert out.tolist() == [0, 2]
    out.sum().backward()
    assert square.grad.tolist() == [0, 0.25]


def test_stored_step():
    delta = torch.tensor([[3.0], [0.1], [0.7]])
    bits = torch.tensor([2, 1, 8])
    out = F.stored_step(delta, bits)
    for i, b in enumerate([2, 1, 8]):
        expected = np.float32(np.float16(delta[i].item() / (2**b - 1)))
        assert float(out[i]) == float(expected)
    assert F.stored_step(torch.ones(1, 1), torch.zeros(1)).item() == 1


# The same formulas in numpy.


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.floats(1e-6, 1e6),
       dim=st.integers(1, 40))
def test_codes_are_those_of_numpy(seed, spread, dim):
    generator = torch.Generator().manual_seed(seed)
    widths = torch.randint(0, 9, (17, ), generator=generator)
    x = torch.randn(17, dim, generator=generator) * spread
    delta = torch.rand(17, generator=generator) * 4 * spread
    delta[3] = 0.0
    mu = torch.randn(17, generator=generator) * spread
    codes = F.quantize(x, widths, delta, mu)
    expected = row_codes.quantize_rows(x.numpy(), widths.numpy(),
                                       delta.numpy(), mu.numpy())
    assert np.array_equal(codes.numpy(), expected)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), centered=st.booleans())
def test_values_are_those_of_numpy(seed, centered):
    generator = torch.Generator().manual_seed(seed)
    widths = torch.randint(1, 9, (17, ), generator=generator)
    levels = 2**widths - 1
    codes = (torch.rand(17, 5, generator=generator) *
             (levels[:, None] + 1)).to(torch.uint8)
    scale = F.snap_float16(torch.rand(17, generator=generator))
    mu = F.snap_float16(torch.randn(17, generator=generator))
    delta = scale * levels
    mu = -delta / 2 if centered else mu
    out = F.dequantize(codes, widths, delta, mu).numpy()
    expected = row_codes.dequantize_rows(
        codes.numpy(), scale.numpy(), None if centered else mu.numpy(),
        widths=widths.numpy(), centered=centered)
    size = (delta + mu.abs()).numpy()[:, None]
    assert (np.abs(out - expected) <= 3e-7 * size).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.floats(1e-6, 1e6),
       dim=st.integers(1, 70))
def test_spans_are_those_of_numpy(seed, spread, dim):
    generator = torch.Generator().manual_seed(seed)
    widths = torch.randint(0, 9, (17, ), generator=generator)
    x = torch.randn(17, dim, generator=generator) * spread
    x[2] = 0.0
    delta, _ = F.symmetric_range(x, widths.float())
    expected = row_codes.gaussian_span(x.numpy(), widths.numpy())
    np.testing.assert_allclose(delta.squeeze(-1).numpy(), expected, rtol=1e-6)


def test_tables_are_those_of_numpy():
    assert GAUSSIAN_SPAN == row_codes.GAUSSIAN_SPAN
    bits = np.arange(9)
    assert np.array_equal(F.num_levels(torch.arange(9.0)).numpy(),
                          row_codes.num_levels(bits))
