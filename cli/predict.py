"""`unipt predict`: what a trained run says about new samples, or finds among cached ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .caches import open_caches
from .console import Terminal
from .options import (
    Device,
    ImageColumn,
    Json,
    LocalCopy,
    MediaRoot,
    Quiet,
    RegionsColumn,
    RunOption,
    TextColumn,
    TextPairColumn,
    VideoColumn,
)
from .rows import row_writer
from .wording import table

if TYPE_CHECKING:
    from trainer import Match

SHOWN_CHARACTERS = 60
SHOWN_MATCHES = 10


def predict(
    run: RunOption,
    samples: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SAMPLE",
            help="Texts, images or videos to predict, instead of data; with a cache: to find "
            "there.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="File, folder or hub data set to predict, row by row."),
    ] = None,
    cache: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Cache to predict or search in; of retrieval, images or videos, then texts.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Split of the cache, test if not given; of data, all of them."
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Matches of each query, best first; 10 if not given."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to: a .parquet, .csv or .jsonl file."),
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to draw the boxes of grounding on the images."),
    ] = None,
    text_column: TextColumn = None,
    text_pair_column: TextPairColumn = None,
    image_column: ImageColumn = None,
    video_column: VideoColumn = None,
    regions_column: RegionsColumn = None,
    media_root: MediaRoot = None,
    on_error: Annotated[
        Literal["fail", "skip"] | None,
        typer.Option(
            help="What a row whose cell is missing or blank does: stop (if not given), or be left "
            "out. Files that cannot be read stop nothing; their rows say why."
        ),
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Where the backbone lies now, if it was moved; its weights are checked. Of "
            "retrieval one for both sides, or those of items, then of texts.",
        ),
    ] = None,
    device: Device = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Samples per forward pass; 32 if not given."),
    ] = None,
    local_copy: LocalCopy = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Label new samples with a trained run, or find them in a cache.

    The backbone, or the cache, must be the one that the run was trained with; it is checked. A
    SAMPLE that cannot be read leaves exit code 2, after all others were predicted.
    """
    if data is not None and (samples or cache):
        raise typer.BadParameter("--data stands alone, without SAMPLE and --cache")
    if data is None and not samples and not cache:
        raise typer.BadParameter("give SAMPLE, --data or --cache")
    if out is None and not samples:
        raise typer.BadParameter(f"{'--data' if data else '--cache'} needs --out FILE")
    columns = {
        "text_column": text_column,
        "text_pair_column": text_pair_column,
        "image_column": image_column,
        "video_column": video_column,
        "regions_column": regions_column,
        "media_root": media_root,
        "on_error": on_error,
    }
    given = _given(
        columns, batch_size=batch_size, backbone=backbone, split=split, top=top, out=out, draw=draw
    )
    if data is not None:
        _refuse_others(
            given, "--data", {*columns, "batch_size", "backbone", "split", "out", "draw"}
        )
    elif samples and cache:
        _refuse_others(given, "SAMPLE and --cache", {"backbone", "split", "top"})
    elif samples:
        _refuse_others(given, "SAMPLE", {"batch_size", "backbone"})
    else:
        _refuse_others(given, "--cache", {"split", "top", "out"})
    terminal = Terminal(quiet=quiet, as_json=as_json)
    import unipt

    if samples and cache:
        if len(cache) > 1:
            raise typer.BadParameter("SAMPLE is searched for in one --cache")
        model = unipt.load(run, device=device, backbone=backbone)
        (opened,) = open_caches(cache, local_copy, terminal)
        side = model.side_of(opened)
        where = {side: opened, **_given({}, split=split, top=top or SHOWN_MATCHES)}
        found = {query: model.search(query, **where) for query in samples}
        shown_below = shown_matches(found, are_files=side == "texts")
        terminal.result(shown_below, {"run": run, "found": _plain(found)})
    elif samples:
        model = unipt.load(run, device=device, backbone=backbone)
        rows = model.predict(samples, **_given({}, batch_size=batch_size))
        terminal.result(shown(samples, rows), {"run": run, "predictions": rows})
        _refuse_unreadable(rows)
    elif cache and out:
        chosen = _given({}, split=split, top=top)
        caches = open_caches(cache, local_copy, terminal)
        predicted = unipt.predict_cached(run, caches, **chosen, device=device, progress=terminal)
        _write(predicted, out, {"run": run, "cache": cache, "out": out}, terminal)
    elif data and out:
        splits = () if split is None else (split,)
        chosen = _given(columns, batch_size=batch_size, backbone=backbone, draw=draw)
        predicted = unipt.predict(
            run, data, **chosen, splits=splits, device=device, progress=terminal
        )
        _write(predicted, out, {"run": run, "data": data, "out": out}, terminal)


