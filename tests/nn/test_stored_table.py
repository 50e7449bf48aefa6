from __future__ import annotations

import numpy as np
import pytest
import torch

from pyg_nodequant import NodeAwareQuantizer, PackedEmbedding
from pyg_nodequant.nn import stored_table


def stored(row_scale: str, groups=None, range: str = "symmetric"):
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    quantizer = NodeAwareQuantizer(60, 8, range=range, row_scale=row_scale,
                                   groups=groups).eval()
    quantizer.controller.freeze(torch.arange(60) % 4 + 1)
    return quantizer, x


def size(table, name):
    return table.encode("t")[1][f"t.{name}"].nbytes


def test_bytes_of_scales():
    tables = {form: stored_table(stored(form)[0].encode(stored(form)[1]))
              for form in ("float16", "log8", "group")}
    assert size(tables["float16"], "scale") == 120
    assert size(tables["log8"], "scale") == 60 and size(
        tables["log8"], "log") == 8
    assert size(tables["group"], "scale") == 2  # one for all
    # Per class half a byte of width and two of step; offsets follow.
    assert len(tables["group"].classes.to_bytes()) == 4 + 2 + 8
    assert len(tables["group"].classes) == 4


@pytest.mark.parametrize("row_scale", ["float16", "log8", "group"])
def test_parts(row_scale):
    quantizer, x = stored(row_scale)
    codes = quantizer.encode(x)
    whole = stored_table(codes).dequantize()
    for part in (slice(0, 13), slice(13, None), slice(0, 0)):
        table = stored_table(codes, part)
        assert np.array_equal(table.dequantize(), whole[part])


def test_offsets():
    quantizer, x = stored("float16", range="meanstd")
    table = stored_table(quantizer.encode(x))
    assert table.offset is not None
    assert np.allclose(table.dequantize(), quantizer(x).detach().numpy(),
                       atol=1e-6)


def test_one_grid_a_table():
    quantizer, x = stored("log8", torch.arange(60) // 30)
    codes = quantizer.encode(x)
    stored_table(codes, slice(0, 30))
    with pytest.raises(ValueError, match="needs scales on one grid"):
        stored_table(codes)


@pytest.mark.parametrize("row_scale", ["log8", "group"])
def test_packed_embeddings(row_scale):
    quantizer, x = stored(row_scale)
    packed = PackedEmbedding.from_quantizer(quantizer, x)
    torch.testing.assert_close(packed(torch.arange(60)), quantizer(x))
