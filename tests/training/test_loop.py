import math

import pytest
import torch

from pyg_nodequant.data import BPRSampler, Interactions
from pyg_nodequant.training.evaluation import evaluate_ranking, torch_topk
from pyg_nodequant.training.loop import (
    StageLoop,
    TrainingError,
    copy_state,
    validate,
)
from pyg_nodequant.training.recipe import new_model
from pyg_nodequant.training.stages import STAGES, TrainingContext


@pytest.fixture
def make_loop(data, settings):
    def make(stage="float", data=data, **trainer):
        config = settings("paper", trainer=trainer)
        data = data.without_test()
        context = TrainingContext(new_model(config, data), data,
                                  data.edge_index("train"), config)
        sampler = BPRSampler(data.train, data.num_users, data.num_items,
                             config.trainer.batch_size)
        rows, saved = [], []
        loop = StageLoop(STAGES[stage](context, sampler.steps_per_epoch),
                         context, sampler, rows.append,
                         lambda stage, progress: saved.append(progress.step))
        loop.rows, loop.saved = rows, saved
        return loop

    return make


@pytest.fixture
def scores(monkeypatch):
    """Replaces the validation metrics by a list of them."""
    def replace(values):
        values = iter(values)
        monkeypatch.setattr(
            "pyg_nodequant.training.loop.validate",
            lambda context: {"ndcg@20": next(values), "recall@20": 0.0})

    return replace


def test_every_step_and_every_batch_once(make_loop):
    loop = make_loop()
    seen = []
    loss = loop.stage.loss

    def spy(step, users, positives, negatives):
        seen.append((step, torch.stack([users, positives])))
        return loss(step, users, positives, negatives)

    loop.stage.loss = spy
    assert loop.run() is loop.progress
    per_epoch = loop.sampler.steps_per_epoch
    assert per_epoch == 4
    assert [step for step, _ in seen] == list(range(8 * per_epoch))
    for epoch in range(8):
        edges = torch.cat([edges for _, edges in seen[4 * epoch:][:4]], 1)
        order = (edges[0] * 90 + edges[1]).argsort()
        assert torch.equal(edges[:, order], loop.context.data.train)


def test_rows_of_the_history(make_loop):
    loop = make_loop(max_epochs=5)
    loop.run()
    assert [row["step"] for row in loop.rows] == [8, 16, 20]  # and the last
    assert [row["epoch"] for row in loop.rows] == [1, 3, 4]
    assert loop.saved == [8, 16, 20]
    for row in loop.rows:
        assert list(row) == ["stage", "epoch", "step", "loss", "mean_bits",
                             "val_recall@20", "val_ndcg@20", "lr", "seconds"]
        assert row["stage"] == "float" and row["mean_bits"] == 32.0
    loop = make_loop("joint", max_epochs=2)
    loop.run()
    bits = loop.context.model.embedding.controller.bit_width.double().mean()
    assert loop.rows[-1]["mean_bits"] == pytest.approx(float(bits))


def test_checkpoints_wait_for_their_time(make_loop):
    loop = make_loop(checkpoint_minutes=60.0)
    loop.run()
    assert loop.saved == [] and len(loop.rows) == 4


def test_the_best_model_on_validation_stays(make_loop, scores):
    scores([0.1, 0.4, 0.3, 0.2])
    loop = make_loop(anneal=0.0)
    states, evaluate = [], loop.evaluate

    def spy():
        states.append(copy_state(loop.context.model))
        return evaluate()

    loop.evaluate = spy
    progress = loop.run()
    assert (progress.step, progress.best_step) == (32, 16)
    assert progress.best_metric == 0.4
    for name, value in copy_state(loop.context.model).items():
        assert torch.equal(value, states[1][name])
    assert not torch.equal(states[1]["embedding.weight"],
                           states[3]["embedding.weight"])


