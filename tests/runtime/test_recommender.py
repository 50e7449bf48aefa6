from __future__ import annotations

import os

import numpy as np
import pytest

from pyg_nodequant.runtime import (
    Catalogue,
    FloatTable,
    PackedFileError,
    PackedGraph,
    PackedRecommender,
    PackedTable,
    UnknownIdError,
    recommender,
)
from pyg_nodequant.runtime.file_format import read_container, write_container

U, N, D = 12, 17, 5


def lists(rng, rows, cols, most=4):
    parts = [np.sort(rng.choice(cols, rng.integers(0, most), replace=False))
             for _ in range(rows)]
    indptr = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    return indptr, np.concatenate(parts)


def model(seed=0, graph=False, strings=False, floats=False, catalogue=True):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(U + N, D)).astype(np.float32)
    x[U + 3] = x[U + 8]
    if floats:
        users, items = FloatTable(x[:U]), FloatTable(x[U:])
    else:
        widths = rng.integers(1, 9, U + N)
        widths[U + 3] = widths[U + 8]
        users = PackedTable.from_float(x[:U], widths[:U])
        items = PackedTable.from_float(x[U:], widths[U:], "minmax")
    seen = lists(rng, U, N)
    user_ids, item_ids = np.arange(U) * 3 + 100, np.arange(N) * 2 + 1000
    if strings:
        user_ids = np.array([f"u{i}" for i in user_ids], dtype=object)
        item_ids = np.array([f"ü{i}" for i in item_ids], dtype=object)
    titles = [f"Title {i} ♪" for i in range(N)]
    return PackedRecommender(
        users, items,
        graph=PackedGraph(*lists(rng, U, N), N, 2) if graph else None,
        catalogue=Catalogue(user_ids, item_ids, titles, seen)
        if catalogue else None,
        metadata={"name": "tëst", "ks": [10, 20]} if catalogue else None)


def brute_force(model):
    x = model.served_users.dequantize().astype(float)
    y = model.served_items.dequantize().astype(float)
    scores = np.zeros((len(x), len(y)))
    for k in range(model.dim):
        scores += x[:, k:k + 1] * y[:, k]
    return scores


def top(scores, k):
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :k]
    best = np.take_along_axis(scores, order, axis=-1)
    return best, np.where(np.isneginf(best), -1, order)


FORMS = [{}, {"graph": True}, {"strings": True}, {"floats": True},
         {"catalogue": False}, {"graph": True, "floats": True}]


@pytest.mark.parametrize("form", FORMS)
def test_topk_rows(form):
    one = model(**form)
    scores = brute_force(one)
    rows = np.array([3, 0, 3, 11])
    for k in (1, N):
        found, items = one.topk_rows(rows, k)
        expected = top(scores[rows], k)
        assert np.array_equal(found, expected[0])
        assert np.array_equal(items, expected[1])
    exclude = (np.array([0, 2, 2, 5, 5]), np.array([4, 1, 0, 2, 1]))
    allow = [0, 1, 2, 4, 9]
    masked = np.full((4, N), -np.inf)
    masked[:, allow] = scores[rows][:, allow]
    masked[0, [4, 1]] = masked[2, [0, 2, 1]] = -np.inf
    found, items = one.topk_rows(rows, 6, exclude, allow)
    expected = top(masked, 6)
    assert np.array_equal(found, expected[0])
    assert np.array_equal(items, expected[1])


def test_topk_rows_of_a_batch_in_parts(monkeypatch):
    one = model()
    rows = np.random.default_rng(0).integers(0, U, 50)
    exclude = lists(np.random.default_rng(1), 50, N)
    whole = one.topk_rows(rows, 9, exclude)
    monkeypatch.setattr(recommender, "_BATCH_NUMBERS", 7 * D)
    parts = one.topk_rows(rows, 9, exclude)
    assert np.array_equal(whole[0], parts[0])
    assert np.array_equal(whole[1], parts[1])
    similar = one.similar_items(one.catalogue.item_ids, 5)[1]
    assert np.array_equal(similar[3:4], one.similar_items([1006], 5)[1])
    pairs = rows % U, rows % N
    scores = one.score(one.catalogue.user_ids[pairs[0]],
                       one.catalogue.item_ids[pairs[1]])
    assert np.array_equal(scores, brute_force(one)[pairs])


