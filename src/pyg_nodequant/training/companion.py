r"""The second float model of a run: the same encoder, trained with the other
loss.

Softmax over cosines and BPR over inner products are wrong about different
items, so the mean of their scores ranks better than either. A teacher may be
as wide as it likes: nothing of its width is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional

import torch
from torch import Tensor

from pyg_nodequant import functional as F
from pyg_nodequant.config import (
    ExperimentConfig,
    NodeQuantConfig,
    other_loss,
)
from pyg_nodequant.data import Interactions
from pyg_nodequant.training.new_model import new_model
from pyg_nodequant.training.popularity import PopularityLift
from pyg_nodequant.training.stages import TrainingContext

#: The name of the stage that trains it.
COMPANION = "companion"


def companion_context(context: TrainingContext) -> TrainingContext:
    r"""What trains the companion of a run: the very model that
    :obj:`quant=float` with the other loss trains from the same seed.
    """
    config = context.config
    config = replace(
        config, quant=NodeQuantConfig("float"),
        loss=replace(config.loss, name=other_loss(config.loss.name)))
    model = new_model(config, context.data).to(context.device)
    return TrainingContext(model, context.data, context.edge_index, config,
                           plans=context.plans)


@dataclass(frozen=True)
class Taught:
    r"""What is distilled.

    Args:
        rows (Tensor): Rows whose inner products rank, users before items,
            :math:`(N, d')`.
        discount (float): What their scores lost by popularity.
    """

    rows: Tensor
    discount: float


def make_taught(config: ExperimentConfig, data: Interactions, rows: Tensor,
                companion: Optional[Tensor] = None) -> Taught:
    r"""Returns the rows of the float model or of another teacher, blended
    with the companion's, their scores discounted by popularity: as the
    settings say, or as much as the lift that they allow asks for.

    Args:
        config (ExperimentConfig): All settings.
        data (Interactions): What is trained on.
        rows (Tensor): Rows of shape :math:`(N, d)`.
        companion (Tensor, optional): Those of the companion,
            :math:`(N, d')`.
    """
    quant, count = config.quant, data.num_users
    tables = rows[:count], rows[count:]
    if companion is not None:
        tables = F.blend_rows(tables, (companion[:count], companion[count:]),
                              quant.blend)
    discount = quant.popularity_discount
    if discount is None:
        discount = PopularityLift(data, config.seed).discount(
            *tables, quant.popularity_lift)
    if discount > 0:
        degree = data.degree("train")[count:].to(rows.device)
        tables = F.discount_popularity(*tables, degree, discount)
    return Taught(torch.cat(tables), discount)
