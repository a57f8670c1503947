"""`unipt extract`: run a frozen backbone once and keep its hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import completion
from .console import Terminal
from .options import (
    ImageColumn,
    Json,
    MediaRoot,
    OnError,
    Quiet,
    RegionsColumn,
    TextColumn,
    TextPairColumn,
    VideoColumn,
)
from .wording import bytes_text, duration_text, table

if TYPE_CHECKING:
    from extractor import ExtractConfig, ExtractionEstimate, ExtractionReport


def extract(
    backbone: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Alias (bert-base, minilm ...), hub id or local folder.",
            autocompletion=completion.backbones,
            show_default=False,
        ),
    ],
    data: Annotated[
        list[str],
        typer.Option(
            metavar="PATH",
            help="csv, tsv, jsonl or parquet file, folder (also of images or videos), hub data "
            "set, FORMAT:FOLDER, or SPLIT=PATH; repeatable.",
            show_default=False,
        ),
    ],
    revision: Annotated[
        str | None,
        typer.Option(metavar="REVISION", help="Branch, tag or commit on the hub."),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Splits to extract; all if not given; repeatable."),
    ] = None,
    modality: Annotated[
        Literal["auto", "text", "image", "image+text", "regions+text"],
        typer.Option(help="What to read, where the backbone could read several things."),
    ] = "auto",
    text_column: TextColumn = None,
    text_pair_column: TextPairColumn = None,
    image_column: ImageColumn = None,
    video_column: VideoColumn = None,
    regions_column: RegionsColumn = None,
    frames: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Read videos, this many frames of each."),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(metavar="N|HxW", help="Pixels; the model's own size if not given."),
    ] = None,
    media_root: MediaRoot = None,
    views: Annotated[
        int,
        typer.Option(
            metavar="K", min=1, help="Samples of each training row: as it is, and augmented views."
        ),
    ] = 1,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Column to store as a target; guessed where unambiguous; repeatable.",
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="Column of names that joins this cache to another; repeatable."
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Where to keep it: folder or URL; a speaking name if not given."
        ),
    ] = None,
    layers: Annotated[
        str,
        typer.Option(
            metavar="LAYERS",
            help="all, or numbers such as 0,6,12 (0: embeddings); the last is always kept.",
        ),
    ] = "all",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of the forward pass."),
    ] = "auto",
    quantize: Annotated[
        Literal["none", "8bit", "4bit"],
        typer.Option(help="Round the weights of linear layers; needs bitsandbytes."),
    ] = "none",
    encoding: Annotated[
        Literal["float16", "bfloat16", "float32", "int8", "int4"] | None,
        typer.Option(help="Of the stored hidden states; float16 if not given."),
    ] = None,
    fit_in: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="The most exact of float16, int8 and int4 in which the cache fits in 40GB, say.",
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Tokens a text is cut to; the model's maximum if not given."
        ),
    ] = None,
    align: Annotated[
        Literal["none", "words"],
        typer.Option(help="words: also store where words begin, for token-classification."),
    ] = "none",
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps ...")
    ] = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Samples per step; chosen for the device."),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Processes, each with a GPU or its part of cores."),
    ] = 1,
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Use all workers of this Dask scheduler (or file)."),
    ] = None,
    on_error: OnError = "fail",
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run Python code that comes with the model."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Tell bytes, shards, free disk and time, and stop."),
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run a frozen backbone once and keep every layer's hidden states.

    Killed and started again with the same flags it goes on where it was. Started several times at
    once, on any machines, all fill one cache.
    """
    from extractor import ExtractConfig

    from .documents import parse

    config = parse(
        ExtractConfig,
        {
            "backbone": backbone,
            "revision": revision,
            "data": data,
            "splits": split or (),
            "modality": modality,
            "text_column": text_column,
            "text_pair_column": text_pair_column,
            "image_column": image_column,
            "video_column": video_column,
            "regions_column": regions_column,
            "frames": frames,
            "image_size": _image_size(image_size),
            "media_root": media_root,
            "views": views,
            "targets": target or (),
            "keys": key or (),
            "cache": cache,
            "layers": _layers(layers),
            "precision": precision,
            "quantize": quantize,
            "encoding": encoding,
            "fit_in": fit_in,
            "max_length": max_length,
            "align": align,
            "device": device,
            "batch_size": batch_size,
            "workers": workers,
            "dask": dask,
            "on_error": on_error,
            "trust_remote_code": trust_remote_code,
        },
        "unipt extract",
    )
    terminal = Terminal(quiet=quiet, as_json=as_json)
    if dry_run:
        _estimate(config, terminal)
    else:
        _extract(config, terminal)


