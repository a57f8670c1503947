"""What a cache promises: any Zarr reader, any order, every damaged byte found."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import dask.array
import numpy as np
import pytest
import torch
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_caches import make_manifest, states_of, write_cache

from cache_schema import (
    CacheError,
    CacheNotFoundError,
    CacheWriter,
    CorruptCacheError,
    FeatureCache,
    FingerprintMismatchError,
    IncompleteCacheError,
    Ragged,
    SplitSpec,
    StorageError,
    TargetSpec,
    drop_bad_shards,
    encoding,
    find_garbage,
    open_storage,
    read_manifest,
    remove_garbage,
    verify,
)

LENGTHS = np.array([3, 1, 5, 2, 4, 1, 7, 2, 3, 6])


@pytest.fixture
def states() -> torch.Tensor:
    return states_of(LENGTHS, num_layers=3, width=8)


@pytest.fixture
def cache_path(tmp_path: Path, states: torch.Tensor) -> Path:
    path = tmp_path / "cache"
    write_cache(path, make_manifest(LENGTHS), states, LENGTHS)
    return path


def rows_of(states: torch.Tensor, samples: list[int]) -> torch.Tensor:
    parts = states.split(LENGTHS.tolist())
    return torch.cat([parts[sample] for sample in samples])


@given(samples=st.lists(st.integers(0, len(LENGTHS) - 1), min_size=1, max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_samples_come_back_in_the_order_asked_for(cache_path, states, samples) -> None:
    batch = FeatureCache.open(cache_path).gather(samples)

    stream = batch.streams["tokens"]
    torch.testing.assert_close(stream.values, rows_of(states, samples), rtol=0, atol=0)
    assert stream.layout.lengths.tolist() == LENGTHS[samples].tolist()
    assert batch.sample_ids.tolist() == samples


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_every_encoding_gives_back_the_rounded_numbers(tmp_path, states, name) -> None:
    manifest = make_manifest(LENGTHS, encoding_name=name)
    write_cache(tmp_path / "cache", manifest, states, LENGTHS)

    values = FeatureCache.open(tmp_path / "cache")[4].streams["tokens"].values

    assert values.dtype == encoding(name).dtype
    torch.testing.assert_close(
        values, rows_of(states, [4]).to(encoding(name).dtype), rtol=0, atol=0
    )


def test_layers_can_be_chosen_at_reading(cache_path, states) -> None:
    values = FeatureCache.open(cache_path).gather([2, 0], layers=[2, 0]).streams["tokens"].values

    torch.testing.assert_close(values, rows_of(states, [2, 0])[:, [2, 0]], rtol=0, atol=0)


def test_plain_zarr_and_dask_read_the_same_numbers(cache_path, states) -> None:
    """DESIGN section 3: readable by any Zarr v3 reader without this package."""
    root = zarr.open_group(cache_path, mode="r")
    receipts = [root["receipts"][name].attrs["unipt"] for name in sorted(root["receipts"])]
    by_zarr = [root["shards"][r["attempt"]]["tokens/values"][:] for r in receipts]
    by_dask = dask.array.concatenate(
        [
            dask.array.from_zarr(str(cache_path), component=f"shards/{r['attempt']}/tokens/values")
            for r in receipts
        ]
    ).compute()

    np.testing.assert_array_equal(np.concatenate(by_zarr), states.numpy())
    np.testing.assert_array_equal(by_dask, states.numpy())


def test_a_missing_chunk_reads_as_nan_in_zarr_never_as_zeros(cache_path) -> None:
    chunk = next(cache_path.glob("shards/000000-*/tokens/values/c/0/0/0"))
    chunk.unlink()

    values = zarr.open_array(chunk.parents[3], mode="r")[:]

    assert np.isnan(values).all()


def test_stored_inputs_come_back_sample_by_sample(cache_path) -> None:
    found = FeatureCache.open(cache_path).input("token_ids", [6, 1])

    starts = np.cumsum(LENGTHS) - LENGTHS
    assert found[0].tolist() == list(range(starts[6], starts[6] + 7))
    assert found[1].tolist() == [starts[1]]


def test_an_input_that_is_not_stored_is_no_damage(cache_path) -> None:
    with pytest.raises(
        CacheError, match=r"no input 'ids', the cache has \['token_ids'\]"
    ) as raised:
        FeatureCache.open(cache_path).input("ids", [0])

    assert not isinstance(raised.value, CorruptCacheError)


def test_plain_and_ragged_targets_come_back_whole(tmp_path, states) -> None:
    specs = (
        TargetSpec(name="label", kind="category", classes=("a", "b")),
        TargetSpec(name="score", kind="number"),
        TargetSpec(name="tags", kind="categories", classes=("x", "y", "z")),
    )
    tags = Ragged.from_lengths(np.arange(7) % 3, np.array([2, 0, 1, 0, 0, 3, 0, 0, 1, 0]))
    columns = {"label": np.arange(10) % 2, "score": np.linspace(0, 1, 10), "tags": tags}
    write_cache(tmp_path / "c", make_manifest(LENGTHS, targets=specs), states, LENGTHS, columns)

    cache = FeatureCache.open(tmp_path / "c")

    assert cache.target("label").values.tolist() == (np.arange(10) % 2).tolist()
    np.testing.assert_array_equal(cache.target("score").values, columns["score"])
    np.testing.assert_array_equal(cache.target("tags").values, tags.values)
    np.testing.assert_array_equal(cache.target("tags").offsets, tags.offsets)
    with pytest.raises(CacheError, match=r"target 'labl'.*'label', 'score', 'tags'"):
        cache.target("labl")


def test_an_unfinished_cache_is_refused_unless_told(tmp_path, states) -> None:
    path = tmp_path / "cache"
    write_cache(path, make_manifest(LENGTHS), states, LENGTHS, shards=[0, 2])

    with pytest.raises(IncompleteCacheError, match=r"2 of 3 shards.*--allow-partial"):
        FeatureCache.open(path)
    partial = FeatureCache.open(path, allow_partial=True)

    assert partial.split("train").tolist() == [0, 1, 2, 3, 8, 9]
    torch.testing.assert_close(
        partial.gather([9]).streams["tokens"].values, rows_of(states, [9]), rtol=0, atol=0
    )
    with pytest.raises(IndexError, match="sample 5 is not finished"):
        partial.gather([5])


def test_a_place_without_a_cache_says_so(tmp_path) -> None:
    with pytest.raises(CacheNotFoundError, match="unipt extract"):
        FeatureCache.open(tmp_path / "nothing")


def test_another_identity_is_refused_with_the_differing_fields(cache_path) -> None:
    other = make_manifest(LENGTHS, seed=1)

    with pytest.raises(FingerprintMismatchError, match=r"data\.rows: 1 here, 0 there"):
        CacheWriter.create(cache_path, other)


def test_the_first_receipt_wins_and_the_loser_removes_its_attempt(cache_path, states) -> None:
    """Two writers can never mix: the second one finds the receipt taken."""
    before = sorted(os.listdir(cache_path / "shards"))

    write_cache(cache_path, make_manifest(LENGTHS), states * 2, LENGTHS, shards=[1])

    assert sorted(os.listdir(cache_path / "shards")) == before
    torch.testing.assert_close(
        FeatureCache.open(cache_path)[4].streams["tokens"].values,
        rows_of(states, [4]),
        rtol=0,
        atol=0,
    )


def test_a_sound_cache_verifies(cache_path) -> None:
    assert verify(cache_path) == []
    assert verify(cache_path, quick=True) == []


def all_files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file())


def test_verify_finds_a_flipped_byte_in_any_file(cache_path) -> None:
    for file in all_files(cache_path):
        original = file.read_bytes()
        damaged = bytearray(original)
        damaged[len(damaged) // 2] ^= 0x04
        file.write_bytes(damaged)
        try:
            problems = verify(cache_path)
        except CacheError:  # the root manifest itself
            problems = [file]
        file.write_bytes(original)

        assert problems, f"not found: a flipped byte in {file.relative_to(cache_path)}"


def test_verify_finds_any_missing_or_truncated_file(cache_path) -> None:
    for file in all_files(cache_path):
        original = file.read_bytes()
        for damage in ("missing", "truncated"):
            file.unlink() if damage == "missing" else file.write_bytes(original[:-1])
            try:
                quick, full = verify(cache_path, quick=True), verify(cache_path)
            except CacheError:
                quick = full = [file]
            file.write_bytes(original)

            assert quick, f"quick: {file.relative_to(cache_path)} {damage} was not found"
            assert full, f"full: {file.relative_to(cache_path)} {damage} was not found"


def test_gather_refuses_changed_or_cut_bytes_and_names_the_sample(cache_path) -> None:
    chunk = next(cache_path.glob("shards/000001-*/tokens/values/c/0/0/0"))
    data = bytearray(chunk.read_bytes())
    data[5] ^= 1
    chunk.write_bytes(data)

    with pytest.raises(CorruptCacheError, match=r"sample 4 .*shard 1.*unipt repair"):
        FeatureCache.open(cache_path).gather([0, 4])
    chunk.write_bytes(data[:100])
    with pytest.raises(CorruptCacheError, match=r"sample 7 .*ends at byte"):
        FeatureCache.open(cache_path).gather([7])


def test_repair_drops_only_the_bad_shard_and_a_rewrite_restores_it(cache_path, states) -> None:
    chunk = next(cache_path.glob("shards/000001-*/tokens/values/c/0/0/0"))
    chunk.write_bytes(b"x" + chunk.read_bytes()[1:])

    dropped = drop_bad_shards(cache_path, verify(cache_path))
    write_cache(cache_path, make_manifest(LENGTHS), states, LENGTHS)

    assert dropped == [1]
    assert verify(cache_path) == []
    torch.testing.assert_close(
        FeatureCache.open(cache_path).gather(list(range(10))).streams["tokens"].values,
        states,
        rtol=0,
        atol=0,
    )


def test_gc_finds_what_a_crash_left_and_nothing_else(cache_path) -> None:
    abandoned = cache_path / "shards" / "000002-deadbeef0000"
    (abandoned / "tokens").mkdir(parents=True)
    (abandoned / "tokens" / "part").write_bytes(b"half")
    stray = cache_path / ".unfinished-abc"
    stray.write_bytes(b"half")

    assert find_garbage(cache_path) == []  # within the hour it may be alive
    for path in (abandoned / "tokens" / "part", abandoned / "tokens", abandoned, stray):
        os.utime(path, (0, 0))
    garbage = find_garbage(cache_path)
    remove_garbage(cache_path, garbage)

    assert [g.key for g in garbage] == ["shards/000002-deadbeef0000", ".unfinished-abc"]
    assert not abandoned.exists()
    assert not stray.exists()
    assert verify(cache_path) == []


def test_folders_of_others_are_passed_over(cache_path) -> None:
    """A file browser's folder below shards/ ended gc with a ValueError."""
    foreign = [
        cache_path / below / name
        for below in ("shards", "receipts", "claims")
        for name in (".ipynb_checkpoints", "mine", "1-2-3", "7")
    ]
    for folder in foreign:
        folder.mkdir(parents=True)
    damaged = next(cache_path.glob("shards/000001-*/tokens/values/c/0/0/0"))
    damaged.write_bytes(b"")

    remove_garbage(cache_path, find_garbage(cache_path, include_recent=True))
    dropped = drop_bad_shards(cache_path, verify(cache_path))

    assert dropped == [1]
    assert find_garbage(cache_path, include_recent=True) == []
    assert all(folder.exists() for folder in foreign)
    assert len(FeatureCache.open(cache_path, allow_partial=True).receipts) == 2


