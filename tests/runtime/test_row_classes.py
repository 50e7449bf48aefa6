from __future__ import annotations

import numpy as np
import pytest

from pyg_nodequant.runtime import RowClasses
from pyg_nodequant.runtime.row_classes import pack_nibbles, unpack_nibbles
from pyg_nodequant.runtime.row_codes import GAUSSIAN_SPAN


def same(a, b):
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("widths", "steps", "offsets", "uses_offset"))


@pytest.mark.parametrize("count,dim", [(1, 1), (3, 5), (16, 8), (256, 2)])
@pytest.mark.parametrize("half", [True, False])
def test_round_trip(count, dim, half):
    rng = np.random.default_rng(count)
    dtype = np.float16 if half else np.float32
    classes = RowClasses(rng.integers(0, 9, (count, dim)),
                         rng.normal(size=(count, dim)).astype(dtype),
                         rng.normal(size=(count, dim)).astype(dtype),
                         rng.integers(0, 2, (count, dim)))
    data = classes.to_bytes()
    assert same(RowClasses.from_bytes(data, count, dim), classes)
    number = 2 if half else 4
    assert len(data) <= 4 + (count * dim + 1) // 2 + 2 * number * count * dim \
        + (count * dim + 7) // 8


def test_a_centre_of_rows_without_codes():
    centre = np.float16([0.1, -3.0, 2.0])
    classes = RowClasses.by_width([0, 1, 3], 3, True, centre)
    assert classes.offsets.tolist() == [centre.tolist(), [-.5] * 3, [-3.5] * 3]
    assert classes.bits.tolist() == [0, 3, 9] and classes.is_node_only
    data = classes.to_bytes()
    assert len(data) == 4 + 2 + 2 * 9  # all offsets, in half precision
    assert same(RowClasses.from_bytes(data, 3, 3), classes)
    # Without a width of 0 there is nothing it is for.
    assert same(RowClasses.by_width([1, 2], 3, True, centre),
                RowClasses.by_width([1, 2], 3, True))


@pytest.mark.parametrize("centered, centre", [
    (False, np.zeros(3)), (True, np.zeros(2)), (True, 1.0)])
def test_wrong_centre(centered, centre):
    with pytest.raises(ValueError, match="'centre' needs 3 numbers, beside "):
        RowClasses.by_width([0, 1], 3, centered, centre)


@pytest.mark.parametrize("centered", [True, False])
def test_node_only_tables_are_small(centered):
    classes = RowClasses.by_width(range(9), 4096, centered)
    data = classes.to_bytes()
    assert len(data) == (4 + 5 + 18 if centered else 4 + 5 + 2)
    assert same(RowClasses.from_bytes(data, 9, 4096), classes)
    assert classes.is_node_only
    assert classes.bits.tolist() == [4096 * b for b in range(9)]
    if centered:
        assert classes.offsets[:, 7].tolist() == [
            -(2**b - 1) / 2 for b in range(9)]
    else:
        assert classes.uses_offset[:, 0].tolist() == [False] + [True] * 8
    assert len(classes) == 9 and classes.dim == 4096


def test_per_dimension_is_not_node_only():
    assert not RowClasses([[1, 2]]).is_node_only


@pytest.mark.parametrize("args,message", [
    (([1, 2], ), "'widths' needs a shape"),
    ((np.zeros((1, 4097), int), ), "'widths' needs a shape"),
    ((np.zeros((257, 1), int), ), "'widths' needs a shape"),
    (([[9]], ), r"'widths' needs to be in \[0, 8\] \(got 9\)"),
    (([[-1]], ), r"'widths' needs to be in \[0, 8\] \(got -1\)"),
    (([[1.5]], ), "'widths' needs to hold integers"),
    (([[1]], np.inf), "'steps' needs to be finite"),
    (([[1]], 1.0, 1e60), "'offsets' needs to be finite"),
    (([[1]], [1.0, 2.0]), "'steps' needs to broadcast"),
])
def test_refuses(args, message):
    with pytest.raises(ValueError, match=message):
        RowClasses(*args)


