import json

import pytest
import torch

from pyg_nodequant import functional as F
from pyg_nodequant.config import NodeQuantConfig
from pyg_nodequant.training import Trainer
from pyg_nodequant.training.experiment import run_experiment
from pyg_nodequant.training.popularity import PopularityLift

BLEND = {"blend": 0.5, "popularity_discount": 0.125}
SOFTMAX = {"name": "softmax", "users": 50}
RECIPES = {
    "transform": {"recipe": "transform", "bytes_per_node": 7.0},
    "node_aware": {"recipe": "node_aware", "target_bits": 1.5},
    "learned": {"recipe": "learned", "target_bits": 1.5, "learn_steps": 20},
    "learned axes": {"recipe": "transform", "allocation": "learned",
                     "bytes_per_node": 7.0, "learn_steps": 20},
}


def tables(rows):
    return rows[:120], rows[120:]


def scores(rows):
    return rows[:120] @ rows[120:].t()


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_blend_distils(recipe, data, trained):
    options = {**RECIPES[recipe], **BLEND, "loss": SOFTMAX}
    result = trained(**options)
    names = list(result.steps)
    assert names[:2] == ["float", "companion"]
    assert {"refit_companion", "refit_float"} <= set(names)
    # The two models are the very ones that are trained alone:
    first = trained("float", loss=SOFTMAX).embedding()
    second = trained("float").embedding()
    assert torch.equal(result.float_embedding, first)
    users, items = F.blend_rows(tables(first), tables(second), 0.5)
    plain = users @ items.t()
    # The refit is on train and validation together:
    degree = data.merge_validation().degree("train")[120:].double()
    taught = scores(result.taught.rows)
    change = 0.125 * (degree[degree > 0].log().mean()
                      - degree.clamp(min=1).log())
    change[degree == 0] = 0
    assert torch.allclose(taught - plain, change.float().expand(120, -1),
                          atol=1e-4)
    assert set(result.val) == {"trained", "float", "teacher"}
    assert result.teacher is None


def test_the_students_learn_from_both(trained):
    # Rows of many bits follow the blend, not the float model alone.
    options = {"recipe": "transform", "bytes_per_node": 30.0, "loss": SOFTMAX}
    result = trained(blend=0.5, **options)
    own, taught = (
        torch.corrcoef(torch.stack([scores(result.embedding()).flatten(),
                                    scores(x).flatten()]))[0, 1]
        for x in (result.float_embedding, result.taught.rows))
    assert taught > 0.97
    assert taught > own
    alone = trained(**options)
    assert alone.taught is None
    assert "companion" not in alone.steps


def test_the_companion_of_bpr_knows_softmax(trained):
    result = trained(recipe="transform", bytes_per_node=7.0, blend=1.0)
    other = trained("float").embedding()
    assert torch.equal(result.float_embedding, other)
    other = trained("float", loss={"name": "softmax"}).embedding()
    order = scores(other).argsort(1)
    taught = scores(result.taught.rows)
    assert bool((taught.gather(1, order).diff(dim=1) > -1e-4).all())


def test_a_discount_without_a_companion(trained):
    result = trained(recipe="transform", bytes_per_node=7.0, max_bits=8,
                     popularity_discount=0.5)
    assert "companion" not in result.steps
    gap = scores(result.taught.rows) - scores(result.float_embedding)
    assert torch.allclose(gap, gap[:1].expand(120, -1), atol=1e-4)
    assert gap[0].max() > 0.2 and gap[0].min() < -0.2


def test_a_discount_that_is_found(data, settings, trained):
    options = {"recipe": "transform", "bytes_per_node": 7.0, "blend": 0.5,
               "loss": SOFTMAX, "popularity_discount": None}
    plain = trained(**{**options, "popularity_discount": 0.0}).taught
    together = data.merge_validation()
    lift = PopularityLift(together)
    target = 0.95 * lift(*tables(plain.rows))
    found = trained(**options, popularity_lift=target).taught
    assert found.discount == lift.discount(*tables(plain.rows), target) > 0
    assert lift(*tables(found.rows)) <= target
    assert plain.discount == 0.0
    with pytest.raises(ValueError, match="'quant.popularity_lift' is no "
                                         "setting of a given discount"):
        NodeQuantConfig(popularity_discount=0.1, popularity_lift=2.0)


STOPS = [
    ("transform", "select", "companion", 8),
    ("transform", "select", "companion", None),
    ("transform", "refit", "companion", 8),
    ("transform", "refit", "float", None),
    ("node_aware", "refit", "companion", 8),
    ("learned", "select", "learn", 8),
    ("learned axes", "refit", "learn_axes", None),
    ("learned axes", "select", "transform", 8),
]


@pytest.mark.parametrize("recipe, run, stage, step", STOPS)
def test_resumed_runs_end_alike(recipe, run, stage, step, data, settings,
                                packed_bytes, check_resumes, tmp_path):
    options = {**RECIPES[recipe], **BLEND, "loss": SOFTMAX}
    _, expected = check_resumes(run, stage, step, **options)
    config = settings(**options, trainer={"resume": str(tmp_path)})
    again = Trainer(config).fit(data)  # nothing is left to do
    assert packed_bytes(again, data) == packed_bytes(expected, data)


def test_companions_are_cached(data, settings, trained, packed_bytes,
                               tmp_path):
    cached = {"trainer": {"float_cache": str(tmp_path)}}
    for loss in (SOFTMAX, {"name": "bpr", "users": 50}):
        Trainer(settings("float", loss=loss, **cached)).fit(data)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4  # two losses, and both refitted
    options = {**RECIPES["transform"], **BLEND, "loss": SOFTMAX}
    result = Trainer(settings(**options, **cached)).fit(data)
    assert sorted(tmp_path.iterdir()) == files  # all four were there
    assert {row["stage"] for row in result.history} == {
        "transform", "refit_transform"}
    assert packed_bytes(result, data) == packed_bytes(trained(**options), data)


def test_what_is_written_of_a_blend(data, settings, tmp_path):
    options = {**RECIPES["transform"], **BLEND, "loss": SOFTMAX}
    metrics = run_experiment(settings(**options), data, tmp_path)
    for split in ("val", "test"):
        assert metrics["teacher"][split]["recall@20"] > 0
        assert (metrics["teacher"][split]["ndcg@20"]
                != metrics["float"][split]["ndcg@20"])
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics


def test_a_given_teacher_has_no_companion(data, settings, trained, tmp_path):
    folder = tmp_path / "teacher"
    folder.mkdir()
    run_experiment(settings("float"), data, folder)
    options = {**RECIPES["transform"], **BLEND, "teacher": str(folder)}
    result = Trainer(settings(**options)).fit(data)
    assert set(result.steps) == {"transform", "refit_transform"}
    # The discount is for any teacher.
    assert result.taught.rows.size(1) == result.teacher.rows.size(1) + 1


def test_recipes_that_distil_nothing():
    for recipe in ("paper", "float"):
        for name, value in (("blend", 0.5), ("popularity_discount", 0.1)):
            with pytest.raises(ValueError, match=f"'quant.{name}' is no "
                                                 f"setting of recipe "
                                                 f"'{recipe}'"):
                NodeQuantConfig(recipe, **{name: value})
    for name, value in (("blend", 1.1), ("popularity_discount", -1.0)):
        with pytest.raises(ValueError, match=f"'quant.{name}' needs to be a "
                                             f"number in "):
            NodeQuantConfig(**{name: value})
