import pytest
import torch

from pyg_nodequant.training.evaluation import evaluate_ranking, torch_topk
from pyg_nodequant.training.journal import Journal
from pyg_nodequant.training.recipe import RecipeRun, new_model


@pytest.fixture
def make_run(data, settings):
    def make(recipe="node_aware", name="select", plans=None, **options):
        config = settings(recipe, **options)
        kept = data.without_test()
        return RecipeRun(name, config, kept, torch.device("cpu"),
                         Journal(config, kept, None), plans)

    return make


@pytest.mark.parametrize("recipe, options, stages", [
    ("float", {}, ("float", )),
    ("node_aware", {}, ("float", "finetune")),
    ("uniform", {}, ("float", "finetune")),
    ("paper", {}, ("float", "joint")),
    ("paper", {"float_baseline": False}, ("joint", )),
])
def test_stages(recipe, options, stages, make_run):
    run = make_run(recipe, **options)
    assert run.stages == stages
    run.run()
    assert tuple(run.done) == stages
    assert run.model.quantization_enabled == (recipe != "float")
    assert not run.model.training
    assert set(run.plans) == set(stages) - {"finetune"}


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
        widths[where] = run.allocate(run.float_embedding())
        assert int(widths[where].sum()) == 630
    assert not torch.equal(widths["output"], widths["input"])
    low = torch.minimum(widths["output"], widths["input"]) - 1
    high = torch.maximum(widths["output"], widths["input"]) + 1
    assert bool(((low <= widths["both"]) & (widths["both"] <= high)).all())


def test_an_exponent_of_zero_gives_all_the_same_width(make_run):
    run = make_run(sensitivity_power=0.0, target_bits=3.0)
    run.run_stage(0, "float", None)
    assert run.allocate(run.float_embedding()).unique().tolist() == [3]


def test_validation_is_of_the_models_as_served(data, make_run):
    run = make_run("uniform", bits=1)
    run.run()
    found = run.validation()
    with torch.no_grad():
        rows = run.model.get_embedding(run.context.edge_index)
    for name, x in (("trained", rows), ("float", run.float_embedding())):
        assert found[name] == evaluate_ranking(
            torch_topk(x[:120], x[120:]), data, "val")


def test_courses_are_repeated(make_run):
    run = make_run("float", "refit", plans={"float": (6, 9)})
    run.run()
    assert run.done["float"]["step"] == 9
    assert run.plans == {"float": (6, 9)}
    assert [row["stage"] for row in run.journal.rows] == ["refit_float"] * 2
