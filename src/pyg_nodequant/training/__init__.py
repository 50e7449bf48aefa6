r"""Training, evaluation, checkpoints: from interactions to a packed file."""

from pyg_nodequant.training.packing import pack_model
from pyg_nodequant.training.trainer import Trainer, TrainingResult

__all__ = ["Trainer", "TrainingResult", "pack_model"]
