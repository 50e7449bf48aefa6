import pytest
import torch

from pyg_nodequant import functional as F
from pyg_nodequant.nn import SoftAxisRows, TransformRows

USERS, ITEMS, DIM = 5, 7, 4


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(USERS, DIM, generator=generator)
    items = torch.randn(ITEMS, DIM, generator=generator)
    profile = torch.tensor([[0.0, -1, -2, -9], [0.0, -0.5, -1, -3]])
    bits = torch.linspace(4, 20, USERS + ITEMS)
    return SoftAxisRows(users, items, bits, profile, max_bits=6)


def test_it_starts_with_the_bits_given(rows):
    bits = torch.linspace(4, 20, USERS + ITEMS)
    assert torch.allclose(rows.row_bits(), bits, atol=1e-3)
    assert rows.mean_bits == pytest.approx(12 / DIM, abs=1e-3)
    widths = rows.widths()
    assert widths.shape == (12, DIM)
    assert float(widths.detach().max()) <= 6
    assert repr(rows) == ("SoftAxisRows(5 users, 7 items, 4 axes, 12.00 bits "
                          "a row)")


def test_whole_widths_are_those_of_transform_rows(rows):
    with torch.no_grad():
        rows.score.copy_(torch.arange(12) % 3 + 2.0)
        rows.profile.copy_(rows.profile.round())
    widths = rows.widths().detach()
    assert torch.equal(widths, widths.round())
    used, classes = torch.unique(widths, dim=0, return_inverse=True)
    hard = TransformRows(rows.weight[:USERS], rows.weight[USERS:], used.long(),
                         used.long(), classes)
    assert torch.allclose(rows(), hard(), atol=1e-5)
    ids = torch.tensor([0, 11, 5, 5])
    assert torch.allclose(rows(n_id=ids), hard(n_id=ids), atol=1e-5)


def test_rows_of_some_and_everything_gets_a_gradient(rows):
    widths = rows.widths()
    ids = torch.tensor([3, 1, 3])
    assert torch.equal(rows.quantized(0, widths, ids), rows.user_rows()[ids])
    assert torch.equal(rows.quantized(1, widths, ids), rows.item_rows()[ids])
    rows().square().sum().backward()
    for parameter in rows.parameters():
        assert bool(parameter.grad.isfinite().all())
        assert bool(parameter.grad.any())


def test_it_has_no_codes(rows):
    with pytest.raises(ValueError, match="widths need to be whole"):
        rows.encode(0)


def test_its_state(rows):
    other = SoftAxisRows(rows.weight[:USERS], rows.weight[USERS:],
                         torch.full((12, ), 8.0), torch.zeros(2, DIM),
                         max_bits=6)
    other.load_state_dict(rows.state_dict())
    assert torch.equal(other(), rows())
    assert torch.equal(F.snap_float16(rows.log_spread[0].exp()),
                       other.spread(0))
