from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

from pyg_nodequant import BitWidthController
from pyg_nodequant import functional as F

DEGREE = torch.tensor([1.0, 2.0, 5.0, 40.0])


def test_starts_from_the_degrees():
    controller = BitWidthController(4, degree=DEGREE)
    assert torch.equal(controller.alpha, F.degree_score(DEGREE))
    assert bool((controller().diff() > 0).all())
    assert BitWidthController(3).alpha.tolist() == [0, 0, 0]
    column = BitWidthController(4, degree=DEGREE.long().view(4, 1))
    assert torch.equal(column.alpha, controller.alpha)


def test_everything_exists_from_the_start():
    controller = BitWidthController(4)
    assert [name for name, _ in controller.named_parameters()] == ["alpha"]
    assert list(controller.state_dict()) == [
        "alpha", "frozen_bits", "is_frozen_flag"]


def test_widths_and_their_gradient():
    controller = BitWidthController(4, max_bits=6, min_bits=2, degree=DEGREE)
    bits = controller()
    for a, b in zip(controller.alpha.tolist(), bits.tolist()):
        assert b == pytest.approx(2 + 4 / (1 + math.exp(-a)))
    bits.sum().backward()
    for a, g in zip(controller.alpha.tolist(), controller.alpha.grad.tolist()):
        s = 1 / (1 + math.exp(-a))
        assert g == pytest.approx(4 * s * (1 - s))
    assert controller.bit_width.dtype == torch.long
    assert controller.bit_width.tolist() == [round(b) for b in bits.tolist()]


def slow_smooth(score, edges, hops):
    for _ in range(hops):
        new = []
        for i, own in enumerate(score):
            near = [score[j] for j, target in edges if target == i]
            mean = sum(near) / len(near) if near else 0.0
            new.append((own + mean) / 2)
        score = new
    return score


@pytest.mark.parametrize("hops", [0, 1, 3])
def test_smoothing(hops):
    edges = [(0, 1), (1, 0), (2, 1), (1, 2), (0, 2)]  # node 3 has none
    edge_index = torch.tensor(edges).t()
    controller = BitWidthController(4, degree=DEGREE, num_hops=hops)
    score = controller.alpha.tolist()
    expected = slow_smooth(score, edges, hops)
    out = controller.smooth(controller.alpha, edge_index)
    assert out.tolist() == pytest.approx(expected)
    widths = controller(edge_index)
    assert torch.allclose(widths, F.bit_width(out, 1, 8))
    widths.sum().backward()
    assert controller.alpha.grad is not None


def test_init_from_graph():
    edge_index = torch.tensor([[0, 1, 2, 1], [1, 0, 1, 2]])
    controller = BitWidthController(3)
    controller.init_from_graph(edge_index)
    score = F.degree_score(torch.tensor([1.0, 2.0, 1.0]))
    expected = slow_smooth(score.tolist(), edge_index.t().tolist(), 1)
    assert controller.alpha.tolist() == pytest.approx(expected)


def test_set_bits():
    controller = BitWidthController(3)
    controller.set_bits(torch.tensor([1, 4, 8]))
    assert controller.bit_width.tolist() == [1, 4, 8]
    assert not controller.is_frozen


def test_freezing():
    controller = BitWidthController(4, degree=DEGREE)
    rounded = controller.bit_width
    controller.freeze()
    assert controller.is_frozen
    assert torch.equal(controller.bit_width, rounded)
    assert torch.equal(controller(), rounded.float())
    assert torch.equal(controller(torch.tensor([[0], [1]])), rounded.float())
    assert not controller().requires_grad
    controller.freeze(torch.tensor([1, 2, 3, 8]))
    with torch.no_grad():
        controller.alpha.fill_(0)
    assert controller.bit_width.tolist() == [1, 2, 3, 8]
    controller.unfreeze()
    assert not controller.is_frozen
    assert controller().tolist() == [4.5] * 4


def test_freezing_at_wrong_widths():
    controller = BitWidthController(2, max_bits=4, min_bits=2)
    with pytest.raises(ValueError, match=r"'bits' needs to be in \[2, 4\] "
                       r"\(got \[1, 3\]\)"):
        controller.freeze(torch.tensor([1, 3]))
    with pytest.raises(ValueError, match=r"one width for each of the 2 nodes "
                       r"\(got 3\)"):
        controller.freeze(torch.tensor([2, 3, 3]))
    with pytest.raises(ValueError, match=r"'bits' needs to hold whole widths "
                       r"\(got 2.5\)"):
        controller.freeze(torch.tensor([4.0, 2.5]))
    assert not controller.is_frozen
    controller.freeze(torch.tensor([4.0, 2.0]))
    assert controller.bit_width.tolist() == [4, 2]


def test_state_dict_carries_frozen_widths():
    frozen = BitWidthController(3)
    frozen.freeze(torch.tensor([1, 5, 8]))
    other = BitWidthController(3)
    other.load_state_dict(frozen.state_dict())
    assert other.is_frozen
    assert other.bit_width.tolist() == [1, 5, 8]
    other.load_state_dict(BitWidthController(3).state_dict())
    assert not other.is_frozen


@pytest.mark.parametrize("clone", [
    copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(clone):
    controller = BitWidthController(3)
    controller.freeze(torch.tensor([1, 5, 8]))
    other = clone(controller)
    controller.unfreeze()
    assert other.is_frozen and other.bit_width.tolist() == [1, 5, 8]


def test_reset_parameters():
    controller = BitWidthController(4, degree=DEGREE)
    start = controller.alpha.detach().clone()
    with torch.no_grad():
        controller.alpha.add_(1)
    controller.freeze()
    controller.reset_parameters()
    assert torch.equal(controller.alpha, start)
    assert not controller.is_frozen


@pytest.mark.parametrize("kwargs, message", [
    (dict(max_bits=0), r"'max_bits' needs to be in \[1, 8\] \(got 0\)"),
    (dict(max_bits=99), r"'max_bits' needs to be in \[1, 8\] \(got 99\)"),
    (dict(max_bits=2.5), r"'max_bits' needs to be in \[1, 8\] \(got 2.5\)"),
    (dict(min_bits=-1), r"'min_bits' needs to be in \[0, 8\] \(got -1\)"),
    (dict(max_bits=4, min_bits=5), r"'min_bits' needs to be in \[0, 4\]"),
    (dict(degree=torch.ones(2)), r"each of the 3 nodes \(got 2\)"),
    (dict(degree=torch.tensor([1, -2, 3])),
     r"'degree' needs to be finite and at least 0 \(got \[-2.0, 3.0\]\)"),
    (dict(degree=torch.tensor([1.0, torch.nan, 3.0])), "finite and at least"),
    (dict(num_hops=-1), r"'num_hops' needs to be at least 0 \(got -1\)"),
])
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        BitWidthController(3, **kwargs)


def test_repr():
    assert repr(BitWidthController(3).to("meta")) == (
        "BitWidthController(3, bits=1..8, avg=?)")
    controller = BitWidthController(3)
    assert repr(controller) == "BitWidthController(3, bits=1..8, avg=4.00)"
    controller.freeze(torch.tensor([1, 2, 4]))
    assert repr(controller) == ("BitWidthController(3, bits=1..8, avg=2.33, "
                                "frozen)")
