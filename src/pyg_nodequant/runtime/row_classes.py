r"""The classes of a packed table: what its rows share, stored once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from numpy.typing import ArrayLike

from pyg_nodequant.runtime.row_codes import (
    GAUSSIAN_SPAN,
    MAX_BITS,
    MAX_DIM,
    num_levels,
)

Array = np.ndarray[Any, Any]

MAX_CLASSES = 256

# How a field of the table is written; see `RowClasses.to_bytes`.
_DEFAULT, _PER_CLASS, _PER_DIM, _SPREADS, _CENTERED = 0, 1, 2, 3, 4
# The layouts that each field may have.
_LAYOUTS = {"widths": (0, 1, 2), "steps": (0, 1, 2, 3),
            "offsets": (0, 1, 2, 4), "uses_offset": (0, 1, 2)}

# The levels and the steps of the optimal uniform quantizer of a standard
# Gaussian, by bits.
_LEVELS = num_levels(np.arange(MAX_BITS + 1)).astype(np.float32)
_STEPS = (np.array(GAUSSIAN_SPAN) / np.maximum(_LEVELS, 1)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class RowClasses:
    r"""What a row's class fixes for each dimension.

    A row of class :math:`c` with scale :math:`r`, offset :math:`o` and codes
    :math:`v` reads

    .. math::
        x_k = r (m_{ck} + a_{ck} v_k) + o \, n_{ck}.

    Args:
        widths (array): Bits :math:`b_{ck}` in 0..8, of shape :obj:`[C, d]`
            with :math:`1 \le C \le 256` and :math:`1 \le d \le 4096`.
        steps (array): The steps :math:`a_{ck}`, :obj:`float32`.
        offsets (array): The offsets :math:`m_{ck}`, :obj:`float32`.
        uses_offset (array): Whether the row offset applies,
            :math:`n_{ck} \in \{0, 1\}`.

    Each of the last three may have any shape that broadcasts to
    :obj:`[C, d]`.

    Raises:
        ValueError: If a value or a shape is not allowed.

    Example:
        >>> RowClasses([[2, 2, 0], [8, 4, 0]]).bits.tolist()
        [4, 12]
    """

    widths: Array
    steps: Array
    offsets: Array
    uses_offset: Array

    def __init__(
        self,
        widths: ArrayLike,
        steps: ArrayLike = 1.0,
        offsets: ArrayLike = 0.0,
        uses_offset: ArrayLike = True,
    ) -> None:
        given = np.asarray(widths)
        if given.ndim != 2 or not (1 <= given.shape[0] <= MAX_CLASSES
                                   and 1 <= given.shape[1] <= MAX_DIM):
            raise ValueError(
                f"'widths' needs a shape of [1..{MAX_CLASSES} classes, "
                f"1..{MAX_DIM} dimensions] (got {list(given.shape)})")
        if given.dtype.kind not in "iu":
            raise ValueError(f"'widths' needs to hold integers "
                             f"(got {given.dtype})")
        if given.min() < 0 or given.max() > MAX_BITS:
            bad = given.min() if given.min() < 0 else given.max()
            raise ValueError(f"'widths' needs to be in [0, {MAX_BITS}] "
                             f"(got {bad})")
        fields: dict[str, tuple[ArrayLike, Any]] = {
            "widths": (widths, np.uint8),
            "steps": (steps, np.float32),
            "offsets": (offsets, np.float32),
            "uses_offset": (uses_offset, np.bool_),
        }
        for name, (value, dtype) in fields.items():
            with np.errstate(over="ignore"):
                array = _compact(np.asarray(value)).astype(dtype)
            if not np.isfinite(array).all():
                raise ValueError(f"'{name}' needs to be finite float32 "
                                 f"(got an infinite or undefined value)")
            try:
                # A view, not a copy: a few bytes of a file may stand for a
                # large table.
                full = np.broadcast_to(array, given.shape)
            except ValueError:
                raise ValueError(
                    f"'{name}' needs to broadcast to {list(given.shape)} "
                    f"(got {list(array.shape)})") from None
            object.__setattr__(self, name, full)

    def __setstate__(self, state: dict[str, Array]) -> None:
        for name, full in state.items():
            full.setflags(write=False)  # a copy is not, by itself
            object.__setattr__(self, name, full)

    @classmethod
    def by_width(
        cls,
        widths: Sequence[int],
        dim: int,
        centered: bool = False,
        centre: Optional[ArrayLike] = None,
    ) -> RowClasses:
        r"""The classes of node-only widths: one class a width.

        Steps are 1; offsets are :math:`-s/2` if :obj:`centered`, else 0 and
        the row offset applies. A row of width 0 is zero, or its scale times
        :obj:`centre`: rows without codes that share a direction.

        Args:
            widths (sequence): The width of each class.
            dim (int): The number of dimensions.
            centered (bool): Whether ranges are symmetric about 0.
            centre (array, optional): The offsets of the class of width 0, of
                shape :obj:`[dim]`; needs :obj:`centered`.

        Raises:
            ValueError: If :obj:`centre` is not of this form.

        Example:
            >>> RowClasses.by_width([1, 2], 3, centered=True).offsets[:, 0]
            array([-0.5, -1.5], dtype=float32)
        """
        column = np.asarray(widths, dtype=np.int64).reshape(-1, 1)
        offsets: Any = -num_levels(column) / 2 if centered else 0.0
        if centre is not None:
            if not centered or np.shape(centre) != (dim, ):
                raise ValueError(
                    f"'centre' needs {dim} numbers, beside 'centered' (got a "
                    f"shape of {list(np.shape(centre))} and {centered})")
            offsets = np.where(column > 0, offsets, np.asarray(centre))
        uses = True if centered else column > 0
        return cls(np.broadcast_to(column, (len(column), dim)), 1.0, offsets,
                   uses)

    @classmethod
    def gaussian(cls, widths: ArrayLike, spread: ArrayLike) -> RowClasses:
        r"""Classes for columns that are Gaussian about 0, of one spread each:

        .. math::
            a_{ck} = \sigma_k \frac{K_b}{2^b - 1}, \qquad
            m_{ck} = -\tfrac{1}{2} a_{ck} (2^b - 1)

        with :math:`b = b_{ck}` and the optimal widths :math:`K`
        (:obj:`GAUSSIAN_SPAN`); 0 where :math:`b = 0`. Each factor and product
        is rounded to :obj:`float32`. A file holds the spreads alone.

        Args:
            widths (array): Bits :math:`b_{ck}`, of shape :obj:`[C, d]`.
            spread (array): Spreads :math:`\sigma_k \ge 0`, of shape
                :obj:`[d]`; rounded to :obj:`float16` first.

        Raises:
            ValueError: If a value or a shape is not allowed.

        Example:
            >>> classes = RowClasses.gaussian([[1, 2], [3, 0]], [1.0, 0.5])
            >>> classes.steps.round(3).tolist() == np.float32(
            ...     [[1.596, 0.498], [0.586, 0.0]]).tolist()
            True
            >>> len(classes.to_bytes())
            10
        """
        plain = cls(widths)
        given = np.asarray(spread, dtype=np.float64)
        with np.errstate(over="ignore"):
            half = given.astype(np.float16)
        if half.shape != (plain.dim, ):
            raise ValueError(f"'spread' needs {plain.dim} numbers, one a "
                             f"column (got a shape of {list(half.shape)})")
        bad = given[~(np.isfinite(half) & (given >= 0))]
        if len(bad):
            raise ValueError(f"'spread' needs to be finite in float16 and at "
                             f"least 0 (got {bad[0]:g})")
        steps = _spread_steps(plain.widths, half)
        return cls(plain.widths, steps, _centered(plain.widths, steps))

    def __len__(self) -> int:
        return len(self.widths)

    @property
    def dim(self) -> int:
        r"""The number of dimensions."""
        return int(self.widths.shape[1])

    @property
    def bits(self) -> Array:
        r"""The bits :math:`T_c` of a row's string, by class."""
        widths = _compact(self.widths)
        repeats = self.dim // widths.shape[1]
        return np.asarray(widths.astype(np.int64).sum(axis=1) * repeats)

    @property
    def largest(self) -> float:
        r"""The largest :math:`|m_{ck} + a_{ck} v|` of any code :math:`v`."""
        low = _compact(self.offsets).astype(np.float64)
        levels = num_levels(_compact(self.widths))
        high = low + _compact(self.steps).astype(np.float64) * levels
        return float(np.maximum(np.abs(low), np.abs(high)).max())

    @property
    def is_node_only(self) -> bool:
        r"""Whether each class has one width in all dimensions."""
        widths = _compact(self.widths)
        return bool((widths == widths[:, :1]).all())

    def to_bytes(self) -> bytes:
        r"""Writes the table compactly and without loss.

        Four bytes say how the four fields are written, in the order widths,
        steps, offsets, uses_offset: 0 not at all (1, 0 and "everywhere" for
        the last three), 1 one value a class, 2 one a dimension and class, in
        class-major order; 16 is added where the steps or the offsets are
        :obj:`float32` instead of :obj:`float16`. What would take a value a
        dimension and class, but follows from less, is written as 3, steps of
        :meth:`gaussian` as one spread a dimension in :obj:`float16`, or as 4,
        its offsets, not at all; so are offsets of one value a class that
        would need :obj:`float32`. Then the fields that are there: widths in 4
        bits, the first in the low half of a byte, and uses_offset in single
        bits, lowest first, each filled up to a byte.
        """
        heads, bodies = bytearray(), []
        for name, default in _FIELDS:
            full = getattr(self, name)
            if default is not None and (full == default).all():
                heads.append(_DEFAULT)
                continue
            layout = _PER_DIM
            if (full == full[:, :1]).all():
                layout, full = _PER_CLASS, full[:, :1]
            elif name == "steps" and (spread := self._spread) is not None:
                heads.append(_SPREADS)
                bodies.append(spread.astype("<f2").tobytes())
                continue
            elif name == "offsets" and _same_bits(
                    full, _centered(self.widths, self.steps)):
                heads.append(_CENTERED)
                continue
            flat = full.reshape(-1)
            if name == "widths":
                bodies.append(pack_nibbles(flat).tobytes())
            elif name == "uses_offset":
                bodies.append(np.packbits(flat, bitorder="little").tobytes())
            else:
                with np.errstate(over="ignore"):
                    half = flat.astype("<f2")
                wide = not np.array_equal(half.astype(np.float32), flat)
                if wide and name == "offsets" and _same_bits(
                        self.offsets, _centered(self.widths, self.steps)):
                    heads.append(_CENTERED)
                    continue
                layout += 16 * wide
                bodies.append(
                    flat.astype("<f4").tobytes() if wide else half.tobytes())
            heads.append(layout)
        return bytes(heads) + b"".join(bodies)

    @classmethod
    def from_bytes(cls, data: bytes, count: int, dim: int) -> RowClasses:
        r"""Reads a table that :meth:`to_bytes` wrote.

        Args:
            data (bytes): The whole table.
            count (int): The number of classes.
            dim (int): The number of dimensions.

        Raises:
            ValueError: If the bytes are not such a table.
        """
        if not (1 <= count <= MAX_CLASSES and 1 <= dim <= MAX_DIM):
            raise ValueError(f"a class table of {count} classes and {dim} "
                             f"dimensions is not allowed")
        position = len(_FIELDS)
        values: dict[str, Array] = {}
        for field, (name, default) in enumerate(_FIELDS):
            head = data[field] if field < len(data) else -1
            layout, wide = head & 15, head >> 4
            number = name in ("steps", "offsets") and layout <= _PER_DIM
            if layout not in _LAYOUTS[name] or wide not in (
                    (0, 1) if number else (0, )):
                raise ValueError("the class table has an unknown layout")
            if layout == _DEFAULT:
                if default is None or wide:
                    raise ValueError("the class table has no widths")
                values[name] = np.full((count, 1), default)
                continue
            if layout == _CENTERED:
                continue
            columns = 1 if layout == _PER_CLASS else dim
            total = dim if layout == _SPREADS else count * columns
            if name == "widths":
                size = (total + 1) // 2
            elif name == "uses_offset":
                size = (total + 7) // 8
            else:
                size = total * (4 if wide else 2)
            body = data[position:position + size]
            if len(body) != size:
                raise ValueError("the class table is too short")
            position += size
            raw = np.frombuffer(body, dtype=np.uint8)
            if name == "widths":
                flat = unpack_nibbles(raw, total)
            elif name == "uses_offset":
                flat = np.unpackbits(raw, count=total, bitorder="little")
            else:
                flat = raw.view("<f4" if wide else "<f2")
            values[name] = flat.reshape(-1, columns)
        if position != len(data):
            raise ValueError("the class table is too long")
        if values["widths"].max() > MAX_BITS:
            raise ValueError(f"the class table has a width beyond {MAX_BITS}")
        # Now that all lengths are right, what is larger than the bytes.
        if data[1] == _SPREADS:
            spread = values["steps"]
            if not ((spread >= 0) & np.isfinite(spread)).all():
                raise ValueError("the class table has a spread that is not "
                                 "finite or below 0")
            values["steps"] = _spread_steps(values["widths"], spread)
        if data[2] == _CENTERED:
            values["offsets"] = _centered(values["widths"], values["steps"])
        widths = np.broadcast_to(values["widths"], (count, dim))
        return cls(widths, values["steps"], values["offsets"],
                   values["uses_offset"])

    @property
    def _spread(self) -> Optional[Array]:
        # The spreads from which all steps follow to the last bit, if any do.
        columns = np.arange(self.dim)
        widest = self.widths.argmax(axis=0)
        bits = self.widths[widest, columns]
        steps = self.steps[widest, columns].astype(np.float64)
        with np.errstate(over="ignore"):
            half = (steps / np.where(bits > 0, _STEPS[bits], 1)).astype(
                np.float16)
        half[bits == 0] = 0
        if not ((half >= 0) & np.isfinite(half)).all():
            return None
        found = _same_bits(self.steps, _spread_steps(self.widths, half))
        return half if found else None


