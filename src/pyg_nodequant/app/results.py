r"""What `train` and `evaluate` print about data and results."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pyg_nodequant.app.tables import format_bytes, format_count, format_table
from pyg_nodequant.config import ExperimentConfig

if TYPE_CHECKING:
    from pyg_nodequant.data import Interactions

QUALITY = {
    "recall@20": "Recall@20",
    "ndcg@20": "NDCG@20",
    "coverage@20": "coverage@20",
    "recall@20_item_q1": "Recall@20, coldest quarter of items",
    "recall@20_item_q2": "Recall@20, second quarter",
    "recall@20_item_q3": "Recall@20, third quarter",
    "recall@20_item_q4": "Recall@20, hottest quarter of items",
    "recall@20_user_q1": "Recall@20, least active quarter of users",
    "recall@20_user_q2": "Recall@20, second quarter of users",
    "recall@20_user_q3": "Recall@20, third quarter of users",
    "recall@20_user_q4": "Recall@20, most active quarter of users",
}


def data_summary(interactions: Interactions) -> str:
    r"""Returns two lines: the sizes, and what reading came upon."""
    sizes = ", ".join(
        f"{format_count(interactions.edges(split).shape[1])} {split}"
        for split in ("train", "val", "test"))
    lines = [f"data: {interactions.name}: "
             f"{format_count(interactions.num_users)} users, "
             f"{format_count(interactions.num_items)} items, "
             f"interactions: {sizes}"]
    notes = "; ".join(f"{name.replace('_', ' ')}: {format_count(count)}"
                      for name, count in interactions.counts.items() if count)
    return "\n".join([*lines, f"  {notes}"] if notes else lines)


def number(value: Optional[float]) -> str:
    r"""Returns a metric with four decimals, or a dash for none."""
    return "-" if value is None else f"{value:.4f}"


def change(before: Optional[float], after: Optional[float]) -> str:
    r"""Returns the relative change in percent.

    Example:
        >>> change(0.20, 0.19)
        '-5.0 %'
    """
    if not before or after is None:
        return ""
    return f"{100 * (after / before - 1):+.1f} %"


def results_table(
    metrics: Mapping[str, Any],
    experiment: ExperimentConfig,
) -> str:
    r"""Returns the table of a run: the float model beside the packed one,
    and the teacher, if that is another one. Changes are those from the float
    model or, without one, from the teacher.

    Args:
        metrics (dict): The content of `metrics.json`.
        experiment (ExperimentConfig): The settings of the run.
    """
    storage, recipe = metrics["storage"], experiment.quant.recipe
    packed = metrics.get("test", {})
    exact = metrics.get("float", {}).get("test", {})
    if recipe == "float":
        exact = {}  # the packed model is the float model
    taught = metrics.get("teacher", {}).get("test", {})
    before = exact or taught
    dim = experiment.model.embedding_dim
    rows = [(label, number(taught.get(key)), number(exact.get(key)),
             number(packed.get(key)), change(before.get(key), packed.get(key)))
            for key, label in QUALITY.items()]
    # The float column is the float model as trained, 4 bytes a number.
    nodes = storage["float_bytes"] / 256
    rows += [
        ("mean bit width", "", "32", f"{storage['mean_bit_width']:.3f}", ""),
        ("bytes per node", "", f"{4 * dim}",
         f"{storage['bytes_per_node']:.2f}", ""),
        ("true bits per parameter (of 64)", "", f"{dim / 2:g}",
         f"{storage['bits_per_parameter']:.3f}", ""),
        ("embeddings, bytes", "", format_count(4 * dim * nodes),
         format_count(storage["embedding_bytes"]), ""),
        ("whole file, bytes", "", "-", format_count(storage["file_bytes"]),
         ""),
        ("compression", "", f"{64 / dim:.2f}x",
         f"{storage['compression_ratio']:.2f}x", ""),
    ]
    headers = ("test set", "teacher", "float", recipe, "change")
    there = (True, taught, exact, True, before)
    shown = [i for i, column in enumerate(there) if column]
    return format_table([headers[i] for i in shown],
                        [[row[i] for i in shown] for row in rows])


def distortion_line(metrics: Mapping[str, Any]) -> Optional[str]:
    r"""Returns what the rankings lost, if anything was quantized.

    Args:
        metrics (dict): The content of `metrics.json`.

    Example:
        >>> line = distortion_line({"data": {"num_users": 9}, "distortion": {
        ...     "kl": .0412, "quadratic": .0395, "bound": .0221,
        ...     "bits": 88.0, "users": 9}})
        >>> line.partition("; ")[0]
        'score distortion  KL 0.0412 nat a user'
    """
    found = metrics.get("distortion")
    if not found:
        return None
    line = (f"score distortion  KL {found['kl']:.3g} nat a user; quadratic "
            f"{found['quadratic']:.3g}, bound at the same "
            f"{found['bits']:.1f} bits a node {found['bound']:.3g}")
    users = metrics["data"]["num_users"]
    if found["users"] < users:
        line += (f" (from {format_count(found['users'])} of "
                 f"{format_count(users)} users)")
    return line


def sweep_table(results: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    r"""Returns one line for each job of a sweep."""
    rows = []
    for title, metrics in results:
        test, storage = metrics.get("test", {}), metrics["storage"]
        rows.append((title or "(defaults)", number(test.get("recall@20")),
                     number(test.get("ndcg@20")),
                     f"{storage['mean_bit_width']:.3f}",
                     f"{storage['bits_per_parameter']:.3f}",
                     f"{storage['bytes_per_node']:.2f}"))
    return format_table(
        ["job", "Recall@20", "NDCG@20", "mean bits", "true bits/param",
         "bytes/node"], rows)


def metrics_table(metrics: Mapping[str, float]) -> str:
    r"""Returns metrics of one evaluation, one row a metric and one column a
    list length.

    Example:
        >>> print(metrics_table({"recall@10": 0.1, "recall@20": 0.2}))
                   @10     @20
        recall  0.1000  0.2000
    """
    columns: list[str] = []
    rows: dict[str, dict[str, str]] = {}
    for key, value in metrics.items():
        name, _, rest = key.partition("@")
        k, _, group = rest.partition("_")
        if k not in columns:
            columns.append(k)
        label = f"{name} ({group.replace('_', ' ')})" if group else name
        rows.setdefault(label, {})[k] = number(value)
    return format_table(
        ["", *(f"@{k}" if k else "" for k in columns)],
        [[label, *(row.get(k, "") for k in columns)]
         for label, row in rows.items()])


def quarters_table(metrics: Mapping[str, float]) -> str:
    r"""Returns the metrics by quarters of items and users, one row a metric
    and one column a quarter.

    Example:
        >>> print(quarters_table({"recall@20": 0.3, "ndcg@20_user_q1": 0.1,
        ...                       "ndcg@20_user_q2": 0.2}))
                             q1      q2
        ndcg@20 of users  0.1000  0.2000
    """
    rows: dict[str, dict[str, str]] = {}
    for key, value in metrics.items():
        name, _, rest = key.partition("_")
        kind, _, quarter = rest.rpartition("_")
        if is_quarter(key):
            rows.setdefault(f"{name} of {kind}s", {})[quarter] = number(value)
    quarters = sorted({quarter for row in rows.values() for quarter in row})
    return format_table(
        ["", *quarters],
        [[label, *(row.get(quarter, "") for quarter in quarters)]
         for label, row in rows.items()])


def is_quarter(metric: str) -> bool:
    r"""Whether a metric is of a quarter of the items or the users."""
    return "_item_q" in metric or "_user_q" in metric


def next_command(packed: Path, interactions: Interactions) -> str:
    r"""Returns the command that asks the packed file about one of its users,
    quoted for a shell.
    """
    row = 0
    if interactions.train.shape[1] > 0:
        row = int(interactions.train[0, 0])
    user = str(interactions.user_ids[row])
    # An id like -1 would read as an option of its own.
    joint = "=" if user.startswith("-") else " "
    option = f"--user{joint}{shlex.quote(user)}"
    return f"nodequant recommend {shlex.quote(str(packed))} {option}"


def storage_lines(storage: Mapping[str, Any]) -> list[tuple[str, str]]:
    r"""Returns the sizes of a packed file as rows of a table."""
    return [
        ("whole file", format_bytes(storage["file_bytes"])),
        ("embedding part", format_bytes(storage["embedding_bytes"])),
        ("bytes per node", f"{storage['bytes_per_node']:.2f}"),
        ("mean bit width", f"{storage['mean_bit_width']:.3f}"),
        ("true bits per parameter (of 64)",
         f"{storage['bits_per_parameter']:.3f}"),
        ("compression of 64 float32 a node",
         f"{storage['compression_ratio']:.2f}x"),
    ]
