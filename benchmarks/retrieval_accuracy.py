"""Recall of UniPT and a probe in finding images or videos by text and the other way round.

Both backbones are frozen: MiniLM reads the captions, a ViT the images or frames. The probe is the
last layer of each, averaged over its rows, and a learned linear map into the common space. UniPT
stands in front of the same map on the ViT's side; on the captions' side it would only fit the few
training texts better, so these go the probe's way. Learning rates are chosen out of three on
held-out items (a tenth of the training items with all their texts), the test split is looked at
once.
Targets: R@1 both ways at least 2 x the probe's and 10 x chance.

    python benchmarks/retrieval_accuracy.py --data DIR --weights VIT.safetensors

DIR holds flickr8k_1k (`image`, a path, and `captions`, a list) and msrvtt_frames (`frames`, a list
of paths, `captions` and `video_id`), each with train.jsonl and test.jsonl.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contest import tested
from real_data import add_options, backbone_folders, make_cache
from report import Figure, parser, show

from cache_schema import FeatureCache

VIT = "vit_tiny_patch16_224"
DIRECTIONS = {"text_to_item_r1": "text to item", "item_to_text_r1": "item to text"}
LAYERS = (8, 9, 10, 11)
WIDTH = 256  # of the common space
BATCH = 500
EMA = 0.9
CONTESTANTS: dict[str, dict[str, Any]] = {
    # The class token of each image or frame reads it.
    "unipt": {
        "network": {"name": "unipt", "preset": "clip4clip", "reduction": 4, "layers": LAYERS},
        "optimizer": {"learning_rates": (1e-3, 2e-3, 4e-3), "ema_decay": EMA},
    },
    "probe": {
        "network": {"name": "probe"},
        "optimizer": {"learning_rates": (1e-3, 3e-3, 1e-2), "ema_decay": EMA},
    },
}


@dataclass(frozen=True)
class Study:
    """One data set.

    Attributes:
        data: Its folder.
        key: Column that joins items and texts.
        items: How the images or videos are extracted.
        training: Settings of each fit, the same for all contestants.
    """

    data: str
    key: str
    items: Mapping[str, Any]
    training: Mapping[str, Any]


STUDIES = {
    "flickr8k": Study(
        "flickr8k_1k",
        "image",
        {"image_column": "image", "views": 6},
        {"epochs": 16, "dropout": 0.3},
    ),
    "msrvtt": Study(
        "msrvtt_frames",
        "video_id",
        {"video_column": "frames", "frames": 4, "views": 3},
        {"epochs": 6, "dropout": 0.4},
    ),
}


def main() -> int:
    options = parser(__doc__)
    add_options(options, "folder of the data sets")
    options.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES))
    args = options.parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        backbones = backbone_folders(args.weights, folder / "backbones")
        for name in args.only:
            study = STUDIES[name]
            sides = {
                "items": {"backbone": backbones.get(VIT, VIT), "layers": LAYERS, **study.items},
                "texts": {"backbone": "minilm", "layers": (6,), "text_column": "captions"},
            }
            caches = tuple(
                make_cache(
                    f"{name}-{side}",
                    Path(args.data, study.data),
                    {"keys": (study.key,), **settings},
                    every=args.every,
                    folder=Path(args.caches or folder / "caches"),
                )
                for side, settings in sides.items()
            )
            figures += compare(name, study, caches, args.seeds, folder / "runs")
    show(figures, as_json=args.json)
    return 0


def compare(
    name: str, study: Study, caches: tuple[FeatureCache, ...], seeds: int, folder: Path
) -> list[Figure]:
    """Mean R@1 both ways, beside the probe's and chance."""
    task = {
        "name": "retrieval",
        "key": study.key,
        "width": WIDTH,
        "text_network": {"name": "probe"},
        "text_pooling": "mean",
        "same_item": "ignored",
    }
    scores = {
        contestant: [
            tested(
                f"{name}-{contestant}",
                {**study.training, **settings, "task": task, "batch_size": BATCH, "seed": seed},
                caches,
                folder,
                [*DIRECTIONS],
            )
            for seed in range(seeds)
        ]
        for contestant, settings in CONTESTANTS.items()
    }
    num_items = len(caches[0].split("test"))
    figures = [Figure(f"{name}/chance", 100 / num_items, "%")]
    for metric, direction in DIRECTIONS.items():
        means = {
            contestant: statistics.mean(metrics[metric] for metrics in found)
            for contestant, found in scores.items()
        }
        figures += [Figure(f"{name}/{direction} R@1/{c}", mean, "%") for c, mean in means.items()]
        ahead = f"{name}/{direction} R@1/unipt"
        figures += [
            Figure(f"{ahead} : probe", means["unipt"] / max(means["probe"], 1e-9), "x", ">= 2"),
            Figure(f"{ahead} : chance", means["unipt"] * num_items / 100, "x", ">= 10"),
        ]
    return figures


if __name__ == "__main__":
    sys.exit(main())
