import torch

from pyg_nodequant.training.seen import SeenItems


def test_pairs_of_any_users():
    g = torch.Generator().manual_seed(0)
    dense = torch.rand(9, 6, generator=g) < 0.4
    dense[3] = False
    edges = dense.nonzero().t()
    edges = edges[:, torch.randperm(edges.size(1), generator=g)]
    seen = SeenItems(edges, 9)
    users = torch.tensor([5, 3, 0, 5, 8])
    assert torch.equal(seen.pairs(users), dense[users].nonzero().t())


def test_no_interactions():
    seen = SeenItems(torch.zeros(2, 0, dtype=torch.long), 4)
    assert seen.pairs(torch.arange(4)).shape == (2, 0)
