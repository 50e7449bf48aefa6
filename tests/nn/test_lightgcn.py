from __future__ import annotations

import copy
import inspect
import logging
import pickle

import pytest
import torch
from torch_geometric import EdgeIndex
from torch_geometric.nn import LightGCN
from torch_geometric.testing import withPackage
from torch_geometric.utils import to_torch_coo_tensor, to_torch_csr_tensor

from pyg_nodequant import (
    NodeAwareQuantEmbedding,
    NodeQuantConfig,
    QuantLightGCN,
)
from pyg_nodequant import functional as F

USERS, ITEMS, DIM, LAYERS = 6, 9, 4, 3
N = USERS + ITEMS
WHERE = ["input", "output", "both"]
RANGES = ["symmetric", "minmax", "learned", "meanstd", "mse"]


def graph(directed: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    user = torch.randint(0, USERS, (25, ), generator=generator)
    item = torch.randint(USERS, N - 1, (25, ), generator=generator)
    edges = torch.stack([user, item]).unique(dim=1).contiguous()
    return edges if directed else torch.cat([edges, edges.flip(0)], dim=1)


EDGES = graph()


def make(where: str = "output", range: str = "symmetric", **kwargs):
    torch.manual_seed(0)
    kwargs.setdefault("quant", NodeQuantConfig(where=where, range=range))
    return QuantLightGCN(N, DIM, LAYERS, degree=torch.arange(N) % 5 + 1.0,
                         **kwargs)


def make_float(**kwargs) -> LightGCN:
    torch.manual_seed(0)
    return LightGCN(N, DIM, LAYERS, **kwargs)


# A LightGCN in every other respect.


@pytest.mark.parametrize("name", [
    "__init__", "reset_parameters", "get_embedding", "forward",
    "predict_link", "recommend", "link_pred_loss", "recommendation_loss"])
def test_signatures(name):
    theirs = inspect.signature(getattr(LightGCN, name)).parameters
    ours = inspect.signature(getattr(QuantLightGCN, name)).parameters
    names = [n for n, p in theirs.items() if p.kind != p.VAR_KEYWORD]
    assert list(ours)[:len(names)] == names
    for n in names:
        assert ours[n].default == theirs[n].default


def test_same_start_as_pyg():
    model = make()
    assert isinstance(model, LightGCN)
    assert torch.equal(model.embedding.weight, make_float().embedding.weight)
    assert torch.equal(model.alpha, make_float().alpha)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("range", RANGES)
def test_state_dict(where, range):
    model = make(where, range)
    keys = {"alpha", "embedding.weight", "embedding.controller.alpha",
            "embedding.controller.frozen_bits",
            "embedding.controller.is_frozen_flag"}
    ranges = {"log_delta", "mu", "calibrated"} if range == "learned" else set()
    keys |= {f"embedding.quantizer.{name}" for name in ranges}
    if where != "input":
        keys |= {f"output_quantizer.{name}" for name in ranges}
    assert set(model.state_dict()) == keys
    model(EDGES)
    model.embedding.controller.freeze()
    other = make(where, range)
    torch.nn.init.zeros_(other.embedding.controller.alpha)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(EDGES), model.eval()(EDGES))


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("range", RANGES)
def test_float_state_dict_loads_strictly(where, range):
    model, source = make(where, range), make_float()
    torch.nn.init.normal_(source.embedding.weight)
    scores = model.embedding.controller.alpha.detach().clone()
    model.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(model.embedding.weight, source.embedding.weight)
    assert torch.equal(model.embedding.controller.alpha, scores)
    model.quantization_enabled = False
    assert torch.allclose(model(EDGES), source(EDGES), atol=1e-6)


@pytest.mark.parametrize("alpha", [None, 0, 0.5, torch.rand(LAYERS + 1)])
def test_float_recipe_is_pyg(alpha):
    model = make(quant=NodeQuantConfig(recipe="float"), alpha=alpha)
    source = make_float(alpha=alpha)
    label = torch.tensor([[0, 1], [8, 9]])
    assert torch.allclose(model.get_embedding(EDGES),
                          source.get_embedding(EDGES).float(), atol=1e-6)
    assert torch.allclose(model(EDGES, label), source(EDGES, label).float(),
                          atol=1e-6)
    assert torch.allclose(model.predict_link(EDGES, label, prob=True),
                          source.predict_link(EDGES, label, prob=True),
                          atol=1e-6)


