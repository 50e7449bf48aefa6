r"""The node-aware quantizer: rows in, rows at their own precision out."""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from pyg_nodequant import functional as F
from pyg_nodequant.config import RANGES, check_choice
from pyg_nodequant.nn.controller import BitWidthController


class RowCodes(NamedTuple):
    r"""What is stored of quantized rows: a row reads
    :obj:`scale * code + offset`, or, if :obj:`offset` is :obj:`None`,
    :obj:`scale * (code - (2**width - 1) / 2)`.

    Args:
        codes (Tensor): Integer codes, uint8 of shape :math:`(B, d)`.
        widths (Tensor): Widths in bits, uint8 of shape :math:`(B)`.
        scale (Tensor): Steps :math:`r_i = \Delta_i / s_i`, float32 of shape
            :math:`(B)`, each exactly a float16.
        offset (Tensor, optional): Offsets :math:`\mu_i`, likewise.
    """

    codes: Tensor
    widths: Tensor
    scale: Tensor
    offset: Optional[Tensor]


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
    the moment the widths are frozen, scales and offsets are snapped to the
    float16 they are stored at, so that what is trained is what is served.

    Args:
        num_nodes (int): The number of nodes :math:`N`.
        dim (int): Numbers a row, :math:`d`.
        controller (BitWidthController, optional): Gives the widths; shared
            freely among quantizers. (default: a new one for
            :obj:`num_nodes`)
        range (str, optional): :obj:`"symmetric"`: the Gaussian span of the
            row's root mean square; :obj:`"minmax"`: of the row;
            :obj:`"learned"`: one trained :math:`\ln \Delta_i` and
            :math:`\mu_i` a node, started by :meth:`calibrate` (or on the
            first training batch that meets a node).
            (default: :obj:`"symmetric"`)

    Shapes:
        - **input:** rows :math:`(B, d)`, node ids :math:`(B)` *(optional)*
        - **output:** quantized rows :math:`(B, d)`

    Raises:
        ValueError: If the controller is for another number of nodes.

    Example:
        >>> quantizer = NodeAwareQuantizer(3, 4)
        >>> x = torch.randn(3, 4)
        >>> quantizer(x).shape
        torch.Size([3, 4])
        >>> quantizer(x[[2]], n_id=torch.tensor([2])).shape
        torch.Size([1, 4])
    """

    calibrated: Tensor

    def __init__(
        self,
        num_nodes: int,
        dim: int,
        controller: Optional[BitWidthController] = None,
        range: str = "symmetric",
    ) -> None:
        super().__init__()
        check_choice("range", range, RANGES)
        controller = controller or BitWidthController(num_nodes)
        if controller.num_nodes != num_nodes:
            raise ValueError(f"'controller' needs to be for {num_nodes} nodes "
                             f"(got one for {controller.num_nodes})")
        self.num_nodes = num_nodes
        self.dim = dim
        self.controller = controller
        self.range = range
        self.log_delta: Optional[torch.nn.Parameter] = None
        self.mu: Optional[torch.nn.Parameter] = None
        if range == "learned":
            self.log_delta = torch.nn.Parameter(torch.empty(num_nodes))
            self.mu = torch.nn.Parameter(torch.empty(num_nodes))
            self.register_buffer("calibrated",
                                 torch.zeros(num_nodes, dtype=torch.bool))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Forgets learned ranges; the shared controller is left alone."""
        if self.log_delta is not None and self.mu is not None:
            torch.nn.init.zeros_(self.log_delta)
            torch.nn.init.constant_(self.mu, -0.5)
            self.calibrated.fill_(False)

    def forward(self, x: Tensor, n_id: Optional[Tensor] = None) -> Tensor:
        r"""Returns the quantized rows.

        Args:
            x (Tensor): Rows of shape :math:`(B, d)`.
            n_id (Tensor, optional): The node of each row. (default:
                :obj:`None`, rows are nodes :math:`0, \dots, N - 1`)

        Raises:
            ValueError: If :obj:`x` does not fit the ids or :math:`d`.
        """
        self._check(x, n_id)
        with torch.autocast(x.device.type, enabled=False):
            rows = x.float()
            if self.training and self.range == "learned":
                self._calibrate_new(rows, n_id)
            bits = self._bits(n_id)
            delta, mu = self._range(rows, bits, n_id)
            if self.is_snapped:
                delta, mu = self._snap(delta, mu, bits)
            out = F.fake_quantize(rows, bits, delta, mu)
            if self.controller.min_bits > 0:
                return out
            # A row of width 0 stores no code: it reads as zeros.
            return torch.where(F.column(bits) > 0, out,
                               torch.zeros_like(out))

    @torch.no_grad()
    def encode(self, x: Tensor, n_id: Optional[Tensor] = None) -> RowCodes:
        r"""Returns what is stored of rows :obj:`x`; dequantized it equals
        :meth:`forward` in eval mode.

        Raises:
            ValueError: If a scale or offset does not fit a float16, or a
                value is not finite.
        """
        self._check(x, n_id)
        if not bool(torch.isfinite(x).all()):
            raise ValueError("'x' needs to be finite to be packed (got NaN or "
                             "infinite values)")
        rows = x.float()
        bits = self._widths_served(n_id).to(rows.dtype)
        delta, mu = self._range(rows, bits, n_id)
        delta, mu = self._snap(delta, mu, bits)
        step = F.stored_step(delta, bits)
        if not bool(torch.isfinite(step).all() & torch.isfinite(mu).all()):
            raise ValueError("a row's scale or offset does not fit a float16 "
                             "(above 65504); rescale the embeddings")
        codes = F.quantize(rows, bits, delta, mu)
        # A row of width 0 reads as zeros, whatever its range.
        mu = torch.where(F.column(bits) > 0, mu, torch.zeros_like(mu))
        return RowCodes(codes, bits.to(torch.uint8), step.squeeze(-1),
                        None if self.is_symmetric else mu.squeeze(-1))

    @torch.no_grad()
    def calibrate(self, x: Tensor, n_id: Optional[Tensor] = None) -> None:
        r"""Starts learned ranges from the symmetric ones of :obj:`x`."""
        if self.log_delta is None or self.mu is None:
            return
        bits = self._bits(n_id)
        delta, mu = F.symmetric_range(x.float(), bits)
        index = slice(None) if n_id is None else n_id
        self.log_delta[index] = delta.squeeze(-1).clamp(min=1e-8).log()
        self.mu[index] = mu.squeeze(-1)
        self.calibrated[index] = True

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
        return self.range == "symmetric"

    @property
    def is_snapped(self) -> bool:
        r"""Whether scales and offsets are at their stored precision."""
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
        if self.range == "minmax":
            return F.minmax_range(x)
        assert self.log_delta is not None and self.mu is not None
        delta = take(self.log_delta, n_id).float().exp().unsqueeze(-1)
        mu = take(self.mu, n_id).float().unsqueeze(-1)
        seen = self.calibrated if n_id is None else self.calibrated[n_id]
        if bool(seen.all()):
            return delta, mu
        # A node no batch has met yet has no range of its own.
        seen = seen.unsqueeze(-1)
        start, low = F.symmetric_range(x, bits)
        return torch.where(seen, delta, start), torch.where(seen, mu, low)

    def _snap(self, delta: Tensor, mu: Tensor,
              bits: Tensor) -> tuple[Tensor, Tensor]:
        levels = F.num_levels(bits).unsqueeze(-1)
        delta = F.stored_step(delta, bits) * levels
        mu = -delta / 2 if self.is_symmetric else F.snap_float16(mu)
        return delta, mu

    def _calibrate_new(self, x: Tensor, n_id: Optional[Tensor]) -> None:
        seen = self.calibrated if n_id is None else self.calibrated[n_id]
        if not bool(seen.all()):
            new = (~seen).nonzero().squeeze(-1)
            ids = new if n_id is None else n_id[new]
            self.calibrate(x.detach()[new], ids)

    def __repr__(self) -> str:
        return (f"{self.__class__.__name__}({self.num_nodes}, {self.dim}, "
                f"range={self.range}, controller={self.controller})")
