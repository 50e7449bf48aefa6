r"""Time and memory of Gowalla's graph, a short training and an evaluation.

Reads the data, builds the normalised adjacency, trains a few hundred steps by
the default recipe (``quant=node_aware``, so distillation is in the peak too)
and ranks every item for every user, from the training path and from the
packed file. Prints seconds and the process's peak resident memory after each.

.. code-block:: console

    python benchmarks/bench_gowalla.py --root "$NODEQUANT_DATA" --threads 2
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from bench_evaluation import cpu_name

from pyg_nodequant import NodeQuantConfig, PackedRecommender, Trainer
from pyg_nodequant.config import DataConfig, ExperimentConfig, TrainerConfig
from pyg_nodequant.data import load_interactions
from pyg_nodequant.functional import build_adjacency
from pyg_nodequant.training import pack_model
from pyg_nodequant.training.evaluation import (
    evaluate_ranking,
    packed_topk,
    torch_topk,
)
from pyg_nodequant.training.experiment import peak_memory


class Clock:
    """Prints how long each part took, and the memory peak so far."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def lap(self, what: str) -> None:
        seconds = time.perf_counter() - self.start
        print(f"{what:38s} {seconds:8.2f} s   peak "
              f"{peak_memory() / 2**20:7.0f} MiB", flush=True)
        self.start = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="folder with gowalla/")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--finetune-steps", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{cpu_name()}, {options.threads} thread(s), torch "
          f"{torch.__version__}")

    clock = Clock()
    data = load_interactions(DataConfig(name="gowalla", root=options.root))
    clock.lap("read and split")
    edge_index = data.edge_index("train")
    clock.lap("edge list")
    build_adjacency(edge_index, data.num_nodes)
    clock.lap("normalised adjacency")
    config = ExperimentConfig(
        quant=NodeQuantConfig(finetune_steps=options.finetune_steps),
        trainer=TrainerConfig(max_epochs=options.epochs, progress=False,
                              threads=options.threads))
    result = Trainer(config).fit(data)
    clock.lap(f"training, {options.epochs} epochs + "
              f"{options.finetune_steps} steps")
    rows = result.embedding()
    for lap in ("first", "second"):
        evaluate_ranking(
            torch_topk(rows[:data.num_users], rows[data.num_users:]), data)
        clock.lap(f"all users, training path ({lap})")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.nq"
        pack_model(result.model, result.edge_index, data).save(path)
        packed = PackedRecommender.open(path)
        clock.lap("pack, save, open")
        for lap in ("first", "second"):
            evaluate_ranking(packed_topk(packed), data)
            clock.lap(f"all users, packed path ({lap})")


if __name__ == "__main__":
    main()