def _extract(config: ExtractConfig, terminal: Terminal) -> None:
    import extractor

    report = extractor.extract(config, terminal)
    terminal.result(summary(report), report.as_dict())
    _suggest_fit(report.cache, terminal)


def _suggest_fit(cache: str, terminal: Terminal) -> None:
    """The command that trains from a cache; none where there is nothing in it to learn."""
    from cache_schema import open_storage, read_manifest

    manifest = read_manifest(open_storage(cache))
    if manifest is None or not manifest.targets:
        return
    extra: list[str] = []
    if len(manifest.streams) > 1:
        from trainer import setting_for

        axes = {stream.name: len(stream.axes) for stream in manifest.streams}
        setting = setting_for("unipt", axes)
        extra = [] if setting is None else ["--set", setting]
    terminal.suggest("unipt", "fit", "--cache", cache, *extra)


def summary(report: ExtractionReport) -> str:
    """What an extraction did, in one line."""
    size = f"{report.num_samples:,} samples, {bytes_text(report.num_bytes)}"
    if report.num_unreadable:
        size += f", {report.num_unreadable:,} of them unreadable and without hidden states"
    if report.was_finished:
        return f"{report.cache}: already complete ({size}), nothing to do"
    written = f"{report.num_written:,} written in {duration_text(report.seconds)}"
    return f"{report.cache}: complete ({size}), {written}"


def _estimate(config: ExtractConfig, terminal: Terminal) -> None:
    import extractor

    found = extractor.estimate(config, terminal)
    free = "no limit known" if found.free_bytes is None else bytes_text(found.free_bytes)
    lines = [
        ("cache", found.cache),
        ("samples", f"{found.num_samples:,} ({found.num_tokens:,} tokens)"),
        ("cut", f"{found.num_truncated:,} texts that are too long" if found.num_truncated else ""),
        ("left out", f"{found.num_skipped:,} rows" if found.num_skipped else ""),
        ("unreadable", f"{found.num_unreadable:,} samples" if found.num_unreadable else ""),
        ("shards", f"{found.num_shards:,}, of which {found.num_missing_shards:,} are missing"),
        ("bytes", f"{found.num_bytes:,} ({bytes_text(found.num_bytes)})"),
        ("to write", bytes_text(found.missing_bytes)),
        ("free disk", f"{free}{'' if found.fits else ': NOT ENOUGH'}"),
        ("time", f"about {duration_text(found.seconds)}"),
    ]
    head = "\n".join(f"{k:<10} {v}" for k, v in lines if v)
    terminal.result(f"{head}\n\n{_encodings(found)}", found.as_dict())


def _encodings(found: ExtractionEstimate) -> str:
    """What the whole cache would take in each encoding."""
    rows = [
        [
            name,
            num_bytes,
            bytes_text(num_bytes),
            "yes" if found.whole_fits(name) else "no",
            "this run" if name == found.encoding else "",
        ]
        for name, num_bytes in found.encodings.items()
    ]
    return table(("encoding", "bytes", "", "fits", ""), rows)


def _image_size(text: str | None) -> str | int | list[int] | None:
    sides = [] if text is None else text.lower().split("x")
    if not sides or len(sides) > 2 or not all(side.isdecimal() for side in sides):
        return text
    return int(sides[0]) if len(sides) == 1 else [int(side) for side in sides]


def _layers(text: str) -> str | list[int]:
    numbers = [part.strip() for part in text.split(",")]
    if text == "all" or not all(number.isdecimal() for number in numbers):
        return text
    return [int(number) for number in numbers]
