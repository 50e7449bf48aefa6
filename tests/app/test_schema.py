from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace

import pytest
from omegaconf import OmegaConf

from pyg_nodequant.app.compose import compose_config
from pyg_nodequant.app.schema import freeze, to_experiment, unfrozen
from pyg_nodequant.config import (
    RECIPES,
    DataConfig,
    ExperimentConfig,
    LossConfig,
    NodeQuantConfig,
)


def test_unfrozen_twin_has_the_same_defaults():
    twin = unfrozen(ExperimentConfig)()
    plain = OmegaConf.to_container(OmegaConf.structured(twin))
    assert freeze(ExperimentConfig, plain) == ExperimentConfig()


def test_twin_needs_defaults():
    @dataclass(frozen=True)
    class Bad:
        name: str

    with pytest.raises(TypeError, match="'Bad.name' needs a default"):
        unfrozen(Bad)


def test_freeze_checks():
    with pytest.raises(ValueError, match=r"'quant.max_bits'.*\[1, 8\]"):
        freeze(ExperimentConfig, {"quant": {"max_bits": 99}})
    with pytest.raises(ValueError, match="unknown option 'quant.nope'"):
        freeze(ExperimentConfig, {"quant": {"nope": 1}})
    with pytest.raises(ValueError, match="'quant' needs to be a group"):
        freeze(ExperimentConfig, {"quant": 3})


def test_files_hold_the_defaults_of_the_dataclasses(monkeypatch):
    # A default is read in conf/ and documented in config.py: one value.
    monkeypatch.delenv("NODEQUANT_DATA", raising=False)
    assert to_experiment(compose_config([])) == ExperimentConfig()


@pytest.mark.parametrize("recipe", sorted({*RECIPES} - {"transform"}))
def test_recipes(recipe):
    config = to_experiment(compose_config([f"quant={recipe}"]))
    assert config.quant == NodeQuantConfig(recipe=recipe)


@pytest.mark.parametrize("name", ["transform", "axes"])
def test_files_of_transform(name):
    # They say what the float model learns, too.
    config = to_experiment(compose_config([f"quant={name}"]))
    assert config.quant.recipe == "transform"
    assert (config.quant.allocation == "uniform") == (name == "axes")
    assert config.loss == LossConfig(name="softmax")
    plain = replace(config, quant=NodeQuantConfig(), loss=LossConfig())
    assert plain == ExperimentConfig()
    other = compose_config(["loss=bpr", f"quant={name}",
                            "quant.finetune_steps=7"])
    changed = to_experiment(other)
    assert changed.loss == LossConfig()
    assert changed.quant == replace(config.quant, finetune_steps=7)
    quick = to_experiment(compose_config([f"quant={name}",
                                          "experiment=quick"]))
    assert quick.quant == replace(config.quant, finetune_steps=20)


def test_data_files(monkeypatch):
    from pyg_nodequant.data import DATA_NAMES

    monkeypatch.delenv("NODEQUANT_DATA", raising=False)
    for name in DATA_NAMES:
        config = to_experiment(compose_config([f"data={name}"]))
        assert config.data == DataConfig(name=name)


def test_data_root_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("NODEQUANT_DATA", "/somewhere")
    config = to_experiment(compose_config(["data=lastfm"]))
    assert config.data.root == "/somewhere"


def test_every_option_stands_in_a_file():
    # conf/ is where people look for options: none may be missing there.
    from importlib.resources import files

    root = files("pyg_nodequant.conf")
    written: set[str] = set()
    for group in ("data", "model", "loss", "quant", "optimizer", "trainer"):
        for file in root.joinpath(group).iterdir():
            if file.name.endswith(".yaml"):
                loaded = OmegaConf.create(file.read_text())
                written |= {f"{group}.{key}" for key in loaded
                            if key != "defaults"}
    known = {
        f"{group.name}.{item.name}"
        for group in fields(ExperimentConfig)
        if is_dataclass(value := getattr(ExperimentConfig(), group.name))
        for item in fields(value)
    }
    assert written == known
