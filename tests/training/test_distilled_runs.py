"""Whole runs of what is distilled, of how many items, and from whom."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from pyg_nodequant.runtime import PackedRecommender
from pyg_nodequant.training import Trainer
from pyg_nodequant.training.checkpoint import CheckpointError
from pyg_nodequant.training.experiment import run_experiment
from pyg_nodequant.training.lessons import first_items
from pyg_nodequant.training.teacher import TeacherError, load_teacher

LESSONS = {
    "sample": {"distill_items": 30},
    "ranking": {"distillation": "ranking"},
    "margin": {"distillation": "margin"},
    "mse": {"distillation": "mse"},
}
RECIPES = {
    "node_aware": {"recipe": "node_aware", "target_bits": 1.5},
    "uniform": {"recipe": "uniform", "where": "input", "bits": 1},
    "transform": {"recipe": "transform", "bytes_per_node": 7.0},
}


@pytest.fixture(scope="module")
def teacher(data, settings, tmp_path_factory):
    """The run directory of a wider float model."""
    folder = tmp_path_factory.mktemp("teacher")
    config = settings("float", model={"embedding_dim": 16},
                      trainer={"refit": False})
    run_experiment(config, data, folder)
    return str(folder)


def store(rows, path):
    save_file({"users": rows[:120].clone(), "items": rows[120:].clone()},
              path)
    return str(path)


def shared(rows, others, k=10):
    """The mean share of the first k items that two models have in common."""
    lists = [first_items(x[:120], x[120:], count=k).tolist()
             for x in (rows, others)]
    return sum(len({*a} & {*b}) / k for a, b in zip(*lists)) / 120


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("lesson", LESSONS)
def test_same_seed_same_bytes(recipe, lesson, data, settings, trained,
                              packed_bytes):
    options = {**RECIPES[recipe], **LESSONS[lesson]}
    first = packed_bytes(trained(**options), data)
    torch.manual_seed(99)
    again = Trainer(settings(**options)).fit(data)
    assert packed_bytes(again, data) == first
    plain = trained(**RECIPES[recipe])
    assert packed_bytes(plain, data) != first
    assert again.val["trained"].keys() == plain.val["trained"].keys()


def test_a_sample_of_all_items_is_no_sample(data, trained, packed_bytes):
    for count in (90, 1000):
        result = trained(distill_items=count)
        assert packed_bytes(result, data) == packed_bytes(trained(), data)


@pytest.mark.parametrize("lesson", [{}, *LESSONS.values()])
def test_students_come_closer_to_their_teacher(lesson, data, settings,
                                               tmp_path):
    # A model of something else: its likes are not those of the data.
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(210, 3, generator=generator)
    path = store(rows, tmp_path / "rows.safetensors")
    bare = replace(data, val=data.val[:, :0])  # the last model is kept

    def fit(**options):
        config = settings("uniform", bits=6, bpr_weight=0.0, teacher=path,
                          finetune_lr=0.03, model={"num_layers": 0},
                          optimizer={"l2": 0.0}, **options)
        return shared(Trainer(config).fit(bare).embedding(), rows)

    before, after = fit(finetune_steps=1), fit(finetune_steps=150, **lesson)
    assert before < 0.2 and after > 0.8


@pytest.mark.parametrize("recipe", RECIPES)
def test_runs_with_a_teacher(recipe, teacher, data, settings, trained,
                             packed_bytes):
    options = RECIPES[recipe]
    result = trained(teacher=teacher, **options)
    assert result.teacher.rows.shape == (210, 16)
    stages = {"transform": ("transform", )}.get(recipe,
                                                ("float", "finetune"))
    assert set(result.steps) == {*stages, *(f"refit_{s}" for s in stages)}
    assert (result.float_embedding is None) == (recipe == "transform")
    assert ("float" in result.val) == (recipe != "transform")
    again = Trainer(settings(teacher=teacher, **options)).fit(data)
    assert packed_bytes(again, data) == packed_bytes(result, data)
    plain = trained(**options)
    assert plain.teacher is None
    assert packed_bytes(plain, data) != packed_bytes(result, data)
    if recipe != "transform":  # the float model is the run's own
        assert torch.equal(plain.float_embedding, result.float_embedding)


def test_the_rows_of_a_run_as_a_file(teacher, data, settings, trained,
                                     packed_bytes, tmp_path):
    path = store(load_teacher(teacher, data).rows,
                 tmp_path / "rows.safetensors")
    options = RECIPES["transform"]
    result = Trainer(settings(teacher=path, **options)).fit(data)
    expected = trained(teacher=teacher, **options)
    assert packed_bytes(result, data) == packed_bytes(expected, data)
    assert result.teacher.digest == expected.teacher.digest


def test_the_test_split_does_not_matter_to_a_teacher(teacher, data, settings,
                                                     trained, packed_bytes):
    bare = replace(data, test=data.test[:, :0])
    options = RECIPES["transform"]
    result = Trainer(settings(teacher=teacher, **options)).fit(bare)
    expected = trained(teacher=teacher, **options)
    assert torch.equal(result.embedding(), expected.embedding())
    assert result.val == expected.val


STOPS = [
    ("node_aware", "sample", "select", "finetune", 8),
    ("node_aware", "ranking", "refit", "finetune", 16),
    ("uniform", "mse", "select", "finetune", 16),
    ("transform", "sample", "refit", "transform", 8),
    ("transform", "margin", "select", "transform", 8),
    ("transform", "margin", "select", "transform", None),
]


@pytest.mark.parametrize("with_teacher", [False, True])
@pytest.mark.parametrize("recipe, lesson, run, stage, step", STOPS)
def test_resumed_runs_end_alike(recipe, lesson, run, stage, step,
                                with_teacher, teacher, data, settings,
                                packed_bytes, check_resumes, tmp_path):
    options = {**RECIPES[recipe], **LESSONS[lesson]}
    if with_teacher:
        options["teacher"] = teacher
    _, expected = check_resumes(run, stage, step, **options)
    # And when there is nothing left to do:
    config = settings(**options, trainer={"resume": str(tmp_path)})
    again = Trainer(config).fit(data)
    assert packed_bytes(again, data) == packed_bytes(expected, data)


def test_no_resuming_with_another_teacher(teacher, data, settings, tmp_path):
    rows = load_teacher(teacher, data).rows
    path = store(rows, tmp_path / "rows.safetensors")
    options = RECIPES["transform"]
    Trainer(settings(teacher=teacher, **options), tmp_path).fit(data)
    resume = {"trainer": {"resume": str(tmp_path)}, **options}
    Trainer(settings(teacher=path, **resume)).fit(data)  # the same rows
    rows[5, 1] += 1e-3
    store(rows, path)
    with pytest.raises(CheckpointError, match=r"differing: teacher\)"):
        Trainer(settings(teacher=path, **resume)).fit(data)
    with pytest.raises(CheckpointError, match=r"differing: quant\)"):
        Trainer(settings(**resume)).fit(data)


def test_no_such_teacher(data, settings, tmp_path):
    config = settings(teacher=str(tmp_path / "nowhere"))
    with pytest.raises(TeacherError, match="'quant.teacher' needs to be a "
                       "run directory with model.nq, or a .safetensors file"):
        Trainer(config, tmp_path).fit(data)
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_of_a_teacher(teacher, data, settings, tmp_path):
    config = settings(teacher=teacher, trainer={"refit": False},
                      **RECIPES["transform"])
    metrics = run_experiment(config, data, tmp_path)
    theirs = json.loads(open(f"{teacher}/metrics.json").read())
    assert metrics["teacher"]["test"] == theirs["test_training_path"]
    assert metrics["teacher"]["val"]["recall@20"] > 0
    assert metrics["float"] == theirs["teacher"] == {}
    # Files that are shared name no path of the machine.
    packed = PackedRecommender.open(tmp_path / "model.nq")
    digest = load_teacher(teacher, data).digest
    assert packed.metadata["quant"]["teacher"] == digest
    for name in ("model.nq", "model.safetensors", "checkpoint.safetensors"):
        assert teacher.encode() not in (tmp_path / name).read_bytes()
    assert load_file(tmp_path / "model.safetensors")["weight"].size(0) == 210


def test_students_of_students(teacher, data, settings, tmp_path):
    config = settings(teacher=teacher, trainer={"refit": False},
                      **RECIPES["transform"])
    run_experiment(config, data, tmp_path)
    result = Trainer(settings(teacher=str(tmp_path), bits=2,
                              recipe="uniform")).fit(data)
    served = PackedRecommender.open(tmp_path / "model.nq").served_items
    assert torch.equal(result.teacher.rows[120:],
                       torch.from_numpy(served.dequantize()))
