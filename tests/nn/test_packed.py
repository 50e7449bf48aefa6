from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch

from pyg_nodequant import (
    NodeAwareQuantEmbedding,
    PackedEmbedding,
    PackedTable,
)
from pyg_nodequant.runtime import RowClasses

RANGES = ["symmetric", "minmax", "learned"]


def rows(n: int = 40, d: int = 11, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def general_table() -> PackedTable:
    """Widths, steps and offsets that differ by dimension."""
    rng = np.random.default_rng(0)
    widths = rng.integers(0, 9, size=(3, 11))
    classes = RowClasses(widths, rng.normal(size=(3, 11)),
                         rng.normal(size=(3, 11)),
                         rng.integers(0, 2, size=(3, 11)).astype(bool))
    ids = rng.choice([0, 2], size=40)  # no row is of class 1
    codes = (rng.random((40, 11)) * (1 << widths[ids])).astype(np.uint8)
    return PackedTable.from_classes(codes, ids, classes, rng.random(40),
                                    rng.normal(size=40))


def gaussian_table(n: int) -> PackedTable:
    """Classes of column spreads, two scales a byte."""
    rng = np.random.default_rng(2)
    classes = RowClasses.gaussian(rng.integers(0, 9, size=(3, 11)),
                                  np.exp(rng.normal(size=11)))
    ids = rng.integers(0, 3, size=n)
    codes = (rng.random((n, 11)) * (1 << classes.widths[ids].astype(int)))
    return PackedTable.from_classes(codes.astype(np.uint8), ids, classes,
                                    rng.random(n), scale_dtype="log4")


def tables():
    widths = np.random.default_rng(1).integers(0, 9, size=40)
    yield PackedTable.from_float(rows(), widths)
    yield PackedTable.from_float(rows(), widths, "minmax")
    yield PackedTable.from_float(rows(), 3, scale_dtype="float32")
    yield PackedTable.from_float(rows(), widths, scale_dtype="log8")
    yield PackedTable.from_float(rows(), widths, "minmax", scale_dtype="log8")
    yield PackedTable.from_codes(np.ones((40, 11), int), [1] * 40,
                                 scale=[2.0] * 40, centered=True)  # shared
    yield PackedTable.from_float(np.zeros((40, 11)), 0)
    yield general_table()
    yield gaussian_table(40)


TABLES = list(tables())


@pytest.mark.parametrize("table", TABLES)
def test_rows_are_those_of_the_table(table):
    emb = PackedEmbedding.from_table(table)
    expected = torch.from_numpy(table.dequantize())
    index = torch.tensor([[3, 39, 0], [3, 3, 17]])
    assert torch.allclose(emb(index), expected[index], rtol=1e-6, atol=1e-7)
    assert torch.allclose(emb.dequantize(batch_size=7), expected, rtol=1e-6,
                          atol=1e-7)
    assert torch.equal(emb.weight, emb.dequantize())
    assert torch.equal(emb.quantized_weight(), emb.dequantize())
    assert (emb.num_embeddings, emb.embedding_dim) == (40, 11)
    assert emb(torch.empty(0, 2, dtype=torch.long)).shape == (0, 2, 11)
    assert emb(torch.tensor(3, dtype=torch.int32)).shape == (11, )


def test_rows_of_one_width_a_row_are_exact():
    for table in TABLES[:2]:
        assert np.array_equal(PackedEmbedding(table).dequantize().numpy(),
                              table.dequantize())


@pytest.mark.parametrize("n", [1, 2, 3, 41])
def test_two_scales_a_byte(n):
    table = gaussian_table(n)
    emb = PackedEmbedding(table)
    expected = torch.from_numpy(table.dequantize())
    assert torch.equal(emb.read(torch.arange(n)), expected.double())
    assert emb.scale.shape == (n, ) and emb.scale.dtype == torch.uint8
    assert emb.log_scale.tolist() == table.encode("t")[1]["t.log4"].tolist()


def test_memory_stays_packed():
    table = PackedTable.from_float(rows(4000, 64), 2)
    emb = PackedEmbedding(table)
    # 16 bytes of codes, 2 of scale, 1 of class, 4 of where the row begins.
    assert emb.nbytes <= 4000 * 23 + 2000
    assert not list(emb.parameters())
    held = sum(x.numel() * x.element_size()
               for x in emb.state_dict().values())
    assert held <= 4000 * 19 + 100


@pytest.mark.parametrize("range", RANGES)
@pytest.mark.parametrize("padding_idx", [None, 2, -1])
def test_from_quantized(range, padding_idx):
    emb = NodeAwareQuantEmbedding(9, 5, padding_idx, range=range,
                                  degree=torch.arange(9.0))
    torch.nn.init.normal_(emb.weight)  # the padding row too
    emb(torch.arange(9))
    emb.eval()
    packed = PackedEmbedding.from_quantized(emb)
    index = torch.tensor([[8, 2], [0, 2]])
    assert torch.allclose(packed(index), emb(index), atol=1e-6)
    assert torch.allclose(packed.dequantize(), emb.quantized_weight(),
                          atol=1e-6)
    assert packed.padding_idx == emb.padding_idx
    if padding_idx is not None:
        assert packed.dequantize()[padding_idx].tolist() == [0] * 5
    assert not packed.training and not packed(index).requires_grad
    double = PackedEmbedding.from_quantized(emb.double())
    assert double(index).dtype == torch.float64


def test_from_quantized_renormalises_like_a_lookup():
    emb = NodeAwareQuantEmbedding(9, 5, max_norm=0.5).eval()
    packed = PackedEmbedding.from_quantized(emb)
    index = torch.arange(9)
    assert torch.allclose(packed(index), emb(index), atol=1e-6)


def test_from_quantized_of_rows_that_do_not_fit():
    emb = NodeAwareQuantEmbedding(9, 5)
    torch.nn.init.constant_(emb.weight, torch.nan)
    with pytest.raises(ValueError, match="needs to be finite"):
        PackedEmbedding.from_quantized(emb)


def clones(emb: PackedEmbedding):
    yield copy.deepcopy(emb)
    yield pickle.loads(pickle.dumps(emb))
    file = io.BytesIO()
    torch.save(emb.state_dict(), file)
    file.seek(0)
    other = PackedEmbedding(PackedTable.from_float(rows(seed=5), 1))
    other.load_state_dict(torch.load(file, weights_only=True))
    yield other
    other = PackedEmbedding(TABLES[4])  # the one with everything
    other.load_state_dict(emb.state_dict())
    yield other


@pytest.mark.parametrize("table", TABLES)
def test_copies(table):
    emb = PackedEmbedding(table)
    for other in clones(emb):
        assert torch.equal(other.dequantize(), emb.dequantize())
        assert other.state_dict().keys() == emb.state_dict().keys()
        assert other.codes.data_ptr() != emb.codes.data_ptr()


def test_state_dict_inside_a_model():
    model = torch.nn.Sequential(PackedEmbedding(TABLES[0]))
    assert set(model.state_dict()) == {"0.codes", "0.class_ids", "0.classes",
                                       "0.scale"}
    other = torch.nn.Sequential(PackedEmbedding(TABLES[1]))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other[0].dequantize(), model[0].dequantize())
    other.load_state_dict({}, strict=False)
    assert torch.equal(other[0].dequantize(), model[0].dequantize())


