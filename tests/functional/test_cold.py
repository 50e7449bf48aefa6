import pytest
import torch

from pyg_nodequant import functional as F


def draw(num_items=40, dim=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    items = torch.randn(num_items, dim, generator=g, dtype=torch.double)
    degree = torch.randint(0, 30, (num_items, ), generator=g)
    return items, degree


def loss(row, items, degree):
    # The best constant by its own closed form; cold items have no logarithm.
    total = 0.0
    warm = [i for i in range(len(items)) if degree[i] > 0]
    weight = sum(float(degree[i]) for i in warm)
    gaps = {i: float(items[i] @ row) - float(degree[i].double().log())
            for i in warm}
    c = sum(float(degree[i]) * gaps[i] for i in warm) / weight
    for i in warm:
        total += float(degree[i]) * (gaps[i] - c)**2
    return total


def test_popularity_row_is_the_best_one():
    items, degree = draw()
    row = F.popularity_row(items, degree)
    best = loss(row, items, degree)
    g = torch.Generator().manual_seed(1)
    for size in (1e-3, 1e-1, 1.0):
        for _ in range(20):
            other = row + size * torch.randn(5, generator=g,
                                             dtype=torch.double)
            assert loss(other, items, degree) > best


def test_popularity_that_the_rows_know():
    items, degree = draw()
    truth = torch.linspace(-0.2, 0.3, 5, dtype=torch.double)
    degree = torch.exp(items @ truth + 3)
    assert torch.allclose(F.popularity_row(items, degree), truth)
    shares = torch.softmax(items @ F.popularity_row(items, degree), 0)
    assert torch.allclose(shares, degree / degree.sum())
    # A shift of all items changes no ranking and no row:
    assert torch.allclose(F.popularity_row(items + 7.0, degree), truth)


def test_popularity_row_in_too_few_directions():
    items, degree = draw()
    flat = torch.cat([items[:, :2], items[:, :1], 0 * items[:, :1]], 1)
    row = F.popularity_row(flat, degree)
    part = F.popularity_row(items[:, :2], degree)
    # The shortest: the doubled column is shared evenly, the empty one unused.
    assert torch.allclose(row, torch.stack(
        [part[0] / 2, part[1], part[0] / 2, torch.tensor(0.0)]))


@pytest.mark.parametrize("degree", [
    torch.zeros(3), torch.ones(3), torch.tensor([0, 0, 4])])
def test_popularity_row_without_popularity(degree):
    row = F.popularity_row(torch.randn(3, 2), degree)
    assert torch.equal(row, torch.zeros(2))


def test_cold_items_do_not_take_part():
    items, degree = draw()
    cold = degree == 0
    assert bool(cold.any())
    row = F.popularity_row(items, degree)
    items[cold] = 100.0
    assert torch.equal(F.popularity_row(items, degree), row)


def test_settled_rows():
    items, degree = draw()
    users = torch.randn(6, 5, dtype=torch.double)
    degrees = torch.cat([torch.tensor([3, 0, 1, 0, 2, 9]), degree])
    rows = torch.cat([users, items])
    before = rows.clone()
    out = F.settle_cold_rows(rows, degrees, 6)
    assert torch.equal(rows, before)
    warm = degrees > 0
    assert torch.equal(out[warm], rows[warm])
    row = F.popularity_row(items, degree)
    assert torch.equal(out[[1, 3]], torch.stack([row, row]))
    assert bool((out[6:][degree == 0] == 0).all())


@pytest.mark.parametrize("function, arguments", [
    (F.popularity_row, (torch.ones(3, 2), torch.ones(2))),
    (F.settle_cold_rows, (torch.ones(3, 2), torch.ones(4), 1)),
])
def test_degrees_of_another_number(function, arguments):
    with pytest.raises(ValueError, match="'degree' needs one entry for each"):
        function(*arguments)
