from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_nodequant import BitWidthController, NodeAwareQuantizer, PackedTable
from pyg_nodequant import functional as F
from pyg_nodequant.config import SYMMETRIC_RANGES
from pyg_nodequant.nn import RowCodes, stored_table

RANGES = ["symmetric", "minmax", "learned", "meanstd", "mse"]
WIDTHS = torch.arange(1, 9)


def make(range: str, frozen: bool = True, seed: int = 0, scale: float = 1.0):
    """A quantizer of one node of each width, and rows for it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 16, generator=generator) * scale
    quantizer = NodeAwareQuantizer(8, 16, range=range)
    quantizer.controller.set_bits(WIDTHS)
    if frozen:
        quantizer.controller.freeze(WIDTHS)
    quantizer.calibrate(x)
    return quantizer, x


def to_table(stored: RowCodes) -> PackedTable:
    return PackedTable.from_codes(
        stored.codes.numpy(), stored.widths.numpy(),
        scale=stored.scale.numpy(),
        offset=None if stored.offset is None else stored.offset.numpy(),
        centered=stored.offset is None)


@pytest.mark.parametrize("range", RANGES)
def test_forward_is_the_formula(range):
    quantizer, x = make(range, frozen=False)
    bits = quantizer.controller()
    if range == "minmax":
        delta, mu = F.minmax_range(x)
    elif range == "meanstd":
        delta, mu = F.meanstd_range(x, bits)
    elif range == "mse":
        delta, mu = F.mse_range(x, bits)
    else:  # learned ranges start from the symmetric ones
        delta, mu = F.symmetric_range(x, bits)
    expected = F.fake_quantize(x, bits, delta, mu)
    assert torch.allclose(quantizer(x), expected, atol=1e-6)


@pytest.mark.parametrize("range", RANGES)
def test_all_parameters_get_a_gradient(range):
    quantizer, x = make(range, frozen=False)
    x.requires_grad_()
    names = {name for name, _ in quantizer.named_parameters()}
    expected = {"controller.alpha"}
    if range == "learned":
        expected |= {"log_delta", "mu"}
    assert names == expected
    quantizer(x).square().sum().backward()
    for parameter in [x, *quantizer.parameters()]:
        assert bool(parameter.grad.isfinite().all())
        assert float(parameter.grad.abs().sum()) > 0


@pytest.mark.parametrize("range", RANGES)
@pytest.mark.parametrize("mode", ["training", "frozen", "eval"])
def test_rows_of_some_nodes_are_those_of_all(range, mode):
    quantizer, x = make(range, frozen=mode == "frozen")
    quantizer.train(mode == "training")
    n_id = torch.tensor([5, 0, 7, 7])
    assert torch.equal(quantizer(x[n_id], n_id), quantizer(x)[n_id])
    empty = torch.empty(0, dtype=torch.long)
    assert quantizer(x[:0], empty).shape == (0, 16)
    part, whole = quantizer.encode(x[n_id], n_id), quantizer.encode(x)
    for a, b in zip(part, whole):
        assert (a is None and b is None) or torch.equal(a, b[n_id])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), range=st.sampled_from(RANGES),
       scale=st.sampled_from([1e-3, 1.0, 100.0]))
def test_what_is_packed_is_what_eval_returns(seed, range, scale):
    quantizer, x = make(range, frozen=False, seed=seed, scale=scale)
    quantizer.eval()
    stored = quantizer.encode(x)
    assert stored.widths.tolist() == WIDTHS.tolist()
    assert (stored.offset is None) == (range in SYMMETRIC_RANGES)
    table = to_table(stored)
    assert np.array_equal(table.codes(), stored.codes.numpy())
    assert np.array_equal(table.scale, stored.scale.numpy())
    out = quantizer(x).detach().numpy()
    size = np.abs(out).max(axis=1, keepdims=True)
    assert (np.abs(table.dequantize() - out) <= 3e-7 * size).all()
    # From the moment widths are frozen, training sees these values too.
    quantizer.train().controller.freeze()
    assert np.array_equal(quantizer(x).detach().numpy(), out)


@pytest.mark.parametrize("range", RANGES)
def test_states(range):
    quantizer, x = make(range, frozen=False)
    with torch.no_grad():
        quantizer.controller.alpha.add_(0.1)
    assert not quantizer.is_snapped
    loose = quantizer(x)
    quantizer.eval()
    assert quantizer.is_snapped
    served = quantizer(x)
    assert not torch.equal(loose, served)
    quantizer.train()
    quantizer.controller.freeze()
    assert quantizer.is_snapped
    assert torch.equal(quantizer(x), served)
    quantizer.controller.unfreeze()
    assert torch.equal(quantizer(x), loose)
    values = [len(row.unique()) for row in served]
    assert all(n <= 2**b for n, b in zip(values, WIDTHS.tolist()))


@pytest.mark.parametrize("range", RANGES)
def test_scales_are_float16(range):
    quantizer, x = make(range)
    stored = quantizer.encode(x)
    assert torch.equal(stored.scale, stored.scale.half().float())
    if stored.offset is not None:
        assert torch.equal(stored.offset, stored.offset.half().float())


def test_width_of_zero():
    controller = BitWidthController(2, min_bits=0)
    controller.freeze(torch.tensor([0, 3]))
    for range in RANGES:
        quantizer = NodeAwareQuantizer(2, 4, controller, range)
        x = torch.randn(2, 4, requires_grad=True)
        out = quantizer(x)
        assert out[0].tolist() == [0] * 4
        out.sum().backward()
        assert bool(x.grad.isfinite().all())
        stored = quantizer.encode(x.detach())
        table = to_table(stored)
        assert np.allclose(table.dequantize(), out.detach().numpy(),
                           atol=1e-6)
        if stored.offset is not None:  # reads scale * code + offset
            assert float(stored.scale[0]) == float(stored.offset[0]) == 0


def sharing(bits=(0, 3, 0, 2, 0)):
    """Five nodes, of which the first three are users."""
    controller = BitWidthController(5, min_bits=0)
    controller.freeze(torch.tensor(bits))
    quantizer = NodeAwareQuantizer(5, 4, controller)
    quantizer.share_row(torch.tensor([0.1, -2.0, 3.0, 0.5]), 3)
    return quantizer, torch.randn(5, 4, requires_grad=True)


def test_shared_row():
    quantizer, x = sharing()
    row = torch.tensor([0.1, -2.0, 3.0, 0.5]).half().float()
    out = quantizer(x)
    assert torch.equal(out[[0, 2]], torch.stack([row, row]))
    assert out[4].tolist() == [0] * 4
    assert bool((out[[1, 3]] != 0).any(1).all())
    out.sum().backward()
    assert not x.grad[[0, 2, 4]].any() and x.grad[[1, 3]].any()
    some = torch.tensor([4, 2, 3, 0, 2])
    assert torch.equal(quantizer(x[some], some), out[some])
    # What is stored reads the same, to the last bit of the shared row.
    stored = quantizer.encode(x.detach())
    assert stored.scale[[0, 2, 4]].tolist() == [1, 1, 0]
    assert torch.equal(stored.centre, row)
    table = stored_table(stored)
    found = torch.from_numpy(table.dequantize())
    assert torch.equal(found[[0, 2, 4]], out.detach()[[0, 2, 4]])
    assert torch.allclose(found, out.detach(), atol=1e-6)


def test_nobody_reads_the_shared_row():
    quantizer, x = sharing((1, 3, 8, 2, 0))
    stored = quantizer.encode(x.detach())
    assert stored_table(stored).dequantize()[4].tolist() == [0] * 4
    assert quantizer(x)[4].tolist() == [0] * 4


def test_state_of_a_shared_row():
    quantizer, x = sharing()
    controller = BitWidthController(5, min_bits=0)
    other = NodeAwareQuantizer(5, 4, controller)
    assert not torch.equal(other(x), quantizer(x))
    other.load_state_dict(quantizer.state_dict())
    assert torch.equal(other(x), quantizer(x))
    other.reset_parameters()
    assert not other.shared_row.any() and int(other.num_sharing) == 0
    assert "shared_row" not in NodeAwareQuantizer(5, 4).state_dict()


@pytest.mark.parametrize("options, row, count, match", [
    ({"min_bits": 1}, torch.ones(4), 3, "widths from 0 on and the range"),
    ({"range": "minmax"}, torch.ones(4), 3, "range symmetric .*and minmax"),
    ({}, torch.ones(3), 3, r"'row' needs 4 numbers .*\(got shape \[3\]\)"),
    ({}, torch.full((4, ), 1e5), 3, "that fit a float16"),
    ({}, torch.ones(4), 6, r"'count' needs to be in \[0, 5\] \(got 6\)"),
])
def test_wrong_shared_row(options, row, count, match):
    controller = BitWidthController(5, min_bits=options.get("min_bits", 0))
    quantizer = NodeAwareQuantizer(5, 4, controller,
                                   options.get("range", "symmetric"))
    with pytest.raises(ValueError, match=match):
        quantizer.share_row(row, count)


def test_rows_of_zeros_and_constants():
    x = torch.tensor([[0.0] * 4, [3.0] * 4])
    for range in ["symmetric", "mse", "meanstd", "minmax"]:
        quantizer = NodeAwareQuantizer(2, 4, range=range).eval()
        out = quantizer(x)
        assert out[0].tolist() == [0] * 4
        assert np.allclose(to_table(quantizer.encode(x)).dequantize(),
                           out.numpy(), atol=1e-6)
        if range not in SYMMETRIC_RANGES:
            assert out[1].tolist() == [3.0] * 4


def test_learned_ranges_are_started_by_the_first_batch():
    quantizer = NodeAwareQuantizer(4, 3, range="learned")
    x = torch.randn(4, 3)
    n_id = torch.tensor([2, 0, 2])
    quantizer(x[n_id], n_id)
    assert quantizer.calibrated.tolist() == [True, False, True, False]
    delta, mu = F.symmetric_range(x, quantizer.controller().detach())
    for i in (0, 2):
        assert quantizer.log_delta[i].exp().item() == pytest.approx(
            delta[i].item())
        assert quantizer.mu[i].item() == pytest.approx(mu[i].item())
    before = quantizer.log_delta.detach().clone()
    quantizer(10 * x[n_id], n_id)  # has been met
    assert torch.equal(quantizer.log_delta, before)
    quantizer(x)
    assert bool(quantizer.calibrated.all())
    quantizer.reset_parameters()
    assert not quantizer.calibrated.any()


def test_nodes_that_no_batch_has_met():
    quantizer = NodeAwareQuantizer(4, 3, range="learned")
    x = torch.randn(4, 3)
    n_id = torch.tensor([0, 2])
    quantizer(x[n_id], n_id)
    quantizer.eval()
    symmetric = NodeAwareQuantizer(4, 3, quantizer.controller).eval()
    out = quantizer(x)
    assert torch.allclose(out[[1, 3]], symmetric(x)[[1, 3]], rtol=1e-2)
    assert not quantizer.calibrated.all()
    table = to_table(quantizer.encode(x))
    assert np.allclose(table.dequantize(), out.detach().numpy(), atol=1e-6)


def test_calibration_of_other_ranges_does_nothing():
    quantizer, x = make("symmetric")
    quantizer.calibrate(10 * x)
    assert list(quantizer.state_dict()) == [
        "controller.alpha", "controller.frozen_bits",
        "controller.is_frozen_flag"]


def test_float32_under_autocast():
    quantizer, x = make("symmetric", frozen=False)
    expected = quantizer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = quantizer(x)
    assert out.dtype == torch.float32
    assert torch.equal(out, expected)


@pytest.mark.parametrize("range", RANGES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_types(range, dtype):
    quantizer, x = make(range)
    expected = quantizer(x)
    quantizer.to(dtype)
    out = quantizer(x)
    assert out.dtype == torch.float32
    if range != "learned":  # whose parameters were rounded
        assert torch.equal(out, expected)
    stored = to_table(quantizer.encode(x)).dequantize()
    assert np.allclose(stored, out.detach().numpy(), atol=1e-5)


def test_shared_controller():
    controller = BitWidthController(8)
    quantizer = NodeAwareQuantizer(8, 4, controller)
    other = NodeAwareQuantizer(8, 4, controller)
    other.borrow_controller()
    assert other.controller is quantizer.controller
    assert list(other.state_dict()) == []
    both = copy.deepcopy(torch.nn.ModuleList([quantizer, other]))
    assert both[0].controller is both[1].controller is not controller


def test_state_dict():
    quantizer, x = make("learned")
    other = NodeAwareQuantizer(8, 16, range="learned")
    other.load_state_dict(quantizer.state_dict())
    assert torch.equal(other(x), quantizer(x))


@pytest.mark.parametrize("shape, n_id", [
    ((7, 16), None), ((8, 15), None), ((8, ), None),
    ((8, 16), torch.tensor([1]))])
def test_wrong_shapes(shape, n_id):
    quantizer, _ = make("symmetric")
    for call in (quantizer, quantizer.encode):
        with pytest.raises(ValueError, match=r"'x' needs shape \["):
            call(torch.zeros(shape), n_id)


def test_what_cannot_be_packed():
    quantizer, x = make("symmetric")
    for bad in (torch.nan, torch.inf):
        y = x.clone()
        y[3, 2] = bad
        with pytest.raises(ValueError, match="'x' needs to be finite"):
            quantizer.encode(y)
    with pytest.raises(ValueError, match="does not fit a float16"):
        quantizer.encode(x * 1e9)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="'range' needs to be one of "
                       "symmetric, minmax, learned, meanstd, mse "
                       r"\(got 'x'\)"):
        NodeAwareQuantizer(3, 4, range="x")
    with pytest.raises(ValueError, match=r"'controller' needs to be for 3 "
                       r"nodes \(got one for 2\)"):
        NodeAwareQuantizer(3, 4, BitWidthController(2))


def test_repr():
    assert repr(NodeAwareQuantizer(3, 4)) == (
        "NodeAwareQuantizer(3, 4, range=symmetric, "
        "controller=BitWidthController(3, bits=1..8, avg=4.00))")


# Estimators ----------------------------------------------------------------


def test_lsq_scales_the_gradients_of_ranges():
    gradients = {}
    for estimator in ("ste", "lsq"):
        quantizer, x = make("learned")
        quantizer.estimator = estimator
        out = quantizer(x)
        (out * torch.arange(16)).sum().backward()
        gradients[estimator] = (out, quantizer.log_delta.grad,
                                quantizer.mu.grad)
    factor = (16 * (2.0**WIDTHS - 1)).rsqrt()
    plain, scaled = gradients["ste"], gradients["lsq"]
    assert torch.equal(plain[0], scaled[0])
    for a, b in zip(plain[1:], scaled[1:]):
        assert float(a.abs().sum()) > 0
        torch.testing.assert_close(b, a * factor)


def test_lsq_needs_learned_ranges():
    for range in set(RANGES) - {"learned"}:
        with pytest.raises(ValueError, match=rf"learned for estimator lsq "
                           rf"\(got '{range}'\)"):
            NodeAwareQuantizer(3, 4, range=range, estimator="lsq")
    NodeAwareQuantizer(3, 4, range="learned", estimator="lsq")


@pytest.mark.parametrize("range", RANGES)
@pytest.mark.parametrize("frozen", [False, True])
def test_noise_instead_of_rounding(range, frozen):
    quantizer, x = make(range, frozen)
    expected = quantizer.eval()(x)
    quantizer.train().estimator = "noise"
    quantizer.noise_seed = 5
    out = quantizer(x)
    noise = F.rounding_noise(x, 5)
    # What is served, before it is rounded to the grid of its row.
    bits = quantizer.controller().detach()
    stored = quantizer.encode(x)
    if frozen:
        step = stored.scale.unsqueeze(-1)
        levels = F.column(F.num_levels(bits))
        low = (-step * levels / 2 if stored.offset is None
               else stored.offset.unsqueeze(-1))
        ideal = x.clamp(low, low + step * levels) + noise * step
        torch.testing.assert_close(out, ideal, rtol=1e-4, atol=1e-5)
    assert not torch.equal(out, expected)
    assert torch.equal(quantizer(x), out)  # a function of the seed
    quantizer.noise_seed = 6
    assert not torch.equal(quantizer(x), out)
    assert torch.equal(quantizer.eval()(x), expected)  # rounds


def test_noise_without_a_seed_follows_torch():
    quantizer, x = make("symmetric")
    quantizer.estimator = "noise"
    torch.manual_seed(0)
    first = quantizer(x)
    assert not torch.equal(quantizer(x), first)
    torch.manual_seed(0)
    assert torch.equal(quantizer(x), first)


@pytest.mark.parametrize("frozen", [False, True])
def test_noise_trains_everything(frozen):
    quantizer, x = make("learned", frozen)
    quantizer.estimator = "noise"
    x.requires_grad_()
    quantizer(x).square().sum().backward()
    trained = {"log_delta": quantizer.log_delta, "mu": quantizer.mu, "x": x}
    if not frozen:
        trained["alpha"] = quantizer.controller.alpha
    for parameter in trained.values():
        assert float(parameter.grad.abs().sum()) > 0


# Gradients of the widths ---------------------------------------------------


@pytest.mark.parametrize("range", RANGES)
def test_interpolated_rows(range):
    quantizer, x = make(range, frozen=False)
    with torch.no_grad():  # well between whole widths, within the bounds
        quantizer.controller.set_bits(WIDTHS * 0.8 + 0.7)
    quantizer.width_gradient = "interpolated"
    bits = quantizer.controller()
    out = quantizer(x)
    ends = []
    for whole in F.neighbour_bits(bits):
        other, _ = make(range)  # started alike, if learned
        if range == "learned":
            other.load_state_dict(quantizer.state_dict())
        other.train().controller.unfreeze()
        delta, mu = other._range(x, whole, None)
        ends.append(F.fake_quantize(x, whole, delta, mu).detach())
    f = F.column(bits - bits.floor()).detach()
    torch.testing.assert_close(out, (1 - f) * ends[0] + f * ends[1])
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(9))
    alpha = quantizer.controller.alpha
    (grad, ) = torch.autograd.grad((out * weight).sum(), alpha)
    (slope, ) = torch.autograd.grad(bits.sum(), alpha)
    apart = ((ends[1] - ends[0]) * weight).sum(-1)
    torch.testing.assert_close(grad, slope * apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("range", RANGES)
def test_interpolation_is_nothing_once_widths_are_whole(range):
    plain, x = make(range, frozen=False)
    other = copy.deepcopy(plain)
    other.width_gradient = "interpolated"
    assert not torch.equal(other(x), plain(x))
    for quantizer in (plain, other):
        quantizer.eval()
    assert torch.equal(other(x), plain(x))
    for quantizer in (plain, other):
        quantizer.train().controller.freeze()
    assert torch.equal(other(x), plain(x))


# Row scales ----------------------------------------------------------------

SCALES = ["log8", "group"]


def scaled(row_scale: str, range: str = "symmetric", seed: int = 0,
           spread: float = 1.0):
    """A quantizer of 40 nodes in two groups, and rows of many sizes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(40, 16, generator=generator)
    x *= torch.randn(40, 1, generator=generator).exp() * spread
    x[3] = 0
    groups = torch.arange(40) // 25
    quantizer = NodeAwareQuantizer(40, 16, range=range, row_scale=row_scale,
                                   groups=groups)
    quantizer.controller.freeze(torch.arange(40) % 8 + 1)
    return quantizer, x


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), range=st.sampled_from(SYMMETRIC_RANGES),
       row_scale=st.sampled_from(SCALES), calibrated=st.booleans(),
       spread=st.sampled_from([1e-2, 1.0, 100.0]))