def test_from_bytes_refuses_other_bytes():
    data = RowClasses([[1, 2], [3, 4]], 0.5, 0.25, [[0, 1], [1, 0]]).to_bytes()
    for length in range(len(data)):
        with pytest.raises(ValueError, match="class table"):
            RowClasses.from_bytes(data[:length], 2, 2)
    with pytest.raises(ValueError, match="too long"):
        RowClasses.from_bytes(data + b"\0", 2, 2)
    for place, value in [(0, 3), (0, 17), (1, 33), (3, 17)]:
        changed = bytearray(data)
        changed[place] = value
        with pytest.raises(ValueError, match="unknown layout"):
            RowClasses.from_bytes(bytes(changed), 2, 2)
    changed = bytearray(data)
    changed[0] = 0
    with pytest.raises(ValueError, match="no widths"):
        RowClasses.from_bytes(bytes(changed), 2, 2)
    with pytest.raises(ValueError, match="not allowed"):
        RowClasses.from_bytes(data, 0, 2)


def gaussian(count, dim):
    rng = np.random.default_rng(dim)
    widths = rng.integers(0, 9, (count, dim))
    widths[:, rng.random(dim) < .2] = 0
    return RowClasses.gaussian(widths, np.exp(rng.normal(size=dim)))


def bits_of(classes):
    return [getattr(classes, name).tobytes()
            for name in ("widths", "steps", "offsets", "uses_offset")]


def test_gaussian_steps_and_offsets():
    spread = np.float32([0.3, 2.0, 7e4 / 2, 1e-7, 0.0])
    widths = [[1, 2, 3, 4, 0], [5, 6, 7, 8, 8]]
    classes = RowClasses.gaussian(widths, spread)
    for c in range(2):
        for k in range(5):
            b = widths[c][k]
            unit = np.float32(GAUSSIAN_SPAN[b] / max(2**b - 1, 1))
            step = np.float32(np.float16(spread[k])) * unit
            assert classes.steps[c, k] == step
            low = np.float32(-0.5) * step * np.float32(2**b - 1)
            assert classes.offsets[c, k] == low
    assert classes.uses_offset.all()
    assert not np.signbit(classes.offsets[classes.offsets == 0]).any()


@pytest.mark.parametrize("count,dim", [(2, 3), (16, 96), (7, 5), (256, 8)])
def test_gaussian_tables_are_small(count, dim):
    classes = gaussian(count, dim)
    data = classes.to_bytes()
    assert len(data) == 4 + (count * dim + 1) // 2 + 2 * dim
    assert data[:4] == bytes([2, 3, 4, 0])
    read = RowClasses.from_bytes(data, count, dim)
    assert bits_of(read) == bits_of(classes)
    assert read.to_bytes() == data
    # A column without codes keeps no spread.
    spread = np.frombuffer(data[-2 * dim:], "<f2")
    assert np.array_equal(spread > 0, classes.widths.any(axis=0))


def test_layouts_mix():
    base = gaussian(3, 8)
    offsets = np.random.default_rng(0).normal(size=(3, 8))
    steps = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    centered = np.float32(-.5) * steps * np.float32(2.0**base.widths - 1)
    cases = [
        (RowClasses(base.widths, base.steps, offsets), [2, 3, 18, 0]),
        (RowClasses(base.widths, steps, centered + np.float32(0)),
         [2, 18, 4, 0]),
        (RowClasses(base.widths, base.steps, base.offsets, [[0], [1], [1]]),
         [2, 3, 4, 1]),
        (RowClasses(np.full((3, 8), 2), base.steps), None),
        (RowClasses([[1] * 8, [3] * 8], [[1.0], [2.0]], [[-.5], [-7.0]]),
         [1, 1, 1, 0]),
        # A class each, symmetric: offsets that need float32 are left out.
        (RowClasses([[1] * 8, [3] * 8], [[1.001], [0.3]],
                    np.float32([[-.5], [-3.5]]) * np.float32(
                        [[1.001], [0.3]])), [1, 17, 4, 0]),
        (RowClasses([[1] * 8, [3] * 8], [[1.001], [0.3]],
                    [[-.50051], [-1.05]]), [1, 17, 17, 0]),
        (RowClasses(base.widths), [2, 0, 0, 0]),
    ]
    for classes, heads in cases:
        data = classes.to_bytes()
        assert heads is None or list(data[:4]) == heads
        read = RowClasses.from_bytes(data, len(classes), 8)
        assert bits_of(read) == bits_of(classes)


