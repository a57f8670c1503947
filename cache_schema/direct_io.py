"""Writing past the page cache.

A shard is written once and read much later, if at all by this machine: putting its bytes into the
page cache first costs a copy and new pages, which on a virtual machine the host has to provide
(measured: 128 MiB take 35 to 440 ms of processor time, past the cache 6 ms).
"""

from __future__ import annotations

import errno
import os

import numpy as np

PAGE_BYTES = 4096
"""What addresses, sizes and places in the file have to be multiples of, on any usual disk."""

_PIECE_BYTES = 2**23
_SMALLEST_BYTES = 2**20  # below, two changes of the file's mode cost more than they save


def write_past_cache(descriptor: int, data: memoryview) -> int:
    """Write as much of `data` as goes directly from memory to the disk; whole pages of it.

    Nothing is written where memory or file position is not aligned, or the file system (such as
    some that live in memory) cannot: the caller writes the rest in the usual way.

    Args:
        descriptor: Open for writing.
        data: Bytes; aligned to `PAGE_BYTES` for this to have an effect.

    Returns:
        Bytes written.
    """
    # O_DIRECT and fcntl do not exist on every system.
    flag = getattr(os, "O_DIRECT", 0)
    if not flag or len(data) < _SMALLEST_BYTES:
        return 0
    places = (np.frombuffer(data, np.uint8).ctypes.data, os.lseek(descriptor, 0, os.SEEK_CUR))
    if any(place % PAGE_BYTES for place in places):
        return 0
    import fcntl

    usual = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    done, whole_pages = 0, len(data) - len(data) % PAGE_BYTES
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, usual | flag)
        while done < whole_pages:
            done += os.write(descriptor, data[done : min(done + _PIECE_BYTES, whole_pages)])
    except OSError as error:
        # It cannot, or a disk that is nearly full took part of a page: the usual way goes on.
        if error.errno != errno.EINVAL:
            raise
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, usual)
    return done
