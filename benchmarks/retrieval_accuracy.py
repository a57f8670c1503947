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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from real_data import add_options, backbone_folders, make_cache
from report import Figure, parser, show

from cache_schema import FeatureCache
from trainer import FitConfig, evaluate, fit

VIT = "vit_tiny_patch16_224"
DIRECTIONS = {"text_to_item_r1": "text to item", "item_to_text_r1": "item to text"}


@dataclass(frozen=True)
class Study:
    """One data set.

    Attributes:
        data: Its folder.
        key: Column that joins items and texts.
        items: How the images or videos are extracted.
        texts: How the captions are.
        unipt: Settings of its fit; the probe's are the same for both.
    """

    data: str
    key: str
    items: Mapping[str, Any]
    texts: Mapping[str, Any]
    unipt: Mapping[str, Any]


WIDTH = 256  # of the common space
# Twice the steps of UniPT and more; held-out items find no use in further ones.
PROBE = {
    "network": {"name": "probe"},
    "batch_size": 512,
    "epochs": 16,
    "dropout": 0.2,
    "rates": (1e-3, 3e-3, 1e-2),
}
UNIPT = {"name": "unipt", "preset": "paper", "reduction": 4, "residual": "anchor"}
# Large batches read an item once for many of its captions; those are no negatives.
STUDIES = {
    "flickr8k": Study(
        "flickr8k_1k",
        "image",
        {
            "image_column": "image",
            "image_size": (160, 160),
            "views": 3,
            "layers": (8, 9, 10, 11),
        },
        {"text_column": "captions", "layers": (6,)},
        {
            "network": {**UNIPT, "layers": (8, 9, 10, 11)},
            "pooling": "first",  # the class token
            "batch_size": 1500,
            "epochs": 16,
            "dropout": 0.3,
            "rates": (2e-3, 4e-3, 8e-3),
        },
    ),
    "msrvtt": Study(
        "msrvtt_frames",
        "video_id",
        {
            "video_column": "frames",
            "frames": 4,
            "image_size": (128, 128),
            "layers": (9, 11),
        },
        {"text_column": "captions", "layers": (6,)},
        {
            "network": {**UNIPT, "layers": (9, 11)},
            "batch_size": 2600,
            "epochs": 6,  # so few videos are soon learned by heart
            "dropout": 0.3,
            "rates": (1e-3, 2e-3, 4e-3),
        },
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
                "items": {"backbone": backbones.get(VIT, VIT), **study.items},
                "texts": {"backbone": "minilm", **study.texts},
            }
            caches = [
                make_cache(
                    f"{name}-{side}",
                    Path(args.data, study.data),
                    {"keys": (study.key,), **settings},
                    every=args.every,
                    folder=Path(args.caches or folder / "caches"),
                )
                for side, settings in sides.items()
            ]
            figures += compare(name, study, caches, args.seeds, folder / "runs")
    show(figures, as_json=args.json)
    return 0


def compare(
    name: str, study: Study, caches: Sequence[FeatureCache], seeds: int, folder: Path
) -> list[Figure]:
    """Mean R@1 both ways, beside the probe's and chance."""
    scores = {
        contestant: [
            run(f"{name}-{contestant}", study.key, settings, caches, seed, folder)
            for seed in range(seeds)
        ]
        for contestant, settings in (("unipt", study.unipt), ("probe", PROBE))
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


def run(
    name: str,
    key: str,
    settings: Mapping[str, Any],
    caches: Sequence[FeatureCache],
    seed: int,
    folder: Path,
) -> dict[str, float]:
    """Test metrics of the learning rate that is best on the held-out items."""
    chosen = dict(settings)
    config = FitConfig.model_validate(
        {
            "task": {
                "name": "retrieval",
                "key": key,
                "width": WIDTH,
                "text_network": {"name": "probe"},
                "text_pooling": "mean",
                "same_item": "ignored",
            },
            "optimizer": {"learning_rates": chosen.pop("rates")},
            "seed": seed,
            **chosen,
        }
    )
    run_dir = folder / f"{name}-{seed}"
    report = fit(config, tuple(caches), run_dir)
    metrics = evaluate(run_dir, tuple(caches), "test")
    print(
        f"{name} seed {seed}: learning rate {report.learning_rate:g}, epoch "
        f"{report.best_epoch}, validation rsum {report.metrics['rsum']:.1f}, test "
        + ", ".join(f"{key} {value:.4g}" for key, value in metrics.items())
        + f", {report.seconds:.0f} s, {report.num_parameters:,} parameters",
        file=sys.stderr,
    )
    return metrics


if __name__ == "__main__":
    sys.exit(main())
