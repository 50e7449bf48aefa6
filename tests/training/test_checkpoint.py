import json
import math
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import pyg_nodequant.training.checkpoint as checkpoint
from pyg_nodequant.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)


def same(a, b):
    """Equal types, values and bits, all the way down."""
    if isinstance(a, torch.Tensor):
        return (isinstance(b, torch.Tensor) and a.dtype == b.dtype
                and a.shape == b.shape and torch.equal(
                    a.contiguous().view(-1).view(torch.uint8),
                    b.contiguous().view(-1).view(torch.uint8)))
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or a != a and b != b


def train(model, optimizer, steps, seed):
    g = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(5, 4, generator=g)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01)),
    lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    lambda p: torch.optim.Adam([{"params": [q], "lr": 0.1} for q in p]),
])
def test_training_goes_on_bit_by_bit(make, tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = make(list(model.parameters()))
    train(model, optimizer, 3, seed=1)
    save_checkpoint(tmp_path, model=model.state_dict(),
                    optimizer=optimizer.state_dict())
    train(model, optimizer, 3, seed=2)

    other = torch.nn.Linear(4, 3)
    again = make(list(other.parameters()))
    loaded = load_checkpoint(tmp_path)
    other.load_state_dict(loaded.model)
    again.load_state_dict(loaded.optimizer)
    train(other, again, 3, seed=2)
    assert same(model.state_dict(), other.state_dict())
    assert same(optimizer.state_dict(), again.state_dict())


def test_every_value_comes_back(tmp_path):
    base = torch.arange(12.0)
    model = {
        "weight": torch.nn.Parameter(torch.randn(3, 2)),
        "tied": base,
        "view": base[2:5],
        "transposed": base.view(3, 4).t(),
        "expanded": torch.ones(1, 2).expand(3, 2),
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 3),
        "also empty": torch.empty(0, dtype=torch.bool),
        "nan": torch.tensor([math.nan, math.inf, -0.0]),
        **{
            str(dtype): torch.tensor([0, 1, 0]).to(dtype)
            for dtype in (torch.bool, torch.uint8, torch.int64, torch.float16,
                          torch.bfloat16, torch.float64)
        },
    }
    model["same"] = model["weight"]
    state = {
        "float": 0.1 + 0.2,
        "tiny": 5e-324,
        "inf": [math.inf, -math.inf, math.nan, -0.0],
        "int": 2**200,
        "bool": True,
        "none": None,
        "text": "käse \u2603 \n \"quoted\"",
        "tuple": (1, (2.0, "x"), []),
        "nested": {"a": {"b": torch.tensor([1])}, "a/b": torch.tensor([2])},
        "list": {"0": torch.tensor(3), "x/0": torch.tensor(4),
                 "x": [torch.tensor(5)]},
        "keys": {1: "one", "1": "text", -2: {}},
        "$tensor": "not a tensor",
        "generator": torch.Generator().manual_seed(3).get_state(),
        "numpy": np.random.default_rng(0).bit_generator.state,
    }
    groups = {"teacher": {"user": base, "item": base}, "none": {}}
    best = {"weight": model["weight"]}
    save_checkpoint(tmp_path / "a.safetensors", model=model, best=best,
                    state=state, groups=groups)
    out = load_checkpoint(tmp_path / "a.safetensors")
    assert isinstance(out, Checkpoint) and out.optimizer is None
    assert same(out.model, model) and same(out.best, best)
    assert same(out.state, state) and same(out.groups, groups)
    out.model["tied"].zero_()  # no longer shared, and writable
    assert base[3] == 3 and out.model["view"].tolist() == [2, 3, 4]


def test_numpy_scalars_become_numbers(tmp_path):
    save_checkpoint(tmp_path, model={},
                    state={"a": np.float64(0.1), "b": np.int32(2),
                           "c": np.float32(np.inf), "d": np.bool_(True)})
    out = load_checkpoint(tmp_path)
    assert same(out.state, {"a": 0.1, "b": 2, "c": math.inf, "d": True})
    assert out == Checkpoint(model={}, state=out.state)


