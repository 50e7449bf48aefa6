from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pyg_nodequant.data import Interactions
from pyg_nodequant.training import Trainer
from pyg_nodequant.training.float_cache import FloatCache
from pyg_nodequant.training.stages import FloatStage

# A budget that suits the 210 nodes of the tests, of 8 numbers each.
TRANSFORM = {"recipe": "transform", "bytes_per_node": 7.0}


@pytest.fixture
def cache(tmp_path, data, settings):
    """The cache of a run, with what is given changed."""

    def make(changes=(), plan=None, on=data):
        return FloatCache(str(tmp_path), settings(**dict(changes)), on, plan)

    return make


@pytest.fixture
def no_float_stage(monkeypatch):
    """Lets float stages that train fail, from when it is called."""

    def forbid():
        def loss(self, *args):
            raise AssertionError("a float model is trained")

        monkeypatch.setattr(FloatStage, "loss", loss)

    return forbid


def cached(settings, folder, recipe="node_aware", trainer=(), **options):
    return settings(recipe, trainer={"float_cache": str(folder),
                                     **dict(trainer)}, **options)


# Names ---------------------------------------------------------------------


@pytest.mark.parametrize("changes", [
    {"recipe": "uniform"}, TRANSFORM, {"where": "both", "range": "learned"},
    {"target_bits": 4.0, "finetune_steps": 3}, {"max_bits": 4},
    {"trainer": {"threads": 7}}, {"trainer": {"device": "cuda:3"}},
    {"trainer": {"progress": True, "logger": "tensorboard"}},
    {"trainer": {"refit": False}}, {"trainer": {"resume": "somewhere"}},
    {"trainer": {"checkpoint_minutes": 9.0}},
    {"trainer": {"float_cache": "elsewhere"}},
])
def test_what_does_not_matter(changes, cache):
    assert cache(changes).path == cache().path


@pytest.mark.parametrize("changes", [
    {"seed": 1}, {"model": {"embedding_dim": 4}}, {"model": {"num_layers": 1}},
    {"optimizer": {"lr": 0.02}}, {"optimizer": {"l2": 0.0}},
    {"optimizer": {"l2": 1e-4}}, {"trainer": {"batch_size": 499}},
    {"trainer": {"max_epochs": 9}}, {"trainer": {"eval_every": 9}},
    {"trainer": {"patience": 2}}, {"trainer": {"anneal": 1.0}},
    {"trainer": {"monitor": "recall@20"}}, {"trainer": {"max_minutes": 1.0}},
    {"trainer": {"max_val_users": 9}},
])
def test_what_matters(changes, cache):
    assert cache(changes).path != cache().path


def test_the_course_matters(cache):
    paths = {cache(plan=plan).path for plan in (None, (3, 5), (3, 6), (4, 5))}
    assert len(paths) == 4


def test_the_data_matter(cache, data):
    other = [
        replace(data, train=data.train[:, 1:]),
        replace(data, val=data.val[:, 1:]),
        replace(data, train=data.val, val=data.train),
        data.merge_validation(),
        replace(data, num_items=91, item_ids=np.arange(91), item_titles=None),
    ]
    assert len({cache(on=d).path for d in (data, *other)}) == 6
    assert cache(on=data.without_test()).path == cache().path


def test_where_one_split_ends_matters(cache):
    # The same numbers one after the other: users and items of training, then
    # those of validation.
    whole, none = torch.tensor([[0, 1], [2, 3]]), torch.empty(2, 0).long()
    a = Interactions(4, 4, whole, none, none, np.arange(4), np.arange(4))
    b = Interactions(4, 4, torch.tensor([[0], [1]]), torch.tensor([[2], [3]]),
                     none, np.arange(4), np.arange(4))
    assert cache(on=a).path != cache(on=b).path


# Files ---------------------------------------------------------------------


def test_what_is_kept_comes_back(cache):
    assert cache().load() is None
    weight = torch.randn(9, 4).requires_grad_()
    facts = {"done": {"step": 3, "best_metric": float("-inf")},
             "plan": [1, 2]}
    cache().save(weight[:, ::2], facts)
    found, again = cache().load()
    assert torch.equal(found, weight[:, ::2]) and not found.requires_grad
    assert again == facts
    assert cache({"seed": 1}).load() is None
    cache().save(weight, {"plan": [3, 4]})  # replaces
    assert cache().load()[1] == {"plan": [3, 4]}
    assert len(list(cache().path.parent.iterdir())) == 1


def test_the_folder_is_made(tmp_path, data, settings):
    folder = tmp_path / "not" / "there"
    cache = FloatCache(str(folder), settings(), data)
    assert cache.load() is None and not folder.exists()
    cache.save(torch.ones(2, 2), {})
    assert cache.load()[1] == {}


