import numpy as np
import pytest
import torch

from pyg_nodequant.config import (
    RANGES,
    SYMMETRIC_RANGES,
    WHERE,
    NodeQuantConfig,
)
from pyg_nodequant.nn import QuantLightGCN, TransformRows
from pyg_nodequant.runtime import FloatTable, PackedRecommender, PackedTable
from pyg_nodequant.training.evaluation import packed_topk, torch_topk
from pyg_nodequant.training.packing import (
    embedding_bytes,
    pack_axes,
    pack_graph,
    pack_model,
)
from pyg_nodequant.training.recipe import new_model

TOLERANCE = 1e-5


def reopened(result, data, folder):
    path = folder / "model.nq"
    pack_model(result.model, result.edge_index, data).save(path)
    return PackedRecommender.open(path)


def assert_parity(packed, rows, data):
    """Scores of all pairs, and the lists of all users, from both paths."""
    users, items = rows.double().numpy()[:120], rows.double().numpy()[120:]
    scores = users @ items.T
    bound = TOLERANCE * (np.abs(users) @ np.abs(items).T)

    everyone = np.arange(120)
    values, order = packed.topk_rows(everyone, 90)
    served = np.empty_like(values)
    np.put_along_axis(served, order, values, axis=1)
    assert (np.abs(served - scores) <= bound).all()
    pairs = packed.score(np.repeat(everyone, 90), np.tile(np.arange(90), 120))
    assert (np.abs(pairs.reshape(120, 90) - scores) <= bound).all()

    seen = data.csr("train", "val")
    lists = packed_topk(packed)(everyone, 20, seen)
    expected = torch_topk(rows[:120], rows[120:])(everyone, 20, seen)
    # At the same place, the same item or another one of the same score.
    a, b = (np.where(found < 0, -np.inf,
                     np.take_along_axis(scores, found, axis=1))
            for found in (lists, expected))
    assert (np.isinf(a) == np.isinf(b)).all()
    gap = np.abs(np.where(np.isinf(a), 0.0, a) - np.where(np.isinf(b), 0, b))
    assert (gap <= 2 * bound.max(axis=1, keepdims=True)).all()
    assert (lists == expected).mean() > 0.95


@pytest.mark.parametrize("range", RANGES)
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("recipe", ["node_aware", "paper"])
def test_what_is_packed_is_what_was_trained(recipe, where, range, data,
                                            trained, tmp_path):
    result = trained(recipe, where=where, range=range,
                     trainer={"refit": False})
    packed = reopened(result, data, tmp_path)
    assert_parity(packed, result.embedding(), data)
    widths = result.model.embedding.controller.bit_width.numpy()
    assert (packed.users.widths == widths[:120]).all()
    assert (packed.items.widths == widths[120:]).all()
    assert (packed.users.offset is None) == (range in SYMMETRIC_RANGES)
    assert (packed.graph is not None) == (where == "input")


@pytest.mark.parametrize("range", SYMMETRIC_RANGES)
@pytest.mark.parametrize("row_scale", ["log8", "group"])
@pytest.mark.parametrize("options", [
    {"recipe": "node_aware"}, {"recipe": "uniform", "bits": 3},
    {"recipe": "node_aware", "estimator": "noise"},
    {"recipe": "paper"}, {"recipe": "paper", "estimator": "noise",
                          "width_gradient": "interpolated"}])
def test_cheaper_row_scales(options, row_scale, range, data, trained,
                            tmp_path):
    result = trained(**options, range=range, row_scale=row_scale,
                     trainer={"refit": False})
    packed = reopened(result, data, tmp_path)
    rows = result.embedding()
    assert_parity(packed, rows, data)
    served = np.concatenate([packed.users.dequantize(),
                             packed.items.dequantize()])
    size = np.abs(served).max(axis=1, keepdims=True)
    assert (np.abs(served - rows.numpy()) <= 4e-7 * size).all()
    # What fine-tuning saw is what is served: training mode gives these rows.
    if options.get("estimator") != "noise":
        model = result.model.train()
        assert torch.equal(model.get_embedding(result.edge_index), rows)
        model.eval()
    parts = packed.storage()["parts"]
    assert parts["offsets"] == 0
    assert parts["scales"] == (210 + 16 if row_scale == "log8" else 4)


@pytest.mark.parametrize("recipe, options", [
    ("node_aware", {"estimator": "noise"}),
    ("node_aware", {"estimator": "lsq", "range": "learned"}),
    ("paper", {"estimator": "noise", "width_gradient": "interpolated"}),
    ("paper", {"width_gradient": "interpolated", "range": "meanstd"}),
    ("paper", {"width_gradient": "interpolated", "estimator": "lsq",
               "range": "learned", "where": "both"})])
def test_other_estimators(recipe, options, data, trained, tmp_path):
    result = trained(recipe, trainer={"refit": False}, **options)
    assert_parity(reopened(result, data, tmp_path), result.embedding(), data)


