from __future__ import annotations

import numpy as np
import pytest

from pyg_nodequant.runtime import (
    Catalogue,
    FloatTable,
    PackedGraph,
    PackedRecommender,
    PackedTable,
    UnknownIdError,
)
from pyg_nodequant.runtime.row_fit import fit_rows

U, N, D = 30, 25, 5


def make(seed=0, floats=False, strings=False, bare=False, dtype="float16"):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(U + N, D)).astype(np.float32)
    widths = rng.choice([2, 4, 4, 8], U + N)
    tables = [FloatTable(x[:U]), FloatTable(x[U:])] if floats else [
        PackedTable.from_float(x[:U], widths[:U], scale_dtype=dtype),
        PackedTable.from_float(x[U:], widths[U:], "minmax",
                               scale_dtype=dtype)]
    if bare:
        return PackedRecommender(*tables)
    parts = [np.sort(rng.permutation(N)[:rng.integers(1, 6)])
             for _ in range(U)]
    seen = np.cumsum([0, *map(len, parts)]), np.concatenate(parts)
    ids = [np.arange(U) + 100, np.arange(N) + 1000]
    if strings:
        ids = [np.array([f"x{one}" for one in part], dtype=object)
               for part in ids]
    titles = [f"Title {i}" for i in range(N)]
    return PackedRecommender(*tables,
                             catalogue=Catalogue(*ids, titles, seen),
                             metadata={"name": "living"})


def change(one):
    """A bit of everything that can happen."""
    name = str if one.catalogue and one.catalogue.users.are_strings else int
    u = [f"x{i}" if name is str else i for i in range(100, 160)]
    i = [f"x{i}" if name is str else i for i in range(1000, 1060)]
    rng = np.random.default_rng(7)
    one.append_users(u[40:43], [i[:3], i[4:9], i[2:4]])
    one.append_items(i[30:32], [u[:4], [u[41], u[2]]],
                     [[1, 2, 3, 1], [.5, 1]], titles=["New", None])
    one.remove([u[3], u[40]], [i[5], i[30]])
    one.append_users([u[3]], [[i[6], i[31]]])
    one.append_items([i[5], i[33]], rows=rng.normal(size=(2, D)),
                     user_lists=[[u[3]], []])
    one.remove(item_ids=[i[33]])
    one.append_users([u[44]], rows=rng.normal(size=(1, D)))
    return one


FORMS = [{}, {"floats": True}, {"strings": True}, {"dtype": "log8"},
         {"dtype": "log4"}]


def slow_scores(one):
    """Scores by id, from the rows one by one."""
    users, items = one.catalogue.users, one.catalogue.items
    x = one.users.read(users.live())
    y = one.items.read(items.live())
    out = np.zeros((len(x), len(y)))
    for d in range(D):
        out += x[:, d:d + 1] * y[:, d]
    return users.ids[users.live()], items.ids[items.live()], out


@pytest.mark.parametrize("form", FORMS)
def test_recommend_is_brute_force_over_what_is_left(form):
    one = change(make(**form))
    users, items, scores = slow_scores(one)
    assert (one.num_users, one.num_items) == (len(users), len(items))
    assert len(set(users)) == len(users) == U + 3
    assert len(set(items)) == len(items) == N + 1
    none = None if form.get("strings") else -1
    seen = one.catalogue.seen_by(one.catalogue.users.rows(users))
    for masked in (False, True):
        found, ids = one.recommend(users, len(items), exclude_seen=masked)
        for place in range(len(users)):
            row = scores[place].copy()
            if masked:
                part = seen[1][seen[0][place]:seen[0][place + 1]]
                row[np.isin(one.catalogue.items.live(), part)] = -np.inf
            order = np.argsort(-row, kind="stable")
            assert np.array_equal(found[place], row[order])
            assert ids[place].tolist() == [
                none if row[j] == -np.inf else items[j] for j in order]
    pairs = one.score(users[:9], items[:9])
    assert np.array_equal(pairs, np.diag(scores)[:9])
    with pytest.raises(ValueError, match=rf"'k' .* in \[1, {len(items)}\]"):
        one.recommend(users[0], len(items) + 1)


@pytest.mark.parametrize("form", FORMS)
def test_similar_items_are_never_removed_ones(form):
    one = change(make(**form))
    items = one.catalogue.items
    live = items.ids[items.live()]
    found = one.similar_items(live, 10)[1]
    assert set(found.reshape(-1).tolist()) <= set(live.tolist())
    assert not (found == live[:, None]).any()


