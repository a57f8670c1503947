"""What a run came to: the report, the learning curves and the page a person looks at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from .durable import write_durably
from .record import CacheExcerpt, RunRecord
from .settings import Settings


class TrialReport(Settings):
    """One learning rate of a run."""

    # NaN (a correlation of constant predictions) is written as a string: JSON has no NaN.
    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="strings")

    learning_rate: float
    best_epoch: int | None = Field(description="from 1; null if it failed in its first epoch")
    metrics: dict[str, float] = Field(description="of the validation samples at the best epoch")
    stopped: str | None = Field(description="why it ended early; null if it did not")


class FitReport(Settings):
    """The outcome of `fit`."""

    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="strings")

    run_dir: str
    learning_rate: float = Field(description="of the best trial, whose weights the run keeps")
    best_epoch: int = Field(description="from 1")
    primary: str = Field(description="metric that decided")
    metrics: dict[str, float] = Field(description="of the validation samples, best trial")
    trials: tuple[TrialReport, ...]
    num_parameters: int = Field(description="trained numbers of one model")
    num_steps: int = Field(description="optimizer steps done")
    num_train: int = Field(description="training samples")
    views: tuple[int, ...] = Field(
        (1,),
        description="views of each training sample that epochs take turns with; of pairs, "
        "those of the items and of the texts",
    )
    num_validation: int = Field(description="validation samples")
    validation_name: str
    seconds: float = Field(description="in the training loop, validation included")
    samples_per_s: float = Field(description="training samples read per second, over the loop")


def draw_curves(
    path: Path, rows: Sequence[Mapping[str, Any]], primary: str, validation_name: str
) -> None:
    """Training loss and the primary validation metric over steps, one line per learning rate."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.14, top=0.9)
    left, right = figure.subplots(1, 2)
    for axes, split, key in ((left, "train", "loss"), (right, "validation", primary)):
        chosen = [row for row in rows if row["split"] == split]
        for rate in sorted({row["learning_rate"] for row in chosen}):
            points = [row for row in chosen if row["learning_rate"] == rate]
            axes.plot(
                [row["step"] for row in points],
                [math.nan if row[key] is None else row[key] for row in points],
                marker="o" if split == "validation" else None,
                label=f"lr {rate:g}",
            )
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    left.set_title("training loss")
    right.set_title(f"{primary} ({validation_name})")
    right.legend()
    write_durably(path, lambda file: figure.savefig(file, format="png", dpi=120))


def model_card(record: RunRecord, report: FitReport) -> str:
    """The text of `RUN/README.md`."""
    config, caches = record.config, record.caches
    outputs = getattr(record.task, "classes", None)
    bases = list(dict.fromkeys(cache.backbone.model for cache in caches))
    names = " and ".join(dict.fromkeys(cache.backbone.name for cache in caches))
    num_frozen = sum(cache.backbone.num_parameters for cache in caches)
    front = [
        "---",
        "library_name: unipt",
        f"base_model: {bases[0] if len(bases) == 1 else bases}",
        "tags: [unipt, frozen-backbone]",
        "---",
    ]
    lines = [
        f"# {config.network.name} on {names}: {config.task.name} of `{record.task.target}`",
        "",
        f"A side network of {report.num_parameters:,} trained parameters beside a frozen backbone "
        f"of {num_frozen:,}. The backbone is not in this folder.",
        "",
        "| | |",
        "| --- | --- |",
        *(line for cache in caches for line in _describe_cache(cache)),
        f"| data | {record.num_train:,} training samples (split `{config.train_split}`), "
        f"{record.num_validation:,} for validation ({record.validation_name})"
        f"{_describe_views(report.views)} |",
        *([f"| classes | {', '.join(f'`{name}`' for name in outputs)} |"] if outputs else []),
        f"| trained with | unipt {record.unipt_version}, seed {config.seed}, "
        f"{report.num_steps:,} steps, {report.seconds:.1f} s |",
        "",
        "## Metrics",
        "",
        f"Validation, at the epoch with the best {report.primary}.",
        "",
        *_trial_table(report),
        "",
        "![curves](curves.png)",
        "",
        "## Use",
        "",
        "```python",
        "import unipt",
        "",
        f"model = unipt.load({report.run_dir!r})",
        _use_line(record),
        "```",
        "",
        "Loading is strict: every weight must be there, and `predict` and `evaluate` refuse hidden",
        "states of another backbone, tokenizer or setting. `config.json` has all settings.",
        "",
    ]
    return "\n".join([*front, *lines])


def _describe_cache(cache: CacheExcerpt) -> list[str]:
    backbone = cache.backbone
    streams = ", ".join(
        f"{stream.name} ({len(stream.layers)} layers, width {stream.width})"
        for stream in cache.streams
    )
    return [
        f"| base model | {backbone.model} ({backbone.architecture}) |",
        f"| revision | {backbone.revision or 'local folder or package, see the weights hash'} |",
        f"| features fingerprint | `{cache.identity.features_fingerprint}` |",
        f"| cache fingerprint | `{cache.identity.fingerprint}` |",
        f"| hidden states | {streams}, stored as {cache.encoding} |",
    ]


def _describe_views(views: Sequence[int]) -> str:
    if max(views) == 1:
        return ""
    if len(views) == 1:
        return f"; {views[0]} views of each training sample in turn"
    return f"; {views[0]} views of each item and {views[1]} of each text in turn"


def _use_line(record: RunRecord) -> str:
    if record.text_cache is not None:
        return f'print(model.search("a text", items={record.cache.path!r}))'
    example = record.cache.example
    return f"print(model.predict({[example if len(example) > 1 else example[0]]!r}))"


def _trial_table(report: FitReport) -> list[str]:
    names = list(report.metrics)
    rows = [
        f"| learning rate | best epoch | {' | '.join(names)} | |",
        f"| ---: | ---: | {' | '.join('---:' for _ in names)} | --- |",
    ]
    for trial in report.trials:
        values = [_number(trial.metrics.get(name, math.nan)) for name in names]
        note = trial.stopped or ("kept" if trial.learning_rate == report.learning_rate else "")
        rows.append(
            f"| {trial.learning_rate:g} | {trial.best_epoch or '-'} | {' | '.join(values)} | "
            f"{note} |"
        )
    return rows


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
