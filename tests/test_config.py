from __future__ import annotations

import dataclasses
import math

import pytest

from pyg_nodequant.config import (
    DataConfig,
    ExperimentConfig,
    LossConfig,
    ModelConfig,
    NodeQuantConfig,
    OptimizerConfig,
    TrainerConfig,
    as_dict,
    check_choice,
    check_number,
)

CONFIGS = [DataConfig, ExperimentConfig, LossConfig, ModelConfig,
           NodeQuantConfig, OptimizerConfig, TrainerConfig]


@pytest.mark.parametrize("cls", CONFIGS)
def test_defaults_are_valid_and_frozen(cls):
    config = cls()
    assert config == cls() == cls(**{
        f.name: getattr(config, f.name) for f in dataclasses.fields(cls)})
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(cls)[0].name, 1)


def test_as_dict():
    values = as_dict(ExperimentConfig(seed=3))
    assert values["seed"] == 3
    assert values["quant"]["max_bits"] == 8
    assert set(values) == {"seed", "data", "model", "quant", "loss",
                           "optimizer", "trainer"}


@pytest.mark.parametrize("value", [0, 1, 3.0, 8, 1e-3])
def test_numbers_that_are_allowed(value):
    check_number("x", value, 0, 8)


@pytest.mark.parametrize("value", [
    -1, 8.5, math.nan, math.inf, -math.inf, True, "3", None])
def test_numbers_that_are_not(value):
    with pytest.raises(ValueError, match=rf"^'x' needs to be a number in "
                       rf"\[0, 8\] \(got {value}\)$"):
        check_number("x", value, 0, 8)


@pytest.mark.parametrize("args, kwargs, message", [
    ((1.5, 0, 8), dict(integer=True), "an integer in [0, 8] (got 1.5)"),
    ((4.0, 0, 8), dict(integer=True), "an integer in [0, 8] (got 4.0)"),
    ((0, 0), dict(open_low=True), "a number above 0 (got 0)"),
    ((0, 0, 8), dict(open_low=True), "a number in (0, 8] (got 0)"),
    ((-1, 0), dict(integer=True), "an integer of at least 0 (got -1)"),
    ((math.nan, ), {}, "a number (got nan)"),
])
def test_messages(args, kwargs, message):
    with pytest.raises(ValueError) as error:
        check_number("x", *args, **kwargs)
    assert str(error.value) == f"'x' needs to be {message}"


def test_choices():
    check_choice("x", "a", ("a", "b"))
    with pytest.raises(ValueError) as error:
        check_choice("x", "c", ("a", "b"))
    assert str(error.value) == "'x' needs to be one of a, b (got 'c')"


