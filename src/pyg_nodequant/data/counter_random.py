"""Counter-based randomness: number ``n`` of a stream is a hash of ``n``.

Nothing is drawn in order and no state is carried along, so a split, or a batch
in the middle of an epoch, can be computed again from its seed alone. Integer
arithmetic modulo :math:`2^{64}` gives the same bits on every machine and with
every version of numpy, which numpy's own generators do not promise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MUL_1 = np.uint64(0xBF58476D1CE4E5B9)
_MUL_2 = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)
_S11, _ONE = np.uint64(11), np.uint64(1)
_UNIT = 1.0 / 9007199254740992.0  # 2 ** -53


def _hash_bits(key: Any, counter: Any) -> Any:
    # The SplitMix64 sequence that starts at `key`, at position `counter`.
    z = np.uint64(key) + (np.uint64(counter) + _ONE) * _GOLDEN
    z = (z ^ (z >> _S30)) * _MUL_1
    z = (z ^ (z >> _S27)) * _MUL_2
    return z ^ (z >> _S31)


_hash_bits_jit = njit(cache=True)(_hash_bits)


@njit(cache=True)
def draw_below(key: np.uint64, counter: int, n: int) -> int:
    r"""Returns draw number :obj:`counter` of a stream, in :obj:`[0, n)`."""
    # 53 bits are spread over n values: the bias is at most n / 2**53, and the
    # product, rounded to the nearest double, stays below n.
    bits = np.uint64(_hash_bits_jit(key, counter))
    return int(np.float64(bits >> _S11) * _UNIT * n)


def stream_key(seed: int, *stream: int) -> np.uint64:
    r"""Returns the key of a stream of random numbers, named by integers.

    Args:
        seed (int): The seed; not negative.
        *stream (int): What the numbers are for, for example an epoch.

    Raises:
        ValueError: If a number is negative or does not fit into 64 bits.

    Example:
        >>> bool(stream_key(0, 1) == stream_key(0, 1))
        True
        >>> bool(stream_key(0, 1) == stream_key(0, 2))
        False
    """
    key = np.zeros(1, dtype=np.uint64)
    for number in (seed, *stream):
        if not 0 <= number < 2**64:
            raise ValueError(f"'seed' needs to be in [0, 2**64) "
                             f"(got {number})")
        # Arrays wrap around silently; numpy scalars warn about it.
        key = _hash_bits(key, np.full(1, number, dtype=np.uint64))
    return np.uint64(key[0])


def random_bits(seed: int, stream: int, size: int) -> np.ndarray:
    r"""Returns :obj:`size` random 64-bit integers, the same on every machine.

    Example:
        >>> random_bits(0, 0, 3).dtype
        dtype('uint64')
        >>> bool((random_bits(0, 0, 3) == random_bits(0, 0, 5)[:3]).all())
        True
    """
    key = np.full(1, stream_key(seed, stream), dtype=np.uint64)
    bits: np.ndarray = _hash_bits(key, np.arange(size, dtype=np.uint64))
    return bits


def random_uniform(seed: int, stream: int, size: int) -> np.ndarray:
    r"""Returns :obj:`size` float64 numbers, uniform in :math:`[0, 1)`.

    Example:
        >>> x = random_uniform(0, 0, 1000)
        >>> bool(0 <= x.min() and x.max() < 1 and abs(x.mean() - .5) < .05)
        True
    """
    bits = random_bits(seed, stream, size)
    return (bits >> _S11).astype(np.float64) * _UNIT


def random_order(seed: int, stream: int, size: int) -> np.ndarray:
    r"""Returns a random permutation of :obj:`range(size)` as int64.

    Example:
        >>> sorted(random_order(0, 0, 4).tolist())
        [0, 1, 2, 3]
    """
    return np.argsort(random_bits(seed, stream, size), kind="stable")