@pytest.mark.parametrize("form", [{}, {"graph": True}, {"strings": True}])
def test_recommend_by_original_ids(form):
    one = model(**form)
    ids = one.catalogue
    scores = brute_force(one)
    for u in range(U):
        scores[u, ids.seen[1][ids.seen[0][u]:ids.seen[0][u + 1]]] = -np.inf
    found, items = one.recommend(ids.user_ids, N)
    best, rows = top(scores, N)
    assert np.array_equal(found, best)
    none = None if form.get("strings") else -1
    for u in range(U):
        assert items[u].tolist() == [
            none if row < 0 else ids.item_ids[row] for row in rows[u]]
    single = one.recommend(ids.user_ids[4], 3)
    assert single[0].shape == (3, )
    assert single[1].tolist() == items[4, :3].tolist()
    default = one.recommend([ids.user_ids[4]], 3)
    assert default[1].shape == (1, 3)
    seen = one.recommend(ids.user_ids, N, exclude_seen=False)[0]
    assert not np.isneginf(seen).any()


def test_recommend_reads_text_and_arrays():
    one = model()
    expected = one.recommend(103, 5)[1].tolist()
    for user in ("103", np.int32(103), np.array(103), np.array("103"),
                 np.str_("103")):
        assert one.recommend(user, 5)[1].tolist() == expected
    for users in (["103"], np.array([103]), np.array(["103"])):
        assert one.recommend(users, 5)[1].tolist() == [expected]


def test_recommend_candidates(monkeypatch):
    one = model()
    allow = ["1000", 1004, 1006, 1006]
    _, items = one.recommend([100, 103], 6, exclude_seen=False, allow=allow,
                             exclude=[1006, "1032"])
    assert sorted(items[0].tolist()) == [-1, -1, -1, -1, 1000, 1004]
    # By lists of each user, or by a mask of the items.
    for most in (0, 1 << 20):
        monkeypatch.setattr(recommender, "_LIST_NUMBERS", most)
        for hidden in (True, False):
            found = one.recommend([100, 103], N, exclude_seen=hidden)
            rest = one.recommend([100, 103], N, exclude_seen=hidden,
                                 exclude=[1006, 1032])
            for before, after in zip(found[1], rest[1], strict=True):
                kept = before[~np.isin(before, [1006, 1032])]
                assert after[:len(kept)].tolist() == kept.tolist()
                assert (after[len(kept):] == -1).all()
    _, items = one.recommend(100, N, exclude_seen=False, exclude=[1006])
    assert 1006 not in items and (items == -1).sum() == 1
    scores, items = one.recommend(100, 2, allow=[])
    assert np.isneginf(scores).all() and (items == -1).all()
    for name in ("allow", "exclude"):
        with pytest.raises(UnknownIdError, match="unknown item 5: the ids"):
            one.recommend(100, 2, **{name: [1000, 5]})


@pytest.mark.parametrize("k", [0, -1, N + 1, 2.5, None])
def test_k_out_of_range(k):
    one = model()
    for call in (lambda: one.recommend(100, k),
                 lambda: one.similar_items(1000, k),
                 lambda: one.topk_rows([0], k)):
        with pytest.raises(ValueError, match=rf"'k' .* in \[1, {N}\]"):
            call()


