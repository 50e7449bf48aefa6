from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_nodequant.runtime import (
    FloatTable,
    PackedFileError,
    PackedTable,
    RowClasses,
)
from pyg_nodequant.runtime.file_format import write_container
from pyg_nodequant.runtime.row_codes import (
    dequantize_rows,
    gaussian_span,
    num_levels,
    quantize_rows,
)


def random_table(rng, n, dim, centered=True, **options):
    widths = rng.integers(0, 9, n)
    codes = rng.integers(0, num_levels(widths)[:, None] + 1, (n, dim))
    scale = np.exp(rng.normal(size=n))
    offset = None if centered else rng.normal(size=n)
    table = PackedTable.from_codes(codes, widths, scale=scale, offset=offset,
                                   centered=centered, **options)
    return table, codes, widths


def random_class_table(rng, n, dim, count, **options):
    classes = RowClasses(rng.integers(0, 9, (count, dim)),
                         rng.normal(size=(count, dim)),
                         rng.normal(size=(count, dim)),
                         rng.integers(0, 2, (count, dim)))
    ids = rng.integers(0, count, n)
    codes = rng.integers(0, num_levels(classes.widths[ids]) + 1)
    scale, offset = np.exp(rng.normal(size=n)), rng.normal(size=n)
    table = PackedTable.from_classes(codes, ids, classes, scale, offset,
                                     **options)
    return table, codes, ids


def slow_rows(table, codes, ids):
    # The formula of the packed row, number by number.
    out = np.empty(codes.shape, dtype=np.float32)
    classes, offset = table.classes, table.offset
    for i, c in enumerate(ids):
        for k in range(codes.shape[1]):
            a, m = float(classes.steps[c, k]), float(classes.offsets[c, k])
            x = float(table.scale[i]) * (m + a * int(codes[i, k]))
            if offset is not None and classes.uses_offset[c, k]:
                x += float(offset[i])
            out[i, k] = x
    return out


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 25), st.integers(1, 130), st.booleans(),
       st.sampled_from(["float16", "float32", "log8"]),
       st.integers(0, 10**6))
def test_node_only_widths(tmp_path_factory, n, dim, centered, dtype, seed):
    rng = np.random.default_rng(seed)
    table, codes, widths = random_table(rng, n, dim, centered,
                                        scale_dtype=dtype)
    assert len(table) == n and table.dim == dim
    assert np.array_equal(table.widths, widths)
    assert table.widths.dtype == np.uint8
    assert np.array_equal(table.codes(), codes)
    expected = dequantize_rows(codes, table.scale, table.offset,
                               widths=widths, centered=centered)
    assert np.array_equal(table.dequantize(), expected)
    assert table.mean_bits == pytest.approx(widths.mean() if n else 0)
    path = tmp_path_factory.mktemp("table") / "t.nq"
    table.save(path)
    opened = PackedTable.open(path)
    assert np.array_equal(opened.dequantize(), expected)
    assert opened.nbytes == table.nbytes


@pytest.mark.parametrize("count", [1, 2, 16, 17, 256])
@pytest.mark.parametrize("dtype", ["float16", "float32", "log8"])
def test_classes(tmp_path, count, dtype):
    rng = np.random.default_rng(count)
    table, codes, ids = random_class_table(rng, 60, 11, count,
                                           scale_dtype=dtype)
    expected = slow_rows(table, codes, ids)
    assert np.array_equal(table.dequantize(), expected)
    assert np.array_equal(table.codes([5, 5, 1]), codes[[5, 5, 1]])
    table.save(tmp_path / "t.nq")
    opened = PackedTable.open(tmp_path / "t.nq")
    assert np.array_equal(opened.dequantize(), expected)
    bits = table.classes.widths[ids].sum(axis=1)
    assert np.array_equal(table.bits, bits)
    assert table.widths == pytest.approx(bits / 11)
    opened.save(tmp_path / "again.nq")
    assert (tmp_path / "again.nq").read_bytes() == (tmp_path /
                                                    "t.nq").read_bytes()


