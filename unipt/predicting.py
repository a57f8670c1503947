"""Predictions of whole files and of whole splits of a cache, row by row."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cache_schema import SilentProgress, UserError
from extractor import DataConfig, open_data
from trainer import encode_split, load_run, predict_split, rank_both_ways

from .choices import CacheLike, DeviceName, checked, data_paths, opened
from .drawing import draw_prediction
from .model import BackbonePlace, Model, places_of, refuse_retrieval
from .online import TextForm, backbone_of

if TYPE_CHECKING:
    from cache_schema import Progress

_READ_AT_ONCE = 2048  # rows of a file
_TOP = 10


def predict(
    run: str | Path,
    data: str | Path,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    device: DeviceName = "auto",
    batch_size: int = 32,
    backbone: BackbonePlace = None,
    draw: str | Path | None = None,
    progress: Progress | None = None,
    **columns: Any,
) -> Iterator[dict[str, Any]]:
    """Predict every row of a file, a folder or a hub data set, reading it as it goes.

    Args:
        run: A finished run.
        data: What to predict: rows of texts, images or videos, as the run's backbone reads them.
        text_column: Column of the text; guessed if not given.
        text_pair_column: Column of a second text.
        on_error: What a row without a usable text does. Images and videos that cannot be read
            never stop anything: they get a row without a prediction.
        device: Where to compute.
        batch_size: Samples per forward pass.
        backbone: Folder or hub id of the backbone if it is not where it was.
        draw: Folder for the images with the boxes of grounding drawn on them.
        progress: Where to report; nowhere if not given.
        **columns: Any other field of `extractor.DataConfig`: image_column, splits ...

    Yields:
        `split` and `row` (counted from 0 in its source) and the columns of the prediction. Where
        cells list several texts, also `part`. Where images, videos or regions are read, also
        `error` and `file`: the path as the data has it, below the folder that was named (of a
        list of frames the first); None for bytes.

    Raises:
        UserError: The data cannot be read, or the run cannot be used.
    """
    reports = progress or SilentProgress()
    trained = load_run(run, device)
    refuse_retrieval(trained)
    chosen, reads = backbone_of(trained.record.cache, places_of(trained, backbone)[0])
    asked = {
        "data": data_paths([data]),
        "reads": reads,
        "text_column": text_column,
        "text_pair_column": text_pair_column,
        "lists_hold_words": chosen.align == "words",
        "guess_targets": False,
        "unique": False,  # every row gets its prediction
        "on_error": on_error,
        **columns,
    }
    # Data first: its mistakes are found before the backbone is loaded.
    source = open_data(checked(DataConfig, asked, "predict"))
    for note in source.notes:
        reports.say(note)
    _refuse_other_texts(source.inputs, TextForm.of(trained.record.cache, chosen))
    model = Model(trained, backbone=backbone)
    media = next((role for role in reads if role != "text"), None)
    with reports.meter("predict", sum(source.splits.values()), "samples") as meter:
        for split, count in source.splits.items():
            starts = range(0, count, _READ_AT_ONCE)
            waiting: deque[Mapping[str, Any]] = deque()
            read = (s for i in starts for s in source.samples(split, i, i + _READ_AT_ONCE))
            samples = _noted(read, waiting)
            ids = source.sample_rows(split).tolist()
            parts = source.rows[split].parts
            found = model.predict_samples(samples, batch_size=batch_size)
            for place, (row, values) in enumerate(zip(ids, found, strict=True)):
                meter.advance(1)
                sample = waiting.popleft()
                found_row = {"split": split, "row": row}
                if parts is not None:
                    found_row["part"] = int(parts[place])
                if media is not None:
                    found_row["file"] = _file_of(sample[media], source.roots[split])
                found_row |= values
                if draw is not None:
                    draw_prediction(Path(draw), sample, found_row)
                yield found_row


def _file_of(source: object, root: Path | None) -> str | None:
    """A sample's file as the data names it: below the data's folder where it lies there."""
    first = source[0] if isinstance(source, list) else source
    if not isinstance(first, str):
        return None
    return first if root is None else first.removeprefix(f"{root}{os.sep}")


def _refuse_other_texts(inputs: Mapping[str, str], form: TextForm) -> None:
    """Pairs of texts mean nothing to a run that was trained on single ones, nor the reverse.

    Raises:
        UserError: Names the columns and the flag that chooses another.
    """
    if form.count == 2 and "text_pair" not in inputs:
        raise UserError(
            f"--data: found the text {inputs['text']!r} alone, needed a pair of texts, which the "
            "run was trained with. Name the second with --text-pair-column."
        )
    if form.count == 1 and "text_pair" in inputs:
        raise UserError(
            f"--data: found a pair, {inputs['text']!r} and {inputs['text_pair']!r}, needed one "
            "text, which the run was trained with. Name it with --text-column."
        )


def predict_cached(
    run: str | Path,
    cache: CacheLike | Sequence[CacheLike],
    split: str = "test",
    *,
    top: int | None = None,
    device: DeviceName = "auto",
    progress: Progress | None = None,
) -> Iterator[dict[str, Any]]:
    """Predict one split of a cache, without the backbone.

    Args:
        run: A finished run.
        cache: A cache of the run's own hidden states; for retrieval that of the items, then that
            of the texts.
        split: Which split.
        top: How many matches of each query, of retrieval; 10 if not given.
        device: Where to compute.
        progress: Where to report; nowhere if not given.

    Yields:
        `split`, `row` (in the source of the cache) and the columns of the prediction. Of
        retrieval: `split`, `direction`, `query`, `found` and `scores` for each text, then for
        each item.

    Raises:
        UserError: The run or the split is not there, or the cache was made from something else.
    """
    trained, caches = load_run(run, device), opened(cache)
    if trained.record.config.task.name != "retrieval":
        if top is not None:
            raise UserError(
                f"--top: {trained.path} finds nothing, it is of another task than "
                "retrieval. Leave it out."
            )
        for row in predict_split(trained, caches, split, progress):
            yield {"split": split, **row}
        return
    trained.check_number(caches)
    items = encode_split(trained, caches[0], split, "items", progress)
    texts = encode_split(trained, caches[-1], split, "texts", progress)
    for row in rank_both_ways(items, texts, top or _TOP):
        yield {"split": split, **row}


def _noted(
    samples: Iterator[Mapping[str, Any]], waiting: deque[Mapping[str, Any]]
) -> Iterator[Mapping[str, Any]]:
    """The samples, each also put into `waiting`: they are predicted in order, a window later."""
    for sample in samples:
        waiting.append(sample)
        yield sample
