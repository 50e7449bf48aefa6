r"""Quality at equal bytes: every method on the same data, seeds and teachers.

.. code-block:: console

    python benchmarks/quality.py --root DATA --out quality --data lastfm
    python benchmarks/quality.py --out quality --report

Each run is a `nodequant train` with the overrides of its method, refitted on
train and validation; float models are shared by a cache in the folder. A line
of ``runs.jsonl`` is written for each run that ended, and those that have
one are not run again. ``--report`` prints means and standard deviations over
seeds, and draws bytes a node against quality (needs matplotlib).
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

DATA = {
    "lastfm": ["data=lastfm", "data.root={root}"],
    "movielens_100k": ["data=movielens_100k", "data.root={root}"],
    "ml-1m": ["data=lightgcn_txt", "data.path={root}/ml-1m"],
    "gowalla": ["experiment=gowalla", "data.root={root}"],
}
BUDGETS = (11, 14, 18)
# Axes and widths of the uniform rival that fill a budget.
AXES = {11: ((40, 2), (26, 3), (20, 4), (16, 5)),
        14: ((52, 2), (34, 3), (26, 4), (20, 5)),
        18: ((45, 3), (34, 4), (27, 5))}
# The float model that everything is distilled from, and how. Recipes of
# transform coding have it by default.
TEACHER = ["loss=softmax", "quant.blend=0.5",
           "quant.popularity_discount=null", "quant.temperature=0.4",
           "quant.distill_seen=false", "quant.bpr_weight=0"]
# What each ingredient is worth: it alone is taken away or put in its place.
TRANSFORM_WITHOUT = {
    "companion": ["quant.blend=0"],
    "softmax": ["loss=bpr", "quant.blend=0"],
    "discount": ["quant.popularity_discount=0"],
    "axes' widths": ["quant.allocation=uniform", "quant.axes=20",
                     "quant.bits=4"],
    "nodes' widths": ["quant.sensitivity_power=0"],
    "tempering": ["quant.sensitivity_power=1"],
    "leaving out what is seen": ["quant.distill_seen=true"],
    "fine-tuning": ["quant.finetune_steps=0"],
    "distillation": ["quant.distill_weight=0", "quant.bpr_weight=1"],
}
TRANSFORM_WITH = {
    "learned widths": ["quant.allocation=learned"],
    "scales of 8 bits": ["quant.scale_bits=8"],
    "BPR": ["quant.bpr_weight=0.3"],
    "twice the steps": ["quant.finetune_steps=1600"],
}
NODES_WITHOUT = {
    "distillation": ["quant.distill_weight=0", "quant.bpr_weight=1"],
    "fine-tuning": ["quant.finetune_steps=0"],
}
NODES_WITH = {
    "widths by degree": ["quant.allocation=degree"],
    "tempering": ["quant.sensitivity_power=0.6"],
    "learned widths": ["quant.recipe=learned"],
    "message passing": ["quant.interval=message_passing"],
    "relation gradient": ["quant.gradient=relation"],
    "noise": ["quant.estimator=noise"],
    "searched ranges": ["quant.range=mse"],
    "learned ranges": ["quant.range=learned"],
    "shared scales": ["quant.row_scale=group"],
    "log scales": ["quant.row_scale=log8"],
}


def methods() -> dict[str, list[str]]:
    """Overrides of every method, by name."""
    out = {
        "float d=64": ["quant=float"],
        "float d=64, softmax": ["quant=float", "loss=softmax"],
    }
    for bits in (1, 2):
        out[f"uniform d=64 {bits} bits"] = ["quant=uniform", *TEACHER,
                                            f"quant.bits={bits}"]
    for budget in BUDGETS:
        size = f"quant.bytes_per_node={budget}"
        node = ["quant=node_aware", *TEACHER, size]
        out[f"node-aware {budget} B"] = node
        out[f"node-aware {budget} B, shuffled"] = [
            *node, "quant.allocation=shuffled"]
        transform = ["quant=transform", size]
        out[f"transform {budget} B"] = transform
        out[f"transform {budget} B, shuffled"] = [
            *transform, "quant.allocation=shuffled"]
        for axes, bits in AXES[budget]:
            out[f"axes {budget} B, {axes} x {bits}"] = [
                "quant=axes", f"quant.axes={axes}", f"quant.bits={bits}"]
    for size, base, changes in (
            ("transform 11 B", out["transform 11 B"],
             {"without": TRANSFORM_WITHOUT, "with": TRANSFORM_WITH}),
            ("node-aware 18 B", out["node-aware 18 B"],
             {"without": NODES_WITHOUT, "with": NODES_WITH})):
        for kind, options in changes.items():
            for name, overrides in options.items():
                plain = [x for x in base if x.split("=")[0] not in
                         {y.split("=")[0] for y in overrides}]
                out[f"{size}, {kind} {name}"] = [*plain, *overrides]
    out["transform 10 B"] = ["quant=transform", "quant.bytes_per_node=10"]
    out["transform 8 B items, 40 B users"] = [
        "quant=transform", "quant.bytes_per_item=8",
        "quant.bytes_per_user=40"]
    return out


def run(name: str, data: str, seed: int, options: argparse.Namespace) -> None:
    """Trains one model and adds its line."""
    plain = re.sub(r"[^a-z0-9]+", "_", f"{name} {seed}")
    folder = options.out / data / plain
    overrides = [text.format(root=options.root) for text in DATA[data]]
    command = [
        sys.executable, "-m", "pyg_nodequant.app.main", "train", *overrides,
        *methods()[name], f"seed={seed}", f"hydra.run.dir={folder}",
        f"trainer.float_cache={options.out / 'float'}",
        f"trainer.threads={options.threads}", "trainer.progress=false",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    metrics = json.loads((folder / "metrics.json").read_text())
    line = {
        "data": data, "method": name, "seed": seed,
        "overrides": methods()[name],
        "bytes_per_node": metrics["storage"]["bytes_per_node"],
        "test": metrics["test"], "val": metrics["val"],
        "float": metrics["float"].get("test", {}),
        "teacher": metrics["teacher"].get("test", {}),
        "discount": metrics["teacher"].get("popularity_discount"),
        "seconds": metrics["timing"]["train_seconds"],
    }
    with (options.out / "runs.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def load(folder: Path) -> list[dict[str, Any]]:
    """The lines of all runs that ended."""
    path = folder / "runs.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


def report(folder: Path) -> None:
    """Prints a table for each set, and draws the plots."""
    sets: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(
        lambda: defaultdict(list))
    for line in load(folder):
        sets[line["data"]][line["method"]].append(line)
    for data, rows in sets.items():
        print(f"\n{data}\n\n| method | bytes a node | Recall@20 | NDCG@20 | "
              f"item quartiles, cold to hot | val NDCG@20 | seeds |\n"
              f"|---|---|---|---|---|---|---|")
        for name in methods():
            if name not in rows:
                continue
            runs = rows[name]
            groups = "/".join(
                f"{mean(runs, 'test', key):.4f}"
                              for key in (f"recall@20_item_q{q}"
                                          for q in (1, 2, 3, 4)))
            print(f"| {name} | {mean(runs, 'bytes_per_node'):.2f} | "
                  f"{spread([r['test']['recall@20'] for r in runs])} | "
                  f"{spread([r['test']['ndcg@20'] for r in runs])} | {groups} "
                  f"| {mean(runs, 'val', 'ndcg@20'):.4f} | {len(runs)} |")
        draw(data, rows, folder)


def mean(runs: list[dict[str, Any]], *path: str) -> float:
    """The mean over runs of one entry."""
    values = []
    for one in runs:
        value: Any = one
        for key in path:
            value = value[key]
        values.append(float(value))
    return statistics.mean(values)


def is_plain(name: str) -> bool:
    """Whether a method is no control, of which there are many at one size."""
    return not (name.endswith(("shuffled", "users"))
                or ", with" in name)


def draw(data: str, rows: dict[str, list[dict[str, Any]]],
         folder: Path) -> None:
    """True bytes a node against quality, the float models as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    families = {"transform": ("o", "#0072B2"), "node-aware": ("s", "#D55E00"),
                "axes": ("^", "#009E73"), "uniform": ("v", "#CC79A7")}
    figure, panels = plt.subplots(1, 2, figsize=(10, 4))
    for panel, metric in zip(panels, ("recall@20", "ndcg@20"), strict=True):
        for name, style in (("float d=64", "--"),
                            ("float d=64, softmax", ":")):
            if name in rows:
                panel.axhline(mean(rows[name], "test", metric), color="black",
                              linestyle=style, label=name, linewidth=1)
        for family, (marker, colour) in families.items():
            points = sorted(
                (mean(runs, "bytes_per_node"), mean(runs, "test", metric))
                for name, runs in rows.items()
                if name.startswith(family) and is_plain(name))
            if points:
                panel.plot(*zip(*points, strict=True), marker=marker,
                           color=colour, label=family,
                           linestyle="" if family == "axes" else "-")
        panel.set_xlabel("bytes a node, everything counted")
        panel.set_ylabel(metric.replace("recall", "Recall").replace(
            "ndcg", "NDCG") + ", test")
        panel.grid(alpha=0.3)
    panels[0].legend()
    figure.suptitle(data)
    figure.tight_layout()
    figure.savefig(folder / f"{data}.png", dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("quality"))
    parser.add_argument("--data", nargs="+", choices=list(DATA),
                        default=["lastfm", "movielens_100k", "ml-1m"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", metavar="TEXT",
                        help="only methods whose name begins with one of "
                        "them, or is one of them after an equals sign")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        report(options.out)
        return
    if options.root is None:
        parser.error("--root is needed to run")
    options.out.mkdir(parents=True, exist_ok=True)
    done = {(r["data"], r["method"], r["seed"]) for r in load(options.out)}
    wanted = options.methods or [""]
    for data in options.data:
        for seed in options.seeds:
            for name in methods():
                if any(name.startswith(text) or f"={name}" == text
                       for text in wanted) and (
                        data, name, seed) not in done:
                    print(data, seed, name, flush=True)
                    run(name, data, seed, options)


if __name__ == "__main__":
    main()
