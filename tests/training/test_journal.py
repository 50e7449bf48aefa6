import csv
import json
from dataclasses import replace

import pytest
import torch

from pyg_nodequant.training.checkpoint import CheckpointError
from pyg_nodequant.training.journal import Journal, differences, fingerprint


def save(journal, **state):
    journal.save(model={"w": torch.ones(2)}, optimizer={}, best={},
                 groups={"float": {"w": torch.zeros(2)}, "learned": {}},
                 state=state)


def test_without_a_folder_nothing_is_written(data, settings):
    journal = Journal(settings(), data, None)
    assert journal.open() is None
    journal.record({"stage": "float", "step": 1})
    save(journal, step=1)
    journal.close()
    assert journal.rows == [{"stage": "float", "step": 1}]


def test_a_checkpoint_carries_history_and_state(data, settings, tmp_path):
    journal = Journal(settings(), data, tmp_path)
    journal.record({"stage": "float", "step": 1, "loss": 0.5})
    save(journal, step=1)
    journal.record({"stage": "float", "step": 2, "loss": 0.25})  # is lost
    journal.close()

    config = settings(trainer={"resume": str(tmp_path)})
    again = Journal(config, data, tmp_path)
    checkpoint = again.open()
    assert checkpoint.state["step"] == 1
    assert checkpoint.model["w"].tolist() == [1.0, 1.0]
    assert checkpoint.groups["float"]["w"].tolist() == [0.0, 0.0]
    assert again.rows == [{"stage": "float", "step": 1, "loss": 0.5}]
    again.record({"stage": "float", "step": 2, "loss": 0.125})
    again.close()
    with open(tmp_path / "history.csv", newline="") as file:
        assert [row["loss"] for row in csv.DictReader(file)] == [
            "0.5", "0.125"]


def test_what_may_change_between_runs(data, settings):
    base = fingerprint(settings(), data)
    same = settings(trainer={"max_epochs": 99, "device": "cpu", "threads": 3,
                             "progress": True, "resume": "x"})
    assert fingerprint(same, data) == base
    renamed = replace(data, name="other", item_titles=None)
    assert fingerprint(settings(), renamed) == base
    assert fingerprint(settings(), data.without_test()) == base


def test_what_differs_is_named(data, settings):
    base = fingerprint(settings(), data)
    assert differences(base, base) == []
    other = fingerprint(settings("paper", seed=3), data)
    assert differences(base, other) == ["quant", "seed"]
    swapped = replace(data, train=data.val, val=data.train)
    assert differences(base, fingerprint(settings(), swapped)) == [
        "interactions"]
    # Written before there was such an entry:
    assert differences("{}", base) == list(json.loads(base))


def test_a_teacher_counts_by_its_content(data, settings):
    def of(path, digest):
        return fingerprint(settings(teacher=path), data, digest)

    assert of("here", "abc") == of("there", "abc")
    assert differences(of("here", "abc"), of("here", "abd")) == ["teacher"]
    none = fingerprint(settings(), data)
    assert differences(none, of("here", "abc")) == ["quant", "teacher"]
    assert differences(of("here", "abc"), none) == ["quant"]


def test_a_foreign_checkpoint(data, settings, tmp_path):
    journal = Journal(settings(seed=1), data, tmp_path)
    save(journal, step=1)
    config = settings(trainer={"resume": str(tmp_path)})
    with pytest.raises(CheckpointError, match=r"same seed, model, "
                       r"quantization and data \(differing: seed\)"):
        Journal(config, data, None).open()


def test_tensorboard(data, settings, tmp_path):
    pytest.importorskip("tensorboard")
    journal = Journal(settings(trainer={"logger": "tensorboard"}), data,
                      tmp_path)
    journal.record({"stage": "float", "step": 1, "loss": 0.5})
    journal.close()
    assert list((tmp_path / "tensorboard" / "float").iterdir())
