"""Frozen settings of every part of the package, validated when they are made.

These dataclasses know nothing of Hydra: :mod:`pyg_nodequant.app.schema` holds
their unfrozen twins and converts them to these. Every error names the setting,
the allowed values and the value it got.
"""

from pyg_nodequant.config.checks import check_choice, check_number
from pyg_nodequant.config.choices import (
    ESTIMATORS,
    RANGES,
    RECIPES,
    ROW_SCALES,
    SYMMETRIC_RANGES,
    WHERE,
    WIDTH_GRADIENTS,
)
from pyg_nodequant.config.data import DataConfig
from pyg_nodequant.config.experiment import ExperimentConfig, as_dict
from pyg_nodequant.config.loss import LossConfig, other_loss
from pyg_nodequant.config.model import ModelConfig
from pyg_nodequant.config.quant import NodeQuantConfig
from pyg_nodequant.config.trainer import OptimizerConfig, TrainerConfig

__all__ = [
    "DataConfig",
    "ESTIMATORS",
    "ExperimentConfig",
    "LossConfig",
    "ModelConfig",
    "NodeQuantConfig",
    "OptimizerConfig",
    "RANGES",
    "RECIPES",
    "ROW_SCALES",
    "SYMMETRIC_RANGES",
    "TrainerConfig",
    "WHERE",
    "WIDTH_GRADIENTS",
    "as_dict",
    "check_choice",
    "check_number",
    "other_loss",
]
