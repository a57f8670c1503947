"""Flickr8K, Flickr30K and COCO captions with Karpathy's splits: `dataset_*.json` and images.

{"images": [{"filename", "filepath" (COCO), "cocoid" (COCO), "imgid", "split",
             "sentences": [{"raw", "sentid"}, ...]}, ...]}

COCO's `restval` images are trained on, as everyone does; a few of its images have six or seven
captions, of which the usual test (5,000 images x 5 captions, or five times 1,000 x 5) takes five.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ..errors import DataError
from .folder import media_folder, missing, read_json, records
from .table import FormatSource, Table

CAPTIONS_PER_IMAGE = 5
_SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}
_IMAGE_FOLDERS = (
    "", "images", "flickr30k-images", "flickr30k_images", "Flicker8k_Dataset", "Flickr8k_Dataset",
    "images/flickr30k-images", "coco", "coco/images",
)  # fmt: skip
# Images looked for before the folder is said to be missing.
_PROBES = 20


def open_karpathy(root: Path) -> FormatSource:
    """Find the json file.

    Raises:
        DataNotFoundError: There is none.
        DataError: There are several.
    """
    if root.is_file():
        path, root = root, root.parent
    else:
        found = sorted(root.glob("dataset*.json")) or sorted(root.glob("*/dataset*.json"))
        if not found:
            needed = "dataset_flickr30k.json, dataset_coco.json or dataset_flickr8k.json"
            raise missing("karpathy", root, needed)
        if len(found) > 1:
            raise DataError(
                f"{root}: has {[p.name for p in found]!r}, needed one. "
                f"Name the file itself: karpathy:{found[0]}"
            )
        path = found[0]
    files = dict.fromkeys(("train", "validation", "test"), (path,))
    return FormatSource(files, partial(_read, path, root))


def _read(path: Path, root: Path, wanted: frozenset[str]) -> dict[str, Table]:
    images = records(path, read_json(path), "images", ("filename", "split", "sentences", "imgid"))
    by_split: dict[str, list[dict[str, Any]]] = {}
    for position, image in enumerate(images):
        split = _SPLITS.get(image["split"])
        if split is None:
            raise DataError(
                f"{path}: entry {position} of 'images' has the split {image['split']!r}, needed "
                f"one of {[*_SPLITS]!r}. Is it Karpathy's file?"
            )
        if not wanted or split in wanted:
            by_split.setdefault(split, []).append(image)
    return {split: _table(path, root, rows) for split, rows in by_split.items()}


def _table(path: Path, root: Path, images: list[dict[str, Any]]) -> Table:
    # COCO names the folder of each image; the other two have one folder for all.
    by_folder: dict[str, list[str]] = {}
    for image in images:
        by_folder.setdefault(str(image.get("filepath", "")), []).append(image["filename"])
    places = {
        inside: media_folder(
            "karpathy",
            root,
            [f"{p}/{inside}".strip("/") for p in _IMAGE_FOLDERS] + ([""] if inside else []),
            names[:_PROBES],
        )
        for inside, names in by_folder.items()
    }
    sentences = [
        records(path, i["sentences"], None, ("raw", "sentid"))[:CAPTIONS_PER_IMAGE] for i in images
    ]
    return Table(
        {
            "image": [str(places[str(i.get("filepath", ""))] / i["filename"]) for i in images],
            "image_id": [str(i.get("cocoid", i["imgid"])) for i in images],
            "text": [[" ".join(s["raw"].split()) for s in group] for group in sentences],
            "sentence_id": [[str(s["sentid"]) for s in group] for group in sentences],
        }
    )
