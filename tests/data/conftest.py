from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets; the test is skipped without it."""
    folder = os.environ.get("NODEQUANT_DATA")
    if not folder:
        pytest.skip("NODEQUANT_DATA is not set")
    return Path(folder)
