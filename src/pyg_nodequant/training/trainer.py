r"""The trainer: from interactions and a recipe to a quantized model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Union

import torch
from torch import Tensor

from pyg_nodequant.config import ExperimentConfig
from pyg_nodequant.data import Interactions
from pyg_nodequant.nn import QuantLightGCN, TransformRows
from pyg_nodequant.training.checkpoint import Checkpoint
from pyg_nodequant.training.companion import Taught
from pyg_nodequant.training.journal import Journal
from pyg_nodequant.training.recipe import RecipeRun
from pyg_nodequant.training.teacher import Teacher, load_teacher


@dataclass
class TrainingResult:
    r"""What :meth:`Trainer.fit` returns.

    Args:
        model (QuantLightGCN or TransformRows): In eval mode, its widths
            frozen.
        edge_index (Tensor): The graph it propagates over, users before items.
        float_embedding (Tensor, optional): The float model's propagated rows
            :math:`(N, d)`, if the recipe trained one.
        exact_embedding (Tensor, optional): The float rows that the served
            ones stand for, in the same axes; axes that are not served come
            last. :obj:`None` if nothing is quantized.
        val (dict): Validation metrics of the model that was chosen
            (:obj:`"trained"`), of its float model (:obj:`"float"`) and of
            what was distilled, if that is another one (:obj:`"teacher"`);
            taken before a refit, which trains on validation too.
        seconds (dict): Training time of each stage.
        steps (dict): Optimizer steps of each stage, and where its best was.
        history (list): A row for each validation.
        teacher (Teacher, optional): The rows of :obj:`quant.teacher`, if they
            were distilled.
        taught (Taught, optional): What was distilled, if that is not the
            float model: the teacher, or a blend, at a discount.
    """

    model: Union[QuantLightGCN, TransformRows]
    edge_index: Tensor
    float_embedding: Optional[Tensor] = None
    exact_embedding: Optional[Tensor] = None
    val: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    steps: dict[str, dict[str, int]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    teacher: Optional[Teacher] = None
    taught: Optional[Taught] = None

    @torch.no_grad()
    def embedding(self) -> Tensor:
        r"""The rows that are scored, users before items: :math:`(N, d)`."""
        return self.model.get_embedding(self.edge_index)


def pick_device(name: str) -> torch.device:
    r"""Returns the device of a name; :obj:`"auto"` is CUDA where there is one.

    Raises:
        ValueError: If torch knows no such device, or has none here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()  # meta tensors hold nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"'trainer.device' needs to be auto, cpu, or a device of this "
            f"machine such as cuda (got '{name}')") from error
    return device


