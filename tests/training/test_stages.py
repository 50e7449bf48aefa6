from dataclasses import replace

import pytest
import torch

from pyg_nodequant.nn import TransformRows
from pyg_nodequant.training.recipe import new_model
from pyg_nodequant.training.schedule import CosineSchedule, PlateauSchedule
from pyg_nodequant.training.stages import (
    ALPHA_LR,
    STAGES,
    FinetuneStage,
    FloatStage,
    JointStage,
    SoftmaxStage,
    TrainingContext,
    TransformStage,
    float_params,
)


@pytest.fixture
def context(data, settings):
    config = settings("node_aware", lambda_storage=0.3, temperature=0.7,
                      distill_weight=0.8, bpr_weight=0.4,
                      optimizer={"l2": 0.05})
    model = new_model(config, data)
    with torch.no_grad():  # away from zero, so that L2 and ranges matter
        model.embedding.weight.mul_(10)
    return TrainingContext(model, data.without_test(),
                           data.edge_index("train"), config)


@pytest.fixture
def batch(data):
    g = torch.Generator().manual_seed(5)
    users, positives = data.train[:, torch.randperm(
        data.train.size(1), generator=g)[:40]]
    return users, positives, torch.randint(data.num_items, (40, ),
                                           generator=g)


def propagated(context):
    """The float rows, by a dense normalised matrix."""
    n, model = context.data.num_nodes, context.model
    a = torch.zeros(n, n, dtype=torch.float64)
    a[tuple(context.edge_index)] = 1.0
    degree = a.sum(1).clamp(min=1)
    a = a / degree.sqrt().view(-1, 1) / degree.sqrt().view(1, -1)
    x = model.embedding.weight.detach().double()
    layers = [x]
    for _ in range(model.num_layers):
        layers.append(a @ layers[-1])
    return torch.stack(layers).mean(0)


def bpr_and_l2(context, rows, batch):
    """BPR and L2, triple by triple."""
    table = context.model.embedding.weight.detach().double()
    num_users, ranking, penalty = context.data.num_users, 0.0, 0.0
    for u, p, n in zip(*(part.tolist() for part in batch)):
        p, n = p + num_users, n + num_users
        margin = (rows[u] * rows[p]).sum() - (rows[u] * rows[n]).sum()
        ranking += float(torch.log1p(torch.exp(-margin)))
        penalty += float(sum((table[i]**2).sum() for i in (u, p, n)))
    size = batch[0].numel()
    return ranking / size, 0.05 * penalty / (2 * size)


def test_names_are_keys():
    assert {name: stage.name for name, stage in STAGES.items()} == {
        "float": "float", "joint": "joint", "finetune": "finetune",
        "transform": "transform"}


def test_float_loss(context, batch):
    stage = FloatStage(context, 4)
    stage.prepare()
    assert not context.model.quantization_enabled
    expected = sum(bpr_and_l2(context, propagated(context), batch))
    assert float(stage.loss(0, *batch)) == pytest.approx(expected, rel=1e-5)


def test_joint_loss(context, batch):
    stage = JointStage(context, 4)
    stage.prepare()
    context.model.train()
    assert context.model.quantization_enabled
    rows = context.model.get_embedding(context.edge_index).detach().double()
    bits = 1 + 7 * torch.sigmoid(context.model.embedding.controller.alpha)
    expected = (sum(bpr_and_l2(context, rows, batch))
                + 0.3 * float(bits.mean()) * 8)
    loss = stage.loss(0, *batch)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    for parameter in context.model.parameters():
        assert bool(parameter.grad.abs().sum() > 0)


def test_the_storage_loss_alone_shrinks_every_width(context, batch):
    context.config = replace(context.config, quant=replace(
        context.config.quant, lambda_storage=1e-9))
    stage = JointStage(context, 4)
    stage.prepare()
    before = context.model.embedding.controller().detach().clone()
    for _ in range(3):
        stage.optimizer.zero_grad()
        # The gradient of a graph of millions of nodes, far below 1e-8:
        (stage.config.quant.lambda_storage
         * context.model.storage_loss()).backward()
        stage.optimizer.step()
    after = context.model.embedding.controller()
    assert bool((after < before).all())


WEIGHTS = [(0.8, 0.4), (0.8, 0.0), (0.0, 0.4)]


