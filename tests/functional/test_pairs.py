import torch

from pyg_nodequant.functional import pairs_between


def test_chunks_cover_all_pairs_once():
    g = torch.Generator().manual_seed(0)
    dense = torch.rand(11, 5, generator=g) < 0.4
    dense[4] = False
    pairs = dense.nonzero().t()
    again = torch.zeros_like(dense)
    for start in range(0, 11, 3):
        rows = again[start:start + 3]
        at = pairs_between(pairs, start, start + 3)
        assert not bool(rows[at].any())
        rows[at] = True
    assert torch.equal(again, dense)
