r"""How long, on what and by which optimizer a model trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from pyg_nodequant.config.checks import check_choice, check_number


@dataclass(frozen=True)
class OptimizerConfig:
    r"""Adam with L2 on the layer-0 rows of a batch.

    Args:
        lr (float): Learning rate of the float stage.
        l2 (float, optional): L2 weight :math:`\gamma` in
            :math:`\frac{\gamma}{2B}\sum \lVert e \rVert^2` over the layer-0
            rows of the batch's users, positives and negatives. (default:
            :obj:`None`, 80 divided by the number of training interactions;
            0 with cosine scores, which do not know how long a row is)
    """

    lr: float = 0.01
    l2: Optional[float] = None

    def __post_init__(self) -> None:
        check_number("optimizer.lr", self.lr, 0, open_low=True)
        if self.l2 is not None:
            check_number("optimizer.l2", self.l2, 0)


@dataclass(frozen=True)
class TrainerConfig:
    r"""How long and on what the model trains.

    An epoch is one pass over the training interactions. The learning rate
    stays constant until the validation metric has not improved for
    :obj:`patience` evaluations, then falls to zero along a cosine that takes
    :obj:`anneal` times the steps so far; the best model on validation is kept.

    With :obj:`refit`, what was chosen is then trained once more, for as many
    steps, on train and validation together: that model is packed. Its
    validation metrics are those of the model it repeats.
    """

    max_epochs: int = 1000
    batch_size: int = 16384
    eval_every: int = 50  # optimizer steps between two validations
    patience: int = 10
    anneal: float = 0.5
    max_minutes: float = 0.0  # 0: no limit on the float stage
    float_cache: Optional[str] = None  # a folder that shares float models
    refit: bool = True
    monitor: str = "ndcg@20"
    max_val_users: int = 5000
    device: str = "auto"
    threads: int = 0  # 0: leave torch's own choice
    resume: Optional[str] = None
    checkpoint_minutes: float = 0.5
    progress: bool = True
    logger: str = "csv"

    def __post_init__(self) -> None:
        check_number("trainer.max_epochs", self.max_epochs, 1, integer=True)
        check_number("trainer.batch_size", self.batch_size, 1, integer=True)
        check_number("trainer.eval_every", self.eval_every, 1, integer=True)
        check_number("trainer.patience", self.patience, 1, integer=True)
        check_number("trainer.anneal", self.anneal, 0, 10)
        check_number("trainer.max_minutes", self.max_minutes, 0)
        check_number("trainer.max_val_users", self.max_val_users, 1,
                     integer=True)
        check_number("trainer.threads", self.threads, 0, integer=True)
        check_number("trainer.checkpoint_minutes", self.checkpoint_minutes, 0)
        check_choice("trainer.monitor", self.monitor,
                     ("ndcg@20", "recall@20"))
        check_choice("trainer.logger", self.logger, ("csv", "tensorboard"))
