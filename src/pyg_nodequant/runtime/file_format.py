r"""The packed file: a safetensors container with a checksum over every byte.

Any safetensors reader opens it. All numbers are little-endian.

**Container.** Eight bytes give the length :math:`h` of the header, an unsigned
64-bit integer. The header is JSON in UTF-8, filled up with spaces so that
:math:`8 + h` is a multiple of 8, and begins with exactly ::

    {"__metadata__":{"checksum":"

followed by 32 lower-case hexadecimal digits: the BLAKE2b digest (16 bytes) of
the whole file with these 32 digits set to ``0``. The metadata goes on with
``"format":"pyg-nodequant"``, ``"version":"1"``, ``"kind"`` and the fields
below; then come the arrays as safetensors describes them (``dtype``,
``shape``, ``data_offsets``), lying one after the other without gaps from byte
:math:`8 + h` to the end of the file.

**Tables.** A file of kind ``table`` holds one table under the prefix ``t``; a
file of kind ``recommender`` holds ``u`` (users) and ``i`` (items). The field
of a table, such as ``"u":"packed 943 64 8"``, gives its form, its rows
:math:`n`, its dimensions :math:`d` and its classes :math:`C`.

A ``float`` table is the array ``u.rows`` (F32, :math:`[n, d]`). A ``packed``
table is

- ``u.classes`` (U8): the class table, see
  :meth:`~pyg_nodequant.runtime.row_classes.RowClasses.to_bytes`;
- ``u.class`` (U8): the class of each row, absent if :math:`C = 1`; in 4 bits
  if :math:`C \le 16` (row 0 in the low half of byte 0, row 1 in its high
  half), else in 8 bits;
- ``u.scale``: the scale of each row, F16 or F32 (of length 1 where all rows
  share it), or U8 with the F32 pair ``u.log`` = :math:`(l, h)`: code 0 is
  scale 0 and code :math:`c` is :math:`2^{l + (c - 1) h}`;
- ``u.offset`` (F16 or F32): the offset of each row; absent if all are 0;
- ``u.codes`` (U8): the codes, one block a class, in the order of the classes.

Dimension :math:`k` of a row of class :math:`c` reads :math:`x_k = r (m_{ck} +
a_{ck} v_k) + o n_{ck}`. The codes :math:`v_0, v_1, \ldots` of the row form a
string of :math:`T_c = \sum_k b_{ck}` bits: the :math:`b_{ck}` bits of
dimension :math:`k`, lowest first, follow those of dimension :math:`k - 1`.
The string fills :math:`\lceil T_c / 8 \rceil` bytes from the lowest bit of
byte 0 on; bits left over are 0. These bytes are cut into words: 64-bit words
while eight bytes are left, then at most one word each of 32, 16 and 8 bits.

The block of a class holds its rows by ascending number, word by word: the
first words of all rows, then all second words, and so on. Each block begins at
a multiple of 8 bytes from the start of the file and is filled up with zero
bytes to the next; a class without rows or with :math:`T_c = 0` takes no bytes.

**Graph.** A recommender whose rows are to be propagated has the field
``layers`` and the arrays ``g.degree`` (items of each user) and ``g.item``
(their rows, user by user, ascending), both in the smallest unsigned type.

**Catalogue.** Absent in bare files. ``c.user`` and ``c.item`` hold the
original ids: integers in the smallest signed type, or U8 with the UTF-8 bytes
of all strings, whose lengths in bytes are ``c.user.size``. ``c.title`` and
``c.title.size`` hold item titles, ``c.seen.degree`` and ``c.seen.item`` the
items that users have seen (as in the graph), ``c.metadata`` (U8) free JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Optional

import numpy as np

from pyg_nodequant.runtime.atomic import PathLike, write_atomic

Array = np.ndarray[Any, Any]

FORMAT = "pyg-nodequant"
VERSION = 1

_START = b'{"__metadata__":{"checksum":"'
_DIGITS = 32
_CHECKSUM_AT = 8 + len(_START)
_HASHED_PREFIX = _CHECKSUM_AT + _DIGITS
_MAX_HEADER = 1 << 20

_DTYPES = {
    "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "F16": "<f2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "I64": "<i8",
}  # yapf: disable
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}


class PackedFileError(ValueError):
    r"""A packed file cannot be read or written; says which and why."""


class Container:
    r"""The checked content of a packed file.

    Args:
        path (str or PathLike): Where it was read from, for errors.
        fields (dict): The metadata strings.
        arrays (dict): The arrays, read-only.
    """

    def __init__(
        self,
        path: PathLike,
        fields: Mapping[str, str],
        arrays: Mapping[str, Array],
    ) -> None:
        self.path = path
        self.fields = dict(fields)
        self.arrays = dict(arrays)

    def fail(self, cause: str) -> NoReturn:
        r"""Raises the :class:`PackedFileError` of this file."""
        raise PackedFileError(f"'{self.path}' is not a valid packed file: "
                              f"{cause}")

    def field(self, name: str) -> str:
        r"""Returns a metadata string that has to be there."""
        if name not in self.fields:
            self.fail(f"its header has no field '{name}'")
        return self.fields[name]

    def take(
        self,
        name: str,
        dtypes: Sequence[str],
        shape: Optional[tuple[Optional[int], ...]] = None,
    ) -> Array:
        r"""Returns an array that has to be there.

        Args:
            name (str): Its name.
            dtypes (sequence): The safetensors types it may have.
            shape (tuple, optional): The shape it needs; :obj:`None` stands
                for any length.
        """
        if name not in self.arrays:
            self.fail(f"the array '{name}' is missing")
        array = self.arrays[name]
        dtype = _NAMES[array.dtype.newbyteorder("<")]
        if dtype not in dtypes:
            self.fail(f"the array '{name}' has type {dtype} instead of "
                      f"{' or '.join(dtypes)}")
        if shape is not None and not _fits(array.shape, shape):
            wanted = ["any" if size is None else size for size in shape]
            self.fail(f"the array '{name}' has shape {list(array.shape)} "
                      f"instead of {wanted}")
        return array


def _fits(shape: Sequence[int], wanted: Sequence[Optional[int]]) -> bool:
    return len(shape) == len(wanted) and all(
        want is None or size == want
        for size, want in zip(shape, wanted, strict=True))


def encode_container(
    kind: str,
    fields: Mapping[str, str],
    arrays: Mapping[str, Array],
) -> tuple[bytes, list[Array]]:
    r"""Lays a packed file out.

    Arrays are ordered by the alignment they need: the codes first, then by
    the size of a number. The same input gives the same bytes.

    Args:
        kind (str): What the file holds.
        fields (dict): Metadata strings.
        arrays (dict): Its arrays.

    Returns:
        The bytes before the data, with checksum 0, and the arrays in order.
    """
    metadata = {
        "checksum": "0" * _DIGITS, "format": FORMAT, "version": str(VERSION),
        "kind": kind, **fields,
    }  # yapf: disable
    header: dict[str, Any] = {"__metadata__": metadata}
    ordered = sorted(
        arrays.items(), key=lambda pair: (not pair[0].endswith("codes"),
                                          -pair[1].dtype.itemsize))
    position, blocks = 0, []
    for name, array in ordered:
        little = array.dtype.newbyteorder("<")
        block = np.ascontiguousarray(array, dtype=little)
        header[name] = {
            "dtype": _NAMES[little],
            "shape": list(block.shape),
            "data_offsets": [position, position + block.nbytes],
        }
        position += block.nbytes
        blocks.append(block)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, blocks


def write_container(
    path: PathLike,
    kind: str,
    fields: Mapping[str, str],
    arrays: Mapping[str, Array],
) -> None:
    r"""Writes a packed file in one step, or not at all.

    Args:
        path (str or PathLike): The file to write.
        kind (str): What the file holds.
        fields (dict): Metadata strings.
        arrays (dict): Its arrays.

    Raises:
        PackedFileError: If the file cannot be written.
    """
    head, blocks = encode_container(kind, fields, arrays)
    views = [block.reshape(-1).view(np.uint8).data for block in blocks]
    chunks: list[Any] = [head, *views]
    digest = hashlib.blake2b(digest_size=_DIGITS // 2)
    for chunk in chunks:
        digest.update(chunk)
    chunks[0] = (head[:_CHECKSUM_AT] + digest.hexdigest().encode()
                 + head[_HASHED_PREFIX:])
    try:
        write_atomic(path, chunks)
    except OSError as error:
        raise PackedFileError(f"'{path}' cannot be written: "
                              f"{error.strerror or error}") from error


def read_container(
    path: PathLike,
    kind: str,
    verify: bool = True,
) -> Container:
    r"""Reads and checks a packed file.

    Args:
        path (str or PathLike): The file to read.
        kind (str): What the file has to hold.
        verify (bool): Whether the checksum is checked as well as the layout.

    Raises:
        PackedFileError: If the file is missing, truncated, changed, foreign,
            of another kind or of a newer version.
    """
    opened = Container(path, {}, {})
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = _read_header(opened, file.read(_HASHED_PREFIX), size)
            file.seek(0)
            data = np.fromfile(file, dtype=np.uint8)
    except OSError as error:
        raise PackedFileError(f"'{path}' cannot be read: "
                              f"{error.strerror or error}") from error
    if len(data) != size:
        opened.fail("it changed while it was read")
    data.setflags(write=False)
    try:
        content = json.loads(bytes(data[8:8 + header]).decode(),
                             object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        opened.fail("its header is damaged")
    fields = content.pop("__metadata__", None)
    if not isinstance(fields, dict) or not all(
            isinstance(value, str) for value in fields.values()):
        opened.fail("its header is damaged")
    opened.fields = fields
    if fields.get("format") != FORMAT:
        opened.fail(f"it is not in the format '{FORMAT}'")
    version = fields.get("version")
    if version != str(VERSION):
        opened.fail(f"it has format version {version}, this program reads "
                    f"version {VERSION}: a newer release may read it")
    if verify:
        _check_sum(opened, data)
    if fields.get("kind") != kind:
        opened.fail(f"it holds a {fields.get('kind')}, not a {kind}")
    _read_arrays(opened, content, data[8 + header:])
    return opened


def _read_header(opened: Container, start: bytes, size: int) -> int:
    # Nothing is allocated before the announced sizes are known to fit.
    if len(start) < _HASHED_PREFIX:
        opened.fail(f"it has only {size} bytes, it is truncated or foreign")
    if start[8:_CHECKSUM_AT] != _START:
        opened.fail(f"it does not begin like a file of {FORMAT}")
    header = int.from_bytes(start[:8], "little")
    if header % 8 or header > min(size - 8, _MAX_HEADER):
        opened.fail(f"its header would have {header} bytes, it is truncated "
                    f"or damaged")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name occurs twice")
    return content


def _check_sum(opened: Container, data: Array) -> None:
    digest = hashlib.blake2b(digest_size=_DIGITS // 2)
    digest.update(data[:_CHECKSUM_AT].data)
    digest.update(b"0" * _DIGITS)
    digest.update(data[_HASHED_PREFIX:].data)
    stored = bytes(data[_CHECKSUM_AT:_HASHED_PREFIX])
    if stored != digest.hexdigest().encode():
        opened.fail("its checksum does not match, it is truncated or changed")


def _read_arrays(
    opened: Container,
    content: Mapping[str, Any],
    data: Array,
) -> None:
    spans = []
    for name, entry in content.items():
        try:
            dtype = np.dtype(_DTYPES[entry["dtype"]])
            shape = tuple(_count(length) for length in entry["shape"])
            begin, end = (_count(offset) for offset in entry["data_offsets"])
        except (KeyError, TypeError, ValueError):
            opened.fail(f"the entry of the array '{name}' is damaged")
        nbytes = dtype.itemsize * math.prod(shape)
        if (end - begin != nbytes or end > len(data)
                or max(shape, default=0) > len(data)):
            opened.fail(f"the array '{name}' of shape {list(shape)} does not "
                        f"fit into the file")
        if begin % dtype.itemsize:
            opened.fail(f"the array '{name}' is not aligned")
        spans.append((begin, end))
        array = data[begin:end].view(dtype).reshape(shape)
        # A plain view on little-endian machines, a swapped copy on others.
        opened.arrays[name] = array.astype(dtype.newbyteorder("="), copy=False)
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            opened.fail("its arrays overlap or leave a gap")
        position = end
    if position != len(data):
        opened.fail(f"it has {len(data)} bytes of data instead of {position}")


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not a count")
    return value
