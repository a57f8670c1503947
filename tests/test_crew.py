"""Several processes that fill one cache: every shard once, whatever happens to one of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from review_caches import all_values, loud_bert, reviews_config

from cache_schema import UserError, find_garbage, verify
from cache_schema.storage import LocalStorage
from extractor import ExtractConfig, HiddenStateError, estimate, extract

RUN = """
import json, sys
from extractor import ExtractConfig, extract
from extractor.share import Share
made, write = [], Share.write
def write_and_count(self, shard, contents):
    made.append(shard)
    write(self, shard, contents)
Share.write = write_and_count
report = extract(ExtractConfig.model_validate_json(sys.argv[1]))
print(json.dumps({**report.as_dict(), "made": made}))
"""
DIE = """
import os, signal, sys
from extractor import ExtractConfig, extract
from extractor.share import Share
write = Share.write
def write_and_die(self, shard, contents):
    write(self, shard, contents)
    os.kill(os.getpid(), signal.SIGKILL)
Share.write = write_and_die
extract(ExtractConfig.model_validate_json(sys.argv[1]))
"""


class Count:
    """A `Meter` that remembers what it counted."""

    def __init__(self, done: int, on_advance: Callable[[], object]) -> None:
        self.done = done
        self._on_advance = on_advance

    def advance(self, amount: int, **facts: object) -> None:
        self.done += amount
        self._on_advance()


class Recorder:
    """A `Progress` that remembers what it was told; `on_advance` is called after each count."""

    def __init__(self, on_advance: Callable[[], object] = lambda: None) -> None:
        self.said: list[str] = []
        self.counts: dict[str, Count] = {}
        self._on_advance = on_advance

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def meter(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Count]:
        waits = (lambda: None) if label != "extract" else self._on_advance
        self.counts[label] = Count(done, waits)
        yield self.counts[label]


@pytest.fixture
def config(tiny_bert: Path, reviews_csv: Path, tmp_path: Path) -> ExtractConfig:
    return reviews_config(tiny_bert, reviews_csv, tmp_path)


@pytest.fixture
def expected(config: ExtractConfig, tmp_path: Path) -> torch.Tensor:
    """What one process alone stores."""
    alone = config.model_copy(update={"cache": str(tmp_path / "alone")})
    extract(alone)
    return all_values(alone.cache)


def is_sound_and_equals(path: str | None, expected: torch.Tensor) -> None:
    assert verify(str(path)) == []
    torch.testing.assert_close(all_values(path), expected, rtol=1e-6, atol=1e-6)
    assert not (Path(str(path)) / "claims").exists()


def start(code: str, config: ExtractConfig) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, config.model_dump_json()], stdout=subprocess.PIPE, text=True
    )


def kill_in_the_middle(config: ExtractConfig) -> None:
    """An extraction that is killed after its first shard, with others in hand."""
    with start(DIE, config) as process:
        assert process.wait(timeout=120) == -signal.SIGKILL
    assert list((Path(str(config.cache)) / "claims").glob("0*"))


def test_extractions_started_at_once_make_every_shard_once(config, expected) -> None:
    running = [start(RUN, config) for _ in range(3)]
    reports = [json.loads(process.communicate(timeout=120)[0]) for process in running]

    assert sum(report["num_written"] for report in reports) == 48
    made = sorted(shard for report in reports for shard in report["made"])
    assert made == list(range(reports[0]["num_shards"]))
    assert find_garbage(config.cache, include_recent=True) == []
    is_sound_and_equals(config.cache, expected)


def test_the_shards_in_hand_of_a_killed_extraction_are_made_by_the_next(config, expected) -> None:
    """Without waiting for the minute after which a silent writer of another machine is given up."""
    kill_in_the_middle(config)

    started = time.monotonic()
    extract(config)

    assert time.monotonic() - started < 50
    is_sound_and_equals(config.cache, expected)


def test_who_joins_takes_over_the_plan(config, expected) -> None:
    """Reading and tokenising everything again in each of a hundred jobs would be for nothing."""
    kill_in_the_middle(config)
    progress = Recorder()

    found = estimate(config)
    report = extract(config, progress)

    assert "read" not in progress.counts
    assert progress.counts["extract"].done == 48
    assert found.num_bytes == report.num_bytes
    assert 0 < found.num_missing_shards < found.num_shards
    assert found.missing_bytes == found.num_bytes * found.num_missing_shards // found.num_shards


def test_sigterm_writes_what_was_begun_and_begins_no_more(config, expected) -> None:
    """What a scheduler sends before it takes the machine away, more than once."""
    progress = Recorder(on_advance=lambda: os.kill(os.getpid(), signal.SIGTERM))

    with pytest.raises(SystemExit) as left:
        extract(config, progress)

    assert left.value.code == 128 + signal.SIGTERM
    assert "run the same command to go on" in progress.said[-1]
    finished = len(list((Path(config.cache) / "receipts").glob("0*")))
    assert 1 <= finished <= 2
    assert not list((Path(config.cache) / "claims").glob("0*"))
    extract(config)
    is_sound_and_equals(config.cache, expected)


def test_receipts_are_not_listed_for_every_shard(config, expected, monkeypatch) -> None:
    """A listing of ten thousand takes an object store seconds."""
    listed: list[float] = []
    names = LocalStorage.names

    def count(self: LocalStorage, prefix: str) -> list[str]:
        if prefix == "receipts":
            listed.append(time.monotonic())
        return names(self, prefix)

    monkeypatch.setattr(LocalStorage, "names", count)
    monkeypatch.setattr("extractor.share._LOOK_EVERY_S", 3600)

    report = extract(config)

    assert report.num_shards >= 10
    assert len(listed) < report.num_shards
    is_sound_and_equals(config.cache, expected)


def test_workers_fill_one_cache_and_say_what_one_process_says(config, expected) -> None:
    alone, together = Recorder(), Recorder()
    extract(config.model_copy(update={"cache": config.cache + "-again"}), alone)

    report = extract(config.model_copy(update={"workers": 2}), together)

    assert (report.num_written, report.num_samples) == (48, 48)
    assert together.said == alone.said
    assert together.counts["extract"].done == 48
    is_sound_and_equals(config.cache, expected)
    assert extract(config).was_finished


def test_what_stops_a_worker_is_the_users_one_line(config, tiny_bert, tmp_path) -> None:
    with pytest.raises(UserError, match=r"no-such-model: there is no such folder"):
        extract(config.model_copy(update={"workers": 2, "backbone": "./no-such-model"}))
    loud = loud_bert(tiny_bert, tmp_path)
    changed = {"workers": 2, "backbone": str(loud), "encoding": "float16"}

    with pytest.raises(UserError, match=r"too large for float16.*--encoding bfloat16") as found:
        extract(config.model_copy(update=changed))

    assert not isinstance(found.value, HiddenStateError)  # it came from another process


def test_workers_on_a_cache_of_something_else_are_refused_without_a_bar(config) -> None:
    """It was shown as complete, and then refused."""
    extract(config)
    progress = Recorder()

    with pytest.raises(UserError, match=r"made from something else: features\.max_length"):
        extract(config.model_copy(update={"workers": 2, "max_length": 8}), progress)

    assert "extract" not in progress.counts
    with pytest.raises(ValueError, match="'memory://x', which one process alone can see"):
        ExtractConfig(**{**config.model_dump(), "cache": "memory://x", "workers": 2})


def test_workers_that_are_all_killed_are_one_line(config, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "killed_worker"))

    with pytest.raises(UserError, match=r"every worker was killed.*fewer --workers"):
        extract(config.model_copy(update={"workers": 2}))


def test_workers_end_with_the_process_that_started_them(config) -> None:
    """Even if it is killed: orphans would fill the disk behind everybody's back."""
    many = config.model_copy(update={"workers": 2, "batch_size": 1})
    deadline = time.monotonic() + 60
    with start(RUN, many) as parent:
        while not (workers := children_of(parent.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert workers

        parent.kill()

    while any(is_running(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(worker) for worker in workers)


def children_of(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children()]


def is_running(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_all_workers_of_a_dask_cluster_take_part_and_one_may_die(config, expected) -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        pid = cluster.workers[0].pid
        progress = Recorder()
        say = progress.say

        def kill_one(text: str) -> None:
            say(text)
            if len(progress.said) == 2:
                os.kill(pid, signal.SIGKILL)

        progress.say = kill_one  # type: ignore[method-assign]
        report = extract(config.model_copy(update={"dask": cluster.scheduler_address}), progress)

    assert (report.num_written, report.num_samples) == (48, 48)
    # The one that died, and perhaps the one that Dask started in its place.
    assert sum("joins" in said for said in progress.said) >= 2
    assert sum("is gone" in said for said in progress.said) == 1
    is_sound_and_equals(config.cache, expected)


def test_a_dask_cluster_that_is_not_there_is_one_line(config) -> None:
    with pytest.raises(UserError, match=r"--dask nowhere.json: there is no such file"):
        extract(config.model_copy(update={"dask": "nowhere.json"}))
    with pytest.raises(ValueError, match=r"workers and dask: needed one of them"):
        ExtractConfig(**{**config.model_dump(), "dask": "tcp://host:1", "workers": 2})
