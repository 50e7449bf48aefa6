
import pytest
import torch

from pyg_nodequant import functional as F
from pyg_nodequant.data import synthetic_interactions
from pyg_nodequant.training import Trainer, pack_model
from pyg_nodequant.training.evaluation import evaluate_ranking, torch_topk

MIXED = {"interval": "message_passing", "interval_mix": 0.3}
RELATED = {"gradient": "relation", "relation_weight": 0.5}


@pytest.mark.parametrize("options", [
    {"recipe": "node_aware", **MIXED, **RELATED},
    {"recipe": "paper", "where": "both", **MIXED},
    {"recipe": "learned", "learn_steps": 16, "where": "input", **RELATED}])
@pytest.mark.parametrize("run, stage", [("select", 1), ("refit", 1)])
def test_resuming(options, run, stage, trained, check_resumes):
    stages = [n for n in trained(**options).steps if "_" not in n]
    check_resumes(run, stages[stage], 8, **options)


def test_budgets_of_bytes(data, trained):
    result = trained(bytes_per_node=9.0, **MIXED, trainer={"refit": False})
    packed = pack_model(result.model, result.edge_index, data)
    size = packed.storage()["embedding_bytes"]
    assert 0.97 * 1890 <= size <= 1890


@pytest.mark.parametrize("options", [MIXED, RELATED])
def test_they_train_as_stably_as_without(options, settings):
    larger = synthetic_interactions(400, 300, 10000)

    def fit(**quant):
        result = Trainer(settings(
            "node_aware", model={"embedding_dim": 16}, target_bits=1.3,
            distill_users=256, trainer={
                "max_epochs": 60, "eval_every": 20, "batch_size": 2000,
                "refit": False}, **quant)).fit(larger)
        rows = result.embedding()
        scores, target = (x[:400] @ x[400:].t() for x in (
            rows, result.float_embedding))
        return (float(F.listwise_kl_loss(scores, target)), evaluate_ranking(
            torch_topk(rows[:400], rows[400:]), larger, "test")["ndcg@20"],
            float(torch.linalg.matrix_rank(rows, rtol=1e-2)))

    start, _, _ = fit(**options, finetune_steps=0)
    distance, ndcg, rank = fit(**options, finetune_steps=120)
    _, plain, plain_rank = fit(finetune_steps=120)
    assert distance < 0.75 * start
    assert ndcg > 0.95 * plain
    assert rank == plain_rank == 16  # no collapse