@pytest.mark.parametrize("dim", [1, 64, 4096])
def test_sizes(dim):
    rng = np.random.default_rng(dim)
    table, _, widths = random_table(rng, 40, dim)
    strings = sum((dim * b + 7) // 8 * int((widths == b).sum())
                  for b in range(9))
    classes = len(np.unique(widths))
    assert table.nbytes == strings + 2 * 40 + 20 + len(
        table.classes.to_bytes())
    assert 4 <= classes <= 9


def test_some_rows_in_any_order():
    rng = np.random.default_rng(7)
    table, _, _ = random_table(rng, 30, 5)
    ids = rng.integers(0, 30, 80)
    assert np.array_equal(table.dequantize(ids), table.dequantize()[ids])
    assert table.dequantize([]).shape == (0, 5)
    for bad in ([30], [-1], [0.5], [[1]]):
        with pytest.raises(ValueError, match="'ids'"):
            table.dequantize(bad)


@pytest.mark.parametrize("seed", range(6))
def test_topk_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    table, _, _ = random_table(rng, 40, 6, centered=bool(seed % 2))
    rows = table.dequantize().astype(float)
    queries = rng.normal(size=(9, 6)).astype(np.float32)
    scores = np.zeros((9, 40))
    for k in range(6):
        scores += queries[:, k:k + 1].astype(float) * rows[:, k]
    allow = rng.integers(0, 40, 25)
    exclude = (np.arange(0, 20, 2), rng.integers(0, 40, 18))
    for q in range(9):
        scores[q, exclude[1][2 * q:2 * q + 2]] = -np.inf
    scores[:, np.setdiff1d(np.arange(40), allow)] = -np.inf
    found, ids = table.topk(queries, 30, exclude, allow)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :30]
    expected = np.take_along_axis(scores, order, axis=1)
    order[np.isneginf(expected)] = -1
    assert np.array_equal(ids, order)
    assert np.array_equal(found, expected)
    one = table.topk(queries[3], 5)
    many = table.topk(queries, 5)
    assert np.array_equal(one[0], many[0][3])
    assert np.array_equal(one[1], many[1][3]) and one[1].shape == (5, )


def test_topk_ties_go_to_the_lowest_row():
    table = PackedTable.from_codes(np.ones((9, 2), int), [1, 2, 1] * 3,
                                   scale=np.ones(9))
    assert table.topk([1.0, 1.0], 9)[1].tolist() == list(range(9))
    assert table.topk([-1.0, 1.0], 4)[1].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("arguments,message", [
    (([1.0], 1), "'queries' needs 2 numbers"),
    (([[[1.0, 2.0]]], 1), "'queries' needs 2 numbers"),
    (([1.0, np.nan], 1), "'queries' needs to be finite"),
    (([1.0, 1e300], 1), "'queries' needs to be finite"),
    (([1.0, 1.0], 0), r"'k' needs to be an integer in \[1, 3\]"),
    (([1.0, 1.0], 4), r"'k' needs to be an integer in \[1, 3\]"),
    (([1.0, 1.0], 1, ([0, 1], [3])), "'exclude' needs to be in"),
    (([1.0, 1.0], 1, None, [3]), "'allow' needs to be in"),
])
def test_topk_refuses(arguments, message):
    table = PackedTable.from_float(np.eye(3)[:, :2], 2)
    with pytest.raises(ValueError, match=message):
        table.topk(*arguments)


@pytest.mark.parametrize("dtype", ["float16", "float32", "log8"])
@pytest.mark.parametrize("range", ["symmetric", "minmax"])
def test_from_float_takes_the_nearest_value(range, dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(27, 16)).astype(np.float32)
    widths = np.resize(np.arange(9), 27)
    table = PackedTable.from_float(x, widths, range, scale_dtype=dtype)
    rows = table.dequantize()
    assert not rows[widths == 0].any()
    for i, b in enumerate(widths):
        if b == 0:
            continue
        codes = np.repeat(np.arange(2**b)[:, None], 1, axis=1)
        offset = None if table.offset is None else table.offset[[i]]
        values = dequantize_rows(codes, np.repeat(table.scale[i], 2**b),
                                 None if offset is None else np.repeat(
                                     offset, 2**b),
                                 widths=np.repeat(b, 2**b),
                                 centered=offset is None)[:, 0]
        nearest = np.abs(values[:, None] - x[i]).min(axis=0)
        assert np.abs(rows[i] - x[i]) == pytest.approx(nearest, abs=1e-5)
    assert (table.offset is None) == (range == "symmetric")