@pytest.mark.parametrize("build", [
    lambda: make(alpha=1), lambda: QuantLightGCN.quantize_(
        make_float(alpha=1))])
def test_whole_layer_weights_take_float_ones(build):
    model, source = build(), make_float()
    assert model.alpha.tolist() == [1.0] * (LAYERS + 1)
    model.load_state_dict(source.state_dict())
    assert torch.equal(model.alpha, source.alpha)


def test_gradient_of_the_layer_weights():
    grads = []
    for build in (make, make_float):
        alpha = torch.full((LAYERS + 1, ), 0.25, requires_grad=True)
        model = build(alpha=alpha)
        model.quantization_enabled = False
        model.get_embedding(EDGES).square().sum().backward()
        grads.append(alpha.grad)
    assert torch.allclose(*grads, atol=1e-6)


def test_float64_stays_float64():
    model, source = make().double(), make_float().double()
    model.quantization_enabled = False
    out = model.get_embedding(EDGES)
    assert out.dtype == torch.float64
    assert torch.allclose(out, source.get_embedding(EDGES), rtol=1e-12)


def test_recommendation_loss_regularises_the_latent_table():
    model, source = make("both"), make_float()
    ranks = torch.randn(5), torch.randn(5)
    for node_id in (None, torch.tensor([0, 3])):
        args = (*ranks, node_id, 0.1)
        assert torch.equal(model.recommendation_loss(*args),
                           source.recommendation_loss(*args))


def test_link_pred_loss():
    model = make()
    loss = model.link_pred_loss(model(EDGES), torch.ones(EDGES.size(1)))
    loss.backward()
    assert model.embedding.controller.alpha.grad.abs().sum() > 0


# What is quantized.


def slow_embedding(model: QuantLightGCN, x: torch.Tensor) -> torch.Tensor:
    """Message passing through PyG's own layers."""
    out = x * model.alpha[0]
    for i, conv in enumerate(model.convs):
        x = conv(x, EDGES)
        out = out + x * model.alpha[i + 1]
    return out


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("range", RANGES)
@pytest.mark.parametrize("training", [True, False])
def test_where(where, range, training):
    model = make(where, range)
    model(EDGES)  # starts learned ranges
    model.train(training)
    x = model.embedding.weight
    if where != "output":
        x = model.embedding.quantized_weight()
    expected = slow_embedding(model, x)
    if where != "input":
        assert model.output_quantizer.controller is model.embedding.controller
        expected = model.output_quantizer(expected)
    else:
        assert model.output_quantizer is None
    assert torch.allclose(model.get_embedding(EDGES), expected, atol=1e-5)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("range", RANGES)
def test_rows_of_some_nodes_are_those_of_all(where, range):
    model = make(where, range)
    model(EDGES)
    for n_id in (torch.tensor([3, 0, 3]), torch.arange(N).repeat(2),
                 torch.empty(0, dtype=torch.long)):
        out = model.get_embedding(EDGES, n_id=n_id)
        assert torch.equal(out, model.get_embedding(EDGES)[n_id])
    label = torch.tensor([[0, 1, 1], [8, 9, 9]])
    rows = model.get_embedding(EDGES)
    expected = (rows[label[0]] * rows[label[1]]).sum(-1)
    assert torch.allclose(model(EDGES, label), expected, atol=1e-6)
    assert torch.allclose(
        model(EDGES), (rows[EDGES[0]] * rows[EDGES[1]]).sum(-1), atol=1e-6)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("range", RANGES)
def test_every_parameter_learns(where, range):
    model = make(where, range)
    names = [name for name, _ in model.named_parameters()]
    model(EDGES, torch.tensor([[0, 1, 2], [8, 9, 7]])).sum().backward()
    assert names == [name for name, _ in model.named_parameters()]
    for name, parameter in model.named_parameters():
        if where == "output" and name.startswith("embedding.quantizer"):
            continue  # unused there
        assert bool(parameter.grad.isfinite().all()), name
        assert parameter.grad.abs().sum() > 0, name


