from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest
import torch

from pyg_nodequant.config import (
    ExperimentConfig,
    LossConfig,
    ModelConfig,
    NodeQuantConfig,
    OptimizerConfig,
    TrainerConfig,
)
from pyg_nodequant.data import Interactions, synthetic_interactions
from pyg_nodequant.training import Trainer, TrainingResult, pack_model
from pyg_nodequant.training.journal import Journal


class Stopped(RuntimeError):
    """What ends a run in the middle."""


@pytest.fixture(scope="session")
def data() -> Interactions:
    """120 users, 90 items, 1,728 training interactions."""
    return synthetic_interactions(120, 90, 2400)


@pytest.fixture(scope="session")
def settings() -> Callable[..., ExperimentConfig]:
    """Makes settings of a run that takes a fraction of a second."""

    def make(
        recipe: str = "node_aware",
        *,
        seed: int = 0,
        model: Any = (),
        loss: Any = (),
        optimizer: Any = (),
        trainer: Any = (),
        **quant: Any,
    ) -> ExperimentConfig:
        return ExperimentConfig(
            seed=seed,
            model=ModelConfig(**{"embedding_dim": 8, "num_layers": 2,
                                 **dict(model)}),
            quant=NodeQuantConfig(recipe, **{
                "finetune_steps": 20, "distill_users": 32, **quant}),
            loss=LossConfig(**dict(loss)),
            optimizer=OptimizerConfig(**dict(optimizer)),
            trainer=TrainerConfig(**{
                "max_epochs": 8, "batch_size": 500, "eval_every": 8,
                "checkpoint_minutes": 0.0, "progress": False,
                **dict(trainer)}))

    return make


@pytest.fixture(scope="session")
def packed_bytes(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[TrainingResult, Interactions], bytes]:
    """The bytes of the packed file of a result."""
    path = tmp_path_factory.mktemp("packed") / "model.nq"

    def pack(result: TrainingResult, data: Interactions) -> bytes:
        pack_model(result.model, result.edge_index, data).save(path)
        return path.read_bytes()

    return pack


@pytest.fixture(scope="session")
def state_bytes() -> Callable[[torch.nn.Module], bytes]:
    """A module's state as bytes: equal only if bit-identical."""

    def dump(module: torch.nn.Module) -> bytes:
        out = io.BytesIO()
        for name, tensor in sorted(module.state_dict().items()):
            flat = tensor.detach().cpu().contiguous().view(-1)
            out.write(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            out.write(flat.view(torch.uint8).numpy().tobytes())
        return out.getvalue()

    return dump


@pytest.fixture
def stop_at(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., None]:
    """Runs a training that dies right after it has written the checkpoint of
    a step, or, without one, that of the end of a stage.
    """

    def train(config: ExperimentConfig, data: Interactions, folder: Path,
              run: str, stage: str, step: Optional[int]) -> None:

        def save(self: Journal, *, state: dict[str, Any],
                 **parts: Any) -> None:
            original(self, state=state, **parts)
            ended = stage in state["done"]
            if ((state["run"], state["stage"]) == (run, stage) and
                    (ended if step is None
                     else state["progress"]["step"] == step and not ended)):
                raise Stopped

        original = Journal.save
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "save", save)
            with pytest.raises(Stopped):
                Trainer(config, folder).fit(data)

    return train


@pytest.fixture(scope="session")
def trained(
    data: Interactions,
    settings: Callable[..., ExperimentConfig],
) -> Callable[..., TrainingResult]:
    """Trains by settings, each only once; results are not to be changed."""
    done: dict[str, TrainingResult] = {}

    def train(*args: Any, **kwargs: Any) -> TrainingResult:
        config = settings(*args, **kwargs)
        if repr(config) not in done:
            done[repr(config)] = Trainer(config).fit(data)
        return done[repr(config)]

    return train


@pytest.fixture
def check_resumes(data, trained, settings, packed_bytes, state_bytes, stop_at,
                  tmp_path):
    """Stops a run, resumes it, and expects the end of the whole run: returns
    both results.
    """

    def timeless(rows: Any) -> Any:
        return [{k: v for k, v in row.items() if k != "seconds"}
                for row in rows]

    def check(run: str, stage: str, step: Optional[int], **options: Any
              ) -> tuple[TrainingResult, TrainingResult]:
        expected, config = trained(**options), settings(**options)
        stop_at(config, data, tmp_path, run, stage, step)
        torch.manual_seed(7)
        resumed = replace(config, trainer=replace(config.trainer,
                                                  resume=str(tmp_path)))
        result = Trainer(resumed, tmp_path).fit(data)
        assert state_bytes(result.model) == state_bytes(expected.model)
        assert packed_bytes(result, data) == packed_bytes(expected, data)
        assert timeless(result.history) == timeless(expected.history)
        assert (result.val, result.steps) == (expected.val, expected.steps)
        return result, expected

    return check
