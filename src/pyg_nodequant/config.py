"""Frozen settings of every part of the package, validated when they are made.

These dataclasses know nothing of Hydra: :mod:`pyg_nodequant.app.schema` holds
their unfrozen twins and converts them to these. Every error names the setting,
the allowed values and the value it got.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Optional

RECIPES = ("node_aware", "learned", "transform", "paper", "uniform", "float")
ALLOCATIONS = ("sensitivity", "degree", "uniform", "shuffled", "learned")
WHERE = ("output", "input", "both")
ALPHA_STARTS = ("sensitivity", "degree")
# Recipes that do not take every allocation.
_ALLOCATIONS_OF = {
    "transform": ("sensitivity", "uniform", "shuffled", "learned"),
    "node_aware": ("sensitivity", "degree", "shuffled"),
    "learned": ("sensitivity", "shuffled"),
}
RANGES = ("symmetric", "minmax", "learned", "meanstd", "mse")
#: Ranges that are symmetric about 0: their rows need no offset.
SYMMETRIC_RANGES = ("symmetric", "mse")
ESTIMATORS = ("ste", "lsq", "noise")
WIDTH_GRADIENTS = ("levels", "interpolated")
ROW_SCALES = ("float16", "log8", "group")
#: Recipes that train widths by their gradient.
TRAINED_WIDTHS = ("paper", "learned")
DISTILLATIONS = ("listwise", "ranking", "margin", "mse")
LOSSES = ("bpr", "softmax")
INTERVALS = ("row", "message_passing")
GRADIENTS = ("ste", "relation")
MAX_SUPPORTED_BITS = 8


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    r"""Raises :class:`ValueError` unless :obj:`value` is in :obj:`allowed`."""
    if value not in allowed:
        raise ValueError(f"'{name}' needs to be one of {', '.join(allowed)} "
                         f"(got '{value}')")


def check_number(
    name: str,
    value: float,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    integer: bool = False,
    open_low: bool = False,
) -> None:
    r"""Raises :class:`ValueError` unless :obj:`low <= value <= high`."""
    kind = "an integer" if integer else "a number"
    types = int if integer else (int, float)
    is_number = isinstance(value, types) and not isinstance(value, bool)
    valid = (is_number and math.isfinite(value)
             and (value > low if open_low else value >= low) and value <= high)
    if not valid:
        if math.isinf(high) and math.isinf(low):
            bounds = ""
        elif math.isinf(high):
            bounds = f" {'above' if open_low else 'of at least'} {low:g}"
        else:
            bounds = f" in {'(' if open_low else '['}{low:g}, {high:g}]"
        raise ValueError(f"'{name}' needs to be {kind}{bounds} (got {value})")


@dataclass(frozen=True)
class NodeQuantConfig:
    r"""How a model is quantized, node by node.

    Args:
        recipe (str): :obj:`"transform"` (float warm start, rotation to the
            principal axes of the scores, widths by node and axis, distilled
            fine-tuning of the served rows), :obj:`"node_aware"` (float warm
            start, widths from the sensitivity of the scores, exact budget,
            distilled fine-tuning), :obj:`"learned"` (the same with widths
            that are trained by the distillation, then moved to the budget),
            :obj:`"paper"` (sigmoid controller trained jointly with BPR and
            the storage loss, rounded at the end), :obj:`"uniform"` (one width
            for all nodes, same fine-tuning) or :obj:`"float"`.
        where (str): :obj:`"output"` quantizes the propagated embeddings that
            are served, :obj:`"input"` the layer-0 table, :obj:`"both"` both.
        min_bits (int): Smallest width of a node, in bits. 0 (for
            :obj:`"node_aware"` with :obj:`where="output"` and
            :obj:`range="symmetric"`) lets nodes have no codes at all: such
            users share one row, which ranks items by popularity, and such
            items are rows of zeros, which score 0 with everyone.
        max_bits (int): Largest width of a node, in bits (at most 8).
        target_bits (float): Mean width in bits to meet exactly
            (:obj:`"node_aware"`, :obj:`"learned"`).
        bits (int): The width of :obj:`"uniform"`.
        bytes_per_node (float, optional): The most bytes a node that the
            packed file may have without its catalogue, everything counted
            (not of :obj:`"paper"`, :obj:`"uniform"`); instead of
            :obj:`target_bits`.
        target_bytes (int, optional): The same as a number of bytes.
        target_compression (float, optional): The same as how many times
            smaller than 64 float32 numbers a node.
        bytes_per_user (float, optional): Bytes of a stored user row, codes,
            scale and class (:obj:`"transform"`); together with
            :obj:`bytes_per_item`, instead of one budget.
        bytes_per_item (float, optional): The same of an item.
        allocation (str): Who gets the bits: :obj:`"sensitivity"`,
            :obj:`"degree"` (:obj:`"node_aware"`), :obj:`"uniform"`
            (:obj:`"transform"`: :obj:`bits` for each of the first
            :obj:`axes`, rotated to equal spreads: the baseline),
            :obj:`"learned"` (:obj:`"transform"`: a score for each node and a
            profile of the axes, trained by distillation), or
            :obj:`"shuffled"`, the widths of :obj:`"sensitivity"` dealt out at
            random among users and among items: a control.
            The recipe :obj:`"learned"` takes its own widths for
            :obj:`"sensitivity"`.
        alpha_start (str): Where the widths that :obj:`"learned"` trains
            begin: :obj:`"sensitivity"`, the widths of :obj:`"node_aware"`,
            or :obj:`"degree"`, the paper's start.
        learn_steps (int): Steps that widths are trained for, where they are
            learned.
        dual_rate (float): How fast the price :math:`\lambda` of a bit rises
            while the mean width is above the budget, as a share of its size
            for each step and bit.
        axes (int, optional): Principal axes that :obj:`"transform"` may use.
            (default: :obj:`None`: as many as leave 3.6 bits to each, since
            fine-tuning does little for narrower ones; all for
            :obj:`allocation="uniform"`)
        min_bytes (int): The fewest bytes of codes of a row of
            :obj:`"transform"`.
        scale_bits (int): Bits of its row scales, 4 or 8.
        lambda_storage (float): Weight of the storage loss
            :math:`\frac{1}{N}\sum_i b_i d` (:obj:`"paper"` only).
        range (str): :obj:`"symmetric"` (Gaussian span of the row's root mean
            square), :obj:`"mse"` (that span times the factor of least squared
            error, searched for each row), :obj:`"meanstd"` (Gaussian span of
            the standard deviation, around the row's mean), :obj:`"minmax"`
            (of the row) or :obj:`"learned"`.
        estimator (str): What rounding is while training: :obj:`"ste"`
            (rounding, gradients straight through), :obj:`"lsq"` (the same,
            gradients of :obj:`"learned"` ranges times :math:`1 / \sqrt{d
            (2^b - 1)}`) or :obj:`"noise"` (uniform noise of half a step
            instead of rounding).
        width_gradient (str): How a continuous width gets its gradient:
            :obj:`"levels"` (through the number of levels) or
            :obj:`"interpolated"` (rows between those of the two neighbouring
            whole widths, whose difference is the gradient; :obj:`"paper"`
            only).
        row_scale (str): How the scale of a row is stored:
            :obj:`"float16"`, :obj:`"log8"` (a logarithm of 8 bits) or
            :obj:`"group"` (one float16 for all users, or items, of one of 16
            bins of degrees and one width). The last two need symmetric
            ranges and :obj:`where="output"`.
        interval (str): Where the interval of a row comes from: :obj:`"row"`,
            its own numbers, or :obj:`"message_passing"`, refined over the
            layers of the graph (:obj:`range` symmetric or minmax).
        interval_mix (float): The neighbours' share in
            :obj:`"message_passing"`, from 0 to 1.
        gradient (str): How the gradient passes the rounding: :obj:`"ste"`,
            straight through, or :obj:`"relation"`, with a share of the
            neighbours' gradients as far as their rounding errors agree.
        relation_weight (float): That share, from 0 to 1.
        sensitivity_power (float): Exponent that tempers the sensitivity;
            below 1 the cold nodes keep more bits.
        distill_weight (float): Weight of the distillation while fine-tuning.
        distillation (str): What is distilled: :obj:`"listwise"`, the KL
            between the softmaxes over all items; or, of each user's first
            items in the teacher's ranking and of random ones, the order
            (:obj:`"ranking"`), the differences between the scores
            (:obj:`"margin"`) or the scores (:obj:`"mse"`).
        distill_items (int): How many items the softmaxes are formed of, for
            catalogues so large that all of them are too many: the users'
            first ones, half at most, and random ones that stand for the
            rest. 0 takes all (:obj:`"listwise"` only).
        teacher (str, optional): Whose rankings are distilled: a run
            directory, whose packed rows are taken, or a :obj:`.safetensors`
            file with tensors :obj:`users` and :obj:`items` of any number of
            columns. :obj:`"transform"` starts from its rows and trains no
            float model. It stays what it is when the model is refitted; if
            it was trained on validation interactions, as the models of
            :obj:`trainer.refit` are, validation flatters its students.
            (default: :obj:`None`, the float model of the same run)
        blend (float): The share that a companion, a second float model of
            the other :obj:`loss`, has in the scores of the teacher
            (:func:`~pyg_nodequant.functional.blend_rows`); 0 trains none.
            A given :obj:`teacher` has none either.
        popularity_discount (float): What the teacher's scores lose by the
            popularity of an item, :math:`\gamma` in
            :func:`~pyg_nodequant.functional.discount_popularity`.
        bpr_weight (float): Weight of BPR while fine-tuning.
        temperature (float): Temperature of the list-wise softmax, in the
            distillation and in the sensitivity.
        distill_users (int): Users a fine-tuning step distils.
        distill_seen (bool): Whether the items that a user has seen, which are
            never recommended, count in the list-wise KL and in the
            sensitivity.
        finetune_steps (int): Fine-tuning steps after the widths are frozen.
        finetune_lr (float): Their peak learning rate.
        float_baseline (bool): Whether :obj:`"paper"` also trains the float
            model that its numbers are compared with.

    Raises:
        ValueError: If a value is outside its allowed range.

    Example:
        >>> NodeQuantConfig(target_bits=2.0).max_bits
        8
        >>> NodeQuantConfig(max_bits=99)
        Traceback (most recent call last):
            ...
        ValueError: 'quant.max_bits' needs to be an integer in [1, 8] (got 99)
    """

    recipe: str = "node_aware"
    where: str = "output"
    min_bits: int = 1
    max_bits: int = 8
    target_bits: float = 2.0
    bits: int = 2
    bytes_per_node: Optional[float] = None
    target_bytes: Optional[int] = None
    target_compression: Optional[float] = None
    bytes_per_user: Optional[float] = None
    bytes_per_item: Optional[float] = None
    allocation: str = "sensitivity"
    alpha_start: str = "sensitivity"
    learn_steps: int = 400
    dual_rate: float = 0.1
    axes: Optional[int] = None
    min_bytes: int = 1
    scale_bits: int = 4
    lambda_storage: float = 1e-4
    range: str = "symmetric"
    estimator: str = "ste"
    width_gradient: str = "levels"
    row_scale: str = "float16"
    interval: str = "row"
    interval_mix: float = 0.1
    gradient: str = "ste"
    relation_weight: float = 0.1
    sensitivity_power: float = 1.0
    distill_weight: float = 1.0
    distillation: str = "listwise"
    distill_items: int = 0
    teacher: Optional[str] = None
    blend: float = 0.0
    popularity_discount: float = 0.0
    bpr_weight: float = 0.3
    temperature: float = 1.0
    distill_users: int = 256
    distill_seen: bool = True
    finetune_steps: int = 800
    finetune_lr: float = 1e-2
    float_baseline: bool = True

    def __post_init__(self) -> None:
        check_choice("quant.recipe", self.recipe, RECIPES)
        check_choice("quant.where", self.where, WHERE)
        check_choice("quant.range", self.range, RANGES)
        top = MAX_SUPPORTED_BITS
        check_number("quant.max_bits", self.max_bits, 1, top, integer=True)
        check_number("quant.min_bits", self.min_bits, 0, top, integer=True)
        if self.min_bits > self.max_bits:
            raise ValueError(f"'quant.min_bits' needs to be at most "
                             f"'quant.max_bits' = {self.max_bits} "
                             f"(got {self.min_bits})")
        if self.min_bits == 0:
            if (self.recipe, self.where, self.range) != (
                    "node_aware", "output", "symmetric"):
                raise ValueError(
                    f"'quant.min_bits' needs to be at least 1 but for recipe "
                    f"node_aware with where=output and range=symmetric (got 0 "
                    f"for {self.recipe} with where={self.where} and "
                    f"range={self.range})")
            self._check_unused("row_scale", "interval", why="min_bits 0")
        check_number("quant.bits", self.bits, 1, top, integer=True)
        check_choice("quant.allocation", self.allocation, ALLOCATIONS)
        if self.axes is not None:
            check_number("quant.axes", self.axes, 1, 4096, integer=True)
        check_number("quant.min_bytes", self.min_bytes, 0, 255, integer=True)
        if self.scale_bits not in (4, 8):
            raise ValueError(f"'quant.scale_bits' needs to be 4 or 8 "
                             f"(got {self.scale_bits})")
        if self.recipe == "transform" and (
                self.where, self.range) != ("output", "symmetric"):
            raise ValueError(f"'quant.where' and 'quant.range' need to be "
                             f"output and symmetric for transform "
                             f"(got {self.where} and {self.range})")
        self._check_rounding()
        self._check_budget()
        self._check_learning()
        self._check_graph()
        if (self.recipe in ("node_aware", "learned")
                and self.budget_bytes(1) is None):
            check_number("quant.target_bits", self.target_bits, self.min_bits,
                         self.max_bits)
        check_number("quant.lambda_storage", self.lambda_storage, 0)
        check_number("quant.sensitivity_power", self.sensitivity_power, 0, 4)
        check_number("quant.distill_weight", self.distill_weight, 0)
        check_number("quant.bpr_weight", self.bpr_weight, 0)
        check_number("quant.temperature", self.temperature, 0, open_low=True)
        check_number("quant.distill_users", self.distill_users, 1,
                     integer=True)
        check_number("quant.finetune_steps", self.finetune_steps, 0,
                     integer=True)
        check_number("quant.finetune_lr", self.finetune_lr, 0, open_low=True)
        self._check_distillation()

    def _check_distillation(self) -> None:
        check_choice("quant.distillation", self.distillation, DISTILLATIONS)
        check_number("quant.distill_items", self.distill_items, 0,
                     integer=True)
        if self.distill_items == 1:
            raise ValueError("'quant.distill_items' needs to be 0, for all "
                             "items, or at least 2 (got 1)")
        if self.teacher is not None and not (
                isinstance(self.teacher, str) and self.teacher):
            raise ValueError(f"'quant.teacher' needs to be null or a path "
                             f"(got {self.teacher!r})")
        check_number("quant.blend", self.blend, 0, 1)
        check_number("quant.popularity_discount", self.popularity_discount, 0,
                     10)
        if self.recipe in ("paper", "float"):
            for name in self._changed("distillation", "distill_items",
                                      "teacher", "blend",
                                      "popularity_discount"):
                raise ValueError(f"'quant.{name}' is no setting of recipe "
                                 f"'{self.recipe}', which distils nothing")
        if self.distillation != "listwise":
            for name in self._changed("distill_items"):
                raise ValueError(f"'quant.{name}' is a setting of "
                                 f"'quant.distillation' = listwise (got "
                                 f"'{self.distillation}')")
        if (self.teacher is not None and self.distill_weight == 0
                and self.recipe != "transform"):
            raise ValueError(f"'quant.teacher' teaches {self.recipe} nothing "
                             f"at 'quant.distill_weight' = 0")

    def _changed(self, *names: str) -> list[str]:
        # Those that are not at their defaults.
        return [item.name for item in fields(self)
                if item.name in names
                and getattr(self, item.name) != item.default]

    def _check_rounding(self) -> None:
        check_choice("quant.estimator", self.estimator, ESTIMATORS)
        check_choice("quant.width_gradient", self.width_gradient,
                     WIDTH_GRADIENTS)
        check_choice("quant.row_scale", self.row_scale, ROW_SCALES)
        if self.recipe in ("transform", "float"):
            for name, plain in (("estimator", ESTIMATORS[0]),
                                ("row_scale", ROW_SCALES[0])):
                if getattr(self, name) != plain:
                    raise ValueError(f"'quant.{name}' needs to be {plain} for "
                                     f"recipe '{self.recipe}' "
                                     f"(got '{getattr(self, name)}')")
        if self.estimator == "lsq" and self.range != "learned":
            raise ValueError(f"'quant.range' needs to be learned for "
                             f"'quant.estimator' = lsq, which scales the "
                             f"gradients of ranges (got '{self.range}')")
        if (self.width_gradient != "levels"
                and self.recipe not in TRAINED_WIDTHS):
            raise ValueError(f"'quant.width_gradient' needs to be levels for "
                             f"recipe '{self.recipe}', whose widths have no "
                             f"gradient (got '{self.width_gradient}')")
        if self.row_scale != "float16" and (
                self.where != "output" or self.range not in SYMMETRIC_RANGES):
            raise ValueError(f"'quant.where' needs to be output and "
                             f"'quant.range' one of "
                             f"{', '.join(SYMMETRIC_RANGES)} for "
                             f"'quant.row_scale' = {self.row_scale} "
                             f"(got {self.where} and {self.range})")

    def _check_budget(self) -> None:
        names = ("bytes_per_node", "target_bytes", "target_compression")
        given = [name for name in names if getattr(self, name) is not None]
        for name in given:
            check_number(f"quant.{name}", getattr(self, name), 0,
                         open_low=True, integer=name == "target_bytes")
        rows = (self.bytes_per_user, self.bytes_per_item)
        if (rows[0] is None) != (rows[1] is None):
            raise ValueError("'quant.bytes_per_user' and 'quant.bytes_per_"
                             "item' need each other (got one of them)")
        if rows[0] is not None:
            given.append("bytes_per_user")
            for name in ("bytes_per_user", "bytes_per_item"):
                check_number(f"quant.{name}", getattr(self, name), 0,
                             open_low=True)
        if len(given) > 1:
            raise ValueError(f"a budget needs to be given once (got "
                             f"{' and '.join('quant.' + n for n in given)})")
        allowed = {"transform": 4, "node_aware": 3,
                   "learned": 3}.get(self.recipe, 0)
        for name in given:
            if (*names, "bytes_per_user").index(name) >= allowed:
                raise ValueError(f"'quant.{name}' is no setting of recipe "
                                 f"'{self.recipe}'")
        choices = _ALLOCATIONS_OF.get(self.recipe, ALLOCATIONS[:-1])
        if self.allocation not in choices:
            raise ValueError(f"'quant.allocation' needs to be one of "
                             f"{', '.join(choices)} for {self.recipe} "
                             f"(got '{self.allocation}')")
        if given and self.allocation == "uniform":
            raise ValueError(f"'quant.{given[0]}' needs widths that differ: "
                             f"uniform rows have 'quant.axes' times "
                             f"'quant.bits' bits")

    def _check_learning(self) -> None:
        check_choice("quant.alpha_start", self.alpha_start, ALPHA_STARTS)
        check_number("quant.learn_steps", self.learn_steps, 0, integer=True)
        check_number("quant.dual_rate", self.dual_rate, 0, open_low=True)
        if self.recipe == "learned":
            if self.min_bits == self.max_bits:
                raise ValueError(f"'quant.min_bits' needs to be below "
                                 f"'quant.max_bits' for learned "
                                 f"(got {self.min_bits})")
            return
        self._check_unused("alpha_start")
        if self.recipe == "transform" and self.allocation == "learned":
            return
        self._check_unused("learn_steps", "dual_rate")

    def _check_graph(self) -> None:
        check_choice("quant.interval", self.interval, INTERVALS)
        check_choice("quant.gradient", self.gradient, GRADIENTS)
        check_number("quant.interval_mix", self.interval_mix, 0, 1)
        check_number("quant.relation_weight", self.relation_weight, 0, 1)
        if self.recipe in ("float", "transform"):
            self._check_unused("interval", "gradient")
        if self.interval == "row":
            self._check_unused("interval_mix", why="interval 'row'")
        elif self.range == "learned":
            raise ValueError("'quant.interval' needs to be row for "
                             "quant.range=learned, whose intervals are "
                             "trained (got 'message_passing')")
        elif self.range not in ("symmetric", "minmax"):
            raise ValueError(f"'quant.range' needs to be symmetric or minmax "
                             f"for 'quant.interval' = message_passing "
                             f"(got '{self.range}')")
        if self.uses_graph:
            self._check_unused("estimator", "width_gradient", "row_scale",
                               why="a quantizer that knows of the graph")
        if self.gradient == "ste":
            self._check_unused("relation_weight", why="gradient 'ste'")

    def _check_unused(self, *names: str, why: str = "") -> None:
        # What would be set for nothing is a mistake.
        why = why or f"recipe '{self.recipe}'"
        for name in self._changed(*names):
            raise ValueError(f"'quant.{name}' is no setting of "
                             f"{why}")

    def budget_bytes(self, num_nodes: int) -> Optional[int]:
        r"""The most bytes of the embedding part, if there is such a bound.

        Example:
            >>> NodeQuantConfig(bytes_per_node=10.5).budget_bytes(100)
            1050
        """
        if self.target_bytes is not None:
            return self.target_bytes
        if self.bytes_per_node is not None:
            return int(self.bytes_per_node * num_nodes)
        if self.target_compression is not None:
            return int(256 * num_nodes / self.target_compression)
        return None

    @property
    def has_companion(self) -> bool:
        r"""Whether a second float model is trained."""
        return self.blend > 0 and self.teacher is None

    @property
    def uses_graph(self) -> bool:
        r"""Whether quantizers have to know the graph."""
        return (self.interval, self.gradient) != ("row", "ste")

    @property
    def width_bounds(self) -> tuple[int, int]:
        r"""The smallest and the largest width of a controller: the bounds,
        widened where the one width of :obj:`"uniform"` is outside them.
        """
        if self.recipe != "uniform":
            return self.min_bits, self.max_bits
        return min(self.min_bits, self.bits), max(self.max_bits, self.bits)


@dataclass(frozen=True)
class ModelConfig:
    r"""The LightGCN encoder: :obj:`embedding_dim` numbers a node,
    :obj:`num_layers` propagation steps (0 is matrix factorization).
    """

    embedding_dim: int = 64
    num_layers: int = 3

    def __post_init__(self) -> None:
        check_number("model.embedding_dim", self.embedding_dim, 1, 4096,
                     integer=True)
        check_number("model.num_layers", self.num_layers, 0, 16, integer=True)


@dataclass(frozen=True)
class LossConfig:
    r"""What the float model is trained to do.

    Args:
        name (str): :obj:`"bpr"`, pairs of items scored by inner products, or
            :obj:`"softmax"`, the cross-entropy of a user's whole ranking,
            scored by cosines
            (:func:`~pyg_nodequant.functional.softmax_loss`).
        temperature (float): :math:`\tau` that cosines are divided by.
        user_power (float): A user with :math:`n` items counts :math:`n^p`
            in it: 0 for users alike, 1 for interactions alike.
        popularity (float): Exponent :math:`\gamma` by which an item of
            degree :math:`d` competes more often, :math:`d^{\gamma}` times;
            what popularity explains, scores need not: above 0 the tail gains.
        users (int): Users of a step of :obj:`"softmax"`.
        items (int): Items that compete in it beside the users' own, drawn
            anew each step; 0 for all.

    Example:
        >>> LossConfig(name="softmax").cosine_temperature
        0.2
    """

    name: str = "bpr"
    temperature: float = 0.2
    user_power: float = 0.5
    popularity: float = 0.0
    users: int = 1024
    items: int = 0

    def __post_init__(self) -> None:
        check_choice("loss.name", self.name, LOSSES)
        check_number("loss.temperature", self.temperature, 0, open_low=True)
        check_number("loss.user_power", self.user_power, 0, 1)
        check_number("loss.popularity", self.popularity, 0, 1)
        check_number("loss.users", self.users, 1, integer=True)
        check_number("loss.items", self.items, 0, integer=True)

    @property
    def cosine_temperature(self) -> Optional[float]:
        r"""The temperature of cosine scores; inner products have none."""
        return self.temperature if self.name == "softmax" else None


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


@dataclass(frozen=True)
class DataConfig:
    r"""Which interactions are read and how they are split.

    Args:
        name (str): :obj:`"synthetic"`, :obj:`"csv"`, :obj:`"lightgcn_txt"`,
            :obj:`"recbole"` or a named set (:obj:`"lastfm"`, ...).
        root (str): Read-only folder of the named sets.
        cache_dir (str): Where downloads and processed files go.
        split_seed (int): Seed of the carved test and validation splits.
    """

    name: str = "synthetic"
    root: str = "data"
    cache_dir: str = "data_cache"
    path: Optional[str] = None
    user_column: str = "user_id"
    item_column: str = "item_id"
    rating_column: Optional[str] = None
    min_rating: Optional[float] = None
    time_column: Optional[str] = None
    title_column: Optional[str] = None
    separator: Optional[str] = None
    split: str = "random"  # or "time"
    test_fraction: float = 0.2
    val_fraction: float = 0.1
    split_seed: int = 0
    num_users: int = 1000
    num_items: int = 1500
    num_interactions: int = 40000
    data_seed: int = 0

    def __post_init__(self) -> None:
        check_choice("data.split", self.split, ("random", "time"))
        check_number("data.test_fraction", self.test_fraction, 0, 0.9)
        check_number("data.val_fraction", self.val_fraction, 0, 0.9)
        check_number("data.split_seed", self.split_seed, 0, integer=True)
        check_number("data.data_seed", self.data_seed, 0, integer=True)
        for name in ("num_users", "num_items", "num_interactions"):
            check_number(f"data.{name}", getattr(self, name), 1, integer=True)
        if self.min_rating is not None:
            check_number("data.min_rating", self.min_rating)


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


def other_loss(name: str) -> str:
    r"""Returns the loss of the companion of a float model.

    Example:
        >>> other_loss("softmax")
        'bpr'
    """
    return LOSSES[1 - LOSSES.index(name)]


def as_dict(config: Any) -> dict[str, Any]:
    r"""Returns a dataclass of this module as plain nested dictionaries."""
    from dataclasses import asdict
    return asdict(config)
