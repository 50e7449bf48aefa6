from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_nodequant import functional as F
from pyg_nodequant.functional.rate_distortion import (
    directional_curvature,
    distortion_bound,
    quadratic_distortion,
    reverse_water_filling,
)


def table(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.double)


def slow_curvature(users, items, temperature):
    (u, d), i = users.shape, items.size(0)
    p = torch.softmax(users @ items.t() / temperature, -1)
    out_users = torch.zeros(u, d, dtype=torch.double)
    out_items = torch.zeros(i, d, dtype=torch.double)
    for k in range(d):
        for a in range(u):
            mean = sum(float(p[a, b] * items[b, k]) for b in range(i))
            out_users[a, k] = sum(
                float(p[a, b]) * (float(items[b, k]) - mean)**2
                for b in range(i))
        for b in range(i):
            out_items[b, k] = sum(
                float(p[a, b] * (1 - p[a, b]) * users[a, k]**2)
                for a in range(u))
    return out_users, out_items


@pytest.mark.parametrize("temperature, chunk_scores",
                         [(1.0, 1024), (0.5, 14), (0.5, 1)])
def test_directional_curvature(temperature, chunk_scores):
    users, items = table(5, 3), table(7, 3, seed=1)
    out = directional_curvature(users, items, temperature, chunk_scores)
    for h, expected in zip(out, slow_curvature(users, items, temperature)):
        torch.testing.assert_close(h, expected)
    listwise = F.listwise_curvature(users, items, temperature, chunk_scores)
    torch.testing.assert_close(torch.cat(out).sum(-1), listwise)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_directional_curvature_is_that_of_the_loss(temperature):
    # The diagonal of the Hessian of sum_u T^2 KL_u.
    users, items = table(3, 2), table(4, 2, seed=1)
    teacher = users @ items.t()

    def loss(rows):
        return 3 * torch.nn.functional.kl_div(
            torch.log_softmax(rows[:3] @ rows[3:].t() / temperature, -1),
            torch.softmax(teacher / temperature, -1),
            reduction="batchmean") * temperature**2

    rows = torch.cat([users, items])
    hessian = torch.autograd.functional.hessian(loss, rows)
    diagonal = hessian.reshape(14, 14).diagonal().reshape(7, 2)
    out = torch.cat(directional_curvature(users, items, temperature))
    torch.testing.assert_close(out, diagonal)


def test_directional_curvature_under_rotation():
    users, items = table(5, 4), table(7, 4, seed=1)
    rotation = torch.linalg.qr(table(4, 4, seed=2)).Q
    before = directional_curvature(users, items)
    after = directional_curvature(users @ rotation, items @ rotation)
    for a, b in zip(before, after):
        torch.testing.assert_close(a.sum(-1), b.sum(-1))
        assert not torch.allclose(a, b)


def test_directional_curvature_of_certain_users():
    # Rounding must not make a variance of about 0 negative.
    items = 1e3 + table(50, 4)
    out = directional_curvature(1e3 * table(9, 4, seed=1), items)
    assert all(bool((h >= 0).all()) for h in out)


def test_inputs_are_float_and_want_no_gradient():
    users = table(5, 3).float().requires_grad_()
    items = table(7, 3, seed=1).float().requires_grad_()
    out = directional_curvature(users, items)
    exact = directional_curvature(users.double(), items.double())
    for h, expected in zip(out, exact):
        assert h.dtype == torch.double and not h.requires_grad
        torch.testing.assert_close(h, expected, rtol=1e-4, atol=1e-6)
    assert distortion_bound(users, items, 9.0) > 0
    assert quadratic_distortion(users, items, users, items) == 0


def bits_at(s, theta):
    return sum(max(0.0, 0.5 * math.log2(v / theta)) for v in s if v > 0)


