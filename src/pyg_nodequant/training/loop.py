r"""Runs one stage: batches, validation, the best model, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyg_nodequant.data import BPRSampler
from pyg_nodequant.training.checkpoint import Checkpoint
from pyg_nodequant.training.evaluation import evaluate_ranking, torch_topk
from pyg_nodequant.training.schedule import PlateauSchedule
from pyg_nodequant.training.stages import Stage, TrainingContext

State = dict[str, Tensor]


class TrainingError(ValueError):
    r"""Training cannot go on, *e.g.*, because the loss is not finite."""


@dataclass
class StageProgress:
    r"""Where a stage stands, beside its schedule and optimizer."""

    step: int = 0
    best_metric: float = -math.inf
    best_step: int = 0
    seconds: float = 0.0
    best: State = field(default_factory=dict)

    def scalars(self) -> dict[str, Any]:
        r"""The part that is JSON."""
        return {"step": self.step, "best_metric": self.best_metric,
                "best_step": self.best_step, "seconds": self.seconds}


def copy_state(module: torch.nn.Module) -> State:
    r"""A detached copy of a module's state."""
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


@torch.no_grad()
def validate(context: TrainingContext) -> dict[str, float]:
    r"""Recall@20 and NDCG@20 on validation, of the model as it would be
    served; empty without a validation split.
    """
    if context.data.val.size(1) == 0:
        return {}
    model = context.served.eval()
    rows = model.get_embedding(context.edge_index)
    model.train()
    num_users = context.data.num_users
    return evaluate_ranking(
        torch_topk(rows[:num_users], rows[num_users:]), context.data, "val",
        full=False, max_users=context.config.trainer.max_val_users)


class StageLoop:
    r"""The loop of one stage.

    Randomness is a function of the seed, the stage and the step, so a run
    that is interrupted and resumed sees the batches it would have seen.

    Args:
        stage (Stage): What is optimised.
        context (TrainingContext): The model, the data and the graph.
        record (callable): Takes a history row after each validation.
        save (callable): Takes a progress, to write a checkpoint.
    """

    def __init__(
        self,
        stage: Stage,
        context: TrainingContext,
        sampler: BPRSampler,
        record: Callable[[dict[str, Any]], None],
        save: Callable[[Stage, StageProgress], None],
    ) -> None:
        self.stage = stage
        self.context = context
        self.options = context.config.trainer
        self.sampler = sampler
        self.record = record
        self.save = save
        self.progress = StageProgress()

    def restore(self, checkpoint: Checkpoint) -> None:
        r"""Continues where a checkpoint of this stage stopped."""
        self.context.served.load_state_dict(checkpoint.model)
        if checkpoint.optimizer is not None:
            self.stage.optimizer.load_state_dict(checkpoint.optimizer)
        self.stage.schedule.load_state_dict(checkpoint.state["schedule"])
        self.stage.load_state_dict(checkpoint.state.get("extra", {}))
        self.progress = StageProgress(**checkpoint.state["progress"],
                                      best=checkpoint.best or {})

    def run(self) -> StageProgress:
        r"""Trains until the schedule is finished; leaves the best model (on
        validation, or the last one without a validation split) in place.
        """
        model, schedule = self.context.served, self.stage.schedule
        self.stage.prepare()
        model.train()
        start = time.monotonic() - self.progress.seconds
        last_save = time.monotonic()
        bar = tqdm(total=None, desc=self.stage.name, unit="step",
                   initial=self.progress.step, dynamic_ncols=True,
                   disable=None if self.options.progress else True)
        for epoch, batch in self.batches():
            loss, lr = self.train_step(batch)
            self.progress.step += 1
            self.progress.seconds = time.monotonic() - start
            self.watch_clock()
            bar.update()
            due = self.progress.step % self.options.eval_every == 0
            if due or schedule.finished:
                self.check_loss(lr, float(loss))
                metrics = self.evaluate()
                self.log(bar, epoch, lr, float(loss), metrics)
                minutes = (time.monotonic() - last_save) / 60
                if minutes >= self.options.checkpoint_minutes:
                    self.save(self.stage, self.progress)
                    last_save = time.monotonic()
        bar.close()
        if self.progress.best:
            model.load_state_dict(self.progress.best)
        self.progress.seconds = time.monotonic() - start
        return self.progress

    def batches(self) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        r"""Batches with their epoch, from the current step to the last."""
        while True:
            epoch, offset = divmod(self.progress.step,
                                   self.sampler.steps_per_epoch)
            for batch in self.sampler.epoch(epoch, offset):
                if self.stage.schedule.finished:
                    return
                yield epoch, batch

    def train_step(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, float]:
        r"""One optimizer step; returns the loss and the learning rate."""
        device = self.context.device
        users, positives, negatives = (t.to(device) for t in batch)
        lr = self.stage.set_lr()
        self.stage.begin_step(self.progress.step)
        loss = self.stage.loss(self.progress.step, users, positives,
                               negatives)
        self.stage.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.stage.after_backward()
        self.stage.optimizer.step()
        self.stage.schedule.advance()
        return loss.detach(), lr

    def watch_clock(self) -> None:
        r"""Starts the final fall in time to end by :obj:`max_minutes`."""
        schedule, limit = self.stage.schedule, self.options.max_minutes * 60
        if (limit and isinstance(schedule, PlateauSchedule)
                and self.progress.seconds >= limit / (1 + schedule.anneal)):
            schedule.begin_anneal(schedule.step)

    def check_loss(self, lr: float, loss: float) -> None:
        r"""Stops at a loss that is no number, before it is ranked by."""
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of stage '{self.stage.name}' became {loss} by step "
                f"{self.progress.step} at a learning rate of {lr:g}; lower "
                f"'optimizer.lr' or 'quant.finetune_lr'")

    def evaluate(self) -> dict[str, float]:
        r"""Validates, and keeps the model if it is the best one yet."""
        schedule, progress = self.stage.schedule, self.progress
        metrics = validate(self.context)
        metric = metrics.get(self.options.monitor)
        may_keep = self.stage.keeps_best and (
            schedule.settling or not self.stage.keep_only_settled)
        if metric is not None and may_keep and metric > progress.best_metric:
            progress.best_metric = metric
            progress.best_step = progress.step
            progress.best = copy_state(self.context.served)
        constant = not schedule.settling
        schedule.observe(metric)
        if constant and schedule.settling and progress.best:
            # Validation stalled: what came after the best model only led
            # away from it.
            self.context.served.load_state_dict(progress.best)
        return metrics

    def log(self, bar: Any, epoch: int, lr: float, loss: float,
            metrics: dict[str, float]) -> None:
        r"""Shows and records one line."""
        progress, model = self.progress, self.context.served
        bits = model.mean_bits if model.quantization_enabled else 32.0
        shown = {"loss": f"{loss:.4f}", "bits": f"{bits:.2f}"}
        if metrics:
            shown["val"] = f"{metrics[self.options.monitor]:.4f}"
        bar.set_postfix(shown)
        self.record({
            "stage": self.stage.name, "epoch": epoch, "step": progress.step,
            "loss": loss, "mean_bits": bits,
            **{f"val_{key}": value for key, value in metrics.items()},
            "lr": lr, "seconds": round(progress.seconds, 3),
        })
