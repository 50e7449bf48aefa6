from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pyg_nodequant.runtime as runtime
from pyg_nodequant.runtime import _jit

SERVE = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torch_geometric", "hydra"):
            raise ImportError(name)

sys.meta_path.insert(0, NoTorch())
import numpy as np
from pyg_nodequant.runtime import PackedRecommender, PackedTable
x = np.eye(4, dtype=np.float32)
model = PackedRecommender(PackedTable.from_float(x, 2),
                          PackedTable.from_float(x, [1, 2, 2, 4]))
print(model.recommend("3", 1, exclude_seen=False)[1].tolist())
assert not any(name.split(".")[0] == "torch" for name in sys.modules)
"""


def serve(source: Path, **environment: str) -> str:
    variables = {**os.environ, "PYTHONPATH": str(source), **environment}
    done = subprocess.run([sys.executable, "-c", SERVE], env=variables,
                          capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_serves_without_torch():
    source = Path(runtime.__file__).parents[2]
    assert serve(source) == "[3]"


def test_serves_where_nothing_can_be_cached(tmp_path):
    # Files stand where the cache folders would be made; permissions would
    # not stop the superuser.
    package = tmp_path / "source" / "pyg_nodequant" / "runtime"
    shutil.copytree(Path(runtime.__file__).parent, package,
                    ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__pycache__").touch()
    (tmp_path / "file").touch()
    missing = str(tmp_path / "file" / "cache")
    assert serve(tmp_path / "source", HOME=missing,
                 XDG_CACHE_HOME=missing) == "[3]"


def test_serves_from_a_read_only_package(tmp_path):
    package = tmp_path / "source" / "pyg_nodequant" / "runtime"
    shutil.copytree(Path(runtime.__file__).parent, package,
                    ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__pycache__").touch()
    cache = tmp_path / "cache"
    assert serve(tmp_path / "source", HOME=str(cache),
                 XDG_CACHE_HOME=str(cache)) == "[3]"
    assert list(cache.rglob("*.nbi"))


def test_falls_back_where_nothing_can_be_cached(monkeypatch):
    tried = []
    compile_kernel = _jit._compile

    def refuse(function, cache, **options):
        tried.append(cache)
        if cache:
            raise RuntimeError("no locator available")
        return compile_kernel(function, cache, **options)

    monkeypatch.setattr(_jit, "_compile", refuse)
    for decorate in (_jit.jit, _jit.jit_fused):
        assert decorate(lambda x: x + 1)(2) == 3
        assert tried == [True, False]
        tried.clear()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("total", [0, 1, 10, 11])
def test_run_ranges_covers_all(monkeypatch, threads, total):
    monkeypatch.setattr(_jit, "num_threads", lambda: threads)
    seen = np.zeros(total, dtype=int)

    def work(start, stop):
        seen[start:stop] += 1

    _jit.run_ranges(work, total, 3)
    assert (seen == 1).all()


def test_run_ranges_raises_what_work_raises(monkeypatch):
    monkeypatch.setattr(_jit, "num_threads", lambda: 2)

    def work(start, stop):
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        _jit.run_ranges(work, 10, 1)


def test_num_threads(monkeypatch):
    monkeypatch.setattr(_jit.numba.config, "NUMBA_NUM_THREADS", 1)
    assert _jit.num_threads() == 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert _jit.num_threads() == 1


def test_what_is_cached_goes_with_any_file_of_the_package(tmp_path):
    # A kernel calls functions of other files: numba would not notice that
    # they changed.
    package = tmp_path / "pyg_nodequant" / "runtime"
    shutil.copytree(Path(runtime.__file__).parent, package,
                    ignore=shutil.ignore_patterns("__pycache__"))
    assert serve(tmp_path) == "[3]"
    kernels = package / "__pycache__"
    before = {path: path.stat().st_mtime_ns
              for path in kernels.glob("scan.answer*.nbc")}
    assert before
    assert serve(tmp_path) == "[3]"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with (package / "vector_code.py").open("a") as file:
        file.write("# changed\n")
    assert serve(tmp_path) == "[3]"
    assert all(path.stat().st_mtime_ns > then
               for path, then in before.items())
