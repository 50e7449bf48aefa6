r"""Times one training step of each stage, side by side in one run.

The steps are the trainer's own, on the same batches, and take turns: the float
model (BPR), fine-tuning of node-aware rows without and with the distillation,
and fine-tuning of transform-coded rows. Medians count. The last lines are what
follows from them: what comes after the float model, at its default number of
steps, as a share of 2,400 float steps.

.. code-block:: console

    python benchmarks/bench_stages.py --root "$NODEQUANT_DATA" --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch
from bench_evaluation import cpu_name

from pyg_nodequant.config import (
    DataConfig,
    ExperimentConfig,
    NodeQuantConfig,
    TrainerConfig,
)
from pyg_nodequant.data import BPRSampler, Interactions, load_interactions
from pyg_nodequant.training.journal import Journal
from pyg_nodequant.training.recipe import RecipeRun
from pyg_nodequant.training.stages import STAGES, FloatStage, Stage

FLOAT_STEPS = 2400
TRANSFORM = {"recipe": "transform", "distill_seen": False,
             "temperature": 0.4, "sensitivity_power": 0.6, "bpr_weight": 0.0}


def make_stage(name: str, config: ExperimentConfig, data: Interactions,
               steps: int) -> tuple[Stage, float]:
    """A stage that is ready for its first step, and how long that took."""
    run = RecipeRun("select", config, data, torch.device("cpu"),
                    Journal(config, data, None))
    run.float_state = {k: v.clone() for k, v in run.model.state_dict().items()}
    start = time.perf_counter()
    if name == "finetune":
        run.prepare_finetuning()
    elif name == "transform":
        run.prepare_transform()
    seconds = time.perf_counter() - start
    stage = (FloatStage if name == "float" else STAGES[name])(
        run.context, steps)
    stage.prepare()
    run.served.train()
    return stage, seconds


def one_step(stage: Stage, index: int, batch: tuple[torch.Tensor, ...],
             ) -> float:
    """Seconds of one step as the trainer takes it."""
    start = time.perf_counter()
    stage.begin_step(index)
    loss = stage.loss(index, *batch)
    stage.optimizer.zero_grad()
    loss.backward()
    stage.after_backward()
    stage.optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="folder with ml-1m/")
    parser.add_argument("--data", default="ml-1m")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load_interactions(DataConfig(
        name="lightgcn_txt", path=f"{options.root}/{options.data}"))
    data = data.without_test()
    config = ExperimentConfig(trainer=TrainerConfig(progress=False))
    sampler = BPRSampler(data.train, data.num_users, data.num_items,
                         config.trainer.batch_size)
    quants = {
        "float": ("float", NodeQuantConfig("float")),
        "BPR, quantized": ("finetune", NodeQuantConfig(distill_weight=0.0)),
        "BPR + KL, quantized": ("finetune", NodeQuantConfig()),
        "KL, quantized": ("finetune", NodeQuantConfig(bpr_weight=0.0)),
        "transform": ("transform", NodeQuantConfig(**TRANSFORM)),
    }
    print(f"{cpu_name()}, {options.threads} thread(s), torch "
          f"{torch.__version__}; {data.num_nodes:,} nodes, "
          f"{2 * data.train.size(1):,} directed edges, batch "
          f"{config.trainer.batch_size}")
    stages, prepared = {}, {}
    for name, (kind, quant) in quants.items():
        stages[name], prepared[name] = make_stage(
            kind, replace(config, quant=quant), data, sampler.steps_per_epoch)
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    batches = sampler.epoch(0)
    for index in range(options.rounds + 1):  # the first one warms up
        batch = next(batches)
        for name, stage in stages.items():
            one_step(stage, 2 * index, batch)  # the caches were another's
            value = one_step(stage, 2 * index + 1, batch)
            if index > 0:
                seconds[name].append(value)
    median = {name: statistics.median(s) for name, s in seconds.items()}
    base = median["float"]
    for name, value in median.items():
        spread = max(seconds[name]) - min(seconds[name])
        print(f"{name:20s} {1000 * value:8.1f} ms a step (median of "
              f"{options.rounds}, spread {1000 * spread:.1f}), "
              f"{value / base:.3f} of float; prepared in "
              f"{prepared[name]:.1f} s")
    for name in ("BPR + KL, quantized", "transform"):
        steps = quants[name][1].finetune_steps
        after = prepared[name] + steps * median[name]
        print(f"{name}: {steps} steps and what prepares them take "
              f"{after:.0f} s, {after / (FLOAT_STEPS * base):.2f} of "
              f"{FLOAT_STEPS} float steps")


if __name__ == "__main__":
    main()