@pytest.mark.parametrize("distill_weight, bpr_weight", WEIGHTS)
def test_finetune_loss(distill_weight, bpr_weight, context, batch):
    context.config = replace(context.config, quant=replace(
        context.config.quant, distill_weight=distill_weight,
        bpr_weight=bpr_weight))
    stage = FinetuneStage(context, 4)
    stage.prepare()
    context.teacher = torch.randn(context.data.num_nodes, 8)
    context.model.embedding.controller.freeze()
    context.model.train()
    rows = context.model.get_embedding(context.edge_index).detach().double()
    ranking, penalty = bpr_and_l2(context, rows, batch)

    num_users, t = context.data.num_users, 0.7
    teacher, distance = context.teacher.double(), 0.0
    distilled = stage.sample_users(3).tolist()
    for u in distilled:
        p = torch.softmax(teacher[num_users:] @ teacher[u] / t, 0)
        q = torch.softmax(rows[num_users:] @ rows[u] / t, 0)
        distance += float((p * (p / q).log()).sum()) * t**2 / len(distilled)
    expected = distill_weight * distance + bpr_weight * ranking + penalty
    assert float(stage.loss(3, *batch)) == pytest.approx(expected, rel=1e-4)
    if distill_weight == 0:  # nothing is asked of the teacher
        context.teacher = None
        assert float(stage.loss(3, *batch)) == pytest.approx(expected,
                                                             rel=1e-4)


