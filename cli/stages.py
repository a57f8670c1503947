"""The stages of one pipeline, one after the other."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import extractor
import trainer
import unipt

from .caches import open_caches
from .console import Terminal
from .extract import summary
from .pipelines import Pipeline, PredictStage
from .predict import shown
from .rows import row_writer
from .wording import duration_text, table

if TYPE_CHECKING:
    from cache_schema import FeatureCache

Metrics = dict[str, dict[str, float]]
"""Split to metric to value."""
Caches = Sequence["FeatureCache"]
"""Those that a run reads, in the task's order."""


def run_pipeline(
    pipeline: Pipeline,
    terminal: Terminal,
    *,
    extract_only: bool = False,
    local_copy: Path | None = None,
) -> None:
    """Run what is not done yet, and print what came out.

    Args:
        pipeline: What to run.
        terminal: Where to print.
        extract_only: Leave when the caches are complete.
        local_copy: Folder that keeps what was read of the caches; None for nowhere.

    Raises:
        UserError: A stage cannot run, or a run folder holds a run of other settings.
    """
    extractions = {}
    for stage, settings in pipeline.stages.items():
        extractions[stage] = extractor.extract(settings, terminal)
        terminal.say(summary(extractions[stage]))
    extracted = {stage: report.as_dict() for stage, report in extractions.items()}
    if extract_only:
        terminal.result("", {"extract": extracted})
        return
    paths = [report.cache for report in extractions.values()]
    opened = dict(zip(extractions, open_caches(paths, local_copy, terminal), strict=True))
    caches = {
        name: [opened[stage] for stage in settings.caches or opened]
        for name, settings in pipeline.fit.items()
    }
    reports = {name: _fit(pipeline, name, caches[name], terminal) for name in pipeline.fit}
    metrics = {name: _evaluate(pipeline, name, caches[name], terminal) for name in pipeline.fit}
    facts: dict[str, Any] = {
        "extract": extracted,
        "fit": {name: report.model_dump(mode="json") for name, report in reports.items()},
        "evaluate": metrics,
    }
    text = _comparison(reports, metrics)
    if pipeline.predict is not None:
        run = pipeline.predict.run
        facts["predict"], shown_below = _predict(pipeline, pipeline.predict, caches[run], terminal)
        text += f"\n\n{shown_below}"
    terminal.result(text, facts)
    _suggest(pipeline, caches, terminal)


def _predict(
    pipeline: Pipeline, stage: PredictStage, caches: Caches, terminal: Terminal
) -> tuple[Any, str]:
    """Facts, and what to show of them."""
    folder = _folder(pipeline, stage.run)
    if stage.split is None:
        found = unipt.load(folder).predict([*stage.texts])
        return found, shown([*stage.texts], found)
    out = folder / f"predictions-{stage.split}.jsonl"
    num_rows = 0
    top = stage.top if pipeline.fit[stage.run].task.name == "retrieval" else None
    with row_writer(out) as write:
        rows = unipt.predict_cached(folder, caches, stage.split, top=top, progress=terminal)
        for row in rows:
            write(row)
            num_rows += 1
    return {"out": out, "num_rows": num_rows}, f"{out}: {num_rows:,} rows"


def _suggest(pipeline: Pipeline, caches: Mapping[str, Caches], terminal: Terminal) -> None:
    """What to do with the run next."""
    best = pipeline.predict.run if pipeline.predict is not None else next(iter(pipeline.fit))
    run, sides = _folder(pipeline, best), caches[best]
    if len(sides) > 1:
        there = ("--cache", sides[0].path, "--split", sides[0].manifest.split_names[-1])
        terminal.suggest("unipt", "predict", "--run", run, *there, "a text of yours")
    else:
        terminal.suggest_prediction(run, trainer.CacheExcerpt.of(sides[0]).example)


def _folder(pipeline: Pipeline, name: str) -> Path:
    return Path(pipeline.runs) / name


def _fit(pipeline: Pipeline, name: str, caches: Caches, terminal: Terminal) -> trainer.FitReport:
    folder = _folder(pipeline, name)
    is_there = (folder / "config.json").is_file()
    if not is_there:
        terminal.say(f"{folder}: training {pipeline.fit[name].network.name}")
    try:
        config = pipeline.fit[name].config()
        return trainer.fit(config, caches, folder, resume=is_there, progress=terminal)
    except trainer.CheckpointMismatchError as error:
        raise trainer.RunFolderError(
            f"{folder}: holds a run of other settings: {'; '.join(error.differences)}. "
            f"Remove it to train again, or keep it and give other runs a place: --set runs=FOLDER."
        ) from error


def _evaluate(pipeline: Pipeline, name: str, caches: Caches, terminal: Terminal) -> Metrics:
    if pipeline.evaluate is None:
        return {}
    trained_on = pipeline.fit[name].train_split
    splits = [cache.manifest.split_names for cache in caches]
    others = [s for s in splits[0] if s != trained_on and all(s in names for names in splits)]
    return {
        split: _metrics_of(_folder(pipeline, name), caches, split, terminal)
        for split in pipeline.evaluate.splits or others
    }


def _metrics_of(folder: Path, caches: Caches, split: str, terminal: Terminal) -> dict[str, float]:
    """Those written for these weights and this cache, or else fresh ones."""
    written = folder / f"metrics-{split}.json"
    weights = folder / "model.safetensors"
    if written.is_file() and written.stat().st_mtime >= weights.stat().st_mtime:
        document = json.loads(written.read_text())
        if document["fingerprint"] == "+".join(dict.fromkeys(c.fingerprint for c in caches)):
            terminal.say(f"{written}: evaluated already")
            # JSON has no NaN (a correlation of constant predictions): null stands for it.
            return {k: math.nan if v is None else v for k, v in document["metrics"].items()}
    return trainer.evaluate(folder, caches, split, progress=terminal)


def _comparison(reports: dict[str, trainer.FitReport], metrics: dict[str, Metrics]) -> str:
    """One row per run: what it costs and what it reaches."""
    splits = list(dict.fromkeys(split for found in metrics.values() for split in found))
    rows = [
        (
            report.run_dir,
            report.num_parameters,
            duration_text(report.num_train / report.samples_per_s),
            f"{report.learning_rate:g}",
            *(_primary(metrics[name].get(split), report.primary) for split in splits),
        )
        for name, report in reports.items()
    ]
    return table(("run", "trained parameters", "per epoch", "learning rate", *splits), rows)


def _primary(found: dict[str, float] | None, name: str) -> str:
    return "-" if found is None else f"{name} {found[name]:.4f}"