def _spread_steps(widths: Array, spread: Array) -> Array:
    return np.asarray(spread.astype(np.float32) * _STEPS[widths])


def _centered(widths: Array, steps: Array) -> Array:
    with np.errstate(over="ignore"):
        low = np.float32(-0.5) * steps.astype(np.float32) * _LEVELS[widths]
    return np.asarray(low + np.float32(0))  # no zero of negative sign


def _same_bits(a: Array, b: Array) -> bool:
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))


def _compact(array: Array) -> Array:
    # One column for all, where that is how an array came to its size.
    if array.ndim == 2 and array.shape[1] > 1 and array.strides[1] == 0:
        return array[:, :1]
    return array


_FIELDS: tuple[tuple[str, Any], ...] = (
    ("widths", None),
    ("steps", 1.0),
    ("offsets", 0.0),
    ("uses_offset", True),
)


def pack_nibbles(values: Array) -> Array:
    r"""Packs numbers below 16 two a byte, the first in the low half.

    Example:
        >>> pack_nibbles(np.array([1, 2, 3])).tolist()
        [33, 3]
    """
    padded = np.zeros(len(values) + len(values) % 2, dtype=np.uint8)
    padded[:len(values)] = values
    return padded[0::2] | (padded[1::2] << 4)


def unpack_nibbles(data: Array, count: int) -> Array:
    r"""Reads :obj:`count` numbers that :meth:`pack_nibbles` wrote.

    Example:
        >>> unpack_nibbles(np.array([33, 3], dtype=np.uint8), 3).tolist()
        [1, 2, 3]
    """
    out = np.empty(2 * len(data), dtype=np.uint8)
    out[0::2] = data & 15
    out[1::2] = data >> 4
    return out[:count]