def test_a_folder_of_other_files_is_no_place_for_a_cache(tmp_path, states) -> None:
    """Files of a project lay among those of a cache, and `gc` and `rm -r` did not know which."""
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(CacheError, match=r"holds files that are not a cache \(notes\.txt\)"):
        CacheWriter.create(tmp_path, make_manifest(LENGTHS))

    assert os.listdir(tmp_path) == ["notes.txt"]


def test_what_a_crash_left_before_the_manifest_is_no_obstacle(tmp_path, states) -> None:
    cache = tmp_path / "cache"
    write_cache(cache, make_manifest(LENGTHS), states, LENGTHS, shards=[0])
    (cache / "zarr.json").unlink()
    (cache / ".unfinished-abc").write_bytes(b"half")

    CacheWriter.create(cache, make_manifest(LENGTHS))

    assert FeatureCache.open(cache, allow_partial=True).num_samples == len(LENGTHS)


def test_a_damaged_manifest_is_named_not_guessed(cache_path) -> None:
    root = cache_path / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["unipt"]["streams"][0]["width"] = 16
    root.write_text(json.dumps(document, indent=1))

    with pytest.raises(CacheError, match=r"damaged manifest.*CRC32C"):
        FeatureCache.open(cache_path)


def test_a_newer_format_is_refused_by_its_number(cache_path) -> None:
    from cache_schema.receipts import _crc

    root = cache_path / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["unipt"]["format_version"] = 9
    document["attributes"]["unipt_crc32c"] = _crc(document["attributes"]["unipt"])
    root.write_text(json.dumps(document, indent=1))

    with pytest.raises(CacheError, match="cache format 9, this unipt reads 1"):
        FeatureCache.open(cache_path)


