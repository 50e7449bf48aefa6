from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
from omegaconf import OmegaConf

from pyg_nodequant.app.train import EPILOG, hydra_argv, parse, remove_unused
from pyg_nodequant.config import RECIPES, ExperimentConfig

METRICS = {
    "test": {"recall@20": 0.19, "ndcg@20": 0.1},
    "val": {"ndcg@20": 0.3},
    "float": {"test": {"recall@20": 0.2, "ndcg@20": 0.1}},
    "storage": {"file_bytes": 1, "embedding_bytes": 1, "float_bytes": 256,
                "bytes_per_node": 1.0, "bits_per_parameter": 2.25,
                "mean_bit_width": 2.0, "compression_ratio": 14.0},
}
SMALL = ["data.num_users=20", "data.num_items=30",
         "data.num_interactions=200"]


@pytest.fixture
def experiments(monkeypatch):
    """Replaces training; lists the settings and folders it was called with.

    The second value holds an error by the seed of the job that raises it.
    """
    calls = []

    def run_experiment(config, interactions, run_dir):
        calls.append((config, interactions, run_dir))
        if config.seed in calls_fail:
            raise calls_fail[config.seed]
        (run_dir / "model.nq").write_bytes(b"packed")
        return METRICS

    calls_fail: dict[int, Exception] = {}
    stub = ModuleType("pyg_nodequant.training.experiment")
    stub.run_experiment = run_experiment
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    return calls, calls_fail


def test_cfg_needs_no_torch_and_writes_nothing(nodequant, tmp_path):
    outcome = nodequant("train", "--cfg", "job", "quant.bits=4")
    assert outcome.code == 0
    config = OmegaConf.create(outcome.out)
    assert config.quant.bits == 4
    assert set(config) == {"seed", "data", "model", "loss", "quant",
                           "optimizer", "trainer"}
    assert not list(tmp_path.iterdir())


def test_run(nodequant, experiments, tmp_path):
    outcome = nodequant("train", "quant=uniform", *SMALL, "seed=3")
    assert (outcome.code, outcome.err) == (0, "")
    [(config, interactions, run_dir)] = experiments[0]
    assert isinstance(config, ExperimentConfig)
    assert (config.seed, config.quant.recipe) == (3, "uniform")
    assert interactions.num_users == 20
    lines = outcome.out.splitlines()
    assert lines[0].startswith("data: synthetic: 20 users, 30 items, ")
    assert lines[-1] == f"run directory: {run_dir}"
    assert run_dir.parent == tmp_path / "runs"
    assert "Recall@20" in outcome.out and "-5.0 %" in outcome.out
    assert f"packed file: {run_dir / 'model.nq'}" in lines
    [command] = [line for line in lines if line.startswith("ask it: ")]
    words = shlex.split(command)[2:]
    assert words[:3] == ["nodequant", "recommend", str(run_dir / "model.nq")]
    assert int(words[4]) in interactions.user_ids

    # What belongs to the run, and nothing of Hydra's.
    assert sorted(os.listdir(run_dir)) == ["config.yaml", "model.nq"]
    saved = OmegaConf.load(run_dir / "config.yaml")
    assert saved.quant.recipe == "uniform" and "hydra" not in saved


def test_run_dir(nodequant, experiments, tmp_path):
    outcome = nodequant("train", *SMALL, "hydra.run.dir=here/it/is")
    assert outcome.out.endswith(f"run directory: {tmp_path}/here/it/is\n")


def test_sweep(nodequant, experiments, tmp_path):
    outcome = nodequant("train", "-m", "seed=0,1", *SMALL,
                        "hydra.sweep.dir=swept")
    assert (outcome.code, outcome.err) == (0, "")
    assert [call[0].seed for call in experiments[0]] == [0, 1]
    assert sorted(os.listdir(tmp_path / "swept")) == ["0", "1",
                                                      "multirun.yaml"]
    lines = outcome.out.splitlines()
    assert lines[-1] == f"run directory: {tmp_path / 'swept'}"
    assert lines[-4].split()[0] == "job"
    assert lines[-3].startswith("seed=0") and lines[-2].startswith("seed=1")


def test_sweep_goes_on_after_a_failure(nodequant, experiments, tmp_path):
    experiments[1][0] = ValueError("too cold")
    outcome = nodequant("train", "-m", "seed=0,1", *SMALL,
                        "hydra.sweep.dir=swept")
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        "nodequant: error: too cold",
        "nodequant: error: 1 of 2 jobs failed, the first because: too cold"]
    assert sorted(os.listdir(tmp_path / "swept")) == ["1", "multirun.yaml"]


def test_sweep_stops_at_a_mistake_of_ours(nodequant, experiments):
    experiments[1][0] = ImportError("no name", name="pyg_nodequant.x")
    outcome = nodequant("train", "-m", "seed=0,1", *SMALL,
                        "hydra.sweep.dir=swept")
    assert outcome.code == 1 and "Traceback" in outcome.err


def test_sweep_is_checked_before_it_starts(refused, experiments, tmp_path):
    assert "'quant.bits'" in refused("train", "-m", "quant.bits=2,99", *SMALL)
    assert not experiments[0]
    assert not list(tmp_path.iterdir())


