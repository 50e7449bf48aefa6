from __future__ import annotations

import inspect
import pickle
import sys

import numpy as np
import pytest
import torch
import torch_geometric.nn
from torch_geometric.metrics import LinkPredPrecision
from torch_geometric.nn import MIPSKNNIndex
from torch_geometric.testing import withCUDA, withPackage

from pyg_nodequant import PackedMIPSIndex, PackedTable

KNN = sys.modules["torch_geometric.nn.pool.knn"]
N, D = 50, 6


def table(n: int = N, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, D, generator=generator)


QUERIES = table(7, seed=9)


def brute_force(emb, queries, k, links=()):
    """Sorts all scores of each query in plain Python."""
    scores, ids = [], []
    for b, query in enumerate(queries.double().tolist()):
        found = []
        for i, row in enumerate(emb.double().tolist()):
            if (b, i) not in links:
                found.append((-sum(x * y for x, y in zip(query, row)), i))
        found = sorted(found)[:k]
        found += [(float("inf"), -1)] * (k - len(found))
        scores.append([-s for s, _ in found])
        ids.append([i for _, i in found])
    return torch.tensor(scores), torch.tensor(ids)


def check(index, k, links=None):
    out = index.search(QUERIES, k, links)
    pairs = set() if links is None else {tuple(p) for p in links.t().tolist()}
    scores, ids = brute_force(index.get_emb(), QUERIES, k, pairs)
    assert isinstance(out, KNN.KNNOutput)
    assert out.score.dtype == torch.float32
    assert torch.equal(out.index, ids)
    assert torch.allclose(out.score, scores)


def test_same_interface_as_pyg():
    for name in ("add", "search", "get_emb"):
        theirs = inspect.signature(getattr(MIPSKNNIndex, name)).parameters
        ours = inspect.signature(getattr(PackedMIPSIndex, name)).parameters
        assert list(ours) == list(theirs)
        assert [p.default for p in ours.values()] == [
            p.default for p in theirs.values()]
    assert isinstance(PackedMIPSIndex.numel, property)
    assert list(inspect.signature(PackedMIPSIndex).parameters)[0] == "emb"
    assert torch_geometric.nn.MIPSKNNIndex is MIPSKNNIndex


def test_faiss_is_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    check(PackedMIPSIndex(table()), 3)


@withPackage("faiss")
@pytest.mark.parametrize("k", [1, 5, N])
@pytest.mark.parametrize("links", [0, 1, 40])
def test_same_answers_as_pyg(k, links):
    ours = PackedMIPSIndex(table())
    ours.add(table(11, seed=1))
    theirs = MIPSKNNIndex(ours.get_emb()[:N])
    theirs.add(ours.get_emb()[N:])
    assert theirs.numel == ours.numel
    assert torch.equal(theirs.get_emb(), ours.get_emb())
    generator = torch.Generator().manual_seed(links)
    links = torch.stack([torch.randint(0, 7, (links, ), generator=generator),
                         torch.randint(0, N, (links, ), generator=generator)])
    for exclude in (None, links):
        expected = theirs.search(QUERIES, k, exclude)
        out = ours.search(QUERIES, k, exclude)
        assert type(out) is type(expected)
        for x, y in zip(out, expected):
            assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert torch.equal(out.index, expected.index)
        assert torch.allclose(out.score, expected.score, atol=1e-5)


@withPackage("faiss")
def test_lists_that_run_short_are_filled_as_by_pyg():
    ours = PackedMIPSIndex(table())
    theirs = MIPSKNNIndex(ours.get_emb())
    links = torch.stack([torch.full((45, ), 2), torch.arange(45)])
    for k in (10, N, N + 5):
        out, expected = (x.search(QUERIES, k, links) for x in (ours, theirs))
        assert torch.equal(out.index, expected.index)
        assert out.score[2, 5:].eq(-torch.inf).all()
        assert expected.score[2, 5:].eq(-torch.inf).all()
    # Only where nothing is excluded does PyG return shorter lists.
    out, expected = (x.search(QUERIES, N + 5) for x in (ours, theirs))
    assert expected.index.shape == (7, N)
    assert torch.equal(out.index[:, :N], expected.index)
    assert out.index[:, N:].eq(-1).all()


