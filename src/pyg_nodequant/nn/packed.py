r"""Lookup in packed rows, for models written in torch."""

from __future__ import annotations

from typing import Any, Callable, Optional

import numpy as np
import torch
from torch import Tensor

from pyg_nodequant.nn.embedding import NodeAwareQuantEmbedding
from pyg_nodequant.nn.quantizer import NodeAwareQuantizer
from pyg_nodequant.nn.stored_table import stored_table
from pyg_nodequant.runtime import PackedTable, RowClasses
from pyg_nodequant.runtime.row_classes import unpack_nibbles
from pyg_nodequant.runtime.row_codes import bit_starts, pack_codes
from pyg_nodequant.runtime.row_scales import RowScales

# What a checkpoint holds; all else follows from it. The last two may be
# missing: rows need no offset, scales are no logarithms.
_STATE = ("codes", "class_ids", "classes", "scale", "offset", "log_scale")
_OPTIONAL = ("offset", "log_scale")
# Zero bytes after the last string, which a lookup may read.
_SPARE = 2


class PackedEmbedding(torch.nn.Module):
    r"""An embedding table for inference that stays packed in memory: a call
    unpacks the rows asked for, and no others.

    .. math::
        x_k = r_i (m_{ck} + a_{ck} v_k) + o_i n_{ck}

    for row :math:`i` of class :math:`c` with codes :math:`v`, scale
    :math:`r_i` and offset :math:`o_i` (see
    :class:`~pyg_nodequant.runtime.RowClasses`). The rows are those of
    :meth:`PackedTable.dequantize <pyg_nodequant.PackedTable.dequantize>`.

    .. note::
        Everything is a buffer, so :obj:`state_dict`, :obj:`.to(device)` and
        copies work. Casting the module to another type casts what it
        returns; stored codes, scales and offsets keep their precision. A
        checkpoint of rows of other widths loads too: the buffers take its
        sizes.

    Args:
        table (PackedTable): The rows.
        padding_idx (int, optional): A row that reads zeros, as in
            :class:`torch.nn.Embedding`. (default: :obj:`None`)
        dtype (torch.dtype, optional): Type of the rows returned.
            (default: :obj:`torch.float32`)

    Shapes:
        - **input:** indices of any shape :math:`(*)`
        - **output:** :math:`(*, d)`

    Raises:
        ValueError: If :obj:`padding_idx` is not a row of the table.

    Example:
        >>> table = PackedTable.from_float([[1.0, -1.0], [0.5, 2.0]], 8)
        >>> emb = PackedEmbedding(table)
        >>> emb(torch.tensor([[1]])).shape
        torch.Size([1, 1, 2])
        >>> emb
        PackedEmbedding(2, 2, bits=8..8, avg=8.00)
    """

    codes: Tensor
    class_ids: Tensor
    classes: Tensor
    scale: Tensor
    offset: Optional[Tensor]
    log_scale: Optional[Tensor]
    row_start: Tensor
    widths: Tensor
    bit_start: Tensor
    steps: Tensor
    offsets: Tensor
    uses_offset: Tensor
    scale_table: Optional[Tensor]

    def __init__(
        self,
        table: PackedTable,
        padding_idx: Optional[int] = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        size = len(table)
        if padding_idx is not None:
            if not -size <= padding_idx < size:
                raise ValueError(f"'padding_idx' needs to be in "
                                 f"[{-size}, {size - 1}] (got {padding_idx})")
            padding_idx %= size
        self.num_embeddings = size
        self.embedding_dim = table.dim
        self.padding_idx = padding_idx
        self.dtype = dtype
        arrays = table.encode("t")[1]
        if "t.log4" in arrays:  # a byte a row here, as a lookup wants it
            arrays["t.log"] = arrays["t.log4"]
            arrays["t.scale"] = unpack_nibbles(arrays["t.scale"], size)
        state = {
            "codes": _row_strings(table),
            "class_ids": table.class_ids.astype(np.uint8),
            "classes": np.frombuffer(
                bytes([len(table.classes) - 1]) + table.classes.to_bytes(),
                dtype=np.uint8),
            "scale": _by_row(table, arrays["t.scale"]),
            "offset": _by_row(table, arrays.get("t.offset")),
            "log_scale": arrays.get("t.log"),
        }
        for name in _STATE:
            value = state[name]
            # Copied: the arrays of a table may be mapped from its file.
            self.register_buffer(
                name, None if value is None else torch.tensor(value))
        self._derive()

    @classmethod
    def from_table(
        cls,
        table: PackedTable,
        padding_idx: Optional[int] = None,
        dtype: torch.dtype = torch.float32,
    ) -> PackedEmbedding:
        r"""Looks up the rows of a table; the same as the constructor."""
        return cls(table, padding_idx, dtype)

    @classmethod
    def from_quantized(
        cls,
        embedding: NodeAwareQuantEmbedding,
    ) -> PackedEmbedding:
        r"""Packs what a trained embedding serves in eval mode.

        Raises:
            ValueError: If a row does not fit its stored precision.
        """
        out = cls.from_quantizer(embedding.quantizer, embedding.latent_rows(),
                                 embedding.padding_idx)
        return out.train(embedding.training)

    @classmethod
    def from_quantizer(
        cls,
        quantizer: NodeAwareQuantizer,
        weight: Tensor,
        padding_idx: Optional[int] = None,
    ) -> PackedEmbedding:
        r"""Packs what a quantizer makes of a float table in eval mode.

        Args:
            quantizer (NodeAwareQuantizer): The quantizer.
            weight (torch.Tensor): The float table, :math:`(N, d)`.
            padding_idx (int, optional): As in the constructor.

        Raises:
            ValueError: If a row does not fit its stored precision.
        """
        table = stored_table(quantizer.encode(weight))
        out = cls(table, padding_idx, weight.dtype)
        return out.to(weight.device)

    def forward(self, input: Tensor) -> Tensor:
        r"""Looks up and unpacks the rows of :obj:`input`.

        Raises:
            IndexError: If an index is not that of a row.
        """
        index = input.reshape(-1).long()
        # Looking at values would end a compiled graph.
        if index.numel() > 0 and not torch.compiler.is_compiling():
            low, high = int(index.min()), int(index.max())
            if low < 0 or high >= self.num_embeddings:
                raise IndexError(f"'input' needs to be in "
                                 f"[0, {self.num_embeddings - 1}] "
                                 f"(got [{low}, {high}])")
        out = self._unpack(index, torch.float32)
        return out.to(self.dtype).view(*input.shape, self.embedding_dim)

    def read(self, index: Tensor) -> Tensor:
        r"""Returns rows as :obj:`float64`, to the last bit the
        :obj:`float32` values of :meth:`PackedTable.dequantize
        <pyg_nodequant.PackedTable.dequantize>`, on any device that has
        :obj:`float64`.

        Args:
            index (torch.Tensor): Valid row numbers, :math:`(B)`.
        """
        return self._unpack(index, torch.float64).float().double()

    def dequantize(self, batch_size: int = 65536) -> Tensor:
        r"""Returns the whole table as floats, :math:`(N, d)`, unpacking
        :obj:`batch_size` rows at a time.
        """
        rows = torch.arange(self.num_embeddings, device=self.codes.device)
        parts = torch.split(rows, batch_size)
        return torch.cat([self(part) for part in parts])

    @property
    def weight(self) -> Tensor:
        r"""The whole table as floats, unpacked anew each time it is read, for
        models that read :obj:`embedding.weight`.
        """
        return self.dequantize()

    def quantized_weight(self) -> Tensor:
        r"""The whole table, as of
        :meth:`NodeAwareQuantEmbedding.quantized_weight`.
        """
        return self.dequantize()

    @property
    def nbytes(self) -> int:
        r"""The bytes that the module holds in memory."""
        return sum(x.numel() * x.element_size() for x in self.buffers())

    @property
    def width_summary(self) -> str:
        r"""The bounds and the mean of the widths, for repr."""
        count = torch.bincount(self.class_ids.long(),
                               minlength=self.widths.size(0)).double()
        used = self.widths[count > 0].double()
        if used.numel() == 0:
            return "bits=0..0, avg=0.00"
        mean = (count @ self.widths.double().mean(-1)) / count.sum()
        return (f"bits={int(used.min())}..{int(used.max())}, "
                f"avg={float(mean):.2f}")

    def _unpack(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        # The formula of a row, evaluated in the given precision.
        number = self.class_ids[index].long()
        out = self.steps.to(dtype)[number] * self._codes(index, number)
        out = self.offsets.to(dtype)[number] + out
        out = self._scale(index).to(dtype).unsqueeze(-1) * out
        if self.offset is not None:
            out = out + (self.uses_offset[number] *
                         self.offset[index].to(dtype).unsqueeze(-1))
        if self.padding_idx is not None:
            padding = (index == self.padding_idx).unsqueeze(-1)
            out = out.masked_fill(padding, 0.0)
        return out

    def _codes(self, index: Tensor, number: Tensor) -> Tensor:
        # A code of at most 8 bits lies within two bytes of its row's string.
        bit = self.bit_start[number]
        byte = self.row_start[index].unsqueeze(-1) + (bit >> 3)
        pair = self.codes[byte].int() | self.codes[byte + 1].int() << 8
        mask = (1 << self.widths[number].int()) - 1
        return (pair >> (bit & 7)) & mask

    def _scale(self, index: Tensor) -> Tensor:
        scale = self.scale
        if scale.numel() == 1:  # shared by all rows
            scale = scale.expand(self.num_embeddings)
        if self.scale_table is not None:
            return self.scale_table[scale[index].long()]
        return scale[index].float()

    def _derive(self) -> None:
        # What follows from the stored state, in the form a lookup wants.
        device = self.codes.device
        size = self.num_embeddings
        if self.scale.numel() not in {1, size}:
            raise ValueError(f"'scale' needs one entry for each of the "
                             f"{size} rows, or one for all "
                             f"(got {self.scale.numel()})")
        if self.offset is not None and self.offset.numel() != size:
            raise ValueError(f"'offset' needs one entry for each of the "
                             f"{size} rows (got {self.offset.numel()})")
        data = self.classes.cpu().numpy().tobytes()
        classes = RowClasses.from_bytes(data[1:], data[0] + 1,
                                        self.embedding_dim)
        if (self.class_ids >= len(classes)).any():
            raise ValueError(f"a row is of a class beyond the "
                             f"{len(classes)} there are")
        nbytes = torch.from_numpy((classes.bits + 7) // 8).to(device)
        end = nbytes[self.class_ids.long()].cumsum(0)
        start = torch.cat([end.new_zeros(1), end])
        if self.codes.numel() != int(start[-1]) + _SPARE:
            raise ValueError(f"the codes need {int(start[-1]) + _SPARE} bytes "
                             f"(got {self.codes.numel()})")
        start = start[:-1]
        if self.codes.numel() < 2**31:
            start = start.int()
        derived = {
            "row_start": start,
            "widths": torch.tensor(classes.widths),
            "bit_start": torch.tensor(
                np.stack([bit_starts(row) for row in classes.widths])).int(),
            "steps": torch.tensor(classes.steps),
            "offsets": torch.tensor(classes.offsets),
            "uses_offset": torch.tensor(classes.uses_offset),
        }
        for name, value in derived.items():
            self.register_buffer(name, value.to(device), persistent=False)
        values = None
        if self.log_scale is not None:
            values = torch.tensor(
                RowScales(np.arange(256, dtype=np.uint8), 256,
                          self.log_scale.cpu().numpy()).values).to(device)
        self.register_buffer("scale_table", values, persistent=False)

    def _apply(
        self,
        fn: Callable[[Tensor], Tensor],
        recurse: bool = True,
    ) -> PackedEmbedding:
        # `.half()` and the like must not round what is stored.
        def move(x: Tensor) -> Tensor:
            y = fn(x)
            return y if y.dtype == x.dtype else x.to(y.device)

        probe = torch.empty(0, dtype=self.dtype, device=self.codes.device)
        self.dtype = fn(probe).dtype
        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        *args: Any,
    ) -> None:
        errors = args[-1]
        ids = state_dict.get(f"{prefix}class_ids")
        if ids is not None and tuple(ids.shape) != (self.num_embeddings, ):
            errors.append(f"'{prefix}class_ids' needs {self.num_embeddings} "
                          f"rows (got {list(ids.shape)})")
            return
        device = self.codes.device
        for name in _STATE:
            value = state_dict.get(prefix + name)
            if value is not None:
                self._buffers[name] = torch.empty_like(value, device=device)
            elif name in _OPTIONAL and ids is not None:
                self._buffers[name] = None
        super()._load_from_state_dict(state_dict, prefix, *args)
        try:
            self._derive()
        except ValueError as error:
            errors.append(f"'{prefix}codes' cannot be read: {error}")

    def __repr__(self) -> str:
        return (f"{self.__class__.__name__}({self.num_embeddings}, "
                f"{self.embedding_dim}, {self.width_summary})")


def _by_row(table: PackedTable, stored: Any) -> Any:
    # Numbers that the table holds in the order of its storage.
    if stored is None or len(stored) != len(table):  # absent or shared
        return stored
    out = np.empty_like(stored)
    out[table.order] = stored
    return out


def _row_strings(table: PackedTable, batch_size: int = 65536) -> Any:
    # The bit strings of all rows one after another, by id.
    sizes = (table.bits + 7) // 8
    ends = np.cumsum(sizes)
    starts = ends - sizes
    out = np.zeros(int(sizes.sum()) + _SPARE, dtype=np.uint8)
    for number, widths in enumerate(table.classes.widths):
        rows = np.flatnonzero(table.class_ids == number)
        for begin in range(0, len(rows), batch_size):
            ids = rows[begin:begin + batch_size]
            strings = pack_codes(table.codes(ids), widths)
            place = starts[ids, None] + np.arange(strings.shape[1])
            out[place] = strings
    return out
