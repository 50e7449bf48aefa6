from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_nodequant import functional as F
from pyg_nodequant.config import NodeQuantConfig
from pyg_nodequant.nn import QuantLightGCN
from pyg_nodequant.training.byte_budget import (
    meet_bytes,
    node_budget,
    transform_budget,
)
from pyg_nodequant.training.packing import (
    embedding_bytes,
    pack_axes,
    pack_rows,
)
from pyg_nodequant.training.transform_plan import TransformPlan

USERS, ITEMS, DIM = 200, 120, 16


def tables(seed=0):
    """Users and items of very different sizes, and directions too."""
    generator = torch.Generator().manual_seed(seed)

    def rows(count, power):
        size = torch.randn(count, 1, generator=generator).mul(power).exp()
        columns = torch.linspace(2, -2, DIM).exp()
        return torch.randn(count, DIM, generator=generator) * columns * size

    users, items = rows(USERS, 1.0), rows(ITEMS, 0.5)
    turn = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))[0]
    return 0.1 * users @ turn, 0.1 * items @ turn


@pytest.fixture(scope="module")
def make_plan():
    """Plans of the tables above, each made once."""
    made = {}

    def make(seed=0, **options):
        quant = NodeQuantConfig("transform", **{"axes": DIM, **options})
        key = (seed, repr(quant))
        if key not in made:
            made[key] = TransformPlan(*tables(), quant, seed)
        return made[key]

    return make


def row_bytes(rows):
    """Bytes of the codes of each user, and of each item."""
    users, items = rows.class_ids.long().split([USERS, ITEMS])
    return [(widths.long().sum(1) + 7)[classes] // 8 for widths, classes in
            ((rows.user_widths, users), (rows.item_widths, items))]


def file_bytes(rows):
    return embedding_bytes(pack_axes(rows, 0), pack_axes(rows, 1))


# Rows ----------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {}, {"allocation": "shuffled"}, {"sensitivity_power": 0.3},
    {"min_bytes": 0}, {"max_bits": 5}])
@pytest.mark.parametrize("total", [320, 321, 1000, 2503, 3000])
def test_rows_have_as_many_bytes_as_they_may(total, options, make_plan):
    rows = make_plan(**options).rows(total)
    found = row_bytes(rows)
    assert sum(int(part.sum()) for part in found) == total
    for widths in (rows.user_widths, rows.item_widths):
        assert len(widths) <= 16
        assert int(widths.max()) <= options.get("max_bits", 8)
    assert bool(rows().isfinite().all())


@pytest.mark.parametrize("total", [(0, 0), (200, 1900), (999, 121),
                                   (3200, 7)])
def test_users_and_items_of_their_own_totals(total, make_plan):
    rows = make_plan().rows(total)
    assert [int(part.sum()) for part in row_bytes(rows)] == list(total)


@pytest.mark.parametrize("axes, max_bits, top", [(16, 8, 16), (3, 3, 1),
                                                 (5, 6, 3), (1, 8, 1)])
def test_the_fewest_and_the_most_bytes(axes, max_bits, top, make_plan):
    plan = make_plan(axes=axes, max_bits=max_bits)
    for each in (0, top):
        rows = plan.rows(each * (USERS + ITEMS))
        assert all(set(part.tolist()) == {each} for part in row_bytes(rows))
    for total in (-1, top * (USERS + ITEMS) + 1):
        with pytest.raises(ValueError, match=r"^the budget leaves "
                           rf"{total / 320:.2f} bytes a row for codes, which "
                           rf"needs to be in \[0, {top}\] with {axes} axes of "
                           rf"at most {max_bits} bits$"):
            plan.rows(total)


@pytest.mark.parametrize("total", [1000, 2503, (700, 900)])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_sensitive_rows_get_no_fewer_bytes(total, power, make_plan):
    plan = make_plan(sensitivity_power=power)
    found = row_bytes(plan.rows(total))
    assert len(found[0].unique()) > 3
    for weight, part in zip(plan.weights, found):
        order = weight.argsort()
        assert bool((part[order].diff() >= 0).all())


