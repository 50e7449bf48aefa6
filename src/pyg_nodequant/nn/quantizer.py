r"""The node-aware quantizer: rows in, rows at their own precision out."""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from pyg_nodequant import functional as F
from pyg_nodequant.config import (
    ESTIMATORS,
    RANGES,
    SYMMETRIC_RANGES,
    WIDTH_GRADIENTS,
    check_choice,
)
from pyg_nodequant.nn.controller import BitWidthController
from pyg_nodequant.nn.stored_scale import StoredScale


class RowCodes(NamedTuple):
    r"""What is stored of quantized rows: a row reads
    :obj:`scale * code + offset`, or, if :obj:`offset` is :obj:`None`,
    :obj:`scale * (code - (2**width - 1) / 2)`. A row of width 0 reads
    :obj:`scale * centre`.

    Args:
        codes (Tensor): Integer codes, uint8 of shape :math:`(B, d)`.
        widths (Tensor): Widths in bits, uint8 of shape :math:`(B)`.
        scale (Tensor): Steps :math:`r_i = \Delta_i / s_i`, float32 of shape
            :math:`(B)`, each exactly as it is stored.
        offset (Tensor, optional): Offsets :math:`\mu_i`, likewise.
        groups (Tensor, optional): The group of each row, :math:`(B)`, if the
            rows of one group and width share their scale.
        grids (Tensor, optional): The grid of each row's scale,
            :math:`(B, 2)`, if scales are stored as logarithms of 8 bits.
        centre (Tensor, optional): The row :math:`(d)` that rows of width 0
            with a scale of 1 read, if the quantizer has such widths.
    """

    codes: Tensor
    widths: Tensor
    scale: Tensor
    offset: Optional[Tensor]
    groups: Optional[Tensor] = None
    grids: Optional[Tensor] = None
    centre: Optional[Tensor] = None


def take(values: Tensor, n_id: Optional[Tensor]) -> Tensor:
    r"""Returns the values of nodes :obj:`n_id`, shape :math:`(B)`; repeated
    nodes add up their gradients in a fixed order.
    """
    if n_id is None:
        return values
    return F.gather_rows(values.unsqueeze(-1), n_id).squeeze(-1)


