"""The one error that reading, splitting or fetching data raises."""

from __future__ import annotations


class DataError(ValueError):
    r"""Input that cannot be used, told in one sentence: what, where, and what
    would be right.
    """