def test_from_float_one_width_and_odd_rows():
    x = np.zeros((2, 3), dtype=np.float32)
    x[1] = 5
    assert not PackedTable.from_float(x[:1], 4).dequantize().any()
    constant = PackedTable.from_float(x, 4, "minmax").dequantize()
    assert np.array_equal(constant, x)
    empty = PackedTable.from_float(np.zeros((0, 3)), 4)
    assert len(empty) == 0 and empty.mean_bits == 0
    assert repr(empty) == "PackedTable(0, 3, bits=0..0, avg=0.00)"


def test_codes_are_those_of_the_formula():
    x = np.random.default_rng(1).normal(size=(20, 8)).astype(np.float32)
    widths = np.resize([1, 3, 8], 20)
    table = PackedTable.from_float(x, widths)
    span = table.scale.astype(float) * num_levels(widths)
    assert np.array_equal(table.codes(),
                          quantize_rows(x, widths, span, -span / 2))


@pytest.mark.parametrize("change,message", [
    ({"codes": [[4, 0]]}, r"'codes' needs to be in \[0, 3\] at a width of 2"),
    ({"codes": [[256, 0]]}, r"'codes' needs to be in \[0, 255\]"),
    ({"codes": [[-1, 0]]}, r"'codes' needs to be in \[0, 255\] \(got -1\)"),
    ({"codes": [[0.5, 0]]}, "'codes' needs to hold integers"),
    ({"codes": [0, 0]}, "'codes' needs a shape"),
    ({"codes": np.zeros((1, 4097), int)}, "'codes' needs a shape"),
    ({"widths": [9]}, r"'widths' needs to be in \[0, 8\] \(got 9\)"),
    ({"widths": [2, 2]}, "'widths' needs 1 numbers"),
    ({"scale": [1e9]}, "'scale' needs to be finite in float16"),
    ({"scale": [1.0, 1.0]}, "'scale' needs 1 numbers"),
    ({"scale": 1.0}, "'scale' needs 1 numbers"),
    ({"offset": [np.nan]}, "'offset' needs to be finite"),
    ({"offset": [1.0, 2.0]}, "'offset' needs 1 numbers"),
    ({"offset": [1.0], "centered": True}, "'offset' needs to be None"),
    ({"scale_dtype": "int8"}, "'scale_dtype' needs to be one of"),
    ({"scale": [2e38], "scale_dtype": "float32"}, "within float32"),
])
def test_from_codes_refuses(change, message):
    arguments = {"codes": [[3, 0]], "widths": [2], "scale": [1.0], **change}
    codes, widths = arguments.pop("codes"), arguments.pop("widths")
    with pytest.raises(ValueError, match=message):
        PackedTable.from_codes(codes, widths, **arguments)


def test_from_classes_and_from_float_refuse():
    classes = RowClasses([[1, 2]])
    with pytest.raises(ValueError, match="'codes' needs 2 columns"):
        PackedTable.from_classes([[1]], [0], classes, [1.0])
    with pytest.raises(ValueError, match="'class_ids' needs to be in"):
        PackedTable.from_classes([[1, 1]], [1], classes, [1.0])
    with pytest.raises(ValueError, match="'x' needs two dimensions"):
        PackedTable.from_float([1.0], 1)
    with pytest.raises(ValueError, match="'x' needs to be finite"):
        PackedTable.from_float([[np.inf]], 1)
    with pytest.raises(ValueError, match="'range' needs to be one of"):
        PackedTable.from_float([[1.0]], 1, "learned")


def test_shared_scale_is_stored_once(tmp_path):
    codes = np.ones((8, 4), dtype=int)
    table = PackedTable.from_codes(codes, [1] * 8, scale=[0.5] * 8)
    assert table.encode("t")[1]["t.scale"].nbytes == 2
    assert table.dequantize().tolist() == [[0.5] * 4] * 8
    table.save(tmp_path / "t.nq")
    assert np.array_equal(PackedTable.open(tmp_path / "t.nq").dequantize(),
                          table.dequantize())


