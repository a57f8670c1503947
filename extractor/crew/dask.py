"""The workers of a Dask cluster, each filling its share of one cache.

Dask starts processes and tells of those that come and go; what is done is recorded in the cache
alone. So each worker gets one task that lasts until the cache is complete, and nothing of Dask's
own bookkeeping, which gives up on tasks whose workers die, decides what is finished.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache_schema import Progress, SilentProgress, StopSignals, UserError

from ..config import ExtractConfig
from ..report import Filled
from ..request import default_cache_path, with_absolute_paths
from .watch import watch

if TYPE_CHECKING:
    from distributed import Client, Future

_WAIT_FOR_WORKERS_S = 600.0
_CONNECT_S = 10.0
_NEEDED = (
    "Give a Dask scheduler's address, such as tcp://host:8786, or the file that "
    "`dask scheduler --scheduler-file FILE` writes."
)


def fill_on_dask(config: ExtractConfig, progress: Progress) -> Filled:
    """Fill a cache with all workers of the cluster at `config.dask`, also those that come later.

    Args:
        config: What to extract from what; every worker finds its files and the cache at the
            same paths.
        progress: Where to report.

    Raises:
        UserError: There is no such cluster, it has no workers, or what stopped a worker.
    """
    path = config.cache or default_cache_path(config)
    client = _connect(str(config.dask))
    everywhere = with_absolute_paths(config.model_copy(update={"cache": path, "dask": None}))
    team = _Team(client, everywhere, progress)
    try:
        return watch(path, progress, team.look)
    finally:
        team.end()
        client.close()


class _Team:
    """One long task on each worker."""

    def __init__(self, client: Client, config: ExtractConfig, progress: Progress) -> None:
        from distributed import Event

        self._client = client
        self._config_json = config.model_dump_json()
        self._progress = progress
        self._stop = Event(f"unipt-{uuid.uuid4().hex}", client)
        self._tasks: dict[str, Future[str | None]] = {}
        self._alone_since = time.monotonic()
        self._is_waiting = False

    def look(self) -> bool:
        """Give new workers their task, forget those that are gone; whether there is more to do.

        Raises:
            UserError: A worker cannot go on, or there has been none for ten minutes.
        """
        present = set(self._client.scheduler_info()["workers"])
        for address in present - set(self._tasks):
            self._progress.say(f"worker {address} joins")
            # A task that may run elsewhere would run twice where it goes.
            self._tasks[address] = self._client.submit(
                _work,
                self._config_json,
                self._stop.name,
                workers=[address],
                pure=False,
            )
        for address in set(self._tasks) - present:
            self._progress.say(f"worker {address} is gone; the others take over its part")
            self._tasks.pop(address).cancel(force=True)
        for task in self._tasks.values():
            if task.done():
                if (error := _result(task)) is not None:
                    raise UserError(error)
                return False
        if self._tasks:
            self._alone_since, self._is_waiting = time.monotonic(), False
        elif not self._is_waiting:
            self._is_waiting = True
            self._progress.say(
                f"waiting for workers of the Dask cluster, {_WAIT_FOR_WORKERS_S / 60:.0f} minutes "
                "at most"
            )
        elif time.monotonic() - self._alone_since > _WAIT_FOR_WORKERS_S:
            raise UserError(
                f"--dask: no worker for {_WAIT_FOR_WORKERS_S / 60:.0f} minutes. Start some and run "
                "it again to go on."
            )
        return True

    def end(self) -> None:
        """Let workers that are still at it write what they have begun, and no more."""
        self._stop.set()


class _StopEvent(StopSignals):
    """Set by the process that started the extraction; Dask itself stops no task that runs."""

    def __init__(self, name: str) -> None:
        from distributed import Event

        super().__init__()
        self._event = Event(name)

    @property
    def is_requested(self) -> bool:
        """Whether that process has ended the extraction."""
        return bool(self._event.is_set())

    def act(self) -> None:
        """Stop.

        Raises:
            UserError: Always.
        """
        raise UserError("stopped by the process that started it")


def _work(config_json: str, stop_name: str) -> str | None:
    """What every worker runs; what the user has to mend, as errors lose their kind on the way."""
    from ..fill import fill_alone

    try:
        config = ExtractConfig.model_validate_json(config_json)
        fill_alone(config, SilentProgress(), _StopEvent(stop_name))
    except UserError as error:
        return str(error)
    return None


def _result(task: Future[str | None]) -> str | None:
    try:
        return task.result()
    except ImportError as error:
        raise UserError(
            f"--dask: a worker cannot import what it needs ({error}). Install the same unipt in "
            "the environment of the workers."
        ) from error


def _connect(where: str) -> Client:
    from distributed import Client

    is_address = ":" in where
    if not is_address and not Path(where).is_file():
        # Dask would wait for the file.
        raise UserError(f"--dask {where}: there is no such file. {_NEEDED}")
    chosen: dict[str, Any] = {"address": where} if is_address else {"scheduler_file": where}
    try:
        return Client(**chosen, timeout=_CONNECT_S)
    except (OSError, ValueError) as error:
        raise UserError(f"--dask {where}: no scheduler there ({error}). {_NEEDED}") from error