def test_splits_share_one_cache(tmp_path, states) -> None:
    splits = (SplitSpec(name="train", start=0, stop=6), SplitSpec(name="test", start=6, stop=10))
    write_cache(tmp_path / "c", make_manifest(LENGTHS, splits=splits), states, LENGTHS)

    cache = FeatureCache.open(tmp_path / "c")

    assert cache.split("test").tolist() == [6, 7, 8, 9]
    with pytest.raises(CacheError, match=r"split 'dev'.*'train', 'test'"):
        cache.split("dev")


def test_a_url_works_as_a_folder_does(states) -> None:
    """The same code path as s3://, on fsspec's in-memory file system."""
    path = "memory://unipt-test/cache"
    write_cache(path, make_manifest(LENGTHS), states, LENGTHS)

    cache = FeatureCache.open(path)

    torch.testing.assert_close(
        cache.gather([6, 0]).streams["tokens"].values, rows_of(states, [6, 0]), rtol=0, atol=0
    )
    assert verify(path) == []
    write_cache(path, make_manifest(LENGTHS), states * 2, LENGTHS, shards=[0])
    torch.testing.assert_close(
        FeatureCache.open(path)[0].streams["tokens"].values, rows_of(states, [0]), rtol=0, atol=0
    )


def test_a_full_disk_is_one_line_and_keeps_what_was_finished(tmp_path, states, monkeypatch) -> None:
    path = tmp_path / "cache"
    write_cache(path, make_manifest(LENGTHS), states, LENGTHS, shards=[0])

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(StorageError, match="the disk is full"):
            write_cache(path, make_manifest(LENGTHS), states, LENGTHS, shards=[1])

    assert FeatureCache.open(path, allow_partial=True).split("train").tolist() == [0, 1, 2, 3]


