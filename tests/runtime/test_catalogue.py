from __future__ import annotations

import numpy as np
import pytest

from pyg_nodequant.runtime import Catalogue, UnknownIdError
from pyg_nodequant.runtime.catalogue import IdIndex


@pytest.mark.parametrize("given", [
    [30, "10"], ["30", "10"], np.array([30, 10]), np.array([30.0, 10.0]),
    np.array([30, 10], dtype=np.uint64), np.array(["30", "10"]),
    [" 30 ", "+10"], (np.int32(30), np.uint8(10)),
])
def test_integer_ids(given):
    index = IdIndex([20, 10, 30], "user")
    assert index.rows(given).tolist() == [2, 1]
    assert index.rows([]).tolist() == []


@pytest.mark.parametrize("given", [
    ["b", "12"], ["b", 12], np.array(["b", "12"], dtype=object),
    np.array(["b", "12"]),
])
def test_string_ids(given):
    index = IdIndex(np.array(["12", "a", "b"], dtype=object), "user")
    assert index.rows(given).tolist() == [2, 0]


@pytest.mark.parametrize("ids,given,message", [
    ([20, 10], 11, "unknown user 11: the ids of the 2 users are integers "
     "such as 20"),
    ([20, 10], "x", "unknown user 'x'"),
    ([20, 10], "1_0", "unknown user '1_0'"),
    ([20, 10], "--10", "unknown user '--10'"),
    ([20, 10], 10.5, "unknown user 10.5"),
    ([20, 10], float("nan"), "unknown user nan"),
    ([20, 10], None, "unknown user None"),
    ([20, 10], True, "unknown user True"),
    ([20, 10], 2**70, "unknown user"),
    ([20, 10], 2**63, "unknown user"),
    ([-2**63, 10], "9999999999999999999", "unknown user"),
    (["a", "b"], 1, "unknown user 1: the ids of the 2 users are strings "
     "such as 'a'"),
    (["a", "b"], "A", "unknown user 'A'"),
    (["a", "b"], None, "unknown user None"),
    ([], 1, "the file has no users"),
])
def test_unknown_ids(ids, given, message):
    with pytest.raises(UnknownIdError, match=message):
        IdIndex(ids, "user").rows([given])


@pytest.mark.parametrize("ids,message", [
    ([1, 1], "'user_ids' needs to be distinct"),
    (["a", "a"], "'user_ids' needs to be distinct"),
    ([1, "a"], "integers only or strings only"),
    ([1.5], "integers only or strings only"),
    ([True, False], "integers only or strings only"),
    ([2**70], "pass them as strings"),
    ([[1]], "needs one dimension"),
])
def test_refuses_ids(ids, message):
    with pytest.raises(ValueError, match=message):
        IdIndex(ids, "user")


def test_refuses_nested_queries():
    with pytest.raises(ValueError, match="needs one dimension"):
        IdIndex([1], "user").rows([[1]])


def test_take():
    rows = np.array([[1, -1], [0, 0]])
    numbers = IdIndex([7, 8], "item").take(rows)
    assert numbers.tolist() == [[8, -1], [7, 7]]
    strings = IdIndex(["a", "b"], "item").take(rows)
    assert strings.tolist() == [["b", None], ["a", "a"]]
    assert IdIndex([], "item").take(np.array([-1])).tolist() == [-1]


def test_catalogue():
    catalogue = Catalogue([5, 6], ["x", "y"], ["One", None],
                          ([0, 0, 2], [1, 0]))
    assert catalogue.titles(["y", "x"]) == ["", "One"]
    assert catalogue.seen[1].tolist() == [0, 1]
    assert catalogue.user_ids.tolist() == [5, 6]
    assert catalogue.item_ids.tolist() == ["x", "y"]
    assert repr(catalogue) == "Catalogue(2, 2, seen=2)"
    assert repr(Catalogue([1], [2])) == "Catalogue(1, 1, seen=0)"
    assert Catalogue([1], [2]).titles([2]) == [""]
    # ids 2 + (2 + 2), titles 3 + 2, seen 2 + 2
    assert catalogue.resident_bytes == 15
    with pytest.raises(ValueError, match="needs 2 titles"):
        Catalogue([1], [2, 3], ["one"])
    with pytest.raises(ValueError, match="'seen' needs to be in"):
        Catalogue([1], [2], seen=([0, 1], [1]))


@pytest.mark.parametrize("top,dtype", [(100, "i1"), (1000, "i2"),
                                       (10**6, "i4"), (10**12, "i8")])
def test_integer_ids_are_stored_small(top, dtype):
    index = IdIndex([-top, top], "user")
    assert index.encode("c.user")["c.user"].dtype == dtype
