r"""`nodequant inspect`: what is in a packed file, without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from pyg_nodequant.app.arguments import ArgumentParser
from pyg_nodequant.app.results import storage_lines
from pyg_nodequant.app.runs import packed_path
from pyg_nodequant.app.tables import (
    bar,
    format_bytes,
    format_count,
    format_table,
    printable,
)
from pyg_nodequant.runtime import PackedRecommender

SAMPLE = 5


def run(argv: Sequence[str]) -> int:
    r"""Runs `nodequant inspect`."""
    parser = ArgumentParser(
        "nodequant inspect",
        "Shows the sizes, the widths and the ids of a packed file.",
    )
    parser.add_argument("file", metavar="FILE",
                        help="a packed file or a run directory")
    parser.add_argument("--json", action="store_true",
                        help="print JSON instead of tables")
    options = parser.parse_args(argv)
    # Opening compares the checksum with every byte; a damaged file ends here.
    packed = packed_path(options.file)
    report = describe_file(str(packed), PackedRecommender.open(packed))
    print(json.dumps(report, indent=2, ensure_ascii=False)
          if options.json else as_text(report))
    return 0


def describe_file(path: str, recommender: PackedRecommender) -> dict[str, Any]:
    r"""Returns all there is to show, as JSON can hold it."""
    catalogue = recommender.catalogue
    return {
        "file": path,
        "integrity": "ok",
        "num_users": recommender.num_users,
        "num_items": recommender.num_items,
        "embedding_dim": recommender.dim,
        "bare": catalogue is None,
        "storage": recommender.storage(),
        "resident_bytes": recommender.resident_bytes,
        "graph_edges": (None if recommender.graph is None else
                        recommender.graph.num_edges),
        "widths": {
            "users": histogram(recommender.users.widths),
            "items": histogram(recommender.items.widths),
        },
        "user_ids": ([] if catalogue is None else
                     catalogue.user_ids[:SAMPLE].tolist()),
        "item_ids": ([] if catalogue is None else
                     catalogue.item_ids[:SAMPLE].tolist()),
        "item_titles": ([] if catalogue is None else
                        (catalogue.item_titles or [])[:SAMPLE]),
        "metadata": recommender.metadata,
    }


def histogram(widths: Any) -> dict[str, int]:
    r"""Returns how many rows have each width.

    Example:
        >>> histogram(np.array([1, 8, 1]))
        {'1': 2, '8': 1}
    """
    values, counts = np.unique(np.asarray(widths), return_counts=True)
    return {
        f"{value:g}": int(count)
        for value, count in zip(values, counts, strict=True)
    }


def as_text(report: dict[str, Any]) -> str:
    r"""Returns the report as text."""
    storage = report["storage"]
    sizes = storage_lines(storage)
    sizes.append(("in memory, for scoring",
                  format_bytes(report["resident_bytes"])))
    if report["graph_edges"] is not None:
        sizes.append(("training graph to propagate on",
                      f"{format_count(report['graph_edges'])} interactions"))
    parts = [(name.replace("_", " "), format_count(size),
              f"{100 * size / storage['file_bytes']:.1f} %")
             for name, size in storage["parts"].items() if size]
    blocks = [
        f"{report['file']}: {format_count(report['num_users'])} users, "
        f"{format_count(report['num_items'])} items, "
        f"{report['embedding_dim']} dimensions"
        f"{', bare (no ids)' if report['bare'] else ''}\n"
        f"integrity: checksum ok",
        "sizes\n" + format_table(["", ""], sizes),
        "bytes by part\n" + format_table(["", "", ""], parts),
        "widths, in bits\n" + width_bars(report["widths"]),
    ]
    samples = [printable(f"{what.replace('_', ' ')}: "
                         f"{', '.join(map(str, ids))}, ...")
               for what in ("user_ids", "item_ids", "item_titles")
               if (ids := report[what])]
    if samples:
        blocks.append("\n".join(samples))
    if report["metadata"]:
        blocks.append("\n".join(["metadata", *nested(report["metadata"])]))
    return "\n\n".join(blocks)


def nested(values: dict[str, Any], prefix: str = "") -> list[str]:
    r"""Returns nested dictionaries as lines, one a dictionary.

    Example:
        >>> nested({"seed": 0, "data": {"name": "csv", "path": "a.csv"}})
        ['seed=0', 'data: name=csv, path=a.csv']
    """
    leaves = [f"{key}={value}" for key, value in values.items()
              if not isinstance(value, dict)]
    head = f"{prefix}: " if prefix else ""
    lines = [printable(head + ", ".join(leaves))] if leaves else []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += nested(value, f"{prefix}.{key}" if prefix else key)
    return lines


def width_bars(widths: dict[str, dict[str, int]]) -> str:
    r"""Returns the histograms of users and items, with bars."""
    rows = []
    largest = max((n for counts in widths.values() for n in counts.values()),
                  default=0)
    for what, counts in widths.items():
        total = sum(counts.values())
        for width, count in counts.items():
            rows.append((what, width, format_count(count),
                         f"{100 * count / total:.1f} %", bar(count, largest)))
            what = ""
    return format_table(["", "bits", "rows", "share", ""], rows, left=(0, 4))
