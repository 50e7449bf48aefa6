r"""The packed file: a safetensors container with checksums over every byte.

Any safetensors reader opens it. ``docs/format.md`` in the repository
specifies it byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Optional

import numpy as np

from pyg_nodequant.runtime.atomic import PathLike, write_atomic
from pyg_nodequant.runtime.memory import empty

Array = np.ndarray[Any, Any]

FORMAT = "pyg-nodequant"
#: Files of another major version are refused; what a newer minor version adds
#: is ignored.
VERSION = "1.0"

_START = b'{"__metadata__":{"checksum":"'
_DIGITS = 32
_CHECKSUM_AT = 8 + len(_START)
_HASHED_PREFIX = _CHECKSUM_AT + _DIGITS
_SUM_DIGITS = 16
_MAX_HEADER = 1 << 20

_DTYPES = {
    "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "F16": "<f2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "I64": "<i8",
}  # yapf: disable
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}


class PackedFileError(ValueError):
    r"""A packed file cannot be read or written; says which and why."""


class PackedFormatError(PackedFileError):
    r"""A file is not a valid packed file; names the part that is wrong."""


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
        r"""Raises the :class:`PackedFormatError` of this file."""
        raise PackedFormatError(f"'{self.path}' is not a valid packed file: "
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

    Arrays lie in the order of the alignment they need, so that nothing has to
    be filled up. The same input gives the same bytes.

    Args:
        kind (str): What the file holds.
        fields (dict): Metadata strings.
        arrays (dict): Its arrays.

    Returns:
        The bytes before the data and the arrays in order.
    """
    ordered = sorted(arrays.items(), key=lambda pair: -pair[1].dtype.itemsize)
    blocks = [np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
              for _, array in ordered]
    metadata = {
        "checksum": "0" * _DIGITS, "format": FORMAT, "version": VERSION,
        "kind": kind, **fields, "sums": "".join(map(_array_sum, blocks)),
    }  # yapf: disable
    header: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for (name, _), block in zip(ordered, blocks, strict=True):
        header[name] = {
            "dtype": _NAMES[block.dtype],
            "shape": list(block.shape),
            "data_offsets": [position, position + block.nbytes],
        }
        position += block.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return (head[:_CHECKSUM_AT] + _header_sum(head) + head[_HASHED_PREFIX:],
            blocks)


def _array_sum(block: Array) -> str:
    data = block.reshape(-1).view(np.uint8).data
    return hashlib.blake2b(data, digest_size=_SUM_DIGITS // 2).hexdigest()


def _header_sum(head: bytes) -> bytes:
    zeroed = head[:_CHECKSUM_AT] + b"0" * _DIGITS + head[_HASHED_PREFIX:]
    digest = hashlib.blake2b(zeroed, digest_size=_DIGITS // 2)
    return digest.hexdigest().encode()


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
    chunks: list[Any] = [
        head, *(block.reshape(-1).view(np.uint8).data for block in blocks)
    ]
    try:
        write_atomic(path, chunks)
    except OSError as error:
        raise PackedFileError(f"'{path}' cannot be written: "
                              f"{error.strerror or error}") from error


def read_container(
    path: PathLike,
    kind: str,
    mmap: bool = True,
    verify: bool = True,
) -> Container:
    r"""Opens and checks a packed file.

    Args:
        path (str or PathLike): The file to read.
        kind (str): What the file has to hold.
        mmap (bool): Whether its arrays are mapped instead of read.
        verify (bool): Whether the checksums of its arrays are checked as well
            as its header and its layout.

    Raises:
        PackedFileError: If the file is missing or cannot be read.
        PackedFormatError: If it is truncated, changed, foreign, of another
            kind or of a newer major version.
    """
    opened = Container(path, {}, {})
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(_HASHED_PREFIX)
            length = 8 + _read_header(opened, start, size)
            head = start + file.read(length - len(start))
            data: Array
            if mmap:
                data = np.memmap(file, np.uint8, "r")[length:]
                data = data.view(np.ndarray)
            else:
                data = empty(max(size - length, 0))
                data = data[:file.readinto(data.data)]
    except OSError as error:
        raise PackedFileError(f"'{path}' cannot be read: "
                              f"{error.strerror or error}") from error
    if len(head) != length or len(data) != size - length:
        opened.fail("it changed while it was read")
    data.setflags(write=False)
    content = _read_content(opened, head)
    if opened.fields.get("kind") != kind:
        opened.fail(f"it holds a {opened.fields.get('kind')}, not a {kind}")
    _read_arrays(opened, content, data)
    if verify:
        _check_sums(opened, content)
    return opened


def _read_content(opened: Container, head: bytes) -> dict[str, Any]:
    if head[_CHECKSUM_AT:_HASHED_PREFIX] != _header_sum(head):
        opened.fail("the checksum of its header does not match, it is changed")
    try:
        content: dict[str, Any] = json.loads(head[8:].decode(),
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
    version = fields.get("version", "")
    if not re.fullmatch(rf"{VERSION.split('.')[0]}\.[0-9]+", version):
        opened.fail(f"it has format version {version or 'none'}, this program "
                    f"reads version {VERSION.split('.')[0]}: another release "
                    f"may read it")
    return content


def _read_header(opened: Container, start: bytes, size: int) -> int:
    # Nothing is allocated before the announced sizes are known to fit.
    if len(start) < _HASHED_PREFIX:
        opened.fail(f"it has only {size} bytes, it is truncated or foreign")
    if start[8:_CHECKSUM_AT] != _START:
        opened.fail(f"it does not begin like a file of {FORMAT}")
    header = int.from_bytes(start[:8], "little")
    if header % 8 or not (_HASHED_PREFIX - 8 <= header <= min(
            size - 8, _MAX_HEADER)):
        opened.fail(f"its header would have {header} bytes, it is truncated "
                    f"or damaged")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name occurs twice")
    return content


def _check_sums(opened: Container, content: Mapping[str, Any]) -> None:
    names = list(content)
    sums = opened.field("sums")
    if len(sums) != _SUM_DIGITS * len(names):
        opened.fail(f"its field 'sums' has {len(sums)} digits instead of "
                    f"{_SUM_DIGITS * len(names)}")
    for place, name in enumerate(names):
        begin = _SUM_DIGITS * place
        array = opened.arrays[name]
        found = _array_sum(array.astype(array.dtype.newbyteorder("<"),
                                        copy=False))
        if found != sums[begin:begin + _SUM_DIGITS]:
            opened.fail(f"the checksum of the array '{name}' does not match, "
                        f"it is changed")


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