@pytest.mark.parametrize("form", FORMS)
def test_a_compact_file_answers_alike(tmp_path, form):
    one = change(make(**form))
    one.compact(tmp_path / "compact.nq")
    two = PackedRecommender.open(tmp_path / "compact.nq")
    same_answers(one, two)
    assert isinstance(two.users, FloatTable if form.get("floats") else
                      PackedTable)
    size = (tmp_path / "compact.nq").stat().st_size
    assert one.storage()["file_bytes"] == size
    assert two.storage() == one.storage()
    assert repr(two) == repr(one)
    assert two.metadata == {"name": "living"}
    one.save(tmp_path / "again.nq")
    assert (tmp_path / "again.nq").read_bytes() == (
        tmp_path / "compact.nq").read_bytes()
    one.save(tmp_path / "bare.nq", bare=True)
    assert (tmp_path / "bare.nq").stat().st_size == (
        one.storage()["embedding_bytes"])


def same_answers(one, two):
    """Bit by bit, whatever is asked."""
    users = one.catalogue.users.ids[one.catalogue.users.live()]
    items = one.catalogue.items.ids[one.catalogue.items.live()]
    assert two.catalogue.users.ids[
        two.catalogue.users.live()].tolist() == users.tolist()
    assert (one.num_users, one.num_items) == (two.num_users, two.num_items)
    for ask in (
        lambda m: m.recommend(users, 7),
        lambda m: m.recommend(users, len(items), exclude_seen=False),
        lambda m: m.recommend(users[:5], 4, exclude=items[3:7]),
        lambda m: m.recommend(users[:5], 4, allow=items[2:9]),
        lambda m: m.similar_items(items, 6),
        lambda m: (m.score(users[0], items), items),
        lambda m: m.recommend_for(items[:3], 9),
        lambda m: m.recommend_for(items[-3:], 9, [1, 2, .5], exclude=False),
        lambda m: (m.fold_in(items[3:6]), m.fold_in_item(users[3:6])),
    ):
        for mine, theirs in zip(ask(one), ask(two), strict=True):
            assert np.array_equal(mine, theirs)
    assert one.catalogue.titles(items) == two.catalogue.titles(items)


def test_appended_users_get_what_recommend_for_says():
    one = make(floats=True)
    items = [1003, 1007, 1011]
    scores, ids = one.recommend_for(items, 8, [1, 2, .5])
    one.append_users([999], [items], [[1, 2, .5]])
    found = one.recommend(999, 8)
    assert np.array_equal(found[0], scores)
    assert np.array_equal(found[1], ids)
    assert not set(items) & set(ids.tolist())


def test_recommend_for():
    one = make()
    y = one.items.dequantize().astype(float)
    scores = y @ one.fold_in([1003, 1007]).astype(float)
    found, ids = one.recommend_for([1003, "1007"], N, exclude=False)
    assert found == pytest.approx(np.sort(scores)[::-1], abs=1e-12)
    _, ids = one.recommend_for([1003, 1007], N)
    assert ids[-2:].tolist() == [-1, -1]
    assert not {1003, 1007} & set(ids.tolist())
    _, ids = one.recommend_for([1003, 1007], 4, allow=[1001, 1002, 1003])
    assert sorted(ids.tolist()) == [-1, -1, 1001, 1002]
    with pytest.raises(ValueError, match="'k' needs to be an integer in"):
        one.recommend_for([1003], N + 1)


def test_rows_that_are_given():
    one = make()
    rows = np.random.default_rng(1).normal(size=(2, D)).astype(np.float32)
    one.append_items([5, 6], rows=rows, width=8)
    expected = fit_rows(make().items, rows, [8 * D, 8 * D]).dequantize()
    assert np.array_equal(one.items.dequantize([N, N + 1]), expected)
    assert one.items.widths[-2:].tolist() == [8, 8]
    assert one.recommend(100, one.num_items, exclude_seen=False)[1].tolist()
    one.append_items([7], [[100, 101]])
    assert one.items.widths[-1] in (4, 8)  # at least the mean


def test_removed_ids_are_unknown_until_they_come_back():
    one = make()
    before = one.recommend(101, N, exclude_seen=False)
    one.remove(user_ids=[101], item_ids=[1004, "1006"])
    assert (one.num_users, one.num_items) == (U - 1, N - 2)
    for call in (lambda: one.recommend(101), lambda: one.score(102, 1004),
                 lambda: one.similar_items(1006), lambda: one.fold_in([1004]),
                 lambda: one.recommend(102, 3, allow=[1006]),
                 lambda: one.catalogue.titles([1004]),
                 lambda: one.remove([101])):
        with pytest.raises(UnknownIdError, match="unknown (user|item)"):
            call()
    with pytest.raises(ValueError, match="rows that were not removed"):
        one.topk_rows([1], 3)
    one.append_users([101], rows=make().users.dequantize([1]), width=8)
    one.append_items([1004], [[102, 103]], titles=["Back"])
    assert one.catalogue.titles([1004]) == ["Back"]
    scores, ids = one.recommend(101, N - 1, exclude_seen=False)
    assert 1006 not in ids and 1004 in ids and len(before[0]) == N


def test_seen_lists_grow():
    one = make()
    one.append_users([999], [[1001, 1002]])
    assert not {1001, 1002} & set(one.recommend(999, N - 2)[1].tolist())
    one.append_items([5], [[999, 100]])
    for user, sees in ((999, False), (100, False), (101, True)):
        assert (5 in one.recommend(user, one.num_items)[1]) == sees


