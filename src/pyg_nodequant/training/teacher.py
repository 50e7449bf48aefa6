r"""Trained rows of any model that others are distilled from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pyg_nodequant.data import Interactions
from pyg_nodequant.runtime import PackedRecommender
from pyg_nodequant.training.same_data import check_same_nodes, check_unseen

_PACKED_NAME = "model.nq"
_SUFFIX = ".safetensors"
_TABLES = ("users", "items")


class TeacherError(ValueError):
    r"""Rows that cannot be read, or that belong to other data."""


@dataclass(frozen=True)
class Teacher:
    r"""Rows whose inner products rank, users before items.

    Args:
        rows (Tensor): float32 rows of shape :math:`(N, d')`.
        digest (str): A hash of their values.
    """

    rows: Tensor
    digest: str


def load_teacher(path: str, interactions: Interactions) -> Teacher:
    r"""Reads the rows of a trained model.

    Of a run directory it takes the rows that the run serves, those of
    :obj:`model.nq`: float32 as trained for :obj:`quant.recipe="float"`,
    dequantized for others. A :obj:`.safetensors` file needs float32 tensors
    :obj:`users` of shape :math:`(U, d')` and :obj:`items` of shape
    :math:`(I, d')`, in the order of the data's rows; nothing in it tells
    whether it is that order, nor what the model was trained on.

    The test split plays one part: a run that has trained on some of it, since
    its data were split differently, is refused.

    Args:
        path (str): The run directory or the file.
        interactions (Interactions): The data, with their test split.

    Raises:
        TeacherError: If there is no such model, or if its users and items
            are not those of the data.
    """
    found = Path(path)
    try:
        if (found / _PACKED_NAME).is_file():
            users, items = _packed_rows(found / _PACKED_NAME, interactions)
        elif found.is_file() and found.suffix == _SUFFIX:
            users, items = _tensors(found, interactions)
        else:
            raise TeacherError(f"'quant.teacher' needs to be a run directory "
                               f"with {_PACKED_NAME}, or a {_SUFFIX} file "
                               f"(got '{path}')")
    except TeacherError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise TeacherError(f"'quant.teacher' = '{path}' is no teacher: "
                           f"{error}") from error
    return Teacher(torch.cat([users, items]), _digest(users, items))


def _packed_rows(file: Path,
                 interactions: Interactions) -> tuple[Tensor, Tensor]:
    packed = PackedRecommender.open(file)
    check_same_nodes(packed, interactions)
    check_unseen(packed, interactions)
    return (torch.from_numpy(packed.served_users.dequantize()),
            torch.from_numpy(packed.served_items.dequantize()))


def _tensors(file: Path, interactions: Interactions) -> tuple[Tensor, Tensor]:
    with safe_open(file, "pt") as content:
        names = sorted(content.keys())
        if not set(_TABLES) <= set(names):
            raise ValueError(f"it needs tensors 'users' and 'items' (got "
                             f"{', '.join(names) or 'none'})")
        users, items = (content.get_tensor(name) for name in _TABLES)
    for name, x, count in (("users", users, interactions.num_users),
                           ("items", items, interactions.num_items)):
        if x.dtype != torch.float32 or x.dim() != 2 or x.size(1) == 0:
            raise ValueError(f"'{name}' needs to be a float32 matrix (got "
                             f"{x.dtype} of shape {list(x.shape)})")
        if x.size(0) != count:
            raise ValueError(f"it has {x.size(0):,} {name}, data "
                             f"'{interactions.name}' has {count:,}")
        if not bool(x.isfinite().all()):
            raise ValueError(f"'{name}' needs to be finite (got NaN or "
                             f"infinite values)")
    if users.size(1) != items.size(1):
        raise ValueError(f"'users' and 'items' need as many columns (got "
                         f"{users.size(1)} and {items.size(1)})")
    return users, items


def _digest(*tables: Tensor) -> str:
    content = hashlib.blake2b(digest_size=16)
    for x in tables:
        content.update(repr(tuple(x.shape)).encode())
        content.update(x.contiguous().numpy().tobytes())
    return f"blake2b:{content.hexdigest()}"
