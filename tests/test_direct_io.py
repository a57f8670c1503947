"""Writing past the page cache: the same file as any other way, wherever it is not possible too."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from pathlib import Path

import pytest

from cache_schema.direct_io import PAGE_BYTES, write_past_cache
from cache_schema.storage import LocalStorage

SIZE = 3 * 2**20 + 1234  # not a whole number of pages


@pytest.fixture
def data() -> memoryview:
    """Random bytes that begin at a page."""
    memory = mmap.mmap(-1, SIZE)
    memory.write(os.urandom(SIZE))
    return memoryview(memory)


def test_a_file_holds_the_bytes_and_whatever_is_written_after_them(tmp_path, data):
    LocalStorage(tmp_path).write("array", [data, b"the end"])

    assert (tmp_path / "array").read_bytes() == bytes(data) + b"the end"


def test_whole_pages_go_directly_and_the_file_is_as_before_afterwards(tmp_path, data):
    with (tmp_path / "array").open("wb", buffering=0) as file:
        before = fcntl.fcntl(file, fcntl.F_GETFL)
        count = write_past_cache(file.fileno(), data)
        after = fcntl.fcntl(file, fcntl.F_GETFL)

    if count == 0:
        pytest.skip(f"the file system of {tmp_path} cannot write past the page cache")
    assert count == SIZE - SIZE % PAGE_BYTES
    assert (tmp_path / "array").read_bytes() == bytes(data[:count])
    assert after == before


def test_memory_that_does_not_begin_at_a_page_is_left_to_the_usual_way(tmp_path, data):
    with (tmp_path / "array").open("wb", buffering=0) as file:
        assert write_past_cache(file.fileno(), data[1:]) == 0

    LocalStorage(tmp_path).write("array", [data[1:]])
    assert (tmp_path / "array").read_bytes() == bytes(data[1:])


@pytest.mark.parametrize("after", [0, 2**20])
def test_a_file_system_that_refuses_gets_the_rest_the_usual_way(tmp_path, data, monkeypatch, after):
    """Some refuse the mode, others the write, and a nearly full disk takes part of a page."""
    is_direct = getattr(os, "O_DIRECT", 0)
    write, written = os.write, 0

    def refuse(descriptor: int, part: memoryview) -> int:
        nonlocal written
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & is_direct and written >= after:
            raise OSError(errno.EINVAL, "not possible here")
        count = write(descriptor, part[: 2**20])
        written += count
        return count

    monkeypatch.setattr("cache_schema.direct_io.os.write", refuse)
    LocalStorage(tmp_path).write("array", [data])

    assert (tmp_path / "array").read_bytes() == bytes(data)


def test_a_full_disk_is_not_taken_for_a_file_system_that_cannot(tmp_path, data, monkeypatch):
    def full(_descriptor: int, _part: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cache_schema.direct_io.os.write", full)

    with Path(tmp_path / "array").open("wb", buffering=0) as file:
        with pytest.raises(OSError, match="No space left"):
            write_past_cache(file.fileno(), data)
        assert not fcntl.fcntl(file, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0)