def test_wrong_state_dicts():
    emb = PackedEmbedding(TABLES[0])
    small = PackedEmbedding(PackedTable.from_float(rows(7), 2))
    with pytest.raises(RuntimeError, match="'class_ids' needs 40 rows"):
        emb.load_state_dict(small.state_dict())
    state = emb.state_dict()
    for key, value, message in [
            ("classes", state["classes"][:3], "'codes' cannot be read"),
            ("codes", state["codes"][:-1], "the codes need"),
            ("scale", state["scale"][:-1], r"'scale' needs one entry for each "
             r"of the 40 rows, or one for all \(got 39\)"),
            ("offset", state["scale"][:1], "'offset' needs one entry for "
             "each of the 40"),
            ("class_ids", state["class_ids"] + 100, "a class beyond")]:
        with pytest.raises(RuntimeError, match=message):
            PackedEmbedding(TABLES[0]).load_state_dict({**state, key: value})
    del state["codes"]
    with pytest.raises(RuntimeError, match="Missing key"):
        PackedEmbedding(TABLES[0]).load_state_dict(state)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_casting_rounds_nothing_that_is_stored(table, dtype):
    emb = PackedEmbedding(table)
    expected = emb.dequantize()
    out = emb.to(dtype).dequantize()
    assert out.dtype == dtype
    assert torch.equal(out, expected.to(dtype))
    assert torch.equal(emb.float().dequantize(), expected)
    assert emb.dtype == torch.float32


def test_meta_device():
    emb = PackedEmbedding(TABLES[0]).to("meta")
    assert {x.device.type for x in emb.buffers()} == {"meta"}


@pytest.mark.parametrize("bad", [-1, 40])
def test_unknown_rows(bad):
    emb = PackedEmbedding(TABLES[0])
    low, high = min(bad, 0), max(bad, 0)
    with pytest.raises(IndexError, match=rf"'input' needs to be in \[0, 39\] "
                       rf"\(got \[{low}, {high}\]\)"):
        emb(torch.tensor([0, bad]))


@pytest.mark.parametrize("bad", [-41, 40])
def test_wrong_padding(bad):
    with pytest.raises(ValueError, match=rf"'padding_idx' needs to be in "
                       rf"\[-40, 39\] \(got {bad}\)"):
        PackedEmbedding(TABLES[0], bad)


def test_repr():
    table = PackedTable.from_float(rows(4), [1, 2, 4, 8])
    assert repr(PackedEmbedding(table)) == (
        "PackedEmbedding(4, 11, bits=1..8, avg=3.75)")
    general = PackedEmbedding(TABLES[-2])
    assert f"avg={TABLES[-2].mean_bits:.2f}" in repr(general)
    empty = PackedEmbedding(PackedTable.from_float(rows(0), 2))
    assert repr(empty) == "PackedEmbedding(0, 11, bits=0..0, avg=0.00)"


def test_export():
    emb, index = PackedEmbedding(TABLES[1], 3), torch.tensor([0, 3, 39])
    program = torch.export.export(emb, (index, )).module()
    assert torch.allclose(program(index), emb(index))
