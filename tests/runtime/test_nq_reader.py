import hashlib
import importlib.util
import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest

from pyg_nodequant.runtime import (
    Catalogue,
    FloatTable,
    PackedFileError,
    PackedGraph,
    PackedRecommender,
    PackedTable,
    RowClasses,
)

SCALES = ("float16", "float32", "log8", "log4")


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


nq = load(Path(__file__).with_name("nq_reader.py"))


def saved(content, path, **kwargs):
    content.save(path, **kwargs)
    return nq.read(path)


def assert_rows(file, prefix, table):
    # Bit by bit: -0.0 is not 0.0 here.
    expected = table.dequantize()
    rows = nq.rows(file, prefix)
    assert [len(row) for row in rows] == [expected.shape[1]] * len(expected)
    flat = [x for row in rows for x in row]
    assert struct.pack(f"<{len(flat)}f", *flat) == expected.tobytes()


def random_table(rng, n, d, num_classes, scale_dtype, with_offset=True):
    # Classes are per dimension, per class or the default, as it happens.
    per_dim = rng.random(4) < 0.5
    shapes = [(num_classes, d if x else 1) for x in per_dim]
    shared = np.ones((num_classes, d))
    widths = (rng.integers(0, 9, shapes[0]) * shared).astype(int)
    steps, offsets, uses_offset = 1.0, 0.0, True
    if rng.random() < 0.7:
        steps = rng.normal(size=shapes[1]).astype(rng.choice(["f2", "f4"]))
    if rng.random() < 0.7:
        offsets = rng.normal(size=shapes[2]).astype(rng.choice(["f2", "f4"]))
    if rng.random() < 0.7:
        uses_offset = rng.random(shapes[3]) < 0.5
    classes = RowClasses(widths, steps, offsets, uses_offset)
    class_ids = rng.integers(0, num_classes, n)
    codes = rng.integers(0, 256, (n, d)) % 2 ** widths[class_ids]
    scale = np.exp(rng.normal(size=n))
    if rng.random() < 0.3:
        scale = np.full(n, 0.75)
    elif scale_dtype[:3] != "log":
        scale *= rng.choice([-1, 1], n)
    scale *= rng.random(n) < 0.9
    return PackedTable.from_classes(
        codes,
        class_ids,
        classes,
        scale,
        rng.normal(size=n) if with_offset else None,
        scale_dtype=scale_dtype,
    )


@pytest.mark.parametrize("d", [1, 7, 64, 65, 300])
@pytest.mark.parametrize("num_classes", [1, 2, 16, 17, 256])
def test_classes(tmp_path, num_classes, d):
    rng = np.random.default_rng([num_classes, d])
    for n in (0, 1, 63, 64, 65, 200):
        scale_dtypes = SCALES if d < 300 else [SCALES[n % 4]]
        for scale_dtype in scale_dtypes:
            with_offset = rng.random() < 0.5
            table = random_table(
                rng, n, d, num_classes, scale_dtype, with_offset
            )
            file = saved(table, tmp_path / "table.nq")
            assert nq.form(file, "t") == (n, d, num_classes)
            assert_rows(file, "t", table)


@pytest.mark.parametrize("n", [0, 1, 2, 65, 200])
@pytest.mark.parametrize("num_classes", [1, 3, 16])
def test_gaussian_classes(tmp_path, num_classes, n):
    rng = np.random.default_rng([n, num_classes])
    widths = rng.integers(0, 9, (num_classes, 30))
    spread = np.exp2(rng.uniform(-25, 15, 30))
    base = RowClasses.gaussian(widths, spread)
    steps = rng.normal(size=(num_classes, 30)).astype("f4")
    low = np.float32(-0.5) * steps * np.float32(2.0**widths - 1)
    class_ids = rng.integers(0, num_classes, n)
    codes = rng.integers(0, 256, (n, 30)) % 2 ** widths[class_ids]
    for classes, heads in (
        (base, [2, 3, 4, 0]),
        (RowClasses(widths, base.steps, steps), [2, 3, 18, 0]),
        (RowClasses(widths, steps, low + np.float32(0)), [2, 18, 4, 0]),
    ):
        assert num_classes == 1 or list(classes.to_bytes()[:4]) == heads
        table = PackedTable.from_classes(
            codes,
            class_ids,
            classes,
            np.exp(rng.normal(size=n)),
            scale_dtype="log4",
        )
        file = saved(table, tmp_path / "table.nq")
        assert_rows(file, "t", table)


