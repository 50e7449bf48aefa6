r"""Everything together."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pyg_nodequant.config.checks import check_number
from pyg_nodequant.config.data import DataConfig
from pyg_nodequant.config.loss import LossConfig
from pyg_nodequant.config.model import ModelConfig
from pyg_nodequant.config.quant import NodeQuantConfig
from pyg_nodequant.config.trainer import OptimizerConfig, TrainerConfig


@dataclass(frozen=True)
class ExperimentConfig:
    r"""Everything a training run depends on."""

    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    quant: NodeQuantConfig = field(default_factory=NodeQuantConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        check_number("seed", self.seed, 0, 2**31 - 1, integer=True)
        if self.loss.name != "bpr":
            if self.quant.recipe == "paper":
                raise ValueError(f"'loss.name' needs to be bpr for "
                                 f"quant.recipe=paper (got "
                                 f"'{self.loss.name}')")
            if self.quant.where != "output":
                raise ValueError(f"'quant.where' needs to be output with "
                                 f"loss.name={self.loss.name}, whose rows are "
                                 f"scaled after propagation (got "
                                 f"'{self.quant.where}')")
        if (self.quant.interval == "message_passing"
                and self.model.num_layers == 0):
            raise ValueError("'model.num_layers' needs to be at least 1 for "
                             "quant.interval=message_passing (got 0)")


def as_dict(config: Any) -> dict[str, Any]:
    r"""Returns a dataclass of this module as plain nested dictionaries."""
    return asdict(config)
