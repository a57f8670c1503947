"""CRC32C of arrays and of their parts, without reading any byte twice.

A CRC is a polynomial over GF(2) of degree below 32, bit-reversed: bit 31 is the constant term.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import google_crc32c
import numpy as np

_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bit-reversed: RFC 3720, appendix B.4
_CONSTANT = 1 << 31
_LENGTH_BITS = 40  # of lengths in bytes


def crc32c_of(data: np.ndarray | bytes) -> int:
    """CRC32C of some bytes, or of a contiguous array's bytes."""
    return int(google_crc32c.value(data))


def join_crcs(crcs: Sequence[int] | np.ndarray, num_bytes: Sequence[int] | np.ndarray) -> int:
    """CRC32C of parts one after the other, from the CRC32C and the length of each.

    A part that n bytes follow counts with its CRC times x^(8 n), modulo the polynomial.
    """
    lengths = np.asarray(num_bytes, dtype=np.int64)
    behind = lengths.sum() - np.cumsum(lengths)
    shifted = np.asarray(crcs, dtype=np.uint32)
    for bit, multiples in enumerate(_shifts()):
        is_set = (behind >> bit) & 1 == 1
        if is_set.any():
            shifted = np.where(is_set, _multiply(shifted, multiples), shifted)
    return int(np.bitwise_xor.reduce(shifted))


def _multiply(factors: np.ndarray, multiples: np.ndarray) -> np.ndarray:
    """Products of many polynomials with one, which is given by its multiples with 1, x, x^2 ..."""
    powers = np.arange(31, -1, -1, dtype=np.uint32)
    has_power = (factors[:, None] >> powers) & np.uint32(1) == 1
    product: np.ndarray = np.bitwise_xor.reduce(np.where(has_power, multiples, 0), axis=1)
    return product.astype(np.uint32)


@cache
def _shifts() -> list[np.ndarray]:
    """The multiples of x^8, x^16, x^32 ...: what 1, 2, 4 ... bytes behind a part do to its CRC."""
    factor = _CONSTANT
    for _ in range(8):
        factor = _times_x(factor)
    shifts = []
    for _ in range(_LENGTH_BITS):
        shifts.append(_multiples(factor))
        factor = int(_multiply(np.array([factor], np.uint32), shifts[-1])[0])
    return shifts


def _multiples(factor: int) -> np.ndarray:
    found = [factor]
    while len(found) < 32:
        found.append(_times_x(found[-1]))
    return np.array(found, dtype=np.uint32)


def _times_x(value: int) -> int:
    return (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