def test_what_is_packed_is_what_is_trained(seed, range, row_scale, calibrated,
                                           spread):
    quantizer, x = scaled(row_scale, range, seed, spread)
    if calibrated:
        quantizer.calibrate(x)
        x = x * 1.2  # as fine-tuning may move them
    out = quantizer(x).detach().numpy()
    assert np.array_equal(quantizer.eval()(x).detach().numpy(), out)
    stored = quantizer.encode(x)
    for part in (slice(0, 25), slice(25, 40)):
        table = stored_table(stored, part)
        size = np.abs(out[part]).max(axis=1, keepdims=True)
        error = np.abs(table.dequantize() - out[part])
        assert (error <= 4e-7 * size).all()
        assert np.array_equal(table.codes(), stored.codes[part].numpy())


@pytest.mark.parametrize("range", SYMMETRIC_RANGES)
def test_logarithmic_scales_are_close(range):
    quantizer, x = scaled("log8", range)
    plain = NodeAwareQuantizer(40, 16, quantizer.controller, range)
    a, b = quantizer.encode(x), plain.encode(x)
    live = b.scale > 0
    assert live.sum() == 39 and not a.scale[~live].any()
    ratio = a.scale[live] / b.scale[live]
    grids = a.grids[live][:, 1]
    # Half a step of the grid, and the rounding of a float16.
    assert (ratio.log2().abs() <= grids / 2 + 1e-3).all()
    assert float(grids.max()) < 0.1
    assert a.grids.shape == (40, 2)
    assert a.grids[:25].unique(dim=0).shape == (1, 2)
    assert not torch.equal(a.grids[0], a.grids[30])