@pytest.mark.parametrize("length", [0, 4, 8, 30, 120, -1])
def test_files_cut_short(length, cache):
    cache().save(torch.ones(9, 4), {"plan": [1, 2]})
    path = cache().path
    path.write_bytes(path.read_bytes()[:length])
    assert cache().load() is None


@pytest.mark.parametrize("tensors, metadata", [
    ({"weight": torch.ones(2, 2)}, None),
    ({"weight": torch.ones(2, 2)}, {"other": "{}"}),
    ({"weight": torch.ones(2, 2)}, {"facts": "{"}),
    ({"table": torch.ones(2, 2)}, {"facts": "{}"}),
])
def test_files_of_something_else(tensors, metadata, cache):
    save_file(tensors, cache().path, metadata)
    assert cache().load() is None


def test_no_file_at_all(cache):
    cache().path.write_bytes(b"\xff" * 500)
    assert cache().load() is None
    cache().path.unlink()
    cache().path.mkdir()
    assert cache().load() is None


# Runs ----------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {"recipe": "float"}, {"recipe": "paper", "trainer": {"refit": False}},
    TRANSFORM])
def test_runs_with_a_cache_end_like_others(options, data, settings, trained,
                                           packed_bytes, tmp_path,
                                           no_float_stage):
    expected = trained(**options)
    config = cached(settings, tmp_path, **options)
    first = Trainer(config).fit(data)
    no_float_stage()
    second = Trainer(config).fit(data)
    for result in (first, second):
        assert packed_bytes(result, data) == packed_bytes(expected, data)
        assert torch.equal(result.float_embedding, expected.float_embedding)
        assert (result.val, result.steps) == (expected.val, expected.steps)
    assert second.seconds["float"] == first.seconds["float"]
    kept = list(tmp_path.iterdir())  # the second of them is the refit's
    assert len(kept) == (1 if "trainer" in options else 2)


def test_recipes_share_a_float_model(data, settings, trained, packed_bytes,
                                     tmp_path, no_float_stage):
    several = [{"recipe": "uniform", "bits": 3}, TRANSFORM,
               {"recipe": "node_aware", "range": "learned", "where": "both"}]
    several = [{**options, "trainer": {"refit": False}}
               for options in several]
    expected = [packed_bytes(trained(**options), data) for options in several]
    Trainer(cached(settings, tmp_path, "float")).fit(data)
    no_float_stage()
    for options, content in zip(several, expected):
        result = Trainer(cached(settings, tmp_path, **options)).fit(data)
        assert packed_bytes(result, data) == content


def test_other_runs_train_their_own(data, settings, trained, packed_bytes,
                                    tmp_path):
    Trainer(cached(settings, tmp_path, "float")).fit(data)
    result = Trainer(cached(settings, tmp_path, "float", seed=1)).fit(data)
    expected = trained("float", seed=1)
    assert packed_bytes(result, data) == packed_bytes(expected, data)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_damaged_file_is_made_anew(data, settings, tmp_path, trained,
                                     packed_bytes):
    config = cached(settings, tmp_path, "float")
    Trainer(config).fit(data)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for path, content in files.items():
        path.write_bytes(content[:-1])
    result = Trainer(config).fit(data)
    assert packed_bytes(result, data) == packed_bytes(trained("float"), data)
    assert {path: path.read_bytes()[-64:] for path in tmp_path.iterdir()} == {
        path: content[-64:] for path, content in files.items()}


def test_no_validation_split(data, settings, tmp_path, no_float_stage):
    bare = Interactions.from_edges(data.train, num_users=120, num_items=90,
                                   val_fraction=0.0)
    config = cached(settings, tmp_path, "float")
    first = Trainer(config).fit(bare)
    no_float_stage()
    second = Trainer(config).fit(bare)
    assert torch.equal(first.embedding(), second.embedding())
    assert first.steps == second.steps


@pytest.mark.parametrize("run, stage, step", [
    ("select", "float", 16), ("refit", "finetune", 8)])
def test_runs_with_a_cache_are_resumed(run, stage, step, data, settings,
                                       trained, packed_bytes, stop_at,
                                       tmp_path):
    config = cached(settings, tmp_path / "cache")
    stop_at(config, data, tmp_path, run, stage, step)
    resumed = replace(config, trainer=replace(config.trainer,
                                              resume=str(tmp_path)))
    result = Trainer(resumed).fit(data)
    assert packed_bytes(result, data) == packed_bytes(trained(), data)
    assert result.steps == trained().steps
    assert result.val == trained().val
