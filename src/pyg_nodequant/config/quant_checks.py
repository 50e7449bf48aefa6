r"""What settings of quantization go together."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from pyg_nodequant.config.checks import check_choice, check_number
from pyg_nodequant.config.choices import (
    ALLOCATIONS,
    ALLOCATIONS_OF,
    ALPHA_STARTS,
    DISTILLATIONS,
    ESTIMATORS,
    GRADIENTS,
    INTERVALS,
    MAX_SUPPORTED_BITS,
    RANGES,
    RECIPES,
    ROW_SCALES,
    SYMMETRIC_RANGES,
    TRAINED_WIDTHS,
    WHERE,
    WIDTH_GRADIENTS,
)

if TYPE_CHECKING:
    from pyg_nodequant.config.quant import NodeQuantConfig


def check_quant(quant: NodeQuantConfig) -> None:
    r"""Raises :class:`ValueError` at the first setting that is not allowed."""
    check_choice("quant.recipe", quant.recipe, RECIPES)
    check_choice("quant.where", quant.where, WHERE)
    check_choice("quant.range", quant.range, RANGES)
    top = MAX_SUPPORTED_BITS
    check_number("quant.max_bits", quant.max_bits, 1, top, integer=True)
    check_number("quant.min_bits", quant.min_bits, 0, top, integer=True)
    if quant.min_bits > quant.max_bits:
        raise ValueError(f"'quant.min_bits' needs to be at most "
                         f"'quant.max_bits' = {quant.max_bits} "
                         f"(got {quant.min_bits})")
    if quant.min_bits == 0:
        if (quant.recipe, quant.where, quant.range) != (
                "node_aware", "output", "symmetric"):
            raise ValueError(
                f"'quant.min_bits' needs to be at least 1 but for recipe "
                f"node_aware with where=output and range=symmetric (got 0 "
                f"for {quant.recipe} with where={quant.where} and "
                f"range={quant.range})")
        check_unused(quant, "row_scale", "interval", why="min_bits 0")
    check_number("quant.bits", quant.bits, 1, top, integer=True)
    check_choice("quant.allocation", quant.allocation, ALLOCATIONS)
    if quant.axes is not None:
        check_number("quant.axes", quant.axes, 1, 4096, integer=True)
    check_number("quant.min_bytes", quant.min_bytes, 0, 255, integer=True)
    if quant.scale_bits not in (4, 8):
        raise ValueError(f"'quant.scale_bits' needs to be 4 or 8 "
                         f"(got {quant.scale_bits})")
    if quant.recipe == "transform" and (
            quant.where, quant.range) != ("output", "symmetric"):
        raise ValueError(f"'quant.where' and 'quant.range' need to be "
                         f"output and symmetric for transform "
                         f"(got {quant.where} and {quant.range})")
    check_rounding(quant)
    check_budget(quant)
    check_learning(quant)
    check_graph(quant)
    if (quant.recipe in ("node_aware", "learned")
            and quant.budget_bytes(1) is None):
        check_number("quant.target_bits", quant.target_bits, quant.min_bits,
                     quant.max_bits)
    check_number("quant.lambda_storage", quant.lambda_storage, 0)
    check_number("quant.sensitivity_power", quant.sensitivity_power, 0, 4)
    check_number("quant.distill_weight", quant.distill_weight, 0)
    check_number("quant.bpr_weight", quant.bpr_weight, 0)
    check_number("quant.temperature", quant.temperature, 0, open_low=True)
    check_number("quant.distill_users", quant.distill_users, 1,
                 integer=True)
    check_number("quant.finetune_steps", quant.finetune_steps, 0,
                 integer=True)
    check_number("quant.finetune_lr", quant.finetune_lr, 0, open_low=True)
    check_distillation(quant)


def check_distillation(quant: NodeQuantConfig) -> None:
    r"""What is distilled, and of whom."""
    check_choice("quant.distillation", quant.distillation, DISTILLATIONS)
    check_number("quant.distill_items", quant.distill_items, 0,
                 integer=True)
    if quant.distill_items == 1:
        raise ValueError("'quant.distill_items' needs to be 0, for all "
                         "items, or at least 2 (got 1)")
    if quant.teacher is not None and not (
            isinstance(quant.teacher, str) and quant.teacher):
        raise ValueError(f"'quant.teacher' needs to be null or a path "
                         f"(got {quant.teacher!r})")
    check_number("quant.blend", quant.blend, 0, 1)
    if quant.popularity_discount is not None:
        check_number("quant.popularity_discount", quant.popularity_discount,
                     0, 10)
        check_unused(quant, "popularity_lift", why="a given discount")
    check_number("quant.popularity_lift", quant.popularity_lift, 0,
                 open_low=True)
    if quant.recipe in ("paper", "float"):
        for name in changed(quant, "distillation", "distill_items", "teacher",
                            "blend", "popularity_discount"):
            raise ValueError(f"'quant.{name}' is no setting of recipe "
                             f"'{quant.recipe}', which distils nothing")
    elif quant.distill_weight == quant.bpr_weight == 0 < quant.finetune_steps:
        raise ValueError(f"'quant.distill_weight' or 'quant.bpr_weight' needs "
                         f"to be above 0 for the {quant.finetune_steps} "
                         f"'quant.finetune_steps' (got 0 for both)")
    if quant.distillation != "listwise":
        for name in changed(quant, "distill_items"):
            raise ValueError(f"'quant.{name}' is a setting of "
                             f"'quant.distillation' = listwise (got "
                             f"'{quant.distillation}')")
    if (quant.teacher is not None and quant.distill_weight == 0
            and quant.recipe != "transform"):
        raise ValueError(f"'quant.teacher' teaches {quant.recipe} nothing "
                         f"at 'quant.distill_weight' = 0")


def changed(quant: NodeQuantConfig, *names: str) -> list[str]:
    r"""Returns those settings that are not at their defaults."""
    return [item.name for item in fields(quant)
            if item.name in names
            and getattr(quant, item.name) != item.default]


def check_rounding(quant: NodeQuantConfig) -> None:
    r"""What rounding, its gradient and its scales go with."""
    check_choice("quant.estimator", quant.estimator, ESTIMATORS)
    check_choice("quant.width_gradient", quant.width_gradient,
                 WIDTH_GRADIENTS)
    check_choice("quant.row_scale", quant.row_scale, ROW_SCALES)
    if quant.recipe in ("transform", "float"):
        for name, plain in (("estimator", ESTIMATORS[0]),
                            ("row_scale", ROW_SCALES[0])):
            if getattr(quant, name) != plain:
                raise ValueError(f"'quant.{name}' needs to be {plain} for "
                                 f"recipe '{quant.recipe}' "
                                 f"(got '{getattr(quant, name)}')")
    if quant.estimator == "lsq" and quant.range != "learned":
        raise ValueError(f"'quant.range' needs to be learned for "
                         f"'quant.estimator' = lsq, which scales the "
                         f"gradients of ranges (got '{quant.range}')")
    if (quant.width_gradient != "levels"
            and quant.recipe not in TRAINED_WIDTHS):
        raise ValueError(f"'quant.width_gradient' needs to be levels for "
                         f"recipe '{quant.recipe}', whose widths have no "
                         f"gradient (got '{quant.width_gradient}')")
    if quant.row_scale != "float16" and (
            quant.where != "output" or quant.range not in SYMMETRIC_RANGES):
        raise ValueError(f"'quant.where' needs to be output and "
                         f"'quant.range' one of "
                         f"{', '.join(SYMMETRIC_RANGES)} for "
                         f"'quant.row_scale' = {quant.row_scale} "
                         f"(got {quant.where} and {quant.range})")


def check_budget(quant: NodeQuantConfig) -> None:
    r"""One budget at most, of those that the recipe knows."""
    names = ("bytes_per_node", "target_bytes", "target_compression")
    given = [name for name in names if getattr(quant, name) is not None]
    for name in given:
        check_number(f"quant.{name}", getattr(quant, name), 0,
                     open_low=True, integer=name == "target_bytes")
    rows = (quant.bytes_per_user, quant.bytes_per_item)
    if (rows[0] is None) != (rows[1] is None):
        raise ValueError("'quant.bytes_per_user' and 'quant.bytes_per_"
                         "item' need each other (got one of them)")
    if rows[0] is not None:
        given.append("bytes_per_user")
        for name in ("bytes_per_user", "bytes_per_item"):
            check_number(f"quant.{name}", getattr(quant, name), 0,
                         open_low=True)
    if len(given) > 1:
        raise ValueError(f"a budget needs to be given once (got "
                         f"{' and '.join('quant.' + n for n in given)})")
    allowed = {"transform": 4, "node_aware": 3,
               "learned": 3}.get(quant.recipe, 0)
    for name in given:
        if (*names, "bytes_per_user").index(name) >= allowed:
            raise ValueError(f"'quant.{name}' is no setting of recipe "
                             f"'{quant.recipe}'")
    choices = ALLOCATIONS_OF.get(quant.recipe, ALLOCATIONS[:-1])
    if quant.allocation not in choices:
        raise ValueError(f"'quant.allocation' needs to be one of "
                         f"{', '.join(choices)} for {quant.recipe} "
                         f"(got '{quant.allocation}')")
    if given and quant.allocation == "uniform":
        raise ValueError(f"'quant.{given[0]}' needs widths that differ: "
                         f"uniform rows have 'quant.axes' times "
                         f"'quant.bits' bits")


def check_learning(quant: NodeQuantConfig) -> None:
    r"""What is for learned widths alone."""
    check_choice("quant.alpha_start", quant.alpha_start, ALPHA_STARTS)
    check_number("quant.learn_steps", quant.learn_steps, 0, integer=True)
    check_number("quant.dual_rate", quant.dual_rate, 0, open_low=True)
    if quant.recipe == "learned":
        if quant.min_bits == quant.max_bits:
            raise ValueError(f"'quant.min_bits' needs to be below "
                             f"'quant.max_bits' for learned "
                             f"(got {quant.min_bits})")
        return
    check_unused(quant, "alpha_start")
    if quant.recipe == "transform" and quant.allocation == "learned":
        return
    check_unused(quant, "learn_steps", "dual_rate")


def check_graph(quant: NodeQuantConfig) -> None:
    r"""What quantizers with a graph go with."""
    check_choice("quant.interval", quant.interval, INTERVALS)
    check_choice("quant.gradient", quant.gradient, GRADIENTS)
    check_number("quant.interval_mix", quant.interval_mix, 0, 1)
    check_number("quant.relation_weight", quant.relation_weight, 0, 1)
    if quant.recipe in ("float", "transform"):
        check_unused(quant, "interval", "gradient")
    if quant.interval == "row":
        check_unused(quant, "interval_mix", why="interval 'row'")
    elif quant.range == "learned":
        raise ValueError("'quant.interval' needs to be row for "
                         "quant.range=learned, whose intervals are "
                         "trained (got 'message_passing')")
    elif quant.range not in ("symmetric", "minmax"):
        raise ValueError(f"'quant.range' needs to be symmetric or minmax "
                         f"for 'quant.interval' = message_passing "
                         f"(got '{quant.range}')")
    if quant.uses_graph:
        check_unused(quant, "estimator", "width_gradient", "row_scale",
                     why="a quantizer that knows of the graph")
    if quant.gradient == "ste":
        check_unused(quant, "relation_weight", why="gradient 'ste'")


def check_unused(quant: NodeQuantConfig, *names: str, why: str = "") -> None:
    r"""What would be set for nothing is a mistake."""
    why = why or f"recipe '{quant.recipe}'"
    for name in changed(quant, *names):
        raise ValueError(f"'quant.{name}' is no setting of {why}")