@pytest.mark.parametrize("where", WHERE)
def test_uniform_and_refitted_models(where, data, trained, tmp_path):
    result = trained("uniform", bits=3, where=where)
    packed = reopened(result, data, tmp_path)
    assert_parity(packed, result.embedding(), data)
    assert set(packed.users.widths) == set(packed.items.widths) == {3}
    if packed.graph is not None:  # the one it propagates over: with val
        assert packed.graph.num_edges == 1728 + 192


@pytest.mark.parametrize("options", [
    {}, {"scale_bits": 8, "bpr_weight": 0.0}, {"allocation": "shuffled"},
    {"bytes_per_node": None, "bytes_per_user": 4.5, "bytes_per_item": 6.0},
    {"bytes_per_node": None, "allocation": "uniform", "axes": 5, "bits": 3},
    {"trainer": {"refit": True}}])
def test_transform_coded_rows(options, data, trained, tmp_path):
    result = trained("transform", **{"bytes_per_node": 7.0,
                                     "trainer": {"refit": False}, **options})
    packed = reopened(result, data, tmp_path)
    rows = result.embedding()
    assert_parity(packed, rows, data)
    served = np.concatenate([packed.users.dequantize(),
                             packed.items.dequantize()])
    np.testing.assert_allclose(served, rows.numpy(), rtol=1e-5, atol=1e-7)
    model = result.model
    for kind, table in ((0, packed.users), (1, packed.items)):
        stored = model.encode(kind)
        assert np.array_equal(table.codes(), stored.codes.numpy())
        assert np.array_equal(table.scale, stored.scale.numpy())
        assert np.array_equal(table.class_ids, stored.class_ids.numpy())
    assert packed.storage()["embedding_bytes"] == embedding_bytes(
        pack_axes(model, 0), pack_axes(model, 1))