def test_same_content_same_bytes(tmp_path):
    content = dict(model={"a": torch.ones(3), "b": torch.zeros(2)},
                   state={"x": 1, "y": (2, )})
    save_checkpoint(tmp_path / "a", **content)
    save_checkpoint(tmp_path / "b", **content)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("state, match", [
    ({"a": [object()]}, r"'state/a/0' needs to be made of .*\(got object\)"),
    ({"a": {1.5: 2}}, r"'state/a' needs to have strings or integers"),
    ({"a": torch.eye(2).to_sparse()}, r"'state/a' needs to be a dense"),
    ({"a": np.ones(2)}, r"\(got ndarray\)"),
])
def test_what_cannot_be_stored(state, match, tmp_path):
    save_checkpoint(tmp_path, model={}, state={"kept": 1})
    with pytest.raises(CheckpointError, match=match):
        save_checkpoint(tmp_path, model={}, state=state)
    assert load_checkpoint(tmp_path).state == {"kept": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_failed_write_keeps_the_old_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, model={}, state={"kept": 1})

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, model={}, state={"kept": 2})
    assert load_checkpoint(tmp_path).state == {"kept": 1}
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.FILE_NAME]


def test_missing(tmp_path):
    assert issubclass(CheckpointError, ValueError)
    with pytest.raises(CheckpointError, match="no checkpoint at '.*nowhere'"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no checkpoint at '.*safetens"):
        load_checkpoint(tmp_path)
    with pytest.raises(OSError):
        save_checkpoint(tmp_path / "nowhere" / "a.safetensors", model={})


def test_every_truncation_is_seen(tmp_path):
    path = tmp_path / checkpoint.FILE_NAME
    save_checkpoint(path, model={"a": torch.ones(3)}, state={"x": 1})
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="truncated, damaged"):
            load_checkpoint(path)
    path.write_bytes(content + b"x")
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


def test_no_flipped_bit_changes_a_value(tmp_path):
    path = tmp_path / checkpoint.FILE_NAME
    save_checkpoint(path, model={"a": torch.ones(3)}, state={"x": 1.5})
    content, good = path.read_bytes(), load_checkpoint(path)
    for i in range(len(content)):
        for bit in (0, 4):
            damaged = bytearray(content)
            damaged[i] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                out = load_checkpoint(path)
            except CheckpointError:
                continue
            # A space of padding, say:
            assert same(out.model, good.model) and out.state == good.state


def test_foreign(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"PK\x03\x04 a pickle of torch.save" * 9)
    with pytest.raises(CheckpointError, match="no checkpoint at all"):
        load_checkpoint(path)
    for metadata in (None, {"format": "pt"}):
        save_file({"a": torch.ones(2)}, path, metadata)
        with pytest.raises(CheckpointError, match="no checkpoint of pyg-"):
            load_checkpoint(path)
    for text in ("{", "[]", "{}", '{"version": "1"}', '{"version": 1}',
                 '{"version": 0, "crc32": 0, "content": {}}'):
        save_file({}, path, {"nodequant_checkpoint": text})
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_checkpoint(path)


def test_newer_version(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({}, path, {"nodequant_checkpoint": json.dumps({"version": 2})})
    with pytest.raises(CheckpointError, match="version 2, written by a newer"):
        load_checkpoint(path)


def test_nothing_is_pickled(tmp_path):
    save_checkpoint(tmp_path, model={"a": torch.ones(1)}, state={"b": (1, )})
    content = (tmp_path / checkpoint.FILE_NAME).read_bytes()
    size, = struct.unpack("<Q", content[:8])
    assert set(json.loads(content[8:8 + size])) == {"__metadata__", "model/a"}
    assert len(content) == 8 + size + 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_come_back_on_the_cpu(tmp_path):
    save_checkpoint(tmp_path, model={"a": torch.ones(2, device="cuda")})
    assert load_checkpoint(tmp_path).model["a"].device.type == "cpu"
