from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pyg_nodequant.runtime import Catalogue, UnknownIdError
from pyg_nodequant.runtime.catalogue import IdIndex
from pyg_nodequant.runtime.grown_catalogue import (
    GrownCatalogue,
    GrownIds,
    SeenPairs,
)


class GrownIdsMachine(RuleBasedStateMachine):
    """Ids against a plain list of what stands in each row."""

    def __init__(self):
        super().__init__()
        self.ids = GrownIds(IdIndex([3, 1, 4], "item"))
        self.rows = [3, 1, 4]  # None where removed
        self.all = [3, 1, 4]

    @rule(new=st.lists(st.integers(0, 9), unique=True, max_size=3))
    def append(self, new):
        if set(new) & set(self.rows):
            with pytest.raises(ValueError, match="needs to hold new items"):
                self.ids.check_new(new)
            return
        self.ids.append(self.ids.check_new(new))
        self.rows += new
        self.all += new

    @rule(data=st.data())
    def remove(self, data):
        live = [row for row, one in enumerate(self.rows) if one is not None]
        if live:
            gone = data.draw(st.lists(st.sampled_from(live), unique=True))
            self.ids.remove(gone)
            for row in gone:
                self.rows[row] = None

    @invariant()
    def finds_what_is_there(self):
        expected = [self.rows.index(one) if one in self.rows else -1
                    for one in range(10)]
        assert self.ids.find(np.arange(10)).tolist() == expected
        assert self.ids.find([str(i) for i in range(10)]).tolist() == expected
        assert self.ids.ids.tolist() == self.all
        rows = np.arange(-1, len(self.all))
        assert self.ids.take(rows).tolist() == [-1, *self.all]
        assert self.ids.live().tolist() == [
            row for row, one in enumerate(self.rows) if one is not None]


GrownIdsMachine.TestCase.settings = settings(max_examples=40, deadline=None)
TestGrownIds = GrownIdsMachine.TestCase


def test_unknown_ids():
    ids = GrownIds(IdIndex(["a", "b"], "user"))
    ids.append(ids.check_new(["c", 12]))
    ids.remove([0, 2])
    assert ids.rows(["b", "12", 12]).tolist() == [1, 3, 3]
    for one in ("a", "c", "d"):
        with pytest.raises(UnknownIdError, match=f"unknown user '{one}': the "
                           "ids of the 2 users are strings such as 'b'"):
            ids.rows(["b", one])
    ids.remove([1, 3])
    with pytest.raises(UnknownIdError, match="has no users"):
        ids.rows(["b"])


@pytest.mark.parametrize("base,new,message", [
    ([1, 2], [5, 5], "'user_ids' needs to be distinct"),
    ([1, 2], [5, 2], r"new users \(got 2, which is there\)"),
    ([1, 2], ["2"], r"new users \(got 2, which is there\)"),
    ([1, 2], ["x"], "needs to hold integers, as those that are there"),
    ([1, 2], [1.5], "integers only or strings only"),
    (["a"], ["a"], r"new users \(got 'a', which is there\)"),
    (["a"], [True], "integers only or strings only"),
])
def test_new_ids_that_are_refused(base, new, message):
    with pytest.raises(ValueError, match=message):
        GrownIds(IdIndex(base, "user")).check_new(new)


@pytest.mark.parametrize("new", [["x", "y"], [7, 8]])
def test_nothing_in_the_base(new):
    ids = GrownIds(IdIndex([], "user"))
    ids.append(ids.check_new(new))
    assert ids.rows(new).tolist() == [0, 1]
    assert ids.are_strings == isinstance(new[0], str)
    assert ids.take(np.array([1, -1])).tolist() == [
        new[1], None if ids.are_strings else -1]


def test_seen_lists():
    rng = np.random.default_rng(0)
    sets = [set(rng.permutation(6)[:rng.integers(0, 5)].tolist())
            for _ in range(4)]
    indptr = np.cumsum([0, *map(len, sets)])
    catalogue = GrownCatalogue(Catalogue(
        range(4), range(6), None,
        (indptr, np.array([one for part in sets for one in sorted(part)]))))
    assert catalogue.has_seen
    for step in range(8):
        if step % 2:
            new, users = 6 + step // 2, rng.permutation(len(sets))[:3]
            catalogue.items.append(catalogue.items.check_new([new]))
            catalogue.added.add(users, np.full(3, new))
            for user in users:
                sets[user].add(new)
        else:
            items = rng.permutation(len(catalogue.items))[:4]
            user = len(sets)
            catalogue.users.append(catalogue.users.check_new([user]))
            catalogue.added.add(np.full(4, user), items)
            sets.append(set(items.tolist()))
        rows = rng.integers(0, len(sets), 7)
        found = catalogue.seen_by(rows)
        for place, row in enumerate(rows):
            part = found[1][found[0][place]:found[0][place + 1]]
            assert part.tolist() == sorted(sets[row])
    assert np.diff(catalogue.seen[0]).tolist() == [len(one) for one in sets]
    catalogue.users.remove([0, 5])
    catalogue.items.remove([2, 7])
    flat = catalogue.flat()
    users, items = catalogue.users.live(), catalogue.items.live().tolist()
    for place, user in enumerate(users):
        part = flat.seen[1][flat.seen[0][place]:flat.seen[0][place + 1]]
        assert [items[row] for row in part] == sorted(sets[user] - {2, 7})
    assert flat.item_ids.tolist() == items


def test_no_seen_lists():
    catalogue = GrownCatalogue(Catalogue([1], [2]))
    assert catalogue.seen is None and not catalogue.has_seen
    assert catalogue.seen_by(np.array([0])) is None
    assert catalogue.flat().seen is None


def test_titles():
    base = Catalogue([1], [2, 3], ["two", "three"])
    catalogue = GrownCatalogue(base)
    catalogue.add_items(np.array([4]), ["four"])
    catalogue.add_items(np.array([5, 6]))
    catalogue.add_items(np.array([7]), [None])
    assert catalogue.titles([6, 4, 2]) == ["", "four", "two"]
    assert base.item_titles == ["two", "three"]
    catalogue.items.remove([0])
    assert catalogue.flat().item_titles == ["three", "four", "", "", ""]
    plain = GrownCatalogue(Catalogue([1], [2]))
    plain.add_items(np.array([4]))
    assert plain.item_titles is None and plain.titles([4]) == [""]
    plain.add_items(np.array([5]), ["five"])
    assert plain.titles([2, 5]) == ["", "five"]


def test_pairs_are_kept_once():
    pairs = SeenPairs()
    pairs.add([2**31 - 1, 0], [2**31 - 1, 5])
    pairs.add([0], [5])
    assert len(pairs) == 2
    assert pairs.users.tolist() == [0, 2**31 - 1]
    assert pairs.items.tolist() == [5, 2**31 - 1]
    assert pairs.lists(np.array([2**31 - 1]))[1].tolist() == [2**31 - 1]
