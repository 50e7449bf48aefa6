import numpy as np
import pytest
import torch

from pyg_nodequant import functional as F
from pyg_nodequant.nn import BitWidthController
from pyg_nodequant.training import Trainer
from pyg_nodequant.training.journal import Journal
from pyg_nodequant.training.learn_stage import LearnStage, start_widths
from pyg_nodequant.training.packing import embedding_bytes, pack_rows
from pyg_nodequant.training.recipe import RecipeRun, new_model
from pyg_nodequant.training.schedule import CosineSchedule
from pyg_nodequant.training.stages import (
    ALPHA_EPS,
    ALPHA_LR,
    FinetuneStage,
    TrainingContext,
)

LEARNED = {"recipe": "learned", "learn_steps": 24}


@pytest.fixture
def make_run(data, settings):
    def make(recipe="learned", **options):
        config = settings(recipe, **{"learn_steps": 24, **options})
        kept = data.without_test()
        return RecipeRun("select", config, kept, torch.device("cpu"),
                         Journal(config, kept, None))

    return make


@pytest.fixture
def context(data, settings):
    config = settings("learned", learn_steps=24)
    out = TrainingContext(new_model(config, data), data.without_test(),
                          data.edge_index("train"), config,
                          target_bits=2.0)
    out.teacher = torch.randn(data.num_nodes, 8)
    return out


@pytest.fixture
def batch(data):
    users, positives = data.train[:, :40]
    return users, positives, positives.flip(0)


def test_starting_widths():
    controller = BitWidthController(4, max_bits=8)
    start_widths(controller, torch.tensor([1, 2, 5, 8]))
    expected = torch.tensor([1.25, 2.0, 5.0, 7.75])
    assert torch.allclose(controller().detach(), expected, atol=1e-5)


def test_loss_and_price(context, batch):
    stage, tuning = LearnStage(context, 4), FinetuneStage(context, 4)
    stage.prepare()
    context.model.train()
    controller = context.model.embedding.controller
    excess = float(controller().detach().mean()) - 2.0
    assert excess > 0.5
    stage.dual = F.DualState(0.4, 0.05, 3)
    paid = 0.4 + 4 * 0.05 * excess
    loss = stage.loss(3, *batch)
    plain = tuning.loss(3, *batch)
    assert float((loss - plain).detach()) == pytest.approx(paid * excess,
                                                           rel=1e-3)

    # What a bit is worth: the gradient of the plain loss in the widths.
    own, = torch.autograd.grad(plain, controller.alpha)
    width = 7 * torch.sigmoid(controller.alpha) * torch.sigmoid(
        -controller.alpha)
    worth = -own / width.detach() * 210
    loss.backward()
    stage.after_backward()
    assert stage.dual.steps == 4
    scale = 0.9 * 0.05 + 0.1 * float(worth.abs().mean())
    assert stage.dual.scale == pytest.approx(scale, rel=1e-3)
    assert stage.dual.multiplier == pytest.approx(
        0.4 + 0.1 * scale * 0.25, rel=1e-3)


def test_what_it_trains(context):
    stage = LearnStage(context, 4)
    rows, alpha = stage.optimizer.param_groups
    assert [id(p) for p in alpha["params"]] == [
        id(context.model.embedding.controller.alpha)]
    assert (alpha["lr"], alpha["eps"]) == (ALPHA_LR, ALPHA_EPS)
    assert rows["lr"] == context.config.quant.finetune_lr
    assert any(p is context.model.embedding.weight for p in rows["params"])
    assert isinstance(stage.schedule, CosineSchedule)
    assert stage.schedule.num_steps == 24


def test_its_state(context):
    stage = LearnStage(context, 4)
    stage.dual = F.DualState(0.1, 0.2, 3)
    other = LearnStage(context, 4)
    other.load_state_dict(stage.state_dict())
    assert other.dual == stage.dual
    plain = FinetuneStage(context, 4)
    assert plain.state_dict() == {}
    plain.load_state_dict({})
    with pytest.raises(ValueError, match="'finetune' has no such state"):
        plain.load_state_dict(stage.state_dict())


def test_it_needs_a_budget_and_a_gradient(context, batch):
    stage = LearnStage(context, 4)
    with pytest.raises(RuntimeError, match="got no gradient"):
        stage.after_backward()
    context.target_bits = None
    with pytest.raises(RuntimeError, match="needs a budget"):
        stage.loss(0, *batch)


# The recipe ----------------------------------------------------------------


@pytest.mark.parametrize("where", ["output", "input", "both"])
@pytest.mark.parametrize("target", [1.0, 2.0, 2.37, 8.0])
def test_the_budget_is_met_exactly(target, where, trained):
    result = trained(**LEARNED, target_bits=target, where=where,
                     trainer={"refit": False})
    controller = result.model.embedding.controller
    assert controller.is_frozen
    assert int(controller.bit_width.sum()) == int(210 * target)
    assert list(result.steps) == ["float", "learn", "finetune"]


