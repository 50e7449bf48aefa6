from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch_geometric import EdgeIndex
from torch_geometric.nn import LGConv
from torch_geometric.utils import to_torch_coo_tensor, to_torch_csr_tensor

from pyg_nodequant.functional import build_adjacency
from pyg_nodequant.nn.adjacency import (
    AdjacencyCache,
    check_edge_weight,
    fast_path_obstacle,
    to_adjacency,
)

EDGES = torch.tensor([[0, 0, 1, 2, 3], [1, 2, 2, 3, 0]])  # directed
WEIGHT = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])


def layouts(edge_index: torch.Tensor, weight: torch.Tensor | None):
    adj_t = (edge_index.flip(0), weight, 4)
    yield "edge_index", edge_index, weight
    yield "EdgeIndex", EdgeIndex(edge_index, sparse_size=(4, 4)), weight
    yield "csr", to_torch_csr_tensor(*adj_t), None
    yield "coo", to_torch_coo_tensor(*adj_t), None
    yield "csc", to_torch_coo_tensor(*adj_t).to_sparse_csc(), None


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("normalize", [True, False])
def test_every_layout_gives_the_same_matrix(weight, normalize):
    expected = build_adjacency(EDGES, 4, weight, normalize).matrix.to_dense()
    for name, edge_index, given in layouts(EDGES, weight):
        out = to_adjacency(edge_index, 4, given, normalize)
        assert torch.allclose(out.matrix.to_dense(), expected), name
        assert not out.is_symmetric


def test_sparse_with_edge_weight():
    adj_t = to_torch_csr_tensor(EDGES, size=4)
    message = "'edge_weight' needs to be None with a sparse adjacency"
    with pytest.raises(ValueError, match=message):
        to_adjacency(adj_t, 4, WEIGHT)
    with pytest.raises(ValueError, match=message):
        check_edge_weight(adj_t, WEIGHT)
    check_edge_weight(adj_t, None)
    check_edge_weight(EDGES, WEIGHT)


def test_sparse_of_another_size():
    with pytest.raises(ValueError, match=r"needs shape \[5, 5\] "
                       r"\(got \[4, 4\]\)"):
        to_adjacency(to_torch_csr_tensor(EDGES, size=4), 5)


def test_cache_builds_once():
    cache, edges = AdjacencyCache(), EDGES.clone()
    first = cache.get(edges, 4, None, True)
    assert cache.get(edges, 4, None, True) is first
    assert cache.get(edges.clone(), 4, None, True) is not first
    weight = WEIGHT.clone()
    weighted = cache.get(edges, 4, weight, True)
    assert cache.get(edges, 4, weight, True) is weighted
    assert cache.get(edges, 4, weight, False) is not weighted
    assert cache.get(edges, 4, None, True) is not weighted
    double = cache.get(edges, 4, None, True, torch.float64)
    assert double.matrix.dtype == torch.float64
    assert cache.get(edges, 4, None, True).matrix.dtype == torch.float32


def test_cache_sees_writes():
    cache, edges, weight = AdjacencyCache(), EDGES.clone(), WEIGHT.clone()
    first = cache.get(edges, 4, weight, True)
    edges[0, 0] = 3
    second = cache.get(edges, 4, weight, True)
    assert second is not first
    assert torch.equal(second.matrix.to_dense(),
                       build_adjacency(edges, 4, weight).matrix.to_dense())
    weight.mul_(torch.arange(1, 6))
    third = cache.get(edges, 4, weight, True)
    assert torch.equal(third.matrix.to_dense(),
                       build_adjacency(edges, 4, weight).matrix.to_dense())


@pytest.mark.parametrize("make", [to_torch_csr_tensor, to_torch_coo_tensor])
def test_cache_sees_writes_to_sparse_values(make):
    cache, adj_t = AdjacencyCache(), make(EDGES, WEIGHT, 4)
    first = cache.get(adj_t, 4, None, False)
    assert cache.get(adj_t, 4, None, False) is first
    before = first.matrix.to_dense()
    adj_t.values().mul_(2)
    second = cache.get(adj_t, 4, None, False)
    assert second is not first
    assert torch.equal(second.matrix.to_dense(), 2 * before)


def test_cache_keeps_no_graph_alive():
    cache, edges = AdjacencyCache(), EDGES.clone()
    cache.get(edges, 4, None, True)
    reference = weakref.ref(edges)
    del edges
    gc.collect()
    assert reference() is None


def test_cache_in_inference_mode():
    cache = AdjacencyCache()
    with torch.inference_mode():
        edges = EDGES.clone()
        first = cache.get(edges, 4, None, True)
        assert cache.get(edges, 4, None, True) is first


def test_cache_is_no_state():
    cache = AdjacencyCache()
    cache.get(EDGES, 4, None, True)
    assert copy.deepcopy(cache)._value is None
    assert pickle.loads(pickle.dumps(cache))._value is None


def hooked(register: str) -> LGConv:
    conv = LGConv()
    getattr(conv, register)(lambda *args: None)
    return conv


def explained() -> LGConv:
    conv = LGConv()
    conv.explain = True
    return conv


class OtherConv(LGConv):
    pass


@pytest.mark.parametrize("convs, message", [
    ([OtherConv()], "a layer is a OtherConv"),
    ([LGConv(), LGConv(normalize=False)], "its layers normalise differently"),
    ([LGConv(flow="target_to_source")], "flow='target_to_source'"),
    ([LGConv(aggr="mean")], "aggr='mean'"),
    ([explained()], "a layer is being explained or hooked"),
    ([hooked("register_forward_hook")], "explained or hooked"),
    ([hooked("register_message_forward_hook")], "explained or hooked"),
    ([hooked("register_propagate_forward_pre_hook")], "explained or hooked"),
])
def test_obstacles_of_layers(convs, message):
    assert message in fast_path_obstacle(convs, EDGES, None)


def test_obstacles_of_graphs():
    convs = [LGConv(), LGConv()]
    assert fast_path_obstacle(convs, EDGES, None) is None
    assert fast_path_obstacle([], EDGES, None) is None
    weight = WEIGHT.clone().requires_grad_()
    assert fast_path_obstacle(convs, EDGES, weight) == (
        "'edge_weight' needs a gradient")
    alpha = torch.ones(3)
    assert fast_path_obstacle(convs, EDGES, None, alpha) is None
    assert fast_path_obstacle(convs, EDGES, None, alpha.requires_grad_()) == (
        "'alpha' needs a gradient")
    adj_t = to_torch_csr_tensor(EDGES, WEIGHT, 4).requires_grad_()
    assert fast_path_obstacle(convs, adj_t, None) == (
        "the adjacency needs a gradient")
    assert fast_path_obstacle(convs, "graph", None) == (
        "the adjacency is a str")
