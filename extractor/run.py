"""One extraction from start to finish: resolve, plan, write what is missing, report."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import JsonValue

from cache_schema import (
    CacheError,
    CacheNotFoundError,
    CacheWriter,
    Claims,
    FingerprintMismatchError,
    Manifest,
    Problem,
    Progress,
    SilentProgress,
    StopSignals,
    StorageError,
    drop_bad_shards,
    encoding,
    missing_shards,
    open_storage,
    read_manifest,
    read_receipt,
    verify,
)

from .backbones import load_backbone
from .config import ExtractConfig
from .errors import HiddenStateError
from .inputs import DataError, open_data
from .report import ExtractionEstimate, ExtractionReport, Filled
from .request import default_cache_path, request_of
from .share import Share
from .totals import Totals
from .unreadable import name_unreadable, refuse_unreadable

if TYPE_CHECKING:
    from .backbones.base import Backbone
    from .pipeline import ShardInputs
    from .plan import ExtractionPlan
    from .samples import NumberedSamples

# Samples per forward pass. On 2 CPU cores larger batches gave nothing; a GPU needs more to fill.
_BATCH_SIZES = {"cpu": 32, "cuda": 256, "mps": 64}


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


def fill_alone(
    config: ExtractConfig, reports: Progress, stop: StopSignals, *, drop: Sequence[Problem] = ()
) -> Filled:
    """What one process does of an extraction: make what no other makes, until all is finished.

    Args:
        config: What to extract from what.
        reports: Where to report.
        stop: Says when no shard may be begun any more.
        drop: Whose shards are removed first, once it is certain that they can be made again.

    Raises:
        UserError: Anything the user can mend.
    """
    path = config.cache or default_cache_path(config)
    backbone, samples, plan = _prepare(config, path, request_of(config), reports)
    _refuse_what_will_not_fit(path, plan)
    drop_bad_shards(path, drop)
    joins = open_storage(path).size("zarr.json") is not None
    writer = CacheWriter.create(path, plan.manifest)
    try:
        return _write_missing(config, backbone, samples, plan, writer, reports, stop)
    except HiddenStateError as error:
        # Another encoding is another cache: leave nothing in its way.
        if joins or not writer.discard_if_empty():
            raise HiddenStateError(f"{error} Use another --cache path with it.") from error
        raise


def estimate(config: ExtractConfig, progress: Progress | None = None) -> ExtractionEstimate:
    """What `extract` would do with this configuration; writes nothing."""
    from .plan import probe_seconds

    path = config.cache or default_cache_path(config)
    backbone, samples, plan = _prepare(
        config, path, request_of(config), progress or SilentProgress()
    )
    storage = open_storage(path)
    missing = missing_shards(storage, plan.manifest)
    missing_bytes = _missing_bytes(plan, len(missing))
    seconds = probe_seconds(backbone, samples, plan, _batch_size(config, backbone))
    return ExtractionEstimate(
        cache=path,
        num_samples=plan.manifest.num_samples,
        num_tokens=plan.totals.num_tokens,
        num_shards=plan.manifest.num_shards,
        num_missing_shards=len(missing),
        num_bytes=plan.totals.num_bytes,
        missing_bytes=missing_bytes,
        free_bytes=storage.free_bytes(),
        seconds=seconds * missing_bytes / plan.totals.num_bytes,
        num_skipped=len(samples.source.skipped),
        num_unreadable=len(plan.failures),
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
    receipts = [read_receipt(storage, shard) for shard in range(manifest.num_shards)]
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


def _prepare(
    config: ExtractConfig, path: str, request: dict[str, JsonValue], reports: Progress
) -> tuple[Backbone, NumberedSamples, ExtractionPlan]:
    from .samples import NumberedSamples

    # Data first: its mistakes are the common ones and take no time to find.
    source = open_data(config.data_config)
    for note in source.notes:
        reports.say(note)
    if config.views > 1 and "train" not in source.splits:
        raise DataError(
            f"--views: only the split 'train' gets augmented views, the data has "
            f"{[*source.splits]!r}. Leave --views out, or name the split: train=PATH."
        )
    if source.media is not None:
        with reports.meter("check", len(source.media.paths), "files") as meter:
            source.media.read(meter.advance)
    backbone = load_backbone(config.backbone_config, config.device)
    samples = NumberedSamples(source, config.views, config.augmentation)
    plan = _plan(config, backbone, samples, path, request, reports)
    refuse_unreadable(config.on_error, plan.manifest, plan.failures)
    if plan.totals.num_truncated:
        reports.say(
            f"{plan.totals.num_truncated:,} of {plan.manifest.num_samples:,} texts are longer "
            f"than {backbone.spec.options['max_length']} tokens and were cut."
        )
    if source.skipped:
        reports.say(f"rows that cannot be used and are left out: {len(source.skipped):,}")
    return backbone, samples, plan


def _plan(
    config: ExtractConfig,
    backbone: Backbone,
    samples: NumberedSamples,
    path: str,
    request: dict[str, JsonValue],
    reports: Progress,
) -> ExtractionPlan:
    """By which the cache there was begun, or else a new one.

    Raises:
        FingerprintMismatchError: A cache of something else lies there; names what differs.
    """
    from .plan import identity_of, make_plan, plan_of

    present = read_manifest(open_storage(path))
    if present is None:
        return make_plan(config, backbone, samples, request, reports)
    identity = identity_of(config, backbone, samples)
    if present.identity != identity:
        raise FingerprintMismatchError(path, identity.differences(present.identity))
    if present.inputs != backbone.stored_inputs:
        difference = f"inputs: {list(backbone.stored_inputs)} here, {list(present.inputs)} there"
        raise FingerprintMismatchError(path, [difference])
    return plan_of(present) or make_plan(config, backbone, samples, request, reports)


def _missing_bytes(plan: ExtractionPlan, num_missing: int) -> int:
    """About how many bytes that many shards take: all but the last of a split are equally large."""
    return plan.totals.num_bytes * num_missing // plan.manifest.num_shards


def _refuse_what_will_not_fit(path: str, plan: ExtractionPlan) -> None:
    storage = open_storage(path)
    free = storage.free_bytes()
    needed = _missing_bytes(plan, len(missing_shards(storage, plan.manifest)))
    reads_text = "text" in plan.manifest.roles
    if free is not None and needed >= free:
        raise StorageError(
            f"{path}: needs {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free. Choose another "
            f"--cache path{', a shorter --max-length' if reads_text else ''} or fewer --layers."
        )


def _write_missing(
    config: ExtractConfig,
    backbone: Backbone,
    samples: NumberedSamples,
    plan: ExtractionPlan,
    writer: CacheWriter,
    reports: Progress,
    stop: StopSignals,
) -> Filled:
    """Make what nobody else makes, until the cache is complete."""
    from .pipeline import extract_shards

    manifest, bytes_per_sample = plan.manifest, plan.bytes_per_sample
    missing = sum(len(manifest.shard_samples(shard)) for shard in writer.missing_shards())
    done = manifest.num_samples - missing
    started = time.perf_counter()
    with (
        stop,
        Claims(writer.storage) as claims,
        reports.meter("extract", manifest.num_samples, "samples", done) as meter,
    ):
        share = Share(writer, claims, stop, meter)

        def count(samples: int) -> None:
            meter.advance(samples, bytes=int(samples * bytes_per_sample))

        while writer.missing_shards():
            extract_shards(
                backbone,
                share,
                read=lambda shard: _read_shard(config, shard, manifest, backbone, samples),
                write=share.write,
                stored=encoding(config.encoding),
                batch_size=_batch_size(config, backbone),
                on_batch=count,
            )
            share.wait_for_others()
            if stop.is_requested and writer.missing_shards():
                reports.say("SIGTERM: what was begun is written; run the same command to go on")
                stop.act()
        claims.clear()
    return Filled(share.num_written, time.perf_counter() - started)


def _read_shard(
    config: ExtractConfig,
    shard: int,
    manifest: Manifest,
    backbone: Backbone,
    samples: NumberedSamples,
) -> ShardInputs:
    from .pipeline import ShardInputs
    from .plan import unreadable

    numbers = manifest.shard_samples(shard)
    prepared = backbone.prepare(samples.read(numbers))
    ids = samples.ids(numbers)
    failures = unreadable(numbers, ids, prepared.failures)
    refuse_unreadable(config.on_error, manifest, failures)
    targets = {t.spec.name: samples.target(t, numbers) for t in samples.source.targets}
    return ShardInputs(shard, ids, samples.views(numbers), prepared, targets, failures)


def _batch_size(config: ExtractConfig, backbone: Backbone) -> int:
    return config.batch_size or _BATCH_SIZES.get(backbone.device.type, 32)
