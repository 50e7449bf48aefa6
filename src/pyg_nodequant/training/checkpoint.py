r"""Checkpoints: everything a run needs to go on, in one safetensors file.

The file holds flat tensors, and one metadata entry of JSON that says where
each of them stands. Nothing is pickled, so opening a checkpoint runs no code.

.. code-block:: text

    tensors   model/embedding.weight  best/...  optimizer/state/0/exp_avg  ...
    metadata  {"nodequant_checkpoint": "{version, crc32, content}"}

The content is the tree of the five parts. What JSON lacks is written as a
dictionary with a single key that starts with ``$``: ``{"$tensor": name}``,
``{"$tuple": [...]}``, ``{"$float": "nan"}`` and, for dictionaries whose keys
are not plain strings, ``{"$dict": [[key, value], ...]}``.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pyg_nodequant.runtime.atomic import write_atomic

FILE_NAME = "checkpoint.safetensors"
VERSION = 1
_KEY = "nodequant_checkpoint"
_PARTS = ("model", "optimizer", "best", "state", "groups")


class CheckpointError(ValueError):
    r"""A checkpoint that cannot be written or read."""


@dataclass(frozen=True)
class Checkpoint:
    r"""What :meth:`load_checkpoint` returns: the parts given to
    :meth:`save_checkpoint`, all tensors on the CPU.
    """

    model: dict[str, Tensor]
    optimizer: Optional[dict[str, Any]] = None
    best: Optional[dict[str, Tensor]] = None
    state: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def save_checkpoint(
    path: Union[str, Path],
    *,
    model: Mapping[str, Tensor],
    optimizer: Optional[Mapping[str, Any]] = None,
    best: Optional[Mapping[str, Tensor]] = None,
    state: Optional[Mapping[str, Any]] = None,
    groups: Optional[Mapping[str, Mapping[str, Tensor]]] = None,
) -> None:
    r"""Writes a checkpoint: the whole file or, if anything goes wrong,
    nothing.

    Every value comes back as it was, bit by bit: tensors with their type and
    shape (scalars too), floats including infinite ones and NaN, integers of
    any size (as in the states of random generators), tuples, and dictionaries
    with integer keys (as in the state of an optimizer). Tensors may share
    memory; they are stored, and come back, one by one.

    Args:
        path (str or Path): The file, or an existing run directory, in which
            it is called :obj:`checkpoint.safetensors`.
        model (dict[str, Tensor]): The model's :obj:`state_dict()`.
        optimizer (dict[str, Any], optional): The :obj:`state_dict()` of the
            :class:`torch.optim.Optimizer`. (default: :obj:`None`)
        best (dict[str, Tensor], optional): The tensors of the best model so
            far. (default: :obj:`None`)
        state (dict[str, Any], optional): Anything made of dictionaries,
            lists, tuples, strings, numbers, :obj:`None` and tensors.
            (default: :obj:`None`, stored as an empty dictionary)
        groups (dict[str, dict[str, Tensor]], optional): Further tensors by
            group, *e.g.*, those of a frozen teacher. (default: :obj:`None`,
            stored as an empty dictionary)

    Raises:
        CheckpointError: If a value is of no such type.
        OSError: If the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     save_checkpoint(folder, model={"weight": torch.ones(2)},
        ...                     state={"step": 7, "best": float("-inf")})
        ...     load_checkpoint(folder).state
        {'step': 7, 'best': -inf}
    """
    parts = {
        "model": model,
        "optimizer": optimizer,
        "best": best,
        "state": state or {},
        "groups": groups or {},
    }
    encoder = _Encoder()
    content = {name: encoder.encode(parts[name], name) for name in _PARTS}
    header = {
        "version": VERSION,
        "crc32": _checksum(content, encoder.tensors),
        "content": content,
    }
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    # A single entry of metadata: safetensors keeps no order among several.
    write_atomic(path, [save(encoder.tensors, {_KEY: json.dumps(header)})])


def load_checkpoint(path: Union[str, Path]) -> Checkpoint:
    r"""Reads a checkpoint.

    Args:
        path (str or Path): The file, or the run directory it is in.

    Raises:
        CheckpointError: If there is none, or if it is truncated, damaged,
            no checkpoint of this package, or of a newer version of it.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at '{path}': needs to be a "
                              f"'{FILE_NAME}' or a run directory with one")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(_KEY)
            if text is None:
                raise CheckpointError(f"'{path}' is a safetensors file, but "
                                      f"no checkpoint of pyg-nodequant")
            header = _read_header(text, path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise CheckpointError(f"'{path}' is truncated, damaged or no "
                              f"checkpoint at all ({error})") from error
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read ({error})") from error
    content = header["content"]
    if _checksum(content, tensors) != header["crc32"]:
        raise CheckpointError(f"'{path}' is damaged: its checksum does not "
                              f"match")
    return Checkpoint(**{
        name: _decode(content[name], tensors)
        for name in _PARTS
    })


def _read_header(text: str, path: Path) -> dict[str, Any]:
    damaged = CheckpointError(f"'{path}' is damaged: its description cannot "
                              f"be read")
    try:
        header = json.loads(text)
    except ValueError as error:
        raise damaged from error
    if not isinstance(header, dict) or not isinstance(
            header.get("version"), int):
        raise damaged
    if header["version"] > VERSION:
        raise CheckpointError(f"'{path}' is a checkpoint of version "
                              f"{header['version']}, written by a newer "
                              f"pyg-nodequant (this one reads up to "
                              f"{VERSION})")
    if header["version"] != VERSION or not {"crc32", "content"} <= set(header):
        raise damaged
    return header


class _Encoder:
    r"""Turns values into JSON, and collects their tensors by name."""
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._storages: set[int] = set()

    def encode(self, value: Any, name: str) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return value if math.isfinite(value) else {"$float": repr(value)}
        if isinstance(value, Tensor):
            return {"$tensor": self._add(value, name)}
        if isinstance(value, (list, tuple)):
            items = [
                self.encode(v, f"{name}/{i}") for i, v in enumerate(value)
            ]
            return items if isinstance(value, list) else {"$tuple": items}
        if isinstance(value, Mapping):
            if not all(isinstance(key, (str, int)) for key in value):
                raise CheckpointError(f"'{name}' needs to have strings or "
                                      f"integers as keys (got {list(value)})")
            pairs = [[key, self.encode(v, f"{name}/{key}")]
                     for key, v in value.items()]
            plain = all(
                isinstance(key, str) and not key.startswith("$")
                for key in value)
            return dict(pairs) if plain else {"$dict": pairs}
        raise CheckpointError(f"'{name}' needs to be made of dictionaries, "
                              f"lists, tuples, strings, numbers, None and "
                              f"tensors (got {type(value).__name__})")

    def _add(self, tensor: Tensor, name: str) -> str:
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError(f"'{name}' needs to be a dense tensor "
                                  f"(got {tensor.layout})")
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in self._storages:
            tensor = tensor.clone()  # safetensors refuses shared memory
        self._storages.add(tensor.untyped_storage().data_ptr())
        while name in self.tensors:  # "b" in "a" and "a/b", say
            name += "'"
        self.tensors[name] = tensor
        return name


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    r"""The inverse of :meth:`_Encoder.encode`."""
    if isinstance(value, list):
        return [_decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$float" in value:
        return float(value["$float"])
    if "$tuple" in value:
        return tuple(_decode(v, tensors) for v in value["$tuple"])
    pairs = value["$dict"] if "$dict" in value else value.items()
    return {key: _decode(v, tensors) for key, v in pairs}


def _checksum(content: Any, tensors: Mapping[str, Tensor]) -> int:
    r"""The CRC-32 of the description, and of every tensor's name, type, shape
    and bytes.
    """
    crc = zlib.crc32(json.dumps(content).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        form = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        crc = zlib.crc32(form.encode(), crc)
        data = tensor.view(-1).view(torch.uint8)
        crc = zlib.crc32(data.numpy().data, crc)
    return crc


__all__ = [
    "Checkpoint",
    "CheckpointError",
    "load_checkpoint",
    "save_checkpoint",
]
