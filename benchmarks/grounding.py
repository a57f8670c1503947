"""Visual grounding on real photos: a small MDETR, trained on half of the classes, then adapted.

No pretrained model that reads images and texts together can be had offline. So a small MDETR is
trained in full on the expressions of half of the classes and frozen; the expressions of the other
half are extracted, and UniPT and heads alone are trained on that cache. Both start from the heads
of the full training. --data names a folder with train.jsonl and test.jsonl whose rows have
`expression`, `category`, `image`, `bbox` (x, y, width and height in pixels), `height` and `width`;
--weights names safetensors of a convolutional timm
model, with `arch`, `model_kwargs`, `mean` and `std` as metadata.
The metric is the share of expressions whose best box overlaps the right one by half (IoU).
Target: UniPT above heads alone, on average over 3 seeds.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contest import Contestant, figures, scores
from mosaics import Captions, read_rows
from report import Figure, parser, show
from small_mdetr import NUM_POSITIONS, Recipe, Trainer

from cache_schema import FeatureCache
from extractor import ExtractConfig, extract

CONTESTANTS = {
    # The small model has fewer layers than the preset's 1, 3 and 5 of six; here all are guided.
    "unipt": Contestant({"name": "unipt", "preset": "mdetr", "layers": ()}, 30, (5e-4, 1e-3, 2e-3)),
    "heads-only": Contestant({"name": "probe"}, 30, (1e-4, 5e-4, 2e-3)),
}


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
            of_known = [[r for r in rows[s] if r["category"] in known] for s in rows]
            shown += train(*of_known, args.weights, backbone)
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


def train(
    rows: Sequence[dict[str, Any]],
    held_out: Sequence[dict[str, Any]],
    weights: Path,
    folder: Path,
) -> list[Figure]:
    """Train and save the backbone."""
    started = time.perf_counter()
    trainer = Trainer(weights, Recipe())
    found = trainer.train(
        Captions.of(rows, trainer.config, mirror=True),
        Captions.of(held_out, trainer.config, mirror=False),
    )
    trainer.save(folder)
    return [
        Figure("grounding/full training on its own classes", 100 * found, "%"),
        Figure("grounding/full training", time.perf_counter() - started, "s"),
    ]


def adaptation_cache(
    rows: dict[str, list[dict[str, Any]]], known: set[str], backbone: Path, folder: Path
) -> FeatureCache:
    """The classes that the backbone was not trained on."""
    data = folder / "data"
    data.mkdir()
    for split, of_split in rows.items():
        lines = [json.dumps(row) for row in of_split if row["category"] not in known]
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
