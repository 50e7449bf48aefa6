from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_nodequant import BitWidthController, NodeAwareQuantizer, PackedTable
from pyg_nodequant import functional as F
from pyg_nodequant.nn import RowCodes

RANGES = ["symmetric", "minmax", "learned"]
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
    assert (stored.offset is None) == (range == "symmetric")
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


def test_rows_of_zeros_and_constants():
    x = torch.tensor([[0.0] * 4, [3.0] * 4])
    for range in ["symmetric", "minmax"]:
        quantizer = NodeAwareQuantizer(2, 4, range=range).eval()
        out = quantizer(x)
        assert out[0].tolist() == [0] * 4
        assert np.allclose(to_table(quantizer.encode(x)).dequantize(),
                           out.numpy(), atol=1e-6)
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
                       r"symmetric, minmax, learned \(got 'x'\)"):
        NodeAwareQuantizer(3, 4, range="x")
    with pytest.raises(ValueError, match=r"'controller' needs to be for 3 "
                       r"nodes \(got one for 2\)"):
        NodeAwareQuantizer(3, 4, BitWidthController(2))


def test_repr():
    assert repr(NodeAwareQuantizer(3, 4)) == (
        "NodeAwareQuantizer(3, 4, range=symmetric, "
        "controller=BitWidthController(3, bits=1..8, avg=4.00))")
