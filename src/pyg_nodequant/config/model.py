r"""The encoder."""

from __future__ import annotations

from dataclasses import dataclass

from pyg_nodequant.config.checks import check_number


@dataclass(frozen=True)
class ModelConfig:
    r"""The LightGCN encoder: :obj:`embedding_dim` numbers a node,
    :obj:`num_layers` propagation steps (0 is matrix factorization).
    """

    embedding_dim: int = 64
    num_layers: int = 3

    def __post_init__(self) -> None:
        check_number("model.embedding_dim", self.embedding_dim, 1, 4096,
                     integer=True)
        check_number("model.num_layers", self.num_layers, 0, 16, integer=True)
