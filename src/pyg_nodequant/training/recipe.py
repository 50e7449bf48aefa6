r"""Runs the stages of a recipe on one set of training edges."""

from __future__ import annotations

import functools
from typing import Any, Optional, Union

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from pyg_nodequant import functional as F
from pyg_nodequant.config import ExperimentConfig
from pyg_nodequant.data import BPRSampler, Interactions
from pyg_nodequant.nn import QuantLightGCN, SoftAxisRows, TransformRows
from pyg_nodequant.training.byte_budget import node_budget, transform_budget
from pyg_nodequant.training.checkpoint import Checkpoint
from pyg_nodequant.training.cold import hold_rows, settle_cold_nodes
from pyg_nodequant.training.companion import (
    COMPANION,
    Taught,
    companion_context,
    make_taught,
)
from pyg_nodequant.training.evaluation import evaluate_ranking, torch_topk
from pyg_nodequant.training.float_cache import FloatCache
from pyg_nodequant.training.journal import Journal
from pyg_nodequant.training.learn_axes import LearnAxesStage, LearnedPlan
from pyg_nodequant.training.learn_stage import LearnStage, start_widths
from pyg_nodequant.training.loop import StageLoop, StageProgress, copy_state
from pyg_nodequant.training.new_model import new_model
from pyg_nodequant.training.schedule import PlateauSchedule
from pyg_nodequant.training.stages import (
    FLOAT_STAGES,
    STAGES,
    Stage,
    TrainingContext,
    float_params,
)
from pyg_nodequant.training.transform_plan import PlanAxes, TransformPlan

#: The stages of each recipe, in order.
RECIPE_STAGES = {
    "float": ("float", ),
    "node_aware": ("float", "finetune"),
    "learned": ("float", "learn", "finetune"),
    "transform": ("float", "transform"),
    "uniform": ("float", "finetune"),
    "paper": ("float", "joint"),
}
#: The stages that train a float model.
FLOATS = ("float", COMPANION)
_STAGES: dict[str, type[Stage]] = {
    **STAGES, LearnStage.name: LearnStage, LearnAxesStage.name: LearnAxesStage}
Plans = dict[str, tuple[int, int]]