@pytest.mark.parametrize("scale_dtype", SCALES)
def test_codes_of_every_width(tmp_path, scale_dtype):
    rng = np.random.default_rng(0)
    for offset in (None, "centered", rng.normal(size=200)):
        widths = rng.integers(0, 9, 200)
        table = PackedTable.from_codes(
            rng.integers(0, 256, (200, 7)) % 2 ** widths[:, None],
            widths,
            scale=np.exp2(rng.integers(-20, 12, 200) / 3),
            offset=None if isinstance(offset, str) else offset,
            centered=isinstance(offset, str),
            scale_dtype=scale_dtype,
        )
        file = saved(table, tmp_path / "table.nq")
        assert nq.form(file, "t") == (200, 7, 9)
        assert_rows(file, "t", table)


@pytest.mark.parametrize("scale_dtype", ["float16", "float32"])
@pytest.mark.parametrize("widths", [[0] * 70, [3] * 70, [0, 2] * 35])
def test_shared_scale(tmp_path, widths, scale_dtype):
    codes = np.zeros((70, 5), int)
    table = PackedTable.from_codes(
        codes, widths, scale=np.full(70, 0.3), scale_dtype=scale_dtype
    )
    file = saved(table, tmp_path / "table.nq")
    # A table of one class without codes needs a scale for each row.
    alone = widths != [0] * 70
    assert file["arrays"]["t.scale"][1] == ([1] if alone else [70])
    assert_rows(file, "t", table)


@pytest.mark.parametrize("widths", [[0] * 5, [0, 2, 0, 5, 0]])
def test_rows_without_codes_read_a_centre(tmp_path, widths):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**np.array(widths)[:, None], (5, 6))
    centre = rng.normal(size=6).astype(np.float16)
    table = PackedTable.from_codes(codes, widths, scale=[1, .5, 0, 2, 1],
                                   centered=True, centre=centre)
    rows = table.dequantize()
    assert np.array_equal(rows[[0, 4]], np.float32([centre, centre]))
    assert not rows[2].any()
    assert_rows(saved(table, tmp_path / "t.nq"), "t", table)


@pytest.mark.parametrize("scale_dtype", ["float16", "float32"])
@pytest.mark.parametrize("offset", [None, [-0.0, 0.0, -0.0, 0.0]])
def test_signs_of_zero(tmp_path, offset, scale_dtype):
    table = PackedTable.from_codes(
        np.zeros((4, 3), int),
        [1] * 4,
        scale=[-1.0, -1.0, 1.0, -0.0],
        offset=offset,
        scale_dtype=scale_dtype,
    )
    assert_rows(saved(table, tmp_path / "table.nq"), "t", table)


@pytest.mark.parametrize("range", ["symmetric", "minmax"])
@pytest.mark.parametrize("scale_dtype", SCALES)
def test_quantized_floats(tmp_path, scale_dtype, range):
    rng = np.random.default_rng(1)
    table = PackedTable.from_float(
        rng.normal(size=(130, 65)),
        rng.integers(0, 9, 130),
        range,
        scale_dtype=scale_dtype,
    )
    assert_rows(saved(table, tmp_path / "table.nq"), "t", table)


@pytest.mark.parametrize("n", [0, 1, 65])
def test_floats(tmp_path, n):
    x = np.random.default_rng(2).normal(size=(n, 7)).astype("f")
    file = saved(FloatTable(x), tmp_path / "table.nq")
    flat = [number for row in nq.rows(file, "t") for number in row]
    assert struct.pack(f"<{n * 7}f", *flat) == x.tobytes()


NAMES = ["", "a", "é", "日本語", "🎬 film", "\ud800 alone", "a\0b", "x" * 300]


def random_lists(rng, num_users, num_items):
    lists = [
        sorted(rng.choice(num_items, size, replace=False).tolist())
        for size in rng.integers(0, min(num_items, 9) + 1, num_users)
    ]
    indptr = np.cumsum([0] + [len(x) for x in lists])
    return lists, (indptr, np.array(sum(lists, []), int))


