from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.testing import withCUDA

from pyg_nodequant import PackedEmbedding, PackedTable
from pyg_nodequant.nn import packed_topk
from pyg_nodequant.runtime import RowClasses

N, D, B = 90, 13, 6
SMALL = 1 << 14  # bytes: blocks of a few rows, one or two queries


def rows(n: int = N, d: int = D, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def general_table() -> PackedTable:
    """Widths, steps and offsets that differ by dimension."""
    rng = np.random.default_rng(0)
    widths = rng.integers(0, 9, size=(3, D))
    classes = RowClasses(widths, rng.normal(size=(3, D)),
                         rng.normal(size=(3, D)),
                         rng.integers(0, 2, size=(3, D)).astype(bool))
    ids = rng.choice([0, 2], size=N)  # no row is of class 1
    codes = (rng.random((N, D)) * (1 << widths[ids])).astype(np.uint8)
    return PackedTable.from_classes(codes, ids, classes, rng.normal(size=N),
                                    rng.normal(size=N))


def close_scores() -> PackedTable:
    """Scores that differ by less than single precision can tell."""
    rng = np.random.default_rng(0)
    offsets = np.where(np.arange(D) % 2, -3e5, 3e5) * (np.arange(D) < D - 1)
    classes = RowClasses([[0] * (D - 1) + [8]], 1e-4, offsets)
    codes = np.zeros((N, D), dtype=np.uint8)
    codes[:, -1] = rng.permutation(256)[:N]
    return PackedTable.from_classes(codes, [0] * N, classes, [1.1] * N,
                                    scale_dtype="float32")


def tables():
    widths = np.random.default_rng(1).integers(0, 9, size=N)
    yield "symmetric", PackedTable.from_float(rows(), widths)
    yield "minmax", PackedTable.from_float(rows(), widths, "minmax")
    yield "float32", PackedTable.from_float(rows(), 3, scale_dtype="float32")
    yield "log8", PackedTable.from_float(rows(), widths, scale_dtype="log8")
    yield "log8 minmax", PackedTable.from_float(rows(), widths, "minmax",
                                                scale_dtype="log8")
    yield "log4", PackedTable.from_float(rows(), widths, scale_dtype="log4")
    yield "ties", PackedTable.from_codes(
        np.arange(N)[:, None] % 2 * np.ones((1, D), int), [1] * N,
        scale=[2.0] * N, centered=True)
    yield "zeros", PackedTable.from_float(np.zeros((N, D)), 0)
    yield "general", general_table()
    yield "close", close_scores()
    rising = rows() * np.linspace(0.1, 9, N)[:, None]
    yield "rising", PackedTable.from_float(rising, 5)
    yield "huge", PackedTable.from_float(rows() * 1e30, 8,
                                         scale_dtype="float32")
    yield "tiny", PackedTable.from_float(rows() * 1e-38, 8,
                                         scale_dtype="float32")


TABLES = dict(tables())
QUERIES = torch.from_numpy(rows(B, seed=9))


def lists(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows to exclude: none, all, or some, with repeats."""
    rng = np.random.default_rng(seed)
    parts = [rng.integers(0, N, size=size) for size in rng.integers(0, N, B)]
    parts[1], parts[2] = np.arange(N), np.arange(0)
    return np.cumsum([0, *map(len, parts)]), np.concatenate(parts)


LIMITS = {
    "all": {},
    "exclude": {"exclude": lists()},
    "allow": {"allow": np.array([5, 80, 3, 5, 44, 7, 61])},
    "both": {"exclude": lists(1), "allow": np.arange(1, N, 3)},
    "nothing": {"allow": np.zeros(0, dtype=np.int64)},
}


def check(table, queries, k, device, max_bytes=1 << 28, **limits):
    expected = table.topk(queries.detach().numpy(), k, **limits)
    for form in (table, PackedEmbedding(table).to(device)):
        scores, ids = packed_topk(form, queries.to(device), k,
                                  max_bytes=max_bytes, **limits)
        assert scores.device == ids.device == device
        assert (scores.dtype, ids.dtype) == (torch.float64, torch.int64)
        assert np.array_equal(ids.cpu().numpy(), expected[1])
        assert np.array_equal(scores.cpu().numpy(), expected[0])


@withCUDA
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("max_bytes", [SMALL, 1 << 28])
def test_same_as_packed_table(device, name, limit, max_bytes):
    for k in (1, 7, N):
        check(TABLES[name], QUERIES, k, device, max_bytes, **LIMITS[limit])


@withCUDA
@pytest.mark.parametrize("limit", LIMITS)
def test_one_row_and_one_query_at_a_time(device, limit):
    check(TABLES["general"], QUERIES, 5, device, 1, **LIMITS[limit])


@withCUDA
def test_rows_are_read_to_the_last_bit(device):
    for table in TABLES.values():
        emb = PackedEmbedding(table).to(device)
        read = emb.read(torch.arange(N, device=device))
        assert read.dtype == torch.float64
        assert np.array_equal(read.cpu().numpy(), table.read(np.arange(N)))


@withCUDA
def test_brute_force_in_plain_python(device):
    table = TABLES["general"]
    scores, ids = packed_topk(table, QUERIES.to(device), 9, max_bytes=SMALL)
    for b, query in enumerate(QUERIES.tolist()):
        found = []
        for i, row in enumerate(table.dequantize().tolist()):
            score = 0.0
            for x, y in zip(query, row):
                score += x * y
            found.append((-score, i))
        found = sorted(found)[:9]
        assert [(-s, i) for s, i in zip(scores[b].tolist(),
                                        ids[b].tolist())] == found


@withCUDA
def test_screening_alone_would_be_wrong(device):
    table, query = TABLES["close"], torch.full((1, D), 1.1)
    screen = torch.from_numpy(table.dequantize()) @ query[0]
    expected = table.topk(query.numpy(), 5)[1][0]
    assert screen.topk(5).indices.tolist() != expected.tolist()
    check(table, query, 5, device)


@withCUDA
def test_products_beyond_single_precision(device):
    check(TABLES["huge"], QUERIES * 1e15, 5, device)
    check(TABLES["tiny"], QUERIES * 1e-30, 5, device)


@withCUDA
@pytest.mark.parametrize("precision", ["medium", "high"])
def test_reduced_precision_of_products(device, precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        check(TABLES["symmetric"], QUERIES, 8, device)
        check(TABLES["close"], QUERIES, 8, device)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"),
                    reason="an older torch has one setting for all")
@pytest.mark.parametrize("owner", ["cuda", "mkldnn", "all"])
def test_what_products_are_distrusted(owner):
    from pyg_nodequant.nn.packed_topk import _single_is_full
    assert _single_is_full()
    holder = {"cuda": torch.backends.cuda.matmul,
              "mkldnn": torch.backends.mkldnn.matmul,
              "all": torch.backends}[owner]
    before = holder.fp32_precision
    holder.fp32_precision = "tf32"
    try:
        assert not _single_is_full()
    finally:
        holder.fp32_precision = before
    assert _single_is_full()


@withCUDA
def test_autocast_and_gradients(device):
    with torch.autocast(device.type, dtype=torch.bfloat16):
        check(TABLES["symmetric"], QUERIES, 8, device)
        check(TABLES["close"], QUERIES, 8, device)
    scores, _ = packed_topk(TABLES["symmetric"],
                            QUERIES.clone().requires_grad_().to(device), 8)
    assert not scores.requires_grad


@withCUDA
def test_forms_of_queries(device):
    table = TABLES["symmetric"]
    check(table, QUERIES[0], 4, device)
    check(table, QUERIES[:0], 4, device)
    check(table, QUERIES.double() / 3, 4, device)
    check(table, QUERIES.bfloat16().float().t().contiguous().t(), 4, device)


@withCUDA
def test_limits_as_tensors(device):
    table, allow = TABLES["minmax"], np.arange(0, N, 2)
    expected = table.topk(QUERIES.numpy(), 5, lists(), allow)
    scores, ids = packed_topk(
        table, QUERIES.to(device), 5,
        tuple(torch.from_numpy(x).to(device) for x in lists()),
        torch.from_numpy(allow).to(device))
    assert np.array_equal(ids.cpu().numpy(), expected[1])
    assert np.array_equal(scores.cpu().numpy(), expected[0])


@withCUDA
def test_padding_row_is_zero(device):
    table = TABLES["symmetric"]
    row = int(table.topk(QUERIES[0].numpy(), 1)[1][0])
    emb = PackedEmbedding(table, row).to(device)
    scores, ids = packed_topk(emb, QUERIES[0].to(device), N)
    place = ids.tolist().index(row)
    assert scores[place] == 0
    assert place > 0


@withCUDA
@pytest.mark.parametrize("name", ["ties", "symmetric"])
@pytest.mark.parametrize("k", [3, 60])
@pytest.mark.parametrize("dim", [5, 64])
def test_memory_is_bounded(device, name, k, dim):
    # The worst case is where all rows tie: each is a candidate.
    n, batch = 300, 40
    table = (PackedTable.from_float(rows(n, dim), 3, "minmax")
             if name == "symmetric" else PackedTable.from_codes(
                 np.ones((n, dim), int), [3] * n, scale=[1.0] * n))
    emb = PackedEmbedding(table).to(device)
    queries = torch.from_numpy(rows(batch, dim)).to(device)
    answer = batch * k * 16
    packed_topk(emb, queries, k)  # BLAS takes what it keeps for itself
    for max_bytes in (1 << 19, 1 << 21):
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            packed_topk(emb, queries, k, max_bytes=max_bytes)
            peak = torch.cuda.max_memory_allocated() - before
        else:
            with Peak() as memory:
                packed_topk(emb, queries, k, max_bytes=max_bytes)
            peak = memory.peak
        assert peak <= max_bytes + answer
        assert peak >= answer


class Peak(TorchDispatchMode):
    """Sums the storages that are made while it is on and are still held."""

    def __init__(self):
        super().__init__()
        self.held, self.peak, self.now = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = {x.untyped_storage().data_ptr() for x in flat(args)}
        out = func(*args, **(kwargs or {}))
        for x in flat((out, )):
            storage = x.untyped_storage()
            key, size = storage.data_ptr(), storage.nbytes()
            if key in known and key not in self.held:
                continue  # a view of an argument
            if size > 0:
                if key not in self.held:
                    self.held[key] = 0
                    self.now += size
                    self.peak = max(self.peak, self.now)
                self.held[key] += 1
                weakref.finalize(x, self.drop, key, size)
        return out

    def drop(self, key, size):
        self.held[key] -= 1
        if self.held[key] == 0:
            del self.held[key]
            self.now -= size


def flat(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from flat(value)


@pytest.mark.parametrize("change, message", [
    ({"k": 0}, r"'k' needs to be an integer in \[1, 90\], the number of rows "
     r"\(got 0\)"),
    ({"k": N + 1}, "'k' needs to be an integer"),
    ({"queries": QUERIES[:, :3]}, r"'queries' needs 13 numbers a row \(got a "
     r"shape of \[6, 3\]\)"),
    ({"queries": QUERIES[None]}, "'queries' needs 13 numbers a row"),
    ({"queries": QUERIES / 0}, "'queries' needs to be finite"),
    ({"queries": QUERIES.double() * 1e300}, "'queries' needs to be finite"),
    ({"exclude": ([0, 1], [2])}, "'exclude' needs an indptr of 7 numbers"),
    ({"exclude": 3}, "'exclude' needs to be a pair"),
    ({"exclude": ([0] + [1] * B, [N])}, r"'exclude' needs to be in \[0, 89\]"),
    ({"allow": [N]}, r"'allow' needs to be in \[0, 89\] \(got 90\)"),
    ({"allow": torch.ones(2)}, "'allow' needs to hold integers"),
    ({"max_bytes": 0}, r"'max_bytes' needs to be an integer of at least 1 "
     r"\(got 0\)"),
])
def test_wrong_arguments(change, message):
    arguments = {"table": TABLES["symmetric"], "queries": QUERIES, "k": 3}
    with pytest.raises(ValueError, match=message):
        packed_topk(**{**arguments, **change})


def test_another_device():
    emb = PackedEmbedding(TABLES["symmetric"])
    with pytest.raises(ValueError, match=r"'queries' needs to be on the "
                       r"device of 'table', cpu \(got meta\)"):
        packed_topk(emb, QUERIES.to("meta"), 3)