def slow_water_filling(s, rate):
    low, high = -2000.0, math.log2(max(s))  # of log2(theta)
    for _ in range(200):
        middle = (low + high) / 2
        if sum(max(0.0, 0.5 * (math.log2(v) - middle))
               for v in s if v > 0) > rate:
            low = middle
        else:
            high = middle
    return 2.0**high, sum(min(2.0**high, v) for v in s)


@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.3, 1.0, 4.7, 20.0, 300.0])
@pytest.mark.parametrize("seed", range(3))
def test_water_filling(rate, seed):
    s = table(4, 5, seed=seed).mul_(3).exp_()
    s[0, :2] = 0
    before = s.clone()
    theta, distortion = reverse_water_filling(s, rate)
    assert type(theta) is float and type(distortion) is float
    assert (theta, distortion) == pytest.approx(
        slow_water_filling(s.flatten().tolist(), rate), rel=1e-9)
    assert torch.equal(s, before)
    # The components' own distortion-rate functions say the same.
    bits = [max(0.0, 0.5 * math.log2(v / theta)) if v > 0 else 0.0
            for v in s.flatten().tolist()]
    assert sum(bits) == pytest.approx(rate, abs=1e-9)
    spent = sum(v * 4**-b for v, b in zip(s.flatten().tolist(), bits))
    assert distortion == pytest.approx(spent, rel=1e-9)


def test_no_other_split_of_the_rate_is_better():
    s = table(6).mul_(2).exp_()
    generator = torch.Generator().manual_seed(1)
    split = torch.rand(20000, 6, generator=generator).double().log_().neg_()
    split *= 5 / split.sum(-1, keepdim=True)
    best = float((s * 4**-split).sum(-1).min())
    distortion = reverse_water_filling(s, 5)[1]
    assert distortion <= best <= 1.2 * distortion


@pytest.mark.parametrize("n, rate", [(1, 3.0), (7, 0.0), (7, 5.0),
                                     (1000, 3500.0)])
def test_equal_variances(n, rate):
    theta, distortion = reverse_water_filling(torch.full((n, ), 2.5), rate)
    assert theta == pytest.approx(2.5 * 2**(-2 * rate / n))
    assert distortion == pytest.approx(n * 2.5 * 2**(-2 * rate / n))


def test_rate_of_nothing():
    s = torch.tensor([[0.0, 3.0], [1.0, 3.0]])
    assert reverse_water_filling(s, 0) == (3.0, 7.0)


@pytest.mark.parametrize("s", [torch.zeros(3), torch.zeros(0)])
@pytest.mark.parametrize("rate", [0.0, 2.0])
def test_nothing_to_code(s, rate):
    assert reverse_water_filling(s, rate) == (0.0, 0.0)


def test_integers_and_halves():
    assert reverse_water_filling(torch.tensor([4, 1, 0]), 1) == (1.0, 2.0)
    assert reverse_water_filling(torch.tensor([4.0, 1.0]).half(),
                                 1) == (1.0, 2.0)


def test_distortion_falls_and_is_convex():
    s = table(50).mul_(4).exp_()
    s[::7] = 0
    out = torch.tensor([reverse_water_filling(s, r / 4) for r in range(800)],
                       dtype=torch.double)
    assert bool((out.diff(dim=0) < 0).all())
    curve = out[:, 1]
    assert bool((curve.diff(n=2) >= -1e-12 * curve[0]).all())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-30, 1e30)),
             min_size=1, max_size=30).filter(any),
    st.floats(0, 200))
def test_theta_gives_the_rate(s, rate):
    theta, distortion = reverse_water_filling(
        torch.tensor(s, dtype=torch.double), rate)
    assert bits_at(s, theta) == pytest.approx(rate, rel=1e-9, abs=1e-9)
    assert distortion == pytest.approx(sum(min(theta, v) for v in s))


def test_many_components():
    s = table(200_000).mul_(5).exp_()
    for rate in (10.0, 1e5, 2e6):
        theta, distortion = reverse_water_filling(s, rate)
        bits = (s / theta).log2_().mul_(0.5).clamp_(min=0).sum()
        assert float(bits) == pytest.approx(rate, rel=1e-9)
        assert distortion == pytest.approx(float(s.clamp(max=theta).sum()))