def test_quantization_can_be_turned_off():
    model = make("both")
    model.quantization_enabled = False
    assert torch.allclose(model(EDGES), make_float()(EDGES), atol=1e-6)
    n_id = torch.tensor([2, 2])
    assert torch.equal(model.get_embedding(EDGES, n_id=n_id),
                       model.get_embedding(EDGES)[n_id])


def test_storage_loss():
    model = make()
    bits = model.embedding.controller().tolist()
    assert model.storage_loss().item() == pytest.approx(sum(bits) * DIM / N)


def test_float32_under_autocast():
    model = make("both")
    expected = model(EDGES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.get_embedding(EDGES),
                           make("both").get_embedding(EDGES))
        assert torch.equal(model(EDGES), expected)


# Every form of graph, fast or by message passing.


def layouts(edge_index):
    yield "edge_index", edge_index
    yield "EdgeIndex", EdgeIndex(edge_index, sparse_size=(N, N))
    yield "sorted EdgeIndex", EdgeIndex(
        edge_index, sparse_size=(N, N)).sort_by("col")[0]
    adj_t = to_torch_coo_tensor(edge_index.flip(0), size=N)
    yield "coo", adj_t
    yield "csr", adj_t.to_sparse_csr()
    yield "csc", adj_t.to_sparse_csc()


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_layouts(where, directed, normalize):
    edges = graph(directed)
    model = make(where, normalize=normalize).eval()
    slow = make(where, normalize=normalize).eval()
    slow.convs[0].register_forward_hook(lambda *args: None)
    expected = slow.propagate_embedding(slow.embedding.weight, edges)
    for name, edge_index in layouts(edges):
        out = model.propagate_embedding(model.embedding.weight, edge_index)
        assert torch.allclose(out, expected, atol=1e-6), name
        assert model.get_embedding(edge_index).shape == (N, DIM)
        if name != "csc":  # which message passing does not support
            out = slow.propagate_embedding(slow.embedding.weight, edge_index)
            assert torch.allclose(out, expected, atol=1e-6), name


@withPackage("torch_sparse")
@pytest.mark.parametrize("directed", [False, True])
def test_sparse_tensor(directed):
    from torch_sparse import SparseTensor
    edges, model = graph(directed), make()
    adj_t = SparseTensor.from_edge_index(edges, sparse_sizes=(N, N)).t()
    x = model.embedding.weight
    assert torch.allclose(model.propagate_embedding(x, adj_t),
                          model.propagate_embedding(x, edges), atol=1e-6)
    with pytest.raises(ValueError, match="'edge_weight' needs to be None"):
        model(adj_t, edge_weight=torch.ones(edges.size(1)))


@pytest.mark.parametrize("directed", [False, True])
def test_edge_weight(directed):
    edges = graph(directed)
    weight = torch.rand(edges.size(1)) + 0.5
    model, source = make("input"), make_float()
    model.quantization_enabled = False
    out = model.get_embedding(edges, weight)
    assert torch.allclose(out, source.get_embedding(edges, weight), atol=1e-6)
    adj_t = to_torch_csr_tensor(edges.flip(0), weight, N)
    assert torch.allclose(model.get_embedding(adj_t), out, atol=1e-6)
    with pytest.raises(ValueError, match="'edge_weight' needs to be None"):
        model.get_embedding(adj_t, weight)


def test_gradient_of_the_graph(caplog):
    weight = torch.rand(EDGES.size(1), requires_grad=True)
    model, source = make(), make_float()
    model.quantization_enabled = False
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            model.get_embedding(EDGES, weight).square().sum().backward()
    reasons = [r.getMessage() for r in caplog.records]
    assert reasons == ["QuantLightGCN propagates by message passing: "
                       "'edge_weight' needs a gradient"]
    ours, weight.grad = weight.grad / 2, None
    source.get_embedding(EDGES, weight).square().sum().backward()
    assert torch.allclose(ours, weight.grad, atol=1e-5)


def test_fast_path_has_the_gradients_of_pyg():
    model, source = make(), make_float()
    model.quantization_enabled = False
    grad = torch.randn(N, DIM)
    model.get_embedding(EDGES).backward(grad)
    source.get_embedding(EDGES).backward(grad)
    assert torch.allclose(model.embedding.weight.grad,
                          source.embedding.weight.grad, atol=1e-6)