@pytest.mark.parametrize("options", [
    {"bytes_per_node": 9.0}, {"target_bytes": 1801},
    {"where": "both", "target_compression": 27.0},
    {"bytes_per_node": 9.0, "alpha_start": "degree"}])
def test_budgets_of_bytes(options, make_run):
    run = make_run(**options)
    run.run()
    model, quant = run.model, run.config.quant
    x = model.embedding.weight
    if quant.where == "both":
        x = model.embedding.quantized_weight()
    with torch.no_grad():
        rows = model.propagate_embedding(x, run.context.edge_index)
    size = embedding_bytes(*pack_rows(model.output_quantizer, rows, 120))
    budget = quant.budget_bytes(210)
    assert 0.99 * budget <= size <= budget
    assert len(model.embedding.controller.bit_width.unique()) > 2


def test_starts(make_run, data):
    run = make_run()
    run.run_stage(0, "float", None)
    teacher = run.float_embedding()
    bits = run.node_widths(teacher)
    run.prepare_learning()
    controller = run.model.embedding.controller
    assert not controller.is_frozen
    assert torch.allclose(controller().detach(), bits.clamp(1.25, 7.75),
                          atol=1e-5)
    assert run.context.target_bits == 2.0
    assert torch.equal(run.context.teacher, teacher)

    run = make_run(alpha_start="degree", range="learned")
    run.run_stage(0, "float", None)
    run.prepare_learning()
    controller = run.model.embedding.controller
    assert torch.equal(controller.alpha, F.degree_score(
        data.degree("train").float()))
    assert bool(run.model.output_quantizer.calibrated.all())


def test_widths_are_learned_then_rows_start_anew(make_run):
    run = make_run()
    run.run_stage(0, "float", None)
    start = run.node_widths(run.float_embedding())
    run.run_stage(1, "learn", None)
    assert not torch.equal(run.model.embedding.weight,
                           run.float_state["embedding.weight"])
    learned = run.learned["bits"]
    assert torch.equal(learned, run.model.embedding.controller())
    assert (learned - start.clamp(1.25, 7.75)).abs().max() > 0.1
    run.prepare_finetuning()
    assert torch.equal(run.model.embedding.weight,
                       run.float_state["embedding.weight"])
    assert torch.equal(run.model.embedding.controller.bit_width,
                       F.project_to_budget(learned, 2.0, 1, 8))


def test_the_price_brings_the_widths_to_the_budget(make_run):
    run = make_run(alpha_start="degree", learn_steps=400,
                   trainer={"refit": False, "max_epochs": 60})
    run.run_stage(0, "float", None)
    run.run_stage(1, "learn", None)
    assert float(run.learned["bits"].mean()) == pytest.approx(2.0, abs=0.1)
    ends = [row["mean_bits"] for row in run.journal.rows
            if row["stage"] == "learn"]
    assert ends[0] > 2.5


def test_no_steps_leave_the_start(trained):
    options = {"trainer": {"refit": False}, "target_bits": 2.5}
    learned = trained("learned", learn_steps=0, **options)
    closed = trained("node_aware", **options)
    a, b = (r.model.embedding.controller.bit_width for r in (learned, closed))
    assert (a - b).abs().max() <= 1 and (a == b).float().mean() > 0.9


def test_the_shuffled_control(make_run):
    widths = {}
    for allocation in ("sensitivity", "shuffled"):
        run = make_run(allocation=allocation, target_bits=3.0)
        run.learned = {"bits": torch.linspace(1, 5, 210)}
        widths[allocation] = run.node_widths(torch.zeros(210, 8))
    for part in (slice(0, 120), slice(120, None)):
        a, b = (bits[part] for bits in widths.values())
        assert a.sort().values.tolist() == b.sort().values.tolist()
        assert not torch.equal(a, b)


# Determinism and resuming --------------------------------------------------


@pytest.mark.parametrize("options", [
    {}, {"bytes_per_node": 12.0, "alpha_start": "degree", "where": "both",
         "range": "learned"}])
@pytest.mark.parametrize("run, stage, step", [
    ("select", "float", None), ("select", "learn", 8),
    ("select", "learn", 16), ("select", "learn", None),
    ("select", "finetune", 8), ("refit", "learn", 8),
    ("refit", "finetune", 16), ("refit", "finetune", None)])
def test_a_resumed_run_ends_bit_by_bit_like_a_whole_one(
        options, run, stage, step, check_resumes):
    check_resumes(run, stage, step, **LEARNED, **options)


def test_same_seed_same_bytes(data, settings, trained, packed_bytes):
    first = packed_bytes(trained(**LEARNED), data)
    torch.manual_seed(99)
    np.random.seed(99)
    again = Trainer(settings(**LEARNED)).fit(data)
    assert packed_bytes(again, data) == first
    assert packed_bytes(trained(**LEARNED, seed=1), data) != first
