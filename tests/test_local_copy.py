"""A local copy: every byte comes from far away once, and none that is wrong is ever handed out."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from small_caches import make_manifest, states_of, write_cache

from cache_schema import CorruptCacheError, FeatureCache, StorageError, open_storage
from cache_schema.local_copy import Chunk, LocalCopy
from cache_schema.remote import RemoteStorage

LENGTHS = np.array([3, 1, 4, 2, 5, 1, 2])
EVERY = np.arange(len(LENGTHS))


@pytest.fixture
def far(tmp_path: Path) -> str:
    """A cache on fsspec's in-memory file system, two shards of hidden states."""
    url = f"memory://{tmp_path.name}/cache"
    write_cache(url, make_manifest(LENGTHS), states_of(LENGTHS, 3, 8), LENGTHS)
    return url


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    return tmp_path / "copies"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Every read of a part of a chunk far away: its first byte, and how many."""
    reads: list[tuple[int, int]] = []
    read_into = RemoteStorage.read_into

    def record(self: RemoteStorage, key: str, offset: int, out: memoryview) -> None:
        reads.append((offset, len(out)))
        read_into(self, key, offset, out)

    monkeypatch.setattr(RemoteStorage, "read_into", record)
    return reads


def values(cache: FeatureCache, samples: np.ndarray = EVERY) -> torch.Tensor:
    return cache.gather(samples).streams["tokens"].values


def is_whole(cache: FeatureCache) -> bool:
    return torch.equal(values(cache), states_of(LENGTHS, 3, 8))


def file_of(cache: FeatureCache, shard: int) -> Path:
    """Where the hidden states of a shard are kept."""
    assert cache.local_copy is not None
    attempt = cache.receipts[shard].attempt
    return cache.local_copy.folder / f"shards/{attempt}/tokens/values/c/0/0/0"


def test_each_byte_is_fetched_once(far, copies, fetched) -> None:
    cache = FeatureCache.open(far, local_copy=copies)

    assert is_whole(cache)
    assert sum(count for _, count in fetched) == LENGTHS.sum() * 3 * 8 * 4

    fetched.clear()
    assert is_whole(cache)
    assert is_whole(FeatureCache.open(far, local_copy=copies))  # also by the next run
    assert fetched == []


def test_neighbours_come_along_block_by_block(far, copies, fetched, monkeypatch) -> None:
    """One request for many samples, cut where blocks are, not where samples are."""
    monkeypatch.setattr("cache_schema.local_copy._BLOCK", 512)
    cache = FeatureCache.open(far, local_copy=copies)

    values(cache, np.array([2]))  # bytes 384 to 768 of 960

    assert fetched == [(0, 960)]
    fetched.clear()
    assert is_whole(cache)
    # Of the other shard: in any order, and one sample lies across the cut.
    assert {start % 512 for start, _ in fetched} == {0}
    assert max(start + count for start, count in fetched) == 768
    assert cache.local_copy is not None
    assert cache.local_copy.num_bytes > 0


def test_what_is_wrong_in_the_copy_is_fetched_again(far, copies, fetched) -> None:
    """A hole that a crash left, a flipped bit, a file that was cut or removed: all are alike."""
    cache = FeatureCache.open(far, local_copy=copies)
    assert is_whole(cache)
    file = file_of(cache, 1)

    def cut() -> None:
        os.truncate(file, 10)

    def flip() -> None:
        data = bytearray(file.read_bytes())
        data[20] ^= 1
        file.write_bytes(data)

    def punch() -> None:
        file.write_bytes(bytes(file.stat().st_size))

    for spoil in (cut, flip, punch, file.unlink):
        spoil()
        fetched.clear()
        assert is_whole(cache)
        assert is_whole(FeatureCache.open(far, local_copy=copies))
        assert fetched


def test_a_copy_that_is_removed_is_made_anew(far, copies, fetched, monkeypatch) -> None:
    """Also while it is read: what was open is not asked for ever."""
    monkeypatch.setattr("cache_schema.local_copy._BLOCK", 128)
    cache = FeatureCache.open(far, local_copy=copies)
    values(cache, np.array([0, 4]))

    shutil.rmtree(copies)
    assert is_whole(cache)
    assert is_whole(cache)
    fetched.clear()

    assert is_whole(cache)
    assert fetched == []
    assert file_of(cache, 1).is_file()


def test_a_full_disk_ends_the_copying_and_nothing_else(far, copies, fetched, monkeypatch) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    cache = FeatureCache.open(far, local_copy=copies)

    assert is_whole(cache)
    fetched.clear()
    assert is_whole(cache)
    # Sample by sample now: what comes along could not be kept.
    assert sorted(count for _, count in fetched) == sorted(LENGTHS * 3 * 8 * 4)


def test_a_disk_is_not_filled_to_its_last_byte(far, copies, monkeypatch) -> None:
    monkeypatch.setattr("cache_schema.local_copy._KEEP_FREE", 1 << 60)
    cache = FeatureCache.open(far, local_copy=copies)

    assert is_whole(cache)
    assert cache.local_copy is not None
    assert (cache.local_copy.num_bytes, cache.local_copy.free_bytes) == (0, 0)


def test_a_cache_that_is_damaged_far_away_is_refused_and_not_kept(far, copies) -> None:
    cache = FeatureCache.open(far, local_copy=copies)
    storage = open_storage(far)
    key = f"shards/{cache.receipts[0].attempt}/tokens/values/c/0/0/0"
    data = bytearray(storage.read(key) or b"")
    data[0] ^= 1
    storage.write(key, [bytes(data)])

    with pytest.raises(CorruptCacheError, match=r"sample 0 .*bytes changed.*unipt repair"):
        values(cache, np.array([0]))

    data[0] ^= 1
    storage.write(key, [bytes(data)])
    assert is_whole(cache)


def test_another_cache_at_the_same_place_is_another_copy(far, copies) -> None:
    assert is_whole(FeatureCache.open(far, local_copy=copies))
    open_storage(far).delete("")
    write_cache(far, make_manifest(LENGTHS, seed=1), states_of(LENGTHS, 3, 8) * 2, LENGTHS)

    found = values(FeatureCache.open(far, local_copy=copies))

    torch.testing.assert_close(found, states_of(LENGTHS, 3, 8) * 2, rtol=0, atol=0)
    assert len(list(copies.iterdir())) == 2


def test_quantised_caches_are_kept_with_their_scales(tmp_path, copies, fetched) -> None:
    url = f"memory://{tmp_path.name}/quantised"
    states = states_of(LENGTHS, 3, 8)
    write_cache(url, make_manifest(LENGTHS, encoding_name="int8"), states, LENGTHS)
    expected = values(FeatureCache.open(url))

    torch.testing.assert_close(values(FeatureCache.open(url, local_copy=copies)), expected)
    fetched.clear()
    torch.testing.assert_close(values(FeatureCache.open(url, local_copy=copies)), expected)
    assert fetched == []


def test_a_cache_on_the_same_disk_is_not_copied(tmp_path, copies) -> None:
    path = tmp_path / "cache"
    write_cache(path, make_manifest(LENGTHS), states_of(LENGTHS, 3, 8), LENGTHS)

    cache = FeatureCache.open(path, local_copy=copies)

    assert cache.local_copy is None
    assert is_whole(cache)
    assert not copies.exists()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_a_cache_on_another_disk_is_copied(copies) -> None:
    """As from a file server."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "cache"
        write_cache(path, make_manifest(LENGTHS), states_of(LENGTHS, 3, 8), LENGTHS)

        cache = FeatureCache.open(path, local_copy=copies)

        assert is_whole(cache)
        assert file_of(cache, 0).is_file()


