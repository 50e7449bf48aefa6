import pytest
import torch

from pyg_nodequant import functional as F


def draw(seed, dim, num_users=30, num_items=50):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(num_users, dim, generator=g, dtype=torch.double),
            torch.randn(num_items, dim, generator=g, dtype=torch.double) + 1)


def scores(tables):
    return tables[0] @ tables[1].t()


def test_the_spread_of_scores_without_scores():
    tables = draw(0, 5)
    expected = scores(tables).std(1, unbiased=False).mean()
    assert torch.allclose(F.score_spread(*tables), expected)
    # A constant added to all items of a user spreads nothing:
    shifted = tables[0], tables[1] + 100.0
    assert torch.allclose(F.score_spread(*shifted), expected)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_blended_scores(share):
    first, second = draw(0, 5), draw(1, 3)
    second = 7 * second[0], second[1]
    a, b = scores(first), scores(second)
    ratio = (a.std(1, unbiased=False).mean() /
             b.std(1, unbiased=False).mean())
    users, items = F.blend_rows(first, second, share)
    assert users.shape == (30, 8) and items.shape == (50, 8)
    assert torch.allclose(users @ items.t(),
                          (1 - share) * a + share * ratio * b)


def test_how_long_the_second_models_rows_are_does_not_matter():
    first, second = draw(0, 5), draw(1, 3)
    expected = scores(F.blend_rows(first, second, 0.5))
    longer = 100 * second[0], 3 * second[1]
    assert torch.allclose(scores(F.blend_rows(first, longer, 0.5)), expected)


def test_a_second_model_that_knows_nothing():
    first = draw(0, 5)
    flat = torch.zeros(30, 2, dtype=torch.double), draw(1, 2)[1]
    blended = scores(F.blend_rows(first, flat, 0.5))
    assert torch.allclose(blended, scores(first) / 2)


def test_discounted_scores():
    users, items = draw(0, 5)
    degree = torch.arange(50)
    out = scores(F.discount_popularity(users, items, degree, 0.25))
    plain = scores((users, items))
    assert torch.allclose(out[:, 0], plain[:, 0])  # nobody took it
    change = out - plain
    # By gamma times the logarithm, and warm items by nothing on average.
    assert torch.allclose(change[:, 1] - change[:, 40],
                          0.25 * torch.tensor(40.0).double().log())
    assert torch.allclose(change[:, 1:].mean(1),
                          torch.zeros(30, dtype=torch.double))
    assert torch.allclose(
        scores(F.discount_popularity(users, items, degree, 0.0)), plain)


def test_no_discount_without_interactions():
    users, items = draw(0, 5)
    out = F.discount_popularity(users, items, torch.zeros(50), 0.5)
    assert torch.allclose(scores(out), scores((users, items)))


def test_what_cannot_be_blended():
    first = draw(0, 5)
    with pytest.raises(ValueError, match=r"'share' needs to be a number in "
                                         r"\[0, 1\] \(got 1.5\)"):
        F.blend_rows(first, first, 1.5)
    for other, name in ((draw(1, 5, num_users=29), "users"),
                        (draw(1, 5, num_items=3), "items")):
        with pytest.raises(ValueError, match=f"need the same {name}"):
            F.blend_rows(first, other, 0.5)
    with pytest.raises(ValueError, match="one entry for each of the 50 items"):
        F.discount_popularity(*first, torch.ones(49), 0.1)
    with pytest.raises(ValueError, match="at least 0"):
        F.discount_popularity(*first, torch.ones(50), -0.1)
