from __future__ import annotations

import copy

import pytest
import torch
from torch_geometric.nn import LightGCN, MetaPath2Vec

from pyg_nodequant import (
    NodeAwareQuantEmbedding,
    NodeAwareQuantizer,
    NodeQuantConfig,
    PackedEmbedding,
    QuantLightGCN,
    convert_,
    quantize_,
)
from pyg_nodequant.config import RANGES
from pyg_nodequant.convert import Replaced
from pyg_nodequant.nn import NodeAwareQuantWeight

EDGES = torch.tensor([[0, 1, 2, 0, 3, 4, 3, 4], [3, 4, 3, 4, 0, 1, 2, 0]])
COARSE = NodeQuantConfig(max_bits=2)


class Calls(torch.nn.Module):
    """Calls its embeddings, one of them twice by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.user = torch.nn.Embedding(5, 4)
        self.tower = torch.nn.ModuleDict({"item": torch.nn.Embedding(7, 4)})
        self.again = self.tower["item"]
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, user, item):
        return (self.linear(self.user(user)) * self.tower["item"](item) +
                self.again(item)).sum(-1)


class MatrixFactorization(torch.nn.Module):
    """Reads the weights of its embeddings itself."""

    def __init__(self, **kwargs) -> None:
        super().__init__()
        self.user = torch.nn.Embedding(5, 4)
        self.item = torch.nn.Embedding(7, 4, **kwargs)

    def forward(self, user, item):
        return (self.user.weight[user] * self.item.weight[item]).sum(-1)


class MyLightGCN(LightGCN):
    pass


def values(x: torch.Tensor) -> int:
    """The most distinct values of a row."""
    return max(len(row.unique()) for row in x)


def snapshot(model: torch.nn.Module) -> list[tuple[object, ...]]:
    return [(module, type(module), *module._parameters.values())
            for module in model.modules()]


def unchanged(model: torch.nn.Module, before) -> None:
    after = snapshot(model)
    assert len(after) == len(before)
    for old, new in zip(before, after):
        assert len(old) == len(new)
        assert all(a is b for a, b in zip(old, new))


def test_embeddings_are_replaced():
    model = Calls().eval()
    user, item = model.user.weight, model.tower["item"].weight
    report = quantize_(model, COARSE)
    assert report == [Replaced("user", 5, 4), Replaced("again", 7, 4)]
    for emb in (model.user, model.again):
        assert type(emb) is NodeAwareQuantEmbedding
        assert emb.controller.max_bits == 2
        assert not emb.training
    assert model.user.weight is user
    assert model.again is model.tower["item"] and model.again.weight is item
    assert type(model.linear) is torch.nn.Linear
    model.train()
    model(torch.tensor([0, 1]), torch.tensor([3, 3])).sum().backward()
    assert model.user.controller.alpha.grad is not None
    # A second time there is nothing left.
    with pytest.raises(ValueError, match="needs to hold a torch.nn.Embedding"):
        quantize_(model)


def test_filter():
    model, asked = Calls(), []

    def is_user(module, name):
        asked.append((type(module), name))
        return name == "user"

    assert quantize_(model, filter_fn=is_user) == [Replaced("user", 5, 4)]
    assert type(model.again) is torch.nn.Embedding
    assert {kind for kind, _ in asked} == {torch.nn.Embedding}
    assert len(asked) == 2


@pytest.mark.parametrize("model", [
    torch.nn.Linear(2, 2), torch.nn.Sequential(),
    torch.nn.Sequential(type("Mine", (torch.nn.Embedding, ), {})(2, 2))])
def test_nothing_to_quantize(model):
    with pytest.raises(ValueError, match=r"'model' needs to hold a "
                       r"torch.nn.Embedding that 'filter_fn' selects"):
        quantize_(model)
    with pytest.raises(ValueError, match="'model' needs to hold a "
                       "NodeAwareQuantEmbedding"):
        convert_(model)


def test_float_recipe_is_refused():
    with pytest.raises(ValueError, match="'quant.recipe' needs to be one of"):
        quantize_(Calls(), NodeQuantConfig(recipe="float"))


@pytest.mark.parametrize("weight_access", [False, True])
def test_uniform_widths(weight_access):
    for bits in (1, 3, 8):
        config = NodeQuantConfig(recipe="uniform", bits=bits, min_bits=2,
                                 max_bits=4)
        model = torch.nn.ModuleDict({"a": torch.nn.Embedding(5, 4)})
        quantize_(model, config, weight_access=weight_access)
        holder = (NodeAwareQuantWeight.of(model["a"]) if weight_access else
                  model["a"])
        assert holder.controller.is_frozen
        assert holder.controller.bit_width.tolist() == [bits] * 5
    model = LightGCN(5, 4, 2)
    quantize_(model, config)
    assert model.embedding.controller.bit_width.tolist() == [8] * 5


@pytest.mark.parametrize("where", ["input", "output", "both"])
@pytest.mark.parametrize("nested", [False, True])
def test_light_gcn(where, nested):
    torch.manual_seed(0)
    gcn = LightGCN(5, 4, 2)
    weight, source = gcn.embedding.weight, copy.deepcopy(gcn)
    model = torch.nn.Sequential(gcn) if nested else gcn
    name = "0.embedding" if nested else "embedding"
    config = NodeQuantConfig(where=where, max_bits=2)
    # A filter like torchao's sees the embedding inside.
    report = quantize_(model, config,
                       lambda m, _: isinstance(m, torch.nn.Embedding))
    assert report == [Replaced(name, 5, 4)]
    assert type(gcn) is QuantLightGCN and gcn.embedding.weight is weight
    expected = QuantLightGCN.from_lightgcn(source, config)
    assert torch.equal(gcn(EDGES), expected(EDGES))
    assert not torch.allclose(gcn(EDGES), source(EDGES))
    if where != "input":
        assert values(gcn.eval().get_embedding(EDGES)) <= 4
    gcn.load_state_dict(source.state_dict(), strict=True)


def test_light_gcn_whose_embedding_is_shared():
    gcn = LightGCN(5, 4, 2)
    model = torch.nn.ModuleList([gcn, gcn.embedding])
    assert model[1] is gcn.embedding
    assert len(quantize_(model)) == 1
    assert model[1] is gcn.embedding
    assert type(model[1]) is NodeAwareQuantEmbedding


def test_subclass_of_light_gcn():
    model = MyLightGCN(5, 4, 2)
    before = snapshot(model)
    with pytest.raises(ValueError, match="'embedding' is read by a MyLightGCN"
                       ".*derive it from QuantLightGCN"):
        quantize_(model, COARSE)
    unchanged(model, before)
    expected = copy.deepcopy(model)
    quantize_(model, COARSE, weight_access=True)
    assert values(model.embedding.weight) <= 4
    with torch.no_grad():
        expected.embedding.weight.copy_(model.embedding.weight)
    assert torch.allclose(model(EDGES), expected(EDGES), atol=1e-6)


def test_weight_access():
    model, index = MatrixFactorization(), torch.tensor([0, 4])
    weight = model.user.weight
    report = quantize_(model, COARSE, weight_access=True)
    assert report == [Replaced("user", 5, 4), Replaced("item", 7, 4)]
    assert values(model.user.weight) <= 4 and values(model.item.weight) <= 4
    assert any(p is weight for p in model.parameters())
    model(index, index).sum().backward()
    assert weight.grad.abs().sum() > 0
    assert NodeAwareQuantWeight.of(model.user).controller.alpha.grad is not (
        None)
    with pytest.raises(ValueError):
        quantize_(model, weight_access=True)


@pytest.mark.parametrize("option, needed", [
    ({"sparse": True}, False), ({"max_norm": 1.0}, None)])
def test_weight_access_of_what_cannot_be(option, needed):
    model = MatrixFactorization(**option)
    before = snapshot(model)
    name, value = next(iter(option.items()))
    with pytest.raises(ValueError, match=rf"^'item' cannot be quantized: "
                       rf"'{name}' needs to be {needed} .*\(got {value}\)"):
        quantize_(model, weight_access=True)
    unchanged(model, before)


def test_models_known_to_read_weights():
    edge_index_dict = {
        ("a", "to", "b"): torch.tensor([[0, 1], [1, 0]]),
        ("b", "to", "a"): torch.tensor([[0, 1], [1, 0]]),
    }
    model = MetaPath2Vec(edge_index_dict, 4,
                         [("a", "to", "b"), ("b", "to", "a")], 3, 2)
    quantize_(model, COARSE)
    assert values(model("a")) <= 4
    before = model("a").detach().clone()
    model.reset_parameters()
    assert not torch.equal(model("a"), before)


def test_an_embedding_by_itself():
    embedding = torch.nn.Embedding(5, 4)
    with pytest.raises(ValueError, match="'model' is itself an embedding.*"
                       "NodeAwareQuantEmbedding.from_embedding"):
        quantize_(embedding)
    assert quantize_(embedding, COARSE, weight_access=True) == [
        Replaced("", 5, 4)]
    assert values(embedding.weight) <= 4
    for module in (embedding, NodeAwareQuantEmbedding(5, 4)):
        with pytest.raises(ValueError, match="'model' is itself an embedding"
                           ".*PackedEmbedding.from_quantized"):
            convert_(module)


@pytest.mark.parametrize("make, weight_access", [
    (Calls, False), (Calls, True), (MatrixFactorization, True)])
@pytest.mark.parametrize("range", RANGES)
def test_convert(make, weight_access, range):
    model, index = make(), torch.tensor([0, 4, 4])
    quantize_(model, NodeQuantConfig(range=range), weight_access=weight_access)
    model(index, index)
    expected = model.eval()(index, index).detach()
    report = convert_(model)
    assert {(r.num_embeddings, r.embedding_dim) for r in report} == {
        (5, 4), (7, 4)}
    assert sum(isinstance(m, PackedEmbedding) for m in model.modules()) == 2
    assert torch.allclose(model(index, index), expected, atol=1e-6)
    names = {name for name, _ in model.named_parameters()}
    assert names <= {"linear.weight", "linear.bias"}
    assert torch.equal(copy.deepcopy(model)(index, index),
                       model(index, index))
    with pytest.raises(ValueError, match="needs to hold"):
        convert_(model)


def test_convert_keeps_ties():
    model = Calls()
    quantize_(model)
    convert_(model)
    assert model.again is model.tower["item"]


def test_convert_light_gcn_of_quantized_input():
    model = LightGCN(5, 4, 2)
    quantize_(model, NodeQuantConfig(where="input", max_bits=2))
    expected = model.eval().get_embedding(EDGES).detach()
    top = model.recommend(EDGES, k=2)
    assert convert_(model) == [Replaced("embedding", 5, 4)]
    assert torch.allclose(model.get_embedding(EDGES), expected, atol=1e-6)
    assert torch.equal(model.recommend(EDGES, k=2), top)
    assert repr(model) == ("QuantLightGCN(5, 4, num_layers=2, where=input, "
                           "bits=2..2, avg=2.00)")


@pytest.mark.parametrize("where", ["output", "both"])
def test_convert_light_gcn_of_quantized_output(where):
    model = torch.nn.ModuleDict({
        "gcn": QuantLightGCN(5, 4, 2, quant=NodeQuantConfig(where=where)),
        "other": NodeAwareQuantEmbedding(2, 2)})
    before = snapshot(model)
    with pytest.raises(ValueError, match=rf"'gcn' is a QuantLightGCN with "
                       rf"where='{where}'.*training.packing.pack_model"):
        convert_(model)
    unchanged(model, before)
    with pytest.raises(ValueError, match="'model' is a QuantLightGCN"):
        convert_(model["gcn"])


def test_convert_light_gcn_that_is_not_quantized():
    model = QuantLightGCN(5, 4, 2, quant=NodeQuantConfig(recipe="float"))
    with pytest.raises(ValueError, match="turned off"):
        convert_(model)


def test_convert_what_does_not_fit():
    model = torch.nn.ModuleDict({"a": NodeAwareQuantEmbedding(2, 2),
                                 "b": NodeAwareQuantEmbedding(2, 2)})
    torch.nn.init.constant_(model["b"].weight, 1e9)
    with pytest.raises(ValueError, match="'b' cannot be packed: .*float16"):
        convert_(model)
    assert type(model["a"]) is NodeAwareQuantEmbedding


@pytest.mark.parametrize("weight_access", [False, True])
def test_options_reach_the_quantizers(weight_access):
    model = Calls()
    config = NodeQuantConfig("paper", range="learned", estimator="lsq",
                             width_gradient="interpolated")
    quantize_(model, config, weight_access=weight_access)
    found = [m for m in model.modules() if isinstance(m, NodeAwareQuantizer)]
    assert len(found) == 2
    for quantizer in found:
        assert quantizer.estimator == "lsq"
        assert quantizer.width_gradient == "interpolated"


def test_no_other_row_scales_in_place():
    model = Calls()
    with pytest.raises(ValueError, match="'quant.row_scale' needs to be "
                       r"float16 to quantize a model in place \(got 'log8'"):
        quantize_(model, NodeQuantConfig(row_scale="log8"))
    assert not any(isinstance(m, NodeAwareQuantizer) for m in model.modules())
