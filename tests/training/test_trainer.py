from dataclasses import replace

import numpy as np
import pytest
import torch

from pyg_nodequant import functional as F
from pyg_nodequant.data import Interactions, synthetic_interactions
from pyg_nodequant.nn import TransformRows
from pyg_nodequant.training import Trainer
from pyg_nodequant.training.checkpoint import CheckpointError, load_checkpoint
from pyg_nodequant.training.evaluation import evaluate_ranking, torch_topk
from pyg_nodequant.training.loop import TrainingError
from pyg_nodequant.training.packing import (
    embedding_bytes,
    pack_axes,
    pack_model,
)
from pyg_nodequant.training.recipe import new_model
from pyg_nodequant.training.stages import (
    FinetuneStage,
    FloatStage,
    JointStage,
)
from pyg_nodequant.training.trainer import pick_device

RECIPES = ("float", "node_aware", "uniform", "paper")
# A budget that suits 210 nodes of 8 numbers.
TRANSFORM = {"recipe": "transform", "bytes_per_node": 7.0}
SOFTMAX = {"loss": {"name": "softmax", "users": 50}, "distill_seen": False}
ALL = [*({"recipe": recipe} for recipe in RECIPES), TRANSFORM,
       {"recipe": "node_aware", **SOFTMAX}, {**TRANSFORM, **SOFTMAX},
       {"recipe": "float", "loss": {"name": "softmax", "items": 20}}]


def measure(rows, data, split="test"):
    topk = torch_topk(rows[:data.num_users], rows[data.num_users:])
    return evaluate_ranking(topk, data, split)


def recall(rows, data, split="test"):
    return measure(rows, data, split)["recall@20"]


def ndcg(rows, data, split="test"):
    return measure(rows, data, split)["ndcg@20"]