def test_weights_and_shares(make_plan):
    plan = make_plan(sensitivity_power=0.7)
    curvature = F.directional_curvature(*plan.kinds)
    for x, h, weight, share in zip(plan.kinds, curvature, plan.weights,
                                   plan.shares):
        spread = F.column_spread(x)
        size = F.row_scale(x, spread).squeeze(1)
        for n in (0, 7, 100):
            parts = [float(h[n, k]) * float(size[n] * spread[k])**2
                     for k in range(DIM)]
            assert float(weight[n]) == pytest.approx(sum(parts)**0.7)
            assert share[n].tolist() == pytest.approx(
                [part * sum(parts)**-0.3 for part in parts])


def test_an_exponent_of_zero_gives_all_about_the_same(make_plan):
    rows = make_plan(sensitivity_power=0.0).rows((1000, 900))
    for part, sizes in zip(row_bytes(rows), [{5}, {7, 8}]):
        assert set(part.tolist()) == sizes


def test_min_bytes(make_plan):
    least = [min(int(part.min()) for part in row_bytes(
        make_plan(min_bytes=count).rows(1600))) for count in (0, 1, 4)]
    assert least[0] < 4 and least[1] >= 1 and least[2] >= 4
    # Where there are not as many for all, all that there are:
    found = row_bytes(make_plan(min_bytes=7).rows(1000))
    assert all(int(part.min()) >= 3 for part in found)


def test_the_shuffled_control_has_the_same_bytes(make_plan):
    mine = row_bytes(make_plan().rows(1600))
    control = row_bytes(make_plan(allocation="shuffled").rows(1600))
    other = row_bytes(make_plan(allocation="shuffled", seed=1).rows(1600))
    for a, b, c in zip(mine, control, other):
        assert a.sort().values.tolist() == b.sort().values.tolist()
        assert a.sort().values.tolist() == c.sort().values.tolist()
        assert not torch.equal(a, b) and not torch.equal(b, c)


def test_the_seed_is_that_of_the_control_alone(make_plan):
    first, second = (make_plan(seed=seed).rows(1600) for seed in (0, 1))
    for a, b in zip(first.state_dict().values(),
                    second.state_dict().values()):
        assert torch.equal(a, b)