@pytest.fixture(params=["runtime", "device"])
def path(request, monkeypatch):
    """Both ways to answer, whether there is a CUDA device or not."""
    if request.param == "device":
        monkeypatch.setattr(sys.modules["pyg_nodequant.nn.packed_index"],
                            "_is_fast", lambda device: True)
    return request.param


@withCUDA
@pytest.mark.parametrize("k", [1, 30, N + 20])
def test_both_ways_to_answer(device, k, path):
    index = PackedMIPSIndex(table())
    index.add(table(0))
    index.add(table(3, seed=1))
    index.add(table(11, seed=2))
    links = torch.tensor([[0, 0, 1, 3, 6], [0, 55, 60, 51, 63]])
    for exclude in (None, links, links[:, :0]):
        expected = brute_force(
            index.get_emb(), QUERIES, k,
            set() if exclude is None else {*map(tuple, exclude.t().tolist())})
        out = index.search(QUERIES.to(device), k, exclude)
        assert out.score.device == out.index.device == device
        assert torch.equal(out.index.cpu(), expected[1])
        assert torch.allclose(out.score.cpu(), expected[0])
    assert index.search(QUERIES[:0].to(device), k).index.shape == (0, k)
    fast = path == "device" or device.type == "cuda"
    assert {(0, device), (2, device)} <= index._copies.keys() or not fast


def test_copies_on_devices(path):
    index = PackedMIPSIndex(table())
    index.search(QUERIES, 3)
    first = dict(index._copies)
    index.add(table(4, seed=1))
    index.search(QUERIES, 3)
    assert len(index._copies) == (2 if path == "device" else 0)
    assert all(index._copies[key] is value for key, value in first.items())
    copied = pickle.loads(pickle.dumps(index))
    assert not copied._copies
    assert torch.equal(copied.search(QUERIES, 3).index,
                       index.search(QUERIES, 3).index)


@withCUDA
def test_data_points_come_back_where_they_were(device):
    index = PackedMIPSIndex(table().to(device))
    index.add(table(3))
    assert index.get_emb().device == device


class Encoder(torch.nn.Module):
    """Stands for a trained model: embeddings that need gradients."""

    def __init__(self, users: int, items: int):
        super().__init__()
        torch.manual_seed(0)
        self.user = torch.nn.Embedding(users, 16)
        self.item = torch.nn.Embedding(items, 16)
        self.lin = torch.nn.Linear(16, 16)

    def forward(self):
        return self.lin(self.item.weight), self.user.weight


@withCUDA
@pytest.mark.parametrize("exclude", ["by hand", "links"])
def test_search_of_a_recommender_in_pyg(device, exclude):
    # As in examples/hetero/recommender_system.py, which asks for all movies
    # and drops those a user has watched, or lets the index drop them.
    users, items, k = 20, 60, 10
    generator = torch.Generator().manual_seed(0)
    watched = torch.stack([torch.randint(0, users, (90, ),
                                         generator=generator),
                           torch.randint(0, items, (90, ),
                                         generator=generator)])
    item_emb, user_emb = (x.to(device) for x in Encoder(users, items)())
    mips = PackedMIPSIndex(item_emb)
    seen = {(u, i) for u, i in watched.t().tolist()}
    if exclude == "links":
        index = mips.search(user_emb, k, watched.to(device)).index
    else:
        _, index = mips.search(user_emb, item_emb.size(0))
        index = torch.tensor([[i for i in index[u].tolist()
                               if (u, i) not in seen][:k]
                              for u in range(users)])
    _, expected = brute_force(mips.get_emb().cpu(), user_emb.cpu(), k, seen)
    assert torch.equal(index.cpu(), expected)
    precision = LinkPredPrecision(k).to(device)
    precision.update(index.to(device), watched.to(device))
    assert float(precision.compute()) == 0


@pytest.mark.parametrize("bits", [1, 2, 8])
@pytest.mark.parametrize("range", ["symmetric", "minmax"])
@pytest.mark.parametrize("k", [1, 10, N, N + 5])
def test_search(bits, range, k):
    index = PackedMIPSIndex(table(), bits=bits, range=range)
    assert index.numel == N
    check(index, k)
    expected = PackedTable.from_float(table().numpy(), bits, range)
    assert np.array_equal(index.get_emb().numpy(), expected.dequantize())