def test_group_scales_are_root_mean_squares():
    quantizer, x = scaled("group")
    own = F.symmetric_range(x, quantizer.controller.bit_width.float())[0]
    stored = quantizer.encode(x)
    widths = stored.widths.long()
    own = own.squeeze(-1) / (2.0**widths - 1)
    seen = set()
    for i in range(40):
        mates = (widths == widths[i]) & (
            (torch.arange(40) >= 25) == (i >= 25))
        expected = own[mates].square().mean().sqrt().half().float()
        assert float(stored.scale[i]) == pytest.approx(float(expected),
                                                       rel=1e-3)
        seen.add(float(stored.scale[i]))
    assert len(seen) == 16
    assert stored.groups.tolist() == [0] * 25 + [1] * 15


def test_scales_of_all_widths_still_trained_are_those_served():
    for row_scale in SCALES:
        quantizer, x = scaled(row_scale)
        quantizer.controller.unfreeze()
        quantizer.controller.set_bits(torch.arange(40) % 8 + 1.2)
        loose = quantizer(x)
        plain = NodeAwareQuantizer(40, 16, quantizer.controller)
        assert torch.equal(loose, plain(x))  # no scale is stored yet
        served = quantizer.eval()(x)
        assert not torch.equal(served, plain.eval()(x))
        stored = quantizer.encode(x)
        quantizer.train().controller.freeze()
        assert torch.equal(quantizer(x), served)
        assert torch.equal(quantizer.encode(x).codes, stored.codes)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("row_scale", SCALES)