def test_bytes_are_worth_more_where_they_are_put(make_plan):
    def loss(plan, total):
        rows = plan.rows(total)
        with torch.no_grad():
            return float(F.distillation_loss(
                rows.user_rows(), rows.item_rows(), *plan.kinds))

    plan = make_plan()
    losses = [loss(plan, total) for total in (800, 1600, 3200)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[1] < loss(make_plan(allocation="shuffled"), 1600)
    assert losses[1] < loss(make_plan(sensitivity_power=0.0), 1600)


@pytest.mark.parametrize("axes, used", [(4, 4), (16, 16), (96, 16)])
def test_axes(axes, used, make_plan):
    plan = make_plan(axes=axes)
    users, items = F.principal_axes(*tables(), used)
    assert torch.equal(plan.kinds[0], users)
    assert torch.equal(plan.kinds[1], items)
    rows = plan.rows(640)
    widths = torch.cat([rows.user_widths, rows.item_widths])
    assert 1 <= rows.embedding_dim == widths.size(1) <= used
    # An axis that no row has a bit in is left out.
    assert bool((widths > 0).any(0).all())


def test_no_bits_for_what_the_other_side_does_not_keep(make_plan):
    # A product is worth no more than its worse factor.
    rows = make_plan().rows(640)
    users, items = rows.user_widths.long(), rows.item_widths.long()
    used = (users > 0).any(0), (items > 0).any(0)
    assert int((used[0] ^ used[1]).sum()) <= 1


def test_uniform_rows(make_plan):
    plan = make_plan(allocation="uniform", axes=6, bits=3)
    rows = plan.uniform_rows()
    assert rows.user_widths.tolist() == rows.item_widths.tolist() == [[3] * 6]
    assert not bool(rows.class_ids.any())
    users, items = F.principal_axes(*tables(), 6)
    torch.testing.assert_close(plan.kinds[0] @ plan.kinds[1].t(),
                               users @ items.t(), rtol=1e-4, atol=1e-4)

    def unevenness(x):
        spread = F.column_spread(x)
        return float(spread.max() / spread.min())

    assert unevenness(plan.kinds[0]) < unevenness(users)
    assert unevenness(plan.kinds[1]) < unevenness(items)
    assert rows.scale_bits == 4
    other = make_plan(allocation="uniform", axes=6, bits=3, scale_bits=8)
    assert other.uniform_rows().scale_bits == 8


def test_rows_that_are_all_zero(make_plan):
    users, items = tables()
    users[:7], items[3] = 0, 0
    plan = TransformPlan(users, items, NodeQuantConfig("transform"))
    rows = plan.rows(1600)
    assert sum(int(part.sum()) for part in row_bytes(rows)) == 1600
    assert not bool(rows()[[*range(7), USERS + 3]].any())
    assert bool(rows().isfinite().all())


# Meeting a size ------------------------------------------------------------


def in_steps(amount):
    return 1000 + 7 * (amount // 7)


def with_jitter(amount):
    return 1000 + amount + (amount * 37) % 11


def with_jumps(amount):
    return 1000 + amount + 60 * (amount > 200) + 60 * (amount > 400)


@pytest.mark.parametrize("size, slack", [(in_steps, 12), (with_jitter, 12),
                                         (with_jumps, 60)])
@pytest.mark.parametrize("start", [0, 300, 499, 5000])
@pytest.mark.parametrize("budget", [1011, 1250, 1255, 1500, 1777])
def test_an_amount_that_meets_a_size(budget, start, size, slack):
    amount = meet_bytes(size, budget, start)
    assert size(amount) <= budget
    best = max(a for a in range(2000) if size(a) <= budget)
    assert best - slack <= amount <= best


@pytest.mark.parametrize("growth", [0.5, 0.9, 1.1, 1.5, 2.0])
@pytest.mark.parametrize("start", [0, 400])
def test_sizes_that_grow_otherwise(start, growth):
    # Rows of 15 numbers take 2 bytes a bit, those of 4 half a byte.
    amount = meet_bytes(lambda a: 1000 + int(growth * a), 1500, start)
    assert 1000 + growth * amount <= 1501
    assert amount >= 0.9 * 500 / growth


@pytest.mark.parametrize("unit", [1, 8, 16])
@settings(max_examples=50, deadline=None)
@given(fixed=st.integers(0, 500), budget=st.integers(500, 5000),
       start=st.integers(-10, 9000), jitter=st.integers(0, 5))
def test_units(unit, fixed, budget, start, jitter):
    def size(amount):
        return fixed + unit * amount + amount % (jitter + 1)

    amount = meet_bytes(size, budget, start, unit)
    assert amount >= 0 and size(amount) <= budget
    assert size(amount + 2) > budget - jitter


@pytest.mark.parametrize("start", [0, 3, 1000])
def test_nothing_is_small_enough(start):
    with pytest.raises(ValueError, match="^the budget of 999 bytes is smaller "
                       "than what a file needs beside its codes "
                       r"\(at least 1000 bytes\)$"):
        meet_bytes(lambda amount: 1000 + amount, 999, start)
    assert meet_bytes(lambda amount: 1000 + amount, 1000, start) == 0


# Budgets of transform-coded rows -------------------------------------------


@pytest.mark.parametrize("options", [
    {"bytes_per_node": 5.0}, {"bytes_per_node": 8.3},
    {"bytes_per_node": 13.0, "scale_bits": 8}, {"target_bytes": 2501},
    {"target_compression": 24.0}, {"target_compression": 32, "max_bits": 5},
    {"bytes_per_node": 9.0, "allocation": "shuffled"}, {}])
def test_budgets_are_met(options, make_plan):
    plan = make_plan(**options)
    total = transform_budget(plan, plan.quant)
    budget = plan.quant.budget_bytes(USERS + ITEMS) or 11 * (USERS + ITEMS)
    assert 0.99 * budget <= file_bytes(plan.rows(total)) <= budget


@pytest.mark.parametrize("scale_bits", [4, 8])
def test_bytes_of_each_user_and_item(scale_bits, make_plan):
    plan = make_plan(bytes_per_user=6.0, bytes_per_item=9.25,
                     scale_bits=scale_bits)
    total = transform_budget(plan, plan.quant)
    side = 0.5 + scale_bits / 8
    assert total == (int((6 - side) * USERS), int((9.25 - side) * ITEMS))
    rows = plan.rows(total)
    for kind, size in ((0, 6.0 * USERS), (1, 9.25 * ITEMS)):
        fields = pack_axes(rows, kind).encode("t")[1]
        taken = sum(fields[name].nbytes
                    for name in ("t.codes", "t.scale", "t.class"))
        assert taken == int(size)


def test_too_small_budgets(make_plan):
    plan = make_plan(target_bytes=600)
    with pytest.raises(ValueError, match="the budget of 600 bytes is smaller "
                       "than what a file needs beside its codes"):
        transform_budget(plan, plan.quant)
    plan = make_plan(bytes_per_user=0.9, bytes_per_item=5.0)
    with pytest.raises(ValueError, match="'quant.bytes_per_user' and "
                       "'quant.bytes_per_item' need at least 1 for the scale "
                       "and the class"):
        transform_budget(plan, plan.quant)


@pytest.mark.parametrize("size", [16.5, 17.5, 18.5])
def test_budgets_that_are_almost_enough_for_all_bits(size, make_plan):
    # All bits of all numbers take 16 bytes a node, and what is beside them
    # more than 3, with so few nodes.
    plan = make_plan(bytes_per_node=size)
    assert file_bytes(plan.rows(16 * (USERS + ITEMS))) > 19 * (USERS + ITEMS)
    total = transform_budget(plan, plan.quant)
    budget = int(size * (USERS + ITEMS))
    assert 0.99 * budget <= file_bytes(plan.rows(total)) <= budget


def test_budgets_of_few_nodes():
    # What is beside the codes is most of the file then.
    users, items = tables()
    quant = NodeQuantConfig("transform", axes=DIM)
    plan = TransformPlan(users[:30], items[:20], quant)
    least, most = (file_bytes(plan.rows(50 * each)) for each in (0, DIM))
    budget = (least + most) // 2
    assert budget > 17 * 50
    quant = replace(quant, target_bytes=budget)
    total = transform_budget(plan, quant)
    assert 0.97 * budget <= file_bytes(plan.rows(total)) <= budget


# Budgets of node-only rows -------------------------------------------------


def node_only(dim, size, **options):
    """What node_budget takes, and what the file of a sum of widths has."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, dim, generator=generator)
    weight = torch.randn(400, generator=generator).mul(2).exp()
    quant = NodeQuantConfig("node_aware", bytes_per_node=size, **options)
    degree = torch.randperm(400, generator=generator) // 4
    model = QuantLightGCN(400, dim, 1, quant=quant, degree=degree,
                          num_users=250)

    def widths(total):
        return F.allocate_bits(weight, total / 400, quant.min_bits,
                               quant.max_bits)

    def taken(total):
        model.embedding.controller.freeze(widths(total))
        model.output_quantizer.calibrate(x)
        return embedding_bytes(*pack_rows(model.output_quantizer, x, 250))

    return (model, x, widths, quant.budget_bytes(400), quant, 250), taken


@pytest.mark.parametrize("range", ["symmetric", "minmax", "learned"])
@pytest.mark.parametrize("size", [13.0, 16.0])
def test_node_budget(size, range):
    arguments, taken = node_only(16, size, range=range)
    total = node_budget(*arguments)
    assert 400 <= total <= 3200
    assert 0.99 * 400 * size <= taken(total) <= 400 * size


@pytest.mark.parametrize("range", ["symmetric", "mse"])
@pytest.mark.parametrize("row_scale", ["log8", "group"])
@pytest.mark.parametrize("dim, size", [(16, 9.0), (16, 16.0), (64, 24.0)])
def test_node_budget_with_cheaper_scales(dim, size, row_scale, range):
    arguments, taken = node_only(dim, size, row_scale=row_scale, range=range)
    total = node_budget(*arguments)
    assert 0.98 * 400 * size <= taken(total) <= 400 * size
    # What scales do not take goes to codes: a byte of a row, or two of a
    # shared scale, less what so few rows pay for the grids or the classes.
    plain, _ = node_only(dim, size, range=range)
    more = (total - node_budget(*plain)) * dim / 8 / 400
    assert more > (0.5 if row_scale == "log8" else 0.4)


@pytest.mark.parametrize("row_scale", ["log8", "group"])
def test_node_budgets_hold_when_rows_move(row_scale):
    arguments, _ = node_only(16, 12.0, row_scale=row_scale)
    model, x, widths, budget = arguments[:4]
    bits = widths(node_budget(*arguments))
    model.embedding.controller.freeze(bits)
    model.output_quantizer.calibrate(x)
    for factor in (0.3, 1.0, 1.37, 5.0):
        rows = (x * factor).roll(1, 1)
        size = embedding_bytes(*pack_rows(model.output_quantizer, rows, 250))
        assert 0.98 * budget <= size <= budget


def test_few_groups_hold_a_budget_by_all_chances():
    # A few classes, whose offsets may or may not all be float16.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 8, generator=generator)
    quant = NodeQuantConfig("node_aware", max_bits=3, row_scale="group")
    model = QuantLightGCN(90, 8, 1, quant=quant)

    def widths(total):
        return F.allocate_bits(torch.arange(1.0, 91.0), total / 90, 1, 3)

    def sizes(total):
        model.embedding.controller.freeze(widths(total))
        return [embedding_bytes(*pack_rows(model.output_quantizer, rows, 60))
                for rows in x * torch.linspace(0.5, 2.0, 150).view(-1, 1, 1)]

    # Just enough for this sum where they are not.
    budget = min(sizes(130))
    assert max(sizes(130)) > budget
    total = node_budget(model, x, widths, budget, quant, 60)
    assert 110 < total < 130 and max(sizes(total)) <= budget


@pytest.mark.parametrize("dim, size", [(8, 8.0), (12, 11.0), (12, 14.5),
                                       (15, 12.5), (20, 15.0), (64, 24.0)])
def test_node_budget_of_any_dimension(dim, size):
    arguments, taken = node_only(dim, size)
    total = node_budget(*arguments)
    assert 0.99 * 400 * size <= taken(total) <= 400 * size


@pytest.mark.parametrize("dim, size, range", [
    (8, 11.4, "symmetric"), (4, 7.0, "symmetric"), (16, 9.0, "learned")])
def test_node_budgets_close_to_the_bounds(dim, size, range):
    # They are above the size of 1 bit for all.
    arguments, taken = node_only(dim, size, range=range)
    assert taken(400) <= 400 * size
    assert taken(node_budget(*arguments)) <= 400 * size


def test_more_than_enough_for_all_bits():
    arguments, _ = node_only(16, 40.0, max_bits=4)
    assert node_budget(*arguments) == 4 * 400


def test_too_small_node_budgets():
    arguments, taken = node_only(16, 9.0, min_bits=4, target_bits=4.0)
    with pytest.raises(ValueError, match="the budget of 3600 bytes is smaller "
                       f"than .*{taken(1600)}"):
        node_budget(*arguments)


def test_node_budget_without_an_output():
    arguments, _ = node_only(16, 13.0, where="both")
    assert node_budget(*arguments) > 400
    quant = NodeQuantConfig("node_aware", bytes_per_node=13.0, where="input")
    model = QuantLightGCN(400, 16, 1, quant=quant)
    with pytest.raises(ValueError, match="needs quant.where=output"):
        node_budget(model, *arguments[1:])