def transform_rows(data):
    """Rows of 6 axes, of two classes each."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(data.num_nodes, 6, generator=generator)
    widths = torch.tensor([[4, 3, 2, 2, 1, 0], [6, 4, 3, 3, 2, 1]])
    classes = torch.arange(data.num_nodes) % 2
    return TransformRows(x[:data.num_users], x[data.num_users:], widths,
                         widths, classes)


@pytest.mark.parametrize("distill_weight, bpr_weight", WEIGHTS)
def test_transform_loss(distill_weight, bpr_weight, context, batch):
    context.config = replace(context.config, quant=replace(
        context.config.quant, distill_weight=distill_weight,
        bpr_weight=bpr_weight))
    context.rows = transform_rows(context.data)
    assert context.served is context.rows
    context.teacher = torch.randn(context.data.num_nodes, 8)
    stage = TransformStage(context, 4)
    stage.prepare()

    # Its own rows, a teacher of another number of columns, and no L2.
    rows, teacher = context.rows().detach().double(), context.teacher.double()
    num_users, t, expected = context.data.num_users, 0.7, 0.0
    distilled = stage.sample_users(3).tolist()
    for u in distilled:
        p = torch.softmax(teacher[num_users:] @ teacher[u] / t, 0)
        q = torch.softmax(rows[num_users:] @ rows[u] / t, 0)
        expected += (distill_weight * t**2 / 32
                     * float((p * (p / q).log()).sum()))
    expected += bpr_weight * bpr_and_l2(context, rows, batch)[0]
    loss = stage.loss(3, *batch)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    loss.backward()
    for parameter in context.rows.parameters():
        assert bool(parameter.grad.abs().sum() > 0)
    assert context.model.embedding.weight.grad is None


def test_the_transform_stage_trains_its_rows(context):
    with pytest.raises(RuntimeError, match="no rows to fine-tune yet"):
        TransformStage(context, 4)
    context.rows = transform_rows(context.data)
    stage = TransformStage(context, 4)
    group, = stage.optimizer.param_groups
    assert {id(p) for p in group["params"]} == {
        id(p) for p in context.rows.parameters()}
    assert group["lr"] == context.config.quant.finetune_lr
    assert isinstance(stage.schedule, CosineSchedule)
    assert stage.schedule.num_steps == 20
    with pytest.raises(RuntimeError, match="float model's rows"):
        stage.loss(0, *[torch.zeros(1, dtype=torch.long)] * 3)


SAMPLED = [{"distill_items": 20, "distill_users": 6},
           {"distillation": "ranking"}, {"distillation": "margin"},
           {"distillation": "mse"}]


@pytest.mark.parametrize("options", SAMPLED)
@pytest.mark.parametrize("kind", [FinetuneStage, TransformStage])
def test_losses_of_a_few_items(kind, options, context, batch):
    temperature = 0.7 if "distill_items" in options else 1.0
    context.config = replace(context.config, quant=replace(
        context.config.quant, temperature=temperature, **options))
    context.teacher = torch.randn(context.data.num_nodes, 5)
    context.rows = transform_rows(context.data)
    context.model.embedding.controller.freeze()
    stage = kind(context, 4)
    stage.prepare()
    context.model.train()
    if kind is FinetuneStage:
        rows = context.model.get_embedding(context.edge_index).detach()
    else:
        rows = context.rows().detach()
    ranking, penalty = bpr_and_l2(context, rows.double(), batch)
    distilled = stage.sample_users(3)
    lesson = stage.lesson(3, distilled)
    distance = float(lesson.loss(rows[distilled],
                                 rows[stage.num_users + lesson.items]))
    expected = 0.8 * distance + 0.4 * ranking
    if kind is FinetuneStage:
        expected += penalty
    loss = stage.loss(3, *batch)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    loss.backward()
    trained = stage.optimizer.param_groups[0]["params"]
    assert all(float(p.grad.abs().sum()) > 0 for p in trained)


def test_only_rows_that_are_needed_are_quantized(context, monkeypatch):
    context.config = replace(context.config, quant=replace(
        context.config.quant, distill_items=10, distill_users=6))
    context.teacher = torch.randn(context.data.num_nodes, 5)
    context.rows = transform_rows(context.data)
    context.model.embedding.controller.freeze()
    context.model.train()
    counts = {"nodes": [], "items": []}
    quantizer, rows = context.model.output_quantizer, TransformRows.item_rows
    quantizer.register_forward_hook(
        lambda module, x, out: counts["nodes"].append(len(out)))
    monkeypatch.setattr(TransformRows, "item_rows", lambda self, ids: (
        counts["items"].append(len(ids)), rows(self, ids))[1])
    few = [torch.tensor([1, 2, 5])] * 3
    for kind in (FinetuneStage, TransformStage):
        kind(context, 4).loss(0, *few)
    assert counts == {"nodes": [9 + 6 + 10], "items": [10, 3, 3]}


def test_finetuning_needs_a_teacher(context, batch):
    with pytest.raises(RuntimeError, match="float model's rows"):
        FinetuneStage(context, 4).loss(0, *batch)


def test_distilled_users_are_a_function_of_seed_and_step(context):
    stage = FinetuneStage(context, 4)
    users = stage.sample_users(7)
    torch.manual_seed(123)
    assert torch.equal(users, stage.sample_users(7))
    assert users.unique().numel() == users.numel() == 32
    assert int(users.max()) < context.data.num_users
    assert not torch.equal(users, stage.sample_users(8))
    stage.config = replace(stage.config, seed=1)
    assert not torch.equal(users, stage.sample_users(7))
    stage.config = replace(stage.config, quant=replace(
        stage.config.quant, distill_users=10_000))
    assert stage.sample_users(0).sort().values.tolist() == list(range(120))


def test_noise_is_a_function_of_seed_and_step(context):
    stage = FinetuneStage(context, 4)
    seeds = set()
    for seed in (0, 1):
        stage.config = replace(stage.config, seed=seed)
        for step in (0, 1, 2):
            stage.begin_step(step)
            model = context.model
            seeds |= {model.embedding.quantizer.noise_seed,
                      model.output_quantizer.noise_seed}
    assert len(seeds) == 12


@pytest.mark.parametrize("range", ["symmetric", "learned"])
def test_what_each_stage_trains(data, settings, range):
    config = settings("paper", range=range)
    context = TrainingContext(new_model(config, data), data,
                              data.edge_index(), config)
    model = context.model
    names = {id(p): name for name, p in model.named_parameters()}

    def trained(stage):
        return [[names[id(p)] for p in group["params"]]
                for group in stage.optimizer.param_groups]

    others = [name for name in names.values()
              if name != "embedding.controller.alpha"]
    assert ("output_quantizer.log_delta" in others) == (range == "learned")
    assert sorted(names[id(p)] for p in float_params(model)) == sorted(others)
    assert trained(FloatStage(context, 4)) == [["embedding.weight"]]
    joint, alpha = trained(JointStage(context, 4))
    assert sorted(joint) == sorted(others)
    assert alpha == ["embedding.controller.alpha"]
    finetuned, = trained(FinetuneStage(context, 4))
    assert sorted(finetuned) == sorted(others)


def test_learning_rates_follow_the_schedule(context):
    stage = JointStage(context, 4)
    lr = context.config.optimizer.lr
    assert stage.set_lr() == lr
    for _ in range(4):
        stage.schedule.advance()
    stage.schedule.begin_anneal(4)
    stage.schedule.advance()
    assert stage.set_lr() == pytest.approx(lr / 2)
    assert [group["lr"] for group in stage.optimizer.param_groups
            ] == pytest.approx([lr / 2, ALPHA_LR / 2])


def test_schedules_come_from_the_settings_or_a_plan(context):
    trainer = context.config.trainer
    for kind in (FloatStage, JointStage):
        schedule = kind(context, 4).schedule
        assert isinstance(schedule, PlateauSchedule)
        assert schedule.max_steps == 4 * trainer.max_epochs
        assert schedule.patience == trainer.patience
        assert schedule.anneal == trainer.anneal
    fixed = FinetuneStage(context, 4).schedule
    assert isinstance(fixed, CosineSchedule) and fixed.num_steps == 20
    context.plans = {"float": (6, 9)}
    assert FloatStage(context, 4).schedule.planned == 6
    assert FloatStage(context, 4).schedule.max_steps == 9
    assert JointStage(context, 4).schedule.planned is None


def test_l2_shrinks_with_the_number_of_interactions(context):
    assert context.l2 == 0.05
    context.config = replace(context.config, optimizer=replace(
        context.config.optimizer, l2=None))
    assert context.l2 == pytest.approx(80 / 1728)
    context.config = replace(context.config, optimizer=replace(
        context.config.optimizer, l2=0.0))
    assert context.l2 == 0.0


def softmax_by_hand(context, step):
    """The loss of all users at a step, over a dense table of cosines."""
    options, num_users = context.config.loss, context.data.num_users
    x = torch.nn.functional.normalize(propagated(context), dim=1)
    scores = x[:num_users] @ x[num_users:].t() / options.temperature
    seen = torch.zeros_like(scores)
    seen[tuple(context.data.train)] = 1
    count = seen.sum(1)
    prior = options.popularity * seen.sum(0).clamp(min=1).log()
    mean = (scores * seen).sum(1) / count.clamp(min=1)
    each = (scores + prior).logsumexp(1) - mean
    weight = torch.where(count > 0, count**options.user_power, 0)
    return (each * weight).sum() / weight.sum()


@pytest.mark.parametrize("items", [0, 1000])
@pytest.mark.parametrize("popularity", [0.0, 0.4])
def test_softmax_loss_of_all_users(data, settings, batch, items, popularity):
    config = settings("float", loss={"name": "softmax", "items": items,
                                     "temperature": 0.3, "user_power": 0.3,
                                     "popularity": popularity})
    context = TrainingContext(new_model(config, data), data.without_test(),
                              data.edge_index("train"), config)
    stage = SoftmaxStage(context, 10)
    stage.prepare()
    loss = stage.loss(3, *batch)
    assert float(loss) == pytest.approx(float(softmax_by_hand(context, 3)),
                                        rel=1e-5)
    loss.backward()
    assert bool(context.model.embedding.weight.grad.any())


def test_softmax_samples_depend_on_the_step_alone(data, settings, batch):
    config = settings("float", loss={"name": "softmax", "items": 20,
                                     "users": 30})
    context = TrainingContext(new_model(config, data), data.without_test(),
                              data.edge_index("train"), config)
    stage = SoftmaxStage(context, 10)
    stage.prepare()
    losses = [float(stage.loss(step, *batch)) for step in (1, 2, 1)]
    assert losses[0] == losses[2] != losses[1]


def test_softmax_has_l2_only_where_it_is_asked_for(data, settings, batch):
    values = []
    for l2 in (None, 0.5):
        config = settings("float", loss={"name": "softmax"},
                          optimizer={"l2": l2})
        context = TrainingContext(new_model(config, data),
                                  data.without_test(),
                                  data.edge_index("train"), config)
        stage = SoftmaxStage(context, 10)
        stage.prepare()
        values.append(stage.loss(0, *batch))
    nodes = torch.cat([batch[0], batch[1] + data.num_users,
                       batch[2] + data.num_users])
    rows = context.model.embedding.weight[nodes]
    expected = 0.5 * rows.square().sum() / (2 * len(batch[0]))
    assert torch.allclose(values[1] - values[0], expected, atol=1e-5)


def test_what_users_have_seen_is_left_out_when_asked(data, settings, batch):
    config = settings("node_aware", distill_seen=False)
    context = TrainingContext(new_model(config, data), data.without_test(),
                              data.edge_index("train"), config)
    users = torch.tensor([4, 0])
    pairs = context.excluded(users)
    dense = torch.zeros(data.num_users, data.num_items)
    dense[tuple(data.train)] = 1
    assert torch.equal(pairs, dense[users].nonzero().t())
    assert torch.equal(context.excluded(), dense.nonzero().t())
    assert TrainingContext(
        context.model, context.data, context.edge_index,
        settings("node_aware")).excluded(users) is None