@pytest.mark.parametrize("cls, kwargs, message", [
    (NodeQuantConfig, dict(recipe="best"), "'quant.recipe' needs to be one "
     "of node_aware, learned, transform, paper, uniform, float "
     "(got 'best')"),
    (NodeQuantConfig, dict(where="middle"), "'quant.where' needs to be one "
     "of output, input, both (got 'middle')"),
    (NodeQuantConfig, dict(range="x"), "'quant.range' needs to be one of "
     "symmetric, minmax, learned, meanstd, mse (got 'x')"),
    (NodeQuantConfig, dict(estimator="x"), "'quant.estimator' needs to be "
     "one of ste, lsq, noise (got 'x')"),
    (NodeQuantConfig, dict(width_gradient="x"), "'quant.width_gradient' "
     "needs to be one of levels, interpolated (got 'x')"),
    (NodeQuantConfig, dict(row_scale="x"), "'quant.row_scale' needs to be "
     "one of float16, log8, group (got 'x')"),
    (NodeQuantConfig, dict(estimator="lsq"), "'quant.range' needs to be "
     "learned for 'quant.estimator' = lsq, which scales the gradients of "
     "ranges (got 'symmetric')"),
    (NodeQuantConfig, dict(width_gradient="interpolated"),
     "'quant.width_gradient' needs to be levels for recipe 'node_aware', "
     "whose widths have no gradient (got 'interpolated')"),
    (NodeQuantConfig, dict(recipe="float", width_gradient="interpolated"),
     "'quant.width_gradient' needs to be levels for recipe 'float', whose "
     "widths have no gradient (got 'interpolated')"),
    (NodeQuantConfig, dict(recipe="transform", estimator="noise"),
     "'quant.estimator' needs to be ste for recipe 'transform' "
     "(got 'noise')"),
    (NodeQuantConfig, dict(recipe="float", row_scale="log8"),
     "'quant.row_scale' needs to be float16 for recipe 'float' "
     "(got 'log8')"),
    (NodeQuantConfig, dict(row_scale="log8", range="meanstd"),
     "'quant.where' needs to be output and 'quant.range' one of symmetric, "
     "mse for 'quant.row_scale' = log8 (got output and meanstd)"),
    (NodeQuantConfig, dict(row_scale="group", where="both"),
     "'quant.where' needs to be output and 'quant.range' one of symmetric, "
     "mse for 'quant.row_scale' = group (got both and symmetric)"),
    (NodeQuantConfig, dict(max_bits=0),
     "'quant.max_bits' needs to be an integer in [1, 8] (got 0)"),
    (NodeQuantConfig, dict(max_bits=99),
     "'quant.max_bits' needs to be an integer in [1, 8] (got 99)"),
    (NodeQuantConfig, dict(min_bits=-1),
     "'quant.min_bits' needs to be an integer in [0, 8] (got -1)"),
    *[(NodeQuantConfig, dict(min_bits=0, **options),
       f"'quant.min_bits' needs to be at least 1 but for recipe node_aware "
       f"with where=output and range=symmetric (got 0 for "
       f"{options.get('recipe', 'node_aware')} with "
       f"where={options.get('where', 'output')} and "
       f"range={options.get('range', 'symmetric')})")
      for options in (dict(recipe="paper"), dict(recipe="uniform"),
                      dict(recipe="transform"), dict(recipe="float"),
                      dict(where="input"), dict(where="both"),
                      dict(range="minmax"), dict(range="learned"))],
    (NodeQuantConfig, dict(min_bits=5, max_bits=4),
     "'quant.min_bits' needs to be at most 'quant.max_bits' = 4 (got 5)"),
    (NodeQuantConfig, dict(bits=9),
     "'quant.bits' needs to be an integer in [1, 8] (got 9)"),
    (NodeQuantConfig, dict(target_bits=0.5),
     "'quant.target_bits' needs to be a number in [1, 8] (got 0.5)"),
    (NodeQuantConfig, dict(target_bits=3, max_bits=2),
     "'quant.target_bits' needs to be a number in [1, 2] (got 3)"),
    (NodeQuantConfig, dict(allocation="x"), "'quant.allocation' needs to be "
     "one of sensitivity, degree, uniform, shuffled, learned (got 'x')"),
    (NodeQuantConfig, dict(axes=0),
     "'quant.axes' needs to be an integer in [1, 4096] (got 0)"),
    (NodeQuantConfig, dict(axes=4097),
     "'quant.axes' needs to be an integer in [1, 4096] (got 4097)"),
    (NodeQuantConfig, dict(min_bytes=-1),
     "'quant.min_bytes' needs to be an integer in [0, 255] (got -1)"),
    (NodeQuantConfig, dict(min_bytes=1.5),
     "'quant.min_bytes' needs to be an integer in [0, 255] (got 1.5)"),
    (NodeQuantConfig, dict(scale_bits=5),
     "'quant.scale_bits' needs to be 4 or 8 (got 5)"),
    (NodeQuantConfig, dict(recipe="transform", where="input"),
     "'quant.where' and 'quant.range' need to be output and symmetric for "
     "transform (got input and symmetric)"),
    (NodeQuantConfig, dict(lambda_storage=-1e-4), "'quant.lambda_storage' "
     "needs to be a number of at least 0 (got -0.0001)"),
    (NodeQuantConfig, dict(sensitivity_power=5), "'quant.sensitivity_power' "
     "needs to be a number in [0, 4] (got 5)"),
    (NodeQuantConfig, dict(distill_weight=0, bpr_weight=0, finetune_steps=9),
     "'quant.distill_weight' or 'quant.bpr_weight' needs to be above 0 for "
     "the 9 'quant.finetune_steps' (got 0 for both)"),
    (NodeQuantConfig, dict(distill_weight=-1), "'quant.distill_weight' "
     "needs to be a number of at least 0 (got -1)"),
    (NodeQuantConfig, dict(bpr_weight=-1), "'quant.bpr_weight' needs to be "
     "a number of at least 0 (got -1)"),
    (NodeQuantConfig, dict(temperature=0),
     "'quant.temperature' needs to be a number above 0 (got 0)"),
    (NodeQuantConfig, dict(distill_users=0), "'quant.distill_users' needs "
     "to be an integer of at least 1 (got 0)"),
    (NodeQuantConfig, dict(distillation="x"), "'quant.distillation' needs to "
     "be one of listwise, ranking, margin, mse (got 'x')"),
    (NodeQuantConfig, dict(distill_items=-1), "'quant.distill_items' needs "
     "to be an integer of at least 0 (got -1)"),
    (NodeQuantConfig, dict(distill_items=1), "'quant.distill_items' needs to "
     "be 0, for all items, or at least 2 (got 1)"),
    (NodeQuantConfig, dict(distillation="ranking", distill_items=9),
     "'quant.distill_items' is a setting of 'quant.distillation' = listwise "
     "(got 'ranking')"),
    (NodeQuantConfig, dict(teacher=""),
     "'quant.teacher' needs to be null or a path (got '')"),
    (NodeQuantConfig, dict(teacher=3),
     "'quant.teacher' needs to be null or a path (got 3)"),
    (NodeQuantConfig, dict(teacher="x", distill_weight=0), "'quant.teacher' "
     "teaches node_aware nothing at 'quant.distill_weight' = 0"),
    (NodeQuantConfig, dict(finetune_steps=-1), "'quant.finetune_steps' "
     "needs to be an integer of at least 0 (got -1)"),
    (NodeQuantConfig, dict(finetune_lr=0),
     "'quant.finetune_lr' needs to be a number above 0 (got 0)"),
    (ModelConfig, dict(embedding_dim=0), "'model.embedding_dim' needs to be "
     "an integer in [1, 4096] (got 0)"),
    (ModelConfig, dict(num_layers=-1), "'model.num_layers' needs to be an "
     "integer in [0, 16] (got -1)"),
    (OptimizerConfig, dict(lr=0),
     "'optimizer.lr' needs to be a number above 0 (got 0)"),
    (OptimizerConfig, dict(l2=-1),
     "'optimizer.l2' needs to be a number of at least 0 (got -1)"),
    (TrainerConfig, dict(max_epochs=0), "'trainer.max_epochs' needs to be "
     "an integer of at least 1 (got 0)"),
    (TrainerConfig, dict(batch_size=0), "'trainer.batch_size' needs to be "
     "an integer of at least 1 (got 0)"),
    (TrainerConfig, dict(logger="x"), "'trainer.logger' needs to be one of "
     "csv, tensorboard (got 'x')"),
    (DataConfig, dict(split="x"),
     "'data.split' needs to be one of random, time (got 'x')"),
    (DataConfig, dict(test_fraction=1.0), "'data.test_fraction' needs to be "
     "a number in [0, 0.9] (got 1.0)"),
    (DataConfig, dict(num_users=0), "'data.num_users' needs to be an "
     "integer of at least 1 (got 0)"),
    (DataConfig, dict(min_rating=math.nan),
     "'data.min_rating' needs to be a number (got nan)"),
    (ExperimentConfig, dict(seed=-1),
     "'seed' needs to be an integer in [0, 2.14748e+09] (got -1)"),
])
def test_wrong_values(cls, kwargs, message):
    with pytest.raises(ValueError) as error:
        cls(**kwargs)
    assert str(error.value) == message


