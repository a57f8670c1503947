"""Several processes on this machine, each with its share of the GPUs or of the cores."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
from collections.abc import Mapping
from threading import Thread
from typing import Any

from cache_schema import (
    Progress,
    StopSignals,
    UserError,
    missing_shards,
    open_storage,
    read_manifest,
)

from ..config import ExtractConfig
from ..report import Filled
from ..request import default_cache_path
from .events import ShownProgress, read
from .watch import watch

_END_WITHIN_S = 30.0


def fill_with_workers(config: ExtractConfig, progress: Progress) -> Filled:
    """Fill a cache with `config.workers` processes.

    The first one makes the plan; the others join once there is a cache to join.

    Args:
        config: What to extract from what.
        progress: Where to report.

    Raises:
        UserError: What stopped a worker, or all of them were killed.
    """
    with StopSignals(signal.SIGTERM) as stop:
        path = config.cache or default_cache_path(config)
        crew = _Crew(config.model_copy(update={"cache": path, "workers": 1}), progress, stop)
        environments = _environments(config)
        crew.start(environments[:1])
        storage = open_storage(path)

        def look() -> bool:
            if len(crew) == 1 and storage.size("zarr.json") is not None:
                crew.start(environments[1:])
            return crew.look()

        try:
            filled = watch(
                path,
                progress,
                look,
                has_begun=lambda: crew.has_begun,
                num_made=lambda: crew.num_made,
            )
        finally:
            crew.end()
        manifest = read_manifest(storage)
        if stop.is_requested and not (manifest and not missing_shards(storage, manifest)):
            progress.say("SIGTERM: what was begun is written; run the same command to go on")
            stop.act()
    return filled


class _Crew:
    """The workers of one extraction.

    Attributes:
        has_begun: Whether a worker has opened the cache and found that it is the right one.
        num_made: Samples that went through their backbones.
    """

    def __init__(self, config: ExtractConfig, progress: Progress, stop: StopSignals) -> None:
        self.has_begun = False
        self.num_made = 0
        self._config = config
        self._progress = progress
        self._stop = stop
        self._events: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()
        self._shown = ShownProgress(progress, hidden="extract")
        self._workers: list[subprocess.Popen[str]] = []
        self._readers: list[Thread] = []
        self._gone: set[int] = set()

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def is_through(self) -> bool:
        """Whether a worker saw the cache complete."""
        return any(worker.poll() == 0 for worker in self._workers)

    def start(self, environments: list[Mapping[str, str]]) -> None:
        """Start a worker in each of these environments."""
        for environment in environments:
            worker = subprocess.Popen(
                # -P: no folder of the user's that is called like one of ours comes first.
                [sys.executable, "-P", "-m", "extractor.crew.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **environment},
            )
            assert worker.stdin is not None
            worker.stdin.write(self._config.model_dump_json() + "\n")
            worker.stdin.flush()
            reader = Thread(target=self._receive, args=(len(self), worker), daemon=True)
            reader.start()
            self._workers.append(worker)
            self._readers.append(reader)

    def look(self) -> bool:
        """Take in what happened; whether a worker still runs.

        Raises:
            UserError: A worker cannot go on, or none is left.
        """
        self._show_events()
        running = 0
        for number, worker in enumerate(self._workers):
            code = worker.poll()
            if code is None:
                running += 1
                if self._stop.is_requested:
                    worker.terminate()
            elif code != 0 and number not in self._gone and not self._stop.is_requested:
                self._gone.add(number)
                self._take_leave(number, code)
        if not running and not self.is_through and not self._stop.is_requested:
            raise UserError(
                f"{self._config.cache}: every worker was killed. If memory ran out, use fewer "
                "--workers or a smaller --batch-size. What is finished stays: run it again."
            )
        return running > 0

    def end(self) -> None:
        """Leave no worker behind."""
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.close()  # a worker that still runs ends with it
        for worker, reader in zip(self._workers, self._readers, strict=True):
            try:
                worker.wait(_END_WITHIN_S)
            except subprocess.TimeoutExpired:
                worker.kill()
            reader.join(_END_WITHIN_S)
        self._shown.close()

    def _take_leave(self, number: int, code: int) -> None:
        """Say that a worker was killed from outside; whatever else ended it ends all."""
        self._readers[number].join(_END_WITHIN_S)
        self._show_events()
        if code > 0:
            raise RuntimeError(f"worker {number} failed with exit code {code}, as shown above")
        name = signal.Signals(-code).name
        self._progress.say(f"worker {number} was killed ({name}); the others take over its part")

    def _show_events(self) -> None:
        """The first worker speaks for all, but for what it cannot go on from."""
        while not self._events.empty():
            number, event = self._events.get()
            if "error" in event:
                raise UserError(event["error"])
            self.has_begun |= event.get("meter", [None])[0] == "extract"
            if "bytes" in event.get("facts", {}):
                self.num_made += event["advance"]
            if number == 0:
                self._shown.show(event)

    def _receive(self, number: int, worker: subprocess.Popen[str]) -> None:
        assert worker.stdout is not None
        with worker.stdout as lines:
            for line in lines:
                event = read(line)
                if event is not None:
                    self._events.put((number, event))


def _environments(config: ExtractConfig) -> list[Mapping[str, str]]:
    """What each worker sees of the machine."""
    import torch

    if config.device in ("auto", "cuda") and (count := torch.cuda.device_count()):
        # A worker sees one GPU alone, as its CUDA context would take memory on every visible one.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        gpus = visible.split(",") if visible else [str(number) for number in range(count)]
        return [{"CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} for n in range(config.workers)]
    cores = os.environ.get("OMP_NUM_THREADS") or str(max(1, _num_cores() // config.workers))
    return [{"OMP_NUM_THREADS": cores} for _ in range(config.workers)]


def _num_cores() -> int:
    """Those this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
