r"""`nodequant train`: from a configuration to a run directory."""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from pyg_nodequant.app.arguments import ArgumentParser, UsageError
from pyg_nodequant.app.compose import (
    CONFIG_MODULE,
    VERSION_BASE,
    check_config_dir,
    compose_config,
    readable_errors,
    sweep_jobs,
)
from pyg_nodequant.app.errors import (
    USER_ERRORS,
    describe,
    is_own_bug,
    print_error,
)
from pyg_nodequant.app.results import (
    data_summary,
    distortion_line,
    next_command,
    results_table,
    sweep_table,
)
from pyg_nodequant.app.schema import register, to_experiment
from pyg_nodequant.runtime.atomic import write_atomic

EPILOG = """\
choose among files of conf/ (an option of each group; the first is default):
  data=synthetic|csv|lightgcn_txt|recbole|lastfm|gowalla|yelp2018|amazon_book|
       movielens_100k|movielens_1m
  quant=node_aware|learned|transform|axes|paper|uniform|float
  experiment=NAME

change single options (all of them: nodequant train --cfg job):
  data.path=FILE  data.user_column=NAME  data.item_column=NAME
  quant.target_bits=2.0  quant.lambda_storage=1e-4  quant.max_bits=8
  model.embedding_dim=64  optimizer.lr=0.01  trainer.max_epochs=1000
  trainer.device=auto  trainer.resume=PATH  seed=0  hydra.run.dir=PATH

examples:
  nodequant train
  nodequant train data=csv data.path=ratings.csv quant.target_bits=3
  nodequant train -m quant=paper quant.lambda_storage=1e-5,1e-4,1e-3
"""


def parse(argv: Sequence[str]) -> Namespace:
    r"""Returns the parsed arguments: the flags of Hydra that make sense here,
    and the overrides.
    """
    parser = ArgumentParser(
        "nodequant train",
        "Trains a model, measures it, and packs it into one small file.",
        EPILOG,
    )
    add = parser.add_argument
    add("overrides", nargs="*", metavar="KEY=VALUE", help="options to change")
    add("-m", "--multirun", action="store_true",
        help="one job for each combination of values: key=1,2,3")
    add("-c", "--cfg", choices=("job", "hydra", "all"),
        help="print the configuration instead of running")
    add("-p", "--package", help="the part of it that --cfg prints")
    add("--resolve", action="store_true",
        help="with --cfg: print values instead of references to them")
    add("-cd", "--config-dir", metavar="DIR",
        help="a folder with YAML files of your own, laid out like conf/")
    add("-cn", "--config-name", default="config", metavar="NAME",
        help="the primary file (default: config)")
    add("-i", "--info", metavar="WHAT",
        choices=("all", "config", "defaults", "defaults-tree", "plugins",
                 "searchpath"),
        help="how the configuration is put together")
    options = parser.parse_intermixed_args(argv)
    if options.cfg is None and (options.resolve
                                or options.package is not None):
        raise UsageError("'--package' and '--resolve' say what --cfg prints: "
                         "add --cfg job")
    return options


def hydra_argv(options: Namespace) -> list[str]:
    r"""Returns the arguments in the order that Hydra's parser takes them."""
    flags = []
    if options.multirun:
        flags.append("--multirun")
    for name in ("cfg", "package", "config_dir", "config_name", "info"):
        value = getattr(options, name)
        if value is not None:
            flags.append(f"--{name.replace('_', '-')}={value}")
    if options.resolve:
        flags.append("--resolve")
    return [*flags, *options.overrides]


def run(argv: Sequence[str]) -> int:
    r"""Runs `nodequant train`.

    Example:
        >>> run(["--cfg", "job", "--package", "model"])
        # @package model
        embedding_dim: 64
        num_layers: 3
        <BLANKLINE>
        0
    """
    options = parse(argv)
    if options.config_dir is not None:
        check_config_dir(options.config_dir)
    if options.cfg is not None or options.info is not None:
        if options.cfg is not None and options.package is not None:
            check_package(options)
        with readable_errors(), hydra_arguments(hydra_argv(options)):
            hydra_main(lambda config: None)
        return 0

    # Compose and check everything first: a typing mistake in the last job of
    # a sweep must not show after hours, or leave an empty folder behind.
    jobs = [options.overrides]
    if options.multirun:
        jobs = sweep_jobs(options.overrides)
    for job in jobs:
        config = compose_config(job, options.config_dir, options.config_name)
        with readable_errors():
            to_experiment(config)
    runner = JobRunner(existing_folders(config), options.multirun)
    with hydra_arguments(hydra_argv(options)):
        runner.launch()
    return runner.finish()


def check_package(options: Namespace) -> None:
    r"""Raises a :class:`ValueError` unless there is the part of the
    configuration that `--cfg` shall print.
    """
    config = compose_config(options.overrides, options.config_dir,
                            options.config_name)
    if options.package.startswith("_global_"):
        return
    with readable_errors():
        found = OmegaConf.select(config, options.package)
    if not OmegaConf.is_config(found):
        groups = [str(name) for name in config
                  if OmegaConf.is_config(config[name])]
        raise ValueError(f"'--package' needs to be one of "
                         f"{', '.join(groups)}, or a group in them (got "
                         f"'{options.package}')")


