"""Visual grounding on real photos: a small MDETR, trained on half of the classes, then adapted.

No pretrained model that reads images and texts together can be had offline. So a small MDETR is
trained in full on the expressions of half of the classes and frozen; the expressions of the other
half are extracted, and UniPT and heads alone are trained on that cache. Both start from the heads
of the full training, and both see every training image in seven more arrangements of its photos:
few as the expressions are, without them nothing is learned that holds for other photos.
The best epoch and learning rate are chosen on a tenth of the training images, the test split is
read once. --data names a folder with train.jsonl and test.jsonl whose rows have `expression`,
`category`, `image`, `bbox` (x, y, width and height in pixels), `height` and `width`; --weights
names safetensors of a convolutional timm model, with `arch`, `model_kwargs`, `mean` and `std` as
metadata.
The metric is the share of expressions whose best box overlaps the right one by half (IoU).
Target: UniPT above heads alone, on average over 3 seeds.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from contest import Contestant, figures, scores
from mosaics import Captions, Row, of_images, read_rows, with_rearranged
from report import Figure, parser, show
from small_mdetr import NUM_POSITIONS, Recipe, Trainer

from cache_schema import FeatureCache
from extractor import ExtractConfig, extract

RATES = (1e-3, 3e-3, 1e-2)
# The small model is narrow and has fewer layers than the preset's 1, 3 and 5 of six: all of them
# are guided, at full width.
UNIPT = {"name": "unipt", "preset": "mdetr", "layers": (), "reduction": 1}
CONTESTANTS = {
    "unipt": Contestant(UNIPT, 25, RATES),
    "heads-only": Contestant({"name": "probe"}, 25, RATES),
}
REARRANGED = 7  # more arrangements of every training image of the adaptation


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--data", required=True, type=Path, help="folder of expressions")
    options.add_argument("--weights", required=True, type=Path, help="of the image network")
    options.add_argument("--backbone", type=Path, help="keep the trained MDETR here, or reuse it")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--only", choices=sorted(CONTESTANTS), help="one network")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = {split: read_rows(args.data, split) for split in ("train", "test")}
        known = set(sorted({row["category"] for row in rows["train"]})[::2])
        backbone = args.backbone or folder / "mdetr"
        shown = []
        if not (backbone / "config.json").exists():
            of_known = {s: [r for r in rows[s] if r["category"] in known] for s in rows}
            shown += train(of_known, args.weights, backbone, folder / "known")
        cache = adaptation_cache(rows, known, backbone, folder)
        means = {}
        for which in [args.only] if args.only else CONTESTANTS:
            found = scores(
                which,
                CONTESTANTS[which],
                cache,
                folder,
                metric="precision_at_1",
                seeds=range(args.seeds),
                settings={"task": task(backbone), "batch_size": 32},
            )
            shown += figures(f"grounding/{which}", found)
            means[which] = sum(found) / len(found)
        if len(means) == len(CONTESTANTS):
            gain = means["unipt"] - means["heads-only"]
            shown.append(Figure("grounding/unipt - heads-only", gain, "points", "> 0"))
    show(shown, as_json=args.json)
    return 0


def train(rows: dict[str, list[Row]], weights: Path, folder: Path, images: Path) -> list[Figure]:
    """Train and save the backbone; `images` takes rearranged images."""
    started = time.perf_counter()
    trainer = Trainer(weights, Recipe())
    found = trainer.train(
        Captions.of(with_rearranged(rows["train"], 1, images), trainer.config),
        Captions.of(rows["test"], trainer.config),
    )
    trainer.save(folder)
    return [
        Figure("grounding/full training on its own classes", 100 * found, "%"),
        Figure("grounding/full training", time.perf_counter() - started, "s"),
    ]


def adaptation_cache(
    rows: dict[str, list[Row]], known: set[str], backbone: Path, folder: Path
) -> FeatureCache:
    """The classes that the backbone was not trained on."""
    data = folder / "data"
    data.mkdir()
    unknown = {split: [r for r in rows[split] if r["category"] not in known] for split in rows}
    scenes = of_images(unknown["train"])
    kept = [row for number, own in enumerate(scenes) for row in own if number % 10]
    splits = {
        "train": with_rearranged(kept, REARRANGED, folder / "unknown"),
        "validation": [row for own in scenes[::10] for row in own],
        "test": unknown["test"],
    }
    for split, of_split in splits.items():
        lines = [json.dumps(row) for row in of_split]
        (data / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    config = ExtractConfig(
        backbone=str(backbone),
        data=(str(data),),
        text_column="text",
        targets=("box", "size"),
        cache=str(folder / "cache"),
    )
    return FeatureCache.open(extract(config).cache)


def task(backbone: Path) -> dict[str, Any]:
    """Grounding with plain IoU, from the heads of the full training."""
    return {
        "name": "grounding",
        "overlap": "iou",
        "num_positions": NUM_POSITIONS,
        "head_weights": str(backbone / "heads.safetensors"),
    }


if __name__ == "__main__":
    sys.exit(main())
