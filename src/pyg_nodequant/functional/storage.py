r"""What widths cost: the training loss and the sizes people are told."""

from __future__ import annotations

from torch import Tensor

#: The size that compression is measured against: a float row of d=64, bytes.
REFERENCE_ROW_BYTES = 256


def storage_loss(bits: Tensor, dim: int) -> Tensor:
    r"""The storage cost of `arXiv 2508.16516
    <https://arxiv.org/abs/2508.16516>`_

    .. math::
        \mathcal{L}_{\mathrm{storage}} = \frac{1}{N} \sum_i b_i d ,

    in bits a node.

    Args:
        bits (Tensor): Widths in bits, shape :math:`(N)`.
        dim (int): Numbers a row, :math:`d`.

    Example:
        >>> import torch
        >>> storage_loss(torch.tensor([1.0, 3.0]), 64)
        tensor(128.)
    """
    return bits.mean() * dim
