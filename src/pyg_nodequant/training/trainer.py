r"""The trainer: from interactions and a recipe to a quantized model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional, Union

import torch
from torch import Tensor

from pyg_nodequant import functional as F
from pyg_nodequant.config import ExperimentConfig
from pyg_nodequant.data import BPRSampler, Interactions
from pyg_nodequant.nn import QuantLightGCN
from pyg_nodequant.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from pyg_nodequant.training.history import History
from pyg_nodequant.training.loop import StageLoop, StageProgress, copy_state
from pyg_nodequant.training.stages import STAGES, Stage, TrainingContext

#: The stages of each recipe, in order.
RECIPE_STAGES = {
    "float": ("float", ),
    "node_aware": ("float", "finetune"),
    "uniform": ("float", "finetune"),
    "paper": ("float", "joint"),
}


@dataclass
class TrainingResult:
    r"""What :meth:`Trainer.fit` returns.

    Args:
        model (QuantLightGCN): In eval mode, its widths frozen.
        edge_index (Tensor): The training graph, users before items.
        float_embedding (Tensor, optional): The float model's propagated rows
            :math:`(N, d)`, if the recipe trained one.
        seconds (dict): Training time of each stage.
        steps (dict): Optimizer steps of each stage, and where its best was.
    """

    model: QuantLightGCN
    edge_index: Tensor
    float_embedding: Optional[Tensor] = None
    seconds: dict[str, float] = field(default_factory=dict)
    steps: dict[str, dict[str, int]] = field(default_factory=dict)

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
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"'trainer.device' needs to be auto, cpu, or a device of this "
            f"machine such as cuda (got '{name}')") from error
    return device


class Trainer:
    r"""Trains a :class:`~pyg_nodequant.QuantLightGCN` by a recipe.

    * :obj:`node_aware`: float model; widths by the sensitivity of its
      rankings, summing exactly to the budget; fine-tuning by list-wise
      distillation with the widths frozen.
    * :obj:`uniform`: the same with one width for all.
    * :obj:`paper`: widths trained jointly with BPR and the storage loss
      (`arXiv 2508.16516 <https://arxiv.org/abs/2508.16516>`_), rounded at the
      end.
    * :obj:`float`: no quantization.

    The test split is taken away before anything else: models are chosen on
    validation alone.

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
        self.history: list[dict[str, Any]] = []
        self._log: Optional[History] = None
        self._done: dict[str, dict[str, Any]] = {}
        self._float_state: dict[str, Tensor] = {}

    def fit(self, interactions: Interactions) -> TrainingResult:
        r"""Trains on the train split, chooses on validation.

        Raises:
            ValueError: If there is nothing to train on, the device does not
                exist or the checkpoint to resume is of another run.
            TrainingError: If the loss is not finite.
        """
        config = self.config
        data = interactions.without_test()
        if data.train.size(1) == 0:
            raise ValueError("the train split needs at least one interaction "
                             "(got none)")
        if config.trainer.threads:
            torch.set_num_threads(config.trainer.threads)
        device = pick_device(config.trainer.device)
        context = TrainingContext(self.new_model(data).to(device), data,
                                  data.edge_index("train").to(device), config)
        checkpoint = self._open_checkpoint(data)
        stages = RECIPE_STAGES[config.quant.recipe]
        if not config.quant.float_baseline and config.quant.recipe == "paper":
            stages = stages[1:]
        if checkpoint is not None and stages[-1] in self._done:
            context.model.load_state_dict(checkpoint.model)
        for index, name in enumerate(stages):
            if name in self._done:
                continue
            resumed = checkpoint if (checkpoint is not None and
                                     checkpoint.state["stage"] == name) \
                else None
            self._run_stage(index, name, context, resumed)
        if self._log is not None:
            self._log.close()
        return self._result(context)

    def new_model(self, data: Interactions) -> QuantLightGCN:
        r"""A freshly initialised model; the seed alone decides its values."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return QuantLightGCN(
                data.num_nodes, self.config.model.embedding_dim,
                self.config.model.num_layers, quant=self.config.quant,
                degree=data.degree("train"))

    def _run_stage(self, index: int, name: str, context: TrainingContext,
                   checkpoint: Optional[Checkpoint]) -> None:
        if name == "finetune":
            self._prepare_finetuning(context)
        elif name == "joint" and self._float_state:
            # The baseline is not a warm start: the paper trains from scratch.
            fresh = self.new_model(context.data).state_dict()
            context.model.load_state_dict(fresh)
        seed = self.config.seed * 16 + index
        sampler = BPRSampler(context.data.train, context.data.num_users,
                             context.data.num_items,
                             self.config.trainer.batch_size, seed=seed)
        if sampler.steps_per_epoch == 0:
            raise ValueError("no user has an item left to serve as a "
                             "negative: every user has every item")
        stage = STAGES[name](context, sampler.steps_per_epoch)
        loop = StageLoop(stage, context, sampler, self._record, self._save)
        if checkpoint is not None:
            loop.restore(checkpoint)
        progress = loop.run()
        self._done[name] = progress.scalars()
        if name == "float":
            self._float_state = copy_state(context.model)
        if name == "joint":
            context.model.embedding.controller.freeze()
        self._save(stage, progress)

    @torch.no_grad()
    def _prepare_finetuning(self, context: TrainingContext) -> None:
        model, quant = context.model, self.config.quant
        model.load_state_dict(self._float_state)
        model.quantization_enabled = False
        teacher = model.eval().get_embedding(context.edge_index)
        model.quantization_enabled = True
        context.teacher = teacher
        controller = model.embedding.controller
        if quant.recipe == "uniform":
            bits = torch.full((model.num_nodes, ), quant.bits)
        else:
            bits = self.allocate(context, teacher)
        controller.set_bits(bits)
        controller.freeze(bits)
        for quantizer, rows in ((model.embedding.quantizer,
                                 model.embedding.weight),
                                (model.output_quantizer, teacher)):
            if quantizer is not None:
                quantizer.calibrate(rows)
        model.train()

    def allocate(self, context: TrainingContext, teacher: Tensor) -> Tensor:
        r"""The widths of :obj:`node_aware`: those that cost the float model's
        rankings least at the budget. Layer-0 rows count with all that their
        error spreads to.
        """
        model, quant = context.model, self.config.quant
        num_users = context.data.num_users
        curvature = F.listwise_curvature(teacher[:num_users],
                                         teacher[num_users:])
        weight = torch.zeros_like(curvature)
        if quant.where != "input":
            weight += F.sensitivity(curvature, teacher)
        if quant.where != "output":
            adjacency = F.build_adjacency(context.edge_index, model.num_nodes)
            spread = F.propagated_curvature(curvature, adjacency,
                                            model.alpha.tolist(),
                                            seed=self.config.seed)
            weight += F.sensitivity(spread, model.embedding.weight.detach())
        return F.allocate_bits(weight, quant.target_bits, quant.min_bits,
                               quant.max_bits, quant.sensitivity_power)

    @torch.no_grad()
    def _result(self, context: TrainingContext) -> TrainingResult:
        model = context.model
        float_embedding = None
        if self._float_state:
            quantized = copy_state(model)
            model.load_state_dict(self._float_state)
            model.quantization_enabled = False
            float_embedding = model.eval().get_embedding(context.edge_index)
            model.load_state_dict(quantized)
        model.quantization_enabled = self.config.quant.recipe != "float"
        return TrainingResult(
            model.eval(), context.edge_index, float_embedding,
            {name: done["seconds"] for name, done in self._done.items()},
            {name: {"steps": done["step"], "best": done["best_step"]}
             for name, done in self._done.items()})

    def _record(self, row: dict[str, Any]) -> None:
        self.history.append(row)
        if self.run_dir is not None:
            if self._log is None:
                self._log = History(self.run_dir,
                                    logger=self.config.trainer.logger)
            self._log.append(row)

    def _save(self, stage: Stage, progress: StageProgress) -> None:
        if self.run_dir is None:
            return
        save_checkpoint(
            self.run_dir, model=self._to_cpu(stage.model.state_dict()),
            optimizer=stage.optimizer.state_dict(), best=progress.best,
            state={
                "stage": stage.name,
                "progress": progress.scalars(),
                "schedule": stage.schedule.state_dict(),
                "done": self._done,
                "history": self.history,
                "fingerprint": self._fingerprint(stage.context.data),
            },
            groups={"float": self._float_state})

    @staticmethod
    def _to_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value.cpu() for key, value in state.items()}

    def _fingerprint(self, data: Interactions) -> str:
        config = asdict(self.config)
        return json.dumps({
            "seed": config["seed"], "model": config["model"],
            "quant": config["quant"],
            "nodes": [data.num_users, data.num_items],
            "interactions": [data.train.size(1), data.val.size(1)],
        }, sort_keys=True)

    def _open_checkpoint(self, data: Interactions) -> Optional[Checkpoint]:
        path = self.config.trainer.resume
        if path is None:
            return None
        checkpoint = load_checkpoint(path)
        theirs, ours = checkpoint.state["fingerprint"], self._fingerprint(data)
        if theirs != ours:
            raise CheckpointError(
                f"'trainer.resume' needs a checkpoint of the same seed, "
                f"model, quantization and data (differing: "
                f"{', '.join(_differences(theirs, ours))})")
        self._done = dict(checkpoint.state["done"])
        self._float_state = dict(checkpoint.groups.get("float", {}))
        for row in checkpoint.state["history"]:
            self._record(row)
        return checkpoint


def _differences(a: str, b: str) -> list[str]:
    left, right = json.loads(a), json.loads(b)
    return [key for key in left if left[key] != right.get(key)]
