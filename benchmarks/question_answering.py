"""Questions about images: a small VisualBERT, trained on half of the answers, then adapted.

No pretrained model that reads images and texts together can be had offline. So a frozen ViT makes a
grid of each image, a small VisualBERT over those grids and MiniLM's words is trained in full on the
questions that half of the answers belong to, and frozen; the questions of the other half are
extracted, and UniPT and the answer head alone are trained on that cache.
Targets, on average over 3 seeds: UniPT above the answer head alone, and above 65 %, which is what
the whole of easy-VQA gives to its best text-only guess. That guess is computed for the adapted
half too: of each question its most frequent answer in training.

    python benchmarks/question_answering.py --data DIR --weights VIT.safetensors

DIR has train.jsonl and test.jsonl whose rows have `question`, `answer` and `image`, such as
easy-VQA's.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contest import Contestant, figures, scores
from real_data import backbone_folders
from report import Figure, parser, show
from small_visualbert import Grids, Recipe, Trainer

from cache_schema import FeatureCache
from extractor import ExtractConfig, extract

CONTESTANTS = {
    "unipt": Contestant({"name": "unipt", "preset": "clip-vil"}, 20, (5e-4, 1e-3, 2e-3)),
    "heads-only": Contestant({"name": "probe"}, 20, (5e-4, 1e-3, 2e-3)),
}
TEXT_ONLY = 65.0  # percent; the target that the data set as a whole sets


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--data", required=True, type=Path, help="folder of questions")
    options.add_argument("--weights", required=True, metavar="FILE", help="the ViT's safetensors")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--only", choices=sorted(CONTESTANTS), help="one network")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (vit,) = backbone_folders([args.weights], folder / "backbones").values()
        rows = read(args.data, Grids(Path(vit), folder / "grids"))
        answers = sorted({row["answer"] for row in rows["train"]})
        known, new = answers[::2], answers[1::2]
        backbone = folder / "visualbert"
        own = {split: of(known, rows[split]) for split in rows}
        shown = train(known, own["train"], own["test"], backbone)
        adapted = {split: of(new, rows[split]) for split in rows}
        cache = adaptation_cache(adapted, backbone, folder)
        guesses = [
            Figure("question answering/text-only guess", text_only(**adapted), "%"),
            Figure("question answering/text-only guess of its own answers", text_only(**own), "%"),
        ]
        means = {}
        for which in [args.only] if args.only else CONTESTANTS:
            found = scores(
                which,
                CONTESTANTS[which],
                cache,
                folder,
                metric="accuracy",
                seeds=range(args.seeds),
                settings={"task": {"name": "vqa", "target": "answer"}, "batch_size": 64},
            )
            target = f"> {TEXT_ONLY:g}" if which == "unipt" else ""
            shown += figures(f"question answering/{which}", found, target)
            means[which] = sum(found) / len(found)
        if len(means) == len(CONTESTANTS):
            gain = means["unipt"] - means["heads-only"]
            shown.append(Figure("question answering/unipt - heads-only", gain, "points", "> 0"))
    show([*shown, *guesses], as_json=args.json)
    return 0


def read(data: Path, grids: Grids) -> dict[str, list[dict[str, Any]]]:
    """Rows of both splits as extraction wants them."""
    found = {
        split: [json.loads(line) for line in (data / f"{split}.jsonl").read_text().splitlines()]
        for split in ("train", "test")
    }
    images = sorted({row["image"] for rows in found.values() for row in rows})
    files = dict(zip(images, grids.write([str(data / image) for image in images]), strict=True))
    return {
        split: [
            {
                "text": row["question"],
                "regions": files[row["image"]],
                "answer": row["answer"],
            }
            for row in rows
        ]
        for split, rows in found.items()
    }


def of(answers: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The questions that these answers belong to."""
    return [row for row in rows if row["answer"] in answers]


def train(
    answers: Sequence[str],
    rows: Sequence[dict[str, Any]],
    held_out: Sequence[dict[str, Any]],
    folder: Path,
) -> list[Figure]:
    """Train and save the backbone."""
    started = time.perf_counter()
    trainer = Trainer(answers, Recipe())
    found = trainer.train(trainer.read(rows), trainer.read(held_out))
    trainer.save(folder)
    return [
        Figure("question answering/full training on its own answers", 100 * found, "%"),
        Figure("question answering/full training", time.perf_counter() - started, "s"),
    ]


def adaptation_cache(
    rows: dict[str, list[dict[str, Any]]], backbone: Path, folder: Path
) -> FeatureCache:
    """The questions whose answers the backbone was not trained on."""
    data = folder / "data"
    data.mkdir()
    for split, of_split in rows.items():
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of_split))
    config = ExtractConfig(
        backbone=str(backbone),
        data=(str(data),),
        text_column="text",
        regions_column="regions",
        targets=("answer",),
        cache=str(folder / "cache"),
    )
    return FeatureCache.open(extract(config).cache)


def text_only(train: Sequence[dict[str, Any]], test: Sequence[dict[str, Any]]) -> float:
    """Percent of test questions that their most frequent training answer is right for."""
    counts: dict[str, Counter[str]] = {}
    for row in train:
        counts.setdefault(row["text"], Counter())[row["answer"]] += 1
    overall = Counter(row["answer"] for row in train)
    right = sum(
        counts.get(row["text"], overall).most_common(1)[0][0] == row["answer"] for row in test
    )
    return 100 * int(right) / len(test)


if __name__ == "__main__":
    sys.exit(main())