@pytest.mark.parametrize("num_items", [8, 256, 257, 65537])
def test_recommender(tmp_path, num_items):
    rng = np.random.default_rng(num_items)
    user_ids = NAMES
    item_ids = (rng.permutation(num_items) - 100).tolist()
    item_ids[0] = {8: 127, 256: -(2**15), 257: 2**31 - 1}.get(
        num_items, -(2**63)
    )
    titles = [NAMES[i % 8] + str(i) * (i % 3) for i in range(num_items)]
    seen, seen_csr = random_lists(rng, 8, num_items)
    edges, graph_csr = random_lists(rng, 8, num_items)
    users = random_table(rng, 8, 3, 2, "log8")
    items = random_table(rng, num_items, 3, 17, "float16")
    metadata = {"é": [1, None, "x"], "a": {"b": 0.1}}
    model = PackedRecommender(
        users,
        items,
        graph=PackedGraph(*graph_csr, num_items, 3),
        catalogue=Catalogue(user_ids, item_ids, titles, seen_csr),
        metadata=metadata,
    )
    file = saved(model, tmp_path / "full.nq")
    assert_rows(file, "u", users)
    assert_rows(file, "i", items)
    assert nq.ids(file, "user") == user_ids
    assert nq.ids(file, "item") == item_ids
    assert nq.titles(file) == titles
    assert nq.seen(file) == seen
    assert nq.graph(file) == (3, edges)
    assert nq.metadata(file) == metadata

    file = saved(model, tmp_path / "bare.nq", bare=True)
    assert_rows(file, "u", users)
    assert_rows(file, "i", items)
    assert nq.ids(file, "user") == list(range(8))
    assert nq.ids(file, "item") == list(range(num_items))
    assert nq.titles(file) is None
    assert nq.seen(file) is None
    assert nq.graph(file) == (3, edges)
    assert nq.metadata(file) is None


def test_parts_of_a_recommender_may_be_absent(tmp_path):
    users = FloatTable([[1.0, 2.0]])
    items = PackedTable.from_float([[1.0, -1.0], [0.5, 0.0]], 3)
    catalogue = Catalogue([2**40], ["b", "a"])
    model = PackedRecommender(users, items, catalogue=catalogue)
    file = saved(model, tmp_path / "model.nq")
    assert nq.rows(file, "u") == [[1.0, 2.0]]
    assert_rows(file, "i", items)
    assert nq.ids(file, "user") == [2**40]
    assert nq.ids(file, "item") == ["b", "a"]
    assert nq.titles(file) is nq.seen(file) is nq.graph(file) is None


def slow_propagate(file):
    # The formula of docs/format.md, number by number.
    layers, edges = nq.graph(file)
    users, items = nq.rows(file, "u"), nq.rows(file, "i")
    back = [
        [u for u, x in enumerate(edges) if i in x] for i in range(len(items))
    ]

    def layer(first, others, neighbours, others_neighbours):
        rows = []
        for own, near in zip(first, neighbours):
            row = []
            for k, x in enumerate(own):
                for j in near:
                    product = len(near) * len(others_neighbours[j])
                    x += others[j][k] / math.sqrt(product)
                row.append(nq.single(x))
            rows.append(row)
        return rows

    u, i = users, items
    for _ in range(layers):
        u, i = layer(users, i, edges, back), layer(items, u, back, edges)
    factor = nq.single(1 / (layers + 1))
    return [[[nq.single(x * factor) for x in r] for r in s] for s in (u, i)]


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_graph_as_specified(tmp_path, num_layers):
    rng = np.random.default_rng(3)
    users = random_table(rng, 20, 5, 2, "float32")
    items = random_table(rng, 12, 5, 3, "float16")
    _, csr = random_lists(rng, 20, 12)
    graph = PackedGraph(*csr, 12, num_layers)
    model = PackedRecommender(users, items, graph=graph)
    file = saved(model, tmp_path / "model.nq")
    expected = graph.propagate(users.dequantize(), items.dequantize())
    for rows, x in zip(slow_propagate(file), expected):
        assert np.array(rows, "f").tobytes() == x.tobytes()


