"""RefCOCO, RefCOCO+ and RefCOCOg in MDETR's COCO form: one json file per split.

finetune_refcoco_{train,val,testA,testB}.json, finetune_refcoco+_{...}.json,
finetune_refcocog_{train,val,test}.json, each
{"images": [{"id", "file_name", "height", "width", "original_id", "caption"}],
 "annotations": [{"image_id", "bbox": [x, y, w, h], "tokens_positive": [[begin, end], ...]}]}

An "image" is an expression: it has one box, and the same photograph comes back under other ids.
All photographs are of COCO's train2014.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ..errors import DataError
from .coco import CocoImages
from .folder import find_file, missing, read_json, records
from .table import FormatSource, Table

_PLACES = ("", "mdetr_annotations", "OpenSource", "annotations")
_SPLITS = {
    "train": "train",
    "val": "validation",
    "testA": "testA",
    "testB": "testB",
    "test": "test",
}


def open_refexp(root: Path, dataset: str) -> FormatSource:
    """Find the files of one of the three data sets.

    Raises:
        DataNotFoundError: There is none.
    """
    files: dict[str, tuple[Path, ...]] = {}
    for name, split in _SPLITS.items():
        path = find_file(root, (f"finetune_{dataset}_{name}.json",), _PLACES)
        if path is not None:
            files[split] = (path,)
    if not files:
        raise missing(dataset, root, f"finetune_{dataset}_train.json and so on")
    return FormatSource(files, partial(_read, root, dataset, files))


def _read(
    root: Path, dataset: str, files: dict[str, tuple[Path, ...]], wanted: frozenset[str]
) -> dict[str, Table]:
    images = CocoImages(dataset, root)
    return {
        split: _table(path, images)
        for split, (path,) in files.items()
        if not wanted or split in wanted
    }


def _table(path: Path, images: CocoImages) -> Table:
    document = read_json(path)
    needed = ("id", "file_name", "height", "width", "caption", "original_id")
    expressions = records(path, document, "images", needed)
    columns: dict[str, list[Any]] = {
        "image": [images.path("train2014", e["file_name"]) for e in expressions],
        "image_id": [str(e["original_id"]) for e in expressions],
        "sentence_id": [str(e["id"]) for e in expressions],
        "text": [e["caption"] for e in expressions],
        "size": [[float(e["height"]), float(e["width"])] for e in expressions],
    }
    # A test file may come without its boxes.
    if "annotations" in document:
        boxes = _boxes(path, document, expressions)
        columns["box"] = [[float(n) for n in box["bbox"]] for box in boxes]
        columns["spans"] = [
            [int(n) for span in box["tokens_positive"] for n in span] for box in boxes
        ]
    return Table(columns)


def _boxes(path: Path, document: Any, expressions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The box of each expression, in their order."""
    of_image: dict[Any, list[dict[str, Any]]] = {}
    for box in records(path, document, "annotations", ("image_id", "bbox", "tokens_positive")):
        of_image.setdefault(box["image_id"], []).append(box)
    chosen = []
    for expression in expressions:
        boxes = of_image.get(expression["id"], [])
        if len(boxes) != 1 or len(boxes[0]["bbox"]) != 4:
            raise DataError(
                f"{path}: image {expression['id']} ({expression['caption']!r}) has {len(boxes)} "
                "boxes, needed one of four numbers. Is it one of MDETR's finetune files?"
            )
        chosen.append(boxes[0])
    return chosen
