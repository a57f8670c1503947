"""Caches on an S3 server: written, shared, checked, repaired and trained from as in a folder."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import s3fs
import torch
from conftest import Outcome
from object_store import serve_s3
from review_caches import all_values, reviews_config
from small_caches import make_manifest, states_of, write_cache

from cache_schema import (
    CacheError,
    CorruptCacheError,
    FeatureCache,
    StorageError,
    find_garbage,
    open_storage,
    remove_garbage,
    verify,
)
from cache_schema.remote import RemoteStorage
from extractor import ExtractConfig, extract, repair

LENGTHS = np.array([3, 1, 4, 2, 5, 1, 2])


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with serve_s3() as settings:
        yield settings


@pytest.fixture(autouse=True)
def _reached_through_the_environment(
    server: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    # Connections are kept by what was asked for, without a look at the environment.
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A place where nothing lies yet."""
    return f"s3://caches/{tmp_path.name}"


@pytest.fixture
def config(tiny_bert: Path, reviews_csv: Path, tmp_path: Path, url: str) -> ExtractConfig:
    """48 reviews in three shards."""
    changes = {"cache": url, "shard_bytes": 32768}
    return reviews_config(tiny_bert, reviews_csv, tmp_path).model_copy(update=changes)


@pytest.fixture
def small(url: str) -> str:
    """A cache of two shards."""
    write_cache(url, make_manifest(LENGTHS), states_of(LENGTHS, 3, 8), LENGTHS)
    return url


def chunk_of(cache: FeatureCache, shard: int) -> str:
    """Key of the hidden states of a shard."""
    return f"shards/{cache.receipts[shard].attempt}/tokens/values/c/0/0/0"


def flip(path: str, key: str, place: int) -> None:
    """Change one byte."""
    storage = open_storage(path)
    data = bytearray(storage.read(key) or b"")
    data[place] ^= 1
    storage.write(key, [bytes(data)])


def test_what_is_extracted_is_what_a_folder_would_hold(config, tmp_path) -> None:
    in_folder = config.model_copy(update={"cache": str(tmp_path / "cache")})

    report, expected = extract(config), extract(in_folder)

    assert (report.num_samples, report.num_shards) == (expected.num_samples, expected.num_shards)
    assert report.num_bytes == expected.num_bytes
    there, here = FeatureCache.open(config.cache), FeatureCache.open(in_folder.cache)
    assert there.fingerprint == here.fingerprint
    assert there.target("label").values.tolist() == here.target("label").values.tolist()
    assert there.source_rows().tolist() == here.source_rows().tolist()
    torch.testing.assert_close(all_values(config.cache), all_values(in_folder.cache))
    assert verify(config.cache) == []
    assert open_storage(config.cache).names("claims") == []
    assert extract(config).was_finished


def test_several_processes_make_every_shard_once(config) -> None:
    run = (
        "import json, sys\nfrom extractor import ExtractConfig, extract\n"
        "report = extract(ExtractConfig.model_validate_json(sys.argv[1]))\n"
        "print(json.dumps(report.as_dict()))\n"
    )
    command = [sys.executable, "-c", run, config.model_dump_json()]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    reports = [json.loads(process.communicate(timeout=120)[0]) for process in running]

    assert sum(report["num_written"] for report in reports) == 48
    assert verify(config.cache) == []
    assert find_garbage(config.cache, include_recent=True) == []


def test_the_first_receipt_wins(small) -> None:
    """By a conditional put, which the store does: two writers can come at the same moment."""
    storage = open_storage(small)

    assert not storage.write_once("receipts/000000/zarr.json", b"{}")
    assert storage.write_once("receipts/000007/zarr.json", b"1")
    assert storage.read("receipts/000007/zarr.json") == b"1"


def test_a_store_that_knows_no_condition_keeps_what_was_there(small, monkeypatch) -> None:
    """Some that speak S3's language pass it over without a word."""
    storage = open_storage(small)
    files, _ = storage._file_system()
    put = type(files).pipe_file
    monkeypatch.setattr(files, "pipe_file", lambda p, v, mode: put(files, p, v, mode="overwrite"))

    assert not storage.write_once("receipts/000000/zarr.json", b"{}")
    assert verify(small) == []


def test_a_receipt_whose_answer_was_lost_counts(url, monkeypatch) -> None:
    """Clients put it again by themselves, and are refused because of their own first try."""
    storage = open_storage(url)
    files, _ = storage._file_system()
    put = type(files).pipe_file

    def lose_the_answer(path: str, data: bytes, mode: str) -> None:
        put(files, path, data, mode=mode)
        if "/receipts/0" in path:
            put(files, path, data, mode=mode)

    monkeypatch.setattr(files, "pipe_file", lose_the_answer)

    write_cache(url, make_manifest(LENGTHS), states_of(LENGTHS, 3, 8), LENGTHS)

    assert verify(url) == []


