r"""One run: train, pack, measure what was packed, write it all down."""

from __future__ import annotations

import json
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from pyg_nodequant.config import ExperimentConfig, as_dict
from pyg_nodequant.data import Interactions
from pyg_nodequant.runtime import PackedRecommender
from pyg_nodequant.runtime.atomic import write_atomic
from pyg_nodequant.training.distortion import measure_distortion
from pyg_nodequant.training.evaluation import (
    evaluate_ranking,
    packed_topk,
    torch_topk,
)
from pyg_nodequant.training.packing import pack_model
from pyg_nodequant.training.seen import SeenItems
from pyg_nodequant.training.teacher import Teacher
from pyg_nodequant.training.trainer import Trainer, TrainingResult

PACKAGES = ("pyg-nodequant", "torch", "torch_geometric", "numpy", "numba",
            "safetensors")
# Packed and trained scores agree to this share of sum_k |q_k x_k|.
SCORE_TOLERANCE = 1e-5


def run_experiment(
    config: ExperimentConfig,
    interactions: Interactions,
    run_dir: Path,
) -> dict[str, Any]:
    r"""Trains by the configured recipe and measures the packed file.

    Writes :obj:`history.csv`, :obj:`model.safetensors` (the trained model's
    state), :obj:`model.nq` (the packed file) and, last,
    :obj:`metrics.json`, whose content it returns.

    Args:
        config (ExperimentConfig): All settings.
        interactions (Interactions): The data.
        run_dir (Path): An existing folder.

    Raises:
        ValueError: If a setting or the data does not allow training.
        RuntimeError: If the packed file does not score as the model does.
    """
    start = time.monotonic()
    result = Trainer(config, run_dir).fit(interactions)
    training_peak = peak_memory()
    num_users = interactions.num_users
    rows = result.embedding().cpu()
    origin = provenance(config, interactions, result.teacher)
    packed = pack_model(result.model, result.edge_index, interactions, origin)
    check_parity(packed, rows, num_users, config.seed)

    packed.save(run_dir / "model.nq")
    state = {k: v.detach().cpu().contiguous()
             for k, v in result.model.state_dict().items()}
    write_atomic(run_dir / "model.safetensors", [
        # One entry: safetensors keeps no order among several, and the same
        # run has to give the same bytes.
        save(state, {"config": json.dumps(origin)})
    ])

    evaluated = time.monotonic()
    served = PackedRecommender.open(run_dir / "model.nq")
    metrics: dict[str, Any] = {
        "test": evaluate_split(packed_topk(served), interactions, "test"),
        "test_training_path": evaluate_split(
            torch_topk(rows[:num_users], rows[num_users:]), interactions,
            "test"),
        # Of the model that was chosen, before it was refitted on these edges:
        "val": result.val.get("trained", {}),
        "float": float_metrics(result, interactions),
        "teacher": teacher_metrics(result, interactions),
        "storage": storage(served, run_dir),
        "data": data_facts(interactions),
    }
    if result.exact_embedding is not None:
        metrics["distortion"] = measure_distortion(
            result.exact_embedding.cpu(), rows, num_users,
            metrics["storage"]["embedding_bytes"], config.seed,
            config.quant.temperature,
            None if config.quant.distill_seen else SeenItems(
                trained_pairs(result, num_users), num_users))
    end = time.monotonic()
    metrics["timing"] = {
        "train_seconds": result.seconds, "steps": result.steps,
        "evaluation_seconds": end - evaluated, "total_seconds": end - start,
        "peak_bytes_training": training_peak,
        "peak_bytes_total": peak_memory(),
        "threads": torch.get_num_threads(),
        "device": str(result.edge_index.device),
    }
    metrics["versions"] = versions()
    write_atomic(run_dir / "metrics.json",
                 [json.dumps(metrics, indent=2).encode()])
    return metrics


def trained_pairs(result: TrainingResult, num_users: int) -> Tensor:
    r"""The users and items :math:`(2, M)` that the model was trained on."""
    edges = result.edge_index.cpu()
    users, items = edges[:, edges[0] < num_users]
    return torch.stack([users, items - num_users])