def test_rows_of_some_nodes_with_scales_of_all(row_scale, calibrated):
    quantizer, x = scaled(row_scale)
    if calibrated:
        quantizer.calibrate(x)
    n_id = torch.tensor([39, 0, 7, 7, 26])
    whole = quantizer(x)
    assert torch.equal(quantizer(x[n_id], n_id, x), whole[n_id])
    part, stored = quantizer.encode(x[n_id], n_id, x), quantizer.encode(x)
    for a, b in zip(part, stored):
        assert (a is None and b is None) or torch.equal(a, b[n_id])
    if row_scale == "log8" and calibrated:  # the grid is fixed: no need
        assert torch.equal(quantizer(x[n_id], n_id), whole[n_id])
        return
    for call in (quantizer, quantizer.encode):
        with pytest.raises(ValueError, match=rf"'table' needs to hold the "
                           rf"rows of all nodes for row scales of the form "
                           rf"{row_scale} \(got None\)"):
            call(x[n_id], n_id)
        with pytest.raises(ValueError, match=r"'x' needs shape \[40, 16\]"):
            call(x[n_id], n_id, x[:5])


def test_fixed_grids_stay_while_rows_move():
    quantizer, x = scaled("log8")
    quantizer.calibrate(x)
    grids = quantizer.encode(x).grids
    moved = quantizer.encode(3 * x)
    assert torch.equal(moved.grids, grids)
    # Beyond the ends of its grid, an octave from the largest, a scale stays.
    assert not torch.equal(moved.scale, quantizer.encode(x).scale)
    far = quantizer.encode(1e4 * x).scale
    assert torch.equal(quantizer.encode(1e6 * x).scale, far)
    assert len(far.unique()) == 3  # two grids, and 0
    other, _ = scaled("log8")
    other.load_state_dict(quantizer.state_dict())
    assert torch.equal(other.encode(3 * x).grids, grids)
    other.reset_parameters()
    assert not torch.equal(other.encode(3 * x).grids, grids)


