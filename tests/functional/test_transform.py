from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_nodequant import functional as F
from pyg_nodequant.functional.allocation import GAUSSIAN_DISTORTION
from pyg_nodequant.functional.quantize import GAUSSIAN_SPAN
from pyg_nodequant.functional.transform import bit_order
from pyg_nodequant.runtime import RowClasses


def table(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.double)


# Principal axes ------------------------------------------------------------


@pytest.mark.parametrize("num_users, num_items", [
    (9, 7), (5, 5), (3, 9), (9, 3), (2, 3), (1, 1)])
def test_all_axes_give_the_same_scores(num_users, num_items):
    users, items = table(num_users, 5), table(num_items, 5, seed=1)
    u, i = F.principal_axes(users, items, 5)
    assert u.shape == users.shape and i.shape == items.shape
    torch.testing.assert_close(u @ i.t(), users @ items.t())


@pytest.mark.parametrize("dim", [5, 3])
@pytest.mark.parametrize("num_users, num_items", [(9, 7), (3, 9), (9, 3)])
def test_maps_to_the_axes(num_users, num_items, dim):
    users, items = table(num_users, 5), table(num_items, 5, seed=1)
    m, n = F.principal_maps(users, items, dim)
    u, i = F.principal_axes(users, items, dim)
    torch.testing.assert_close(users @ m, u)
    torch.testing.assert_close(items @ n, i)
    if dim == 5 and min(num_users, num_items) >= 5:
        # Other tables keep their scores too.
        others = table(4, 5, seed=2), table(6, 5, seed=3)
        torch.testing.assert_close(others[0] @ m @ (others[1] @ n).t(),
                                   others[0] @ others[1].t())


@pytest.mark.parametrize("dim", range(1, 6))
def test_fewer_axes_give_the_closest_scores(dim):
    users, items = table(9, 5), table(7, 5, seed=1)
    p, s, q = torch.linalg.svd(users @ items.t(), full_matrices=False)
    u, i = F.principal_axes(users, items, dim)
    assert u.shape == (9, dim) and i.shape == (7, dim)
    torch.testing.assert_close(u @ i.t(), p[:, :dim] * s[:dim] @ q[:dim])


def test_axes_are_orthogonal_and_of_falling_energy():
    users, items = table(9, 5), table(7, 5, seed=1) * 30
    energy = torch.linalg.svdvals(users @ items.t())[:5]
    for x in F.principal_axes(users, items, 5):
        torch.testing.assert_close(x.t() @ x, energy.diag())


@pytest.mark.parametrize("deficient", ["users", "items", "both"])
def test_axes_beyond_the_rank_carry_nothing(deficient):
    users, items = table(9, 5), table(7, 5, seed=1)
    if deficient != "items":
        users = users[:, :2] @ table(2, 5, seed=2)
    if deficient != "users":
        items = items[:, :2] @ table(2, 5, seed=3)
    u, i = F.principal_axes(users, items, 5)
    torch.testing.assert_close(u @ i.t(), users @ items.t())
    # Zero and not small: row scales count all columns alike.
    for x in (u, i):
        assert not bool(x[:, 2:].any())


def test_axes_of_tables_without_anything():
    users, items = table(4, 3), torch.zeros(5, 3).double()
    for u, i in (F.principal_axes(users, items, 3),
                 F.principal_axes(items, users, 3)[::-1],
                 F.principal_axes(0 * users, items, 3)):
        assert u.shape == (4, 3) and i.shape == (5, 3)
        assert bool(u.isfinite().all()) and not bool(i.any())


def test_axes_do_not_depend_on_a_library_s_signs(monkeypatch):
    users, items = table(9, 5), table(7, 5, seed=1)
    expected = F.principal_axes(users, items, 4)
    assert bool((expected[1].pow(3).sum(0) >= 0).all())
    svd, eigh = torch.linalg.svd, torch.linalg.eigh
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0]).double()

    def turned_svd(x):
        p, s, q = svd(x)
        return p * signs, s, q * signs.unsqueeze(1)

    def turned_eigh(x):
        values, vectors = eigh(x)
        return values, vectors * signs

    monkeypatch.setattr(torch.linalg, "svd", turned_svd)
    monkeypatch.setattr(torch.linalg, "eigh", turned_eigh)
    for found, x in zip(F.principal_axes(users, items, 4), expected):
        torch.testing.assert_close(found, x)


