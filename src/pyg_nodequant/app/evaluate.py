r"""`nodequant evaluate`: measures a packed file on a data set."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pyg_nodequant.app.arguments import ArgumentParser, integer
from pyg_nodequant.app.compose import compose_config, readable_errors
from pyg_nodequant.app.results import (
    data_summary,
    is_quarter,
    metrics_table,
    quarters_table,
    storage_lines,
)
from pyg_nodequant.app.runs import packed_path
from pyg_nodequant.app.schema import to_experiment, unfrozen
from pyg_nodequant.app.tables import format_table
from pyg_nodequant.config import DataConfig, ExperimentConfig
from pyg_nodequant.runtime import PackedRecommender

EPILOG = """\
The data are named as for `nodequant train`; without a word about them, those
of the config.yaml beside the file are taken.

examples:
  nodequant evaluate runs/first/model.nq
  nodequant evaluate model.nq data=csv data.path=ratings.csv --json
"""


def run(argv: Sequence[str]) -> int:
    r"""Runs `nodequant evaluate`."""
    parser = ArgumentParser(
        "nodequant evaluate",
        "Ranks all items for all users with a packed file, and measures the "
        "lists.",
        EPILOG,
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="a packed file or a run directory")
    add("overrides", nargs="*", default=[], metavar="KEY=VALUE",
        help="the data, such as data=lastfm")
    add("--split", choices=("test", "val"), default="test",
        help="what is measured (default: test)")
    add("--batch-size", type=integer, default=1024, metavar="B",
        help="users ranked at once (default: 1024)")
    add("--json", action="store_true", help="print JSON instead of tables")
    add("-cd", "--config-dir", metavar="DIR",
        help="a folder with YAML files of your own, laid out like conf/")
    options = parser.parse_intermixed_args(argv)
    if options.batch_size < 1:
        raise ValueError(f"'--batch-size' needs to be at least 1 "
                         f"(got {options.batch_size})")
    packed = packed_path(options.file)
    config = data_config(packed, options.overrides, options.config_dir)
    recommender = PackedRecommender.open(packed)

    # Imported here because they bring torch, seconds a mistake need not wait.
    from pyg_nodequant.data import load_interactions
    from pyg_nodequant.training.evaluation import (
        evaluate_ranking,
        packed_topk,
    )
    from pyg_nodequant.training.same_data import (
        check_same_nodes,
        check_unseen,
    )

    interactions = load_interactions(config)
    check_same_nodes(recommender, interactions)
    if interactions.edges(options.split).shape[1] == 0:
        raise ValueError(f"the data have no {options.split} interactions to "
                         f"measure")
    if options.split == "test":
        check_unseen(recommender, interactions)
    elif was_refitted(packed):
        print("nodequant: note: this model was refitted on train and "
              "validation (trainer.refit): it has seen what is measured",
              file=sys.stderr)
    metrics = evaluate_ranking(packed_topk(recommender), interactions,
                               options.split, batch_size=options.batch_size)
    storage = recommender.storage()
    if options.json:
        print(json.dumps({"file": str(packed), "data": interactions.name,
                          "split": options.split, options.split: metrics,
                          "storage": storage}, indent=2))
    else:
        print(data_summary(interactions))
        whole = {k: v for k, v in metrics.items() if not is_quarter(k)}
        print(f"\n{options.split} set\n{metrics_table(whole)}")
        print("\nby quarters, q1 of the lowest degrees (fewest training "
              f"interactions)\n{quarters_table(metrics)}")
        print(f"\n{format_table(['', ''], storage_lines(storage))}")
    return 0


def data_config(
    packed: Path,
    overrides: Sequence[str],
    config_dir: str | None,
) -> DataConfig:
    r"""Returns the settings of the data to measure on."""
    beside = packed.parent / "config.yaml"
    if not overrides and beside.is_file():
        values = saved_group(beside, "data")
        if values is None:
            raise ValueError(f"'{beside}' needs to hold a group 'data'")
        with readable_errors():
            config = OmegaConf.structured(unfrozen(ExperimentConfig))
            config.data = OmegaConf.merge(config.data, values)
            return to_experiment(config).data
    if not overrides:
        raise ValueError(f"no data given: add data=NAME (there is no "
                         f"config.yaml beside '{packed}' to take it from)")
    config = compose_config(overrides, config_dir)
    with readable_errors():
        return to_experiment(config).data


def saved_group(path: Path, name: str) -> dict[str, Any] | None:
    r"""Returns a group of a saved configuration, if it is there."""
    with readable_errors():
        saved = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    values = saved.get(name) if isinstance(saved, dict) else None
    if not isinstance(values, dict):
        return None
    return {str(key): value for key, value in values.items()}


def was_refitted(packed: Path) -> bool:
    r"""Whether the config.yaml beside a file says that the model was trained
    on validation interactions too.
    """
    beside = packed.parent / "config.yaml"
    if not beside.is_file():
        return False
    return bool((saved_group(beside, "trainer") or {}).get("refit"))
