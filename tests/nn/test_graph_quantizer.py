from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch_geometric.nn import LightGCN
from torch_geometric.utils import to_torch_csr_tensor

from pyg_nodequant import NodeQuantConfig, QuantLightGCN, quantize_
from pyg_nodequant import functional as F
from pyg_nodequant.nn import GraphQuantizer, NodeAwareQuantizer

USERS, N, DIM, LAYERS = 6, 15, 4, 2


def graph() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    user = torch.randint(0, USERS, (25, ), generator=generator)
    item = torch.randint(USERS, N - 1, (25, ), generator=generator)
    edges = torch.stack([user, item]).unique(dim=1).contiguous()
    return torch.cat([edges, edges.flip(0)], dim=1)


EDGES = graph()
MIXED = {"interval": "message_passing", "interval_mix": 0.4}
RELATED = {"gradient": "relation", "relation_weight": 0.5}


def make(**quant) -> QuantLightGCN:
    torch.manual_seed(0)
    model = QuantLightGCN(N, DIM, LAYERS, quant=NodeQuantConfig(**quant),
                          degree=torch.arange(N) % 5 + 1.0)
    with torch.no_grad():  # scales that differ
        model.embedding.weight.mul_(torch.linspace(-2, 2, N).exp().view(-1, 1))
    return model


def expected_delta(x, bits, mix, range):
    """The refined ranges of all rows."""
    own = (x.square().mean(1).sqrt() if range == "symmetric"
           else x.amax(1) - x.amin(1))
    near = F.neighbour_log_scale(own.log(), F.build_adjacency(EDGES, N), mix,
                                 LAYERS)
    delta = own**(1 - mix) * (mix * near).exp()
    if range == "symmetric":
        delta = delta * F.gaussian_span(bits)
    return delta


@pytest.mark.parametrize("range", ["symmetric", "minmax"])
@pytest.mark.parametrize("where", ["output", "input"])
def test_refined_ranges(where, range):
    model = make(where=where, range=range, **MIXED)
    rows = model.embedding.weight.detach()
    if where == "output":
        rows = model.propagate_embedding(rows, EDGES)
    bits = model.embedding.controller().detach()
    delta = expected_delta(rows, bits, 0.4, range).unsqueeze(1)
    centre = 0 if range == "symmetric" else (
        rows.amax(1) + rows.amin(1)).unsqueeze(1) / 2
    out = F.fake_quantize(rows, bits, delta, centre - delta / 2)
    if where == "input":
        out = model.propagate_embedding(out, EDGES)
    assert torch.allclose(model.get_embedding(EDGES), out, atol=1e-4)
    plain = make(where=where, range=range).get_embedding(EDGES)
    assert not torch.allclose(plain, out, atol=1e-2)


@pytest.mark.parametrize("where", ["output", "input", "both"])
def test_some_rows_are_the_same_as_of_all(where):
    model = make(where=where, **MIXED)
    ids = torch.tensor([3, 0, 14, 3])
    for frozen in (False, True):
        if frozen:
            model.embedding.controller.freeze()
        for mode in (True, False):
            model.train(mode)
            some = model.get_embedding(EDGES, n_id=ids)
            assert torch.equal(some, model.get_embedding(EDGES)[ids])
            assert not torch.equal(some[0], some[1])


def test_ranges_follow_the_rows():
    model = make(**MIXED)
    ids = torch.tensor([0, 9])
    before = model.get_embedding(EDGES, n_id=ids)
    with torch.no_grad():
        model.embedding.weight.mul_(8)
    after = model.get_embedding(EDGES, n_id=ids)
    assert torch.allclose(after, 8 * before, rtol=1e-4)


@pytest.mark.parametrize("range", ["symmetric", "minmax"])
def test_codes_read_what_was_trained(range):
    model = make(range=range, **MIXED).eval()
    served = model.get_embedding(EDGES).detach()
    rows = model.propagate_embedding(model.embedding.weight, EDGES).detach()
    codes = model.output_quantizer.encode(rows)
    low = (codes.offset if codes.offset is not None else
           -codes.scale * (torch.exp2(codes.widths.float()) - 1) / 2)
    read = codes.scale.unsqueeze(1) * codes.codes + low.unsqueeze(1)
    assert torch.allclose(read, served, atol=1e-5)


def test_a_mix_of_zero_is_the_row():
    a, b = make(interval="message_passing", interval_mix=0.0), make()
    assert torch.equal(a.get_embedding(EDGES), b.get_embedding(EDGES))