def test_unknown_users():
    one = model()
    with pytest.raises(UnknownIdError, match="unknown user 101"):
        one.recommend([100, 101], 3)
    with pytest.raises(UnknownIdError, match="unknown user 'x'"):
        one.recommend("x", 3)
    assert issubclass(UnknownIdError, ValueError)
    with pytest.raises(ValueError, match="'user_rows' needs to be in"):
        one.topk_rows([U], 1)


def test_similar_items():
    one = model()
    y = one.items.dequantize().astype(float)
    y /= np.sqrt((y * y).sum(axis=1))[:, None]
    cosine = y @ y.T
    expected = cosine.copy()
    np.fill_diagonal(expected, -np.inf)
    found, items = one.similar_items(one.catalogue.item_ids, N)
    best, rows = top(expected, N)
    assert found[:, :-1] == pytest.approx(best[:, :-1], abs=1e-12)
    assert np.isneginf(found[:, -1]).all() and (items[:, -1] == -1).all()
    assert (np.abs(cosine[np.arange(N)[:, None], rows] - found)[:, :-1]
            < 1e-12).all()
    single = one.similar_items("1006", 1)
    assert single[1].tolist() == [1016]
    assert single[0] == pytest.approx(1)


def test_similar_items_of_zero_rows():
    rows = FloatTable([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    scores, ids = PackedRecommender(rows, rows).similar_items([0, 1], 2)
    assert scores.tolist() == [[0, 0], [0, 0]]
    assert ids.tolist() == [[1, 2], [0, 2]]


def test_score():
    one = model()
    scores = brute_force(one)
    users, items = one.catalogue.user_ids, one.catalogue.item_ids
    assert one.score(103, "1004") == scores[1, 2]
    assert isinstance(one.score(103, 1004), float)
    assert np.array_equal(one.score(103, items), scores[1])
    assert np.array_equal(one.score(users, 1004), scores[:, 2])
    assert np.array_equal(one.score(users, items[:U]), np.diag(scores[:, :U]))
    assert one.score([], []).shape == (0, )
    with pytest.raises(ValueError, match="'item_ids' needs 2 items"):
        one.score(users[:2], items[:3])
    best, ids = one.recommend(103, 4, exclude_seen=False)
    assert np.array_equal(one.score(103, ids), best)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bare", [False, True])
def test_save_and_open(tmp_path, form, bare):
    one = model(**form)
    path = tmp_path / "model.nq"
    one.save(path, bare=bare)
    two = PackedRecommender.open(path)
    for a, b in zip(one.topk_rows(np.arange(U), N),
                    two.topk_rows(np.arange(U), N), strict=True):
        assert np.array_equal(a, b)
    storage = one.storage()
    assert path.stat().st_size == storage["embedding_bytes" if bare else
                                          "file_bytes"]
    assert two.storage()["embedding_bytes"] == storage["embedding_bytes"]
    assert (two.num_users, two.num_items, two.dim) == (U, N, D)
    assert two.resident_bytes == one.resident_bytes
    assert repr(two) == repr(one)
    if bare:
        assert two.catalogue is None and two.metadata == {}
        assert two.recommend("3", 4, exclude_seen=False)[1].tolist() == (
            one.topk_rows([3], 4)[1][0].tolist())
        with pytest.raises(ValueError, match="'exclude_seen' needs to be Fal"):
            two.recommend(3, 4)
    else:
        assert two.metadata == one.metadata
    if one.catalogue is not None and not bare:
        user = one.catalogue.user_ids[2]
        assert two.recommend(user, 5)[1].tolist() == (
            one.recommend(user, 5)[1].tolist())
        assert two.catalogue.item_titles == one.catalogue.item_titles
        assert np.array_equal(two.catalogue.item_ids, one.catalogue.item_ids)
        assert np.array_equal(two.catalogue.seen[1], one.catalogue.seen[1])
    two.save(tmp_path / "again.nq", bare=bare)
    assert (tmp_path / "again.nq").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_storage(form):
    one = model(**form)
    storage = one.storage()
    parts = storage["parts"]
    assert sum(parts.values()) == storage["file_bytes"]
    catalogue = {"catalogue_header", "ids", "titles", "seen", "metadata"}
    assert storage["embedding_bytes"] == sum(
        size for name, size in parts.items() if name not in catalogue)
    assert storage["num_nodes"] == U + N
    assert storage["float_bytes"] == 256 * (U + N)
    per_node = storage["embedding_bytes"] / (U + N)
    assert storage["bytes_per_node"] == pytest.approx(per_node)
    assert storage["bits_per_parameter"] == pytest.approx(per_node / 8)
    assert storage["compression_ratio"] == pytest.approx(256 / per_node)
    if form.get("floats"):
        assert storage["mean_bit_width"] == 32
        assert parts["float_rows"] == 4 * D * (U + N)
    else:
        widths = np.concatenate([one.users.widths, one.items.widths])
        assert storage["mean_bit_width"] == pytest.approx(widths.mean())
    assert (parts["graph"] > 0) == bool(form.get("graph"))
    assert (parts["ids"] > 0) == form.get("catalogue", True)


def test_two_bits_of_movielens_fit_the_budget():
    # 943 users and 1,682 items at a mean of 2.0 bits: 2.4 true bits a number.
    rng = np.random.default_rng(0)
    widths = np.resize([1, 1, 2, 2, 3, 3, 4, 0, 2, 2, 1, 1, 1, 5, 2, 2],
                       2625)
    widths[-1] += 2 * 2625 - widths.sum()
    assert widths.mean() == 2.0 and 0 <= widths[-1] <= 8
    for node, width in ((0, 8), (1, 7), (2, 6), (1000, 8), (1001, 7),
                        (1002, 6)):
        widths[node] = width
    spare = np.flatnonzero(widths == 2)[:widths.sum() - 2 * 2625]
    widths[spare] = 1
    assert widths.mean() == 2.0
    x = rng.normal(size=(2625, 64)).astype(np.float32)
    one = PackedRecommender(PackedTable.from_float(x[:943], widths[:943]),
                            PackedTable.from_float(x[943:], widths[943:]))
    storage = one.storage()
    assert storage["mean_bit_width"] == 2.0
    assert storage["bits_per_parameter"] <= 2.4
    parts = storage["parts"]
    assert parts["scales"] == 5250 and parts["class_ids"] <= 1313
    assert parts["codes"] == 42000
    assert storage["embedding_bytes"] - 42000 - 5250 - 1313 < 1000


def test_graph_is_served_as_floats():
    one = model(graph=True)
    assert isinstance(one.served_users, FloatTable)
    rows = one.graph.propagate(one.users.dequantize(),
                               one.items.dequantize())
    assert np.array_equal(one.served_users.rows, rows[0])
    assert np.array_equal(one.served_items.rows, rows[1])
    assert one.resident_bytes > 4 * D * (U + N)


def test_scores_are_within_the_tolerance_of_floats():
    one = model()
    x, y = one.users.dequantize(), one.items.dequantize()
    found, items = one.topk_rows(np.arange(U), N)
    scores = np.take_along_axis(x @ y.T, items, axis=1)
    bound = np.take_along_axis(np.abs(x) @ np.abs(y).T, items, axis=1)
    assert (np.abs(scores - found) <= 1e-5 * bound).all()


def flips(path):
    # Each time one bit of one byte differs, for all bytes in turn.
    data = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(data):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << place % 8]), place)
            yield place
            os.pwrite(file.fileno(), bytes([byte]), place)