BUDGETS = {"bytes_per_node": 9.5, "target_bytes": 3000,
           "target_compression": 24}


@pytest.mark.parametrize("recipe", ["transform", "node_aware"])
@pytest.mark.parametrize("name, value, kind", [
    ("bytes_per_node", 0, "a number above 0"),
    ("bytes_per_node", math.inf, "a number above 0"),
    ("target_compression", -2.0, "a number above 0"),
    ("target_compression", math.nan, "a number above 0"),
    ("target_bytes", 0, "an integer above 0"),
    ("target_bytes", 99.5, "an integer above 0"),
])
def test_wrong_budgets(name, value, kind, recipe):
    with pytest.raises(ValueError) as error:
        NodeQuantConfig(recipe, **{name: value})
    assert str(error.value) == f"'quant.{name}' needs to be {kind} " \
        f"(got {value})"


@pytest.mark.parametrize("kwargs, message", [
    (dict(bytes_per_user=0, bytes_per_item=9),
     "'quant.bytes_per_user' needs to be a number above 0 (got 0)"),
    (dict(bytes_per_user=9, bytes_per_item=-1),
     "'quant.bytes_per_item' needs to be a number above 0 (got -1)"),
    (dict(bytes_per_user=9), "'quant.bytes_per_user' and 'quant.bytes_per_"
     "item' need each other (got one of them)"),
    (dict(bytes_per_item=9), "'quant.bytes_per_user' and 'quant.bytes_per_"
     "item' need each other (got one of them)"),
    (dict(bytes_per_node=9, target_bytes=99), "a budget needs to be given "
     "once (got quant.bytes_per_node and quant.target_bytes)"),
    (dict(target_compression=24, bytes_per_user=9, bytes_per_item=9),
     "a budget needs to be given once (got quant.target_compression and "
     "quant.bytes_per_user)"),
    (BUDGETS, "a budget needs to be given once (got quant.bytes_per_node and "
     "quant.target_bytes and quant.target_compression)"),
    (dict(allocation="degree"), "'quant.allocation' needs to be one of "
     "sensitivity, uniform, shuffled, learned for transform (got 'degree')"),
    (dict(allocation="uniform", bytes_per_node=9), "'quant.bytes_per_node' "
     "needs widths that differ: uniform rows have 'quant.axes' times "
     "'quant.bits' bits"),
])
def test_wrong_settings_of_transform(kwargs, message):
    with pytest.raises(ValueError) as error:
        NodeQuantConfig("transform", **kwargs)
    assert str(error.value) == message


