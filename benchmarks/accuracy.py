"""Test accuracy of UniPT, LST and an MLP probe on the last layer, several seeds.

Each contestant's learning rate is one of three that train side by side, chosen on the validation
samples (a tenth of the training split where the data has none); the test split is looked at once,
by the chosen one. Targets: UniPT above the MLP probe everywhere and above LST on most data sets.

    python benchmarks/accuracy.py --data DIR --weights VIT.safetensors MOBILENET.safetensors

DIR holds folders with files by split: sst2, ag_news and mrpc (`text` or `text1` and `text2`),
cifar10 (`image`, a path); all with a `label`. Images of CIFAR-10 are enlarged to 96 pixels for the
ViT and to 128 for the CNN, whose own size of 224 is several times as slow.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contest import Contestant, figures, scores
from real_data import add_options, backbone_folders, make_cache
from report import Figure, parser, show

from cache_schema import FeatureCache


@dataclass(frozen=True)
class Study:
    """One data set under one backbone.

    Attributes:
        data: Its folder.
        backbone: Alias, or architecture of a file of --weights.
        settings: Of the extraction.
        contestants: By name.
    """

    data: str
    backbone: str
    settings: Mapping[str, Any]
    contestants: Mapping[str, Contestant]


def against_baselines(
    unipt: Contestant,
    *,
    ladder: str,
    rates: tuple[float, float, float],
    probe: Mapping[str, Any] | None = None,
) -> dict[str, Contestant]:
    """UniPT beside LST for as many epochs, and a perceptron on the last layer for twice as many.

    Args:
        unipt: The first one.
        ladder: Kind of the side layers of LST.
        rates: Of LST.
        probe: Other settings of the perceptron.
    """
    perceptron = {"name": "mlp-probe", **(probe or {})}
    return {
        "unipt": unipt,
        "lst": Contestant({"name": "lst", "block": ladder}, unipt.epochs, rates),
        "mlp-probe": Contestant(perceptron, 2 * unipt.epochs, (3e-4, 1e-3, 3e-3)),
    }


UNIPT = {"name": "unipt", "preset": "paper"}
SMALL_UNIPT = {**UNIPT, "reduction": 4}  # where samples have many rows
RATES = (5e-4, 1e-3, 2e-3)
IMAGE_LST_RATES = (1e-3, 3e-3, 1e-2)
TEXTS = against_baselines(Contestant(UNIPT, 3, RATES), ladder="post-norm", rates=RATES)
LONG_TEXTS = against_baselines(Contestant(SMALL_UNIPT, 2, RATES), ladder="post-norm", rates=RATES)
PAIRS = against_baselines(Contestant(SMALL_UNIPT, 4, RATES), ladder="post-norm", rates=RATES)
VIT = against_baselines(Contestant(SMALL_UNIPT, 3, RATES), ladder="pre-norm", rates=IMAGE_LST_RATES)
CNN = against_baselines(
    Contestant({"name": "unipt", "preset": "vse-image", "reduction": 4, "width": 512}, 3, RATES),
    ladder="conv",
    rates=IMAGE_LST_RATES,
    probe={"hidden": 256, "width": 256},  # the last layer is 1,280 wide
)
IMAGES = {"image_column": "image"}
STUDIES = {
    "sst2": Study("sst2", "minilm", {}, TEXTS),
    "ag_news": Study("ag_news", "minilm", {"max_length": 64}, LONG_TEXTS),
    "mrpc": Study("mrpc", "minilm", {"max_length": 128}, PAIRS),
    "cifar10-vit": Study(
        "cifar10", "vit_tiny_patch16_224", {"image_size": (96, 96), **IMAGES}, VIT
    ),
    "cifar10-cnn": Study("cifar10", "mobilenetv2_100", {"image_size": (128, 128), **IMAGES}, CNN),
}


def main() -> int:
    options = parser(__doc__)
    add_options(options, "folder of the data sets")
    options.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES))
    args = options.parse_args()
    shown = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        backbones = backbone_folders(args.weights, folder / "backbones")
        for name in args.only:
            study = STUDIES[name]
            cache = make_cache(
                name,
                Path(args.data, study.data),
                {
                    "backbone": backbones.get(study.backbone, study.backbone),
                    "targets": ("label",),
                    **study.settings,
                },
                every=args.every,
                folder=Path(args.caches or folder / "caches"),
            )
            shown += compare(name, study, cache, args.seeds, folder / "runs")
    show(shown, as_json=args.json)
    return 0


def compare(name: str, study: Study, cache: FeatureCache, seeds: int, folder: Path) -> list[Figure]:
    """Mean test accuracy of each contestant, and by how much UniPT is ahead."""
    found = {
        kind: scores(
            f"{name}-{kind}",
            contestant,
            cache,
            folder,
            metric="accuracy",
            seeds=range(seeds),
            settings={"task": {"name": "classification", "target": "label"}},
        )
        for kind, contestant in study.contestants.items()
    }
    shown = [figure for kind in found for figure in figures(f"{name}/{kind}", found[kind])]
    means = {kind: statistics.mean(found[kind]) for kind in found}
    for kind, target in (("mlp-probe", "> 0"), ("lst", "> 0 on most")):
        ahead = means["unipt"] - means[kind]
        shown.append(Figure(f"{name}/unipt ahead of {kind}", ahead, "points", target))
    return shown


if __name__ == "__main__":
    sys.exit(main())