def test_who_comes_second_is_told_so_in_the_words_of_any_store(small, monkeypatch) -> None:
    """Stores answer a condition that fails in several ways, of which s3fs knows one."""
    storage = open_storage(small)
    files, _ = storage._file_system()

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(22, "At least one of the pre-conditions you specified did not hold")

    monkeypatch.setattr(files, "pipe_file", refuse)
    monkeypatch.setattr(storage, "size", lambda key: None)  # it looked a moment before

    assert not storage.write_once("receipts/000000/zarr.json", b"{}")
    with pytest.raises(StorageError, match="pre-conditions"):
        storage.write_once("receipts/000009/zarr.json", b"{}")


def test_what_was_taken_and_given_up_again_was_taken(small, monkeypatch) -> None:
    """As a claim that is released between the refusal and a look at who has it."""
    storage = open_storage(small)
    files, _ = storage._file_system()

    def refuse(*args: object, **kwargs: object) -> None:
        raise FileExistsError

    monkeypatch.setattr(files, "pipe_file", refuse)

    assert not storage.write_once("claims/000009/zarr.json", b"{}")


def test_a_store_that_is_not_reached_says_nothing_about_the_bytes(small, monkeypatch) -> None:
    """Nothing is called damaged, dropped or removed for that."""
    receipt = FeatureCache.open(small).receipts[1]
    read = RemoteStorage.read

    def fail(part: str) -> None:
        def broken(self: RemoteStorage, key: str) -> bytes | None:
            if part in key:
                raise StorageError("SlowDown")
            return read(self, key)

        monkeypatch.setattr(RemoteStorage, "read", broken)

    fail("receipts/000001/")
    for call in (FeatureCache.open, verify, find_garbage):
        with pytest.raises(StorageError, match="SlowDown"):
            call(small)
    fail(f"{receipt.attempt}/tokens/offsets/c")
    with pytest.raises(StorageError, match="SlowDown"):
        verify(small)
    with pytest.raises(StorageError, match="SlowDown"):
        FeatureCache.open(small).lengths("tokens")


def test_bytes_that_change_between_two_epochs_are_found(small) -> None:
    cache = FeatureCache.open(small)
    cache.gather(np.arange(len(LENGTHS)))
    flip(small, chunk_of(cache, 0), 3)

    with pytest.raises(CorruptCacheError, match="bytes changed"):
        cache.gather(np.arange(len(LENGTHS)))


def test_a_chunk_that_was_cut_is_damaged_and_not_a_network_problem(small) -> None:
    cache, storage = FeatureCache.open(small), open_storage(small)
    key = chunk_of(cache, 1)
    storage.write(key, [(storage.read(key) or b"")[:10]])

    with pytest.raises(CorruptCacheError, match=r"ends before byte \d+.*unipt repair"):
        cache.gather([5, 6])


def test_what_has_no_known_age_may_be_at_work(small, monkeypatch) -> None:
    """File systems name the time of change as they like."""
    storage = open_storage(small)
    files, _ = storage._file_system()
    monkeypatch.setattr(files, "find", lambda *args, **kwargs: {"a": {"size": 1}})

    assert storage.seconds_since_change("shards") == 0


def test_a_place_that_holds_something_else_is_refused(config) -> None:
    open_storage(config.cache).write("notes.txt", [b"mine"])

    with pytest.raises(CacheError, match=r"holds files that are not a cache \(notes\.txt\)"):
        extract(config)

    assert open_storage(config.cache).contents() == ["notes.txt"]


def test_a_changed_byte_is_found_never_read_and_repaired(config) -> None:
    extract(config)
    expected = all_values(config.cache)
    flip(config.cache, chunk_of(FeatureCache.open(config.cache), 1), 5)

    with pytest.raises(CorruptCacheError, match=r"shard 1\): its bytes changed"):
        all_values(config.cache)
    (problem,) = verify(config.cache)
    assert problem.shard == 1
    report = repair(config.cache)

    assert report is not None
    assert 0 < report.num_written < 48
    torch.testing.assert_close(all_values(config.cache), expected)
    assert verify(config.cache) == []


def test_what_a_dead_writer_left_is_removed(small) -> None:
    storage = open_storage(small)
    storage.write("shards/000001-aaaaaaaaaaaa/zarr.json", [b"{}"])

    assert find_garbage(small) == []  # it may be at work
    garbage = find_garbage(small, include_recent=True)
    remove_garbage(small, garbage)

    assert [entry.key for entry in garbage] == ["shards/000001-aaaaaaaaaaaa"]
    assert find_garbage(small, include_recent=True) == []
    assert verify(small) == []


