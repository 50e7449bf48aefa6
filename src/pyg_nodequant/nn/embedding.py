r"""A drop-in :class:`torch.nn.Embedding` with node-aware precision."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from pyg_nodequant import functional as F
from pyg_nodequant.nn.controller import BitWidthController
from pyg_nodequant.nn.quantizer import NodeAwareQuantizer


def keep_missing_quantizer_state(
    module: torch.nn.Module,
    state_dict: dict[str, Any],
    prefix: str,
    *args: Any,
) -> None:
    r"""Lets a float checkpoint load strictly: if it knows nothing of a
    module's controller and quantizers, they keep the state they have.
    """
    for name, child in module.named_children():
        if (isinstance(child, (BitWidthController, NodeAwareQuantizer))
                and not any(key.startswith(f"{prefix}{name}.")
                            for key in state_dict)):
            for key, value in child.state_dict().items():
                state_dict[f"{prefix}{name}.{key}"] = value


class NodeAwareQuantEmbedding(torch.nn.Embedding):
    r"""An embedding table whose rows are read at their own learned precision
    (`arXiv 2508.16516 <https://arxiv.org/abs/2508.16516>`_).

    :obj:`weight` stays the latent float parameter under its usual state_dict
    key, so float checkpoints load; a call quantizes only the rows asked for.

    .. math::
        b_i = b_{\min} + (b_{\max} - b_{\min}) \, \sigma(\alpha_i), \qquad
        q_i = \frac{v_i}{2^{b_i} - 1} \Delta_i + \mu_i

    .. note::
        A model that reads :obj:`embedding.weight` instead of calling the
        layer reads floats. Use :meth:`quantized_weight` there, or
        :class:`~pyg_nodequant.QuantLightGCN`.

    Args:
        num_embeddings (int): The number of rows :math:`N`.
        embedding_dim (int): Numbers a row, :math:`d`.
        padding_idx (int, optional): As in :class:`torch.nn.Embedding`; the
            padding row is all zeros and stays so.
        max_norm (float, optional): As in :class:`torch.nn.Embedding`.
        norm_type (float, optional): As in :class:`torch.nn.Embedding`.
        scale_grad_by_freq (bool, optional): As there.
        sparse (bool, optional): As there.
        device (torch.device, optional): As there.
        dtype (torch.dtype, optional): As there.
        max_bits (int, optional): Largest width, in bits.
            (default: :obj:`8`)
        min_bits (int, optional): Smallest width, in bits.
            (default: :obj:`1`)
        degree (Tensor, optional): Degrees of shape :math:`(N)` that the
            widths start from.
        range (str, optional): As in
            :class:`~pyg_nodequant.NodeAwareQuantizer`.
            (default: :obj:`"symmetric"`)
        estimator (str, optional): As there. (default: :obj:`"ste"`)
        width_gradient (str, optional): As there. (default: :obj:`"levels"`)

    Shapes:
        - **input:** indices of any shape :math:`(*)`
        - **output:** :math:`(*, d)`

    Raises:
        ValueError: If a width bound or the range is not allowed.

    Example:
        >>> emb = NodeAwareQuantEmbedding(10, 4, max_bits=8)
        >>> emb(torch.tensor([[1, 2], [3, 4]])).shape
        torch.Size([2, 2, 4])
        >>> emb
        NodeAwareQuantEmbedding(10, 4, bits=1..8, avg=4.00)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: Optional[int] = None,
        max_norm: Optional[float] = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Optional[Tensor] = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        max_bits: int = 8,
        min_bits: int = 1,
        degree: Optional[Tensor] = None,
        range: str = "symmetric",
        estimator: str = "ste",
        width_gradient: str = "levels",
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, max_norm,
                         norm_type, scale_grad_by_freq, sparse, _weight,
                         _freeze, device, dtype)
        self.controller = BitWidthController(num_embeddings, max_bits,
                                             min_bits, degree)
        self.quantizer = NodeAwareQuantizer(
            num_embeddings, embedding_dim, self.controller, range,
            estimator=estimator, width_gradient=width_gradient)
        self.quantizer.borrow_controller()
        # The table may have come as `_weight`, from anywhere.
        self.controller.to(self.weight.device)
        self.quantizer.to(self.weight.device)
        self.register_load_state_dict_pre_hook(  # type: ignore[no-untyped-call]
            keep_missing_quantizer_state)

    def reset_parameters(self) -> None:
        r"""Re-initialises the table, the widths and the ranges."""
        super().reset_parameters()
        if "quantizer" in self._modules:  # not yet in super().__init__()
            self.controller.reset_parameters()
            self.quantizer.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        r"""Looks up and quantizes the rows of :obj:`input`."""
        rows = super().forward(input)
        flat = rows.reshape(-1, self.embedding_dim)
        index = input.reshape(-1)
        out = self.quantizer(flat, index)
        if self.padding_idx is not None:
            padding = (index == self.padding_idx).unsqueeze(-1)
            out = torch.where(padding, torch.zeros_like(out), out)
        result: Tensor = out.view(rows.shape).to(rows.dtype)
        return result

    def latent_rows(self) -> Tensor:
        r"""The float rows that a lookup of all would quantize:
        :obj:`weight`, which :obj:`max_norm` renormalises in place.
        """
        if self.max_norm is None:
            return self.weight
        return super().forward(
            torch.arange(self.num_embeddings, device=self.weight.device))

    def quantized_weight(self) -> Tensor:
        r"""The whole table as it is served, :math:`(N, d)`."""
        out: Tensor = self.quantizer(self.latent_rows())
        if self.padding_idx is not None:
            keep = torch.ones(self.num_embeddings, 1, device=out.device)
            keep[self.padding_idx] = 0
            out = out * keep
        return out

    def storage_loss(self) -> Tensor:
        r"""The storage cost :math:`\frac{1}{N} \sum_i b_i d`, bits a node."""
        return F.storage_loss(self.controller(), self.embedding_dim)

    @classmethod
    def from_embedding(
        cls,
        embedding: torch.nn.Embedding,
        **kwargs: Any,
    ) -> NodeAwareQuantEmbedding:
        r"""Wraps a float embedding, sharing its :obj:`weight` parameter.

        Args:
            embedding (torch.nn.Embedding): The float table.
            **kwargs (optional): :obj:`max_bits`, :obj:`min_bits`,
                :obj:`degree`, :obj:`range`, :obj:`estimator` and
                :obj:`width_gradient`.
        """
        out = cls(embedding.num_embeddings, embedding.embedding_dim,
                  embedding.padding_idx, embedding.max_norm,
                  embedding.norm_type, embedding.scale_grad_by_freq,
                  embedding.sparse, _weight=embedding.weight.detach(),
                  **kwargs)
        out.weight = embedding.weight
        out.to(embedding.weight.device)
        return out.train(embedding.training)

    def to_embedding(self, quantized: bool = False) -> torch.nn.Embedding:
        r"""Returns a plain float embedding: of the latent table, whose
        parameter it shares, or, if :obj:`quantized`, of the values served
        (to which :obj:`max_norm` has been applied already).
        """
        weight = self.weight.detach()
        if quantized:
            training = self.training
            weight = self.eval().quantized_weight().detach().to(weight.dtype)
            self.train(training)
        out = torch.nn.Embedding(
            self.num_embeddings, self.embedding_dim, self.padding_idx,
            None if quantized else self.max_norm, self.norm_type,
            self.scale_grad_by_freq, self.sparse, _weight=weight)
        if not quantized:
            out.weight = self.weight
        return out.train(self.training)

    @property
    def width_summary(self) -> str:
        r"""The bounds of the widths and the mean width served, for repr."""
        return self.controller.width_summary

    def __repr__(self) -> str:
        return (f"{self.__class__.__name__}({self.num_embeddings}, "
                f"{self.embedding_dim}, {self.width_summary})")