class JobRunner:
    r"""Runs the jobs that Hydra hands over, one or a sweep.

    Args:
        existing (set): Folders that were there before.
        sweep (bool): Whether a failing job lets the others go on.
    """

    def __init__(self, existing: set[Path], sweep: bool) -> None:
        self.existing = existing
        self.sweep = sweep
        self.started = False
        self.errors: list[BaseException] = []
        self.results: list[tuple[str, dict[str, Any]]] = []
        self.sweep_dir = Path()

    def launch(self) -> None:
        r"""Hands over to Hydra."""
        try:
            with readable_errors():
                hydra_main(self.job)
        except OSError as error:
            if self.started:
                raise
            raise ValueError(
                f"the run directory cannot be made: {describe(error)} "
                f"(choose another with hydra.run.dir=PATH)") from error

    def job(self, config: DictConfig) -> float:
        r"""Runs one job; returns what a search would maximize."""
        self.started = True
        settings = HydraConfig.get()
        run_dir = Path(settings.runtime.output_dir)
        self.sweep_dir = Path(settings.sweep.dir).absolute()
        title = " ".join(settings.overrides.task)
        if self.sweep:
            print(f"\njob {settings.job.num}: {title}", flush=True)
        try:
            metrics = train_job(config, run_dir)
        except USER_ERRORS as error:
            if is_own_bug(error):
                raise
            self.errors.append(error)
            if self.sweep:
                print_error(error)
            return float("nan")
        finally:
            remove_unused(run_dir, self.existing)
        self.results.append((title, metrics))
        return float(metrics.get("val", {}).get("ndcg@20", float("nan")))

    def finish(self) -> int:
        r"""Prints the end of a sweep, or raises the error of the one job."""
        if not self.sweep:
            if self.errors:
                raise self.errors[0]
            return 0
        if self.results:
            print(f"\n{sweep_table(self.results)}")
            print(f"run directory: {self.sweep_dir}")
        if self.errors:
            failed, total = len(self.errors), len(self.results)
            total += failed
            raise ValueError(f"{failed} of {total} jobs failed, the first "
                             f"because: {describe(self.errors[0])}"
                             ) from self.errors[0]
        return 0


def train_job(config: DictConfig, run_dir: Path) -> dict[str, Any]:
    r"""Trains, measures and packs; returns the content of `metrics.json`."""
    with readable_errors():
        experiment = to_experiment(config)
        text = OmegaConf.to_yaml(config, resolve=True)
    check_writable(run_dir)

    # Imported here because they bring torch, seconds that --cfg need not wait.
    from pyg_nodequant.data import load_interactions
    from pyg_nodequant.training.experiment import run_experiment

    interactions = load_interactions(experiment.data)
    print(data_summary(interactions), flush=True)
    write_atomic(run_dir / "config.yaml", [text.encode()])
    metrics = run_experiment(experiment, interactions, run_dir)

    packed = run_dir / "model.nq"
    print(f"\n{results_table(metrics, experiment)}\n")
    distortion = distortion_line(metrics)
    if distortion is not None:
        print(f"{distortion}\n")
    print(f"packed file: {packed}")
    print(f"ask it: {next_command(packed, interactions)}")
    print(f"run directory: {run_dir}", flush=True)
    return metrics


def check_writable(run_dir: Path) -> None:
    r"""Raises a :class:`ValueError` unless files can be made in a folder."""
    try:
        with tempfile.TemporaryFile(dir=run_dir):
            pass
    except OSError as error:
        raise ValueError(f"the run directory cannot be written: "
                         f"{describe(error)} (choose another with "
                         f"hydra.run.dir=PATH)") from error


def existing_folders(config: DictConfig) -> set[Path]:
    r"""Returns those folders on the way to the run directory that exist."""
    found: set[Path] = set()
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        path = Path(str(OmegaConf.select(config, key))).absolute()
        found |= {p for p in (path, *path.parents) if os.path.exists(p)}
    return found


def remove_unused(run_dir: Path, existing: set[Path]) -> None:
    r"""Removes a run directory in which nothing came about, and the new
    folders above it.
    """
    if not run_dir.is_dir() or run_dir in existing:
        return
    if [path.name for path in run_dir.iterdir()] == ["config.yaml"]:
        (run_dir / "config.yaml").unlink()
    for folder in (run_dir, *run_dir.parents):
        if folder in existing or any(folder.iterdir()):
            return
        folder.rmdir()


def hydra_main(job: Any) -> None:
    r"""Runs :obj:`hydra.main` on a function of the configuration."""
    register()
    hydra.main(
        config_path=f"pkg://{CONFIG_MODULE}",
        config_name="config",
        version_base=VERSION_BASE,
    )(job)()


@contextmanager
def hydra_arguments(argv: Sequence[str]) -> Iterator[None]:
    r"""Sets what :obj:`hydra.main` reads: the process's arguments, and that
    it raises errors instead of printing them and leaving.
    """
    old_argv, old_setting = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["nodequant", *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = old_argv
        if old_setting is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = old_setting
