r"""`nodequant evaluate`: measures a packed file on a data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from pyg_nodequant.app.arguments import ArgumentParser, integer
from pyg_nodequant.app.compose import compose_config, readable_errors
from pyg_nodequant.app.results import (
    data_summary,
    metrics_table,
    storage_lines,
)
from pyg_nodequant.app.runs import packed_path
from pyg_nodequant.app.schema import freeze, to_experiment
from pyg_nodequant.app.tables import format_table
from pyg_nodequant.config import DataConfig
from pyg_nodequant.runtime import PackedRecommender

if TYPE_CHECKING:
    from pyg_nodequant.data import Interactions

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
    add("overrides", nargs="*", metavar="KEY=VALUE",
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

    interactions = load_interactions(config)
    check_same_nodes(recommender, interactions)
    if interactions.edges(options.split).shape[1] == 0:
        raise ValueError(f"the data have no {options.split} interactions to "
                         f"measure")
    metrics = evaluate_ranking(packed_topk(recommender), interactions,
                               options.split, batch_size=options.batch_size)
    storage = recommender.storage()
    if options.json:
        print(json.dumps({"file": str(packed), "data": interactions.name,
                          "split": options.split, options.split: metrics,
                          "storage": storage}, indent=2))
    else:
        print(data_summary(interactions))
        print(f"\n{options.split} set\n{metrics_table(metrics)}")
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
        with readable_errors():
            saved = OmegaConf.to_container(OmegaConf.load(beside),
                                           resolve=True)
        values = saved.get("data") if isinstance(saved, dict) else None
        if not isinstance(values, dict):
            raise ValueError(f"'{beside}' needs to hold a group 'data'")
        return freeze(DataConfig, {str(k): v for k, v in values.items()},
                      "data.")
    if not overrides:
        raise ValueError(f"no data given: add data=NAME (there is no "
                         f"config.yaml beside '{packed}' to take it from)")
    config = compose_config(overrides, config_dir)
    with readable_errors():
        return to_experiment(config).data


def check_same_nodes(
    recommender: PackedRecommender,
    interactions: Interactions,
) -> None:
    r"""Raises a :class:`ValueError` unless the rows of the file are the users
    and items of the data, in their order.
    """
    catalogue = recommender.catalogue
    for what, rows, ids, packed_ids in (
        ("user", recommender.num_users, interactions.user_ids,
         None if catalogue is None else catalogue.user_ids),
        ("item", recommender.num_items, interactions.item_ids,
         None if catalogue is None else catalogue.item_ids),
    ):
        if rows != len(ids):
            raise ValueError(f"the file does not belong to these data: it "
                             f"has {rows:,} {what}s, data "
                             f"'{interactions.name}' has {len(ids):,}")
        if packed_ids is None:
            continue  # a bare file: the counts are all there is to compare
        for row, (mine, theirs) in enumerate(
                zip(packed_ids.tolist(), ids.tolist(), strict=True)):
            if mine != theirs:
                raise ValueError(f"the file does not belong to these data: "
                                 f"{what} {row} is '{mine}' in the file and "
                                 f"'{theirs}' in data "
                                 f"'{interactions.name}'")
