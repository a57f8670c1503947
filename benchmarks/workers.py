"""One process that uses all cores against several that share them (`unipt extract --workers`).

The time is that of the whole command, loading included: each worker imports torch and loads the
backbone for itself. Without a target: which is better depends on the machine.

    python benchmarks/workers.py
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from pictures import random_photos, random_timm_model
from report import Figure, Rounds, parser, show
from texts import random_bert_base, random_texts

from extractor import ExtractConfig, extract

NUM_WORKERS = 2


def compare(
    name: str, config: ExtractConfig, count: int, folder: Path, repeats: int
) -> list[Figure]:
    """Samples per second of both, in turn."""
    runs = 0

    def measure(workers: int) -> float:
        nonlocal runs
        runs += 1
        started = time.perf_counter()
        cache = str(folder / f"{name}-{runs}")
        extract(config.model_copy(update={"cache": cache, "workers": workers}))
        seconds = time.perf_counter() - started
        shutil.rmtree(cache)
        return count / seconds

    speed = Rounds({"one": lambda: measure(1), "many": lambda: measure(NUM_WORKERS)}, repeats)
    return [
        Figure(f"workers/{name}, one process", speed["one"], "samples/s"),
        Figure(f"workers/{name}, {NUM_WORKERS} workers", speed["many"], "samples/s"),
        Figure(f"workers/{name}, workers : one process", speed.ratio("many", "one"), "x"),
    ]


def main() -> int:
    args = parser(__doc__).parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backbones = {
            "minilm": ("minilm", 6_144),
            "bert-base": (str(random_bert_base(folder / "bert")), 768),
        }
        for which, (backbone, count) in backbones.items():
            texts = random_texts(folder / f"{which}.csv", count)
            config = ExtractConfig(
                backbone=backbone, data=(f"train={texts}",), device="cpu", max_length=128
            )
            figures += compare(which, config, count, folder, args.repeats)
        vit = str(random_timm_model(folder / "vit", "vit_small_patch16_224"))
        photos = random_photos(folder / "photos", 384)
        config = ExtractConfig(backbone=vit, data=(f"train={photos}",), device="cpu")
        figures += compare("images", config, 384, folder, args.repeats)
    show(figures, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