@pytest.mark.parametrize("recipe, name", [
    *((recipe, name) for recipe in ("paper", "uniform", "float")
      for name in (*BUDGETS, "bytes_per_user")),
    ("node_aware", "bytes_per_user")])
def test_recipes_without_such_a_budget(recipe, name):
    given = {name: BUDGETS.get(name, 9)}
    if name == "bytes_per_user":
        given["bytes_per_item"] = 9
    with pytest.raises(ValueError) as error:
        NodeQuantConfig(recipe, **given)
    assert str(error.value) == f"'quant.{name}' is no setting of recipe " \
        f"'{recipe}'"


def test_node_aware_has_no_uniform_allocation():
    with pytest.raises(ValueError) as error:
        NodeQuantConfig("node_aware", allocation="uniform")
    assert str(error.value) == (
        "'quant.allocation' needs to be one of sensitivity, degree, shuffled "
        "for node_aware (got 'uniform')")
    NodeQuantConfig("node_aware", allocation="degree", bytes_per_node=9)


@pytest.mark.parametrize("recipe", ["transform", "node_aware", "learned"])
@pytest.mark.parametrize("kwargs, expected", [
    ({}, None), ({"bytes_per_node": 9.5}, 1928), ({"target_bytes": 777}, 777),
    ({"target_compression": 24}, 2165),
    ({"target_compression": 25.6}, 2030)])