def test_axes_do_not_depend_on_the_basis():
    users, items = table(9, 5), table(7, 5, seed=1)
    basis = table(5, 5, seed=2)
    turned = (users @ basis, items @ torch.linalg.inv(basis).t())
    for found, x in zip(F.principal_axes(*turned, 4),
                        F.principal_axes(users, items, 4)):
        torch.testing.assert_close(found, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_axes_keep_the_dtype(dtype):
    users, items = table(9, 5).to(dtype), table(7, 5, seed=1).to(dtype)
    u, i = F.principal_axes(users, items, 5)
    assert u.dtype == i.dtype == dtype
    torch.testing.assert_close(u @ i.t(), users @ items.t())


@pytest.mark.parametrize("dim", [0, -1, 6])
def test_number_of_axes(dim):
    with pytest.raises(ValueError, match=rf"^'dim' needs to be in \[1, 5\], "
                       rf"the dimension of the rows \(got {dim}\)$"):
        F.principal_axes(table(9, 5), table(7, 5), dim)


# The rotation for one width ------------------------------------------------


def rounding_loss(x, bits):
    """The error of rows at one width, over their energy."""
    width = torch.full((len(x), ), float(bits), dtype=x.dtype)
    error = F.fake_quantize(x, width, *F.symmetric_range(x, width)) - x
    return float(error.square().sum() / x.square().sum())


@pytest.mark.parametrize("bits", [1, 2])
def test_quantizing_rotation_lowers_the_loss(bits):
    x = table(40, 6) * torch.tensor([9.0, 3.0, 1.0, 0.3, 0.1, 0.1])
    rotation = F.quantizing_rotation(x, bits, rounds=10)
    eye = torch.eye(6).double()
    torch.testing.assert_close(rotation @ rotation.t(), eye)
    before = rounding_loss(x @ F.quantizing_rotation(x, bits, rounds=0), bits)
    assert rounding_loss(x @ rotation, bits) < before
    assert rounding_loss(x @ rotation, bits) < rounding_loss(x, bits)


def test_quantizing_rotation_depends_on_its_seed_alone():
    x = table(20, 3).float()
    state = torch.get_rng_state()
    first = F.quantizing_rotation(x, 2, rounds=2, seed=1)
    assert first.dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    assert torch.equal(F.quantizing_rotation(x, 2, rounds=2, seed=1), first)
    assert not torch.equal(F.quantizing_rotation(x, 2, rounds=2), first)


# Scales and spreads --------------------------------------------------------


def test_row_scale():
    x, spread = table(6, 4), torch.tensor([0.5, 0.0, 2.0, 3.0]).double()
    x[2] = 0
    scale = F.row_scale(x, spread)
    expected = [[(sum((float(row[k]) / float(spread[k]))**2
                      for k in (0, 2, 3)) / 3)**0.5] for row in x]
    torch.testing.assert_close(scale, torch.tensor(expected).double())
    assert float(scale[2]) == 0
    assert not bool(F.row_scale(x, torch.zeros(4).double()).any())


def test_the_gradient_of_row_scales_is_finite():
    x = table(3, 2)
    x[1] = 0
    x.requires_grad_()
    spread = torch.tensor([1.0, 0.0]).double().requires_grad_()
    F.row_scale(x, spread).sum().backward()
    assert x.grad.tolist() == [[pytest.approx(1.0), 0.0], [0.0, 0.0],
                               [pytest.approx(-1.0), 0.0]]
    assert bool(spread.grad.isfinite().all())


def test_column_spread_is_the_fixed_point():
    x = table(40, 4) * torch.tensor([8.0, 2.0, 1.0, 0.1])
    x = x * table(40, 1, seed=1).exp()
    spread = F.column_spread(x)
    again = (x / F.row_scale(x, spread)).square().mean(0).sqrt()
    torch.testing.assert_close(again, spread, rtol=5e-3, atol=0)
    assert spread.shape == (4, )
    assert bool((spread.diff() < 0).all())


def test_column_spread_does_not_depend_on_the_sizes_of_rows():
    x = table(40, 4) * torch.tensor([8.0, 2.0, 1.0, 0.1])
    sizes = table(40, 1, seed=1).mul(2).exp()
    a, b = F.column_spread(x), F.column_spread(x * sizes)
    torch.testing.assert_close(a / a[0], b / b[0], rtol=1e-2, atol=0)


def test_column_spread_of_zero_rows_and_columns():
    x = table(6, 3)
    x[:, 1] = 0
    expected = F.column_spread(x[:, [0, 2]])
    x = torch.cat([x, torch.zeros(2, 3)])
    spread = F.column_spread(x)
    assert float(spread[1]) == 0
    torch.testing.assert_close(spread[0] / spread[2],
                               expected[0] / expected[1])
    assert F.column_spread(torch.zeros(3, 2)).tolist() == [0.0, 0.0]


# Bits of columns -----------------------------------------------------------


def distortion(weight, bits):
    return sum(w * GAUSSIAN_DISTORTION[b]
               for w, b in zip(weight.tolist(), bits))


@pytest.mark.parametrize("max_bits", [1, 3, 8])
@pytest.mark.parametrize("seed", range(4))
def test_first_bits_are_the_best_ones(seed, max_bits):
    weight = table(3, seed=seed).mul(2).exp()
    order = bit_order(weight, max_bits)
    assert order.dtype == torch.long
    assert torch.bincount(order).tolist() == [max_bits] * 3
    best: dict[int, float] = {}
    for bits in itertools.product(range(max_bits + 1), repeat=3):
        found = distortion(weight, bits)
        best[sum(bits)] = min(found, best.get(sum(bits), found))
    for total, least in best.items():
        bits = torch.bincount(order[:total], minlength=3).tolist()
        assert distortion(weight, bits) == pytest.approx(least, rel=1e-12)


def test_ties_and_columns_of_no_weight():
    assert bit_order(torch.ones(3), 2).tolist() == [0, 1, 2, 0, 1, 2]
    order = bit_order(torch.tensor([0.0, 1e-30, 1e30]), 2)
    assert order.tolist() == [2, 2, 1, 1, 0, 0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), dim=st.integers(1, 9),
       lowest=st.integers(0, 3), max_bits=st.integers(1, 8))
