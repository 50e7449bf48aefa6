from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_nodequant.runtime import (
    Catalogue,
    FloatTable,
    PackedFileError,
    PackedFormatError,
    PackedRecommender,
    PackedTable,
)
from pyg_nodequant.runtime.file_format import read_container, write_container

D = 4
FORMS = ["float16", "log8", "log4", "minmax", "floats", "one class", "shared"]


def make(form="float16", strings=False):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(50, D)).astype(np.float32)
    if form == "floats":
        tables = FloatTable(x[:20]), FloatTable(x[20:])
    else:
        options = {"scale_dtype": form if form[:3] == "log" else "float16"}
        if form == "shared":
            options["groups"] = np.arange(50) % 2
        widths = rng.choice([3] if form == "one class" else [2, 4, 8], 50)
        kind = "minmax" if form == "minmax" else "symmetric"
        tables = [PackedTable.from_float(
            x[part], widths[part], kind,
            **{name: one[part] if name == "groups" else one
               for name, one in options.items()})
            for part in (slice(20), slice(20, None))]
    parts = [np.sort(rng.permutation(30)[:4]) for _ in range(20)]
    seen = np.arange(21) * 4, np.concatenate(parts)
    ids = np.arange(20), np.arange(30)
    if strings:
        ids = [np.array([f"{one}" for one in part], dtype=object)
               for part in ids]
    return PackedRecommender(*tables, catalogue=Catalogue(*ids, None, seen),
                             metadata={"is": form})


def step(one, rng):
    """A random change."""
    users, items = (index.ids[index.live()].tolist()
                    for index in (one.catalogue.users, one.catalogue.items))
    kind = type(users[0])
    pick = lambda ids, n: [ids[j] for j in rng.permutation(len(ids))[:n]]  # noqa: E731
    what = rng.integers(0, 5)
    free = [kind(j) for j in range(90) if kind(j) not in users]
    other = [kind(j) for j in range(90) if kind(j) not in items]
    if what == 0:
        one.append_users(pick(free, 2), [pick(items, 3), pick(items, 2)])
    elif what == 1:
        one.append_items(pick(other, 2), [pick(users, 3), pick(users, 2)],
                         titles=["a", "b"] if rng.random() < .5 else None)
    elif what == 2 and len(users) > 8:
        one.remove(user_ids=pick(users, 2))
    elif what == 3 and len(items) > 8:
        one.remove(item_ids=pick(items, 2))
    else:
        one.append_items(pick(other, 1), rows=rng.normal(size=(1, D)))


def answers(one):
    users, items = (index.ids[index.live()]
                    for index in (one.catalogue.users, one.catalogue.items))
    return [users.tolist(), items.tolist(), one.catalogue.titles(items),
            *[part.tolist() for part in one.recommend(users, len(items))],
            *[part.tolist() for part in one.similar_items(items, 5)],
            one.fold_in(items[:3]).tolist(),
            one.fold_in_item(users[:3]).tolist()]


@given(st.integers(0, 10**6), st.sampled_from(FORMS), st.booleans())
@settings(max_examples=40, deadline=None)
def test_base_and_deltas_are_what_was_saved(tmp_path_factory, seed, form,
                                            strings):
    folder = tmp_path_factory.mktemp("deltas")
    base = folder / "base.nq"
    make(form, strings).save(base)
    content = base.read_bytes()
    rng = np.random.default_rng(seed)
    one, deltas = PackedRecommender.open(base), []
    for place in range(int(rng.integers(1, 4))):
        for _ in range(int(rng.integers(0, 4))):
            step(one, rng)
        deltas.append(folder / f"{place}.nqd")
        one.save_delta(deltas[-1])
        if rng.random() < .5:  # go on from the files
            one = PackedRecommender.open(base, deltas=deltas)
    two = PackedRecommender.open(base, deltas=deltas)
    assert answers(one) == answers(two)
    # One delta of everything, and one ordinary file, say the same.
    one.save_delta(folder / "all.nqd", since_base=True)
    assert answers(PackedRecommender.open(
        base, deltas=[folder / "all.nqd"])) == answers(one)
    two.compact(folder / "compact.nq")
    assert answers(PackedRecommender.open(folder / "compact.nq")) == (
        answers(one))
    one.compact(folder / "same.nq")
    assert (folder / "same.nq").read_bytes() == (
        folder / "compact.nq").read_bytes()
    assert base.read_bytes() == content


@pytest.fixture
def files(tmp_path):
    base = tmp_path / "base.nq"
    make().save(base)
    one = PackedRecommender.open(base)
    one.append_users([50], [[1, 2]])
    one.remove([3], [4])
    one.save_delta(tmp_path / "1.nqd")
    one.append_items([60], [[50, 1]], titles=["six"])
    one.save_delta(tmp_path / "2.nqd")
    return tmp_path


def open_all(folder, *names):
    return PackedRecommender.open(folder / "base.nq",
                                  deltas=[folder / name for name in names])


def test_deltas_are_small(files):
    base = PackedRecommender.open(files / "base.nq")
    assert (files / "2.nqd").stat().st_size < 1100
    names = set(read_container(files / "2.nqd", "delta").arrays)
    assert not names & {"i.classes", "i.log", "u.codes", "c.user"}
    one = open_all(files, "1.nqd", "2.nqd")
    assert one.items.base.resident_bytes == base.items.resident_bytes


