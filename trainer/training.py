"""Train from a cache: set up, run the loop, write the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from cache_schema import Progress, SilentProgress, keep_freed_memory

from .checkpoint import load_newest
from .config import FitConfig
from .data import FitData, open_data
from .device import keep_few_kernels, resolve_device, resolve_precision
from .durable import write_text_durably
from .loader import BatchLoader
from .loop import TrainingLoop
from .model import build_model, num_parameters
from .processes import make_accelerators, on_main
from .record import RunRecord
from .report import FitReport, TrialReport, draw_curves, model_card
from .run_folder import RunFolder, check_origin
from .sources import Caches
from .tasks import Task
from .trial import BestEpoch, Trial, is_better


def fit(
    config: FitConfig,
    cache: Caches,
    run_dir: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> FitReport:
    """Train a side network from a cache.

    Started by `accelerate launch` or `torchrun`, all processes call it alike, and the main one
    writes.

    Args:
        config: All settings.
        cache: Opened; it is only read. For a task that reads pairs, that of the items and that of
            the texts.
        run_dir: Folder for the weights, metrics and checkpoints.
        resume: Go on from the newest checkpoint there; start if there is none.
        overwrite: Replace the run that lies there.
        progress: Where to report to; nobody by default.

    Raises:
        UserError: A setting, the cache's targets or the folder do not allow this run.
        NonFiniteLossError: Names the step and the layer.
        KeyboardInterrupt: After Ctrl-C; `resume=True` goes on from that step.
    """
    folder = RunFolder(run_dir)
    device = resolve_device(config.device)
    dtype = resolve_precision(config.precision, device)
    rates = config.optimizer.learning_rates
    accelerators = make_accelerators(len(rates), device, dtype, folder.path)
    main = accelerators[0]
    if device.type == "cpu":
        keep_freed_memory()
        keep_few_kernels()
    progress = (main.is_main_process and progress) or SilentProgress()

    data = open_data(config, cache, main.num_processes)
    streams = [side.manifest.streams for side in data.source.sides]
    models = [build_model(config, data.task, streams) for _ in rates]
    for model in models:
        data.task.start(model)
    trials = [
        Trial(rate, accelerator, model, config.optimizer)
        for rate, accelerator, model in zip(rates, accelerators, models, strict=True)
    ]
    record = RunRecord.of(config, data, dtype=dtype, world_size=main.num_processes)
    loop = TrainingLoop(
        config,
        data,
        trials,
        BatchLoader(data.source, data.read_targets, device=main.device, dtype=dtype),
        main,
        folder=folder,
        origin=record.origin,
        streams=streams,
        progress=progress,
    )
    try:
        on_main(
            main, lambda: folder.claim(record, resume=resume, overwrite=overwrite, say=progress.say)
        )
        if folder.is_finished:
            progress.say(f"{folder.path}: finished already")
            return FitReport.model_validate_json(folder.report.read_text())
        return _train(loop, data, trials, main, folder, record, progress)
    finally:
        folder.release()


def _train(
    loop: TrainingLoop,
    data: FitData,
    trials: Sequence[Trial],
    main: Accelerator,
    folder: RunFolder,
    record: RunRecord,
    progress: Progress,
) -> FitReport:
    """From the newest checkpoint of a claimed folder, or the start, to the outcome."""
    for note in data.notes:
        progress.say(note)
    checkpoint = load_newest(folder.checkpoints, progress.say)
    if checkpoint is not None:
        check_origin(folder.checkpoints, checkpoint.origin, record.origin)
        loop.restore(checkpoint)
        progress.say(f"resuming after step {checkpoint.step}")
    # Seeding each step must not touch the caller's random numbers.
    with torch.random.fork_rng([main.device] if main.device.type == "cuda" else []):
        loop.run()
    report, best = _report(folder, data, trials, loop)
    on_main(main, lambda: _write_outcome(folder, record, report, best))
    return report


def _report(
    folder: RunFolder, data: FitData, trials: Sequence[Trial], loop: TrainingLoop
) -> tuple[FitReport, BestEpoch]:
    """What the run came to, and the epoch whose weights it keeps."""
    winner, best = _winner(trials, data.task)
    report = FitReport(
        run_dir=str(folder.path),
        learning_rate=winner.learning_rate,
        best_epoch=best.epoch,
        primary=data.task.primary,
        metrics=best.metrics,
        trials=tuple(_trial_report(trial) for trial in trials),
        num_parameters=num_parameters(winner.module),
        num_steps=loop.step,
        num_train=len(data.train),
        views=data.views,
        num_validation=len(data.validation),
        validation_name=data.validation_name,
        seconds=loop.seconds,
        samples_per_s=loop.num_samples / loop.seconds,
    )
    return report, best


def _winner(trials: Sequence[Trial], task: Task) -> tuple[Trial, BestEpoch]:
    """The trial whose best epoch is best; the first of equals."""
    winner: tuple[Trial, BestEpoch] | None = None
    for trial in trials:
        if trial.best is not None and (
            winner is None or is_better(task, trial.best.metrics, winner[1].metrics)
        ):
            winner = trial, trial.best
    assert winner is not None, "a loop that ends without an error has validated an epoch"
    return winner


def _trial_report(trial: Trial) -> TrialReport:
    return TrialReport(
        learning_rate=trial.learning_rate,
        best_epoch=None if trial.best is None else trial.best.epoch,
        metrics={} if trial.best is None else trial.best.metrics,
        stopped=trial.stopped,
    )


def _write_outcome(
    folder: RunFolder, record: RunRecord, report: FitReport, best: BestEpoch
) -> None:
    rows = folder.read_metrics()
    draw_curves(folder.curves, rows, report.primary, report.validation_name)
    write_text_durably(folder.card, model_card(record, report))
    write_text_durably(folder.report, report.model_dump_json(indent=2) + "\n")
    # Last: a run folder with weights is a finished run.
    folder.write_weights(
        best.weights,
        {
            "format": "pt",
            "unipt_version": record.unipt_version,
            "features_fingerprint": record.cache.identity.features_fingerprint,
        },
    )