def test_a_bare_file_gets_ids_of_its_own():
    one = make(bare=True)
    one.remove(item_ids=[0])
    one.append_items([77], [[3, 4]])
    ids = one.recommend(2, one.num_items, exclude_seen=False)[1]
    assert sorted(ids.tolist()) == [*range(1, N), 77]
    with pytest.raises(ValueError, match="no seen lists"):
        one.recommend(2)


def test_nothing_changes_when_something_is_wrong():
    one = make()
    before = one.recommend(np.arange(U) + 100, 5)
    for call in (
        lambda: one.append_users([1, 2], [[1001]]),
        lambda: one.append_users([100], [[1001]]),
        lambda: one.append_users([1, 1], [[1001], [1002]]),
        lambda: one.append_users([1], [[5]]),
        lambda: one.append_users([1], [[]]),
        lambda: one.append_users([1]),
        lambda: one.append_users([1], ["1001"]),
        lambda: one.append_users([1], [[1001]], [[1, 2]]),
        lambda: one.append_users([1], weights=[[1]], rows=np.ones((1, D))),
        lambda: one.append_users([1], rows=np.ones((2, D))),
        lambda: one.append_users([1], rows=np.full((1, D), np.nan)),
        lambda: one.append_users([1], [[1001]], width=5),
        lambda: one.append_users(["x"], [[1001]]),
        lambda: one.append_items([1], [[100]], titles=["a", "b"]),
        lambda: one.append_items([1000], [[100]]),
        lambda: one.remove([100], [5]),
    ):
        with pytest.raises(ValueError, match="'|unknown"):
            call()
    assert (one.num_users, one.num_items) == (U, N)
    after = one.recommend(np.arange(U) + 100, 5)
    for a, b in zip(before, after):
        assert np.array_equal(a, b)


def test_with_a_graph():
    plain = make()
    graph = PackedGraph(*plain.catalogue.seen, N, 2)
    one = PackedRecommender(plain.users, plain.items, graph=graph,
                            catalogue=plain.catalogue)
    for call in (lambda: one.append_users([1], [[1001]]),
                 lambda: one.append_items([1], [[100]]),
                 lambda: one.remove([100])):
        with pytest.raises(ValueError, match="propagated on a graph"):
            call()
    # Asking for a new user's items changes nothing, so it is answered.
    assert len(one.recommend_for([1001], 3)[1]) == 3


def test_the_recommender_it_came_from_stays_as_it_is(tmp_path):
    make().save(tmp_path / "m.nq")
    one = PackedRecommender.open(tmp_path / "m.nq")
    base, content = one.users, (tmp_path / "m.nq").read_bytes()
    change(one)
    assert one.users.base is base and len(base) == U
    assert (tmp_path / "m.nq").read_bytes() == content


@pytest.mark.parametrize("floats", [False, True])
def test_a_base_of_nothing(tmp_path, floats):
    empty = FloatTable(np.zeros((0, D))) if floats else (
        PackedTable.from_float(np.zeros((0, D)), 4))
    table = PackedTable.from_float(np.zeros((1, D)), 4)
    one = PackedRecommender(table if not floats else FloatTable(
        np.zeros((1, D))), empty)
    one.save(tmp_path / "base.nq")
    one = PackedRecommender.open(tmp_path / "base.nq")
    if not floats:
        one.users.widths  # noqa: B018
        with pytest.raises(ValueError, match="'width' needs to be one of 0"):
            one.append_items(["a"], rows=np.ones((1, D)), width=4)
    one.append_items(["a", "b"], rows=np.eye(D)[:2])
    one.append_users([8], rows=np.eye(D)[:1] + 1)
    found = one.recommend(8, 2, exclude_seen=False)
    if floats:
        assert found[0].tolist() == [2, 1]
    assert found[1].tolist() == ["a", "b"]
    one.save_delta(tmp_path / "one.nqd")
    two = PackedRecommender.open(tmp_path / "base.nq",
                                 deltas=[tmp_path / "one.nqd"])
    assert np.array_equal(two.recommend(8, 2, exclude_seen=False)[0],
                          found[0])
    one.remove(item_ids=["a", "b"])
    assert one.num_items == 0
    one.compact(tmp_path / "compact.nq")
    assert PackedRecommender.open(tmp_path / "compact.nq").num_items == 0


def test_many_removed_rows():
    # So many that they are left out by a mask instead of by lists.
    one = make()
    gone = one.catalogue.item_ids[::2]
    one.remove(item_ids=gone)
    users = np.repeat(one.catalogue.user_ids, 9)
    scores, ids = one.recommend(users, one.num_items, exclude_seen=False)
    assert not np.isneginf(scores).any()
    assert not np.isin(ids, gone).any()
    single = one.recommend(users[0], one.num_items, exclude_seen=False)
    assert np.array_equal(single[0], scores[0])
