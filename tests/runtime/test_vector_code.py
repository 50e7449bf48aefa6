from __future__ import annotations

import re

import pytest

from pyg_nodequant.runtime import vector_code
from pyg_nodequant.runtime.vector_code import (
    assembly,
    cpu_features,
    find_shuffle,
)


@pytest.mark.parametrize("feature,shuffle,register", [
    ("avx512vbmi", "vpermb", "zmm"), ("avx512bw", "vpshufb", "zmm"),
    ("avx2", "vpshufb", "ymm"),
    ("ssse3", "pshufb", "xmm"), ("neon", "tbl", "v"),
])
def test_every_processor_looks_up_in_registers(feature, shuffle, register):
    code = assembly(feature)
    lookups = re.findall(rf"^\s+{shuffle}\s+(.*)$", code, re.M)
    # Two half bytes, for one look and for several, of one block and of two.
    assert len(lookups) >= 12
    assert all(register in operands for operands in lookups)
    # Bounds are formed and compared by vectors too, and nothing is called.
    multiply = "fmul" if feature == "neon" else "mulps"
    assert re.search(multiply, code)
    assert not re.findall(r"^\s+(call\w*|bl|blr)\s", code, re.M)


def test_features_can_be_set(monkeypatch):
    monkeypatch.setattr(vector_code.numba.config, "CPU_FEATURES",
                        "+avx2,-avx512bw,+ssse3")
    assert cpu_features() == {"avx2", "ssse3"}
    monkeypatch.setattr(vector_code.platform, "machine", lambda: "x86_64")
    assert find_shuffle() == "avx2"
    monkeypatch.setattr(vector_code.numba.config, "CPU_FEATURES", "")
    assert find_shuffle() is None
    monkeypatch.setattr(vector_code.numba.config, "CPU_FEATURES", None)
    monkeypatch.setattr(vector_code.numba.config, "CPU_NAME", "generic")
    assert find_shuffle() is None
    monkeypatch.setattr(vector_code.platform, "machine", lambda: "arm64")
    assert find_shuffle() == "neon"


def test_an_unknown_processor_has_no_features(monkeypatch):
    def fail():
        raise RuntimeError("unknown")

    monkeypatch.setattr(vector_code.numba.config, "CPU_NAME", None)
    monkeypatch.setattr(vector_code.numba.config, "CPU_FEATURES", None)
    monkeypatch.setattr(vector_code.binding, "get_host_cpu_features", fail)
    assert cpu_features() == set()
