"""CRCs of parts give the CRC of the whole."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cache_schema.checksums import crc32c_of, join_crcs


def test_the_checksum_is_crc32c() -> None:
    # The check value that RFC 3720 and every catalogue of CRCs give for these nine digits.
    assert crc32c_of(b"123456789") == 0xE3069283


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=12))
def test_the_checksums_of_parts_join_to_that_of_the_whole(data: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parts = [data[start:stop] for start, stop in pairwise(edges)] + [b""]

    joined = join_crcs([crc32c_of(part) for part in parts], [len(part) for part in parts])

    assert joined == crc32c_of(data)


def test_long_parts_join_as_well() -> None:
    parts = [bytes(2**20), b"\x01" * (2**20 + 3), bytes(range(256)) * 5000]

    joined = join_crcs([crc32c_of(part) for part in parts], [len(part) for part in parts])

    assert joined == crc32c_of(b"".join(parts))
