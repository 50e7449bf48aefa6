r"""Times one training step on Gowalla, side by side in one run.

Four steps take turns on the same batches (BPR, L2, Adam; batch 2048, 3 layers
of 64 numbers): PyG's LightGCN in float on a plain ``edge_index`` and on a
torch CSR matrix, ours in float, and ours quantized (``where="output"``, widths
trained jointly with the storage loss). Medians count; the ratios are printed
with the machine and the number of threads.

.. code-block:: console

    python benchmarks/bench_step.py --root "$NODEQUANT_DATA" --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from bench_evaluation import cpu_name
from torch import Tensor
from torch_geometric.nn import LightGCN
from torch_geometric.utils import to_torch_csr_tensor

from pyg_nodequant import NodeQuantConfig, QuantLightGCN
from pyg_nodequant.config import DataConfig
from pyg_nodequant.data import BPRSampler, load_interactions
from pyg_nodequant.functional import bpr_loss, l2_loss

LAYERS, DIM, L2, LAMBDA = 3, 64, 1e-4, 1e-5


def pyg_step(model: LightGCN, graph: Tensor, optimizer, nodes: Tensor) -> None:
    """One step as PyG's own examples write it."""
    users, positives, negatives = nodes.chunk(3)
    pairs = torch.stack([users.repeat(2), torch.cat([positives, negatives])])
    scores = model(graph, pairs)
    loss = model.recommendation_loss(*scores.chunk(2), node_id=nodes,
                                     lambda_reg=L2)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def our_step(model: QuantLightGCN, graph: Tensor, optimizer,
             nodes: Tensor) -> None:
    """One step as our trainer takes it."""
    rows = model.get_embedding(graph, n_id=nodes)
    latent = torch.nn.functional.embedding(nodes, model.embedding.weight)
    loss = bpr_loss(*rows.chunk(3)) + L2 * l2_loss(*latent.chunk(3))
    if model.quantization_enabled:
        loss = loss + LAMBDA * model.storage_loss()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="folder with gowalla/")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--range", default="symmetric")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    data = load_interactions(DataConfig(name="gowalla", root=options.root))
    edge_index = data.edge_index("train")
    csr = to_torch_csr_tensor(edge_index, size=data.num_nodes)
    print(f"{cpu_name()}, {options.threads} thread(s), torch "
          f"{torch.__version__}; {data.num_nodes:,} nodes, "
          f"{edge_index.size(1):,} directed edges, batch "
          f"{options.batch_size}")

    def ours(recipe: str) -> QuantLightGCN:
        quant = NodeQuantConfig(recipe=recipe, range=options.range)
        return QuantLightGCN(data.num_nodes, DIM, LAYERS, quant=quant,
                             degree=data.degree("train"))

    torch.manual_seed(0)
    runs: dict[str, tuple[Callable[..., None], LightGCN, Tensor]] = {
        "PyG edge_index": (pyg_step, LightGCN(data.num_nodes, DIM, LAYERS),
                           edge_index),
        "PyG torch CSR": (pyg_step, LightGCN(data.num_nodes, DIM, LAYERS),
                          csr),
        "ours float": (our_step, ours("float"), edge_index),
        "ours quantized": (our_step, ours("paper"), edge_index),
    }
    optimizers = {name: torch.optim.Adam(model.parameters(), fused=True)
                  for name, (_, model, _) in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    batches = BPRSampler(data.train, data.num_users, data.num_items,
                         options.batch_size).epoch(0)
    for index in range(options.rounds + 1):  # the first one warms up
        users, positives, negatives = next(batches)
        nodes = torch.cat([users, positives + data.num_users,
                           negatives + data.num_users])
        for name, (step, model, graph) in runs.items():
            # Each turn warms up with one step: the one before it belonged to
            # another model, whose memory it inherits.
            for warm in (False, True, True):
                start = time.perf_counter()
                step(model, graph, optimizers[name], nodes)
                if index > 0 and warm:
                    seconds[name].append(time.perf_counter() - start)

    median = {name: statistics.median(s) for name, s in seconds.items()}
    for name, value in median.items():
        spread = max(seconds[name]) - min(seconds[name])
        print(f"{name:16s} {1000 * value:9.1f} ms a step (median of "
              f"{options.rounds}, spread {1000 * spread:.1f})")
    base = median["ours float"]
    quantized = median["ours quantized"]
    for name in ("PyG edge_index", "PyG torch CSR"):
        print(f"{name:14s} / ours float     {median[name] / base:6.2f}")
        print(f"{name:14s} / ours quantized {median[name] / quantized:6.2f}")
    print(f"ours quantized / ours float    {quantized / base:6.3f}")


if __name__ == "__main__":
    main()