def test_profiles(seed, dim, lowest, max_bits):
    weight = table(dim, seed=seed).mul(3).exp()
    widths = F.byte_profiles(weight, lowest, 6, max_bits)
    assert widths.shape == (6, dim) and widths.dtype == torch.long
    room = dim * max_bits
    assert widths.sum(1).tolist() == [
        min(8 * (lowest + number), room) for number in range(6)]
    assert 0 <= int(widths.min()) and int(widths.max()) <= max_bits
    assert bool((widths.diff(dim=0) >= 0).all())  # each has the last one's
    heavy = weight.argsort(descending=True)
    assert bool((widths[:, heavy].diff(dim=1) <= 0).all())


def test_a_profile_is_the_best_one():
    weight = torch.tensor([9.0, 4.0, 0.5])
    widths = F.byte_profiles(weight, 1, 2, 6)
    found = F.profile_distortion(weight, widths)
    assert found.dtype == torch.double
    for total, bits, value in zip((8, 16), widths.tolist(), found.tolist()):
        assert value == pytest.approx(distortion(weight, bits))
        assert value == pytest.approx(min(
            distortion(weight, bits)
            for bits in itertools.product(range(7), repeat=3)
            if sum(bits) == total))


def test_a_line_of_weights_for_each_profile():
    weight = torch.tensor([[9.0, 3.0, 1.0], [1.0, 3.0, 9.0]])
    widths = F.byte_profiles(weight, 1, 2)
    for number, line in enumerate(weight):
        alone = F.byte_profiles(line, 1 + number, 1)
        assert torch.equal(widths[number:number + 1], alone)


# Levels of rows ------------------------------------------------------------


def cost(groups, levels):
    rows = [(float(w), d) for weight, d in groups for w in weight]
    return sum(w * float(d[level]) for (w, d), level in zip(rows, levels))