def small_model():
    widths = [[1, 2, 0], [0, 3, 8]]
    classes = RowClasses(
        widths, steps=[[1, 2, 3], [4, 0.1, 6]], uses_offset=[[1, 0, 1]] * 2
    )
    return PackedRecommender(
        PackedTable.from_codes(
            [[1, 0, 1], [3, 2, 1], [0, 0, 1], [0, 0, 0], [7, 5, 1]],
            [1, 2, 1, 0, 3],
            scale=[1, 2, 3, 4, 5],
            offset=[0, 1, 2, 3, 4],
            scale_dtype="log8",
        ),
        PackedTable.from_classes(
            [[1, 1, 0], [0, 1, 200], [0, 1, 0]],
            [0, 1, 0],
            classes,
            [1, 1, 1],
            [1, 2, 3],
        ),
        graph=PackedGraph([0, 2, 2, 3, 3, 3], [0, 1, 1], 3, 2),
        catalogue=Catalogue(
            list("abcdé"),
            [5, 6, 7],
            list("xyz"),
            ([0, 2, 2, 2, 2, 3], [0, 2, 1]),
        ),
        metadata={"a": 1},
    )


def test_every_flipped_byte_is_refused(tmp_path):
    path = tmp_path / "model.nq"
    saved(small_model(), path)
    data = path.read_bytes()
    rng = np.random.default_rng(4)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= rng.integers(1, 256)
        path.write_bytes(changed)
        with pytest.raises(ValueError):
            nq.read(path)
    for changed in (data[:-1], data[:7], b"", data + b"\0"):
        path.write_bytes(changed)
        with pytest.raises(ValueError):
            nq.read(path)


def number_size(entry):
    _, (dtype, _, _) = entry
    return int(dtype[1:])


def build(fields, arrays, edit=lambda header: header):
    # A file with right checksums, whatever is in it.
    arrays = dict(sorted(arrays.items(), key=number_size, reverse=True))
    fields = {"checksum": "0" * 32} | fields
    fields["sums"] = "".join(nq.digest(x, 8) for _, _, x in arrays.values())
    header, at = {"__metadata__": fields}, 0
    for name, (dtype, shape, data) in arrays.items():
        offsets = [at, at + len(data)]
        header[name] = {"dtype": dtype, "shape": shape}
        header[name]["data_offsets"] = offsets
        at += len(data)
    text = edit(json.dumps(header, separators=(",", ":"))).encode()
    text += b" " * (-len(text) % 8)
    start = struct.pack("<Q", len(text)) + text
    checksum = nq.digest(start, 16).encode()
    start = start.replace(b"0" * 32, checksum, 1)
    return start + b"".join(data for _, _, data in arrays.values())


def parts(file):
    arrays = {}
    for name, (dtype, shape, values) in file["arrays"].items():
        form = f"<{len(values)}{nq.NUMBERS[dtype]}"
        arrays[name] = (dtype, shape, struct.pack(form, *values))
    fields = dict(file["fields"])
    del fields["checksum"]
    return fields, arrays


def field(name, value):
    def change(fields, arrays):
        fields[name] = value

    return change


def byte(name, position, value):
    def change(fields, arrays):
        dtype, shape, data = arrays[name]
        data = bytearray(data)
        data[position] = value
        arrays[name] = (dtype, shape, bytes(data))

    return change


def replaced(name, form, *values):
    def change(fields, arrays):
        dtype = {code: x for x, code in nq.NUMBERS.items()}[form]
        data = struct.pack(f"<{len(values)}{form}", *values)
        arrays[name] = (dtype, [len(values)], data)

    return change


def without(*names):
    def change(fields, arrays):
        for name in names:
            (fields if name in fields else arrays).pop(name)

    return change