def test_the_fall_goes_on_from_the_best_model(make_loop, scores):
    scores([0.1, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1])
    loop = make_loop(max_epochs=20, patience=2, anneal=0.5)
    schedule, starts, step = loop.stage.schedule, {}, loop.train_step

    def spy(batch):
        starts[schedule.step] = copy_state(loop.context.model)
        return step(batch)

    loop.train_step = spy
    progress = loop.run()
    # The best came at 16, validation stalled at 32, the fall takes 16 / 2.
    assert (schedule.anneal_from, progress.step) == (32, 40)
    assert schedule.plan == (16, 24)
    for name, value in starts[32].items():
        assert torch.equal(value, starts[16][name])


def test_the_fall_may_find_a_better_model(make_loop, scores):
    scores([0.1, 0.4, 0.3, 0.2, 0.5])
    loop = make_loop(max_epochs=20, patience=2, anneal=0.5)
    assert loop.run().best_step == 40


def test_joint_training_keeps_only_settled_models(make_loop, scores):
    scores([0.9, 0.8, 0.7, 0.6])
    progress = make_loop("joint", anneal=0.5).run()
    # The fall begins after 22 of 32 steps.
    assert (progress.best_step, progress.best_metric) == (24, 0.7)


def test_joint_training_throws_no_step_away(make_loop, scores):
    # Its fall goes on from the model as it is, so a refit has to repeat all
    # steps before it.
    scores([0.9, 0.8, 0.7] + [0.6] * 20)
    loop = make_loop("joint", max_epochs=40, patience=2, anneal=0.5)
    loop.run()
    assert loop.stage.schedule.plan == (24, 36)


def test_without_validation_the_last_model_stays(data, make_loop):
    bare = Interactions.from_edges(data.train, num_users=120, num_items=90,
                                   val_fraction=0.0)
    loop = make_loop(data=bare, max_epochs=3)
    assert validate(loop.context) == {}
    progress = loop.run()
    assert progress.best == {} and progress.step == 12
    assert progress.best_metric == -math.inf
    assert all("val_ndcg@20" not in row for row in loop.rows)


def test_validation_ranks_what_would_be_served(data, make_loop):
    loop = make_loop("joint")
    model = loop.context.model
    loop.stage.prepare()
    model.train()
    found = validate(loop.context)
    assert model.training
    rows = model.eval().get_embedding(loop.context.edge_index).detach()
    expected = evaluate_ranking(torch_topk(rows[:120], rows[120:]), data,
                                "val")
    assert found == {key: expected[key] for key in ("recall@20", "ndcg@20")}


@pytest.mark.parametrize("first", [0, 5, 7])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_training(make_loop, first, value):
    loop = make_loop()
    loss = loop.stage.loss
    loop.stage.loss = lambda step, *batch: (
        loss(step, *batch) * (value if step >= first else 1.0))
    with pytest.raises(TrainingError, match=r"stage 'float' became (nan|inf) "
                       r"by step 8 at a learning rate of 0\.01; lower"):
        loop.run()
    assert loop.saved == []


@pytest.mark.parametrize("limit, anneal", [(30.0, 0.5), (12.0, 2.0)])
def test_the_clock_begins_the_fall_in_time(make_loop, monkeypatch, limit,
                                           anneal):
    now = [1000.0]
    monkeypatch.setattr("pyg_nodequant.training.loop.time.monotonic",
                        lambda: now[0])
    loop = make_loop(max_epochs=1000, max_minutes=limit / 60, anneal=anneal)
    step = loop.train_step

    def one_second(batch):
        now[0] += 1.0
        return step(batch)

    loop.train_step = one_second
    progress = loop.run()
    assert loop.stage.schedule.anneal_from == limit / (1 + anneal)
    assert progress.step == progress.seconds == limit


def test_a_progress_bar_shows_loss_bits_and_validation(make_loop, capsys,
                                                       monkeypatch):
    loop = make_loop(max_epochs=2)
    loop.run()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    loop = make_loop(max_epochs=2, progress=True)
    loop.run()
    shown = capsys.readouterr().err
    for part in ("float", "loss=", "bits=32.00", "val="):
        assert part in shown