def truncations(path):
    for length in range(path.stat().st_size - 1, -1, -1):
        os.truncate(path, length)
        yield length


def test_every_flip_and_every_truncation(tmp_path):
    path = tmp_path / "bad.nq"
    model(graph=True, strings=True).save(path)
    for change in (flips, truncations):
        for _ in change(path):
            with pytest.raises(PackedFileError, match="bad.nq"):
                PackedRecommender.open(path)


def test_damage_that_the_checksum_is_not_asked_for(tmp_path):
    # Without the checksum a flip may go unnoticed, but nothing else happens.
    path = tmp_path / "bad.nq"
    model(graph=True).save(path)
    for place in flips(path):
        if place % 3:
            continue
        try:
            two = PackedRecommender.open(path, verify=False)
            two.topk_rows(np.arange(two.num_users), 3)
        except PackedFileError:
            pass


@pytest.mark.parametrize("changes,fields,cause", [
    ({"c.user": np.zeros(U, np.int8)}, {}, "distinct"),
    ({"c.user": np.arange(3, dtype=np.int8)}, {}, "'c.user' has shape"),
    ({"c.title": np.full(10, 255, np.uint8),
      "c.title.size": np.uint8([10] + [0] * (N - 1))}, {}, "not UTF-8"),
    ({"c.seen.item": np.full(1, N, np.uint8),
      "c.seen.degree": np.uint8([1] + [0] * (U - 1))}, {},
     "'c.seen.item' needs to be in"),
    ({"c.metadata": np.frombuffer(b"{oops", np.uint8)}, {}, "not a valid"),
    ({"c.metadata": np.frombuffer(b"[1]", np.uint8)}, {}, "not a valid"),
    ({"g.item": np.full(1, N, np.uint8),
      "g.degree": np.uint8([1] + [0] * (U - 1))}, {}, "'graph' needs"),
    ({}, {"layers": "x"}, "'num_layers'"),
    ({}, {"layers": "99"}, "'num_layers'"),
    ({}, {"i": "float 3 5"}, "'i.rows' is missing"),
])
def test_open_refuses(tmp_path, changes, fields, cause):
    one = model(graph=True)
    one.save(tmp_path / "model.nq")
    content = read_container(tmp_path / "model.nq", "recommender")
    own = {name: content.fields[name] for name in ("u", "i", "layers")}
    write_container(tmp_path / "bad.nq", "recommender", {**own, **fields},
                    {**content.arrays, **changes})
    with pytest.raises(PackedFileError, match=cause):
        PackedRecommender.open(tmp_path / "bad.nq")