@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.3, 4.7, 300.0])
def test_counted_components(rate):
    s = table(4, 5).mul_(3).exp_()
    s[0, :2] = 0
    count = torch.arange(1, 21).view(4, 5)
    repeated = s.flatten().repeat_interleave(count.flatten())
    out = reverse_water_filling(s, rate, count)
    assert out == pytest.approx(reverse_water_filling(repeated, rate))
    # Not whole ones too: half of each takes half the rate.
    theta, distortion = reverse_water_filling(s, rate / 2, 0.5 * count)
    assert (theta, 2 * distortion) == pytest.approx(out)


@pytest.mark.parametrize("count", [
    torch.ones(2), torch.tensor([1.0, 0.0, 1.0]),
    torch.tensor([1.0, math.inf, 1.0])])
def test_wrong_count(count):
    with pytest.raises(ValueError, match="'count' needs to be positive and "):
        reverse_water_filling(torch.ones(3), 1.0, count)


@pytest.mark.parametrize("rate", [-0.1, math.nan, math.inf])
def test_wrong_rate(rate):
    message = rf"'rate' needs to be finite and at least 0 \(got {rate}\)"
    with pytest.raises(ValueError, match=message):
        reverse_water_filling(torch.ones(3), rate)
    with pytest.raises(ValueError, match=message):
        distortion_bound(table(2, 2), table(3, 2), rate)


@pytest.mark.parametrize("value", [-0.5, math.nan, math.inf, -math.inf])
def test_wrong_variance(value):
    s = torch.tensor([1.0, value, 0.0])
    with pytest.raises(ValueError, match=r"'weighted_variance' needs to be "
                       rf"finite and at least 0 \(got {value}\)"):
        reverse_water_filling(s, 1.0)


def slow_row_model(x):
    n, d = x.shape
    r2, scale = [0.0] * n, [1.0] * d
    for _ in range(5):
        for a in range(n):
            r2[a] = sum(float(x[a, k])**2 / scale[k] for k in range(d)) / d
        for k in range(d):
            scale[k] = sum(float(x[a, k])**2 / r2[a] for a in range(n)) / n
    return torch.tensor([[r * v for v in scale] for r in r2],
                        dtype=torch.double)


@pytest.mark.parametrize("rate", [0.0, 7.5, 100.0])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_distortion_bound(rate, temperature):
    users = table(5, 3) * torch.tensor([4.0, 1.0, 0.2])
    items = table(7, 3, seed=1)
    s = [float(v) for x, h in zip(
        (users, items), directional_curvature(users, items, temperature))
         for v in (h * slow_row_model(x)).flatten()]
    expected = slow_water_filling(s, rate)[1] / 2 / 5
    out = distortion_bound(users, items, rate, temperature)
    assert type(out) is float
    assert out == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("zeros", [False, True])
def test_bound_of_tables_the_model_describes(zeros):
    # Rows of one scale each: the variances are the squares, and a rate of
    # 0 leaves tables of zeros.
    def modelled(n, seed):
        row, column = table(n, 1, seed=seed).exp(), table(1, 4, seed=9).exp()
        if zeros:
            row[::3] = 0
            column[:, 2] = 0
        return row * column * table(n, 4, seed=seed + 1).sign()

    users, items = modelled(6, 2), modelled(8, 4)
    expected = quadratic_distortion(users, items, 0 * users, 0 * items)
    assert expected > 0
    assert distortion_bound(users, items, 0) == pytest.approx(expected)


def test_bound_of_zeros():
    assert distortion_bound(torch.zeros(2, 3), torch.zeros(4, 3), 5.0) == 0
    users = torch.cat([table(3, 2), torch.zeros(2, 2)])
    out = distortion_bound(users, torch.zeros(4, 2), 5.0)
    assert out == 0  # the users' scores are all equal and 0 is their code
    assert distortion_bound(torch.zeros(0, 2), table(3, 2), 5.0) == 0


