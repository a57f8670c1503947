"""One extraction from start to finish: resolve, plan, write what is missing, report."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, cast

from pydantic import JsonValue

from cache_schema import (
    CacheError,
    CacheNotFoundError,
    Progress,
    SilentProgress,
    StopSignals,
    missing_shards,
    open_storage,
    read_manifest,
    read_receipt,
    read_receipts,
    verify,
)

from .config import ExtractConfig
from .fill import batch_size_of, fill_alone, missing_bytes, prepare
from .report import ExtractionEstimate, ExtractionReport, Filled
from .request import default_cache_path, request_of
from .totals import Totals
from .unreadable import name_unreadable


def extract(config: ExtractConfig, progress: Progress | None = None) -> ExtractionReport:
    """Run a frozen backbone once over the data and store its hidden states.

    A finished cache of the same request is recognised from the sizes and times of change of all
    files involved, without loading anything. A cache that an earlier run left unfinished is
    completed; what is finished stays. Any number of processes on any machines may fill the same
    cache at once: each makes what no other makes.

    Args:
        config: What to extract from what.
        progress: Where to report; nowhere if None.

    Raises:
        UserError: Anything the user can mend: see the subclasses.
    """
    reports = progress or SilentProgress()
    path = config.cache or default_cache_path(config)
    request = request_of(config)
    if _is_finished(path, request):
        return _report(path, None, SilentProgress())
    return _report(path, _fill(config, reports), reports)


def _fill(config: ExtractConfig, reports: Progress) -> Filled:
    if config.dask is not None:
        from .crew import fill_on_dask

        return fill_on_dask(config, reports)
    if config.workers > 1:
        from .crew import fill_with_workers

        return fill_with_workers(config, reports)
    return fill_alone(config, reports, StopSignals(signal.SIGTERM))


def estimate(config: ExtractConfig, progress: Progress | None = None) -> ExtractionEstimate:
    """What `extract` would do with this configuration; writes nothing."""
    from .plan import probe_seconds

    path = config.cache or default_cache_path(config)
    backbone, samples, plan = prepare(
        config, path, request_of(config), progress or SilentProgress()
    )
    storage = open_storage(path)
    missing = missing_shards(storage, plan.manifest)
    to_write = missing_bytes(plan, len(missing))
    seconds = probe_seconds(backbone, samples, plan, batch_size_of(config, backbone))
    sizes: dict[str, int] = {str(name): size for name, size in plan.totals.encodings.items()}
    return ExtractionEstimate(
        cache=path,
        num_samples=plan.manifest.num_samples,
        num_tokens=plan.totals.num_tokens,
        encoding=plan.manifest.encoding,
        encodings={name: sizes[name] for name in sorted(sizes, key=lambda name: -sizes[name])},
        limit_bytes=config.fit_in,
        num_shards=plan.manifest.num_shards,
        num_missing_shards=len(missing),
        num_bytes=plan.num_bytes,
        missing_bytes=to_write,
        free_bytes=storage.free_bytes(),
        seconds=seconds * to_write / plan.num_bytes,
        num_skipped=len(samples.source.skipped),
        num_unreadable=plan.totals.num_unreadable,
        num_truncated=plan.totals.num_truncated,
    )


def repair(path: str | Path, progress: Progress | None = None) -> ExtractionReport | None:
    """Drop every damaged shard of a cache and extract only those again.

    Returns:
        What was extracted; None if the cache is sound and complete.

    Raises:
        UserError: The cache cannot be read at all, or its data or backbone are not the same now.
    """
    reports = progress or SilentProgress()
    problems = verify(path, progress=reports)
    if not problems:
        return None
    for problem in problems[:20]:
        reports.say(f"{problem.key}: {problem.what}")
    manifest = read_manifest(open_storage(path))
    if manifest is None:
        raise CacheNotFoundError(path)
    request = cast("dict[str, Any]", manifest.execution.get("request") or {})
    if "config" not in request:
        raise CacheError(f"{path}: does not say how it was extracted. Extract it again.")
    config = ExtractConfig.model_validate({**request["config"], "cache": str(path)})
    filled = fill_alone(config, reports, StopSignals(signal.SIGTERM), drop=problems)
    return _report(str(path), filled, reports)


def _is_finished(path: str, request: dict[str, JsonValue]) -> bool:
    """Whether a cache is complete and was made by the same request."""
    storage = open_storage(path)
    manifest = read_manifest(storage)
    if manifest is None or manifest.execution.get("request") != request:
        return False
    return not missing_shards(storage, manifest)


def _report(path: str, filled: Filled | None, reports: Progress) -> ExtractionReport:
    """What a complete cache holds; the first samples without hidden states are named.

    Args:
        path: Of the cache.
        filled: What was done to it; None if it was complete before.
        reports: Where to report.
    """
    storage = open_storage(path)
    manifest = read_manifest(storage)
    if manifest is None:
        raise CacheNotFoundError(path)
    receipts = [*read_receipts(storage, range(manifest.num_shards), read_receipt).values()]
    totals = Totals.of(manifest)
    return ExtractionReport(
        cache=path,
        was_finished=filled is None,
        num_samples=manifest.num_samples,
        num_written=filled.num_written if filled else 0,
        num_shards=manifest.num_shards,
        num_bytes=sum(receipt.num_bytes for receipt in receipts if receipt),
        num_skipped=manifest.num_skipped,
        num_unreadable=name_unreadable(path, manifest, receipts, reports),
        num_truncated=totals.num_truncated if totals else 0,
        seconds=filled.seconds if filled else 0.0,
    )