def test_budgets_in_bytes(kwargs, expected, recipe):
    # 203 nodes: what does not come out even is cut off.
    assert NodeQuantConfig(recipe, **kwargs).budget_bytes(203) == expected


def test_bytes_of_users_and_items_are_no_single_budget():
    quant = NodeQuantConfig("transform", bytes_per_user=7.5, bytes_per_item=9)
    assert quant.budget_bytes(203) is None


@pytest.mark.parametrize("recipe, bits, bounds", [
    ("uniform", 1, (1, 4)), ("uniform", 3, (2, 4)), ("uniform", 8, (2, 8)),
    ("paper", 8, (2, 4))])
def test_width_bounds(recipe, bits, bounds):
    config = NodeQuantConfig(recipe, bits=bits, min_bits=2, max_bits=4)
    assert config.width_bounds == bounds


@pytest.mark.parametrize("recipe", ["paper", "float"])
@pytest.mark.parametrize("given", [
    {"distillation": "margin"}, {"distill_items": 9}, {"teacher": "x"}])
def test_recipes_that_distil_nothing(recipe, given):
    with pytest.raises(ValueError) as error:
        NodeQuantConfig(recipe, **given)
    assert str(error.value) == f"'quant.{next(iter(given))}' is no setting " \
        f"of recipe '{recipe}', which distils nothing"


def test_the_rows_to_start_from_need_no_distillation():
    quant = NodeQuantConfig("transform", teacher="x", distill_weight=0)
    assert quant.teacher == "x"


@pytest.mark.parametrize("kwargs, message", [
    (dict(alpha_start="x"), "'quant.alpha_start' needs to be one of "
     "sensitivity, degree (got 'x')"),
    (dict(learn_steps=-1), "'quant.learn_steps' needs to be an integer of at "
     "least 0 (got -1)"),
    (dict(dual_rate=0),
     "'quant.dual_rate' needs to be a number above 0 (got 0)"),
    (dict(min_bits=2, max_bits=2), "'quant.min_bits' needs to be below "
     "'quant.max_bits' for learned (got 2)"),
    (dict(allocation="degree"), "'quant.allocation' needs to be one of "
     "sensitivity, shuffled for learned (got 'degree')"),
    (dict(target_bits=9),
     "'quant.target_bits' needs to be a number in [1, 8] (got 9)"),
    (dict(bytes_per_user=9, bytes_per_item=9),
     "'quant.bytes_per_user' is no setting of recipe 'learned'"),
])
def test_wrong_settings_of_learned(kwargs, message):
    with pytest.raises(ValueError) as error:
        NodeQuantConfig("learned", **kwargs)
    assert str(error.value) == message


@pytest.mark.parametrize("recipe", ["node_aware", "paper", "uniform",
                                    "transform", "float"])
@pytest.mark.parametrize("kwargs", [dict(alpha_start="degree"),
                                    dict(learn_steps=7), dict(dual_rate=.5)])
def test_only_learned_learns(recipe, kwargs):
    with pytest.raises(ValueError) as error:
        NodeQuantConfig(recipe, **kwargs)
    assert str(error.value) == (f"'quant.{[*kwargs][0]}' is no setting of "
                                f"recipe '{recipe}'")


@pytest.mark.parametrize("recipe, choices", [
    ("node_aware", "sensitivity, degree, shuffled"),
    ("learned", "sensitivity, shuffled"),
    ("paper", "sensitivity, degree, uniform, shuffled")])