def test_bound_does_not_depend_on_the_tables_scales():
    # u.i = (c u).(i / c): the same scores, and as hard to code.
    users, items = table(5, 3), table(7, 3, seed=1)
    out = distortion_bound(1e-4 * users, 1e4 * items, 20.0)
    assert out == pytest.approx(distortion_bound(users, items, 20.0))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_scalar_quantizer_is_above_the_bound(bits):
    users, items = 0.2 * table(200, 8), table(100, 8, seed=1)

    def quantized(x):
        rms = x.square().mean(-1, keepdim=True).sqrt()
        width = torch.full_like(rms, bits)
        span = F.gaussian_span(width) * rms
        return F.fake_quantize(x, width[:, 0], span[:, 0], -span[:, 0] / 2)

    out = quadratic_distortion(users, items, quantized(users),
                               quantized(items))
    bound = distortion_bound(users, items, bits * (200 + 100) * 8)
    decibels = 10 * math.log10(out / bound)
    assert 1.53 < decibels < 10


def slow_distortion(users, items, new_users, new_items, temperature):
    h_users, h_items = slow_curvature(users, items, temperature)
    total = 0.0
    for h, x, y in ((h_users, users, new_users), (h_items, items, new_items)):
        for n in range(x.size(0)):
            for k in range(x.size(1)):
                total += float(h[n, k]) * float(x[n, k] - y[n, k])**2
    return 0.5 * total / users.size(0)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_quadratic_distortion(temperature):
    users, items = table(5, 3), table(7, 3, seed=1)
    new_users, new_items = table(5, 3, seed=2), table(7, 3, seed=3)
    args = users, items, new_users, new_items, temperature
    out = quadratic_distortion(*args)
    assert type(out) is float
    assert out == pytest.approx(slow_distortion(*args))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("on_users, on_items", [(1, 0), (0, 1), (1, 1)])
def test_quadratic_distortion_is_the_kl_of_small_errors(
        temperature, on_users, on_items):
    # Errors of random size 1e-3; it only sees their squares.
    users, items = table(6, 4), table(9, 4, seed=1)
    x = users + 1e-3 * on_users * table(20000, 6, 4, seed=2)
    y = items + 1e-3 * on_items * table(20000, 9, 4, seed=3)
    scores = (x @ y.mT).flatten(0, 1)
    teacher = (users @ items.t()).repeat(20000, 1)
    kl = float(F.listwise_kl_loss(scores, teacher, temperature))
    out = quadratic_distortion(users, items, users + 1e-3 * on_users,
                               items + 1e-3 * on_items, temperature)
    assert out == pytest.approx(kl, rel=0.03)


@pytest.mark.parametrize("name, shapes", [
    ("users", ((1, 3), (7, 3))),
    ("items", ((5, 3), (7, 1))),
])
def test_wrong_shape(name, shapes):
    with pytest.raises(ValueError, match=f"'quantized_{name}' needs to have "
                       rf"the shape \(., 3\) of '{name}' \(got \(., .\)\)"):
        quadratic_distortion(table(5, 3), table(7, 3),
                             *(table(*shape) for shape in shapes))


def test_excluded_items_have_no_directional_curvature():
    g = torch.Generator().manual_seed(1)
    users, items = (torch.randn(n, 3, generator=g) for n in (4, 6))
    out = torch.rand(4, 6, generator=g) < 0.4
    found = directional_curvature(users, items, 0.7, 12, out.nonzero().t())
    expected_items = torch.zeros(6, 3, dtype=torch.float64)
    for u in range(4):
        keep = ~out[u]
        one = directional_curvature(users[u:u + 1], items[keep], 0.7)
        assert torch.allclose(found[0][u], one[0][0], atol=1e-5)
        expected_items[keep] += one[1]
    assert torch.allclose(found[1], expected_items, atol=1e-5)
