from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from pyg_nodequant.app.main import main
from pyg_nodequant.runtime import Catalogue, PackedRecommender, PackedTable

NUM_USERS, NUM_ITEMS, DIM = 20, 30, 16


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def nodequant(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Callable[..., Outcome]:
    """Runs the command in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NODEQUANT_DATA", raising=False)

    def call(*argv: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in argv])
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def refused(nodequant: Callable[..., Outcome]) -> Callable[..., str]:
    """Runs a command that must end in one line on stderr and code 2."""

    def call(*argv: object) -> str:
        outcome = nodequant(*argv)
        assert outcome.code == 2, outcome
        lines = outcome.err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("nodequant: error: ")
        assert "Traceback" not in outcome.out
        return lines[0].removeprefix("nodequant: error: ")

    return call


def make_recommender(*, text_ids: bool = False) -> PackedRecommender:
    rng = np.random.default_rng(0)
    tables = [
        PackedTable.from_float(
            rng.normal(size=(rows, DIM)).astype(np.float32),
            rng.integers(1, 5, rows).astype(np.uint8))
        for rows in (NUM_USERS, NUM_ITEMS)
    ]
    seen = np.concatenate([
        np.sort(rng.choice(NUM_ITEMS, 3, replace=False))
        for _ in range(NUM_USERS)
    ])
    users = np.arange(NUM_USERS) * 10 - 10  # -10, 0, 10, ...
    catalogue = Catalogue(
        [f"user {u}" for u in users] if text_ids else users,
        np.arange(NUM_ITEMS) + 100,
        [f"Title {row}" for row in range(NUM_ITEMS)],
        (np.arange(NUM_USERS + 1) * 3, seen),
    )
    return PackedRecommender(*tables, catalogue=catalogue,
                             metadata={"recipe": "node_aware"})


@pytest.fixture
def recommender() -> PackedRecommender:
    return make_recommender()


@pytest.fixture
def packed_file(tmp_path: Path, recommender: PackedRecommender) -> Path:
    path = tmp_path / "tiny.nq"
    recommender.save(path)
    return path


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.nq"
    make_recommender(text_ids=True).save(path)
    return path