@pytest.mark.parametrize("seed", range(4))
def test_levels_are_the_best_ones(seed):
    groups = []
    for count, number in ((3, 0), (2, 1)):
        weight = table(count, seed=2 * seed + number).mul(2).exp()
        drop = table(3, seed=20 + 2 * seed + number).abs()
        drop = drop.sort(descending=True).values
        groups.append((weight, torch.cat([drop.new_ones(1) * 9,
                                          9 - drop.cumsum(0)])))
    choices = list(itertools.product(range(4), repeat=5))
    for total in range(16):
        levels = F.allocate_levels(groups, total)
        assert levels.dtype == torch.long
        assert int(levels.sum()) == total
        assert cost(groups, levels.tolist()) == pytest.approx(min(
            cost(groups, choice) for choice in choices
            if sum(choice) == total), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), share=st.floats(0, 1))
def test_levels_meet_the_total(seed, share):
    # Whatever the weights and the distortions are like, also not convex.
    weights = table(7, seed=seed).mul(20).exp(), table(4, seed=seed).relu()
    groups = [(w, table(6, seed=seed + n + 1).abs())
              for n, w in enumerate(weights)]
    total = round(share * 11 * 5)
    levels = F.allocate_levels(groups, total)
    assert levels.shape == (11, ) and int(levels.sum()) == total
    assert 0 <= int(levels.min()) and int(levels.max()) <= 5
    for (weight, _), part in zip(groups, levels.split([7, 4])):
        order = weight.argsort(stable=True)
        larger = weight[order].diff() > 0
        assert bool((part[order].diff()[larger] >= 0).all())


def test_equal_gains_go_to_the_lowest_row():
    steps = torch.tensor([1.0, 0.5, 0.25])
    groups = [(torch.ones(2), steps), (torch.ones(2), steps)]
    assert F.allocate_levels(groups, 3).tolist() == [1, 1, 1, 0]
    assert F.allocate_levels(groups, 5).tolist() == [2, 1, 1, 1]


@pytest.mark.parametrize("total", [-1, 9])
def test_no_levels_of_this_sum(total):
    steps = torch.tensor([1.0, 0.5, 0.25])
    with pytest.raises(ValueError, match=r"^'total' needs to be in \[0, 8\] "
                       rf"\(got {total}\)$"):
        F.allocate_levels([(torch.ones(3), steps), (torch.ones(1), steps)],
                          total)


# Steps ---------------------------------------------------------------------


def test_steps_are_those_of_the_runtime():
    widths = torch.arange(9).repeat(7, 1)
    widths = torch.stack([line.roll(n) for n, line in enumerate(widths)])
    spread = F.snap_float16(table(9).float().mul(3).exp())
    steps = F.gaussian_steps(widths, spread)
    classes = RowClasses.gaussian(widths.numpy(), spread.numpy())
    assert steps.dtype == torch.float32
    assert np.array_equal(steps.numpy(), classes.steps)


def test_steps_by_hand():
    steps = F.gaussian_steps(torch.tensor([[0, 1], [2, 8]]),
                             torch.tensor([3.0, 0.5]))
    expected = [[0.0, 0.5 * GAUSSIAN_SPAN[1]],
                [3 * GAUSSIAN_SPAN[2] / 3, 0.5 * GAUSSIAN_SPAN[8] / 255]]
    torch.testing.assert_close(steps, torch.tensor(expected))


# Scales on a grid ----------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scales_go_to_the_nearest_value_of_the_grid(bits, dtype):
    scale = table(50).mul(3).exp().to(dtype)
    scale[7] = 0
    grid = F.log_grid(scale, bits)
    out = F.snap_log_scale(scale, grid, bits)
    assert out.dtype == dtype and float(out[7]) == 0
    values = [2.0**(float(grid[0]) + c * float(grid[1]))
              for c in range(2**bits - 1)]
    for before, after in zip(scale.tolist(), out.tolist()):
        if before > 0:
            nearest = min(values, key=lambda v: abs(np.log(v / before)))
            assert after == pytest.approx(nearest)
    assert torch.equal(F.snap_log_scale(out, grid, bits), out)
    assert float(out[scale > 0].min()) == pytest.approx(
        float(scale[scale > 0].min()))
    assert float(out.max()) == pytest.approx(float(scale.max()))


def test_scales_beyond_the_grid_go_to_its_ends():
    scale = torch.tensor([1e-30, 0.9, 1e30])
    grid = torch.tensor([-1.0, 0.5])
    out = F.snap_log_scale(scale, grid, 4)
    torch.testing.assert_close(out, torch.tensor([0.5, 1.0, 2.0**6]))