class NodeAwareQuantizer(torch.nn.Module):
    r"""Quantizes each node's row at that node's width, scale and offset.

    .. math::
        v &= \mathrm{round}\Big( \mathrm{clamp}\Big(
        \frac{e - \mu_i}{\Delta_i}, 0, 1 \Big) s_i \Big), \qquad
        s_i = 2^{b_i} - 1 \\
        q &= \frac{v}{s_i} \Delta_i + \mu_i

    Rounding passes gradients straight through; the clamp cuts them outside
    the range (`arXiv 2508.16516 <https://arxiv.org/abs/2508.16516>`_).

    While the widths are trained the ranges are exact; in eval mode and from
    the moment the widths are frozen, scales and offsets are snapped to what
    is stored of them, so that what is trained is what is served.

    A row of width 0 has no codes. It reads zeros, or the one row that
    :meth:`share_row` gives to the first nodes.

    Args:
        num_nodes (int): The number of nodes :math:`N`.
        dim (int): Numbers a row, :math:`d`.
        controller (BitWidthController, optional): Gives the widths; shared
            freely among quantizers. (default: a new one for
            :obj:`num_nodes`)
        range (str, optional): :obj:`"symmetric"`: the Gaussian span of the
            row's root mean square; :obj:`"mse"`: that span times the factor
            of least error; :obj:`"meanstd"`: the Gaussian span around the
            row's mean; :obj:`"minmax"`: of the row; :obj:`"learned"`: one
            trained :math:`\ln \Delta_i` and :math:`\mu_i` a node, started by
            :meth:`calibrate` (or on the first training batch that meets a
            node). (default: :obj:`"symmetric"`)
        estimator (str, optional): :obj:`"ste"`: rounding; :obj:`"lsq"`:
            rounding, and the gradients of learned :math:`\Delta_i, \mu_i`
            are scaled (:func:`~pyg_nodequant.functional.lsq_factor`);
            :obj:`"noise"`: while training, uniform noise of half a step
            instead. (default: :obj:`"ste"`)
        width_gradient (str, optional): :obj:`"levels"`: the gradient of a
            continuous width comes through :math:`s_i` and the range;
            :obj:`"interpolated"`: it is the difference of the row at the two
            neighbouring whole widths, between which the row lies
            (:func:`~pyg_nodequant.functional.interpolate_quantize`); without
            effect on whole widths. (default: :obj:`"levels"`)
        row_scale (str, optional): What is stored of a row's scale:
            :obj:`"float16"`, :obj:`"log8"` or :obj:`"group"`, see
            :class:`~pyg_nodequant.nn.StoredScale`; the last two need a
            symmetric range. (default: :obj:`"float16"`)
        groups (Tensor, optional): The nodes that share a grid of
            :obj:`"log8"` or a scale of :obj:`"group"`, shape :math:`(N)`.

    Shapes:
        - **input:** rows :math:`(B, d)`, node ids :math:`(B)` *(optional)*
        - **output:** quantized rows :math:`(B, d)`

    Raises:
        ValueError: If the controller is for another number of nodes, or
            the options do not go together.

    Example:
        >>> quantizer = NodeAwareQuantizer(3, 4)
        >>> x = torch.randn(3, 4)
        >>> quantizer(x).shape
        torch.Size([3, 4])
        >>> quantizer(x[[2]], n_id=torch.tensor([2])).shape
        torch.Size([1, 4])
    """

    calibrated: Tensor
    shared_row: Tensor
    num_sharing: Tensor

    def __init__(
        self,
        num_nodes: int,
        dim: int,
        controller: Optional[BitWidthController] = None,
        range: str = "symmetric",
        *,
        estimator: str = "ste",
        width_gradient: str = "levels",
        row_scale: str = "float16",
        groups: Optional[Tensor] = None,
    ) -> None:
        super().__init__()
        check_choice("range", range, RANGES)
        check_choice("estimator", estimator, ESTIMATORS)
        check_choice("width_gradient", width_gradient, WIDTH_GRADIENTS)
        if estimator == "lsq" and range != "learned":
            raise ValueError(f"'range' needs to be learned for estimator lsq "
                             f"(got '{range}')")
        if row_scale != "float16" and range not in SYMMETRIC_RANGES:
            raise ValueError(f"'range' needs to be one of "
                             f"{', '.join(SYMMETRIC_RANGES)} for row scales "
                             f"of the form {row_scale} (got '{range}')")
        controller = controller or BitWidthController(num_nodes)
        if controller.num_nodes != num_nodes:
            raise ValueError(f"'controller' needs to be for {num_nodes} nodes "
                             f"(got one for {controller.num_nodes})")
        self.num_nodes = num_nodes
        self.dim = dim
        self.controller = controller
        self.range = range
        self.estimator = estimator
        self.width_gradient = width_gradient
        self.stored_scale = StoredScale(num_nodes, row_scale, groups)
        #: Decides the noise of the next forward passes; torch's global
        #: generator does if it is :obj:`None`.
        self.noise_seed: Optional[int] = None
        self.log_delta: Optional[torch.nn.Parameter] = None
        self.mu: Optional[torch.nn.Parameter] = None
        if range == "learned":
            self.log_delta = torch.nn.Parameter(torch.empty(num_nodes))
            self.mu = torch.nn.Parameter(torch.empty(num_nodes))
            self.register_buffer("calibrated",
                                 torch.zeros(num_nodes, dtype=torch.bool))
        if controller.min_bits == 0:
            self.register_buffer("shared_row", torch.zeros(dim))
            self.register_buffer("num_sharing", torch.tensor(0))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Forgets learned ranges, grids and a shared row; the shared
        controller is left alone.
        """
        self.stored_scale.reset_parameters()
        if self.controller.min_bits == 0:
            self.shared_row.zero_()
            self.num_sharing.zero_()
        if self.log_delta is not None and self.mu is not None:
            torch.nn.init.zeros_(self.log_delta)
            torch.nn.init.constant_(self.mu, -0.5)
            self.calibrated.fill_(False)

    def forward(self, x: Tensor, n_id: Optional[Tensor] = None,
                table: Optional[Tensor] = None) -> Tensor:
        r"""Returns the quantized rows.

        Args:
            x (Tensor): Rows of shape :math:`(B, d)`.
            n_id (Tensor, optional): The node of each row. (default:
                :obj:`None`, rows are nodes :math:`0, \dots, N - 1`)
            table (Tensor, optional): The rows of all nodes, :math:`(N, d)`;
                needed beside :obj:`n_id` where the scale of a row depends on
                those of others.

        Raises:
            ValueError: If :obj:`x` does not fit the ids or :math:`d`, or
                :obj:`table` is needed and not given.
        """
        self._check(x, n_id)
        with torch.autocast(x.device.type, enabled=False):
            rows = x.float()
            if self.training and self.range == "learned":
                self._calibrate_new(rows, n_id)
            bits = self._bits(n_id)
            noise = None
            if self.training and self.estimator == "noise":
                noise = F.rounding_noise(rows, self.noise_seed)
            if self.is_snapped:
                _, delta, mu, _ = self._stored(rows, bits, n_id, table)
                # Rows that share a scale may be far smaller than their range.
                out = F.fake_quantize(rows, bits, delta, mu, noise,
                                      self.stored_scale.form == "group")
                out = self._estimated(out, rows, bits, delta, mu, n_id)
            elif self.width_gradient == "interpolated":
                low, high = (self._range(rows, whole, n_id)
                             for whole in F.neighbour_bits(bits))
                out = F.interpolate_quantize(rows, bits, low, high, noise)
            else:
                delta, mu = self._range(rows, bits, n_id)
                out = F.fake_quantize(rows, bits, delta, mu, noise)
                out = self._estimated(out, rows, bits, delta, mu, n_id)
            if self.controller.min_bits > 0:
                return out
            # A row of width 0 stores no code.
            shared = self._shares(n_id) * self.shared_row
            return torch.where(F.column(bits) > 0, out, shared.to(out.dtype))

    @torch.no_grad()
    def encode(self, x: Tensor, n_id: Optional[Tensor] = None,
               table: Optional[Tensor] = None) -> RowCodes:
        r"""Returns what is stored of rows :obj:`x`; dequantized it equals
        :meth:`forward` in eval mode. Arguments are those of :meth:`forward`.

        Raises:
            ValueError: If a scale or offset does not fit its stored
                precision, or a value is not finite.
        """
        self._check(x, n_id)
        if not bool(torch.isfinite(x).all()):
            raise ValueError("'x' needs to be finite to be packed (got NaN or "
                             "infinite values)")
        rows = x.float()
        bits = self._widths_served(n_id).to(rows.dtype)
        step, delta, mu, grids = self._stored(rows, bits, n_id, table)
        if not bool(torch.isfinite(step).all() & torch.isfinite(mu).all()):
            limit = "float16 (above 65504)" if grids is None else "float32"
            raise ValueError(f"a row's scale or offset does not fit a {limit}"
                             f"; rescale the embeddings")
        codes = F.quantize(rows, bits, delta, mu)
        # A row of width 0 has no range of its own.
        live = F.column(bits) > 0
        step, mu = (torch.where(live, part, 0) for part in (step, mu))
        centre = None
        if self.controller.min_bits == 0 and self.is_symmetric:
            step = torch.where(live, step, self._shares(n_id))
            centre = self.shared_row
        return RowCodes(codes, bits.to(torch.uint8), step.squeeze(-1),
                        None if self.is_symmetric else mu.squeeze(-1),
                        self.stored_scale.groups_of(n_id), grids, centre)

    @torch.no_grad()
    def calibrate(self, x: Tensor, n_id: Optional[Tensor] = None) -> None:
        r"""Starts learned ranges from the symmetric ones of :obj:`x`. Once
        widths are frozen, fixes the grids of logarithmic scales, for which
        :obj:`x` needs to be the rows of all nodes.

        Raises:
            ValueError: If grids are asked of some rows.
        """
        if self.stored_scale.form == "log8" and self.controller.is_frozen:
            self._check(x, None)
            rows = x.float()
            bits = self._widths_served(None).to(rows.dtype)
            delta, _ = self._range(rows, bits, None)
            self.stored_scale.fix_grids(self._step(delta, bits), bits)
        if self.log_delta is None or self.mu is None:
            return
        bits = self._bits(n_id)
        delta, mu = F.symmetric_range(x.float(), bits)
        index = slice(None) if n_id is None else n_id
        self.log_delta[index] = delta.squeeze(-1).clamp(min=1e-8).log()
        self.mu[index] = mu.squeeze(-1)
        self.calibrated[index] = True

    @torch.no_grad()
    def share_row(self, row: Tensor, count: int) -> None:
        r"""Sets the row that the first nodes read where their width is 0; it
        is rounded to the float16 that it is stored at, and not trained.

        Args:
            row (Tensor): The row, shape :math:`(d)`.
            count (int): How many nodes; all others read zeros.

        Raises:
            ValueError: If no width can be 0, ranges are not symmetric, the
                row has another shape or does not fit a float16.
        """
        if self.controller.min_bits > 0 or not self.is_symmetric:
            raise ValueError(f"a shared row needs widths from 0 on and the "
                             f"range symmetric (got min_bits="
                             f"{self.controller.min_bits} and {self.range})")
        stored = F.snap_float16(row.float())
        if row.shape != (self.dim, ) or not bool(stored.isfinite().all()):
            raise ValueError(f"'row' needs {self.dim} numbers that fit a "
                             f"float16 (got shape {list(row.shape)})")
        if not 0 <= count <= self.num_nodes:
            raise ValueError(f"'count' needs to be in [0, {self.num_nodes}] "
                             f"(got {count})")
        self.shared_row.copy_(stored)
        self.num_sharing.fill_(count)

    def _shares(self, n_id: Optional[Tensor]) -> Tensor:
        # 1 for nodes that share the row, 0 for others, (B, 1).
        row = self.shared_row
        if n_id is None:
            n_id = torch.arange(self.num_nodes, device=row.device)
        return (n_id < self.num_sharing).to(row.dtype).unsqueeze(-1)

    def borrow_controller(self) -> None:
        r"""Keeps using the controller but leaves its registration, and so
        its state_dict keys, to the module that owns it.
        """
        controller = self.controller
        del self._modules["controller"]
        object.__setattr__(self, "controller", controller)

    @property
    def is_symmetric(self) -> bool:
        r"""Whether rows need no stored offset."""
        return self.range in SYMMETRIC_RANGES

    @property
    def is_snapped(self) -> bool:
        r"""Whether scales and offsets are what is stored of them."""
        return self.controller.is_frozen or not self.training

    def _check(self, x: Tensor, n_id: Optional[Tensor]) -> None:
        count = self.num_nodes if n_id is None else n_id.numel()
        if x.dim() != 2 or x.size(0) != count or x.size(1) != self.dim:
            raise ValueError(f"'x' needs shape [{count}, {self.dim}] "
                             f"(got {list(x.shape)})")

    def _widths_served(self, n_id: Optional[Tensor]) -> Tensor:
        bits = self.controller.bit_width
        return bits if n_id is None else bits[n_id]

    def _bits(self, n_id: Optional[Tensor]) -> Tensor:
        if not self.training and not self.controller.is_frozen:
            return self._widths_served(n_id).float()
        return take(self.controller().float(), n_id)

    def _range(self, x: Tensor, bits: Tensor,
               n_id: Optional[Tensor]) -> tuple[Tensor, Tensor]:
        if self.range == "symmetric":
            return F.symmetric_range(x, bits)
        if self.range == "mse":
            return F.mse_range(x, bits)
        if self.range == "meanstd":
            return F.meanstd_range(x, bits)
        if self.range == "minmax":
            return F.minmax_range(x)
        assert self.log_delta is not None and self.mu is not None
        delta = take(self.log_delta, n_id).float().exp().unsqueeze(-1)
        mu = take(self.mu, n_id).float().unsqueeze(-1)
        if self.estimator == "lsq":
            factor = F.lsq_factor(bits, self.dim)
            delta = F.scale_gradient(delta, factor)
            mu = F.scale_gradient(mu, factor)
        seen = self.calibrated if n_id is None else self.calibrated[n_id]
        if bool(seen.all()):
            return delta, mu
        # A node no batch has met yet has no range of its own.
        seen = seen.unsqueeze(-1)
        start, low = F.symmetric_range(x, bits)
        return torch.where(seen, delta, start), torch.where(seen, mu, low)

    def _estimated(self, out: Tensor, x: Tensor, bits: Tensor, delta: Tensor,
                   mu: Tensor, n_id: Optional[Tensor]) -> Tensor:
        # For other estimates of the gradient; the values stay.
        return out

    @staticmethod
    def _step(delta: Tensor, bits: Tensor) -> Tensor:
        return delta / F.num_levels(bits).clamp(min=1).unsqueeze(-1)

    def _stored(
        self,
        x: Tensor,
        bits: Tensor,
        n_id: Optional[Tensor],
        table: Optional[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, Optional[Tensor]]:
        # Steps, ranges, offsets and, of logarithms, grids as they are stored.
        whose = n_id
        if n_id is not None and self.stored_scale.needs_all:
            if table is None:
                raise ValueError(f"'table' needs to hold the rows of all "
                                 f"nodes for row scales of the form "
                                 f"{self.stored_scale.form} (got None)")
            self._check(table, None)
            x, whose = table.float(), None
            bits = self._widths_served(None).to(x.dtype)
        delta, mu = self._range(x, bits, whose)
        step, grids = self.stored_scale(self._step(delta, bits), bits, n_id)
        if whose is not n_id:
            bits = bits[n_id]
        delta = step * F.num_levels(bits).unsqueeze(-1)
        mu = -delta / 2 if self.is_symmetric else F.snap_float16(mu)
        return step, delta, mu, grids

    def _calibrate_new(self, x: Tensor, n_id: Optional[Tensor]) -> None:
        seen = self.calibrated if n_id is None else self.calibrated[n_id]
        if not bool(seen.all()):
            new = (~seen).nonzero().squeeze(-1)
            ids = new if n_id is None else n_id[new]
            self.calibrate(x.detach()[new], ids)

    def __repr__(self) -> str:
        return (f"{self.__class__.__name__}({self.num_nodes}, {self.dim}, "
                f"range={self.range}, controller={self.controller})")