def test_grids_are_fixed_by_all_rows_of_frozen_widths():
    quantizer, x = scaled("log8")
    quantizer.controller.unfreeze()
    quantizer.calibrate(x)
    assert quantizer.stored_scale.needs_all
    quantizer.controller.freeze()
    with pytest.raises(ValueError, match=r"'x' needs shape \[40, 16\]"):
        quantizer.calibrate(x[:3], torch.arange(3))
    quantizer.calibrate(x)
    assert not quantizer.stored_scale.needs_all


@pytest.mark.parametrize("row_scale", SCALES)
def test_gradients_pass_stored_scales(row_scale):
    quantizer, x = scaled(row_scale)
    x.requires_grad_()
    quantizer(x).square().sum().backward()
    assert bool(x.grad.isfinite().all())
    assert (x.grad.abs().sum(-1) > 0).sum() >= 39


def test_the_gradient_of_a_shared_scale_reaches_all_rows():
    quantizer, x = scaled("group")
    n_id = torch.tensor([8])  # shares its scale with 0, 16 and 24
    table = x.clone().requires_grad_()
    quantizer(x[n_id], n_id, table).square().sum().backward()
    assert table.grad.abs().sum(-1).nonzero().flatten().tolist() == [
        0, 8, 16, 24]


def test_scales_that_need_symmetric_ranges():
    for range in set(RANGES) - set(SYMMETRIC_RANGES):
        with pytest.raises(ValueError, match="'range' needs to be one of "
                           "symmetric, mse for row scales"):
            NodeAwareQuantizer(3, 4, range=range, row_scale="log8")
    with pytest.raises(ValueError, match="'row_scale' needs to be one of "
                       r"float16, log8, group \(got 'x'\)"):
        NodeAwareQuantizer(3, 4, row_scale="x")
    for name in ("estimator", "width_gradient"):
        with pytest.raises(ValueError, match=f"'{name}' needs to be one of"):
            NodeAwareQuantizer(3, 4, **{name: "x"})


def test_logarithmic_scales_know_no_float16():
    quantizer, x = scaled("log8", spread=1e9)
    out = quantizer(x).detach().numpy()
    table = stored_table(quantizer.encode(x), slice(0, 25))
    assert np.abs(out).max() > 65504
    size = np.abs(out[:25]).max(axis=1, keepdims=True)
    assert (np.abs(table.dequantize() - out[:25]) <= 4e-7 * size).all()
    with pytest.raises(ValueError, match="does not fit a float32"):
        quantizer.encode(x * 1e15)
