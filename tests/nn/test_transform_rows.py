from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from pyg_nodequant import functional as F
from pyg_nodequant.functional.quantize import GAUSSIAN_SPAN
from pyg_nodequant.nn import AxisCodes, TransformRows
from pyg_nodequant.runtime import PackedTable, RowClasses

USER_WIDTHS = torch.tensor([[8, 4, 2, 0], [6, 3, 0, 0], [0, 0, 0, 0]])
ITEM_WIDTHS = torch.tensor([[5, 5, 4, 2], [7, 1, 0, 0]])
CLASSES = torch.tensor([0, 1, 1, 2, 0] + [0, 1, 0, 1, 1, 0, 0])
COLUMNS = torch.tensor([5.0, 2.0, 1.0, 0.2])


def make(scale_bits: int = 4, seed: int = 0) -> TransformRows:
    """5 users and 7 items on 4 axes; user 1 and item 2 are zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 4, generator=generator) * COLUMNS
    x[1] = x[7] = 0
    return TransformRows(x[:5], x[5:], USER_WIDTHS, ITEM_WIDTHS, CLASSES,
                         scale_bits)


def moved(scale_bits: int = 4) -> TransformRows:
    """The same after some training: nothing is where it began."""
    rows = make(scale_bits)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in rows.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.3 * noise)
        rows.weight[3] = 0
    return rows


def read(stored: AxisCodes) -> torch.Tensor:
    """What stands in a file, as its format says it."""
    out = torch.zeros(stored.codes.shape, dtype=torch.double)
    for i, c in enumerate(stored.class_ids.tolist()):
        for k in range(4):
            bits = int(stored.widths[c, k])
            if bits:
                span = float(stored.spread[k]) * GAUSSIAN_SPAN[bits]
                step = span / (2**bits - 1)
                code = int(stored.codes[i, k])
                out[i, k] = (float(stored.scale[i]) * step *
                             (code - (2**bits - 1) / 2))
    return out


def to_table(stored: AxisCodes, scale_bits: int) -> PackedTable:
    classes = RowClasses.gaussian(stored.widths.numpy(),
                                  stored.spread.numpy())
    return PackedTable.from_classes(
        stored.codes.numpy(), stored.class_ids.numpy(), classes,
        stored.scale.numpy(), scale_dtype=f"log{scale_bits}",
        log=stored.grid.tolist())


def test_shapes():
    rows = make()
    assert rows.embedding_dim == 4
    assert rows.get_embedding().shape == rows().shape == (12, 4)
    assert torch.equal(rows.user_rows(), rows()[:5])
    assert torch.equal(rows.item_rows(), rows()[5:])
    names = {name for name, _ in rows.named_parameters()}
    assert names == {"weight", "log_spread"}
    assert str(rows) == "TransformRows(5 users, 7 items, 4 axes, 11.17 bits " \
        "a row)"


def test_the_rows_to_begin_with_are_not_shared():
    users, items = torch.randn(5, 4), torch.randn(7, 4, requires_grad=True)
    rows = TransformRows(users, items, USER_WIDTHS, ITEM_WIDTHS, CLASSES)
    assert torch.equal(rows.weight, torch.cat([users, items]))
    assert rows.weight.is_leaf
    rows().sum().backward()
    assert items.grad is None


@pytest.mark.parametrize("n_id", [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [11, 0, 5, 0, 4, 11, 11, 2],
    [3, 3], [7, 9, 7], [4, 5]])
def test_rows_of_some_nodes_are_those_of_all(n_id):
    rows, n_id = moved(), torch.tensor(n_id)
    weight = torch.randn(len(n_id), 4)
    grads = []
    for out in (rows.get_embedding(n_id=n_id), rows()[n_id]):
        rows.zero_grad()
        (out * weight).sum().backward()
        grads.append([p.grad.clone() for p in rows.parameters()])
    assert torch.equal(rows.get_embedding(n_id=n_id), rows()[n_id])
    for part, whole in zip(*grads):
        torch.testing.assert_close(part, whole)


def test_no_nodes():
    empty = torch.empty(0, dtype=torch.long)
    rows = make()
    assert rows.get_embedding(n_id=empty).shape == (0, 4)
    assert rows.user_rows(empty).shape == rows.item_rows(empty).shape == (0, 4)
    bare = TransformRows(torch.empty(0, 4), torch.randn(7, 4), USER_WIDTHS,
                         ITEM_WIDTHS, CLASSES[5:])
    assert bare().shape == (7, 4) and bool(bare().isfinite().all())
    assert bare.encode(0).codes.shape == (0, 4)


@pytest.mark.parametrize("scale_bits", [4, 8])
@pytest.mark.parametrize("rows", [make, moved])
def test_what_is_stored_is_what_is_returned(rows, scale_bits):
    rows = rows(scale_bits)
    for kind, served in ((0, rows.user_rows()), (1, rows.item_rows())):
        stored = rows.encode(kind)
        torch.testing.assert_close(read(stored), served.detach().double(),
                                   rtol=1e-5, atol=1e-9)
        table = to_table(stored, scale_bits).dequantize()
        size = np.abs(table).max(axis=1, keepdims=True)
        gap = np.abs(table - served.detach().numpy())
        assert (gap <= 1e-6 * size).all()


def test_training_and_serving_see_the_same_rows():
    rows = moved()
    trained = rows.train()().detach()
    assert torch.equal(rows.eval()(), trained)
    a, b = rows.train().encode(1), rows.eval().encode(1)
    assert all(torch.equal(x, y) for x, y in zip(a, b))


@pytest.mark.parametrize("scale_bits", [4, 8])
def test_what_is_stored_fits(scale_bits):
    rows = moved(scale_bits)
    for kind, widths in ((0, USER_WIDTHS), (1, ITEM_WIDTHS)):
        stored = rows.encode(kind)
        part = CLASSES[:5] if kind == 0 else CLASSES[5:]
        assert stored.class_ids.tolist() == part.tolist()
        assert torch.equal(stored.widths, widths)
        assert bool((stored.codes < 2**widths[part]).all())
        assert torch.equal(stored.spread, stored.spread.half().float())
        snapped = F.snap_log_scale(stored.scale, stored.grid, scale_bits)
        assert torch.equal(snapped, stored.scale)
        assert len(stored.scale.unique()) <= 2**scale_bits


def test_finer_scales_are_closer():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, generator=generator) * COLUMNS
    x *= torch.randn(300, 1, generator=generator).mul(2).exp()
    errors = []
    for bits in (4, 8):
        rows = TransformRows(x[:200], x[200:], USER_WIDTHS, ITEM_WIDTHS,
                             torch.zeros(300), bits)
        exact = F.row_scale(x[:200], rows.spread(0).detach()).squeeze(1)
        errors.append((rows.encode(0).scale / exact).log().abs().max())
        assert len(rows.encode(0).scale.unique()) <= 2**bits - 1
    assert float(errors[1]) < float(errors[0]) / 8


def test_zero_rows():
    rows = make()
    out = rows()
    assert not bool(out[[1, 7]].any())
    assert not bool(out[3].any())  # of the class without bits
    assert float(rows.encode(0).scale[1]) == 0
    out.square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in rows.parameters())
    empty = TransformRows(torch.zeros(5, 4), torch.zeros(7, 4), USER_WIDTHS,
                          ITEM_WIDTHS, CLASSES)
    empty().sum().backward()
    assert not bool(empty().any())
    assert bool(empty.log_spread.grad.isfinite().all())


@pytest.mark.parametrize("scale_bits", [4, 8])
def test_zero_columns_change_nothing(scale_bits):
    x = make().weight.detach()[:, :2]
    wide = torch.cat([x, torch.zeros(12, 6)], dim=1)
    widths, more = torch.tensor([[4, 3]]), torch.tensor([[4, 3] + [1] * 6])
    a = TransformRows(x[:5], x[5:], widths, widths, torch.zeros(12),
                      scale_bits)
    b = TransformRows(wide[:5], wide[5:], more, more, torch.zeros(12),
                      scale_bits)
    assert not bool(b.spread(0)[2:].any())
    torch.testing.assert_close(b()[:, :2], a())
    assert not bool(b()[:, 2:].any())


def test_everything_that_has_bits_is_trained():
    rows = moved()
    rows().square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in rows.parameters())
    touched = rows.weight.grad.abs().sum(1) > 0
    assert touched.tolist() == [True] * 3 + [False] + [True] * 8
    assert bool((rows.log_spread.grad != 0)[1].all())
    assert (rows.log_spread.grad[0] != 0).tolist() == [True] * 3 + [False]


def test_the_scale_is_trained_with_its_row():
    # A row of two numbers, one of 8 bits and one of none: all that can change
    # with the second number is the scale.
    x = torch.tensor([[1.0, 3.0], [2.0, -1.0], [3.0, 4.0]])
    rows = TransformRows(x, x, torch.tensor([[3, 0]]), torch.tensor([[3, 0]]),
                         torch.zeros(6), 8)
    rows.user_rows()[:, 0].sum().backward()
    assert bool((rows.weight.grad[:3, 1] != 0).any())


def test_mean_bits():
    rows = make()
    widths = torch.cat([USER_WIDTHS[CLASSES[:5]], ITEM_WIDTHS[CLASSES[5:]]])
    assert rows.mean_bits == pytest.approx(float(widths.double().mean()))
    many = TransformRows(torch.ones(1, 40), torch.ones(1, 40),
                         torch.full((1, 40), 8), torch.full((1, 40), 8),
                         torch.zeros(2))
    assert many.mean_bits == 8.0  # 320 bits are more than a byte can count


@pytest.mark.parametrize("scale_bits", [4, 8])
def test_states(scale_bits):
    rows, other = moved(scale_bits), make(scale_bits, seed=5)
    assert not torch.equal(other(), rows())
    other.load_state_dict(copy.deepcopy(rows.state_dict()))
    assert torch.equal(other(), rows())
    for kind in (0, 1):
        for a, b in zip(other.encode(kind), rows.encode(kind)):
            assert torch.equal(a, b)


@pytest.mark.parametrize("changes", [
    {"users": torch.zeros(5, 3)},
    {"items": torch.zeros(7, 5)},
    {"users": torch.zeros(6, 4)},
    {"user_widths": torch.zeros(3, 5, dtype=torch.long)},
    {"item_widths": torch.zeros(1, 3, dtype=torch.long)},
    {"class_ids": torch.zeros(11)},
])
def test_wrong_shapes(changes):
    given = {"users": torch.zeros(5, 4), "items": torch.zeros(7, 4),
             "user_widths": USER_WIDTHS, "item_widths": ITEM_WIDTHS,
             "class_ids": CLASSES}
    assert TransformRows(**given).num_users == 5
    with pytest.raises(ValueError, match="rows and widths need as many "
                       r"columns, and each node a class \(got \["):
        TransformRows(**{**given, **changes})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_that_cannot_be_stored(value):
    rows = make()
    with torch.no_grad():
        rows.weight[6, 2] = value
    assert rows.encode(0).codes.shape == (5, 4)
    with pytest.raises(ValueError, match="need to be finite to be packed"):
        rows.encode(1)