def test_pruned_table_keeps_its_scales(tmp_path):
    # Otherwise a few bytes could announce any number of rows.
    table = PackedTable.from_codes(np.zeros((8, 4), int), [0] * 8,
                                   scale=[0.5] * 8)
    assert len(table.encode("t")[1]["t.scale"]) == 8
    table.save(tmp_path / "t.nq")
    assert not PackedTable.open(tmp_path / "t.nq").dequantize().any()


@pytest.mark.parametrize("n", [0, 1, 2, 9, 64])
def test_gaussian_classes_with_scales_of_half_bytes(tmp_path, n):
    rng = np.random.default_rng(n)
    widths = rng.integers(0, 5, (16, 96))
    classes = RowClasses.gaussian(widths, np.geomspace(3, .1, 96))
    ids = rng.integers(0, 16, n)
    codes = rng.integers(0, 2**widths[ids])
    scale = np.exp2(rng.integers(-4, 9, n) / 2).astype(np.float32)
    scale[:1] = 0
    offset = rng.normal(size=n) if n == 9 else None
    table = PackedTable.from_classes(codes, ids, classes, scale, offset,
                                     scale_dtype="log4", log=(-2.0, .5))
    assert np.array_equal(table.scale, scale)
    v = codes - (2.0**widths[ids] - 1) / 2
    x = scale[:, None] * classes.steps[ids].astype(float) * v
    if offset is not None:
        assert np.array_equal(table.offset, offset.astype(np.float32))
        x += table.offset[:, None]
    assert table.dequantize() == pytest.approx(x, rel=1e-6, abs=1e-5)
    arrays = table.encode("t")[1]
    assert "t.log" not in arrays
    assert arrays["t.scale"].nbytes == (n + 1) // 2
    assert arrays["t.classes"].nbytes == 4 + 16 * 96 // 2 + 2 * 96
    for mmap in (True, False):
        table.save(tmp_path / "t.nq")
        read = PackedTable.open(tmp_path / "t.nq", mmap=mmap)
        assert np.array_equal(read.dequantize(), table.dequantize())
        assert np.array_equal(read.scale, scale)
        assert read.encode("t")[1].keys() == arrays.keys()
        for name, array in read.encode("t")[1].items():
            assert np.array_equal(array, arrays[name])


def test_grids_are_for_logarithms():
    classes = RowClasses([[1]])
    for dtype, log in (("float16", (0, 1)), ("log4", (0, -1))):
        with pytest.raises(ValueError, match="'log' needs to be"):
            PackedTable.from_classes([[1]], [0], classes, [1.0],
                                     scale_dtype=dtype, log=log)


def test_every_flip_and_every_truncation(tmp_path):
    rng = np.random.default_rng(2)
    table, _, _ = random_table(rng, 9, 3, centered=False)
    path = tmp_path / "bad.nq"
    table.save(path)
    data = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(data):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << place % 8]), place)
            with pytest.raises(PackedFileError, match="bad.nq"):
                PackedTable.open(path)
            try:
                PackedTable.open(path, verify=False).dequantize()
            except PackedFileError:
                pass
            os.pwrite(file.fileno(), bytes([byte]), place)
    for length in range(len(data) - 1, -1, -1):
        os.truncate(path, length)
        for verify in (True, False):
            with pytest.raises(PackedFileError, match="bad.nq"):
                PackedTable.open(path, verify=verify)


