r"""What a run writes while it trains: its history and its checkpoint."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor

from pyg_nodequant.config import ExperimentConfig
from pyg_nodequant.data import Interactions
from pyg_nodequant.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from pyg_nodequant.training.history import History


class Journal:
    r"""Keeps the rows of the history and writes checkpoints.

    Args:
        config (ExperimentConfig): All settings.
        data (Interactions): What the run trains on.
        run_dir (Path, optional): Where files go; :obj:`None` for nowhere.
        teacher (str, optional): The digest of the rows that are distilled
            instead of the float model's.
    """

    def __init__(self, config: ExperimentConfig, data: Interactions,
                 run_dir: Optional[Path],
                 teacher: Optional[str] = None) -> None:
        self.config = config
        self.run_dir = run_dir
        self.rows: list[dict[str, Any]] = []
        self._fingerprint = fingerprint(config, data, teacher)
        self._history: Optional[History] = None

    def open(self) -> Optional[Checkpoint]:
        r"""Returns the checkpoint to resume, and takes over its history.

        Raises:
            CheckpointError: If it is of another run, or cannot be read.
        """
        path = self.config.trainer.resume
        if path is None:
            return None
        checkpoint = load_checkpoint(path)
        theirs = checkpoint.state.get("fingerprint", "{}")
        if theirs != self._fingerprint:
            raise CheckpointError(
                f"'trainer.resume' needs a checkpoint of the same seed, "
                f"model, quantization and data (differing: "
                f"{', '.join(differences(theirs, self._fingerprint))})")
        for row in checkpoint.state["history"]:
            self.record(row)
        return checkpoint

    def record(self, row: dict[str, Any]) -> None:
        r"""Adds a row to the history."""
        self.rows.append(row)
        if self.run_dir is None:
            return
        if self._history is None:
            self._history = History(self.run_dir,
                                    logger=self.config.trainer.logger)
        self._history.append(row)

    def save(
        self,
        *,
        model: dict[str, Tensor],
        optimizer: dict[str, Any],
        best: dict[str, Tensor],
        state: dict[str, Any],
        groups: dict[str, dict[str, Tensor]],
    ) -> None:
        r"""Replaces the checkpoint by the current state."""
        if self.run_dir is None:
            return
        save_checkpoint(
            self.run_dir, model=model, optimizer=optimizer, best=best,
            state={**state, "history": self.rows,
                   "fingerprint": self._fingerprint},
            groups={name: group for name, group in groups.items() if group})

    def close(self) -> None:
        r"""Writes what loggers still buffer."""
        if self._history is not None:
            self._history.close()


def fingerprint(config: ExperimentConfig, data: Interactions,
                teacher: Optional[str] = None) -> str:
    r"""What a checkpoint must share with the run that resumes it: whatever
    decides what a step is, and how many runs there are. A teacher counts by
    its content, wherever it lies.
    """
    settings = asdict(config)
    given: dict[str, Any] = {}
    if teacher is not None:
        given["teacher"] = teacher
        settings["quant"]["teacher"] = "given"
    edges = torch.cat([data.train, data.val], dim=1).cpu().contiguous()
    return json.dumps({
        **given,
        "seed": settings["seed"],
        "model": settings["model"],
        "quant": settings["quant"],
        "loss": settings["loss"],
        "batch_size": settings["trainer"]["batch_size"],
        "refit": settings["trainer"]["refit"],
        "nodes": [data.num_users, data.num_items],
        "interactions": [data.train.size(1), data.val.size(1),
                         zlib.crc32(edges.numpy().data)],
    }, sort_keys=True)


def differences(a: str, b: str) -> list[str]:
    r"""The entries in which two fingerprints differ.

    Example:
        >>> differences('{"seed": 0, "nodes": [1, 2]}',
        ...             '{"seed": 1, "nodes": [1, 2]}')
        ['seed']
    """
    left, right = json.loads(a), json.loads(b)
    return [key for key in right if left.get(key) != right[key]]