def test_overflow_while_propagating_is_the_files_fault(tmp_path):
    rows = FloatTable(np.full((3, 1), 3e38))
    graph = PackedGraph([0, 3, 6, 9], [0, 1, 2] * 3, 3, 3)
    with pytest.raises(ValueError, match="finite"):
        PackedRecommender(rows, rows, graph=graph)


def test_parts_that_do_not_belong_together():
    two, three = FloatTable(np.eye(2)), FloatTable(np.eye(3))
    with pytest.raises(ValueError, match=r"equal dimensions \(got 2 and 3\)"):
        PackedRecommender(two, three)
    with pytest.raises(ValueError, match="'graph' needs 2 users"):
        PackedRecommender(two, two, graph=PackedGraph([0, 0], [], 2, 1))
    with pytest.raises(ValueError, match="'catalogue' needs 2 users"):
        PackedRecommender(two, two, catalogue=Catalogue([1], [1, 2]))
    for metadata in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises(ValueError, match="'metadata' needs to hold"):
            PackedRecommender(two, two, metadata=metadata)


def test_no_users_and_no_items(tmp_path):
    empty, some = PackedTable.from_float(np.zeros((0, 2)), 2), FloatTable(
        np.eye(2))
    one = PackedRecommender(empty, some)
    one.save(tmp_path / "m.nq")
    assert PackedRecommender.open(tmp_path / "m.nq").num_users == 0
    assert one.topk_rows([], 1)[0].shape == (0, 1)
    none = PackedRecommender(some, empty)
    with pytest.raises(ValueError, match=r"in \[1, 0\]"):
        none.topk_rows([0], 1)
    assert PackedRecommender(empty, empty).storage()["bytes_per_node"] > 0
