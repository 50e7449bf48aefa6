import pytest
import torch

from pyg_nodequant.functional import DualState, dual_ascent, price


def test_the_first_step_starts_from_the_mean_worth():
    worth = torch.tensor([[4.0, -1.0], [3.0, 0.0]])
    state = dual_ascent(DualState(), worth, 0.1, rate=0.5)
    assert state.scale == 2.0  # of absolute values
    assert state.multiplier == pytest.approx(1.5 + 0.5 * 2.0 * 0.1)
    assert state.steps == 1
    # Where bits are worth less than nothing, they are free.
    assert dual_ascent(DualState(), -worth, 0.0, 0.5).multiplier == 0.0


def test_further_steps():
    state = DualState(multiplier=3.0, scale=2.0, steps=7)
    worth = torch.tensor([1.0, -9.0])
    scale = 0.8 * 2.0 + 0.2 * 5.0
    for excess, used in ((0.2, 0.2), (-0.1, -0.1), (9.0, 0.25),
                         (-9.0, -0.25)):
        found = dual_ascent(state, worth, excess, rate=0.5, decay=0.8)
        assert found.scale == pytest.approx(scale)
        assert found.multiplier == pytest.approx(3 + 0.5 * scale * used)
        assert found.steps == 8
    assert dual_ascent(state, worth, -1.0, rate=99.0).multiplier == 0.0


def test_the_unit_of_the_loss_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    a, b = DualState(), DualState()
    for _ in range(9):
        worth = torch.randn(50, generator=generator) + 1
        a = dual_ascent(a, worth, 0.2, 0.3)
        b = dual_ascent(b, 1000 * worth, 0.2, 0.3)
    assert b.multiplier == pytest.approx(1000 * a.multiplier)
    assert price(b, 0.1) == pytest.approx(1000 * price(a, 0.1))


def test_the_price_answers_at_once():
    state = DualState(multiplier=3.0, scale=2.0)
    assert price(state, 0.0) == 3.0
    assert price(state, 0.25) == 5.0
    assert price(state, -1.0) == 0.0


@pytest.mark.parametrize("start", [0.5, 2.0, 6.0])
def test_water_filling_by_its_price(start):
    # min sum_i w_i 2^(-2 b_i) at a mean of 2 bits has the widths
    # b_i = 2 + log2(w_i) / 2 - mean_i log2(w_i) / 2.
    weight = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.double)
    optimum = 2 + weight.log2() / 2 - (weight.log2() / 2).mean()
    bits = torch.full_like(weight, start).requires_grad_()
    adam, state = torch.optim.Adam([bits], lr=0.02), DualState()
    for _ in range(1200):
        loss = (weight * torch.exp2(-2 * bits)).sum()
        excess = float(bits.detach().mean()) - 2
        adam.zero_grad()
        paid = price(state, excess)
        (loss + paid * (bits.mean() - 2)).backward()
        state = dual_ascent(state, paid - bits.grad * 4, excess, 0.1)
        adam.step()
    assert torch.allclose(bits.detach(), optimum, atol=5e-3)
    worth = 4 * weight * torch.exp2(-2 * optimum) * 2 * 0.6931472
    assert state.multiplier == pytest.approx(float(worth[0]), rel=0.02)
