import pytest
import torch

from pyg_nodequant import functional as F
from pyg_nodequant.nn import TransformRows
from pyg_nodequant.training.evaluation import evaluate_ranking, torch_topk
from pyg_nodequant.training.journal import Journal
from pyg_nodequant.training.packing import (
    embedding_bytes,
    pack_axes,
    pack_rows,
)
from pyg_nodequant.training.recipe import RecipeRun, new_model


@pytest.fixture
def make_run(data, settings):
    def make(recipe="node_aware", name="select", plans=None, teacher=None,
             **options):
        config = settings(recipe, **options)
        kept = data.without_test()
        return RecipeRun(name, config, kept, torch.device("cpu"),
                         Journal(config, kept, None), plans, teacher=teacher)

    return make


@pytest.mark.parametrize("recipe, options, stages", [
    ("float", {}, ("float", )),
    ("node_aware", {}, ("float", "finetune")),
    ("uniform", {}, ("float", "finetune")),
    ("transform", {"bytes_per_node": 7.0}, ("float", "transform")),
    ("paper", {}, ("float", "joint")),
    ("paper", {"float_baseline": False}, ("joint", )),
])
def test_stages(recipe, options, stages, make_run):
    run = make_run(recipe, **options)
    assert run.stages == stages
    run.run()
    assert tuple(run.done) == stages
    assert run.served.quantization_enabled == (recipe != "float")
    assert not run.served.training
    assert (run.served is run.model) == (recipe != "transform")
    assert set(run.plans) == set(stages) - {"finetune", "transform"}


def test_labels(make_run):
    assert make_run().label("float") == "float"
    assert make_run(name="refit").label("float") == "refit_float"


def test_new_models_depend_on_the_seed_alone(data, settings):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = new_model(settings(), data)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    second = new_model(settings(), data)
    assert torch.equal(first.embedding.weight, second.embedding.weight)
    other = new_model(settings(seed=1), data)
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


def test_widths_start_from_the_degree(data, settings):
    alpha = new_model(settings("paper"), data).embedding.controller.alpha
    order = data.degree("train").argsort()
    assert bool((alpha[order].diff() >= 0).all())
    assert float(alpha.max()) > float(alpha.min())


def test_fine_tuning_starts_from_the_float_model(make_run):
    run = make_run(range="learned", where="both")
    run.run_stage(0, "float", None)
    state = {k: v.clone() for k, v in run.float_state.items()}
    with torch.no_grad():
        run.model.embedding.weight.add_(1.0)  # whatever came in between
    run.prepare_finetuning()
    model = run.model
    assert torch.equal(model.embedding.weight, state["embedding.weight"])
    assert model.embedding.controller.is_frozen
    assert torch.equal(run.context.teacher, run.float_embedding())
    for quantizer in (model.embedding.quantizer, model.output_quantizer):
        assert bool(quantizer.calibrated.all())
    # The scores of the frozen widths, should they be trained on:
    bits = model.embedding.controller.bit_width
    model.embedding.controller.unfreeze()
    assert torch.equal(model.embedding.controller.bit_width, bits)


def test_the_float_model_is_seen_without_a_trace(make_run, state_bytes):
    run = make_run("paper")
    run.run()
    before = state_bytes(run.model)
    rows = run.float_embedding()
    assert state_bytes(run.model) == before
    assert run.model.quantization_enabled
    assert not torch.equal(rows, run.model.get_embedding(
        run.context.edge_index).detach())


def test_both_places_count_where_both_are_quantized(make_run):
    widths = {}
    for where in ("output", "input", "both"):
        run = make_run(where=where, target_bits=3.0)
        run.run_stage(0, "float", None)
        widths[where] = run.node_widths(run.float_embedding())
        assert int(widths[where].sum()) == 630
    assert not torch.equal(widths["output"], widths["input"])
    low = torch.minimum(widths["output"], widths["input"]) - 1
    high = torch.maximum(widths["output"], widths["input"]) + 1
    assert bool(((low <= widths["both"]) & (widths["both"] <= high)).all())


def test_an_exponent_of_zero_gives_all_the_same_width(make_run):
    run = make_run(sensitivity_power=0.0, target_bits=3.0)
    run.run_stage(0, "float", None)
    assert run.node_widths(run.float_embedding()).unique().tolist() == [3]


@pytest.mark.parametrize("options", [
    {"bytes_per_node": 9.0}, {"target_bytes": 1801}, {"where": "both",
                                                      "target_compression": 20,
                                                      "range": "minmax"}])
def test_widths_within_a_budget_of_bytes(options, data, make_run):
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
    widths = model.embedding.controller.bit_width
    assert len(widths.unique()) > 2


def test_budgets_of_bytes_need_rows_that_are_packed(make_run):
    run = make_run(where="input", bytes_per_node=9.0)
    run.run_stage(0, "float", None)
    with pytest.raises(ValueError, match="needs quant.where=output"):
        run.prepare_finetuning()