def test_the_gradient_passes_the_grid():
    scale = torch.tensor([[0.0], [0.7], [9.0]], requires_grad=True)
    out = F.snap_log_scale(scale, torch.tensor([0.0, 1.0]), 2)
    (out * torch.tensor([[1.0], [2.0], [3.0]])).sum().backward()
    assert scale.grad.tolist() == [[1.0], [2.0], [3.0]]


def test_a_grid_for_each_scale():
    scale = torch.rand(6, 1, generator=torch.Generator().manual_seed(0)) * 9
    grids = torch.tensor([[0.0, 1.0], [-3.0, 0.5]])
    which = torch.arange(6) % 2
    out = F.snap_log_scale(scale, grids[which].unsqueeze(1), 4)
    for i in range(6):
        assert torch.equal(out[i], F.snap_log_scale(scale[i], grids[i % 2],
                                                    4))


def test_grids():
    grid = F.log_grid(table(50).mul(3).exp(), 4)
    assert grid.shape == (2, ) and grid.dtype == torch.float32
    assert F.log_grid(torch.tensor([0.0, 0.5, 8.0]), 2).tolist() == [-1, 2]
    assert F.log_grid(torch.zeros(3), 4).tolist() == [0, 0]
    assert F.log_grid(torch.empty(0), 4).tolist() == [0, 0]


def test_equal_scales_are_kept():
    scale = torch.tensor([0.3, 0.3, 0.0])
    grid = F.log_grid(scale, 4)
    assert float(grid[1]) == 0
    torch.testing.assert_close(F.snap_log_scale(scale, grid, 4), scale)


# Quantized rows ------------------------------------------------------------


def example(rows: int = 6, dim: int = 5):
    x = table(rows, dim).float()
    widths = torch.arange(rows * dim).reshape(rows, dim) % 9
    steps = table(rows, dim, seed=1).float().abs() + 0.1
    scale = table(rows, 1, seed=2).float().abs() + 0.1
    return x, widths, steps, scale


def slow_codes(x, widths, steps, scale):
    """Codes and values, number by number."""
    codes, values = np.zeros(x.shape), np.zeros(x.shape)
    for i, k in itertools.product(*map(range, x.shape)):
        top = 2**int(widths[i, k]) - 1
        step = float(scale[i, 0]) * float(steps[i, k])
        if top and step:
            codes[i, k] = min(max(round(float(x[i, k]) / step + top / 2), 0),
                              top)
            values[i, k] = step * (codes[i, k] - top / 2)
    return codes, values


def test_quantized_rows_are_codes_times_steps():
    x, widths, steps, scale = example()
    out = F.quantize_axes(x, widths, steps, scale).numpy()
    codes, values = slow_codes(x, widths, steps, scale)
    np.testing.assert_allclose(out, values, rtol=1e-5, atol=1e-6)
    assert len(np.unique(codes[widths.numpy() == 1])) == 2
    assert (out[widths.numpy() == 0] == 0).all()


def test_quantized_rows_of_scale_or_step_zero():
    x, widths, steps, scale = example()
    scale[2] = 0
    steps[:, 3] = 0
    out = F.quantize_axes(x, widths, steps, scale)
    assert not bool(out[2].any()) and not bool(out[:, 3].any())
    assert bool(out[0, 1:3].all())


def test_the_gradient_of_quantized_rows():
    x, widths, steps, scale = example()
    inputs = [t.requires_grad_() for t in (x, steps, scale)]
    out = F.quantize_axes(x, widths, steps, scale)
    weight = table(6, 5, seed=3).float()
    (out * weight).sum().backward()
    top = 2.0**widths - 1
    inside = (x.abs() <= (scale * steps * top / 2)) & (widths > 0)
    assert 0 < int(inside.sum()) < 30
    assert torch.equal(x.grad, torch.where(inside, weight, 0))
    # What is cut off moves with the range, what is inside with its residual.
    unit = (out - torch.where(inside, x, 0)).detach() / (scale * steps)
    torch.testing.assert_close(steps.grad, unit * weight * scale.detach())
    torch.testing.assert_close(
        scale.grad, (unit * weight * steps).sum(1, keepdim=True).detach())
    assert all(bool(t.grad.isfinite().all()) for t in inputs)