@pytest.mark.parametrize("field,changes,cause", [
    ("float 4 2", {}, "'t' is float, not packed"),
    ("packed 4 2", {}, "field 't' is damaged"),
    ("packed 4 2 x", {}, "field 't' is damaged"),
    ("packed 4 2 -1", {}, "field 't' is damaged"),
    ("packed 9999999999999 2 2", {}, "field 't' is damaged"),
    ("packed 4294967296 2 2", {}, "would have 4294967296 rows"),
    ("packed 4 4097 2", {}, "would have 4 rows, 4097 dimensions"),
    ("packed 4 2 257", {}, "and 257 classes"),
    ("packed 4 2 3", {}, "class table"),
    ("packed 5 2 2", {}, "4 scales instead of 5"),
    ("packed 4 2 2", {"scale": np.float16([1, 1, 1, np.nan])}, "not finite"),
    ("packed 4 2 2", {"offset": np.float16([1, 1, 1, np.inf])}, "not finite"),
    ("packed 4 2 2", {"offset": np.float16([1])}, "'t.offset' has shape"),
    ("packed 4 2 2", {"scale": np.arange(4, dtype=np.uint8)},
     "'t.log' is missing"),
    ("packed 4 2 2", {"scale": np.arange(4, dtype=np.uint8),
                      "log": np.float32([99, 99])}, "not finite"),
    ("packed 4 2 2", {"scale": np.arange(2, dtype=np.uint8),
                      "log4": np.float32([99, 99])}, "not finite"),
    ("packed 4 2 2", {"scale": np.arange(3, dtype=np.uint8),
                      "log4": np.float32([0, 1])},
     "3 bytes of scales instead of 2"),
    ("packed 4 2 2", {"scale": np.uint8([0]), "log4": np.float32([0, 1])},
     "1 bytes of scales instead of 2"),
    ("packed 3 2 2", {"scale": np.uint8([0x11, 0x11]),
                      "log4": np.float32([0, 1])},
     "'t.scale' has a scale beyond those of 3 rows"),
    ("packed 4 2 2", {"scale": np.uint8([1, 1]), "log4": np.float32([0])},
     "'t.log4' has shape"),
    ("packed 4 2 2", {"scale": np.uint8([1, 1]), "log": np.float32([0, 1]),
                      "log4": np.float32([0, 1])}, "has both an array 'log'"),
    ("packed 2000000000 2 1",
     {"scale": np.uint8([1]), "log4": np.float32([0, 1]),
      "classes": np.uint8([1, 0, 0, 0, 1])},
     "1 bytes of scales instead of 1000000000"),
    ("packed 4 2 2", {"scale": np.arange(4)}, "has type I64"),
    ("packed 4 2 2", {"class": np.uint8([0, 0, 0])}, "'t.class' has shape"),
    ("packed 4 2 2", {"class": np.uint8([0, 32])}, "row of class 2"),
    ("packed 4 2 2", {"codes": np.zeros(64, np.uint8)}, "'t.codes' has shape"),
    ("packed 4 2 2", {"codes": None}, "'t.codes' is missing"),
    ("packed 4000000000 2 1",
     {"scale": np.float16([1]), "classes": np.uint8([1, 0, 0, 0, 1])},
     "would have 4000000000 rows"),
    ("packed 2000000000 2 1",
     {"scale": np.float16([1]), "classes": np.uint8([1, 0, 0, 0, 1])},
     "'t.codes' has 4 bytes instead of 2000000000"),
    ("packed 2000000000 2 1",
     {"scale": np.float16([1]), "classes": np.uint8([1, 0, 0, 0, 0])},
     "1 scales instead of 2000000000"),
])
def test_open_refuses(tmp_path, field, changes, cause):
    table = PackedTable.from_codes([[1, 0]] * 4, [1, 2, 1, 2],
                                   scale=[1.0, 2.0, 3.0, 4.0])
    arrays = {**table.encode("t")[1],
              **{f"t.{name}": array for name, array in changes.items()}}
    arrays = {name: array for name, array in arrays.items()
              if array is not None}
    write_container(tmp_path / "bad.nq", "table", {"t": field}, arrays)
    with pytest.raises(PackedFileError, match=cause):
        PackedTable.open(tmp_path / "bad.nq")


def test_open_refuses_other_kinds(tmp_path):
    FloatTable([[1.0]]).save(tmp_path / "f.nq")
    with pytest.raises(PackedFileError, match="'t' is float, not packed"):
        PackedTable.open(tmp_path / "f.nq")


def test_repr_and_resident_bytes():
    table = PackedTable.from_float(np.eye(4), [1, 2, 3, 4], "minmax")
    assert repr(table) == "PackedTable(4, 4, bits=1..4, avg=2.50)"
    # codes, classes, order, scales, offsets
    offsets = 0 if table.offset is None else 8
    assert table.resident_bytes == 6 + 2 + 4 * 4 + 4 * 2 + offsets