def test_config_dir(nodequant, experiments, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(
        "# @package _global_\nseed: 9\n")
    outcome = nodequant("train", "--config-dir", "mine", "experiment=own",
                        *SMALL)
    assert outcome.code == 0
    assert experiments[0][0][0].seed == 9


def test_example_experiment(nodequant, experiments):
    assert nodequant("train", "experiment=quick").code == 0
    config = experiments[0][0][0]
    assert config.data.num_users == 200
    assert config.trainer.max_epochs == 5


@pytest.mark.parametrize("argv, line", [
    (["quant.max_bits=0"], "'quant.max_bits' needs to be an integer in "
     "[1, 8] (got 0)"),
    (["quant.max_bits=99"], "[1, 8] (got 99)"),
    (["quant.min_bits=5", "quant.max_bits=3"],
     "'quant.min_bits' needs to be at most 'quant.max_bits' = 3 (got 5)"),
    (["quant.lambda_storage=-1"], "'quant.lambda_storage' needs to be a "
     "number of at least 0 (got -1.0)"),
    (["quant.bogus=1"], "unknown option 'quant.bogus' ('quant' has "),
    (["bogus"], "cannot read 'bogus'"),
    (["--config-dir", "none"], "existing folder (got 'none')"),
    (["--cfg", "nothing"], "invalid choice: 'nothing'"),
    (["--config-name", "none"], "'none'"),
    (["--cfg", "job", "--package", "no"], "'--package' needs to be one of "),
    (["--cfg", "job", "--package", "data.root"], "(got 'data.root')"),
    (["--package", "data"], "add --cfg job"),
    (["--resolve"], "add --cfg job"),
    (["-m", "seed=interval(0,1)"], "a sweep needs a list of values"),
    (["data=csv"], "'data.path'"),
    (["data=csv", "data.path=none.csv"], "none.csv"),
    (["data=csv", "data.path=empty.csv"], "empty.csv"),
    (["data=csv", "data.path=a.csv", "data.user_column=who"], "'who'"),
    (["data=csv", "data.path=a.csv", "data.rating_column=stars",
      "data.min_rating=3"], "a.csv"),
    (["data=lightgcn_txt", "data.path=none"], "none"),
    (["data=lightgcn_txt", "data.path=txt"], "-4"),
    (["hydra.run.dir=a.csv/run"],
     "the run directory cannot be made: not a directory:"),
    (["hydra.run.dir=a.csv"], "the run directory cannot be "),
])
def test_bad_input(refused, experiments, tmp_path, argv, line):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "a.csv").write_text("user_id,item_id,stars\n1,2,nan\n3,4,5\n")
    (tmp_path / "txt").mkdir()
    (tmp_path / "txt" / "train.txt").write_text("0 1 2\n1 3 -4\n")
    (tmp_path / "txt" / "test.txt").write_text("0 3\n")
    before = sorted(tmp_path.rglob("*"))
    assert line in refused("train", *argv)
    assert not experiments[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_failed_training_leaves_nothing_behind(refused, experiments,
                                               tmp_path):
    experiments[1][0] = ValueError("cannot train")
    assert refused("train", *SMALL) == "cannot train"
    assert not list(tmp_path.iterdir())


def test_what_was_there_stays(tmp_path):
    old = tmp_path / "old"
    (old / "run").mkdir(parents=True)
    remove_unused(old / "run", {tmp_path, old, old / "run"})
    assert (old / "run").is_dir()
    (old / "run" / "config.yaml").touch()
    remove_unused(old / "run", {tmp_path, old})
    assert old.is_dir() and not (old / "run").exists()
    (old / "run").mkdir()
    (old / "run" / "history.csv").touch()
    remove_unused(old / "run", {tmp_path, old})
    assert (old / "run" / "history.csv").exists()
    remove_unused(tmp_path / "never", set())


def test_unwritable_folder(refused, experiments, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    assert "cannot be made" in refused("train", f"hydra.run.dir={folder}/a")
    assert "cannot be written" in refused("train", f"hydra.run.dir={folder}")


def test_help_names_the_choices():
    from pyg_nodequant.data import DATA_NAMES

    text = EPILOG.replace("\n       ", "")
    assert f"data={'|'.join(DATA_NAMES)}\n" in text
    choices = text.split("quant=")[1].splitlines()[0].split("|")
    assert set(choices) == {*RECIPES, "axes"}  # one file more than recipes


def test_hydra_gets_flags_before_overrides():
    options = parse(["a=1", "--cfg", "job", "b=2", "--resolve", "-cd", "x"])
    assert hydra_argv(options) == ["--cfg=job", "--config-dir=x",
                                   "--config-name=config", "--resolve", "a=1",
                                   "b=2"]


def test_whole_job(nodequant, tmp_path):
    """From data to answers, with nothing replaced."""
    pytest.importorskip("pyg_nodequant.training.experiment")
    outcome = nodequant("train", "experiment=quick", "trainer.threads=1",
                        "trainer.progress=false")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    [distortion] = [x for x in lines if x.startswith("score distortion  KL ")]
    assert "quadratic" in distortion and "bound at the same" in distortion
    run_dir = Path(lines[-1].removeprefix("run directory: "))
    assert set(os.listdir(run_dir)) >= {
        "config.yaml", "history.csv", "metrics.json", "model.nq",
        "model.safetensors"}
    [command] = [line for line in lines if line.startswith("ask it: ")]
    answer = nodequant(*shlex.split(command)[3:])
    assert answer.code == 0
    assert len(answer.out.splitlines()) >= 22
    measured = nodequant("evaluate", run_dir, "--json")
    assert measured.code == 0
