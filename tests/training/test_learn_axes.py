import pytest
import torch

from pyg_nodequant import functional as F
from pyg_nodequant.nn import SoftAxisRows, TransformRows
from pyg_nodequant.training.journal import Journal
from pyg_nodequant.training.learn_axes import LearnAxesStage, LearnedPlan
from pyg_nodequant.training.packing import embedding_bytes, pack_axes
from pyg_nodequant.training.recipe import RecipeRun

LEARNED = {"recipe": "transform", "allocation": "learned", "learn_steps": 24,
           "bytes_per_node": 7.0}


@pytest.fixture
def make_run(data, settings):
    def make(**options):
        config = settings(**{**LEARNED, **options})
        kept = data.without_test()
        return RecipeRun("select", config, kept, torch.device("cpu"),
                         Journal(config, kept, None))

    return make


@pytest.fixture
def prepared(make_run):
    def prepare(**options):
        run = make_run(**options)
        run.run_stage(0, "float", None)
        run.prepare_axes()
        return run, LearnAxesStage(run.context, 4)

    return prepare


@pytest.fixture
def batch(data):
    users, positives = data.train[:, :40]
    return users, positives, positives.flip(0)


def test_the_start_is_the_closed_form(prepared):
    run, stage = prepared()
    rows = run.context.rows
    assert isinstance(rows, SoftAxisRows) and rows.training
    mean = float(rows.row_bits().mean()) / 8
    assert (mean, ) == pytest.approx(run.context.target_bytes, abs=1e-4)
    assert torch.equal(run.context.teacher, run.float_embedding())
    assert rows.embedding_dim == 8
    assert len(stage.groups) == 1
    _, stage = prepared(bytes_per_node=None, bytes_per_user=5.0,
                        bytes_per_item=4.0)
    assert stage.context.target_bytes == pytest.approx((4.0, 3.0), abs=0.01)
    assert stage.groups == [slice(0, 120), slice(120, 210)]


@pytest.mark.parametrize("bpr_weight", [0.0, 0.4])
def test_loss_and_prices(bpr_weight, prepared, batch):
    _, stage = prepared(bytes_per_node=None, bytes_per_user=5.0,
                        bytes_per_item=4.0, bpr_weight=bpr_weight)
    rows, teacher = stage.soft, stage.context.teacher
    with torch.no_grad():
        rows.score[:120] += 0.5
    stage.duals = [F.DualState(0.3, 0.1, 3), F.DualState(0.2, 0.05, 3)]

    distilled = stage.sample_users(3)
    users, items = rows.user_rows(), rows.item_rows()
    plain = F.listwise_kl_loss(users[distilled] @ items.t(),
                               teacher[distilled] @ teacher[120:].t())
    if bpr_weight:
        plain = plain + bpr_weight * F.bpr_loss(
            users[batch[0]], items[batch[1]], items[batch[2]])
    bits, target = rows.widths().detach(), stage.context.target_bytes
    paid, excesses = [], []
    for part, dual, goal in zip((bits[:120], bits[120:]), stage.duals, target,
                                strict=True):
        excesses.append(float(part.sum(1).mean()) / 8 - goal)
        paid.append(dual.multiplier + 4 * dual.scale * excesses[-1])
    assert excesses[0] > 0.1 and abs(excesses[1]) < 1e-3
    expected = float(plain.detach()) + sum(
        p * c for p, c in zip(paid, excesses, strict=True))
    loss = stage.loss(3, *batch)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert stage.prices == pytest.approx(paid, rel=1e-4)

    # What a byte of users is worth, from the plain loss alone.
    loss.backward()
    task = stage.widths.grad[:120] - paid[0] / (8 * 120)
    free = (bits[:120] > 0) & (bits[:120] < 8)
    worth = torch.stack([-8 * 120 * line[use].mean() for line, use in
                         zip(task, free, strict=True)])
    stage.after_backward()
    scale = 0.9 * 0.1 + 0.1 * float(worth.abs().mean())
    assert stage.duals[0].scale == pytest.approx(scale, rel=1e-3)
    assert stage.duals[0].multiplier == pytest.approx(
        0.3 + 0.1 * scale * min(excesses[0], 0.25), rel=1e-3)
    assert stage.duals[1].steps == 4


def test_its_state(prepared):
    run, stage = prepared()
    stage.duals = [F.DualState(0.1, 0.2, 3)]
    other = LearnAxesStage(run.context, 4)
    other.load_state_dict(stage.state_dict())
    assert other.duals == stage.duals
    with pytest.raises(RuntimeError, match="got no gradient"):
        other.after_backward()