def test_groups_share_their_scales(tmp_path):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(90, 12)).astype(np.float32)
    widths, groups = np.resize([1, 2, 2], 90), np.arange(90) // 30
    table = PackedTable.from_float(x, widths, groups=groups)
    assert len(table.classes) == 6
    assert table.encode("t")[1]["t.scale"].nbytes == 2
    for group in range(3):
        for width in (1, 2):
            rows = (groups == group) & (widths == width)
            # The range of the rows' common root mean square.
            span = gaussian_span(x[rows].reshape(1, -1), [width])
            step = np.float16(span[0] / (2**width - 1))
            codes = quantize_rows(x[rows], widths[rows],
                                  np.full(rows.sum(), step * (2**width - 1)),
                                  np.full(rows.sum(),
                                          -step * (2**width - 1) / 2))
            expected = dequantize_rows(codes, np.full(rows.sum(), step),
                                       widths=widths[rows], centered=True)
            assert np.array_equal(table.dequantize()[rows], expected)
    table.save(tmp_path / "t.nq")
    assert np.array_equal(PackedTable.open(tmp_path / "t.nq").dequantize(),
                          table.dequantize())


@pytest.mark.parametrize("change,message", [
    ({"groups": [0]}, "'groups' needs 2 numbers"),
    ({"groups": [0, 0]}, "'scale' needs to be equal within a group"),
    ({"groups": [0, 1], "offset": [0, 0]}, "'offset' needs to be None"),
    ({"groups": [0, 1], "scale_dtype": "log8"}, "'scale_dtype' needs to be"),
    ({"groups": np.arange(257), "codes": np.zeros((257, 1), int),
      "widths": np.ones(257, int), "scale": np.ones(257)}, "at most 256"),
])
def test_groups_refuse(change, message):
    arguments = {"codes": [[1], [0]], "widths": [1, 1], "scale": [1.0, 2.0],
                 **change}
    codes, widths = arguments.pop("codes"), arguments.pop("widths")
    with pytest.raises(ValueError, match=message):
        PackedTable.from_codes(codes, widths, **arguments)
    with pytest.raises(ValueError, match="'range' needs to be symmetric"):
        PackedTable.from_float([[1.0]], 1, "minmax", groups=[0])


def test_codes_with_scales_on_a_grid():
    given = {"codes": [[0, 1], [3, 0], [1, 1]], "widths": [1, 2, 1],
             "scale": [1.0, 4.0, 2.0], "centered": True}
    table = PackedTable.from_codes(**given, scale_dtype="log8", log=(-1, .5))
    assert table.scale.tolist() == [1, 4, 2]
    assert table.encode("t")[1]["t.log"].tolist() == [-1, .5]
    assert table.dequantize().tolist() == [[-.5, .5], [6, -6], [1, 1]]
    with pytest.raises(ValueError, match="'log' needs to be None for scales"):
        PackedTable.from_codes(**given, log=(-1, 1))
    with pytest.raises(ValueError, match="'log' needs to be None if 'groups'"):
        PackedTable.from_codes(**given, groups=[0, 0, 1], log=(-1, 1))


@pytest.mark.parametrize("engine", ["lookup", "numpy"])
def test_rows_without_codes_are_found_by_their_centre(engine):
    rng = np.random.default_rng(0)
    widths = np.where(np.arange(300) % 3, rng.integers(1, 6, 300), 0)
    codes = rng.integers(0, num_levels(widths)[:, None] + 1, (300, 16))
    scale = np.where(widths > 0, .1, rng.integers(0, 2, 300))
    centre = rng.normal(size=16).astype(np.float16)
    table = PackedTable.from_codes(codes, widths, scale=scale, centered=True,
                                   centre=centre)
    table.engine = engine
    rows = table.dequantize().astype(np.float64)
    assert np.array_equal(rows[::3], scale[::3, None] * np.float64(centre))
    for query in (centre.astype(np.float32), rng.normal(size=16)):
        scores, ids = table.topk(query, 20)
        exact = rows @ np.asarray(query, dtype=np.float64)
        order = np.lexsort((np.arange(300), -exact))[:20]
        assert np.array_equal(ids, order)
        assert np.allclose(scores, exact[order])


def test_a_centre_excludes_groups():
    with pytest.raises(ValueError, match="'centre' needs to be None if"):
        PackedTable.from_codes([[0]], [0], scale=[1.0], centered=True,
                               centre=[1.0], groups=[0])
