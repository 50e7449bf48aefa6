from __future__ import annotations

import numpy as np
import pytest

from pyg_nodequant.runtime import FloatTable, PackedFileError, PackedTable
from pyg_nodequant.runtime.file_format import write_container


def test_reads_like_a_packed_table(tmp_path):
    rows = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    table = FloatTable(rows)
    assert len(table) == 7 and table.dim == 3
    assert np.array_equal(table.dequantize(), rows)
    assert np.array_equal(table.dequantize([6, 0]), rows[[6, 0]])
    assert table.widths.tolist() == [32] * 7 and table.mean_bits == 32
    assert table.scale is None and table.offset is None
    assert table.nbytes == table.resident_bytes == 84
    assert repr(table) == "FloatTable(7, 3)"
    table.save(tmp_path / "f.nq")
    opened = FloatTable.open(tmp_path / "f.nq")
    assert np.array_equal(opened.dequantize(), rows)
    scores, ids = opened.topk(rows[:2], 7, ([0, 1, 1], [0]), [5, 1, 0, 5])
    assert ids[0].tolist()[2:] == [-1] * 5
    assert sorted(ids[1].tolist()[:3]) == [0, 1, 5]
    assert np.isneginf(scores[0][2:]).all()


@pytest.mark.parametrize("rows,message", [
    ([1.0], "needs a shape"),
    (np.zeros((1, 0)), "needs a shape"),
    (np.zeros((1, 4097)), "needs a shape"),
    ([[np.nan]], "needs to be finite"),
    ([[1e300]], "needs to be finite"),
])
def test_refuses(rows, message):
    with pytest.raises(ValueError, match=message):
        FloatTable(rows)


@pytest.mark.parametrize("field,rows,cause", [
    ("float 3 2", np.zeros((2, 2), "f4"), "does not match"),
    ("float 2 2", np.full((2, 2), np.nan, "f4"), "finite"),
    ("float 2 2", np.zeros((2, 2)).astype("f2"), "has type F16"),
    ("float 2 2", np.zeros(4, "f4"), "has shape"),
])
def test_open_refuses(tmp_path, field, rows, cause):
    write_container(tmp_path / "f.nq", "table", {"t": field},
                    {"t.rows": rows})
    with pytest.raises(PackedFileError, match=cause):
        FloatTable.open(tmp_path / "f.nq")


def test_open_refuses_packed(tmp_path):
    PackedTable.from_float([[1.0]], 2).save(tmp_path / "p.nq")
    with pytest.raises(PackedFileError, match="'t' is packed, not float"):
        FloatTable.open(tmp_path / "p.nq")