REFUSED = {
    "major version": field("version", "2.0"),
    "format": field("format", "x"),
    "kind": field("kind", "x"),
    "no table": without("i"),
    "form": field("u", "packed 5  3 4"),
    "fewer rows": field("u", "packed 4 3 4"),
    "more rows": field("u", "packed 6 3 4"),
    "class without rows in the class table": field("u", "packed 5 3 6"),
    "dimensions": field("i", "packed 3 2 2"),
    "class of a row": byte("u.class", 0, 0x4F),
    "no widths": byte("u.classes", 0, 0),
    "F32 widths": byte("u.classes", 0, 0x11),
    "how steps are written": byte("u.classes", 1, 3),
    "spreads in place of offsets": byte("u.classes", 2, 3),
    "steps that follow from offsets": byte("u.classes", 1, 4),
    "F32 spreads": byte("i.classes", 1, 0x13),
    "how offsets are written": byte("i.classes", 2, 5),
    "how n is written": byte("i.classes", 3, 5),
    "number of steps": byte("u.classes", 1, 0x20),
    "width 9": byte("u.classes", 4, 0x91),
    "more codes": replaced("u.codes", "B", *range(9)),
    "fewer codes": replaced("u.codes", "B", 0),
    "no logarithm": without("u.log"),
    "two kinds of logarithm": replaced("u.log4", "f", 0, 1),
    "NaN as logarithm": replaced("u.log", "f", math.nan, 1),
    "infinite scale": replaced("u.log", "f", 0, 1000),
    "shared logarithm": replaced("u.scale", "B", 1),
    "two scales": replaced("i.scale", "e", 1, 1),
    "infinite offset": replaced("i.offset", "e", 1, math.inf, 1),
    "shared offset": replaced("i.offset", "e", 1),
    "no graph": without("g.degree", "g.item"),
    "layers": field("layers", "65"),
    "edge twice": byte("g.item", 1, 0),
    "item of an edge": byte("g.item", 1, 3),
    "degree": byte("g.degree", 1, 1),
    "seen item": byte("c.seen.item", 1, 3),
    "id twice": byte("c.item", 1, 5),
    "string twice": byte("c.user", 0, ord("b")),
    "not UTF-8": byte("c.user", 0, 0xFF),
    "string sizes": byte("c.user.size", 0, 2),
    "no string sizes": without("c.title.size"),
    "unsigned ids": replaced("c.item", "H", 5, 6, 7),
    "metadata": replaced("c.metadata", "B", ord("{")),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_structure_is_checked(tmp_path, change):
    path = tmp_path / "model.nq"
    fields, arrays = parts(saved(small_model(), path))
    data = path.read_bytes()
    assert build(fields, arrays) == data
    change(fields, arrays)
    path.write_bytes(build(fields, arrays))
    with pytest.raises((ValueError, KeyError)):
        nq.read(path)
    with pytest.raises(PackedFileError):
        PackedRecommender.open(path)


# What the reader alone is strict about.
STRICT = {
    "class of no row": byte("u.class", 2, 0x13),
    "bits left over in codes": byte("i.codes", 3, 0xF0),
    "bits left over in the class table": byte("i.classes", -1, 0xFF),
    "graph without layers": without("layers"),
    "descending edges": byte("g.item", 0, 2),
    "descending seen items": byte("c.seen.item", 0, 2),
    "no degrees of seen items": without("c.seen.degree"),
    "no titles beside their sizes": without("c.title"),
}


@pytest.mark.parametrize("change", STRICT.values(), ids=STRICT)
def test_reader_is_strict(tmp_path, change):
    path = tmp_path / "model.nq"
    fields, arrays = parts(saved(small_model(), path))
    change(fields, arrays)
    path.write_bytes(build(fields, arrays))
    with pytest.raises((ValueError, KeyError)):
        nq.read(path)


@pytest.mark.parametrize(
    "old, new",
    [
        ('"c.seen.item"', '"c.seen.degree"'),
        ('"kind":', '"version":"1.0","kind":'),
        ('"dtype":', '"dtype":"U8","dtype":'),
        ('"sums":"', '"sums":"00'),
        ('"layers":"2"', '"layers":2'),
        ("[0,8]", "[1,9]"),
    ],
)
def test_header_is_checked(tmp_path, old, new):
    path = tmp_path / "model.nq"
    fields, arrays = parts(saved(small_model(), path))
    path.write_bytes(build(fields, arrays, lambda x: x.replace(old, new, 1)))
    assert path.read_bytes() != build(fields, arrays)
    with pytest.raises(ValueError):
        nq.read(path)
    with pytest.raises(PackedFileError):
        PackedRecommender.open(path)


def test_newer_minor_version(tmp_path):
    path = tmp_path / "model.nq"
    model = small_model()
    fields, arrays = parts(saved(model, path))
    fields |= {"version": "1.9", "new": "x"}
    arrays["u.new"] = ("U8", [2], b"12")
    path.write_bytes(build(fields, arrays))
    assert_rows(nq.read(path), "u", model.users)
    opened = PackedRecommender.open(path)
    assert (opened.users.dequantize() == model.users.dequantize()).all()


# Version 1 is fixed for ever: this file is never made anew (golden/make.py).
GOLDEN = Path(__file__).with_name("golden") / "version1.nq"
GOLDEN_SHA256 = (
    "1478d2324f49b4fa4cec84f8f4d5ee37aa1116892c323fde28ade822dea76e96"
)


def numbers(rows):
    return [[float.fromhex(x) for x in row] for row in rows]


def as_bytes(rows):
    return np.array(rows, "d").tobytes()


@pytest.fixture
def golden():
    return json.loads(GOLDEN.with_suffix(".json").read_text("ascii"))


def test_golden_file_is_unchanged():
    data = GOLDEN.read_bytes()
    assert hashlib.sha256(data).hexdigest() == GOLDEN_SHA256


@pytest.mark.parametrize("mmap", [True, False])
def test_package_reads_golden_file(golden, mmap):
    model = PackedRecommender.open(GOLDEN, mmap=mmap)
    for name in ("users", "items"):
        rows = getattr(model, name).dequantize()
        assert as_bytes(rows) == as_bytes(numbers(golden[name]))
    catalogue = model.catalogue
    assert catalogue.user_ids.tolist() == golden["user_ids"]
    assert catalogue.item_ids.tolist() == golden["item_ids"]
    assert catalogue.titles(golden["item_ids"]) == golden["titles"]
    indptr, indices = catalogue.seen
    seen = [indices[a:b].tolist() for a, b in zip(indptr, indptr[1:])]
    assert seen == golden["seen"]
    assert model.metadata == golden["metadata"]

    topk = golden["topk"]
    scores, ids = model.recommend(topk["user_ids"], k=5)
    assert as_bytes(scores) == as_bytes(numbers(topk["scores"]))
    assert ids.tolist() == topk["item_ids"]


def test_reader_reads_golden_file(golden):
    file = nq.read(GOLDEN)
    users, items = nq.rows(file, "u"), nq.rows(file, "i")
    assert as_bytes(users) == as_bytes(numbers(golden["users"]))
    assert as_bytes(items) == as_bytes(numbers(golden["items"]))
    user_ids, item_ids = nq.ids(file, "user"), nq.ids(file, "item")
    assert user_ids == golden["user_ids"]
    assert item_ids == golden["item_ids"]
    assert nq.titles(file) == golden["titles"]
    assert nq.seen(file) == golden["seen"]
    assert nq.graph(file) is None
    assert nq.metadata(file) == golden["metadata"]

    # The best of what is not seen, ties to the lowest row number.
    topk = golden["topk"]
    expected = numbers(topk["scores"])
    for user_id, scores, ids in zip(
        topk["user_ids"], expected, topk["item_ids"]
    ):
        row = user_ids.index(user_id)
        found = sorted(
            (-math.fsum(x * y for x, y in zip(users[row], item)), i)
            for i, item in enumerate(items)
            if i not in nq.seen(file)[row]
        )[:5]
        assert [item_ids[i] for _, i in found] == ids
        assert [-x for x, _ in found] == pytest.approx(scores, rel=1e-12)


GRAPH = GOLDEN.with_name("version1-graph.nq")
GRAPH_SHA256 = (
    "eca553ec14e8a1cb2dda05003d6db8b2636f95cf7b6aadaf3d3e10b423a67a73"
)


def test_golden_graph():
    data = GRAPH.read_bytes()
    assert hashlib.sha256(data).hexdigest() == GRAPH_SHA256
    golden = json.loads(GRAPH.with_suffix(".json").read_text("ascii"))
    model, file = PackedRecommender.open(GRAPH), nq.read(GRAPH)
    for name in ("users", "items", "served_users", "served_items"):
        rows = getattr(model, name).dequantize()
        assert as_bytes(rows) == as_bytes(numbers(golden[name]))
    for prefix, name in (("u", "users"), ("i", "items")):
        rows = nq.rows(file, prefix)
        assert as_bytes(rows) == as_bytes(numbers(golden[name]))
    for name in ("user", "item"):
        ids = golden[f"{name}_ids"]
        assert getattr(model.catalogue, f"{name}_ids").tolist() == ids
        assert nq.ids(file, name) == ids
    indptr, indices = golden["graph"]
    edges = [indices[a:b] for a, b in zip(indptr, indptr[1:])]
    assert nq.graph(file) == (2, edges)
    assert model.graph.indices.tolist() == indices
