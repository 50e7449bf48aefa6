from __future__ import annotations

import pytest
import torch

from pyg_nodequant import functional as F
from pyg_nodequant.nn import StoredScale


def test_float16():
    scale, step = StoredScale(2, "float16"), torch.tensor([[0.1], [3.0]])
    out, grid = scale(step, torch.ones(2))
    assert torch.equal(out, F.snap_float16(step)) and grid is None
    assert not scale.needs_all
    assert list(scale.state_dict()) == []


def test_group():
    groups = torch.tensor([0, 1, 1, 0, 1])
    scale = StoredScale(5, "group", groups)
    step = torch.tensor([[1.0], [2.0], [3.0], [5.0], [7.0]])
    out, grid = scale(step, torch.tensor([1.0, 2, 2, 1, 3]))
    expected = [13**.5, 6.5**.5, 6.5**.5, 13**.5, 7.0]
    assert out.flatten().tolist() == pytest.approx(expected, rel=1e-3)
    assert torch.equal(out, out.half().float()) and grid is None
    assert scale.needs_all
    assert scale.groups_of(None).tolist() == groups.tolist()
    assert scale.groups_of(torch.tensor([4, 0])).tolist() == [1, 0]
    assert list(scale.state_dict()) == ["groups"]


def test_log8():
    groups = torch.tensor([0, 0, 1, 1, 1])
    scale = StoredScale(5, "log8", groups)
    step = torch.tensor([[1.0], [4.0], [16.0], [16.0], [0.0]])
    bits = torch.tensor([1.0, 1, 2, 2, 2])
    out, grid = scale(step, bits)
    # An octave beyond 0 .. 2, and 4 .. 4, in 254 steps.
    assert grid[:2].tolist() == [[-1.0, pytest.approx(4 / 254)]] * 2
    assert grid[2:].tolist() == [[3.0, pytest.approx(2 / 254)]] * 3
    torch.testing.assert_close(out, step, rtol=4 / 254, atol=0)
    for g in (0, 1):
        rows = groups == g
        assert torch.equal(out[rows], F.snap_log_scale(
            step[rows], grid[rows][0], 8))
    scale.fix_grids(step, bits)
    n_id = torch.tensor([3, 0])
    again, part = scale(step[n_id], bits[n_id], n_id)
    assert torch.equal(again, out[n_id]) and torch.equal(part, grid[n_id])
    assert scale.groups_of(None) is None


def test_rows_without_codes_do_not_widen_a_grid():
    scale = StoredScale(3, "log8")
    step = torch.tensor([[1e-9], [1.0], [2.0]])
    grid = scale(step, torch.tensor([0.0, 1.0, 1.0]))[1]
    assert grid[0].tolist() == [-1.0, pytest.approx(3 / 254)]


def test_no_nodes():
    empty = torch.empty(0, 1)
    for form in ("float16", "log8", "group"):
        out, _ = StoredScale(0, form)(empty, torch.empty(0))
        assert out.shape == (0, 1)


@pytest.mark.parametrize("groups, message", [
    (torch.zeros(2), r"'groups' needs one entry for each of the 3 nodes "
     r"\(got 2\)"),
    (torch.tensor([0, 256, 1]), r"'groups' needs to be in \[0, 255\] "
     r"\(got \[0, 256\]\)"),
    (torch.tensor([0, -1, 1]), r"\(got \[-1, 1\]\)"),
])
def test_wrong_groups(groups, message):
    with pytest.raises(ValueError, match=message):
        StoredScale(3, "group", groups)


@pytest.mark.parametrize("fixed", [False, True])
def test_groups_are_loaded(fixed):
    step, bits = torch.rand(4, 1) + 0.1, torch.ones(4)
    for form in ("log8", "group"):
        scale = StoredScale(4, form, torch.tensor([0, 0, 1, 2]))
        if fixed:
            scale.fix_grids(step, bits)
        other = StoredScale(4, form)  # knows nothing of groups yet
        other.load_state_dict(scale.state_dict())
        assert torch.equal(other(step * 3, bits)[0], scale(step * 3, bits)[0])
        assert other.needs_all == scale.needs_all == (
            not fixed or form == "group")