def test_zeros_are_a_hole_whatever_their_crc(far, copies, fetched) -> None:
    """One CRC in four billion is that of zeros."""
    cache = FeatureCache.open(far, local_copy=copies)
    assert is_whole(cache)
    file_of(cache, 0).write_bytes(bytes(file_of(cache, 0).stat().st_size))
    assert cache.local_copy is not None
    fetched.clear()
    out, key = (
        memoryview(bytearray(16)),
        str(file_of(cache, 0).relative_to(cache.local_copy.folder)),
    )

    assert cache.local_copy.read_into(Chunk(key, 960), 0, out, lambda: True)

    assert fetched
    assert any(out)


def _whole_in_child(cache: FeatureCache) -> bool:
    return is_whole(cache)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_process_does_not_wait_for_its_parents_locks(far, copies) -> None:
    cache = FeatureCache.open(far, local_copy=copies)
    assert cache.local_copy is not None
    locks = [*cache.local_copy._locks[1], cache.local_copy._near._guard()]
    for lock in locks:  # as while threads of the parent fetch
        lock.acquire()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        result = pool.apply_async(_whole_in_child, (cache,))
        for lock in locks:
            lock.release()
        assert result.get(timeout=60)


def test_a_folder_that_cannot_be_written_is_one_line(far, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="s3:/bucket: is a URL, needed a folder"):
        FeatureCache.open(far, local_copy=Path("s3://bucket"))

    with pytest.raises(StorageError, match=r"file/.*cannot be written \(Not a directory\)"):
        FeatureCache.open(far, local_copy=tmp_path / "file")


def test_many_threads_that_want_one_block_fetch_it_once(far, copies, fetched) -> None:
    """Eight readers of a batch ask for neighbours at the same moment."""
    cache = FeatureCache.open(far, local_copy=copies)
    cache.gather(np.tile(EVERY, 30))

    assert len(fetched) == 2
    assert LocalCopy.parallel_reads == 8