def _gather_in_child(cache: FeatureCache) -> float:
    return float(cache.gather([1, 6]).streams["tokens"].values.sum())


def test_an_open_cache_can_be_sent_to_another_process(cache_path) -> None:
    cache = FeatureCache.open(cache_path)
    here = _gather_in_child(cache)

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(_gather_in_child, (cache,))

    assert there == here


def test_a_cache_whose_shards_leave_out_samples_is_refused(cache_path) -> None:
    """Earlier versions made such caches where the first sample of all could not be read."""
    from cache_schema.receipts import group_document

    storage = open_storage(cache_path)
    manifest = read_manifest(storage)
    moved = (1, *manifest.shard_starts[1:])
    storage.write(
        "zarr.json", [group_document(manifest.model_copy(update={"shard_starts": moved}))]
    )

    with pytest.raises(CacheError, match=r"shard_starts.*needed numbers that rise from 0.*again"):
        FeatureCache.open(cache_path)


def test_samples_are_asked_for_by_numbers_and_slices(cache_path) -> None:
    cache = FeatureCache.open(cache_path)
    mask = np.zeros(len(cache), dtype=bool)
    mask[2] = True

    with pytest.raises(IndexError, match=r"np\.flatnonzero\(mask\)"):
        cache.gather(mask)
    with pytest.raises(IndexError, match="needed one or more sample numbers"):
        cache.gather([1.5])

    assert cache[1:4].sample_ids.tolist() == [1, 2, 3]
    assert cache[::-2].sample_ids.tolist() == list(range(len(cache)))[::-2]


def test_a_forked_process_reads_a_cache_that_its_parent_has_read(cache_path) -> None:
    """As the workers of torch's DataLoader do; they waited for threads that fork leaves behind."""
    code = (
        "import os, sys, warnings; from cache_schema import FeatureCache\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"
        f"cache = FeatureCache.open({str(cache_path)!r})\n"
        "expected = cache.gather([0, 1, 2]).streams['tokens'].values.sum().item()\n"
        "if child := os.fork():\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "found = cache.gather([0, 1, 2]).streams['tokens'].values.sum().item()\n"
        "os._exit(0 if found == expected else 3)\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