class Trainer:
    r"""Trains a :class:`~pyg_nodequant.QuantLightGCN` by a recipe.

    * :obj:`node_aware`: float model; widths by the sensitivity of its
      rankings, summing exactly to the budget; fine-tuning by
      distillation with the widths frozen.
    * :obj:`learned`: the same with widths that are trained by distillation,
      priced by dual ascent, and moved to the budget.
    * :obj:`uniform`: the same with one width for all.
    * :obj:`paper`: widths trained jointly with BPR and the storage loss
      (`arXiv 2508.16516 <https://arxiv.org/abs/2508.16516>`_), rounded at the
      end.
    * :obj:`float`: no quantization.

    The test split is taken away before anything else: models are chosen on
    validation alone. With :obj:`trainer.refit` what was chosen is trained
    once more on train and validation together; the rows of
    :obj:`quant.teacher`, if they are given, stay the same.

    .. note::
        Nodes without a training interaction have nothing to learn from. They
        get rows by rule when the table has been trained, before it is
        quantized (:func:`~pyg_nodequant.functional.settle_cold_rows`): a cold
        user the row whose scores rank items by popularity, from which it is
        fine-tuned like any other user; a cold item zeros, which it keeps, so
        that it scores 0 with everyone. Who is cold is asked anew in a refit.

    Args:
        config (ExperimentConfig, optional): All settings.
        run_dir (str or Path, optional): Where :obj:`history.csv` and
            checkpoints go. (default: :obj:`None`, nowhere)

    Example:
        >>> from pyg_nodequant.config import ExperimentConfig, TrainerConfig
        >>> from pyg_nodequant.config import ModelConfig, NodeQuantConfig
        >>> from pyg_nodequant.data import synthetic_interactions
        >>> data = synthetic_interactions(num_users=30, num_items=20,
        ...                               num_interactions=200)
        >>> config = ExperimentConfig(
        ...     model=ModelConfig(embedding_dim=8, num_layers=2),
        ...     quant=NodeQuantConfig(target_bits=2.0, finetune_steps=5),
        ...     trainer=TrainerConfig(max_epochs=10, progress=False))
        >>> result = Trainer(config).fit(data)
        >>> float(result.model.embedding.controller().mean())
        2.0
    """

    def __init__(
        self,
        config: Optional[ExperimentConfig] = None,
        run_dir: Optional[Union[str, Path]] = None,
    ) -> None:
        self.config = config or ExperimentConfig()
        self.run_dir = None if run_dir is None else Path(run_dir)

    def fit(self, interactions: Interactions) -> TrainingResult:
        r"""Trains on the train split, chooses on validation.

        Raises:
            ValueError: If there is nothing to train on, the device does not
                exist, the checkpoint to resume is of another run, or the
                teacher is not of these data.
            TrainingError: If the loss is not finite.
        """
        config, data = self.config, interactions.without_test()
        if data.train.size(1) == 0:
            raise ValueError("the train split needs at least one interaction "
                             "(got none)")
        if config.trainer.threads:
            torch.set_num_threads(config.trainer.threads)
        device = pick_device(config.trainer.device)
        teacher: Optional[Teacher] = None
        if config.quant.teacher is not None:
            teacher = load_teacher(config.quant.teacher, interactions)
        journal = Journal(config, data, self.run_dir,
                          None if teacher is None else teacher.digest)
        checkpoint = journal.open()
        rows = None if teacher is None else teacher.rows

        run: Optional[RecipeRun] = None
        if checkpoint is not None and checkpoint.state["run"] == "refit":
            selected = checkpoint.state["selected"]
        else:
            run = RecipeRun("select", config, data, device, journal,
                            teacher=rows)
            run.run(checkpoint)
            selected = {"val": run.validation(), "done": run.done,
                        "plans": run.plans}
            checkpoint = None
        if config.trainer.refit and data.val.size(1) > 0:
            run = None  # its model is not needed any more, its memory is
            run = self._refit(data, device, journal, selected, checkpoint,
                              rows)
        journal.close()
        if run is None:
            raise RuntimeError("a checkpoint of a refit was resumed without "
                               "one")
        return self._result(run, selected, journal, teacher)

    def _refit(self, data: Interactions, device: torch.device,
               journal: Journal, selected: dict[str, Any],
               checkpoint: Optional[Checkpoint],
               teacher: Optional[Tensor]) -> RecipeRun:
        plans = {name: (int(plan[0]), int(plan[1]))
                 for name, plan in selected["plans"].items()}
        run = RecipeRun("refit", self.config, data.merge_validation(), device,
                        journal, plans, {"selected": selected}, teacher)
        run.run(checkpoint)
        return run

    @staticmethod
    def _result(run: RecipeRun, selected: dict[str, Any],
                journal: Journal,
                teacher: Optional[Teacher]) -> TrainingResult:
        done = dict(selected["done"])
        if run.name == "refit":
            done.update({run.label(k): v for k, v in run.done.items()})
        return TrainingResult(
            run.served, run.context.edge_index,
            run.float_embedding() if run.float_state else None,
            run.exact_embedding(),
            selected["val"],
            {name: stage["seconds"] for name, stage in done.items()},
            {name: {"steps": stage["step"], "best": stage["best_step"]}
             for name, stage in done.items()},
            journal.rows, teacher,
            run.taught if run.differs else None)
