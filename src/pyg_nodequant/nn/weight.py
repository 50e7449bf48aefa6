r"""Node-aware precision for a table that is read as :obj:`.weight`."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from pyg_nodequant import functional as F
from pyg_nodequant.nn.controller import BitWidthController
from pyg_nodequant.nn.quantizer import NodeAwareQuantizer


class NodeAwareQuantWeight(torch.nn.Module):
    r"""A parametrization of :obj:`weight` (see
    :func:`torch.nn.utils.parametrize.register_parametrization`) under which
    every reader of :obj:`embedding.weight`, the lookup included, gets
    quantized rows. It is the second choice, for models that read
    :obj:`embedding.weight` themselves:

    * Each read quantizes the whole table; wrap a training step in
      :func:`torch.nn.utils.parametrize.cached` to do so once.
    * The latent table is :obj:`embedding.parametrizations.weight.original`,
      also in the state_dict.
    * Assigning to :obj:`embedding.weight` sets the latent table, but writing
      into it, as :obj:`torch.nn.init` does, changes nothing:
      re-initialise with :obj:`embedding.reset_parameters()`.

    Args:
        num_embeddings (int): The number of rows :math:`N`.
        embedding_dim (int): Numbers a row, :math:`d`.
        padding_idx (int, optional): A row that reads zeros.
        max_bits (int, optional): Largest width, in bits.
            (default: :obj:`8`)
        min_bits (int, optional): Smallest width, in bits.
            (default: :obj:`1`)
        range (str, optional): As in
            :class:`~pyg_nodequant.NodeAwareQuantizer`.
            (default: :obj:`"symmetric"`)
        estimator (str, optional): As there. (default: :obj:`"ste"`)
        width_gradient (str, optional): As there. (default: :obj:`"levels"`)

    Shapes:
        - **input:** the latent table :math:`(N, d)`
        - **output:** the quantized table :math:`(N, d)`

    Example:
        >>> embedding = torch.nn.Embedding(10, 4)
        >>> NodeAwareQuantWeight.register_(embedding, max_bits=2)
        >>> len(embedding.weight[0].unique()) <= 4
        True
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: Optional[int] = None,
        *,
        max_bits: int = 8,
        min_bits: int = 1,
        range: str = "symmetric",
        estimator: str = "ste",
        width_gradient: str = "levels",
    ) -> None:
        super().__init__()
        self.padding_idx = padding_idx
        self.embedding_dim = embedding_dim
        self.controller = BitWidthController(num_embeddings, max_bits,
                                             min_bits)
        self.quantizer = NodeAwareQuantizer(
            num_embeddings, embedding_dim, self.controller, range,
            estimator=estimator, width_gradient=width_gradient)
        self.quantizer.borrow_controller()

    @classmethod
    def register_(
        cls,
        embedding: torch.nn.Embedding,
        *,
        max_bits: int = 8,
        min_bits: int = 1,
        range: str = "symmetric",
        estimator: str = "ste",
        width_gradient: str = "levels",
    ) -> None:
        r"""Quantizes :obj:`embedding.weight` in place.

        Raises:
            ValueError: If :obj:`embedding.sparse`: gradients of the whole
                table cannot be sparse; or :obj:`embedding.max_norm`: it
                would renormalise quantized rows.
        """
        cls.check(embedding)
        weight = cls(embedding.num_embeddings, embedding.embedding_dim,
                     embedding.padding_idx, max_bits=max_bits,
                     min_bits=min_bits, range=range, estimator=estimator,
                     width_gradient=width_gradient)
        weight.to(embedding.weight.device).train(embedding.training)
        parametrize.register_parametrization(embedding, "weight", weight)
        # This class was made by the line above, for this embedding alone.
        type(embedding).reset_parameters = (  # type: ignore[method-assign]
            _reset_parameters)

    @staticmethod
    def check(embedding: torch.nn.Embedding) -> None:
        r"""Raises :class:`ValueError` for what :meth:`register_` cannot do."""
        for name, needed in (("sparse", False), ("max_norm", None)):
            if getattr(embedding, name) != needed:
                raise ValueError(f"'{name}' needs to be {needed} for an "
                                 f"embedding whose weight is quantized "
                                 f"(got {getattr(embedding, name)})")

    @classmethod
    def of(cls, module: torch.nn.Module) -> Optional[NodeAwareQuantWeight]:
        r"""Returns the parametrization of :obj:`module.weight`, if it has
        this one.
        """
        if not parametrize.is_parametrized(module, "weight"):
            return None
        first = module.parametrizations["weight"][0]  # type: ignore[index]
        return first if isinstance(first, cls) else None

    def reset_parameters(self) -> None:
        r"""Re-initialises the widths and the ranges."""
        self.controller.reset_parameters()
        self.quantizer.reset_parameters()

    def forward(self, weight: Tensor) -> Tensor:
        r"""Returns the quantized table."""
        out: Tensor = self.quantizer(weight).to(weight.dtype)
        if self.padding_idx is not None:
            keep = torch.ones_like(out[:, :1])
            keep[self.padding_idx] = 0
            out = out * keep
        return out

    def right_inverse(self, weight: Tensor) -> Tensor:
        r"""Returns the latent table to keep for an assigned one: itself."""
        return weight

    def storage_loss(self) -> Tensor:
        r"""The storage cost :math:`\frac{1}{N} \sum_i b_i d`, bits a node."""
        return F.storage_loss(self.controller(), self.embedding_dim)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.controller})"


def _reset_parameters(self: torch.nn.Embedding) -> None:
    # torch's own would fill a quantized copy.
    parametrizations: Any = self.parametrizations
    weight = parametrizations["weight"]
    torch.nn.init.normal_(weight.original)
    if self.padding_idx is not None:
        with torch.no_grad():
            weight.original[self.padding_idx].fill_(0)
    weight[0].reset_parameters()