def _sum_in_child(cache: FeatureCache) -> float:
    return float(cache.gather([1, 6]).streams["tokens"].values.sum())


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_an_open_cache_is_read_by_other_processes(small, tmp_path, method) -> None:
    """As DataLoader's workers do: their parent's connections are of no use to them."""
    cache = FeatureCache.open(small, local_copy=tmp_path / "copies")
    expected = _sum_in_child(cache)

    with multiprocessing.get_context(method).Pool(1) as pool:
        found = pool.apply_async(_sum_in_child, (cache,)).get(timeout=60)

    assert found == expected
    assert pickle.loads(pickle.dumps(cache)).path == cache.path


def test_training_from_it_gives_what_training_from_a_folder_gives(
    config, tmp_path, in_tmp, unipt_command, monkeypatch
) -> None:
    in_folder = config.model_copy(update={"cache": str(tmp_path / "cache")})
    extract(config), extract(in_folder)

    def fit(cache: str | None, run: str, *more: str) -> tuple[Outcome, dict[str, torch.Tensor]]:
        from safetensors.torch import load_file

        shown = unipt_command("fit", "--cache", str(cache), "--run", run, "--epochs", "2", *more)
        assert shown.code == 0, shown.err
        return shown, load_file(Path(run) / "model.safetensors")

    _, expected = fit(in_folder.cache, "here")
    shown, found = fit(config.cache, "there")
    first, kept = fit(config.cache, "kept", "--local-copy", "copies")
    monkeypatch.setenv("UNIPT_LOCAL_COPY", "copies")
    second, again = fit(config.cache, "again")

    for weights in (found, kept, again):
        torch.testing.assert_close(weights, expected)
    assert "in every epoch and every run; --local-copy FOLDER keeps" in shown.err
    assert "0 B of " in first.err
    assert "the rest is kept there once it is read" in first.err
    assert "0 B of " not in second.err
    evaluated = unipt_command(
        "evaluate", "--run", "kept", "--cache", config.cache, "--split", "train"
    )
    assert evaluated.code == 0, evaluated.err


def test_a_bucket_that_is_not_there_is_one_line_and_not_made(config, unipt_command) -> None:
    command = ["--backbone", config.backbone, "--data", config.data[0]]
    shown = unipt_command("extract", *command, "--cache", "s3://no-bucket/cache")

    assert shown.code == 2
    assert shown.err.splitlines()[-1] == (
        "error: s3://no-bucket/cache: there is no such bucket. Make it first, or check the path."
    )
    assert "no cache here" in unipt_command("inspect", "s3://no-bucket/cache").err
    assert (
        "there is no such bucket"
        in unipt_command("extract", *command, "--cache", "s3://no-bucket/cache").err
    )


def test_a_server_that_is_not_there_is_one_line(small, unipt_command, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    s3fs.S3FileSystem.clear_instance_cache()

    shown = unipt_command("inspect", small)

    assert shown.code == 2
    assert shown.err.count("\n") == 1
    assert "EndpointConnectionError: Could not connect" in shown.err
    assert "Check the address, the credentials and the network" in shown.err


def test_a_file_system_that_is_not_installed_is_named(unipt_command) -> None:
    shown = unipt_command("inspect", "gs://bucket/cache")

    assert shown.code == 2
    assert shown.err == "error: gs://bucket/cache: reading gs:// needs `pip install gcsfs`\n"
    with pytest.raises(StorageError, match=r"nosuch://x: cannot be reached: .*Protocol not known"):
        open_storage("nosuch://x")


@pytest.mark.parametrize("place", ["s3://", "s3:/bucket/cache", "S3://bucket/cache", "file:/tmp/c"])
def test_what_is_nearly_a_url_makes_no_folder_of_that_name(place, in_tmp) -> None:
    with pytest.raises(StorageError, match=r"is no URL; needed (s3|file)://"):
        open_storage(place)


def test_any_zarr_reader_reads_it(small) -> None:
    import zarr
    from zarr.storage import FsspecStore

    attempt = FeatureCache.open(small).receipts[0].attempt
    group = zarr.open_group(FsspecStore.from_url(small, read_only=True), mode="r")

    found = np.asarray(group[f"shards/{attempt}/tokens/values"])

    np.testing.assert_array_equal(found, states_of(LENGTHS, 3, 8)[: LENGTHS[:4].sum()].numpy())
    assert os.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
