from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.utils import parametrize

from pyg_nodequant import NodeAwareQuantEmbedding
from pyg_nodequant.nn import NodeAwareQuantWeight

RANGES = ["symmetric", "minmax", "learned", "meanstd", "mse"]


def make(padding_idx=None, **kwargs) -> torch.nn.Embedding:
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(6, 4, padding_idx)
    NodeAwareQuantWeight.register_(embedding, **kwargs)
    return embedding


def latent(embedding: torch.nn.Embedding) -> torch.nn.Parameter:
    return embedding.parametrizations.weight.original


@pytest.mark.parametrize("range", RANGES)
@pytest.mark.parametrize("padding_idx", [None, 1])
def test_every_read_is_quantized(range, padding_idx):
    embedding = make(padding_idx, max_bits=3, min_bits=2, range=range)
    torch.manual_seed(0)
    expected = NodeAwareQuantEmbedding(6, 4, padding_idx, max_bits=3,
                                       min_bits=2, range=range)
    assert torch.equal(latent(embedding), expected.weight)
    index = torch.tensor([[0, 1], [5, 5]])
    for _ in (0, 1):
        table = expected.quantized_weight()
        assert torch.allclose(embedding.weight, table, atol=1e-6)
        assert torch.allclose(embedding(index), table[index], atol=1e-6)
        embedding.eval()
        expected.eval()
    assert isinstance(embedding, torch.nn.Embedding)


@pytest.mark.parametrize("range", RANGES)
def test_gradients(range):
    embedding = make(1, max_bits=2, range=range)  # narrow: values fall out
    with parametrize.cached():
        loss = (embedding.weight[2:] * embedding(torch.arange(4))).sum()
    loss.backward()
    for name, parameter in embedding.named_parameters():
        assert bool(parameter.grad.isfinite().all()), name
        assert parameter.grad.abs().sum() > 0, name
    assert latent(embedding).grad[1].tolist() == [0] * 4


def test_assignment_sets_the_latent_table():
    embedding = make(max_bits=1)
    value = torch.randn(6, 4)
    embedding.weight = value
    assert torch.equal(latent(embedding), value)
    assert not torch.equal(embedding.weight, value)


def test_reset_parameters():
    embedding, plain = make(padding_idx=2), torch.nn.Embedding(6, 4)
    other = copy.deepcopy(embedding)
    before = latent(embedding).detach().clone()
    NodeAwareQuantWeight.of(embedding).controller.freeze()
    torch.manual_seed(3)
    embedding.reset_parameters()
    first = latent(embedding).detach().clone()
    assert not torch.equal(first, before)
    assert first[2].tolist() == [0] * 4
    assert not NodeAwareQuantWeight.of(embedding).controller.is_frozen
    assert torch.equal(latent(other), before)
    torch.manual_seed(3)
    other.reset_parameters()
    assert torch.equal(latent(other), first)
    torch.manual_seed(3)
    plain.reset_parameters()  # torch's own class is left alone
    assert torch.equal(plain.weight[0], first[0])


def test_reset_parameters_without_padding():
    embedding = make()
    before = latent(embedding).detach().clone()
    embedding.reset_parameters()
    assert bool((latent(embedding) != before).any(dim=1).all())


def test_state_dict_and_copies():
    embedding = make(range="learned")
    embedding(torch.arange(6))
    assert set(embedding.state_dict()) == {
        f"parametrizations.weight.{name}" for name in (
            "original", "0.controller.alpha", "0.controller.frozen_bits",
            "0.controller.is_frozen_flag", "0.quantizer.log_delta",
            "0.quantizer.mu", "0.quantizer.calibrated")}
    other = make(range="learned")
    other.load_state_dict(embedding.state_dict())
    for clone in (other, copy.deepcopy(embedding)):
        assert torch.equal(clone.weight, embedding.weight)


def test_of():
    embedding = make()
    weight = NodeAwareQuantWeight.of(embedding)
    assert isinstance(weight, NodeAwareQuantWeight)
    assert NodeAwareQuantWeight.of(torch.nn.Embedding(2, 2)) is None
    other = torch.nn.utils.parametrizations.weight_norm(
        torch.nn.Embedding(2, 2))
    assert NodeAwareQuantWeight.of(other) is None


def test_storage_loss_and_types():
    embedding = make()
    weight = NodeAwareQuantWeight.of(embedding)
    assert weight.storage_loss().item() == pytest.approx(4.5 * 4)
    half = torch.nn.Embedding(3, 2, dtype=torch.bfloat16).eval()
    NodeAwareQuantWeight.register_(half)
    assert half.weight.dtype == torch.bfloat16
    assert not NodeAwareQuantWeight.of(half).training


def test_sparse_gradients_are_refused():
    with pytest.raises(ValueError, match=r"'sparse' needs to be False .* "
                       r"\(got True\)"):
        NodeAwareQuantWeight.register_(torch.nn.Embedding(3, 2, sparse=True))


def test_max_norm_is_refused():
    with pytest.raises(ValueError, match=r"'max_norm' needs to be None .* "
                       r"\(got 1.0\)"):
        NodeAwareQuantWeight.register_(torch.nn.Embedding(3, 2, max_norm=1.0))


def test_repr():
    assert repr(NodeAwareQuantWeight.of(make())) == (
        "NodeAwareQuantWeight(BitWidthController(6, bits=1..8, avg=4.00))")
