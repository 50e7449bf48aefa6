from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from pyg_nodequant.runtime import PackedTable, search
from pyg_nodequant.runtime.search import check_engine, default_engine


def random_table(rows=3000, dim=24, seed=0):
    rng = np.random.default_rng(seed)
    return PackedTable.from_float(rng.normal(size=(rows, dim)),
                                  rng.integers(1, 9, rows))


def queries(count=7, dim=24):
    return np.random.default_rng(1).normal(size=(count, dim)).astype("f4")


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_give_the_same_answer(monkeypatch, threads):
    table = random_table()
    expected = table.topk(queries(), 40)
    monkeypatch.setattr("pyg_nodequant.runtime._jit.num_threads",
                        lambda: threads)
    monkeypatch.setattr(search, "num_threads", lambda: threads)
    monkeypatch.setattr(search, "_SPLIT_BYTES", 0)
    found = table.topk(queries(), 40)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])
    for q, query in enumerate(queries()):  # spread over rows, not queries
        found = table.topk(query, 40)
        assert np.array_equal(found[0], expected[0][q])
        assert np.array_equal(found[1], expected[1][q])


def test_groups_of_queries(monkeypatch):
    table = random_table()
    expected = table.topk(queries(), 5, ([0, 1, 1, 2, 2, 3, 3, 3],
                                         [7, 8, 9]))
    monkeypatch.setattr(search, "_PLAN_BYTES", 1)
    found = table.topk(queries(), 5, ([0, 1, 1, 2, 2, 3, 3, 3], [7, 8, 9]))
    assert np.array_equal(found[1], expected[1])


def test_callers_may_be_threads():
    table = random_table()
    expected = table.topk(queries(), 9)[1]
    found = []

    def ask():
        for _ in range(20):
            found.append(table.topk(queries(), 9)[1])

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(found) == 160
    assert all(np.array_equal(one, expected) for one in found)


def test_a_fork_can_search():
    table = random_table()
    expected = table.topk(queries(), 3)[1]
    child = os.fork()
    if child == 0:
        same = np.array_equal(table.topk(queries(), 3)[1], expected)
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_sampled_tiles_come_first_and_none_twice():
    size = search.TILE_ROWS
    counts = np.array([5, 0, 69 * size - 7])
    tiles = search._tiles(counts)
    assert np.array_equal(np.unique(tiles, axis=0), np.unique(np.concatenate(
        [[[0, 0, 5]], [[2, i * size, min((i + 1) * size, counts[2])]
                       for i in range(69)]]), axis=0))
    assert len(tiles) == 70
    assert tiles[31].tolist() == [2, 68 * size, 69 * size - 7]
    assert search._tiles(np.array([0])).shape == (0, 3)


def test_engines(monkeypatch):
    monkeypatch.setenv("NODEQUANT_ENGINE", "numpy")
    assert default_engine() == "numpy"
    assert random_table(9).engine == "numpy"
    monkeypatch.setenv("NODEQUANT_ENGINE", "gpu")
    with pytest.raises(ValueError, match="'NODEQUANT_ENGINE' needs to be one "
                       "of shuffle, lookup, numpy"):
        default_engine()
    monkeypatch.delenv("NODEQUANT_ENGINE")
    monkeypatch.setattr(search, "find_shuffle", lambda: None)
    assert default_engine() == "lookup"
    with pytest.raises(ValueError, match="on a processor without a byte"):
        check_engine("shuffle")
    with pytest.raises(ValueError, match="'engine' needs to be one of"):
        random_table(9).engine = "cuda"


SCRIPT = """
import numpy as np
from pyg_nodequant.runtime import PackedTable
from pyg_nodequant.runtime.vector_code import find_shuffle
rng = np.random.default_rng(0)
table = PackedTable.from_float(rng.normal(size=(700, 24)),
                               rng.integers(1, 9, 700))
scores, ids = table.topk(rng.normal(size=(3, 24)), 20)
print(find_shuffle(), table.engine, scores.tobytes().hex(), ids.tolist())
"""


@pytest.mark.skipif(search.find_shuffle() not in ("avx512bw", "avx2"),
                    reason="needs an x86 processor with AVX2")
@pytest.mark.parametrize("name,features,shuffle,engine", [
    ("haswell", "+avx,+avx2,+fma,+f16c,+ssse3,+sse4.2", "avx2", "shuffle"),
    pytest.param("x86-64", "+sse2,+sse3,+ssse3", "ssse3", "shuffle",
                 marks=pytest.mark.slow),
    pytest.param("x86-64", "+sse2", "None", "lookup",
                 marks=pytest.mark.slow),
])
def test_other_processors_give_the_same_answer(tmp_path, capsys, name,
                                               features, shuffle, engine):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path),
                   "NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    there = subprocess.run([sys.executable, "-c", SCRIPT], text=True,
                           check=True, capture_output=True, timeout=600,
                           env=environment).stdout.split(" ", 2)
    exec(SCRIPT, {})
    assert there[:2] == [shuffle, engine]
    assert there[2] == capsys.readouterr().out.split(" ", 2)[2]


@pytest.mark.slow
def test_eight_threads_for_a_minute(capsys):
    rng = np.random.default_rng(3)
    table = PackedTable.from_float(rng.normal(size=(200_000, 64)),
                                   rng.choice([1, 2, 3, 4, 8], 200_000))
    asked = rng.normal(size=(64, 64)).astype(np.float32)
    expected = [table.topk(query, 20) for query in asked]
    end = time.monotonic() + 60
    answers, wrong = [0] * 8, []

    def ask(number):
        while time.monotonic() < end:
            q = (number * 8 + answers[number]) % 64
            found = table.topk(asked[q], 20)
            if not (np.array_equal(found[0], expected[q][0])
                    and np.array_equal(found[1], expected[q][1])):
                wrong.append(q)
            answers[number] += 1

    start = time.monotonic()
    askers = [threading.Thread(target=ask, args=(number, ))
              for number in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    rate = sum(answers) / (time.monotonic() - start)
    with capsys.disabled():
        print(f"\n8 threads, 200,000 rows: {rate:.0f} queries a second")
    assert not wrong and min(answers) > 0
