r"""Mean and spread over seeds of finished runs, as a Markdown table.

Runs that differ in nothing but the seed and the folder form a row. Test
metrics of the packed file stand beside those of the float model of the same
runs; the change is between the two means.

.. code-block:: console

    python benchmarks/summarize_runs.py runs/*
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

METRICS = ("recall@20", "ndcg@20")


def load(folder: Path) -> tuple[str, dict[str, Any]]:
    """Returns what names the row of a run, and its metrics."""
    metrics = json.loads((folder / "metrics.json").read_text())
    config = OmegaConf.load(folder / "config.yaml")
    quant = config["quant"]
    detail = {"node_aware": f"target_bits={quant['target_bits']}",
              "uniform": f"bits={quant['bits']}",
              "transform": f"bytes={quant.get('bytes_per_node')}",
              "paper": f"lambda={quant['lambda_storage']:g}", "float": ""}
    name = (f"{metrics['data']['name'].split(' ')[0]} d="
            f"{config['model']['embedding_dim']} {quant['recipe']} "
            f"{detail[quant['recipe']]} {quant['where']}")
    return name, metrics


def spread(values: list[float]) -> str:
    """Mean and standard deviation, in the digits they deserve."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for folder in parser.parse_args().folders:
        if (folder / "metrics.json").is_file():
            name, metrics = load(folder)
            rows[name].append(metrics)
    print("| runs | seeds | mean width | true bits | metric | float | packed "
          "| change |\n|---|---|---|---|---|---|---|---|")
    for name, runs in sorted(rows.items()):
        storage = [run["storage"] for run in runs]
        width = statistics.mean(s["mean_bit_width"] for s in storage)
        true = max(s["bits_per_parameter"] for s in storage)
        for metric in METRICS:
            packed = [run["test"][metric] for run in runs]
            plain = [run["float"].get("test", {}).get(metric) for run in runs]
            change, shown = "", ""
            if None not in plain:
                shown = spread(plain)
                ratio = statistics.mean(packed) / statistics.mean(plain)
                change = f"{100 * (ratio - 1):+.1f} %"
            print(f"| {name} | {len(runs)} | {width:.3f} | {true:.3f} "
                  f"| {metric} | {shown} | {spread(packed)} | {change} |")


if __name__ == "__main__":
    main()
