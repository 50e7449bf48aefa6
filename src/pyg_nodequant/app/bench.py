r"""`nodequant bench serve`: how fast a packed table answers, beside others."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, Optional

from pyg_nodequant.app.arguments import ArgumentParser, integer
from pyg_nodequant.app.runs import packed_path
from pyg_nodequant.app.tables import format_bytes, format_count, format_table
from pyg_nodequant.config import check_choice, check_number

EPILOG = """\
Every method answers the same queries in one process, three of them and then
the next method's turn, each after three that are not timed; shown are medians.
Rivals are measured where they are installed: torch (float32 product and topk)
and faiss (pip install pyg-nodequant[faiss]).

examples:
  nodequant bench serve runs/2026-01-01_12-00-00
  nodequant bench serve --items 1000000 --form mixed --threads 1
"""


def run(argv: Sequence[str]) -> int:
    r"""Runs `nodequant bench`."""
    from pyg_nodequant.app.serve_bench import FORMS

    parser = ArgumentParser(
        "nodequant bench",
        "Measures how fast a packed table answers top-k queries.", EPILOG)
    add = parser.add_argument
    add("what", choices=("serve", ), help="what is measured")
    add("file", metavar="FILE", nargs="?",
        help="a packed file or a run directory (default: a synthetic table)")
    add("--items", type=integer, default=100_000, metavar="N",
        help="rows of the synthetic table (default: 100000)")
    add("--form", default="mixed", metavar="FORM",
        help=f"its rows: {', '.join(FORMS)} (default: mixed)")
    add("-k", type=integer, default=20, help="items a query (default: 20)")
    add("--repeat", type=integer, default=9, metavar="N",
        help="queries, and timings of each method (default: 9)")
    add("--batch", type=integer, default=1, metavar="B",
        help="queries that are asked at once (default: 1)")
    add("--threads", type=integer, default=1, metavar="N",
        help="threads, bound to as many processors (default: 1)")
    add("--engine", action="append", metavar="NAME",
        help="an engine of ours, may be repeated (default: the best one)")
    add("--rivals", default="torch,faiss", metavar="NAMES",
        help="what else is measured (default: torch,faiss)")
    add("--rival-dim", type=integer, metavar="D",
        help="time the rivals on float rows of so many dimensions instead")
    add("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(argv)
    check_options(options)
    bind_processors(options.threads)
    report = measure(options)
    print(json.dumps(report, indent=2) if options.json else as_text(report))
    return 0


def check_options(options: Any) -> None:
    r"""Raises :class:`ValueError` for options that are not allowed."""
    from pyg_nodequant.app.serve_bench import FORMS, RIVALS
    from pyg_nodequant.runtime.search import check_engine

    check_choice("--form", options.form, tuple(FORMS))
    for name in ("items", "k", "repeat", "batch", "threads"):
        check_number(f"--{name}", getattr(options, name), 1, integer=True)
    if hasattr(os, "sched_getaffinity"):
        there = len(os.sched_getaffinity(0))
        check_number("--threads", options.threads, 1, there, integer=True)
    for name in options.engine or []:
        check_engine(name, "--engine")
    if options.rival_dim is not None:
        check_number("--rival-dim", options.rival_dim, 1, 4096, integer=True)
    options.rivals = [name for name in options.rivals.split(",") if name]
    for name in options.rivals:
        check_choice("--rivals", name, tuple(RIVALS))


def bind_processors(threads: int) -> None:
    r"""Leaves this process so many processors; all methods see only these."""
    if hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))[:threads]
        os.sched_setaffinity(0, processors)


def measure(options: Any) -> dict[str, Any]:
    r"""Returns the report."""
    from pyg_nodequant.app.serve_bench import compare, synthetic_table
    from pyg_nodequant.runtime import PackedRecommender, PackedTable

    queries: Optional[Any] = None
    if options.file is None:
        table = synthetic_table(options.form, options.items)
        name = f"synthetic, {options.form}"
    else:
        packed = packed_path(options.file)
        recommender = PackedRecommender.open(packed)
        items, name = recommender.served_items, str(packed)
        if not isinstance(items, PackedTable):
            raise ValueError(f"'{packed}' serves propagated float rows "
                             f"(quant.where=input): there are no codes to "
                             f"scan")
        table, queries = items, recommender.served_users
    check_number("-k", options.k, 1, len(table), integer=True)
    return {"table": name, **compare(
        table, queries, k=options.k, repeat=options.repeat,
        batch=options.batch, threads=options.threads, engines=options.engine,
        rivals=options.rivals, rival_dim=options.rival_dim)}


def as_text(report: dict[str, Any]) -> str:
    r"""Returns the report as a table."""
    rows = [(
        one["method"], f"{one['ms_per_query']:.3f}",
        f"{one['times_ours']:.1f}", f"{one['bytes_per_item']:.1f}",
        f"{one['dim']} numbers" if one["recall"] is None else
        "exact" if one["exact"] else f"{one['recall']:.3f}",
    ) for one in report["methods"]]
    head = (f"{report['table']}: {format_count(report['items'])} items, "
            f"{report['dim']} dimensions, "
            f"{report['mean_bits']:.2f} bits a number; "
            f"{format_bytes(report['bytes'])}\n"
            f"top {report['k']}, {report['batch']} "
            f"{'query' if report['batch'] == 1 else 'queries'} at once, "
            f"{report['threads']} "
            f"{'thread' if report['threads'] == 1 else 'threads'}, median of "
            f"{report['repeat']}; {report['processor']}; load "
            f"{report['load']:.2f}")
    return head + "\n\n" + format_table(
        ["method", "ms a query", "times ours", "bytes an item", "top k"],
        rows)
