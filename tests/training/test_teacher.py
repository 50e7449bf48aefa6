from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pyg_nodequant.data import Interactions
from pyg_nodequant.runtime import Catalogue, PackedRecommender, PackedTable
from pyg_nodequant.training import pack_model
from pyg_nodequant.training.teacher import TeacherError, load_teacher


@pytest.fixture
def tables():
    generator = torch.Generator().manual_seed(0)
    return {"users": torch.randn(120, 5, generator=generator),
            "items": torch.randn(90, 5, generator=generator)}


@pytest.fixture
def stored(tmp_path, tables):
    """Writes a file, some of its tensors changed, and names it."""
    def save(**changes):
        path = tmp_path / "rows.safetensors"
        kept = {k: v for k, v in {**tables, **changes}.items()
                if v is not None}
        save_file(kept, path)
        return str(path)

    return save


@pytest.fixture
def refused(data):
    def message(path, on=data):
        with pytest.raises(TeacherError) as error:
            load_teacher(str(path), on)
        return str(error.value)

    return message


@pytest.mark.parametrize("recipe, options", [
    ("float", {}), ("node_aware", {"where": "input"}),
    ("transform", {"bytes_per_node": 7.0})])
def test_a_run_directory(recipe, options, data, trained, tmp_path):
    result = trained(recipe, **options)
    pack_model(result.model, result.edge_index, data).save(
        tmp_path / "model.nq")
    teacher = load_teacher(str(tmp_path), data)
    assert teacher.rows.dtype == torch.float32
    if recipe == "float":
        assert torch.equal(teacher.rows, result.embedding())
    else:
        assert torch.allclose(teacher.rows, result.embedding(), rtol=1e-4,
                              atol=1e-6)


def test_a_file_of_rows(data, stored, tables):
    teacher = load_teacher(stored(more=torch.ones(3)), data)
    assert torch.equal(teacher.rows, torch.cat(list(tables.values())))


def test_digests_are_of_the_rows(data, stored, tables, tmp_path):
    first = load_teacher(stored(), data).digest
    assert first.startswith("blake2b:")
    rows = {"users": tables["users"].clone(), "items": tables["items"]}
    save_file({**rows, "more": torch.ones(3)}, tmp_path / "b.safetensors")
    assert load_teacher(str(tmp_path / "b.safetensors"), data).digest == first
    rows["users"][7, 3] += 1e-3
    assert load_teacher(stored(**rows), data).digest != first


@pytest.mark.parametrize("name", ["nothing", "empty", "rows.pt"])
def test_nothing_to_read(name, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.pt").write_bytes(b"0")
    path = tmp_path / name
    assert refused(path) == (
        f"'quant.teacher' needs to be a run directory with model.nq, or a "
        f".safetensors file (got '{path}')")


@pytest.mark.parametrize("changes, told", [
    ({"users": None}, "it needs tensors 'users' and 'items' (got items)"),
    ({"users": torch.ones(119, 5)},
     "it has 119 users, data 'synthetic' has 120"),
    ({"items": torch.ones(1234, 5)},
     "it has 1,234 items, data 'synthetic' has 90"),
    ({"items": torch.ones(90, 4)},
     "'users' and 'items' need as many columns (got 5 and 4)"),
    ({"items": torch.ones(90, 5).double()}, "'items' needs to be a float32 "
     "matrix (got torch.float64 of shape [90, 5])"),
    ({"users": torch.ones(120)}, "'users' needs to be a float32 matrix (got "
     "torch.float32 of shape [120])"),
    ({"users": torch.ones(120, 0), "items": torch.ones(90, 0)}, "'users' "
     "needs to be a float32 matrix (got torch.float32 of shape [120, 0])"),
    ({"users": torch.full((120, 5), torch.nan)},
     "'users' needs to be finite (got NaN or infinite values)"),
])
def test_rows_that_are_no_teacher(changes, told, refused, stored):
    path = stored(**changes)
    assert refused(path) == f"'quant.teacher' = '{path}' is no teacher: {told}"


def test_damaged_files(refused, stored, tmp_path):
    path = stored()
    content = open(path, "rb").read()
    open(path, "wb").write(content[:-3])
    assert "is no teacher" in refused(path)
    (tmp_path / "model.nq").write_bytes(content)
    assert "is no teacher" in refused(tmp_path)


def packed(data, folder, **ids):
    rng = np.random.default_rng(0)
    tables = [PackedTable.from_float(
        rng.normal(size=(rows, 4)).astype(np.float32),
        np.full(rows, 4, dtype=np.uint8)) for rows in (120, 90)]
    catalogue = Catalogue(
        ids.get("user_ids", data.user_ids), ids.get("item_ids", data.item_ids),
        None, data.csr("train", "val"))
    PackedRecommender(*tables, catalogue=catalogue).save(folder / "model.nq")


def test_other_users_and_items(data, refused, tmp_path):
    ids = np.asarray(data.item_ids).copy()
    ids[3] += 1000
    packed(data, tmp_path, item_ids=ids)
    assert f"item 3 is '{ids[3]}' in the file and" in refused(tmp_path)
    packed(data, tmp_path)
    assert load_teacher(str(tmp_path), data).rows.shape == (210, 4)
    more = replace(data, num_users=121, user_ids=np.arange(121))
    assert "it has 120 users, data 'synthetic' has 121" in refused(
        tmp_path, more)


def test_a_teacher_that_knows_the_test_split(data, refused, tmp_path):
    packed(data, tmp_path)
    edges = torch.cat([data.train, data.val, data.test], 1)
    other = Interactions.from_edges(edges, num_users=120, num_items=90,
                                    test_fraction=0.2, split_seed=5)
    assert "is no teacher: the file does not belong to these data: it was " \
        "trained on" in refused(tmp_path, other)