def test_the_shuffled_control_has_the_same_widths(make_run):
    widths = {}
    for allocation in ("sensitivity", "shuffled"):
        run = make_run(allocation=allocation, target_bits=3.0)
        run.run_stage(0, "float", None)
        widths[allocation] = run.node_widths(run.float_embedding())
    for part in (slice(0, 120), slice(120, None)):
        a, b = (bits[part] for bits in widths.values())
        assert a.sort().values.tolist() == b.sort().values.tolist()
        assert not torch.equal(a, b)


def test_widths_by_the_degree(data, make_run):
    run = make_run(allocation="degree", target_bits=3.0)
    run.run_stage(0, "float", None)
    widths = run.node_widths(run.float_embedding())
    assert int(widths.sum()) == 630
    degree = data.degree("train")
    order = degree.argsort(stable=True)
    larger = degree[order].diff() > 0
    assert bool((widths[order].diff()[larger] >= 0).all())


def test_transform_starts_from_the_float_model(make_run):
    run = make_run("transform", bytes_per_node=7.0)
    run.run_stage(0, "float", None)
    assert run.served is run.model
    run.prepare_transform()
    assert isinstance(run.served, TransformRows) and run.served.training
    assert torch.equal(run.context.teacher, run.float_embedding())
    teacher, weight = run.context.teacher, run.served.weight.detach()
    # The axes that get no bits are left out, those of least energy.
    axes = run.served.embedding_dim
    for part, whole in zip((weight[:120], weight[120:]), F.principal_axes(
            teacher[:120], teacher[120:], 8), strict=True):
        assert torch.equal(part, whole[:, :axes])
    assert not weight.requires_grad and run.served.weight.requires_grad


@pytest.fixture
def other(data):
    """Rows of a teacher of another number of columns."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(data.num_nodes, 11, generator=generator)


def test_transform_starts_from_a_given_teacher(make_run, other):
    run = make_run("transform", teacher=other, bytes_per_node=9.0)
    assert run.stages == ("transform", )
    run.prepare_transform()
    assert torch.equal(run.context.teacher, other)
    weight, axes = run.served.weight.detach(), run.served.embedding_dim
    for part, whole in zip((weight[:120], weight[120:]), F.principal_axes(
            other[:120], other[120:], 11), strict=True):
        assert torch.equal(part, whole[:, :axes])
    run.run()
    assert tuple(run.done) == ("transform", ) and run.float_state == {}
    assert run.validation().keys() == {"trained", "teacher"}


@pytest.mark.parametrize("recipe", ["node_aware", "uniform"])
def test_a_given_teacher_leaves_the_start_as_it_is(recipe, make_run, other):
    runs = [make_run(recipe, range="learned"),
            make_run(recipe, range="learned", teacher=other)]
    for run in runs:
        assert run.stages == ("float", "finetune")
        run.run_stage(0, "float", None)
        run.prepare_finetuning()
    plain, taught = (run.model.state_dict() for run in runs)
    for name, tensor in plain.items():
        assert torch.equal(tensor, taught[name]), name
    assert torch.equal(runs[0].context.teacher, runs[0].float_embedding())
    assert torch.equal(runs[1].context.teacher, other)


@pytest.mark.parametrize("options, axes", [
    ({"bytes_per_node": 8.0, "axes": 8}, 8),
    ({"target_bytes": 1500, "scale_bits": 8}, 8),
    ({"target_compression": 36, "axes": 7, "allocation": "shuffled"}, 7)])
def test_transform_within_a_budget_of_bytes(options, axes, make_run):
    run = make_run("transform", **options)
    run.run()
    rows, budget = run.served, run.config.quant.budget_bytes(210)
    assert 1 <= rows.embedding_dim <= axes
    size = embedding_bytes(pack_axes(rows, 0), pack_axes(rows, 1))
    assert 0.99 * budget <= size <= budget


def test_transform_of_one_width(make_run):
    run = make_run("transform", allocation="uniform", axes=5, bits=3)
    run.run()
    assert run.served.user_widths.tolist() == [[3] * 5]
    assert run.served.item_widths.tolist() == [[3] * 5]
    assert run.served.mean_bits == 3.0


@pytest.mark.parametrize("recipe, options", [
    ("uniform", {"bits": 1}), ("transform", {"bytes_per_node": 6.0})])
def test_validation_is_of_the_models_as_served(recipe, options, data,
                                               make_run):
    run = make_run(recipe, **options)
    run.run()
    found = run.validation()
    with torch.no_grad():
        rows = run.served.get_embedding(run.context.edge_index)
    for name, x in (("trained", rows), ("float", run.float_embedding())):
        assert found[name] == evaluate_ranking(
            torch_topk(x[:120], x[120:]), data, "val")


def test_courses_are_repeated(make_run):
    run = make_run("float", "refit", plans={"float": (6, 9)})
    run.run()
    assert run.done["float"]["step"] == 9
    assert run.plans == {"float": (6, 9)}
    assert [row["stage"] for row in run.journal.rows] == ["refit_float"] * 2
