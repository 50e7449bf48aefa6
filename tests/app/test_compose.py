from __future__ import annotations

import pytest

from pyg_nodequant.app.compose import ConfigError, compose_config, sweep_jobs


@pytest.mark.parametrize("override, line", [
    ("quant.max_bit=3",
     "unknown option 'quant.max_bit', did you mean 'quant.max_bits'? "
     "('quant' has recipe, where, min_bits, max_bits,"),
    ("lambda_storage=1", "did you mean 'quant.lambda_storage'?"),
    ("nothing=1", "unknown option 'nothing' (there are seed, data, model, "),
    ("quant=foo", "'quant' needs to be one of axes, float, learned, "
     "node_aware, paper, transform, uniform (got 'foo')"),
    ("data=mine", "'data' needs to be one of amazon_book, csv, "),
    ("experiment=mine", "'experiment' needs to be one of "),
    ("quant.max_bits=abc",
     "'quant.max_bits' needs to be an integer (got 'abc')"),
    ("quant.max_bits=2.5",
     "'quant.max_bits' needs to be an integer (got '2.5')"),
    ("quant.target_bits=x", "'quant.target_bits' needs to be a number"),
    ("trainer.progress=maybe", "'trainer.progress' needs to be true or false"),
    ("quant.max_bits=null", "'quant.max_bits' needs a value (got null)"),
    ("data.path=[a]", "'data.path' needs to be text (got '['a']')"),
    ("a=[", "cannot read 'a=['"),
    ("quant.max_bits", "cannot read 'quant.max_bits'"),
    ("quant.max_bits=2,4", "'quant.max_bits=2,4' gives several values: add "
     "-m"),
])
def test_errors(override, line):
    with pytest.raises(ConfigError) as error:
        compose_config([override])
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_config_dir(tmp_path):
    folder = tmp_path / "it's mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\nseed: 7\n")
    config = compose_config(["experiment=mine"], str(folder.parent))
    assert config.seed == 7
    with pytest.raises(ConfigError, match="'--config-dir' needs to be"):
        compose_config([], str(tmp_path / "nowhere"))


def test_primary_file_of_config_dir(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "defaults:\n  - config\n  - _self_\nseed: 7\n")
    for name in ("mine", "mine.yaml"):
        config = compose_config(["quant.bits=4"], str(tmp_path), name)
        assert (config.seed, config.quant.bits) == (7, 4)
        assert config.data.name == "synthetic"
    with pytest.raises(ConfigError, match="'none'"):
        compose_config([], str(tmp_path), "none")
    assert compose_config(["quant.bits=4"]).seed == 0


@pytest.mark.parametrize("text, line", [
    ("# @package _global_\nnope: 1\n", "unknown option 'nope' (there are "),
    ("# @package _global_\nquant: {bit: 1}\n", "unknown option 'quant.bit', "),
    ("# @package _global_\nseed: x\n", "'seed' needs to be an integer (got "),
    ("seed: 3\n", "needs '# @package _global_' as its first line"),
])
def test_errors_in_a_file(tmp_path, text, line):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        compose_config(["experiment=own"], str(tmp_path))
    assert line in str(error.value)
    assert str(error.value).endswith(" (in 'experiment/own')")
    assert "\n" not in str(error.value)


def test_sweep_jobs_are_the_product():
    jobs = sweep_jobs(["quant.bits=1,2", "seed=range(0,2)", "data=csv"])
    assert jobs == [[f"quant.bits={bits}", f"seed={seed}", "data=csv"]
                    for bits in (1, 2) for seed in (0, 1)]
    with pytest.raises(ConfigError, match="cannot read"):
        sweep_jobs(["a=["])
    with pytest.raises(ConfigError, match="at least one value .got 'seed=ra"):
        sweep_jobs(["seed=range(0,0)"])
    for override in ("seed=interval(0,1)", "quant=glob(*)"):
        with pytest.raises(ConfigError) as error:
            sweep_jobs([override])
        assert "key=1,2,3" in str(error.value)
        assert f"(got '{override}')" in str(error.value)