def test_it_needs_soft_rows_and_a_budget(prepared):
    run, _ = prepared()
    target, run.context.target_bytes = run.context.target_bytes, None
    with pytest.raises(RuntimeError, match="needs a budget"):
        LearnAxesStage(run.context, 4)
    run.context.target_bytes = target
    x = torch.randn(210, 8)
    run.context.rows = TransformRows(
        x[:120], x[120:], torch.ones(1, 8), torch.ones(1, 8),
        torch.zeros(210, dtype=torch.long))
    with pytest.raises(RuntimeError, match="have no widths to learn"):
        LearnAxesStage(run.context, 4)


def test_the_price_brings_the_bytes_to_the_budget(prepared):
    run, _ = prepared(learn_steps=300, trainer={"max_epochs": 60})
    goal, = run.context.target_bytes
    run.run_stage(1, "learn_axes", None)
    found = float(run.learned["row_bits"].mean()) / 8
    assert found == pytest.approx(goal, abs=0.15)
    assert run.learned["profile"].shape == (2, 8)


# Whole widths --------------------------------------------------------------


def tables():
    generator = torch.Generator().manual_seed(0)
    columns = torch.linspace(1, -2, 16).exp()
    return (torch.randn(200, 16, generator=generator) * columns,
            torch.randn(120, 16, generator=generator) * columns)


@pytest.fixture
def plan(settings):
    quant = settings(**LEARNED, axes=16).quant
    generator = torch.Generator().manual_seed(1)
    bits = 64 + 20 * torch.randn(320, generator=generator)
    profile = torch.stack([torch.linspace(0, -5, 16),
                           torch.linspace(0, -8, 16)])
    return LearnedPlan(*tables(), quant, bits.clamp(0, 128), profile)


@pytest.mark.parametrize("total", [320, 1000, 2503, 3100, (900, 1300)])
def test_rows_have_as_many_bytes_as_they_may(total, plan):
    rows = plan.rows(total)
    users, items = rows.class_ids.long().split([200, 120])
    parts = (rows.user_widths.long().sum(1)[users],
             rows.item_widths.long().sum(1)[items])
    for part in parts:
        assert bool((part % 8 == 0).all())
        assert len(part.unique()) <= 16
    sums = tuple(int(part.sum()) // 8 for part in parts)
    assert sums == total if isinstance(total, tuple) else sum(sums) == total
    assert int(max(rows.user_widths.max(), rows.item_widths.max())) <= 8


def test_the_order_of_rows_and_axes_is_the_learned_one(plan):
    rows = plan.rows(2503)
    order = plan.row_bytes.argsort()
    assert bool((rows.row_bits()[order].diff() >= 0).all())
    for widths in (rows.user_widths, rows.item_widths):
        assert bool((widths.int().diff(dim=1) <= 0).all())
    assert float((rows.row_bits() / 8 - plan.row_bytes).abs().median()) < 1


def test_too_many_bytes(plan):
    with pytest.raises(ValueError, match="needs to be in \\[0, 16\\] with"):
        plan.rows(16 * 320 + 1)


# The recipe ----------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {}, {"bytes_per_node": None, "target_bytes": 1500, "scale_bits": 8},
    {"bytes_per_node": None, "target_compression": 36, "axes": 7}])
def test_budgets_are_met(options, make_run):
    run = make_run(**options)
    run.run()
    assert tuple(run.done) == ("float", "learn_axes", "transform")
    rows, budget = run.served, run.config.quant.budget_bytes(210)
    assert type(rows) is TransformRows and not rows.training
    size = embedding_bytes(pack_axes(rows, 0), pack_axes(rows, 1))
    assert 0.99 * budget <= size <= budget


def test_bytes_of_users_and_items(make_run):
    run = make_run(bytes_per_node=None, bytes_per_user=5.0, bytes_per_item=4.0)
    run.run()
    bits = run.served.row_bits()
    assert int(bits[:120].sum()) == 8 * 480
    assert int(bits[120:].sum()) == 8 * 270


def test_rows_start_from_the_float_model(make_run):
    run = make_run()
    run.run_stage(0, "float", None)
    run.run_stage(1, "learn_axes", None)
    run.prepare_transform()
    teacher = run.context.teacher
    whole = F.principal_axes(teacher[:120], teacher[120:], 8)
    axes = run.served.embedding_dim
    weight = run.served.weight.detach()
    assert torch.equal(weight[:120], whole[0][:, :axes])
    assert torch.equal(weight[120:], whole[1][:, :axes])


@pytest.mark.parametrize("options", [
    {}, {"bytes_per_node": None, "bytes_per_user": 5.0, "bytes_per_item": 4.0,
         "bpr_weight": 0.0}])
@pytest.mark.parametrize("run, stage, step", [
    ("select", "float", None), ("select", "learn_axes", 8),
    ("select", "learn_axes", None), ("select", "transform", 8),
    ("refit", "learn_axes", 16), ("refit", "transform", 16),
    ("refit", "transform", None)])
def test_a_resumed_run_ends_bit_by_bit_like_a_whole_one(
        options, run, stage, step, check_resumes):
    check_resumes(run, stage, step, **{**LEARNED, **options})
