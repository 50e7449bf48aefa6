from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets; skips where there is none."""
    root = os.environ.get("NODEQUANT_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("NODEQUANT_DATA names no folder of real data")
    return Path(root)
