"""What the accuracy benchmarks share: backbones from weight files, thinned data, kept caches."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache_schema import FeatureCache
from extractor import ExtractConfig, extract

SUFFIXES = (".csv", ".jsonl")


def add_options(options: argparse.ArgumentParser, data: str) -> None:
    """The options that every accuracy benchmark has.

    Args:
        options: Where to.
        data: What --data names.
    """
    options.add_argument("--data", required=True, metavar="DIR", help=data)
    options.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="FILE",
        help="safetensors of timm models; metadata: arch, model_kwargs, num_classes, mean, std",
    )
    options.add_argument("--caches", metavar="DIR", help="keep the caches; temporary if left out")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument(
        "--every", type=int, default=1, metavar="N", help="only every Nth row, for a quick look"
    )


def backbone_folders(files: list[str], folder: Path) -> dict[str, str]:
    """Architecture to a folder in timm's format with its weights, one for each file."""
    return dict(_backbone_folder(Path(file), folder) for file in files)


def _backbone_folder(file: Path, folder: Path) -> tuple[str, str]:
    import timm
    from safetensors import safe_open

    with safe_open(file, "pt") as weights:
        found = weights.metadata()
    mean, std = float(found["mean"]), float(found["std"])
    # Input size, crop and the like are the architecture's.
    usual = timm.get_pretrained_cfg(found["arch"], allow_unregistered=False)
    assert usual is not None, found["arch"]
    own = {"mean": [mean] * 3, "std": [std] * 3, "tag": file.stem.partition(".")[2]}
    document = {
        "architecture": found["arch"],
        "model_args": json.loads(found["model_kwargs"]),
        "pretrained_cfg": usual.to_dict() | own,
    }
    if found["num_classes"] != "0":
        document["num_classes"] = int(found["num_classes"])
    made = folder / found["arch"]
    made.mkdir(parents=True)
    (made / "config.json").write_text(json.dumps(document))
    (made / "model.safetensors").symlink_to(file.resolve())
    return found["arch"], str(made)


def make_cache(
    name: str, data: Path, settings: Mapping[str, Any], every: int, folder: Path
) -> FeatureCache:
    """Extract a folder of split files, or use the cache that is there already.

    Args:
        name: Of the cache.
        data: Folder with csv or jsonl files by split; relative paths in them start there.
        settings: Other fields of `ExtractConfig`.
        every: Only every so many rows of each file.
        folder: Where caches lie.
    """
    source = data if every == 1 else thinned(data, every, folder / "thinned")
    asked = {"data": (str(source),), "media_root": str(data), **settings}
    if not {"image_column", "video_column"} & {*settings}:
        del asked["media_root"]
    report = extract(ExtractConfig.model_validate({**asked, "cache": str(folder / name)}))
    cache = FeatureCache.open(report.cache)
    print(f"{name}: {cache.num_samples:,} samples, {report.seconds:.0f} s", file=sys.stderr)
    return cache


def thinned(data: Path, every: int, folder: Path) -> Path:
    """A folder with every Nth row of each split file of `data`."""
    made = folder / f"{data.name}-{every}"
    made.mkdir(parents=True, exist_ok=True)
    for file in sorted(data.iterdir()):
        if file.suffix in SUFFIXES:
            (_thin_csv if file.suffix == ".csv" else _thin_lines)(file, made / file.name, every)
    return made


def _thin_csv(source: Path, target: Path, every: int) -> None:
    with source.open(newline="") as read, target.open("w", newline="") as written:
        header, *rows = csv.reader(read)
        csv.writer(written).writerows([header, *rows[::every]])


def _thin_lines(source: Path, target: Path, every: int) -> None:
    lines = source.read_text().splitlines(keepends=True)
    target.write_text("".join(lines[::every]))