def test_the_order_and_the_base_matter(files):
    assert open_all(files, "1.nqd", "2.nqd").num_items == 30
    for names in (["2.nqd"], ["2.nqd", "1.nqd"], ["1.nqd", "1.nqd"]):
        with pytest.raises(PackedFormatError, match="it follows the file of"):
            open_all(files, *names)
    other = make("log8")
    other.save(files / "base.nq")
    with pytest.raises(PackedFormatError, match=r"1.nqd.* it is a delta of an"
                       r"other base file \(of checksum [0-9a-f]{32}, this one"
                       r" has [0-9a-f]{32}\)"):
        open_all(files, "1.nqd")
    with pytest.raises(PackedFormatError, match="holds a delta, not a recom"):
        PackedRecommender.open(files / "1.nqd")
    with pytest.raises(PackedFormatError, match="holds a recommender, not a"):
        open_all(files, "base.nq")
    with pytest.raises(PackedFileError, match="cannot be read"):
        open_all(files, "none.nqd")


def test_files_that_a_delta_follows_are_not_overwritten(files):
    one = open_all(files, "1.nqd", "2.nqd")
    one.append_users([70], [[1]])
    for name in ("base.nq", "1.nqd", "2.nqd"):
        with pytest.raises(ValueError, match="'path' needs to be another fil"):
            one.save_delta(files / name)
    with pytest.raises(ValueError, match="'path' needs to be another file"):
        one.save_delta(files / "base.nq", since_base=True)
    one.save_delta(files / "1.nqd", since_base=True)
    one.append_users([71], [[2]])
    one.save_delta(files / "2.nqd")
    assert answers(open_all(files, "1.nqd", "2.nqd")) == answers(one)
    with pytest.raises(ValueError, match="opened from a file"):
        make().save_delta(files / "3.nqd")


def test_deltas_are_a_list(files):
    for one in (files / "1.nqd", str(files / "1.nqd")):
        with pytest.raises(ValueError, match="'deltas' needs to be a list"):
            PackedRecommender.open(files / "base.nq", deltas=one)


def test_a_delta_of_nothing(files):
    one = PackedRecommender.open(files / "base.nq")
    one.save_delta(files / "0.nqd")
    assert answers(open_all(files, "0.nqd")) == answers(one)


def test_every_flip_and_every_truncation(files):
    path = files / "1.nqd"
    data = path.read_bytes()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        for bad in (bytes(changed), data[:place]):
            path.write_bytes(bad)
            with pytest.raises(PackedFileError, match="1.nqd"):
                open_all(files, "1.nqd")


@pytest.mark.parametrize("fields,arrays,cause", [
    ({"rows": "20 31"}, {}, "'rows' does not match"),
    ({"rows": "x"}, {}, "'rows' is damaged"),
    ({"rows": "20 ²"}, {}, "'rows' is damaged"),
    ({"u": "packed 1 4 2"}, {}, "'u' is not of the form of its base's"),
    ({"u": "float 1 4"}, {}, "'u' is not of the form of its base's"),
    ({"u": "packed"}, {}, "'u'"),
    ({}, {"u.classes": np.zeros(3, np.uint8)}, "belongs to its base"),
    ({}, {"u.scale": np.ones(1, np.float32)}, "not of the type of its base's"),
    ({}, {"u.offset": np.ones(1, np.float16)}, "not of the type of its base"),
    ({}, {"u.class": np.uint8([15])}, "there are only 3 classes"),
    ({}, {"c.user": np.int8([50, 51])}, "'c.user' has shape"),
    ({}, {"c.user": np.int8([7])}, "its user .7. is there already"),
    ({}, {"c.user": np.uint8([97]), "c.user.size": np.uint8([1])},
     "user ids are not of the type"),
    ({}, {"d.user": np.uint8([21])}, "'d.user' needs to be in"),
    ({}, {"d.item": np.uint8([4, 4])}, "'d.item' does not ascend"),
    ({}, {"d.seen.user": np.uint8([20, 20])}, "'d.seen.user' does not asc"),
    ({}, {"d.seen.user": np.uint8([19, 20])}, "do not belong together"),
    ({}, {"d.seen.degree": np.uint8([3])}, "do not belong together"),
    ({}, {"d.seen.degree": np.int8([2])}, "has type I8"),
    ({}, {"d.seen.item": np.uint8([1, 30])}, "'d.seen.item' needs to be in"),
    ({"after": "0"}, {}, "it follows the file of checksum 0"),
])
def test_what_is_refused(files, fields, arrays, cause):
    content = read_container(files / "1.nqd", "delta")
    own = {name: content.fields[name]
           for name in ("base", "after", "rows", "u")}
    write_container(files / "bad.nqd", "delta", {**own, **fields},
                    {**content.arrays, **arrays})
    with pytest.raises(PackedFormatError, match=cause):
        open_all(files, "bad.nqd")


def test_nothing_is_removed_twice(files):
    one = open_all(files, "1.nqd")
    one.remove([5])
    one.save_delta(files / "3.nqd")
    content = read_container(files / "3.nqd", "delta")
    own = {name: content.fields[name] for name in ("base", "after", "rows")}
    write_container(files / "bad.nqd", "delta", own,
                    {"d.user": np.uint8([3, 5])})
    with pytest.raises(PackedFormatError, match="removes user row 3 a second"):
        open_all(files, "1.nqd", "bad.nqd")
