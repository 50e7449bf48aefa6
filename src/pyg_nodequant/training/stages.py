r"""The stages a recipe is made of: what is optimised, on what schedule."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Optional, Union

import torch
from torch import Tensor

from pyg_nodequant import functional as F
from pyg_nodequant.config import ExperimentConfig
from pyg_nodequant.data import Interactions
from pyg_nodequant.nn import QuantLightGCN, TransformRows
from pyg_nodequant.training.lessons import Lesson, Lessons
from pyg_nodequant.training.schedule import (
    CosineSchedule,
    PlateauSchedule,
    Schedule,
)
from pyg_nodequant.training.seen import SeenItems

# Lets a score cross its range of widths within a few hundred steps.
ALPHA_LR = 0.02
# The storage gradient of one node is lambda * d / N: far below Adam's usual
# epsilon for a large graph, which would silently switch it off.
ALPHA_EPS = 1e-15
# L2 that suits every set tried, times the number of training interactions.
L2_MASS = 80.0


@dataclass
class TrainingContext:
    r"""What all stages share. :obj:`data` holds no test split."""

    model: QuantLightGCN
    data: Interactions
    edge_index: Tensor
    config: ExperimentConfig
    #: The rows that are distilled, users before items, :math:`(N, d')`.
    teacher: Optional[Tensor] = None
    #: Courses to repeat, by stage: (step the fall begins at, last step).
    plans: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: The mean width to learn, or the mean bytes of codes of a row: of all,
    #: or of users and of items.
    target_bits: Optional[float] = None
    target_bytes: Optional[tuple[float, ...]] = None
    #: The rows that are served instead of the model's, if there are any.
    rows: Optional[TransformRows] = None

    @property
    def served(self) -> Union[QuantLightGCN, TransformRows]:
        r"""What is trained and validated now, and served in the end."""
        return self.model if self.rows is None else self.rows

    @property
    def device(self) -> torch.device:
        r"""Where the model is."""
        return self.edge_index.device

    @functools.cached_property
    def seen(self) -> SeenItems:
        r"""What each user has seen while training."""
        return SeenItems(self.data.train, self.data.num_users).to(self.device)

    def excluded(self, users: Optional[Tensor] = None) -> Optional[Tensor]:
        r"""What does not count in the rankings of :obj:`users` (or of all),
        as positions and items.
        """
        if self.config.quant.distill_seen:
            return None
        if users is None:
            users = torch.arange(self.data.num_users, device=self.device)
        return self.seen.pairs(users)

    @property
    def l2(self) -> float:
        r"""The L2 weight: as set, or :math:`80 / |\mathcal{E}|`, or 0 for
        cosine scores, which do not know the length of a row.

        BPR is a mean over interactions and a Gaussian prior counts once, so
        the prior's share of a mean falls with their number.
        """
        if self.config.optimizer.l2 is not None:
            return self.config.optimizer.l2
        if self.config.loss.cosine_temperature is not None:
            return 0.0
        return L2_MASS / max(self.data.train.size(1), 1)


def float_params(model: QuantLightGCN) -> list[torch.nn.Parameter]:
    r"""All trained tensors but the controller's scores."""
    alpha = model.embedding.controller.alpha
    return [p for p in model.parameters() if p is not alpha]