def test_rows_of_zeros_stay_zeros():
    model = make(**MIXED)
    with torch.no_grad():
        model.embedding.weight[N - 1] = 0  # it has no neighbours either
    out = model.get_embedding(EDGES)
    assert bool(out.isfinite().all())
    assert not bool(out[N - 1].any())
    out.square().sum().backward()
    assert bool(model.embedding.weight.grad.isfinite().all())


def test_state():
    model = make(**MIXED)
    key = "output_quantizer.neighbour_scale"
    assert bool(model.state_dict()[key].isnan().all())
    model.get_embedding(EDGES)
    scales = model.state_dict()[key].clone()
    assert bool(scales.isfinite().all())
    other = make(**MIXED)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.state_dict()[key], scales)
    other.load_state_dict(LightGCN(N, DIM, LAYERS).state_dict())
    other.reset_parameters()
    assert bool(other.state_dict()[key].isnan().all())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.output_quantizer.adjacency is None
        assert torch.equal(twin.get_embedding(EDGES),
                           model.get_embedding(EDGES))


def test_a_quantizer_that_knows_no_graph():
    x = torch.randn(5, DIM)
    alone = GraphQuantizer(5, DIM, interval_mix=0.4, relation_weight=0.5)
    assert torch.equal(alone(x), NodeAwareQuantizer(5, DIM)(x))
    with pytest.raises(ValueError, match="symmetric or minmax to be mixed"):
        GraphQuantizer(5, DIM, range="learned", interval_mix=0.4)


def gradient(model, ids=None):
    model.zero_grad()
    out = model.get_embedding(EDGES, n_id=ids)
    size = out.size(0)
    (out * torch.linspace(-1, 1, size * DIM).view(size, DIM)).sum().backward()
    return out.detach(), model.embedding.weight.grad.clone()


@pytest.mark.parametrize("where", ["output", "input", "both"])
@pytest.mark.parametrize("range", ["symmetric", "minmax", "learned"])
def test_gradients_of_neighbours(where, range):
    ids = torch.cat([EDGES[:, :3].flatten(), torch.tensor([14])])
    assert ids.numel() < N and ids.unique().numel() < ids.numel()
    for rows in (None, ids):
        out, plain = gradient(make(where=where, range=range), rows)
        same, related = gradient(make(where=where, range=range, **RELATED),
                                 rows)
        assert torch.equal(out, same)  # values stay
        assert bool(related.isfinite().all())
        assert not torch.allclose(plain, related, rtol=1e-3)


def test_the_gradient_of_rows_as_served():
    model = make(where="input", **RELATED)
    x = model.embedding.weight
    quantizer = model.embedding.quantizer
    model.attach_graph(EDGES)
    bits = model.embedding.controller().detach()
    delta, mu = F.symmetric_range(x, bits)
    target = torch.linspace(-1, 1, N * DIM).view(N, DIM)
    q = F.fake_quantize(x, bits, delta, mu)
    plain, = torch.autograd.grad((q * target).sum(), x)
    found, = torch.autograd.grad((quantizer(x) * target).sum(), x)
    t = F.rounding_residual(x, bits, delta, mu)
    a = F.build_adjacency(EDGES, N).matrix.to_dense()
    assert torch.allclose(found, plain + 0.5 * t * (a @ (t * target)),
                          atol=1e-5)


def test_both_at_once_and_sparse_graphs():
    model = make(**MIXED, **RELATED)
    dense, grad = gradient(model)
    assert bool(grad.isfinite().all())
    csr = to_torch_csr_tensor(EDGES.flip(0), size=(N, N))
    assert torch.allclose(model.get_embedding(csr), dense, atol=1e-5)


def test_the_defaults_have_no_such_quantizer():
    model = make()
    assert type(model.output_quantizer) is NodeAwareQuantizer
    assert type(model.embedding.quantizer) is NodeAwareQuantizer


def test_a_graph_that_is_no_tensor():
    with pytest.raises(ValueError, match="'edge_index' needs to be a tensor "
                       r"for .*\(got list\)"):
        make(**MIXED).attach_graph([[0], [1]])
    make().attach_graph([[0], [1]])  # not needed there


def test_converted_models():
    model = LightGCN(N, DIM, LAYERS)
    quantize_(model, NodeQuantConfig(**MIXED, where="both"))
    for quantizer in (model.embedding.quantizer, model.output_quantizer):
        assert isinstance(quantizer, GraphQuantizer)
        assert quantizer.num_layers == LAYERS
    plain = torch.nn.ModuleDict({"user": torch.nn.Embedding(4, 2)})
    with pytest.raises(ValueError, match="'user', which no LightGCN reads"):
        quantize_(plain, NodeQuantConfig(**RELATED))
    assert type(plain["user"]) is torch.nn.Embedding