def timeless(rows):
    """History rows without what the clock says."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


# Determinism ---------------------------------------------------------------


@pytest.mark.parametrize("options", [
    *ALL, {"recipe": "node_aware", "estimator": "noise"},
    {"recipe": "paper", "estimator": "noise", "where": "both",
     "width_gradient": "interpolated"}])
def test_same_seed_same_bytes(options, data, settings, trained, packed_bytes):
    first = packed_bytes(trained(**options), data)
    torch.manual_seed(99)  # global randomness plays no part
    np.random.seed(99)
    state = torch.get_rng_state()
    again = Trainer(settings(**options)).fit(data)
    assert packed_bytes(again, data) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert packed_bytes(trained(**options, seed=1), data) != first


def test_the_run_directory_changes_nothing(data, settings, trained,
                                           packed_bytes, tmp_path):
    result = Trainer(settings(), tmp_path).fit(data)
    assert packed_bytes(result, data) == packed_bytes(trained(), data)
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint.safetensors", "history.csv"}


# The test split ------------------------------------------------------------


@pytest.mark.parametrize("options", ALL)
def test_the_test_split_has_no_influence(options, data, trained, settings,
                                         packed_bytes):
    taken = data.csr("train", "val")
    free = np.ones((data.num_users, data.num_items), dtype=bool)
    free[np.repeat(np.arange(120), np.diff(taken[0])), taken[1]] = False
    wrong = np.stack(np.nonzero(free))[:, ::7]
    corrupt = replace(data, test=torch.from_numpy(wrong))
    assert corrupt.test.size(1) > 0
    assert not torch.equal(corrupt.test, data.test)

    result = Trainer(settings(**options)).fit(corrupt)
    expected = trained(**options)
    assert packed_bytes(result, corrupt) == packed_bytes(expected, data)
    assert timeless(result.history) == timeless(expected.history)
    assert result.val == expected.val


def test_nothing_below_the_trainer_sees_the_test_split(data, settings,
                                                       monkeypatch):
    seen = []
    init = FloatStage.__init__

    def spy(self, context, steps, name):
        seen.append(context.data)
        init(self, context, steps, name)

    monkeypatch.setattr(FloatStage, "__init__", spy)
    Trainer(settings("float")).fit(data)
    select, refit = seen
    assert select.test.numel() == refit.test.numel() == 0
    assert torch.equal(select.train, data.train)
    assert refit.val.numel() == 0
    assert refit.train.size(1) == data.train.size(1) + data.val.size(1)


# Resuming ------------------------------------------------------------------

RUNS = {
    "float": {"recipe": "float"},
    "node_aware": {"recipe": "node_aware"},
    "learned ranges": {"recipe": "node_aware", "range": "learned",
                       "where": "both"},
    "paper": {"recipe": "paper"},
    "no refit": {"recipe": "uniform", "trainer": {"refit": False}},
    "noise": {"recipe": "node_aware", "estimator": "noise",
              "row_scale": "log8", "trainer": {"refit": False}},
    "shared scales": {"recipe": "node_aware", "row_scale": "group",
                      "range": "mse", "trainer": {"refit": False}},
    "interpolated": {"recipe": "paper", "estimator": "noise",
                     "width_gradient": "interpolated",
                     "trainer": {"refit": False}},
    "transform": TRANSFORM,
    "transform alone": {**TRANSFORM, "bpr_weight": 0.0, "scale_bits": 8,
                        "trainer": {"refit": False}},
}
# Where runs of these settings die: in the middle of each stage of the run that
# is watched on validation and of the one that repeats it, and at their ends.
STOPS = [
    ("float", "select", "float", 16),
    ("float", "select", "float", None),
    ("float", "refit", "float", 8),
    ("node_aware", "select", "float", 24),
    ("node_aware", "select", "float", None),
    ("node_aware", "select", "finetune", 8),
    ("node_aware", "refit", "float", 8),
    ("node_aware", "refit", "float", None),
    ("node_aware", "refit", "finetune", 16),
    ("learned ranges", "select", "finetune", 8),
    ("learned ranges", "refit", "finetune", 8),
    ("paper", "select", "float", 16),
    ("paper", "select", "joint", 8),
    ("paper", "select", "joint", 24),
    ("paper", "select", "joint", None),
    ("paper", "refit", "joint", 16),
    ("no refit", "select", "finetune", 8),
    ("noise", "select", "finetune", 8),
    ("noise", "select", "finetune", None),
    ("shared scales", "select", "finetune", 16),
    ("interpolated", "select", "joint", 8),
    ("transform", "select", "float", None),
    ("transform", "select", "transform", 8),
    ("transform", "select", "transform", None),
    ("transform", "refit", "float", 8),
    ("transform", "refit", "transform", 16),
    ("transform alone", "select", "transform", 16),
    ("transform alone", "select", "transform", None),
]


@pytest.mark.parametrize("name, run, stage, step", STOPS)
def test_a_resumed_run_ends_bit_by_bit_like_a_whole_one(
        name, run, stage, step, check_resumes, tmp_path):
    result, expected = check_resumes(run, stage, step, **RUNS[name])
    assert torch.equal(result.float_embedding, expected.float_embedding)
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert len(lines) == 1 + len(expected.history)


@pytest.mark.parametrize("name", RUNS)
def test_a_finished_run_trains_no_further(name, data, settings, trained,
                                          packed_bytes, tmp_path,
                                          monkeypatch):
    config = settings(**RUNS[name])
    Trainer(config, tmp_path).fit(data)
    expected = trained(**RUNS[name])
    steps = []
    monkeypatch.setattr(
        "pyg_nodequant.training.loop.StageLoop.train_step",
        lambda self, batch: steps.append(batch))
    path = tmp_path / "checkpoint.safetensors"  # the file itself will do too
    resumed = replace(config, trainer=replace(config.trainer,
                                              resume=str(path)))
    result = Trainer(resumed).fit(data)
    assert steps == []
    assert packed_bytes(result, data) == packed_bytes(expected, data)
    assert torch.equal(result.float_embedding, expected.float_embedding)
    assert (result.val, result.steps) == (expected.val, expected.steps)


def test_the_history_moves_to_another_folder(data, settings, stop_at,
                                             tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    config = settings("float")
    stop_at(config, data, old, "select", "float", 24)
    config = replace(config, trainer=replace(config.trainer,
                                             resume=str(old)))
    result = Trainer(config, new).fit(data)
    lines = (new / "history.csv").read_text().splitlines()
    assert len(lines) == 1 + len(result.history)
    assert load_checkpoint(new).state["done"].keys() == {"float"}


@pytest.mark.parametrize("changes, named", [
    ({"seed": 1}, "seed"),
    ({"model": {"embedding_dim": 4}}, "model"),
    ({"model": {"num_layers": 1}}, "model"),
    ({"target_bits": 3.0}, "quant"),
    ({"recipe": "uniform"}, "quant"),
    ({"trainer": {"batch_size": 400}}, "batch_size"),
    ({"trainer": {"refit": False}}, "refit"),
])
def test_no_resuming_with_other_settings(changes, named, data, settings,
                                         tmp_path):
    Trainer(settings(), tmp_path).fit(data)
    trainer = {**changes.pop("trainer", {}), "resume": str(tmp_path)}
    with pytest.raises(CheckpointError, match=f"differing: {named}"):
        Trainer(settings(trainer=trainer, **changes)).fit(data)


def test_no_resuming_with_other_data(data, settings, tmp_path):
    Trainer(settings("float"), tmp_path).fit(data)
    resume = settings("float", trainer={"resume": str(tmp_path)})
    fewer = replace(data, train=data.train[:, :-1])
    with pytest.raises(CheckpointError, match="differing: interactions"):
        Trainer(resume).fit(fewer)
    # As many of everything, but other edges:
    other = Interactions.from_edges(
        torch.cat([data.train, data.val], 1), test=data.test, split_seed=1,
        num_users=120, num_items=90)
    assert other.train.shape == data.train.shape
    with pytest.raises(CheckpointError, match="differing: interactions"):
        Trainer(resume).fit(other)
    more = replace(data, num_items=91, item_titles=None,
                   item_ids=np.arange(91))
    with pytest.raises(CheckpointError, match="differing: .*nodes"):
        Trainer(resume).fit(more)


def test_nothing_to_resume(data, settings, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        Trainer(settings(trainer={"resume": str(tmp_path)})).fit(data)


# What the recipes do -------------------------------------------------------


@pytest.mark.parametrize("target", [1.0, 1.3, 2.0, 2.37, 8.0])
@pytest.mark.parametrize("where", ["output", "input", "both"])
def test_the_budget_is_met_exactly(target, where, data, trained):
    controller = trained(target_bits=target,
                         where=where).model.embedding.controller
    widths = controller.bit_width
    assert int(widths.sum()) == int(data.num_nodes * target)
    assert 1 <= int(widths.min()) and int(widths.max()) <= 8
    assert controller.is_frozen
    assert torch.equal(controller(), widths.float())


def test_bounds_of_the_widths(trained):
    widths = trained(target_bits=2.5, min_bits=2,
                     max_bits=4).model.embedding.controller.bit_width
    assert set(widths.tolist()) <= {2, 3, 4}
    assert int(widths.sum()) == int(210 * 2.5)


def test_widths_stay_as_they_are_while_fine_tuning(data, settings,
                                                   monkeypatch):
    seen, loss = [], FinetuneStage.loss

    def spy(self, *args):
        controller = self.model.embedding.controller
        assert controller.is_frozen
        seen.append((controller.bit_width, controller.alpha.clone()))
        return loss(self, *args)

    monkeypatch.setattr(FinetuneStage, "loss", spy)
    result = Trainer(settings(trainer={"refit": False})).fit(data)
    controller = result.model.embedding.controller
    assert len(seen) == 20
    for widths, alpha in seen:
        assert torch.equal(widths, controller.bit_width)
        assert torch.equal(alpha, controller.alpha)


def test_sensitive_nodes_get_more_bits(trained):
    result = trained(target_bits=2.0, trainer={"refit": False})
    rows = result.float_embedding.double()
    users, items = rows[:120], rows[120:]
    p = torch.softmax(users @ items.t(), 1)
    spread = [
        sum(p[u, i] * (items[i] - p[u] @ items).square().sum()
            for i in range(90)) for u in range(120)]
    shared = [
        sum(p[u, i] * (1 - p[u, i]) * users[u].square().sum()
            for u in range(120)) for i in range(90)]
    weight = torch.stack(spread + shared) * rows.square().mean(1)
    widths = result.model.embedding.controller.bit_width
    groups = [weight[widths == bits] for bits in widths.unique().tolist()]
    assert len(groups) > 2
    for low, high in zip(groups, groups[1:]):
        assert float(low.max()) <= float(high.min()) * (1 + 1e-5)


def test_uniform_needs_no_wider_bounds(trained):
    result = trained("uniform", bits=8, max_bits=4)
    assert set(result.model.embedding.controller.bit_width.tolist()) == {8}


@pytest.mark.parametrize("bits", [1, 3])
def test_uniform_has_one_width(bits, trained):
    model = trained("uniform", bits=bits).model
    assert model.embedding.controller.bit_width.unique().tolist() == [bits]


def test_the_paper_s_storage_loss_shrinks_the_widths(trained):
    trainer = {"max_epochs": 25, "refit": False}
    means = [
        float(trained("paper", lambda_storage=weight, float_baseline=False,
                      trainer=trainer)
              .model.embedding.controller.bit_width.double().mean())
        for weight in (0.0, 1e-3, 1e-2, 1.0)
    ]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[2] > means[3]


def test_the_paper_trains_from_scratch(data, settings, trained,
                                       monkeypatch):
    prepare, starts = JointStage.prepare, []

    def spy(self):
        starts.append(self.model.embedding.weight.detach().clone())
        prepare(self)

    monkeypatch.setattr(JointStage, "prepare", spy)
    config = settings("paper", trainer={"refit": False})
    result = Trainer(config).fit(data)
    assert "float" in result.steps  # a baseline, and no warm start
    fresh = new_model(config, data).embedding.weight
    assert len(starts) == 1 and torch.equal(starts[0], fresh)
    assert not torch.equal(result.model.embedding.weight, fresh)
    assert result.model.embedding.controller.is_frozen

    alone = trained("paper", float_baseline=False)
    assert alone.steps.keys() == {"joint", "refit_joint"}
    assert alone.float_embedding is None
    assert alone.val.keys() == {"trained"}


def test_float_leaves_floats(trained):
    result = trained("float")
    assert not result.model.quantization_enabled
    assert torch.equal(result.embedding(), result.float_embedding)
    assert result.steps.keys() == {"float", "refit_float"}
    assert result.val.keys() == {"trained", "float"}
    assert result.val["trained"] == result.val["float"]


@pytest.mark.parametrize("bpr_weight", [0.0, 0.3])
def test_transform_serves_its_own_rows(bpr_weight, data, trained):
    result = trained(**TRANSFORM, bpr_weight=bpr_weight, axes=7)
    model = result.model
    assert isinstance(model, TransformRows) and not model.training
    assert result.embedding().shape == (210, model.embedding_dim)
    assert 1 <= model.embedding_dim <= 7
    assert result.float_embedding.shape == (210, 8)
    assert torch.equal(result.embedding(), model())
    assert result.steps.keys() == {
        "float", "transform", "refit_float", "refit_transform"}
    assert result.steps["transform"]["steps"] == 20
    assert result.val.keys() == {"trained", "float"}
    bits = {row["mean_bits"] for row in result.history
            if row["stage"] == "transform"}
    assert len(bits) == 1 and 0 < bits.pop() < 8
    plain = trained(**TRANSFORM, bpr_weight=bpr_weight, axes=7,
                    trainer={"refit": False})
    assert plain.val == result.val
    assert recall(plain.embedding(), data, "val") == pytest.approx(
        plain.val["trained"]["recall@20"])


def test_transform_changes_with_the_weight_of_bpr(trained):
    a, b = (trained(**TRANSFORM, bpr_weight=weight, axes=7)
            for weight in (0.0, 0.3))
    assert torch.equal(a.float_embedding, b.float_embedding)
    assert not torch.equal(a.embedding(), b.embedding())


def test_the_bytes_of_transform_stay_while_fine_tuning(trained):
    options = {**TRANSFORM, "trainer": {"refit": False}}
    sizes = []
    for steps in (0, 20):
        rows = trained(**options, finetune_steps=steps).model
        sizes.append(embedding_bytes(pack_axes(rows, 0), pack_axes(rows, 1)))
    assert sizes[0] == sizes[1] <= 7 * 210


@pytest.mark.parametrize("recipe, option, value", [
    ("node_aware", "range", "mse"), ("node_aware", "range", "meanstd"),
    ("node_aware", "estimator", "noise"), ("node_aware", "row_scale", "log8"),
    ("node_aware", "row_scale", "group"), ("uniform", "row_scale", "group"),
    ("paper", "estimator", "noise"),
    ("paper", "width_gradient", "interpolated")])
def test_each_option_changes_what_is_trained(recipe, option, value, trained):
    plain, other = trained(recipe), trained(recipe, **{option: value})
    assert not torch.equal(plain.embedding(), other.embedding())
    assert bool(other.embedding().isfinite().all())


def test_lsq_changes_the_course_of_learned_ranges(trained):
    plain = trained(range="learned")
    scaled = trained(range="learned", estimator="lsq")
    assert not torch.equal(plain.model.output_quantizer.log_delta,
                           scaled.model.output_quantizer.log_delta)


def test_interpolated_widths_pay_for_storage_too(trained):
    bits = [trained("paper", lambda_storage=weight,
                    width_gradient="interpolated").model.mean_bits
            for weight in (0.0, 1e-1)]
    assert bits[1] < bits[0]


@pytest.mark.parametrize("row_scale", ["float16", "log8", "group"])
@pytest.mark.parametrize("size", [5.0, 9.0])
def test_budgets_hold_after_fine_tuning(size, row_scale, data, trained):
    result = trained(bytes_per_node=size + 3, row_scale=row_scale,
                     trainer={"refit": False})
    packed = pack_model(result.model, result.edge_index, data)
    taken = packed.storage()["embedding_bytes"]
    assert 0.95 * 210 * (size + 3) <= taken <= 210 * (size + 3)


def test_the_result(data, trained, settings):
    result = trained()
    assert not result.model.training
    assert result.steps.keys() == result.seconds.keys() == {
        "float", "finetune", "refit_float", "refit_finetune"}
    assert torch.equal(result.edge_index,
                       data.merge_validation().edge_index())
    stages = list(dict.fromkeys(row["stage"] for row in result.history))
    assert stages == ["float", "finetune", "refit_float", "refit_finetune"]

    plain = trained(trainer={"refit": False})
    assert torch.equal(plain.edge_index, data.edge_index())
    assert plain.val == result.val  # chosen before the refit
    model = plain.model
    assert recall(plain.embedding(), data, "val") == pytest.approx(
        plain.val["trained"]["recall@20"])
    assert recall(plain.float_embedding, data, "val") == pytest.approx(
        plain.val["float"]["recall@20"])
    assert not model.training


def test_the_refit_repeats_the_course(trained):
    trainer = {"max_epochs": 60, "patience": 2}
    result = trained("float", trainer=trainer)
    chosen, again = result.steps["float"], result.steps["refit_float"]
    # Without the steps after the best model, which were thrown away:
    evaluations = [row for row in result.history if row["stage"] == "float"]
    falling = [row["step"] for row in evaluations if row["lr"] < 0.01]
    assert falling
    assert again["steps"] < chosen["steps"] < 240
    assert again["best"] == 0  # nothing is chosen any more


# Quality -------------------------------------------------------------------

LONG = {"max_epochs": 60, "eval_every": 20}


def test_training_works(data, settings, trained):
    result = trained("float", trainer=LONG)
    untrained = Trainer(settings(
        "float", trainer={"max_epochs": 1, "batch_size": 10**6,
                          "refit": False}, optimizer={"lr": 1e-9})).fit(data)
    degree = data.degree("train")[120:].float().view(-1, 1)
    popularity = torch.cat([torch.ones(120, 1), degree])
    found = recall(result.embedding(), data)
    assert found > 1.5 * recall(popularity, data)
    assert found > 1.5 * recall(untrained.embedding(), data)


@pytest.mark.parametrize("recipe, bits", [("uniform", {"bits": 1}),
                                          ("node_aware",
                                           {"target_bits": 1.3}),
                                          ("transform",
                                           {"bytes_per_node": 4.0})])
def test_fine_tuning_beats_rounding_alone(recipe, bits, settings):
    larger = synthetic_interactions(400, 300, 10000)
    tuned, rounded = (
        Trainer(settings(recipe, model={"embedding_dim": 16},
                         finetune_steps=steps, distill_users=256,
                         trainer={**LONG, "batch_size": 2000, "refit": False},
                         **bits)).fit(larger)
        for steps in (120, 0))
    assert torch.equal(tuned.float_embedding, rounded.float_embedding)

    def distance(result):
        scores, target = (x[:400] @ x[400:].t() for x in (
            result.embedding(), result.float_embedding))
        return float(F.listwise_kl_loss(scores, target, 0.5))

    assert distance(tuned) < 0.75 * distance(rounded)
    whole, a, b = (ndcg(rows, larger) for rows in (
        tuned.float_embedding, tuned.embedding(), rounded.embedding()))
    assert b + 0.01 < a < whole + 0.01


@pytest.mark.parametrize("options", [
    {"target_bits": 8.0},
    {**TRANSFORM, "allocation": "uniform", "bytes_per_node": None, "bits": 8,
     "scale_bits": 8}])
def test_eight_bits_are_as_good_as_float(options, data, trained):
    result = trained(**options, finetune_steps=0, trainer=LONG)
    assert recall(result.embedding(), data) == pytest.approx(
        recall(result.float_embedding, data), abs=0.01)


# Bad and unusual input -----------------------------------------------------


def test_diverging_training_ends(data, settings, tmp_path):
    config = settings("float", optimizer={"lr": 1e30})
    with pytest.raises(TrainingError, match="lower 'optimizer.lr'"):
        Trainer(config, tmp_path).fit(data)


def test_nothing_to_train_on(data, settings):
    empty = replace(data, train=data.train[:, :0])
    with pytest.raises(ValueError, match="at least one interaction"):
        Trainer(settings()).fit(empty)


def test_users_who_have_everything(settings):
    edges = torch.cartesian_prod(torch.arange(3), torch.arange(4)).t()
    full = Interactions.from_edges(edges, val_fraction=0.0)
    with pytest.raises(ValueError, match="no training edge has a negative"):
        Trainer(settings()).fit(full)
    # One such user among others is no problem:
    some = Interactions.from_edges(
        torch.cat([edges[:, :4], torch.tensor([[1, 2, 2], [0, 1, 3]])], 1),
        val_fraction=0.0)
    result = Trainer(settings(target_bits=2.0)).fit(some)
    assert bool(result.embedding().isfinite().all())


@pytest.mark.parametrize("options", [
    *({"recipe": recipe, "where": where} for recipe in RECIPES
      for where in ("output", "input")), TRANSFORM])
def test_isolated_users_and_items(options, data, settings):
    lonely = Interactions.from_edges(
        data.train[:, data.train[0] < 60], num_users=120, num_items=95,
        val_fraction=0.1)
    assert int((lonely.degree() == 0).sum()) >= 65
    result = Trainer(settings(**options)).fit(lonely)
    assert len(result.embedding()) == 215
    assert bool(result.embedding().isfinite().all())
    if options["recipe"] == "node_aware":
        assert int(result.model.embedding.controller.bit_width.sum()) == 430


@pytest.mark.parametrize("options", ALL)
def test_no_validation_split(options, data, settings):
    bare = Interactions.from_edges(data.train, num_users=120, num_items=90,
                                   val_fraction=0.0)
    result = Trainer(settings(**options)).fit(bare)
    assert result.val == {}
    assert not any(name.startswith("refit") for name in result.steps)
    assert all(stage["best"] == 0 for stage in result.steps.values())
    assert torch.equal(result.edge_index, bare.edge_index())


def test_little_time(data, settings):
    config = settings("float", trainer={
        "max_epochs": 10**6, "max_minutes": 0.5 / 60, "refit": False})
    result = Trainer(config).fit(data)
    assert 0.25 < result.seconds["float"] < 5.0
    assert result.history[-1]["lr"] < 0.005  # it did fall


@pytest.mark.parametrize("layers", [0, 3])
@pytest.mark.parametrize("where", ["output", "input"])
def test_numbers_of_layers(layers, where, data, settings):
    result = Trainer(settings(model={"num_layers": layers},
                              where=where)).fit(data)
    assert result.embedding().shape == (210, 8)


@pytest.mark.parametrize("name", ["nonsense", "cpu:x", "cuda:99", "", "meta"])
def test_no_such_device(name, data, settings):
    with pytest.raises(ValueError, match=r"'trainer.device' needs to be auto, "
                       rf"cpu, .*\(got '{name}'\)"):
        Trainer(settings(trainer={"device": name})).fit(data)


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert pick_device("auto").type == expected


def test_defaults():
    assert Trainer().config.quant.recipe == "node_aware"
    assert Trainer().run_dir is None


def test_threads(data, settings):
    before = torch.get_num_threads()
    try:
        Trainer(settings("float", trainer={"threads": before + 1,
                                           "max_epochs": 1})).fit(data)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