def test_writes_to_the_graph_are_seen():
    edges, model = EDGES.clone(), make("input")
    model.get_embedding(edges)
    edges[:, 0] = torch.tensor([0, N - 1])
    assert torch.equal(model.get_embedding(edges),
                       model.get_embedding(edges.clone()))


def test_without_layers():
    model = QuantLightGCN(N, DIM, 0, quant=NodeQuantConfig(where="input"))
    assert torch.allclose(model.get_embedding(EDGES),
                          model.embedding.quantized_weight())


# Recommendations.


def all_scores(model, edges=EDGES):
    rows = model.get_embedding(edges)
    return rows @ rows.t()


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("batch_size", [1, 4, 1024])
def test_recommend_is_that_of_pyg(where, batch_size):
    model = make(where).eval()
    src, dst = torch.tensor([3, 0, 3]), torch.arange(USERS, N).flip(0)
    for args in ((), (None, src), (None, None, dst), (None, src, dst)):
        out = model.recommend(EDGES, *args, k=3, batch_size=batch_size)
        expected = LightGCN.recommend(model, EDGES, *args, k=3)
        scores = all_scores(model)
        rows = src if len(args) > 1 and args[1] is not None else (
            torch.arange(N))
        # Equal scores may stand in another order.
        assert torch.allclose(scores[rows[:, None], out],
                              scores[rows[:, None], expected])
        assert all(len(set(ids)) == 3 for ids in out.tolist())
    assert not out.requires_grad


def test_recommend_selects_like_pyg():
    model = make().eval()
    dst = torch.arange(USERS, N)
    for src in (torch.arange(N) % 4 == 1, torch.tensor([-1, 2])):
        assert torch.equal(
            model.recommend(EDGES, None, src, dst, k=3),
            LightGCN.recommend(model, EDGES, None, src, dst, k=3))
    assert torch.equal(
        model.recommend(EDGES, dst_index=torch.arange(N) >= USERS, k=3),
        model.recommend(EDGES, dst_index=dst, k=3))


def test_recommend_of_wrong_batch_size():
    with pytest.raises(ValueError, match=r"'batch_size' needs to be at least "
                       r"1 \(got 0\)"):
        make().recommend(EDGES, batch_size=0)


def test_recommend_excludes():
    model = make().eval()
    src, dst = torch.tensor([1, 4, 1]), torch.arange(USERS, N)
    k = ITEMS
    out = model.recommend(EDGES, None, src, dst, k, exclude_edge_index=EDGES,
                          batch_size=2)
    seen = {(a, b) for a, b in EDGES.t().tolist()}
    scores = all_scores(model)
    for user, ids in zip(src.tolist(), out.tolist()):
        allowed = [i for i in dst.tolist() if (user, i) not in seen]
        assert sorted(i for i in ids if i >= 0) == allowed
        assert ids[len(allowed):] == [-1] * (k - len(allowed))
        values = [scores[user, i].item() for i in ids[:len(allowed)]]
        assert values == sorted(values, reverse=True)


def test_recommend_excludes_repeated_candidates():
    model = make().eval()
    dst = torch.tensor([7, 8, 7])
    out = model.recommend(EDGES, None, torch.tensor([0]), dst, 3,
                          exclude_edge_index=torch.tensor([[0], [7]]))
    assert out.tolist() == [[8, -1, -1]]


@pytest.mark.parametrize("k", [0, -1, ITEMS + 1])
def test_recommend_of_wrong_k(k):
    with pytest.raises(ValueError, match=r"'k' needs to be in \[1, 9\], the "
                       rf"number of candidates \(got {k}\)"):
        make().recommend(EDGES, dst_index=torch.arange(USERS, N), k=k)


