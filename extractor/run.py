"""One extraction from start to finish: resolve, plan, write what is missing, report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from pydantic import JsonValue

from cache_schema import (
    CacheError,
    CacheNotFoundError,
    CacheWriter,
    EncodingName,
    FingerprintMismatchError,
    Manifest,
    Meter,
    Progress,
    SilentProgress,
    StorageError,
    drop_bad_shards,
    encoding,
    finished_shards,
    open_storage,
    read_manifest,
    read_receipt,
    verify,
)

from .backbones import load_backbone
from .config import ExtractConfig
from .errors import HiddenStateError
from .inputs import DataError, open_data
from .report import ExtractionEstimate, ExtractionReport, size_text
from .request import default_cache_path, request_of
from .unreadable import count_unreadable, refuse_unreadable

if TYPE_CHECKING:
    from .backbones.base import Backbone
    from .filling import ShardInputs
    from .plan import ExtractionPlan
    from .samples import NumberedSamples

# Samples per forward pass. On 2 CPU cores larger batches gave nothing; a GPU needs more to fill.
_BATCH_SIZES = {"cpu": 32, "cuda": 256, "mps": 64}


def extract(config: ExtractConfig, progress: Progress | None = None) -> ExtractionReport:
    """Run a frozen backbone once over the data and store its hidden states.

    A finished cache of the same request is recognised from the sizes and times of change of all
    files involved, without loading anything. A cache that an earlier run left unfinished is
    completed; what is finished stays.

    Args:
        config: What to extract from what.
        progress: Where to report; nowhere if None.

    Raises:
        UserError: Anything the user can mend: see the subclasses.
    """
    reports = progress or SilentProgress()
    path = config.cache or default_cache_path(config)
    request = request_of(config)
    finished = _finished(path, request)
    if finished is not None:
        return finished
    backbone, samples, plan = _prepare(config, path, request, reports)
    _refuse_what_will_not_fit(path, plan, _missing(path, plan.manifest))
    joins = open_storage(path).size("zarr.json") is not None
    writer = CacheWriter.create(path, plan.manifest)
    missing = writer.missing_shards()
    # Whoever joins starts at the end, so that two runs at once meet in the middle.
    order = missing[::-1] if joins else missing
    num_written = sum(len(plan.manifest.shard_samples(shard)) for shard in missing)
    started = time.perf_counter()
    done = plan.manifest.num_samples - num_written
    try:
        with reports.meter("extract", plan.manifest.num_samples, "samples", done) as meter:
            _write_shards(config, backbone, samples, plan, writer, order, meter)
    except HiddenStateError as error:
        # Another encoding is another cache: leave nothing in its way.
        if joins or not writer.discard_if_empty():
            raise HiddenStateError(f"{error} Use another --cache path with it.") from error
        raise
    return ExtractionReport(
        cache=path,
        was_finished=False,
        num_samples=plan.manifest.num_samples,
        num_written=num_written,
        num_shards=plan.manifest.num_shards,
        num_bytes=plan.num_bytes,
        num_skipped=len(samples.source.skipped),
        num_unreadable=count_unreadable(path, plan.manifest, reports),
        num_truncated=plan.num_truncated,
        seconds=time.perf_counter() - started,
    )


def estimate(config: ExtractConfig, progress: Progress | None = None) -> ExtractionEstimate:
    """What `extract` would do with this configuration; writes nothing."""
    from .plan import probe_seconds

    path = config.cache or default_cache_path(config)
    backbone, samples, plan = _prepare(
        config, path, request_of(config), progress or SilentProgress()
    )
    missing = _missing(path, plan.manifest)
    missing_bytes = plan.missing_bytes(missing)
    sizes = {name: plan.sizing.of(name).num_bytes for name in get_args(EncodingName)}
    seconds = probe_seconds(backbone, samples, plan, _batch_size(config, backbone))
    return ExtractionEstimate(
        cache=path,
        num_samples=plan.manifest.num_samples,
        num_tokens=plan.num_tokens,
        encoding=plan.manifest.encoding,
        encodings=dict(sorted(sizes.items(), key=lambda size: -size[1])),
        limit_bytes=config.fit_in,
        num_shards=plan.manifest.num_shards,
        num_missing_shards=len(missing),
        num_bytes=plan.num_bytes,
        missing_bytes=missing_bytes,
        free_bytes=plan.free_bytes,
        seconds=seconds * missing_bytes / plan.num_bytes,
        num_skipped=len(samples.source.skipped),
        num_unreadable=len(plan.failures),
        num_truncated=plan.num_truncated,
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
    drop_bad_shards(path, problems)
    return extract(config, reports)


def _finished(path: str, request: dict[str, JsonValue]) -> ExtractionReport | None:
    """The report of a cache that is complete and was made by the same request."""
    storage = open_storage(path)
    manifest = read_manifest(storage)
    if manifest is None or manifest.execution.get("request") != request:
        return None
    if len(finished_shards(storage)) < manifest.num_shards:
        return None
    receipts = [read_receipt(storage, shard) for shard in range(manifest.num_shards)]
    return ExtractionReport(
        cache=path,
        was_finished=True,
        num_samples=manifest.num_samples,
        num_written=0,
        num_shards=manifest.num_shards,
        num_bytes=sum(receipt.num_bytes for receipt in receipts if receipt),
        num_skipped=manifest.num_skipped,
        num_unreadable=sum(len(receipt.unreadable) for receipt in receipts if receipt),
        num_truncated=0,
        seconds=0.0,
    )


def _prepare(
    config: ExtractConfig, path: str, request: dict[str, JsonValue], reports: Progress
) -> tuple[Backbone, NumberedSamples, ExtractionPlan]:
    from .plan import make_plan
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
    plan = make_plan(config, backbone, samples, path, request, reports)
    if config.fit_in is not None:
        reports.say(
            f"{plan.manifest.encoding} is the most exact encoding that fits in "
            f"{size_text(config.fit_in)}: {size_text(plan.num_bytes)}"
        )
    refuse_unreadable(config.on_error, plan.manifest, plan.failures)
    if plan.num_truncated:
        reports.say(
            f"{plan.num_truncated:,} of {plan.manifest.num_samples:,} texts are longer than "
            f"{backbone.spec.options['max_length']} tokens and were cut."
        )
    if source.skipped:
        reports.say(f"rows that cannot be used and are left out: {len(source.skipped):,}")
    return backbone, samples, plan


def _missing(path: str, manifest: Manifest) -> list[int]:
    """Shards that a run would write; all of them where there is no cache yet."""
    storage = open_storage(path)
    present = read_manifest(storage)
    if present is None:
        return list(range(manifest.num_shards))
    if present.identity != manifest.identity:
        raise FingerprintMismatchError(path, manifest.identity.differences(present.identity))
    if present.inputs != manifest.inputs:
        difference = f"inputs: {list(manifest.inputs)} here, {list(present.inputs)} there"
        raise FingerprintMismatchError(path, [difference])
    return CacheWriter(storage, manifest).missing_shards()


def _refuse_what_will_not_fit(path: str, plan: ExtractionPlan, missing: list[int]) -> None:
    needed = plan.missing_bytes(missing)
    if plan.free_bytes is not None and needed >= plan.free_bytes:
        raise StorageError(
            f"{path}: needs {size_text(needed)}, {size_text(plan.free_bytes)} are free. "
            "Choose another --cache path, --encoding int8 or int4, fewer --layers, or a shorter "
            "--max-length."
        )


def _write_shards(
    config: ExtractConfig,
    backbone: Backbone,
    samples: NumberedSamples,
    plan: ExtractionPlan,
    writer: CacheWriter,
    order: list[int],
    meter: Meter,
) -> None:
    from .pipeline import extract_shards

    bytes_per_sample = plan.bytes_per_sample

    def count(samples: int) -> None:
        meter.advance(samples, bytes=int(samples * bytes_per_sample))

    extract_shards(
        backbone,
        order,
        read=lambda shard: _read_shard(config, shard, plan.manifest, backbone, samples),
        write=writer.write_shard,
        stored=encoding(plan.manifest.encoding),
        batch_size=_batch_size(config, backbone),
        on_batch=count,
    )


def _read_shard(
    config: ExtractConfig,
    shard: int,
    manifest: Manifest,
    backbone: Backbone,
    samples: NumberedSamples,
) -> ShardInputs:
    from .filling import ShardInputs
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