class RecipeRun:
    r"""One training by a recipe: a fresh model, its stages, its result.

    A run happens twice if the model is refitted: the first one,
    :obj:`"select"`, is watched on validation; the second, :obj:`"refit"`,
    repeats its course on train and validation together.

    Args:
        name (str): :obj:`"select"` or :obj:`"refit"`.
        config (ExperimentConfig): All settings.
        data (Interactions): What is trained on; without a test split.
        device (torch.device): Where.
        journal (Journal): Takes history rows and checkpoints.
        plans (dict, optional): The courses to repeat.
        carried (dict, optional): What later checkpoints have to remember of
            earlier runs.
        teacher (Tensor, optional): Rows to distil instead of the float
            model's, users before items, :math:`(N, d')`.
    """

    def __init__(
        self,
        name: str,
        config: ExperimentConfig,
        data: Interactions,
        device: torch.device,
        journal: Journal,
        plans: Optional[Plans] = None,
        carried: Optional[dict[str, Any]] = None,
        teacher: Optional[Tensor] = None,
    ) -> None:
        self.name = name
        self.config = config
        self.journal = journal
        self.carried = carried or {}
        self.teacher = None if teacher is None else teacher.to(device)
        self.context = TrainingContext(
            new_model(config, data).to(device), data,
            data.edge_index("train").to(device), config, plans=plans or {})
        self.done: dict[str, dict[str, Any]] = {}
        self.plans: Plans = {}
        self.float_state: dict[str, Tensor] = {}
        #: A second float model, and its state once it is trained.
        self.companion: Optional[TrainingContext] = None
        self.companion_state: dict[str, Tensor] = {}
        if teacher is None and config.quant.has_companion:
            self.companion = companion_context(self.context)
        self.axes: Optional[PlanAxes] = None
        #: What a stage has learned of the widths, for the next one.
        self.learned: dict[str, Tensor] = {}

    @property
    def model(self) -> QuantLightGCN:
        r"""The encoder."""
        return self.context.model

    @property
    def served(self) -> Union[QuantLightGCN, TransformRows]:
        r"""What is served: the encoder, or rows made from it."""
        return self.context.served

    @property
    def differs(self) -> bool:
        r"""Whether what is distilled are not the float model's own rows."""
        quant = self.config.quant
        return self.teacher is not None or quant.has_companion or (
            quant.popularity_discount != 0)

    @property
    def stages(self) -> tuple[str, ...]:
        r"""The recipe's stages, without a float model that nothing needs: the
        paper's is a mere baseline, and :obj:`transform` can start from the
        rows of another teacher.
        """
        quant = self.config.quant
        stages: tuple[str, ...] = RECIPE_STAGES[quant.recipe]
        if self.companion is not None:
            stages = stages[0], COMPANION, *stages[1:]
        if quant.recipe == "transform" and quant.allocation == "learned":
            stages = *stages[:-1], LearnAxesStage.name, stages[-1]
        if quant.recipe == "paper" and not quant.float_baseline:
            return stages[1:]
        if quant.recipe == "transform" and self.teacher is not None:
            return stages[1:]
        return stages

    def run(self, checkpoint: Optional[Checkpoint] = None) -> None:
        r"""Runs all stages, from where a checkpoint of this run stopped."""
        if checkpoint is not None:
            self.done = dict(checkpoint.state["done"])
            self.plans = {name: (int(a), int(b)) for name, (a, b)
                          in checkpoint.state["plans"].items()}
            self.float_state = dict(checkpoint.groups.get("float", {}))
            self.companion_state = dict(checkpoint.groups.get(COMPANION, {}))
            self.learned = {name: value.to(self.context.device) for name, value
                            in checkpoint.groups.get("learned", {}).items()}
            if self.stages[-1] in self.done:
                if self.stages[-1] == "transform":
                    self.prepare_transform()
                self.served.load_state_dict(checkpoint.model)
        for index, name in enumerate(self.stages):
            if name in self.done:
                continue
            same = (checkpoint is not None
                    and checkpoint.state["stage"] == name)
            self.run_stage(index, name, checkpoint if same else None)
        self.served.quantization_enabled = self.config.quant.recipe != "float"
        self.served.eval()
        if self.config.quant.uses_graph:  # ranges of the rows as they are now
            with torch.no_grad():
                self.served.get_embedding(self.context.edge_index)

    def run_stage(self, index: int, name: str,
                  checkpoint: Optional[Checkpoint]) -> None:
        r"""Prepares and runs one stage, and writes a checkpoint."""
        prepare = {
            "finetune": self.prepare_finetuning,
            "learn": self.prepare_learning,
            LearnAxesStage.name: self.prepare_axes,
            "transform": self.prepare_transform,
            "joint": self.prepare_joint,
        }.get(name)
        if prepare is not None:
            prepare()
        context = self.context if self.companion is None or (
            name != COMPANION) else self.companion
        cache = self.float_cache(name, context)
        if cache is not None and checkpoint is None and self.take(
                cache, name, context):
            return
        # The companion draws what it would draw as a float model.
        stream = 0 if name == COMPANION else index
        data = self.context.data
        sampler = BPRSampler(data.train, data.num_users, data.num_items,
                             self.config.trainer.batch_size,
                             seed=self.config.seed * 16 + stream)
        kind = FLOAT_STAGES[context.config.loss.name] if name in FLOATS \
            else _STAGES[name]
        stage = kind(context, sampler.steps_per_epoch, name)
        loop = StageLoop(stage, context, sampler, self.record, self.save)
        if checkpoint is not None:
            loop.restore(checkpoint)
        handles = self.hold_cold_items() if name == "finetune" else []
        progress = loop.run()
        for handle in handles:
            handle.remove()
        self.done[name] = progress.scalars()
        if isinstance(stage.schedule, PlateauSchedule):
            self.plans[name] = stage.schedule.plan
        if cache is not None:
            cache.save(context.model.embedding.weight, {
                "done": self.done[name], "plan": self.plans[name]})
        self.end_stage(name, stage)
        self.save(stage, progress)

    def end_stage(self, name: str, stage: Stage) -> None:
        r"""Keeps what later stages need of one that ended."""
        if name == "float":
            self.settle_cold_nodes(self.context)
            self.float_state = copy_state(self.model)
        elif name == COMPANION:
            self.settle_cold_nodes(stage.context)
            self.companion_state = copy_state(stage.context.model)
        elif name == "joint":
            self.model.embedding.controller.freeze()
            self.settle_cold_nodes(self.context)
        elif name == "learn":
            self.learned = {"bits": self.model.embedding.controller().detach()}
        elif isinstance(stage, LearnAxesStage):
            self.learned = {"row_bits": stage.soft.row_bits(),
                            "profile": stage.soft.profile.detach()}

    @staticmethod
    def settle_cold_nodes(context: TrainingContext) -> None:
        r"""Gives users and items without a training interaction their rows,
        at the end of a stage that trains the table from scratch.
        """
        data = context.data
        settle_cold_nodes(context.model, context.edge_index,
                          data.degree("train"), data.num_users)

    def hold_cold_items(self) -> list[RemovableHandle]:
        r"""Keeps the zero rows of cold items while others are fine-tuned;
        cold users are distilled like all users.
        """
        data = self.context.data
        cold = data.degree("train") == 0
        cold[:data.num_users] = False
        return hold_rows(float_params(self.model),
                         cold.to(self.context.device))

    def float_cache(self, name: str,
                    context: TrainingContext) -> Optional[FloatCache]:
        r"""Where the float model of a stage is kept, if it is one."""
        folder = self.config.trainer.float_cache
        if folder is None or name not in FLOATS:
            return None
        return FloatCache(folder, context.config, context.data,
                          context.plans.get(name))

    @torch.no_grad()
    def take(self, cache: FloatCache, name: str,
             context: TrainingContext) -> bool:
        r"""Takes a float model from a cache, if it is there."""
        found = cache.load()
        if found is None:
            return False
        weight, facts = found
        context.model.embedding.weight.copy_(weight)
        self.settle_cold_nodes(context)
        state = copy_state(context.model)
        if name == COMPANION:
            self.companion_state = state
        else:
            self.float_state = state
        self.done[name] = facts["done"]
        self.plans[name] = (int(facts["plan"][0]), int(facts["plan"][1]))
        return True

    def prepare_joint(self) -> None:
        r"""Starts anew: the paper trains from scratch, and a baseline before
        it is no warm start.
        """
        if self.float_state:
            fresh = new_model(self.config, self.context.data)
            self.model.load_state_dict(fresh.state_dict())

    @torch.no_grad()
    def prepare_finetuning(self) -> None:
        r"""Starts from the float model: its rankings say which widths to
        freeze, its rows where learned ranges begin, and it is the teacher if
        there is no other.
        """
        model, quant = self.model, self.config.quant
        rows = self.float_embedding()
        self.context.teacher = self.taught.rows
        model.load_state_dict(self.float_state)
        controller = model.embedding.controller
        if quant.min_bits == 0:
            self.share_popularity(rows)
        if quant.recipe == "uniform":
            bits = torch.full((model.num_nodes, ), quant.bits)
        else:
            bits = self.node_widths(rows)
        controller.set_bits(bits)
        controller.freeze(bits)
        self.calibrate(rows)

    @torch.no_grad()
    def prepare_learning(self) -> None:
        r"""Starts from the float model, with the widths that its rankings or
        its degrees suggest.
        """
        model, quant = self.model, self.config.quant
        rows = self.float_embedding()
        self.context.teacher = self.taught.rows
        model.load_state_dict(self.float_state)
        controller = model.embedding.controller
        bits = self.node_widths(rows)
        controller.reset_parameters()  # to the degrees
        if quant.alpha_start == "sensitivity":
            start_widths(controller, bits)
        self.context.target_bits = float(bits.double().mean())
        self.calibrate(rows)

    def calibrate(self, rows: Tensor) -> None:
        r"""Starts learned ranges, if there are any."""
        model = self.model
        model.embedding.quantizer.calibrate(model.embedding.weight)
        if model.output_quantizer is not None:
            model.output_quantizer.calibrate(rows)

    @torch.no_grad()
    def prepare_transform(self) -> None:
        r"""Makes the rows of :obj:`transform` from those of their teacher."""
        teacher = self.context.teacher = self.taught.rows
        num_users = self.context.data.num_users
        tables = teacher[:num_users], teacher[num_users:]
        if self.learned:
            plan: TransformPlan = LearnedPlan(*tables, self.config.quant,
                                              **self.learned)
        else:
            plan = TransformPlan(*tables, self.config.quant, self.config.seed,
                                 self.context.excluded())
        if self.config.quant.allocation == "uniform":
            rows = plan.uniform_rows()
        else:
            rows = plan.rows(transform_budget(plan, self.config.quant))
        self.context.rows = rows.to(self.context.device).train()
        self.axes = plan.axes

    def share_popularity(self, teacher: Tensor) -> None:
        r"""Makes users of width 0 read the row that ranks the float model's
        items by popularity.
        """
        num_users = self.context.data.num_users
        quantizer = self.model.output_quantizer
        assert quantizer is not None  # or the settings refuse widths of 0
        degree = self.context.data.degree("train").to(teacher.device)
        quantizer.share_row(
            F.popularity_row(teacher[num_users:], degree[num_users:]),
            num_users)

    @torch.no_grad()
    def prepare_axes(self) -> None:
        r"""Makes rows of continuous widths from the float model and from what
        the closed form would give each row and each axis.
        """
        quant = self.config.quant
        teacher = self.context.teacher = self.taught.rows
        num_users = self.context.data.num_users
        plan = TransformPlan(teacher[:num_users], teacher[num_users:], quant,
                             self.config.seed, self.context.excluded())
        total = transform_budget(plan, quant)
        counts = [len(x) for x in plan.kinds]
        self.context.target_bytes = (
            (total / sum(counts), ) if isinstance(total, int) else
            (total[0] / counts[0], total[1] / counts[1]))
        profile = torch.stack([F.share_profile(share.sum(0))
                               for share in plan.shares_kept(total)])
        rows = SoftAxisRows(*plan.kinds, plan.rows(total).row_bits(), profile,
                            quant.scale_bits, quant.max_bits)
        self.context.rows = rows.to(self.context.device).train()

    def node_widths(self, teacher: Tensor) -> Tensor:
        r"""The widths at the budget: those that were learned, moved to it, or
        else the closed form.
        """
        quant, data = self.config.quant, self.context.data
        count = teacher.size(0)
        learned = self.learned.get("bits")
        wanted = self.sensitivity(teacher) if learned is None else learned

        def widths(total: int) -> Tensor:
            bounds = total / count, quant.min_bits, quant.max_bits
            if learned is not None:
                bits = F.project_to_budget(wanted, *bounds)
            else:
                bits = F.allocate_bits(wanted, *bounds,
                                       quant.sensitivity_power)
            if quant.allocation != "shuffled":
                return bits
            users, seed = data.num_users, 2 * self.config.seed
            return torch.cat([F.shuffled(bits[:users], seed),
                              F.shuffled(bits[users:], seed + 1)])

        budget = quant.budget_bytes(count)
        if budget is None:
            return widths(F.budget_total(count, quant.target_bits))
        return widths(node_budget(self.model, teacher, widths, budget, quant,
                                  data.num_users))

    def sensitivity(self, teacher: Tensor) -> Tensor:
        r"""What the nodes' widths go by: how much their errors cost the float
        model's rankings, or their degrees. Layer-0 rows count with all that
        their error spreads to.
        """
        model, quant = self.model, self.config.quant
        num_users = self.context.data.num_users
        if quant.allocation == "degree":
            return self.context.data.degree("train").to(teacher)
        curvature = F.listwise_curvature(
            teacher[:num_users], teacher[num_users:], quant.temperature,
            excluded=self.context.excluded())
        weight = torch.zeros_like(curvature)
        if quant.where != "input":
            weight += F.sensitivity(curvature, teacher)
        if quant.where != "output":
            adjacency = F.build_adjacency(self.context.edge_index,
                                          model.num_nodes)
            spread = F.propagated_curvature(curvature, adjacency,
                                            model.alpha.tolist(),
                                            seed=self.config.seed)
            weight += F.sensitivity(spread, model.embedding.weight.detach())
        if quant.min_bits == 0:
            # At no bits they read the very row that they have.
            cold = self.context.data.degree("train")[:num_users] == 0
            weight[:num_users][cold.to(weight.device)] = 0
        return weight

    @functools.cached_property
    def taught(self) -> Taught:
        r"""What is distilled: the rows of the given teacher, or of the float
        model, blended with its companion's, at a discount. There when the
        float models are.
        """
        rows = self.teacher
        if rows is None:
            rows = self.float_embedding()
        other: Optional[Tensor] = None
        if self.companion is not None:
            model = self.companion.model
            model.load_state_dict(self.companion_state)
            with torch.no_grad():
                other = model.get_embedding(self.companion.edge_index)
        return make_taught(self.config, self.context.data, rows, other)

    @torch.no_grad()
    def float_embedding(self) -> Tensor:
        r"""The propagated rows of the float model, :math:`(N, d)`."""
        current = copy_state(self.model)
        self.model.load_state_dict(self.float_state)
        out = self.latent_embedding()
        self.model.load_state_dict(current)
        return out

    @torch.no_grad()
    def latent_embedding(self) -> Tensor:
        r"""The propagated rows of the model as it is, not quantized."""
        model = self.model
        enabled, model.quantization_enabled = model.quantization_enabled, False
        out = model.get_embedding(self.context.edge_index)
        model.quantization_enabled = enabled
        return out

    @torch.no_grad()
    def exact_embedding(self) -> Optional[Tensor]:
        r"""The float rows that the served ones stand for, in their axes,
        :math:`(N, d)`: the float model's; those of the teacher that
        :obj:`transform` starts from; for :obj:`paper`, which
        quantizes no other model, its own; none for :obj:`float`.
        """
        recipe = self.config.quant.recipe
        if recipe == "float":
            return None
        if recipe == "paper":
            return self.latent_embedding()
        num_users = self.context.data.num_users
        rows = (self.taught.rows if recipe == "transform"
                else self.float_embedding())
        if self.axes is None:
            return rows
        return self.axes.turn(rows[:num_users], rows[num_users:])

    @torch.no_grad()
    def validation(self) -> dict[str, dict[str, float]]:
        r"""All validation metrics of the trained model and, if there are any,
        of the float model and of a teacher that is not the float model; empty
        without a validation split.
        """
        if self.context.data.val.size(1) == 0:
            return {}
        rows = {"trained": self.served.get_embedding(self.context.edge_index)}
        if self.float_state:
            rows["float"] = self.float_embedding()
        if self.differs:
            rows["teacher"] = self.taught.rows
        num_users = self.context.data.num_users
        return {
            name: evaluate_ranking(torch_topk(x[:num_users], x[num_users:]),
                                   self.context.data, "val")
            for name, x in rows.items()
        }

    def label(self, stage: str) -> str:
        r"""The name of a stage in the history."""
        return stage if self.name == "select" else f"{self.name}_{stage}"

    def record(self, row: dict[str, Any]) -> None:
        r"""Adds a row to the history."""
        self.journal.record({**row, "stage": self.label(row["stage"])})

    def save(self, stage: Stage, progress: StageProgress) -> None:
        r"""Writes a checkpoint."""
        self.journal.save(
            model=stage.context.served.state_dict(),
            optimizer=stage.optimizer.state_dict(),
            best=progress.best,
            groups={"float": self.float_state, "learned": self.learned,
                    COMPANION: self.companion_state},
            state={
                **self.carried,
                "run": self.name,
                "stage": stage.name,
                "progress": progress.scalars(),
                "schedule": stage.schedule.state_dict(),
                "extra": stage.state_dict(),
                "done": self.done,
                "plans": {k: list(v) for k, v in self.plans.items()},
            })
