"""Claims: several writers of one cache do not make the same shard, and none is lost for ever."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cache_schema import Claims, find_garbage, open_storage
from cache_schema.claims import Claim
from cache_schema.receipts import group_document

ELSEWHERE = Claim(writer="other", host="elsewhere", pid=1, beat=0)


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def put(path: Path, shard: int, claim: Claim) -> None:
    """Somebody else's claim."""
    open_storage(path).write(f"claims/{shard:06d}/zarr.json", [group_document(claim)])


@pytest.fixture(params=["folder", "memory://"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder, and an object store."""
    return str(tmp_path / "cache") if request.param == "folder" else f"memory://{tmp_path.name}"


def test_a_shard_is_taken_by_one_writer_until_that_gives_it_up(place: str) -> None:
    with Claims(open_storage(place)) as first, Claims(open_storage(place)) as second:
        assert first.take(3)
        assert not second.take(3)
        assert second.of_others() == {3}
        assert first.of_others() == set()

        first.release(3)

        assert second.take(3)


def test_a_writer_that_leaves_gives_up_all_it_had(place: str) -> None:
    storage = open_storage(place)
    with Claims(storage) as claims:
        assert claims.take(0)
        assert claims.take(7)

    assert storage.names("claims") == []


def test_nothing_of_claims_stays_in_a_cache_that_is_complete(place: str) -> None:
    storage = open_storage(place)
    with Claims(storage) as claims:
        claims.take(0)
        claims.clear()

    assert storage.size("claims/zarr.json") is None
    assert storage.names("") == []


def test_the_claim_of_a_dead_process_of_this_machine_is_taken_over_at_once(tmp_path: Path) -> None:
    code = (
        "import os\nfrom cache_schema import Claims, open_storage\n"
        f"claims = Claims(open_storage({str(tmp_path)!r})).__enter__()\n"
        "assert claims.take(5)\nos._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

    with Claims(open_storage(tmp_path)) as claims:
        assert claims.of_others() == {5}
        assert claims.take(5)


def test_the_claim_of_another_machine_is_taken_over_when_it_has_not_changed_for_a_minute(
    tmp_path: Path,
) -> None:
    """Clocks of machines differ: only what this one saw and how long it waited counts."""
    clock = Clock()
    put(tmp_path, 2, ELSEWHERE)
    with Claims(open_storage(tmp_path), clock) as claims:
        assert not claims.take(2)
        clock.now = 59
        assert not claims.take(2)
        put(tmp_path, 2, ELSEWHERE.model_copy(update={"beat": 1}))
        clock.now = 61
        assert not claims.take(2)
        clock.now = 122
        assert claims.take(2)


def test_a_number_that_another_process_has_now_does_not_keep_a_claim_alive(tmp_path: Path) -> None:
    """Process numbers are used again, and containers count their own."""
    clock = Clock()
    put(tmp_path, 2, Claim(writer="x", host=socket.gethostname(), pid=os.getpid(), beat=0))
    with Claims(open_storage(tmp_path), clock) as claims:
        assert not claims.take(2)
        clock.now = 61
        assert claims.take(2)


def test_claims_are_kept_alive_while_they_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache_schema.claims._BEAT_S", 0.01)
    storage = open_storage(tmp_path)
    with Claims(storage) as claims:
        claims.take(0)
        before = storage.read("claims/000000/zarr.json")
        for _ in range(500):
            now = storage.read("claims/000000/zarr.json")
            if now not in (before, b""):  # empty: just being written
                break
            claims._ends.wait(0.01)

        assert now not in (before, b"")


def test_a_claim_that_is_just_being_written_is_no_free_one(tmp_path: Path) -> None:
    open_storage(tmp_path).write("claims/000004/zarr.json", [b""])

    with Claims(open_storage(tmp_path)) as claims:
        assert not claims.take(4)


def test_what_dead_writers_left_is_garbage(tmp_path: Path) -> None:
    from small_caches import make_manifest

    from cache_schema import CacheWriter

    CacheWriter.create(tmp_path / "cache", make_manifest([3, 2]))
    put(tmp_path / "cache", 0, ELSEWHERE)

    assert find_garbage(tmp_path / "cache") == []
    (found,) = find_garbage(tmp_path / "cache", include_recent=True)
    assert found.key == "claims/000000"
