from __future__ import annotations

import copy
import inspect
import io
import pickle

import pytest
import torch

from pyg_nodequant import NodeAwareQuantEmbedding

RANGES = ["symmetric", "minmax", "learned", "meanstd", "mse"]
DEGREE = torch.tensor([1.0, 2.0, 4.0, 9.0, 50.0, 3.0])


def make(range: str = "symmetric", **kwargs) -> NodeAwareQuantEmbedding:
    torch.manual_seed(0)
    return NodeAwareQuantEmbedding(6, 4, degree=DEGREE, range=range, **kwargs)


def test_signature_is_that_of_torch():
    theirs = inspect.signature(torch.nn.Embedding.__init__).parameters
    ours = inspect.signature(NodeAwareQuantEmbedding.__init__).parameters
    assert list(ours)[:len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        assert ours[name].default == parameter.default
        assert ours[name].kind == parameter.kind
    for name in list(ours)[len(theirs):]:
        assert ours[name].kind == inspect.Parameter.KEYWORD_ONLY


def test_same_float_table_as_torch():
    torch.manual_seed(0)
    expected = torch.nn.Embedding(6, 4)
    assert torch.equal(make().weight, expected.weight)
    assert isinstance(make(), torch.nn.Embedding)


@pytest.mark.parametrize("range", RANGES)
def test_state_dict(range):
    emb = make(range)
    keys = {"weight", "controller.alpha", "controller.frozen_bits",
            "controller.is_frozen_flag"}
    if range == "learned":
        keys |= {f"quantizer.{name}"
                 for name in ("log_delta", "mu", "calibrated")}
    assert set(emb.state_dict()) == keys
    emb.train()(torch.arange(6))
    emb.controller.freeze(torch.tensor([1, 2, 3, 4, 5, 6]))
    other = NodeAwareQuantEmbedding(6, 4, range=range)
    other.load_state_dict(emb.state_dict())
    assert torch.equal(other.quantized_weight(), emb.quantized_weight())
    assert other.controller.is_frozen


@pytest.mark.parametrize("range", RANGES)
def test_float_checkpoint_loads_strictly(range):
    emb, state = make(range), torch.nn.Embedding(6, 4).state_dict()
    alpha = emb.controller.alpha.detach().clone()
    emb.load_state_dict(state, strict=True)
    assert torch.equal(emb.weight, state["weight"])
    assert torch.equal(emb.controller.alpha, alpha)
    assert list(state) == ["weight"]  # not written to
    # Half a controller is damage, not a float checkpoint.
    state = emb.state_dict()
    del state["controller.alpha"]
    with pytest.raises(RuntimeError, match="controller.alpha"):
        make(range).load_state_dict(state)
    torch.nn.Embedding(6, 4).load_state_dict(
        {"weight": emb.state_dict()["weight"]})


@pytest.mark.parametrize("range", RANGES)
@pytest.mark.parametrize("padding_idx", [None, 0, -1])
@pytest.mark.parametrize("mode", ["training", "eval", "frozen"])
def test_lookup_is_the_whole_table(range, padding_idx, mode):
    emb = make(range, padding_idx=padding_idx).train(mode == "training")
    if mode == "frozen":
        emb.controller.freeze()
    index = torch.tensor([[0, 5, 3], [3, 3, 1]])
    emb(index)  # meets its nodes
    out, table = emb(index), emb.quantized_weight()
    assert out.shape == (2, 3, 4)
    assert torch.equal(out, table[index])
    assert emb(torch.empty(0, dtype=torch.long)).shape == (0, 4)
    assert emb(torch.tensor(2)).shape == (4, )


@pytest.mark.parametrize("range", RANGES)
def test_lookup_gradients_are_those_of_the_whole_table(range):
    index = torch.tensor([0, 5, 3, 3])
    grad = torch.randn(4, 4)
    emb = make(range)
    emb(torch.arange(6))
    other = copy.deepcopy(emb)
    emb(index).backward(grad)
    other.quantized_weight()[index].backward(grad)
    for (name, a), b in zip(emb.named_parameters(), other.parameters()):
        assert torch.allclose(a.grad, b.grad, atol=1e-6), name


@pytest.mark.parametrize("range", RANGES)
def test_padding_row_stays_zero(range):
    emb = make(range, padding_idx=2)
    optimizer = torch.optim.SGD(emb.parameters(), lr=0.1)
    for read in (lambda: emb(torch.arange(6)), emb.quantized_weight):
        optimizer.zero_grad()
        out = read()
        assert out[2].tolist() == [0] * 4
        (out + out.square()).sum().backward()
        assert emb.weight.grad[2].tolist() == [0] * 4
        assert bool(emb.weight.grad.isfinite().all())
        assert bool(emb.controller.alpha.grad.isfinite().all())
        optimizer.step()
    assert emb.weight[2].tolist() == [0] * 4
    # As after `torch.nn.init`, which knows no padding.
    torch.nn.init.ones_(emb.weight)
    assert emb(torch.tensor([2])).tolist() == [[0] * 4]
    assert emb.quantized_weight()[2].tolist() == [0] * 4


def test_torch_options_are_kept():
    emb = make(max_norm=1.0, scale_grad_by_freq=True)
    emb(torch.arange(6))
    assert bool((emb.weight.norm(dim=1) <= 1 + 1e-5).all())
    emb = make(sparse=True)
    emb(torch.tensor([1, 1])).sum().backward()
    assert emb.weight.grad.is_sparse
    with pytest.raises(IndexError):
        emb(torch.tensor([6]))


@pytest.mark.parametrize("range", RANGES)
def test_the_whole_table_is_renormalised_like_a_lookup(range):
    emb = make(range, max_norm=0.5).eval()
    table = emb.quantized_weight()  # before any row was looked up
    served = emb.to_embedding(quantized=True)
    out = emb(torch.arange(6))
    assert torch.equal(table, out)
    assert torch.equal(served(torch.arange(6)), out)
    assert bool((emb.weight.norm(dim=1) <= 0.5 + 1e-5).all())


def test_device_of_a_given_table():
    table = torch.empty(6, 4, device="meta")
    emb = NodeAwareQuantEmbedding.from_pretrained(table)
    assert emb.controller.alpha.device.type == "meta"
    assert not emb.weight.requires_grad


def test_device_and_dtype():
    emb = make(device="meta")
    assert {p.device.type for p in emb.parameters()} == {"meta"}
    emb = make(dtype=torch.float64)
    assert emb(torch.tensor([1])).dtype == torch.float64
    out = make().to(torch.bfloat16)(torch.tensor([1]))
    assert out.dtype == torch.bfloat16


def test_float32_under_autocast():
    emb = make()
    expected = emb(torch.arange(6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(emb(torch.arange(6)), expected)
        assert emb.quantized_weight().dtype == torch.float32


@pytest.mark.parametrize("range", RANGES)
@pytest.mark.parametrize("clone", [
    copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(range, clone):
    emb = make(range)
    emb(torch.arange(6))
    other = clone(emb)
    assert other.quantizer.controller is other.controller
    assert torch.equal(other.quantized_weight(), emb.quantized_weight())
    with torch.no_grad():
        other.weight.mul_(2)
        other.controller.alpha.add_(3)
    assert not torch.equal(other.quantized_weight(), emb.quantized_weight())
    assert torch.equal(emb.weight * 2, other.weight)
    # Loading works on the copy, not on the original.
    alpha = emb.controller.alpha.detach().clone()
    other.load_state_dict({"weight": torch.zeros(6, 4)})
    assert torch.equal(emb.controller.alpha, alpha)
    assert torch.equal(other.controller.alpha, alpha + 3)


def test_torch_save():
    emb, file = make(), io.BytesIO()
    torch.save(emb.state_dict(), file)
    file.seek(0)
    other = NodeAwareQuantEmbedding(6, 4)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.quantized_weight(), emb.quantized_weight())


def test_reset_parameters():
    emb = make("learned")
    emb(torch.arange(6))
    before = {k: v.clone() for k, v in emb.state_dict().items()}
    with torch.no_grad():
        emb.controller.alpha.add_(1)
    emb.controller.freeze()
    torch.manual_seed(5)
    emb.reset_parameters()
    first = emb.weight.detach().clone()
    assert not torch.equal(first, before["weight"])
    assert torch.equal(emb.controller.alpha, before["controller.alpha"])
    assert not emb.controller.is_frozen
    assert not emb.quantizer.calibrated.any()
    torch.manual_seed(5)
    emb.reset_parameters()
    assert torch.equal(emb.weight, first)


def test_all_learnables_exist_from_the_start():
    emb = make("learned")
    names = [name for name, _ in emb.named_parameters()]
    emb.train()(torch.arange(6)).sum().backward()
    emb.eval()(torch.arange(6))
    assert names == [name for name, _ in emb.named_parameters()]
    assert set(names) == {"weight", "controller.alpha", "quantizer.log_delta",
                          "quantizer.mu"}
    assert all(p.grad is not None for p in emb.parameters())


def test_storage_loss():
    emb = make()
    bits = emb.controller().tolist()
    loss = emb.storage_loss()
    assert loss.item() == pytest.approx(sum(b * 4 for b in bits) / 6)
    loss.backward()
    assert bool((emb.controller.alpha.grad > 0).all())


@pytest.mark.parametrize("padding_idx", [None, 1])
def test_from_embedding(padding_idx):
    source = torch.nn.Embedding(6, 4, padding_idx, max_norm=3.0).eval()
    emb = NodeAwareQuantEmbedding.from_embedding(source, max_bits=4,
                                                 min_bits=2, degree=DEGREE,
                                                 range="minmax")
    assert emb.weight is source.weight
    assert not emb.training
    assert (emb.padding_idx, emb.max_norm) == (padding_idx, 3.0)
    assert (emb.controller.max_bits, emb.controller.min_bits) == (4, 2)
    assert emb.quantizer.range == "minmax"
    torch.nn.init.zeros_(source.weight)
    assert emb.quantized_weight().abs().sum() == 0


def test_from_embedding_elsewhere():
    source = torch.nn.Embedding(6, 4, device="meta", dtype=torch.float16)
    emb = NodeAwareQuantEmbedding.from_embedding(source)
    assert emb.weight is source.weight
    assert emb.controller.alpha.device.type == "meta"
    frozen = torch.nn.Embedding.from_pretrained(torch.ones(2, 2))
    assert not NodeAwareQuantEmbedding.from_embedding(
        frozen).weight.requires_grad


@pytest.mark.parametrize("range", RANGES)
def test_to_embedding(range):
    emb = make(range, padding_idx=1)
    with torch.no_grad():
        emb.controller.alpha.add_(0.1)
    latent = emb.to_embedding()
    assert type(latent) is torch.nn.Embedding
    assert latent.weight is emb.weight and latent.padding_idx == 1
    served = emb.to_embedding(quantized=True)  # whole widths, stored scales
    assert emb.training and served.training
    assert torch.equal(served.weight, emb.eval().quantized_weight())
    assert served.weight.requires_grad


@pytest.mark.parametrize("kwargs, message", [
    (dict(max_bits=99), r"'max_bits' needs to be in \[1, 8\] \(got 99\)"),
    (dict(range="none"), "'range' needs to be one of"),
    (dict(degree=torch.ones(2)), r"each of the 6 nodes \(got 2\)")])
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        NodeAwareQuantEmbedding(6, 4, **kwargs)


def test_repr():
    assert repr(NodeAwareQuantEmbedding(2625, 64)) == (
        "NodeAwareQuantEmbedding(2625, 64, bits=1..8, avg=4.00)")
    assert repr(NodeAwareQuantEmbedding(3, 2, device="meta")) == (
        "NodeAwareQuantEmbedding(3, 2, bits=1..8, avg=?)")
