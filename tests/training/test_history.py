import csv
import math
import sys

import numpy as np
import pytest
import torch

import pyg_nodequant.training.history as module
from pyg_nodequant.training.history import COLUMNS, History, rows_until


def read(path):
    with open(path / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def fill(path, rows, **kwargs):
    with History(path, **kwargs) as history:
        for stage, step in rows:
            history.append({"stage": stage, "step": step, "loss": step / 3})
    return history


def steps(path):
    return [(row["stage"], int(row["step"])) for row in read(path)]


def test_rows_and_columns(tmp_path):
    history = History(tmp_path)
    assert not (tmp_path / "history.csv").exists() and len(history) == 0
    history.append({"step": 1, "stage": "float", "loss": torch.tensor(0.5),
                    "kl": np.float32(0.1), "note": "a,\n\"b\""})
    history.append({"step": 2, "val_recall@20": 0.1 + 0.2, "lr": None})
    rows = read(tmp_path)
    assert list(rows[0]) == [*COLUMNS, "kl", "note"]
    assert float(rows[0]["loss"]) == 0.5
    assert float(rows[0]["kl"]) == float(np.float32(0.1))
    assert rows[0]["note"] == "a,\n\"b\"" and rows[0]["epoch"] == ""
    assert float(rows[1]["val_recall@20"]) == 0.1 + 0.2
    assert rows[1]["stage"] == rows[1]["lr"] == rows[1]["kl"] == ""
    assert repr(history) == f"History('{tmp_path}/history.csv', rows=2)"


def test_new_columns_widen_the_file(tmp_path):
    history = History(tmp_path)
    history.append({"step": 1, "loss": 1.0})
    history.append({"step": 2, "extra": 7})
    history.append({"step": 3, "loss": math.nan, "extra": 8})
    rows = read(tmp_path)
    assert list(rows[0]) == [*COLUMNS, "extra"]
    assert [row["extra"] for row in rows] == ["", "7", "8"]
    assert [row["loss"] for row in rows] == ["1.0", "", "nan"]
    assert [p.name for p in tmp_path.iterdir()] == ["history.csv"]


def test_every_row_is_on_the_disk_at_once(tmp_path):
    history = History(tmp_path)
    for step in range(4):
        history.append({"step": step})
        assert len(read(tmp_path)) == step + 1


def test_a_new_run_starts_a_new_file(tmp_path):
    fill(tmp_path, [("float", 1), ("float", 2)])
    history = History(tmp_path)
    assert len(read(tmp_path)) == 2  # until there is something to write
    history.append({"stage": "float", "step": 9})
    assert steps(tmp_path) == [("float", 9)]


def test_resume(tmp_path):
    rows = [("float", step) for step in (10, 20, 30)]
    fill(tmp_path, rows)
    whole = (tmp_path / "history.csv").read_bytes()
    history = fill(tmp_path, [], resume_step=20)
    assert steps(tmp_path) == rows[:2] and len(history) == 2
    fill(tmp_path, rows[2:], resume_step=20)
    assert (tmp_path / "history.csv").read_bytes() == whole


def test_resume_keeps_extra_columns(tmp_path):
    with History(tmp_path) as history:
        history.append({"stage": "float", "step": 1, "kl": 3})
    with History(tmp_path, resume_step=1) as history:
        history.append({"stage": "float", "step": 2, "kl": 4})
    assert [row["kl"] for row in read(tmp_path)] == ["3", "4"]


def test_resume_without_a_file(tmp_path):
    fill(tmp_path, [("float", 30)], resume_step=20)
    assert steps(tmp_path) == [("float", 30)]
    (tmp_path / "history.csv").write_text("")
    fill(tmp_path, [("float", 30)], resume_step=20)
    assert steps(tmp_path) == [("float", 30)]


def test_resume_drops_half_a_line(tmp_path):
    fill(tmp_path, [("float", 10), ("float", 20)])
    with open(tmp_path / "history.csv", "a") as file:
        file.write("float,3,2")
    fill(tmp_path, [("float", 30)], resume_step=20)
    assert steps(tmp_path) == [("float", 10), ("float", 20), ("float", 30)]


ROWS = [("float", 10), ("float", 90), ("tune", 10), ("tune", 20), ("end", 10)]


@pytest.mark.parametrize("stage, step, kept", [
    ("float", 10, 1),
    ("float", 90, 2),
    ("float", 0, 0),
    ("tune", 0, 2),
    ("tune", 15, 3),
    ("tune", 20, 4),
    ("end", 10, 5),
    ("next", 0, 5),
    (None, 10, 1),
    (None, 90, 5),
])
def test_resume_by_stage(stage, step, kept, tmp_path):
    fill(tmp_path, ROWS)
    fill(tmp_path, [], resume_step=step, resume_stage=stage)
    assert steps(tmp_path) == ROWS[:kept]


def test_foreign_file(tmp_path):
    (tmp_path / "history.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"'stage' and 'step' \(got \['a'"):
        History(tmp_path, resume_step=1)
    (tmp_path / "history.csv").write_text("stage,step\nfloat,two\n")
    with pytest.raises(ValueError, match=r"an integer \(got 'two'\)"):
        History(tmp_path, resume_step=1)


def test_unknown_logger(tmp_path):
    with pytest.raises(ValueError, match=r"csv, tensorboard \(got 'wandb'\)"):
        History(tmp_path, logger="wandb")


def test_rows_until_nothing():
    assert rows_until([], 3) == []


def scalars(folder):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    with History(tmp_path, logger="tensorboard") as history:
        history.append({"stage": "float", "step": 5, "loss": 0.5, "lr": None})
        history.append({"stage": "float", "step": 9, "loss": 0.25, "x": "no"})
        history.append({"stage": "tune", "step": 5, "val_ndcg@20": 0.125})
    folder = tmp_path / "tensorboard"
    assert scalars(folder / "float") == {"loss": [(5, 0.5), (9, 0.25)]}
    assert scalars(folder / "tune") == {"val_ndcg@20": [(5, 0.125)]}
    assert len(read(tmp_path)) == 3


@pytest.mark.parametrize("stage", [None, "float"])
def test_tensorboard_resume(stage, tmp_path):
    pytest.importorskip("tensorboard")
    fill(tmp_path, [("float", 3), ("float", 6), ("float", 9)],
         logger="tensorboard")
    fill(tmp_path, [("float", 6)], logger="tensorboard", resume_step=3,
         resume_stage=stage)
    events = scalars(tmp_path / "tensorboard" / "float")["loss"]
    assert events == [(3, 1.0), (6, 2.0)]


def test_purged_steps(tmp_path):
    pytest.importorskip("tensorboard")
    make = module.TensorBoardScalars
    assert make(tmp_path).purge_step("a") is None
    assert make(tmp_path, 7).purge_step("a") == 8
    assert make(tmp_path, 7, "a").purge_step("a") == 8
    assert make(tmp_path, 7, "a").purge_step("b") == 0


def test_tensorboard_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError,
                       match=r'pip install "pyg-nodequant\[loggers\]"'):
        History(tmp_path, logger="tensorboard")
    assert not list(tmp_path.iterdir())