def provenance(config: ExperimentConfig, interactions: Interactions,
               teacher: Optional[Teacher] = None) -> dict[str, Any]:
    r"""What a packed file tells of its making. Packed files are shared, so it
    names no path of the machine, and nothing that changes between machines: a
    teacher by its content.
    """
    quant = as_dict(config.quant)
    quant["teacher"] = None if teacher is None else teacher.digest
    return {"data": interactions.name, "seed": config.seed,
            "model": as_dict(config.model), "quant": quant,
            "loss": as_dict(config.loss)}


def evaluate_split(topk: Any, interactions: Interactions,
                   split: str) -> dict[str, float]:
    r"""Full ranking of a split; empty if the split is."""
    if getattr(interactions, split).size(1) == 0:
        return {}
    return evaluate_ranking(topk, interactions, split)


def float_metrics(result: TrainingResult,
                  interactions: Interactions) -> dict[str, Any]:
    r"""The same full ranking of the float model, if one was trained."""
    if result.float_embedding is None:
        return {}
    rows, num_users = result.float_embedding.cpu(), interactions.num_users
    topk = torch_topk(rows[:num_users], rows[num_users:])
    return {"test": evaluate_split(topk, interactions, "test"),
            "val": result.val.get("float", {})}


def teacher_metrics(result: TrainingResult,
                    interactions: Interactions) -> dict[str, Any]:
    r"""The same full ranking of what was distilled, if that is not the float
    model.
    """
    if result.taught is None:
        return {}
    rows, num_users = result.taught.rows.cpu(), interactions.num_users
    topk = torch_topk(rows[:num_users], rows[num_users:])
    return {"test": evaluate_split(topk, interactions, "test"),
            "val": result.val.get("teacher", {}),
            "popularity_discount": result.taught.discount}


def check_parity(packed: PackedRecommender, rows: Tensor, num_users: int,
                 seed: int, num_pairs: int = 4096) -> None:
    r"""Compares scores of random pairs from both paths, each user and each
    item in at least one of them; a file that does not score as the model
    that was trained must not be written.
    """
    generator = np.random.default_rng(seed)
    count = max(num_pairs, packed.num_users, packed.num_items)
    every_user = generator.permutation(count) % packed.num_users
    every_item = generator.permutation(count) % packed.num_items
    worst = 0.0
    for start in range(0, count, num_pairs):
        users = every_user[start:start + num_pairs]
        items = every_item[start:start + num_pairs]
        terms = (rows[:num_users].numpy()[users].astype(np.float64) *
                 rows[num_users:].numpy()[items])
        scores = (packed.served_users.dequantize(users).astype(np.float64) *
                  packed.served_items.dequantize(items)).sum(1)
        gap = np.abs(scores - terms.sum(1))
        bound = SCORE_TOLERANCE * np.abs(terms).sum(1)
        if not bool((gap <= bound).all()):  # NaN is not within bounds either
            excess = gap / np.maximum(bound, 1e-300)
            worst = max(worst, float(np.nan_to_num(excess, nan=np.inf).max()))
    if worst > 0:
        raise RuntimeError(f"packed scores differ from trained ones by up to "
                           f"{worst * SCORE_TOLERANCE:.2g} of sum |q x| "
                           f"(allowed: {SCORE_TOLERANCE:g}); nothing was "
                           f"packed")


def storage(served: PackedRecommender, run_dir: Path) -> dict[str, Any]:
    r"""Sizes as stored; the file on disk has the last word."""
    sizes = served.storage()
    on_disk = (run_dir / "model.nq").stat().st_size
    if sizes["file_bytes"] != on_disk:
        raise RuntimeError(f"'model.nq' has {on_disk} bytes, not the "
                           f"{sizes['file_bytes']} its parts add up to")
    return {**sizes, "resident_bytes": served.resident_bytes}


def data_facts(interactions: Interactions) -> dict[str, Any]:
    r"""Sizes of the data, and what reading did to it."""
    return {
        "name": interactions.name,
        "num_users": interactions.num_users,
        "num_items": interactions.num_items,
        "num_train": int(interactions.train.size(1)),
        "num_val": int(interactions.val.size(1)),
        "num_test": int(interactions.test.size(1)),
        **interactions.counts,
    }


def peak_memory() -> Optional[int]:
    r"""The process's largest resident memory so far, in bytes; :obj:`None`
    where the system does not tell.
    """
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def versions() -> dict[str, str]:
    r"""Versions of Python and of the packages a result depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
