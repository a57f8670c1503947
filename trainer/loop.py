"""The training loop: several learning rates, one stream of batches.

Every number that decides what the weights become is a function of (settings, step) or is in the
checkpoint, so a run that was stopped anywhere ends with the same weights.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from cache_schema import Meter, Progress, StopSignals, StreamSpec

from .checkpoint import Checkpoint, save_checkpoint
from .config import FitConfig
from .data import FitData
from .diagnosis import find_cause
from .errors import NonFiniteLossError
from .evaluation import measure
from .loader import BatchLoader
from .log import RunLog
from .order import batch_bounds, draw_views, epoch_order, num_batches, rank_part, step_seed
from .processes import agree_on_cause, any_process, on_main
from .run_folder import RunFolder
from .schedule import rate_factor
from .sources import Batch
from .tasks import Moment
from .trial import Trial

_LOGGED_STEPS = 200  # points of the loss curve; each reads one value from the device
_STEPS_PER_LOOK = 16  # between looks at signals and gradients, where looking means waiting


class TrainingLoop:
    """Trains, validates and saves.

    Attributes:
        step: Optimizer steps done.
        epochs_done: Epochs that are trained and validated.
        seconds: Spent in `run`, also before a resume.
    """

    def __init__(
        self,
        config: FitConfig,
        data: FitData,
        trials: Sequence[Trial],
        loader: BatchLoader,
        accelerator: Accelerator,
        *,
        folder: RunFolder,
        origin: dict[str, Any],
        streams: Sequence[Sequence[StreamSpec]],
        progress: Progress,
    ) -> None:
        self.step = 0
        self.epochs_done = 0
        self.seconds = 0.0
        self._config = config
        self._data = data
        self._trials = trials
        self._loader = loader
        self._accelerator = accelerator
        self._rank: int = accelerator.process_index
        self._world_size: int = accelerator.num_processes
        self._folder = folder
        self._origin = origin
        self._streams = streams
        self._progress = progress
        self._log = RunLog(folder, accelerator, data.task, progress)
        self._stop = StopSignals(signal.SIGINT, signal.SIGTERM)
        self._epoch_samples = len(data.train) // self._world_size
        self._epoch_batches = num_batches(self._epoch_samples, config.batch_size)
        self._epoch_steps = num_batches(self._epoch_batches, config.accumulate)
        self._num_steps = self._epoch_steps * config.epochs
        waits = accelerator.device.type != "cpu" or self._world_size > 1
        self._look_every = _STEPS_PER_LOOK if waits else 1

    @property
    def num_samples(self) -> int:
        """Training samples that all processes have read."""
        epochs, steps = divmod(self.step, self._epoch_steps)
        own = epochs * self._epoch_samples + steps * self._step_samples
        return int(min(own, (epochs + 1) * self._epoch_samples) * self._world_size)

    @property
    def _step_samples(self) -> int:
        """Samples of one step on this process, but for the last step of an epoch."""
        return self._config.batch_size * self._config.accumulate

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where a checkpoint was saved."""
        self.step = checkpoint.step
        self.epochs_done = checkpoint.epochs_done
        self.seconds = checkpoint.seconds
        for trial, state in zip(self._trials, checkpoint.trials, strict=True):
            trial.load_state_dict(state)

    def run(self) -> None:
        """Train until the last epoch, or until every learning rate has stopped.

        Raises:
            NonFiniteLossError: Names the step and what was not finite.
            KeyboardInterrupt: After Ctrl-C; a checkpoint was saved.
        """
        total = self._epoch_samples * self._world_size * self._config.epochs
        self._log.open(self.step, self.epochs_done)
        self._started = time.monotonic() - self.seconds
        try:
            with (
                self._stop,
                self._progress.meter("training", total, "samples", self.num_samples) as meter,
            ):
                while self.epochs_done < self._config.epochs and self._active():
                    self._train_epoch(meter)
                    self._validate()
                    self.epochs_done += 1
                    self._save()
        finally:
            self._log.close()

    def _train_epoch(self, meter: Meter) -> None:
        config = self._config
        first = (self.step - self.epochs_done * self._epoch_steps) * config.accumulate
        for trial in self._active():
            trial.module.train()
        samples = self._samples_of_epoch()
        with self._loader.batches(samples, config.batch_size, first_batch=first) as batches:
            for number, batch in enumerate(batches, first):
                ends_step = self._train_batch(batch, number)
                meter.advance(batch.num_samples * self._world_size, **self._log.facts)
                if not ends_step:
                    continue
                self._stop_if_asked()
                if config.checkpoint_every_steps and self.step % config.checkpoint_every_steps == 0:
                    self._save()

    def _train_batch(self, batch: Batch, number: int) -> bool:
        """Gradients of an epoch's batch; an update of every learning rate if it ends a step."""
        config, moment = self._config, self._moment(self.step)
        start = number // config.accumulate * self._step_samples
        share = batch.num_samples / min(self._step_samples, self._epoch_samples - start)
        ends_epoch = number + 1 == self._epoch_batches
        ends_step = ends_epoch or (number + 1) % config.accumulate == 0
        draw = self.epochs_done * self._epoch_batches + number
        seed = step_seed(config.seed, draw, self._rank, self._world_size)
        for trial in self._active():
            torch.manual_seed(seed)
            trial.backward(batch, self._data.task, moment, share=share, ends_step=ends_step)
        if ends_step:
            self._update(batch, ends_epoch=ends_epoch)
        return ends_step

    def _update(self, batch: Batch, *, ends_epoch: bool) -> None:
        """One update of every learning rate; `batch` is the step's last one."""
        config = self._config
        factor = rate_factor(config.schedule, self.step, self._num_steps, self._epoch_steps)
        for trial in self._active():
            if ends_epoch or (self.step + 1) % self._look_every == 0:
                self._stop_if_not_finite(trial, batch)
            if trial.stopped is None:
                trial.update(factor)
        self.step += 1
        if self.step % max(1, self._num_steps // _LOGGED_STEPS) == 0:
            self._log.training(self.step, self.epochs_done + 1, self._active(), factor)

    def _stop_if_not_finite(self, trial: Trial, batch: Batch) -> None:
        """Stop a learning rate whose gradients are not finite; the run, if it was the last."""
        steps_ago = trial.first_bad_step()
        if steps_ago is None:
            return
        step = self.step - steps_ago
        again = [batch] if not steps_ago and self._config.accumulate == 1 else self._reload(step)
        task, moment = self._data.task, self._moment(step)
        # Of several batches the one that is not finite on its own, or else the last.
        for batch in again:
            cause = find_cause(trial.module, task, batch, self._streams, moment)
            if cause.is_local:
                break
        cause = agree_on_cause(self._accelerator, cause)
        trial.stopped = f"loss not finite in step {step + 1}"
        where = f"step {step + 1} of {self._num_steps}, learning rate {trial.learning_rate:g}"
        message = f"{where}: the loss is not finite: {cause.text}"
        if cause.is_input or not self._active():
            raise NonFiniteLossError(message)
        self._progress.say(f"{message} The other learning rates go on.")

    def _reload(self, step: int) -> Iterator[Batch]:
        """The batches of a step of this epoch, once more."""
        start = step % self._epoch_steps * self._step_samples
        samples = self._samples_of_epoch()[start : start + self._step_samples]
        for first, last in batch_bounds(len(samples), self._config.batch_size):
            yield self._loader.load(samples[first:last])

    def _validate(self) -> None:
        config, data, trials = self._config, self._data, self._active()
        part = rank_part(len(data.validation), rank=self._rank, world_size=self._world_size)
        with self._loader.batches(data.validation[part], config.eval_batch_size) as batches:
            results = measure(
                [trial.evaluated() for trial in trials],
                data.task,
                batches,
                self._accelerator.device,
                on_batch=lambda _: self._stop_if_asked(in_step=False),
            )
        epoch = self.epochs_done + 1
        by_rate = {trial.learning_rate: m for trial, m in zip(trials, results, strict=True)}
        self._log.validation(self.step, epoch, config.epochs, by_rate)
        for trial, metrics in zip(trials, results, strict=True):
            trial.finish_epoch(epoch, metrics, data.task, config.early_stopping)

    def _stop_if_asked(self, *, in_step: bool = True) -> None:
        """After Ctrl-C or SIGTERM: save, then stop."""
        asked = self._stop.is_requested
        if self._world_size > 1:
            # All stop at the same step; validation batches are not equally many everywhere.
            if not in_step or self.step % _STEPS_PER_LOOK:
                return
            asked = any_process(self._accelerator, asked)
        if asked:
            self._save()
            self._stop.act()

    def _save(self) -> None:
        self.seconds = time.monotonic() - self._started
        checkpoint = Checkpoint(
            step=self.step,
            epochs_done=self.epochs_done,
            seconds=self.seconds,
            origin=self._origin,
            trials=[trial.state_dict() for trial in self._trials],
        )
        on_main(self._accelerator, lambda: save_checkpoint(self._folder.checkpoints, checkpoint))

    def _moment(self, step: int) -> Moment:
        return Moment(self.epochs_done, step % self._epoch_steps, self._epoch_steps)

    def _active(self) -> list[Trial]:
        return [trial for trial in self._trials if trial.stopped is None]

    def _samples_of_epoch(self) -> np.ndarray:
        order = epoch_order(
            len(self._data.train),
            seed=self._config.seed,
            epoch=self.epochs_done,
            rank=self._rank,
            world_size=self._world_size,
        )
        return draw_views(
            self._data.train[order],
            self._data.views,
            seed=self._config.seed,
            epoch=self.epochs_done,
        )