# A module like any other.


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("clone", [
    copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(where, clone):
    model = make(where)
    expected = model.get_embedding(EDGES)
    other = clone(model)
    assert torch.equal(other.get_embedding(EDGES), expected)
    controller = other.embedding.controller
    assert other.embedding.quantizer.controller is controller
    if other.output_quantizer is not None:
        assert other.output_quantizer.controller is controller
    with torch.no_grad():
        other.embedding.weight.mul_(2)
        controller.alpha.sub_(2)
    assert torch.equal(model.get_embedding(EDGES), expected)
    assert not torch.equal(other.get_embedding(EDGES), expected)


def test_frozen_state_is_loaded():
    model = make()
    bits = torch.arange(N) % 8 + 1
    model.embedding.controller.freeze(bits)
    other = make()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.embedding.controller.bit_width, bits)
    # Frozen, training is what is served.
    assert torch.equal(other.train().get_embedding(EDGES),
                       model.eval().get_embedding(EDGES))


def test_reset_parameters():
    model = make("both", "learned")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model(EDGES)
    with torch.no_grad():
        model.embedding.controller.alpha.add_(1)
    model.embedding.controller.freeze()
    torch.manual_seed(7)
    model.reset_parameters()
    first = {k: v.clone() for k, v in model.state_dict().items()}
    assert not torch.equal(first["embedding.weight"],
                           before["embedding.weight"])
    torch.manual_seed(7)
    source = make_float()
    torch.manual_seed(7)
    source.reset_parameters()
    assert torch.equal(first["embedding.weight"], source.embedding.weight)
    for key in set(before) - {"embedding.weight"}:
        assert torch.equal(first[key], before[key]), key
    assert not model.embedding.controller.is_frozen


def test_to_other_type():
    model = make("input").to(torch.bfloat16)
    assert model.get_embedding(EDGES).dtype == torch.float32


@pytest.mark.parametrize("where", WHERE)
def test_from_lightgcn(where):
    source = make_float(normalize=False).eval()
    quant = NodeQuantConfig(where=where, max_bits=4)
    model = QuantLightGCN.from_lightgcn(source, quant, torch.arange(N) + 1.0)
    assert model.embedding.weight is source.embedding.weight
    assert model.convs is source.convs
    assert not model.training
    model.quantization_enabled = False
    assert torch.allclose(model(EDGES), source(EDGES), atol=1e-5)


@pytest.mark.parametrize("where", WHERE)
def test_quantize_in_place(where):
    model = make_float(alpha=torch.rand(LAYERS + 1)).eval()
    weight, convs, same = model.embedding.weight, model.convs, model
    alpha = model.alpha.clone()
    degree = torch.arange(N) % 5 + 1.0
    out = QuantLightGCN.quantize_(model, NodeQuantConfig(where=where), degree)
    assert out is same and type(model) is QuantLightGCN
    assert model.embedding.weight is weight and model.convs is convs
    assert all(not module.training for module in model.modules())
    expected = make(where, alpha=alpha).eval()
    assert set(model.state_dict()) == set(expected.state_dict())
    assert vars(model).keys() == vars(expected).keys()
    assert torch.equal(model.get_embedding(EDGES),
                       expected.get_embedding(EDGES))
    assert repr(model) == repr(expected)


def test_quantize_in_place_refuses_subclasses():
    class Mine(LightGCN):
        pass

    for model in (Mine(N, DIM, 1), make()):
        name = type(model).__name__
        with pytest.raises(ValueError, match=rf"exactly a LightGCN "
                           rf"\(got {name}\)"):
            QuantLightGCN.quantize_(model)


def test_quantize_in_place_fails_as_a_whole():
    model = make_float()
    before = vars(model).copy()
    with pytest.raises(ValueError, match="'degree' needs one entry"):
        QuantLightGCN.quantize_(model, degree=torch.ones(N + 1))
    assert type(model) is LightGCN
    assert vars(model) == before
    assert torch.equal(model(EDGES), make_float()(EDGES))


def test_default_configuration():
    model = QuantLightGCN(N, DIM, 1)
    assert model.quant == NodeQuantConfig()
    assert isinstance(model.embedding, NodeAwareQuantEmbedding)
    with pytest.raises(TypeError):
        QuantLightGCN(N, DIM, 1, None, NodeQuantConfig())


def test_repr():
    assert repr(QuantLightGCN(3, 8, 2, quant=NodeQuantConfig(
        where="both", max_bits=4))) == (
        "QuantLightGCN(3, 8, num_layers=2, where=both, bits=1..4, avg=2.00)")
    assert repr(QuantLightGCN(3, 8, 2, quant=NodeQuantConfig(
        recipe="float"))) == "QuantLightGCN(3, 8, num_layers=2, float)"


def test_served_rows_are_those_of_encode():
    model = make().eval()
    x = model.propagate_embedding(model.embedding.weight, EDGES)
    stored = model.output_quantizer.encode(x)
    half = F.num_levels(stored.widths.float()).unsqueeze(-1) / 2
    rows = stored.scale.unsqueeze(-1) * (stored.codes.float() - half)
    assert torch.allclose(model.get_embedding(EDGES), rows, atol=1e-7)


@pytest.mark.parametrize("where", WHERE)
def test_export(where):
    model, label = make(where).eval(), torch.tensor([[0, 1], [8, 9]])
    program = torch.export.export(model, (EDGES, label)).module()
    assert torch.allclose(program(EDGES, label), model(EDGES, label),
                          atol=1e-6)


# Row scales and noise.


@pytest.mark.parametrize("num_users", [None, USERS])
def test_groups_of_row_scales(num_users):
    degree = torch.arange(N) % 5 + 1.0
    kinds = [0] * USERS + [int(num_users is not None)] * (N - USERS)
    for row_scale in ("log8", "group"):
        model = make(quant=NodeQuantConfig(row_scale=row_scale),
                     num_users=num_users)
        groups = model.output_quantizer.stored_scale.groups.long()
        assert (groups // (16 if row_scale == "group" else 1)).tolist() == (
            kinds)
        assert model.embedding.quantizer.stored_scale.form == "float16"
    for kind in set(kinds):
        nodes = torch.tensor([k == kind for k in kinds])
        assert (groups[nodes] % 16).tolist() == F.degree_bins(
            degree[nodes], 16).tolist()


def test_groups_without_degrees():
    quant = NodeQuantConfig(row_scale="group")
    model = QuantLightGCN(N, DIM, LAYERS, quant=quant, num_users=USERS)
    assert model.output_quantizer.stored_scale.groups.tolist() == (
        [0] * USERS + [1] * (N - USERS))
    with pytest.raises(ValueError, match=rf"'degree' needs one entry for each "
                       rf"of the {N} nodes \(got 3\)"):
        QuantLightGCN(N, DIM, LAYERS, quant=quant, degree=torch.ones(3))


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("row_scale", ["log8", "group"])
def test_stored_scales_of_some_nodes(row_scale, training, calibrated):
    model = make(quant=NodeQuantConfig(row_scale=row_scale), num_users=USERS)
    model.embedding.controller.freeze()
    model.train(training)
    if calibrated:
        with torch.no_grad():
            rows = model.propagate_embedding(model.embedding.weight, EDGES)
        model.output_quantizer.calibrate(rows)
    whole = model.get_embedding(EDGES)
    n_id = torch.tensor([N - 1, 0, 3])
    assert torch.equal(model.get_embedding(EDGES, n_id=n_id), whole[n_id])
    other = QuantLightGCN(N, DIM, LAYERS, quant=model.quant)
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other.train(training).get_embedding(EDGES), whole)
    model.load_state_dict(make_float().state_dict(), strict=True)