def _given(settings: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Those that the user gave."""
    return {name: value for name, value in {**settings, **more}.items() if value is not None}


def _refuse_others(given: Mapping[str, Any], what: str, used: Collection[str]) -> None:
    """Flags that have no effect beside what is predicted."""
    flags = [f"--{name.replace('_', '-')}" for name in given if name not in used]
    if flags:
        raise typer.BadParameter(f"{', '.join(flags)}: no effect with {what}, leave it out")


def _refuse_unreadable(rows: Sequence[Mapping[str, Any]]) -> None:
    """Leave with an exit code where a sample that the user named has no prediction."""
    from cache_schema import UserError

    errors = [row["error"] for row in rows if row.get("error") is not None]
    if errors:
        raise UserError(
            f"{len(errors)} of {len(rows)} samples could not be read; {errors[0]}. "
            "Check its path, or convert it."
        )


def _write(
    rows: Iterable[dict[str, Any]], out: Path, facts: dict[str, Any], terminal: Terminal
) -> None:
    """All rows into the file, and what could not be read counted."""
    num_rows = num_unreadable = 0
    with row_writer(out) as write:
        for row in rows:
            write(row)
            num_rows += 1
            if row.get("error") is not None:
                num_unreadable += 1
                terminal.say(f"{row['split']} row {row['row']}: no prediction: {row['error']}")
    lost = f", {num_unreadable:,} of them without a prediction" if num_unreadable else ""
    facts |= {"num_rows": num_rows, "num_unreadable": num_unreadable}
    terminal.result(f"{out}: {num_rows:,} rows{lost}", facts)


def shown(samples: list[str], rows: list[dict[str, Any]]) -> str:
    """A table of samples and what was predicted for them."""
    names = [name for name in rows[0] if name != "error" or any(row["error"] for row in rows)]
    are_files = "error" in rows[0]
    lines = [
        [*(_cell(row.get(name)) for name in names), _short(sample, is_file=are_files)]
        for sample, row in zip(samples, rows, strict=True)
    ]
    return table([*names, "sample" if are_files else "text"], lines)


def shown_matches(found: dict[str, list[Match]], *, are_files: bool) -> str:
    """A table of queries, texts or files, and what they found."""
    lines = [
        (_short(query, is_file=are_files), match.name, f"{match.score:.4f}")
        for query, matches in found.items()
        for match in matches
    ]
    return table(("query", "found", "score"), lines)


def _plain(found: dict[str, list[Match]]) -> dict[str, list[dict[str, Any]]]:
    return {query: [vars(match) for match in matches] for query, matches in found.items()}


def _cell(value: object) -> object:
    if isinstance(value, list):
        return ", ".join(str(_cell(item)) for item in value) or "-"
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else value


def _short(text: str, *, is_file: bool) -> str:
    """One line; of a long text the beginning, of a long path the end, which tells files apart."""
    line = " ".join(text.split())
    if len(line) <= SHOWN_CHARACTERS:
        return line
    kept = SHOWN_CHARACTERS - 3
    return f"...{line[-kept:]}" if is_file else f"{line[:kept]}..."
