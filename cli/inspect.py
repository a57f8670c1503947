"""`unipt inspect`: what a cache is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .console import Terminal
from .options import CacheArgument, Json
from .wording import bytes_text, table

if TYPE_CHECKING:
    from cache_schema import Manifest

SHOWN_CLASSES = 6
SHOWN_UNREADABLE = 20
SHOWN_OPTIONS = ("max_length", "precision")


def inspect(cache: CacheArgument, as_json: Json = False) -> None:
    """Show what a cache is: backbone, layers, splits, targets, size."""
    facts = describe(cache)
    Terminal(as_json=as_json).result(_page(facts), facts)


def describe(path: str) -> dict[str, Any]:
    """Everything that `inspect` shows; finished shards count, the others do not."""
    from cache_schema import (
        CacheNotFoundError,
        FeatureCache,
        IncompleteCacheError,
        describe_layers,
        open_storage,
        read_manifest,
    )

    manifest = read_manifest(open_storage(path))
    if manifest is None:
        raise CacheNotFoundError(path)
    facts: dict[str, Any] = {
        "path": path,
        "shards": manifest.num_shards,
        "finished_shards": 0,
        "bytes": 0,
        "tokens": {stream.name: 0 for stream in manifest.streams},
        "num_unreadable": 0,
        "unreadable": [],
    }
    try:
        cache = FeatureCache.open(path, allow_partial=True)
    except IncompleteCacheError:
        pass  # not one shard yet: there is a manifest and nothing else to show
    else:
        facts["finished_shards"] = len(cache.receipts)
        facts["bytes"] = sum(receipt.num_bytes for receipt in cache.receipts.values())
        facts["num_unreadable"] = len(cache.unreadable)
        facts["unreadable"] = [
            found.model_dump(mode="json") for found in cache.unreadable[:SHOWN_UNREADABLE]
        ]
        facts["tokens"] = {s.name: int(cache.lengths(s.name).sum()) for s in manifest.streams}
    facts |= manifest.model_dump(mode="json", exclude={"shard_starts"})
    facts["fingerprint"] = manifest.identity.fingerprint
    facts["layers"] = _layers(manifest, describe_layers(path))
    return facts


def _layers(
    manifest: Manifest, numbers: Mapping[str, Sequence[tuple[float, float]]]
) -> list[dict[str, Any]]:
    unknown: list[tuple[float | None, float | None]] = [(None, None)]
    return [
        {
            "stream": stream.name,
            "layer": layer.index,
            "module": layer.module,
            "width": stream.width,
            "final_norm": layer.final_norm,
            "absmax": absmax,
            "rms": rms,
        }
        for stream in manifest.streams
        for layer, (absmax, rms) in zip(
            stream.layers,
            numbers.get(stream.name) or unknown * len(stream.layers),
            strict=True,
        )
    ]


def _page(facts: dict[str, Any]) -> str:
    backbone = facts["backbone"]
    unfinished = facts["shards"] - facts["finished_shards"]
    state = (
        "complete"
        if not unfinished
        else f"NOT FINISHED: {unfinished:,} of {facts['shards']:,} shards to go"
    )
    revision = f" @ {backbone['revision'][:12]}" if backbone["revision"] else ""
    splits = ", ".join(f"{s['name']} {s['stop'] - s['start']:,}" for s in facts["splits"])
    tokens = ", ".join(f"{name} {count:,}" for name, count in facts["tokens"].items())
    chosen = ", ".join(
        f"{name} {value}" for name, value in backbone["options"].items() if name in SHOWN_OPTIONS
    )
    lines = [
        ("cache", f"{facts['path']} ({state})"),
        ("fingerprint", facts["fingerprint"]),
        ("written by", f"unipt {facts['unipt_version']}, {facts['created']}"),
        ("backbone", f"{backbone['name']} = {backbone['model']}{revision}"),
        ("", f"{backbone['architecture']}, {backbone['num_parameters'] / 1e6:,.1f} M parameters"),
        ("", chosen),
        ("samples", f"{facts['num_samples']:,} ({splits})"),
        ("skipped", f"{facts['num_skipped']:,} rows of the data" if facts["num_skipped"] else ""),
        *_unreadable(facts),
        ("rows", tokens),
        ("size", f"{bytes_text(facts['bytes'])} as {facts['encoding']}, {facts['shards']} shards"),
        *(("target", _target(target)) for target in facts["targets"]),
    ]
    head = "\n".join(f"{name:<12} {text}" for name, text in lines if text)
    header = ("stream", "layer", "module", "width", "final norm", "absmax", "rms")
    norm = {True: "applied", False: "not applied", None: "has none"}
    rows = [
        [
            *(row[key] for key in ("stream", "layer", "module", "width")),
            norm[row["final_norm"]],
            *("-" if row[key] is None else row[key] for key in ("absmax", "rms")),
        ]
        for row in facts["layers"]
    ]
    return f"{head}\n\n{table(header, rows)}"


def _unreadable(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """How many samples have no hidden states, and the reasons of the first ones."""
    if not facts["num_unreadable"]:
        return []
    lines = [("unreadable", f"{facts['num_unreadable']:,} samples without hidden states:")]
    lines += [("", f"row {found['row']}: {found['reason']}") for found in facts["unreadable"]]
    more = facts["num_unreadable"] - len(facts["unreadable"])
    return [*lines, ("", f"and {more:,} more")] if more else lines


def _target(target: dict[str, Any]) -> str:
    classes = target["classes"]
    if not classes:
        return f"{target['name']}: {target['kind']}"
    shown = ", ".join(classes[:SHOWN_CLASSES]) + (", ..." if len(classes) > SHOWN_CLASSES else "")
    return f"{target['name']}: {target['kind']} of {len(classes)} ({shown})"
