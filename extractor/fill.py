"""What one process does of an extraction: plan it, and make what no other process makes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import JsonValue

from cache_schema import (
    CacheWriter,
    Claims,
    Manifest,
    Problem,
    Progress,
    StopSignals,
    StorageError,
    check_place,
    drop_bad_shards,
    encoding,
    missing_shards,
    open_storage,
    read_manifest,
)

from .backbones import load_backbone
from .config import ExtractConfig
from .errors import HiddenStateError
from .inputs import DataError, open_data
from .report import Filled, size_text
from .request import default_cache_path, request_of
from .share import Share
from .unreadable import refuse_unreadable

if TYPE_CHECKING:
    from .backbones.base import Backbone
    from .filling import ShardInputs
    from .plan import ExtractionPlan
    from .samples import NumberedSamples

# Samples per forward pass. On 2 CPU cores larger batches gave nothing; a GPU needs more to fill.
_BATCH_SIZES = {"cpu": 32, "cuda": 256, "mps": 64}


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
    backbone, samples, plan = prepare(config, path, request_of(config), reports)
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


def prepare(
    config: ExtractConfig, path: str, request: dict[str, JsonValue], reports: Progress
) -> tuple[Backbone, NumberedSamples, ExtractionPlan]:
    """Open the data, load the backbone and plan, saying what was guessed on the way.

    Raises:
        UserError: Anything the user can mend, also that another cache lies at `path`.
    """
    from .samples import NumberedSamples

    check_place(path)
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
    if config.fit_in is not None:
        reports.say(
            f"{plan.manifest.encoding} is the most exact encoding that fits in "
            f"{size_text(config.fit_in)}: {size_text(plan.num_bytes)}"
        )
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
    from .plan import make_plan, plan_like

    present = read_manifest(open_storage(path))
    if present is not None:
        begun = plan_like(present, config, backbone, samples, path)
        if begun is not None:
            return begun
    return make_plan(config, backbone, samples, path, request, reports)


def missing_bytes(plan: ExtractionPlan, num_missing: int) -> int:
    """About how many bytes that many shards take: all but the last of a split are equally large."""
    return plan.num_bytes * num_missing // plan.manifest.num_shards


def batch_size_of(config: ExtractConfig, backbone: Backbone) -> int:
    """Samples per forward pass: as asked for, or as the device likes it."""
    return config.batch_size or _BATCH_SIZES.get(backbone.device.type, 32)


def _refuse_what_will_not_fit(path: str, plan: ExtractionPlan) -> None:
    storage = open_storage(path)
    free = storage.free_bytes()
    needed = missing_bytes(plan, len(missing_shards(storage, plan.manifest)))
    shorter = ", a shorter --max-length" if "text" in plan.manifest.roles else ""
    if free is not None and needed >= free:
        raise StorageError(
            f"{path}: needs {size_text(needed)}, {size_text(free)} are free. Choose another "
            f"--cache path, --encoding int8 or int4{shorter} or fewer --layers."
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
    missing = writer.missing_shards()
    done = manifest.num_samples - sum(len(manifest.shard_samples(shard)) for shard in missing)
    started = time.perf_counter()
    with (
        stop,
        Claims(writer.storage) as claims,
        reports.meter("extract", manifest.num_samples, "samples", done) as meter,
    ):
        share = Share(writer, missing, claims, stop, meter)

        def count(samples: int) -> None:
            meter.advance(samples, bytes=int(samples * bytes_per_sample))

        while share.is_unfinished():
            if stop.is_requested:
                reports.say("SIGTERM: what was begun is written; run the same command to go on")
                stop.act()
            extract_shards(
                backbone,
                share,
                read=lambda shard: _read_shard(config, shard, manifest, backbone, samples),
                write=share.write,
                stored=encoding(manifest.encoding),
                batch_size=batch_size_of(config, backbone),
                on_batch=count,
            )
        claims.clear()
    return Filled(share.num_written, time.perf_counter() - started)


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