def test_packed_tables():
    widths = np.arange(N) % 8 + 1
    packed = PackedTable.from_float(table().numpy(), widths)
    index = PackedMIPSIndex(packed)
    check(index, 10)
    assert index.nbytes == packed.resident_bytes


@pytest.mark.parametrize("k", [3, N, N + 5])
def test_exclude_links(k):
    generator = torch.Generator().manual_seed(0)
    links = torch.stack([torch.randint(0, 7, (60, ), generator=generator),
                         torch.randint(0, N, (60, ), generator=generator)])
    everything = torch.stack([torch.full((N, ), 2), torch.arange(N)])
    links = torch.cat([links, links[:, :5], everything], dim=1)
    index = PackedMIPSIndex(table())
    check(index, k, links)
    out = index.search(QUERIES, k, links)
    assert out.index[2].tolist() == [-1] * k
    assert out.score[2].tolist() == [-torch.inf] * k
    check(index, k, torch.empty(2, 0, dtype=torch.long))


@pytest.mark.parametrize("k", [3, 30, 64])
def test_adding_more(k):
    index = PackedMIPSIndex(table())
    index.add(PackedTable.from_float(table(0).numpy().reshape(0, D), 2))
    index.add(table(11, seed=1))
    assert index.numel == 61
    assert index.get_emb().shape == (61, D)
    links = torch.tensor([[0, 0, 1], [0, 55, 60]])
    check(index, k, links)


def test_ties_go_to_the_lowest_index():
    ones = torch.ones(3, D)
    index = PackedMIPSIndex(ones)
    index.add(ones)
    out = index.search(ones[:1], 6)
    assert out.index.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_no_upper_limit():
    index = PackedMIPSIndex(table(3000))
    out = index.search(QUERIES[:2], 2500)
    assert out.index.shape == (2, 2500)
    assert bool((out.index >= 0).all())


def test_other_types_and_no_queries():
    index = PackedMIPSIndex(table().double())
    expected = index.search(QUERIES, 5)
    out = index.search(QUERIES.double().requires_grad_(), 5)
    assert torch.equal(out.index, expected.index)
    assert index.search(QUERIES[:0], 5).index.shape == (0, 5)


def test_before_anything_is_added():
    index = PackedMIPSIndex()
    assert (index.numel, index.nbytes) == (0, 0)
    for call in (lambda: index.search(QUERIES, 1), index.get_emb):
        with pytest.raises(RuntimeError, match="'PackedMIPSIndex' is not yet "
                           "initialized. Please call `add"):
            call()
    index.add(table())
    check(index, 2)


@pytest.mark.parametrize("call, message", [
    (lambda i: i.add(torch.ones(3)), r"two-dimensional \(got 1 dimensions\)"),
    (lambda i: i.add(torch.ones(2, 5)), r"'emb' needs 6 numbers a row"),
    (lambda i: i.add(torch.full((2, D), torch.nan)), "needs to be finite"),
    (lambda i: i.search(QUERIES[0], 1), "two-dimensional"),
    (lambda i: i.search(QUERIES[:, :3], 1), "'queries' needs 6 numbers"),
    (lambda i: i.search(QUERIES, 0), r"'k' needs to be an integer of at "
     r"least 1 \(got 0\)"),
    (lambda i: i.search(QUERIES, 1, torch.ones(3, 2)),
     r"'exclude_links' needs shape \[2, num_links\] \(got \[3, 2\]\)"),
    (lambda i: i.search(QUERIES, 1, torch.tensor([[7], [0]])),
     r"'exclude_links\[0\]' needs to be in \[0, 6\] \(got 7\)"),
    (lambda i: i.search(QUERIES, 1, torch.tensor([[0], [N]])),
     r"'exclude_links\[1\]' needs to be in \[0, 49\] \(got 50\)"),
    (lambda i: PackedMIPSIndex(bits=9), r"'bits' needs to be an integer in "
     r"\[1, 8\] \(got 9\)"),
    (lambda i: PackedMIPSIndex(range="learned"), "'range' needs to be one of"),
])
def test_wrong_arguments(call, message):
    index = PackedMIPSIndex(table())
    with pytest.raises(ValueError, match=message):
        call(index)
    assert index.numel == N


def test_repr():
    assert repr(PackedMIPSIndex()) == "PackedMIPSIndex(0, None)"
    assert repr(PackedMIPSIndex(table())) == "PackedMIPSIndex(50, 6)"
