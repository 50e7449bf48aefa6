r"""Float models that are trained once and used by many runs.

Runs of one data set, seed and encoder that differ in their quantization alone
begin with the same float model. Here it is kept under a name made of all that
it depends on, so that a sweep trains it once.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pyg_nodequant.config import ExperimentConfig
from pyg_nodequant.data import Interactions
from pyg_nodequant.runtime.atomic import write_atomic

# What does not change a model: where, how loudly and how often it is saved.
_NO_MATTER = ("device", "threads", "resume", "checkpoint_minutes", "progress",
              "logger", "refit", "float_cache")


class FloatCache:
    r"""A folder of float models.

    Args:
        folder (str): The folder; made when something is written.
        config (ExperimentConfig): All settings.
        data (Interactions): What is trained on and, if it has a validation
            split, chosen by.
        plan (tuple, optional): The course that is repeated, if one is.
    """

    def __init__(self, folder: str, config: ExperimentConfig,
                 data: Interactions,
                 plan: Optional[tuple[int, int]] = None) -> None:
        settings = asdict(config)
        content = hashlib.blake2b(digest_size=16)
        for edges in (data.train, data.val):
            content.update(edges.cpu().contiguous().numpy().tobytes())
        trainer = {k: v for k, v in settings["trainer"].items()
                   if k not in _NO_MATTER}
        key = json.dumps({
            "version": 1, "seed": config.seed, "model": settings["model"],
            "optimizer": settings["optimizer"], "trainer": trainer,
            "loss": settings["loss"],
            "nodes": [data.num_users, data.num_items],
            "sizes": [data.train.size(1), data.val.size(1)],
            "edges": content.hexdigest(), "plan": plan,
        }, sort_keys=True)
        name = hashlib.blake2b(key.encode(), digest_size=12).hexdigest()
        self.path = Path(folder) / f"{data.name}_{name}.safetensors"

    def load(self) -> Optional[tuple[Tensor, dict[str, Any]]]:
        r"""Returns the layer-0 table and what was saved with it, or
        :obj:`None` if there is no such model, or none that can be read.
        """
        try:
            with safe_open(self.path, "pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                return file.get_tensor("weight"), dict(facts)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def save(self, weight: Tensor, facts: dict[str, Any]) -> None:
        r"""Keeps a trained table.

        Args:
            weight (Tensor): The layer-0 table, :math:`(N, d)`.
            facts (dict): Anything that JSON can hold.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        table = weight.detach().to("cpu", torch.float32).contiguous()
        write_atomic(self.path, [save({"weight": table},
                                      {"facts": json.dumps(facts)})])