def test_learned_allocations_are_of_transform(recipe, choices):
    with pytest.raises(ValueError) as error:
        NodeQuantConfig(recipe, allocation="learned")
    assert str(error.value) == (
        f"'quant.allocation' needs to be one of {choices} for {recipe} "
        f"(got 'learned')")
    NodeQuantConfig("transform", allocation="learned", learn_steps=7,
                    dual_rate=.5)


@pytest.mark.parametrize("recipe, kwargs, message", [
    ("node_aware", dict(interval="x"), "'quant.interval' needs to be one of "
     "row, message_passing (got 'x')"),
    ("node_aware", dict(gradient="x"),
     "'quant.gradient' needs to be one of ste, relation (got 'x')"),
    ("node_aware", dict(interval="message_passing", interval_mix=1.5),
     "'quant.interval_mix' needs to be a number in [0, 1] (got 1.5)"),
    ("node_aware", dict(gradient="relation", relation_weight=-1),
     "'quant.relation_weight' needs to be a number in [0, 1] (got -1)"),
    ("node_aware", dict(interval_mix=.5),
     "'quant.interval_mix' is no setting of interval 'row'"),
    ("paper", dict(relation_weight=.5),
     "'quant.relation_weight' is no setting of gradient 'ste'"),
    ("paper", dict(interval="message_passing", range="learned"),
     "'quant.interval' needs to be row for quant.range=learned, whose "
     "intervals are trained (got 'message_passing')"),
    ("transform", dict(interval="message_passing"),
     "'quant.interval' is no setting of recipe 'transform'"),
    ("float", dict(gradient="relation"),
     "'quant.gradient' is no setting of recipe 'float'"),
])
def test_wrong_settings_of_the_graph(recipe, kwargs, message):
    with pytest.raises(ValueError) as error:
        NodeQuantConfig(recipe, **kwargs)
    assert str(error.value) == message


def test_intervals_of_the_graph_need_layers():
    quant = NodeQuantConfig(interval="message_passing")
    with pytest.raises(ValueError, match="'model.num_layers' needs to be at "
                       r"least 1 for quant.interval=message_passing"):
        ExperimentConfig(quant=quant, model=ModelConfig(num_layers=0))
    related = NodeQuantConfig(gradient="relation", range="learned")
    ExperimentConfig(quant=related, model=ModelConfig(num_layers=0))
    assert quant.uses_graph and related.uses_graph
    assert not NodeQuantConfig().uses_graph


def test_target_bits_matter_to_node_aware_only():
    assert NodeQuantConfig(recipe="paper", target_bits=99).target_bits == 99
    transform = NodeQuantConfig(recipe="transform", target_bits=99)
    assert transform.target_bits == 99
    assert OptimizerConfig(l2=None).l2 is None


def test_target_bits_do_not_matter_beside_a_budget():
    quant = NodeQuantConfig("node_aware", min_bits=3, bytes_per_node=9.5)
    assert quant.budget_bytes(203) == 1928


def test_cosine_scores_are_refused_where_they_cannot_be():
    loss = LossConfig(name="softmax")
    with pytest.raises(ValueError, match="'loss.name' needs to be bpr for "
                                         "quant.recipe=paper"):
        ExperimentConfig(loss=loss, quant=NodeQuantConfig(recipe="paper"))
    with pytest.raises(ValueError, match="'quant.where' needs to be output "
                                         "with loss.name=softmax"):
        ExperimentConfig(loss=loss, quant=NodeQuantConfig(where="input"))


@pytest.mark.parametrize("values", [
    {"name": "hinge"}, {"temperature": 0}, {"user_power": 2}, {"users": 0},
    {"items": -1}])
def test_loss_config_is_checked(values):
    with pytest.raises(ValueError, match=f"'loss.{next(iter(values))}' needs"):
        LossConfig(**values)
