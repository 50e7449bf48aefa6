from __future__ import annotations

import dataclasses
import math

import pytest

from pyg_nodequant.config import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    NodeQuantConfig,
    OptimizerConfig,
    TrainerConfig,
    as_dict,
    check_choice,
    check_number,
)

CONFIGS = [DataConfig, ExperimentConfig, ModelConfig, NodeQuantConfig,
           OptimizerConfig, TrainerConfig]


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
    assert set(values) == {"seed", "data", "model", "quant", "optimizer",
                           "trainer"}


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
     "of node_aware, paper, uniform, float (got 'best')"),
    (NodeQuantConfig, dict(where="middle"), "'quant.where' needs to be one "
     "of output, input, both (got 'middle')"),
    (NodeQuantConfig, dict(range="x"), "'quant.range' needs to be one of "
     "symmetric, minmax, learned (got 'x')"),
    (NodeQuantConfig, dict(max_bits=0),
     "'quant.max_bits' needs to be an integer in [1, 8] (got 0)"),
    (NodeQuantConfig, dict(max_bits=99),
     "'quant.max_bits' needs to be an integer in [1, 8] (got 99)"),
    (NodeQuantConfig, dict(min_bits=0),
     "'quant.min_bits' needs to be an integer in [1, 8] (got 0)"),
    (NodeQuantConfig, dict(min_bits=5, max_bits=4),
     "'quant.min_bits' needs to be at most 'quant.max_bits' = 4 (got 5)"),
    (NodeQuantConfig, dict(bits=9),
     "'quant.bits' needs to be an integer in [1, 8] (got 9)"),
    (NodeQuantConfig, dict(target_bits=0.5),
     "'quant.target_bits' needs to be a number in [1, 8] (got 0.5)"),
    (NodeQuantConfig, dict(target_bits=3, max_bits=2),
     "'quant.target_bits' needs to be a number in [1, 2] (got 3)"),
    (NodeQuantConfig, dict(lambda_storage=-1e-4), "'quant.lambda_storage' "
     "needs to be a number of at least 0 (got -0.0001)"),
    (NodeQuantConfig, dict(sensitivity_power=5), "'quant.sensitivity_power' "
     "needs to be a number in [0, 4] (got 5)"),
    (NodeQuantConfig, dict(distill_weight=-1), "'quant.distill_weight' "
     "needs to be a number of at least 0 (got -1)"),
    (NodeQuantConfig, dict(bpr_weight=-1), "'quant.bpr_weight' needs to be "
     "a number of at least 0 (got -1)"),
    (NodeQuantConfig, dict(temperature=0),
     "'quant.temperature' needs to be a number above 0 (got 0)"),
    (NodeQuantConfig, dict(distill_users=0), "'quant.distill_users' needs "
     "to be an integer of at least 1 (got 0)"),
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


@pytest.mark.parametrize("recipe, bits, bounds", [
    ("uniform", 1, (1, 4)), ("uniform", 3, (2, 4)), ("uniform", 8, (2, 8)),
    ("paper", 8, (2, 4))])
def test_width_bounds(recipe, bits, bounds):
    config = NodeQuantConfig(recipe, bits=bits, min_bits=2, max_bits=4)
    assert config.width_bounds == bounds


def test_target_bits_matter_to_node_aware_only():
    assert NodeQuantConfig(recipe="paper", target_bits=99).target_bits == 99
    assert OptimizerConfig(l2=None).l2 is None