class Stage(ABC):
    r"""One stage of training: a loss, an optimizer, a schedule."""

    name: str
    #: Whether only models of the learning rate's final fall may be kept; it
    #: then goes on from the model as it is, not from the best one yet.
    keep_only_settled = False
    #: Whether it ends with the best model on validation, not the last one.
    keeps_best = True

    def __init__(self, context: TrainingContext, steps_per_epoch: int,
                 name: Optional[str] = None) -> None:
        self.name = name or self.name  # one stage can run twice
        self.context = context
        self.model = context.model
        self.config = context.config
        self.num_users = context.data.num_users
        self.schedule = self.make_schedule(steps_per_epoch)
        self.optimizer = self.make_optimizer()
        groups = self.optimizer.param_groups
        self.peak: list[float] = [group["lr"] for group in groups]

    @abstractmethod
    def make_schedule(self, steps_per_epoch: int) -> Schedule:
        r"""The learning rate's course."""

    @abstractmethod
    def make_optimizer(self) -> torch.optim.Optimizer:
        r"""The optimizer of what this stage trains."""

    @abstractmethod
    def loss(self, step: int, users: Tensor, positives: Tensor,
             negatives: Tensor) -> Tensor:
        r"""The loss of one batch of rows, each of shape :math:`(B)`."""

    def plateau(self, steps_per_epoch: int) -> PlateauSchedule:
        r"""The schedule of the settings, or the course to repeat."""
        if self.name in self.context.plans:
            return PlateauSchedule.replay(*self.context.plans[self.name])
        options = self.config.trainer
        return PlateauSchedule(options.max_epochs * steps_per_epoch,
                               options.patience, options.anneal,
                               rewind=not self.keep_only_settled)

    def prepare(self) -> None:
        r"""Puts the model into the state this stage trains it in."""
        self.model.quantization_enabled = True

    def begin_step(self, step: int) -> None:
        r"""Makes what is random within a step a function of seed and step."""
        self.model.seed_noise(2 * (self.config.seed * 1_000_003 + step))

    def after_backward(self) -> None:  # noqa: B027, most have nothing to do
        r"""What follows from the gradients, before the optimizer's step."""

    def state_dict(self) -> dict[str, Any]:
        r"""What it has to remember beside its optimizer and schedule, made of
        what a checkpoint can hold.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        r"""Continues from a state.

        Raises:
            ValueError: If it is of another kind of stage.
        """
        if state:
            raise ValueError(f"stage '{self.name}' has no such state "
                             f"(got {', '.join(state)})")

    def set_lr(self) -> float:
        r"""Sets and returns this step's learning rate."""
        factor = self.schedule.factor()
        for peak, group in zip(self.peak, self.optimizer.param_groups,
                               strict=True):
            group["lr"] = peak * factor
        return self.peak[0] * factor

    def sample_users(self, step: int) -> Tensor:
        r"""The users distilled at a step: a function of seed and step alone,
        so that a resumed run sees the same ones.
        """
        generator = torch.Generator().manual_seed(
            self.config.seed * 1_000_003 + step)
        count = min(self.config.quant.distill_users, self.num_users)
        chosen = torch.randperm(self.num_users, generator=generator)[:count]
        return chosen.to(self.context.device)

    def batch_nodes(self, users: Tensor, positives: Tensor,
                    negatives: Tensor) -> Tensor:
        r"""Graph nodes of a batch: users, then positives, then negatives."""
        return torch.cat([users, positives + self.num_users,
                          negatives + self.num_users])

    def bpr(self, rows: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
        r"""BPR of scored rows, and L2 of the latent rows behind them."""
        users, positives, negatives = rows.chunk(3)
        latent = F.gather_rows(self.model.embedding.weight, nodes)
        return (F.bpr_loss(users, positives, negatives),
                self.context.l2 * F.l2_loss(*latent.chunk(3)))


class FloatStage(Stage):
    r"""Trains the full-precision LightGCN with BPR and L2."""

    name = "float"

    def make_schedule(self, steps_per_epoch: int) -> Schedule:
        r"""Constant until validation stalls, then a cosine."""
        return self.plateau(steps_per_epoch)

    def make_optimizer(self) -> torch.optim.Optimizer:
        r"""Adam on the embedding table."""
        return torch.optim.Adam([self.model.embedding.weight],
                                lr=self.config.optimizer.lr, fused=True)

    def prepare(self) -> None:
        r"""Switches quantization off."""
        self.model.quantization_enabled = False

    def loss(self, step: int, users: Tensor, positives: Tensor,
             negatives: Tensor) -> Tensor:
        r"""BPR + L2."""
        nodes = self.batch_nodes(users, positives, negatives)
        rows = self.model.get_embedding(self.context.edge_index, n_id=nodes)
        ranking, penalty = self.bpr(rows, nodes)
        return ranking + penalty


class SoftmaxStage(FloatStage):
    r"""Trains the full-precision LightGCN on the softmax loss of cosine
    scores. Its steps draw users, not interactions.
    """

    @functools.cached_property
    def prior(self) -> Optional[Tensor]:
        r"""What popularity adds to the competing scores,
        :math:`\gamma \ln d_i`, as in logit adjustment (`"Long-tail Learning
        via Logit Adjustment" <https://arxiv.org/abs/2007.07314>`_).
        """
        if self.config.loss.popularity == 0:
            return None
        degree = self.context.data.degree("train")[self.num_users:]
        prior = degree.clamp(min=1).float().log()
        return self.config.loss.popularity * prior.to(self.context.device)

    def loss(self, step: int, users: Tensor, positives: Tensor,
             negatives: Tensor) -> Tensor:
        r"""Softmax + L2, if that has a weight."""
        options, device = self.config.loss, self.context.device
        generator = torch.Generator().manual_seed(
            self.config.seed * 1_000_003 + step)
        order = torch.randperm(self.num_users, generator=generator)
        chosen = order[:options.users].to(device)
        pairs = self.context.seen.pairs(chosen)
        x = self.model.get_embedding(self.context.edge_index)
        items, log_weight = x[self.num_users:], self.prior
        if options.items > 0:
            ids, stands_for = F.with_others(
                torch.unique(pairs[1]), items.size(0), options.items,
                generator)
            items = F.gather_rows(items, ids)
            log_weight = stands_for if log_weight is None else (
                stands_for + log_weight[ids])
            pairs = torch.stack([pairs[0], torch.searchsorted(ids, pairs[1])])
        loss = F.softmax_loss(F.gather_rows(x, chosen), items, pairs,
                              options.user_power, log_weight)
        if self.context.l2 == 0:
            return loss
        nodes = self.batch_nodes(users, positives, negatives)
        latent = F.gather_rows(self.model.embedding.weight, nodes)
        return loss + self.context.l2 * F.l2_loss(*latent.chunk(3))


class JointStage(Stage):
    r"""The paper's formulation: table, ranges and widths are trained together
    on BPR + :math:`\lambda \mathcal{L}_{\mathrm{storage}}` + L2.
    """

    name = "joint"
    # Widths shrink as training goes on: an early model would look better on
    # validation only because it has not paid for its bits yet.
    keep_only_settled = True

    def make_schedule(self, steps_per_epoch: int) -> Schedule:
        r"""Constant until validation stalls, then a cosine."""
        return self.plateau(steps_per_epoch)

    def make_optimizer(self) -> torch.optim.Optimizer:
        r"""Adam on everything, the scores in a group of their own."""
        return torch.optim.Adam([
            {"params": float_params(self.model),
             "lr": self.config.optimizer.lr},
            {"params": [self.model.embedding.controller.alpha],
             "lr": ALPHA_LR, "eps": ALPHA_EPS},
        ], fused=True)

    def loss(self, step: int, users: Tensor, positives: Tensor,
             negatives: Tensor) -> Tensor:
        r"""BPR + storage + L2."""
        nodes = self.batch_nodes(users, positives, negatives)
        rows = self.model.get_embedding(self.context.edge_index, n_id=nodes)
        ranking, penalty = self.bpr(rows, nodes)
        storage = self.model.storage_loss()
        return ranking + penalty + self.config.quant.lambda_storage * storage


class DistilledStage(Stage):
    r"""A stage that learns a teacher's rankings in a fixed number of steps."""

    _lessons: Optional[Lessons] = None

    def make_schedule(self, steps_per_epoch: int) -> Schedule:
        r"""A fixed number of steps along a cosine."""
        return CosineSchedule(self.config.quant.finetune_steps)

    def lesson(self, step: int, users: Tensor) -> Lesson:
        r"""What is distilled at a step: a function of seed and step alone."""
        if self.context.teacher is None:
            raise RuntimeError("fine-tuning needs the float model's rows, or "
                               "those of another teacher")
        if self._lessons is None:
            self._lessons = Lessons(self.context.teacher, self.context.data,
                                    self.config.quant, self.config.seed,
                                    self.context.excluded)
        return self._lessons.lesson(step, users)


class FinetuneStage(DistilledStage):
    r"""Fine-tunes at frozen widths: distillation of the teacher, a share of
    BPR, and L2.
    """

    name = "finetune"

    def make_optimizer(self) -> torch.optim.Optimizer:
        r"""Adam on the table and on learned ranges."""
        return torch.optim.Adam(float_params(self.model),
                                lr=self.config.quant.finetune_lr, fused=True)

    def loss(self, step: int, users: Tensor, positives: Tensor,
             negatives: Tensor) -> Tensor:
        r"""Distillation + BPR + L2; no row is propagated to that counts for
        nothing.
        """
        options = self.config.quant
        nodes = self.batch_nodes(users, positives, negatives)
        n_id = nodes if options.bpr_weight > 0 else nodes[:0]
        scored = n_id.numel()
        lesson: Optional[Lesson] = None
        if options.distill_weight > 0:
            distilled = self.sample_users(step)
            lesson = self.lesson(step, distilled)
            items = lesson.items
            if items is None:
                items = torch.arange(self.context.data.num_items,
                                     device=self.context.device)
            n_id = torch.cat([n_id, distilled, items + self.num_users])
        latent = F.gather_rows(self.model.embedding.weight, nodes)
        loss = self.context.l2 * F.l2_loss(*latent.chunk(3))
        rows = self.model.get_embedding(self.context.edge_index, n_id=n_id)
        if scored:
            ranking = F.bpr_loss(*rows[:scored].chunk(3))
            loss = loss + options.bpr_weight * ranking
        if lesson is not None:
            tail = rows[scored:]
            loss = loss + options.distill_weight * lesson.loss(
                tail[:distilled.numel()], tail[distilled.numel():])
        return loss


class TransformStage(DistilledStage):
    r"""Fine-tunes the rows that are served, in principal axes: distillation
    of the teacher, and a share of BPR. No graph is propagated over.
    """

    name = "transform"

    @property
    def rows(self) -> TransformRows:
        r"""The rows that are trained."""
        if self.context.rows is None:
            raise RuntimeError("there are no rows to fine-tune yet")
        return self.context.rows

    def prepare(self) -> None:
        r"""Nothing: the rows are quantized from the start."""

    def make_optimizer(self) -> torch.optim.Optimizer:
        r"""Adam on the rows and on the columns' spreads."""
        return torch.optim.Adam(self.rows.parameters(),
                                lr=self.config.quant.finetune_lr, fused=True)

    def user_rows(self, ids: Tensor) -> Tensor:
        r"""Quantized rows of some users."""
        return self.rows.user_rows(ids)

    def item_rows(self, ids: Optional[Tensor] = None) -> Tensor:
        r"""Quantized rows of some items, or of all."""
        return self.rows.item_rows(ids)

    def loss(self, step: int, users: Tensor, positives: Tensor,
             negatives: Tensor) -> Tensor:
        r"""Distillation + BPR."""
        options = self.config.quant
        items: Optional[Tensor] = None
        loss = self.rows.weight.new_zeros(())
        if options.distill_weight > 0:
            distilled = self.sample_users(step)
            lesson = self.lesson(step, distilled)
            taught = self.item_rows(lesson.items)
            loss = options.distill_weight * lesson.loss(
                self.user_rows(distilled), taught)
            items = taught if lesson.items is None else None
        if options.bpr_weight == 0:
            return loss
        if items is not None:  # each item is quantized once
            chosen = (F.gather_rows(items, positives),
                      F.gather_rows(items, negatives))
        else:
            chosen = self.item_rows(positives), self.item_rows(negatives)
        return loss + options.bpr_weight * F.bpr_loss(
            self.user_rows(users), *chosen)


#: The float stage of each loss.
FLOAT_STAGES: dict[str, type[Stage]] = {"bpr": FloatStage,
                                        "softmax": SoftmaxStage}
STAGES: dict[str, type[Stage]] = {
    stage.name: stage
    for stage in (FloatStage, JointStage, FinetuneStage, TransformStage)
}
