r"""How a model is quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from pyg_nodequant.config.quant_checks import check_quant


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
        popularity_discount (float, optional): What the teacher's scores lose
            by the popularity of an item, :math:`\gamma` in
            :func:`~pyg_nodequant.functional.discount_popularity`;
            :obj:`None` for as much as :obj:`popularity_lift` asks for.
        popularity_lift (float): How many times as popular as what users have
            chosen the teacher's first items may be, as geometric means
            (:class:`~pyg_nodequant.training.popularity.PopularityLift`).
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
    popularity_discount: Optional[float] = 0.0
    popularity_lift: float = 1.7
    bpr_weight: float = 0.3
    temperature: float = 1.0
    distill_users: int = 256
    distill_seen: bool = True
    finetune_steps: int = 800
    finetune_lr: float = 1e-2
    float_baseline: bool = True

    def __post_init__(self) -> None:
        check_quant(self)

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