def test_transform_coded_rows_of_zero(data, tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(210, 5, generator=generator)
    x[[3, 150]] = 0
    widths = torch.tensor([[4, 3, 2, 2, 1], [0, 0, 0, 0, 0]])
    model = TransformRows(x[:120], x[120:], widths, widths,
                          torch.arange(210) % 7 == 0)
    packed = pack_model(model, data.edge_index(), data)
    packed.save(tmp_path / "model.nq")
    packed = PackedRecommender.open(tmp_path / "model.nq")
    served = np.concatenate([packed.users.dequantize(),
                             packed.items.dequantize()])
    assert not served[[3, 150]].any() and not served[::7].any()
    np.testing.assert_allclose(served, model().detach().numpy(), rtol=1e-5,
                               atol=1e-7)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_transform_coded_rows_that_cannot_be_stored(value, data):
    x, widths = torch.ones(210, 3), torch.full((1, 3), 4)
    model = TransformRows(x[:120], x[120:], widths, widths, torch.zeros(210))
    with torch.no_grad():
        model.weight[130, 1] = value
    with pytest.raises(ValueError, match="finite"):
        pack_model(model, data.edge_index(), data)


def test_a_float_model_is_packed_as_floats(data, trained, tmp_path):
    result = trained("float")
    packed = reopened(result, data, tmp_path)
    assert isinstance(packed.users, FloatTable)
    assert isinstance(packed.items, FloatTable)
    assert_parity(packed, result.embedding(), data)
    rows = np.concatenate([packed.users.dequantize(),
                           packed.items.dequantize()])
    assert (rows == result.embedding().numpy()).all()
    assert packed.storage()["mean_bit_width"] == 32.0


def test_quantized_tables_read_the_served_rows_exactly(data, trained,
                                                       tmp_path):
    result = trained()
    packed = reopened(result, data, tmp_path)
    assert isinstance(packed.users, PackedTable)
    rows = np.concatenate([packed.users.dequantize(),
                           packed.items.dequantize()])
    np.testing.assert_allclose(rows, result.embedding().numpy(), rtol=1e-5,
                               atol=1e-9)


def test_catalogue(data, trained):
    result = trained()
    packed = pack_model(result.model, result.edge_index, data, {"note": [1]})
    assert packed.metadata == {"note": [1]}
    catalogue = packed.catalogue
    assert catalogue.item_titles == data.item_titles
    assert (catalogue.user_ids == data.user_ids).all()
    assert (catalogue.item_ids == data.item_ids).all()
    for found, expected in zip(catalogue.seen, data.csr("train", "val")):
        assert (found == expected).all()
    _, items = packed.recommend(data.user_ids, k=20)
    known = {(int(u), int(i)) for split in (data.train, data.val)
             for u, i in split.t()}
    assert not any((u, int(i)) in known
                   for u, row in enumerate(items) for i in row if i >= 0)


def test_packing_leaves_a_model_in_eval_mode_and_alone(data, trained,
                                                       state_bytes):
    result = trained()
    before = state_bytes(result.model)
    result.model.train()
    first = pack_model(result.model, result.edge_index, data)
    assert not result.model.training
    assert state_bytes(result.model) == before
    again = pack_model(result.model, result.edge_index, data)
    assert (first.users.dequantize() == again.users.dequantize()).all()


def test_widths_that_are_still_trained_are_rounded(data, settings, tmp_path):
    model = new_model(settings("paper"), data)
    model.quantization_enabled = True
    assert not model.embedding.controller.is_frozen
    packed = pack_model(model, data.edge_index(), data)
    rows = model.get_embedding(data.edge_index()).detach()
    assert_parity(packed, rows, data)
    assert packed.users.widths.tolist() == (
        model.embedding.controller.bit_width[:120].tolist())


@pytest.mark.parametrize("value, message", [
    (float("nan"), "finite"),
    (float("inf"), "finite"),
    (1e30, "float16"),
])
def test_rows_that_cannot_be_stored(value, message, data, settings):
    model = new_model(settings(), data)
    with torch.no_grad():
        model.embedding.weight[3] = value
    with pytest.raises(ValueError, match=message):
        pack_model(model, data.edge_index(), data)


def test_pack_graph_against_the_edges():
    edge_index = torch.tensor([[0, 0, 2, 3, 4, 6], [4, 6, 3, 2, 0, 0]])
    graph = pack_graph(edge_index, num_users=3, num_items=4, num_layers=2)
    assert graph.indptr.tolist() == [0, 2, 2, 3]
    assert graph.indices.tolist() == [1, 3, 0]
    assert (graph.num_users, graph.num_items, graph.num_layers) == (3, 4, 2)


def test_pack_graph_of_edges_in_any_order():
    edge_index = torch.tensor([[2, 6, 0, 3, 0, 4], [3, 0, 6, 2, 4, 0]])
    graph = pack_graph(edge_index, num_users=3, num_items=4, num_layers=2)
    assert graph.indptr.tolist() == [0, 2, 2, 3]
    assert graph.indices.tolist() == [1, 3, 0]


@pytest.mark.parametrize("edges", [
    [[0, 2], [4, 3]],  # one direction only
    [[0, 4, 2], [4, 0, 3]],
    [[0, 1, 0, 4], [1, 0, 4, 0]],  # two users
    [[3, 4, 0, 4], [4, 3, 4, 0]],  # two items
])
def test_pack_graph_of_other_edges(edges):
    with pytest.raises(ValueError, match="'edge_index' needs to join users, "
                       "nodes below 3, and items in both directions"):
        pack_graph(torch.tensor(edges), 3, 4, 1)


@pytest.mark.parametrize("kwargs, message", [
    (dict(alpha=torch.tensor([0.5, 0.3, 0.2])),
     r"'alpha' needs to be 1 / 3 .* \(got \[0\.5"),
    (dict(normalize=False), r"default arguments .* \(got LGConv\(\), "
     r"normalize=False\)"),
    (dict(aggr="mean"), "default arguments"),
])
def test_input_tables_of_other_propagations(kwargs, message, data):
    quant = NodeQuantConfig(where="input")
    model = QuantLightGCN(210, 8, 2, quant=quant, **kwargs)
    with pytest.raises(ValueError, match=message):
        pack_model(model, data.edge_index(), data)
    # Propagated rows can be packed, whatever they came from.
    model = QuantLightGCN(210, 8, 2, **kwargs)
    packed = pack_model(model, data.edge_index(), data)
    rows = model.get_embedding(data.edge_index()).detach()
    assert_parity(packed, rows, data)


def test_a_graph_without_edges():
    graph = pack_graph(torch.empty(2, 0, dtype=torch.long), 3, 4, 1)
    assert graph.indptr.tolist() == [0, 0, 0, 0]
    assert graph.num_edges == 0


@pytest.mark.parametrize("layers", [0, 1, 4])
def test_input_tables_are_propagated_when_opened(layers, data, tmp_path):
    torch.manual_seed(0)
    model = QuantLightGCN(210, 8, layers, quant=NodeQuantConfig(where="input"),
                          degree=data.degree())
    path = tmp_path / "model.nq"
    pack_model(model, data.edge_index(), data).save(path)
    rows = model.eval().get_embedding(data.edge_index()).detach()
    assert_parity(PackedRecommender.open(path), rows, data)


@pytest.mark.parametrize("recipe", ["node_aware", "paper", "learned"])
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("range", ["symmetric", "minmax"])
def test_intervals_of_the_graph_are_packed_as_trained(
        recipe, where, range, data, trained, tmp_path):
    learn = {"learn_steps": 8} if recipe == "learned" else {}
    result = trained(recipe, where=where, range=range, **learn,
                     interval="message_passing", interval_mix=0.3,
                     gradient="relation", trainer={"refit": False})
    assert_parity(reopened(result, data, tmp_path), result.embedding(), data)
    # A model that is loaded again packs the same, whatever it has run yet.
    loaded = QuantLightGCN(210, 8, 2, quant=result.model.quant).eval()
    loaded.load_state_dict(result.model.state_dict())
    path = tmp_path / "again.nq"
    pack_model(loaded, result.edge_index, data).save(path)
    assert path.read_bytes() == (tmp_path / "model.nq").read_bytes()
