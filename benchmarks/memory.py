"""Peak memory of `fit` on a cache and on one ten times as large, each in a process of its own.

Target: at most 10 % more.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from report import Figure, parser, resident, show
from texts import random_texts

from cache_schema import FeatureCache
from extractor import ExtractConfig, extract
from trainer import FitConfig, fit


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=600, help="of the smaller cache (600)")
    options.add_argument("--fit", metavar="CACHE", help="only train on this cache; print peak MB")
    args = options.parse_args()
    if args.fit:
        print(train(args.fit))
        return 0
    peaks, sizes = [], []
    with tempfile.TemporaryDirectory() as name:
        for count in (args.samples, 10 * args.samples):
            texts = random_texts(Path(name) / f"texts-{count}.csv", count)
            path = f"{name}/cache-{count}"
            report = extract(
                ExtractConfig(backbone="minilm", data=(f"train={texts}",), cache=path, device="cpu")
            )
            sizes.append(report.num_bytes / 1e6)
            run = [sys.executable, __file__, "--fit", path]
            peaks.append(float(subprocess.run(run, check=True, capture_output=True).stdout))
    show(
        [
            Figure("memory/smaller cache", sizes[0], "MB"),
            Figure("memory/larger cache", sizes[1], "MB"),
            Figure("memory/peak of fit, smaller cache", peaks[0], "MB"),
            Figure("memory/peak of fit, larger cache", peaks[1], "MB"),
            Figure("memory/peak, larger : smaller", peaks[1] / peaks[0], "x", "<= 1.1"),
        ],
        as_json=args.json,
    )
    return 0


def train(cache: str) -> float:
    """Train for one epoch; peak resident memory of this process in MB."""
    config = FitConfig.model_validate(
        {
            "task": {"name": "classification", "target": "label"},
            # So that the smaller cache, too, has more batches than are read ahead, in training
            # and in validation: four of them are in memory at once.
            "validation": {"fraction": 0.45},
            "eval_batch_size": 32,
            "batch_size": 32,
            "epochs": 1,
            "device": "cpu",
        }
    )
    with tempfile.TemporaryDirectory() as run:
        fit(config, FeatureCache.open(cache), run, overwrite=True)
    # Not ru_maxrss: that of a process begins with its parent's, which has just extracted a cache.
    return resident("VmHWM")


if __name__ == "__main__":
    sys.exit(main())