def test_noise_is_a_function_of_the_seed():
    quant = NodeQuantConfig(where="both", estimator="noise")
    model = make(quant=quant)
    model.embedding.controller.freeze()
    model.seed_noise(4)
    first = model.get_embedding(EDGES)
    assert torch.equal(model.get_embedding(EDGES), first)
    assert (model.embedding.quantizer.noise_seed
            != model.output_quantizer.noise_seed)
    model.seed_noise(5)
    assert not torch.equal(model.get_embedding(EDGES), first)
    model.seed_noise(None)
    torch.manual_seed(0)
    a = model.get_embedding(EDGES)
    assert not torch.equal(model.get_embedding(EDGES), a)
    make("input", quant=NodeQuantConfig(where="input")).seed_noise(1)
    plain = make("both")
    plain.embedding.controller.freeze()
    assert torch.equal(model.eval().get_embedding(EDGES),
                       plain.eval().get_embedding(EDGES))


@pytest.mark.parametrize("option, value", [
    ("estimator", "noise"), ("width_gradient", "interpolated")])
def test_options_reach_both_quantizers(option, value):
    quant = NodeQuantConfig("paper", where="both", **{option: value})
    model = make(quant=quant)
    for quantizer in (model.embedding.quantizer, model.output_quantizer):
        assert getattr(quantizer, option) == value