@pytest.mark.parametrize("name,place", [("steps", 1), ("offsets", 2)])
def test_nearly_gaussian_tables_are_kept_too(name, place):
    base = gaussian(4, 9)
    c, k = np.argwhere(base.widths > 1)[0]
    for changed in (np.nextafter, lambda x, _: -x):
        fields = {one: getattr(base, one).copy()
                  for one in ("steps", "offsets")}
        fields[name][c, k] = changed(fields[name][c, k], np.float32(9))
        classes = RowClasses(base.widths, **fields)
        data = classes.to_bytes()
        assert data[place] == 18
        assert bits_of(RowClasses.from_bytes(data, 4, 9)) == bits_of(classes)


@pytest.mark.parametrize("spread,message", [
    ([1.0], "'spread' needs 2 numbers"),
    ([[1.0, 1.0]], "'spread' needs 2 numbers"),
    ([1.0, np.nan], "'spread' needs to be finite in float16 .*got nan"),
    ([1.0, np.inf], "'spread' needs to be finite in float16 .*got inf"),
    ([1.0, 70000.0], "'spread' needs to be finite in float16 .*got 70000"),
    ([1.0, -0.5], r"and at least 0 \(got -0.5\)"),
])
def test_gaussian_refuses(spread, message):
    with pytest.raises(ValueError, match=message):
        RowClasses.gaussian([[1, 2]], spread)
    with pytest.raises(ValueError, match="'widths' needs to be in"):
        RowClasses.gaussian([[9, 2]], spread)


def test_from_bytes_refuses_other_gaussian_tables():
    data = gaussian(3, 5).to_bytes()
    for length in range(len(data)):
        with pytest.raises(ValueError, match="class table"):
            RowClasses.from_bytes(data[:length], 3, 5)
    with pytest.raises(ValueError, match="too long"):
        RowClasses.from_bytes(data + b"\0", 3, 5)
    for place, values in [(0, [3, 4, 5]), (1, [4, 5, 15, 19]),
                          (2, [3, 5, 15, 20, 19]), (3, [3, 4, 5])]:
        for value in values:
            changed = bytearray(data)
            changed[place] = value
            with pytest.raises(ValueError, match="unknown layout"):
                RowClasses.from_bytes(bytes(changed), 3, 5)
    for bad in (np.inf, -np.inf, np.nan, -1.0):
        with pytest.raises(ValueError, match="spread that is not finite or"):
            RowClasses.from_bytes(data[:-2] + np.float16(bad).tobytes(), 3, 5)
    for layouts in ([1, 0, 0, 0], [1, 0, 4, 0]):
        with pytest.raises(ValueError, match="a width beyond 8"):
            RowClasses.from_bytes(bytes([*layouts, 9]), 1, 5)
    with pytest.raises(ValueError, match="a width beyond 8"):
        RowClasses.from_bytes(data[:4] + b"\x90" + data[5:], 3, 5)
    huge = bytes([2, 17, 4, 0, 0x88]) + np.float32(3e38).tobytes()
    with pytest.raises(ValueError, match="'offsets' needs to be finite"):
        RowClasses.from_bytes(huge, 1, 2)


def test_nibbles():
    for n in range(6):
        values = np.random.default_rng(n).integers(0, 16, n)
        data = pack_nibbles(values)
        assert len(data) == (n + 1) // 2
        assert np.array_equal(unpack_nibbles(data, n), values)
