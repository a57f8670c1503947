"""A run that was stopped anywhere ends with the weights of a run that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from training_caches import (
    Recorder,
    assert_same_end,
    assert_same_weights,
    config_of,
    label_cache,
    logged,
    settings,
    weights_of,
)

from trainer import CheckpointMismatchError, RunFolderError, fit

# 48 samples in batches of 8: 6 steps in each of 4 epochs.
EVERY_5 = "checkpoint_every_steps=5"


class Killed(BaseException):
    """Stands for a process that ends without a chance to clean up."""


def killed_after(samples):
    def die():
        raise Killed

    return Recorder(after_samples=samples, action=die)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("dropout=0.4",),
        ("optimizer.learning_rates=[0.02,0.005]",),
        ("network.norm=batch",),
        ("precision=bfloat16",),
        ("schedule.shape=linear", "optimizer.clip_norm=null"),
        ("optimizer.ema_decay=0.9", 'optimizer.lr_factors={"head": 0.1}'),
        (
            "optimizer.algorithm=bertadam",
            "schedule.shape=bert-cosine",
            "batch_size=4",
            "accumulate=2",
            "dropout=0.4",
        ),
    ],
    ids=lambda overrides: ",".join(overrides) or "plain",
)
def test_a_killed_run_resumes_in_mid_epoch_and_ends_bit_identical(tmp_path, overrides):
    """Killed after step 17, in the third epoch; the newest checkpoint is that of step 15."""
    cache = label_cache(tmp_path / "cache")
    config = settings(EVERY_5, *overrides)
    whole = fit(config, cache, tmp_path / "whole")
    progress = Recorder()

    with pytest.raises(Killed):
        fit(config, cache, tmp_path / "killed", progress=killed_after(17 * 8))
    report = fit(config, cache, tmp_path / "killed", resume=True, progress=progress)

    assert "resuming after step 15" in progress.lines
    assert_same_end(tmp_path / "whole", tmp_path / "killed")
    assert report.trials == whole.trials
    for split in ("train", "validation"):
        assert logged(tmp_path / "killed", split) == logged(tmp_path / "whole", split)


def test_the_loss_curve_has_no_seam_where_a_run_was_resumed(tmp_path, monkeypatch):
    """A point is the mean of 8 steps here, and the run dies in the middle of them."""
    monkeypatch.setattr("trainer.loop._LOGGED_STEPS", 3)
    cache = label_cache(tmp_path / "cache")
    fit(settings(EVERY_5), cache, tmp_path / "whole")

    with pytest.raises(Killed):
        fit(settings(EVERY_5), cache, tmp_path / "run", progress=killed_after(13 * 8))
    fit(settings(EVERY_5), cache, tmp_path / "run", resume=True)

    assert [row["step"] for row in logged(tmp_path / "run", "train")] == [8, 16, 24]
    assert logged(tmp_path / "run", "train") == logged(tmp_path / "whole", "train")


def test_a_process_killed_for_real_resumes_bit_identical(tmp_path):
    """SIGKILL: no handler, no `finally`, nothing flushed."""
    cache = label_cache(tmp_path / "cache")
    fit(settings(EVERY_5), cache, tmp_path / "whole")
    script = f"""if True:
        import os, signal, sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from training_caches import Recorder, settings
        from cache_schema import FeatureCache
        from trainer import fit

        die = Recorder(after_samples=17 * 8, action=lambda: os.kill(os.getpid(), signal.SIGKILL))
        cache = FeatureCache.open({str(tmp_path / "cache")!r})
        fit(settings({EVERY_5!r}), cache, {str(tmp_path / "run")!r}, progress=die)
    """

    killed = subprocess.run([sys.executable, "-c", script], check=False)
    progress = Recorder()
    fit(settings(EVERY_5), cache, tmp_path / "run", resume=True, progress=progress)

    assert killed.returncode == -signal.SIGKILL
    assert "resuming after step 15" in progress.lines
    assert_same_end(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_stop_signal_leaves_a_checkpoint_of_the_step_that_was_under_way(tmp_path, number, error):
    """SIGTERM is what a cluster scheduler sends before it takes the machine away."""
    cache = label_cache(tmp_path / "cache")
    fit(settings(), cache, tmp_path / "whole")
    handler = signal.getsignal(number)
    progress = Recorder(after_samples=9 * 8, action=lambda: os.kill(os.getpid(), number))

    with pytest.raises(error) as caught:
        fit(settings(), cache, tmp_path / "run", progress=progress)

    assert getattr(caught.value, "code", 143) == 143
    assert (tmp_path / "run" / "checkpoints" / "step-000000009.pt").exists()
    assert signal.getsignal(number) is handler
    fit(settings(), cache, tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "whole", tmp_path / "run")


def test_a_run_stopped_between_training_and_validation_validates_first(tmp_path):
    cache = label_cache(tmp_path / "cache")
    config = settings("checkpoint_every_steps=6")
    whole = fit(config, cache, tmp_path / "whole")

    class DiesInValidation(Recorder):
        def say(self, text):
            if text.startswith("epoch 2/4"):
                raise Killed

    with pytest.raises(Killed):
        fit(config, cache, tmp_path / "run", progress=DiesInValidation())
    report = fit(config, cache, tmp_path / "run", resume=True)

    assert report.trials == whole.trials
    assert logged(tmp_path / "run", "validation") == logged(tmp_path / "whole", "validation")


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path):
    cache = label_cache(tmp_path / "cache")
    fit(settings(EVERY_5), cache, tmp_path / "whole")
    with pytest.raises(Killed):
        fit(settings(EVERY_5), cache, tmp_path / "run", progress=killed_after(16 * 8))
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    progress = Recorder()

    fit(settings(EVERY_5), cache, tmp_path / "run", resume=True, progress=progress)

    assert newest.name == "step-000000015.pt"
    assert any("step-000000015.pt: damaged checkpoint" in line for line in progress.lines)
    assert "resuming after step 12" in progress.lines
    assert_same_end(tmp_path / "whole", tmp_path / "run")


def test_what_a_crash_left_half_written_is_ignored_and_removed(tmp_path):
    cache = label_cache(tmp_path / "cache")
    with pytest.raises(Killed):
        fit(settings(EVERY_5), cache, tmp_path / "run", progress=killed_after(6 * 8))
    remnant = tmp_path / "run" / "checkpoints" / ".step-000000099.pt.123.tmp"
    remnant.write_bytes(b"half")

    report = fit(settings(EVERY_5), cache, tmp_path / "run", resume=True)

    assert report.num_steps == 24
    assert not remnant.exists()


def test_resume_with_other_settings_names_every_differing_key(tmp_path):
    cache = label_cache(tmp_path / "cache")
    with pytest.raises(Killed):
        fit(settings(EVERY_5), cache, tmp_path / "run", progress=killed_after(6 * 8))
    other = settings("batch_size=4", "network.reduction=4", "optimizer.weight_decay=0.5")

    with pytest.raises(CheckpointMismatchError) as caught:
        fit(other, cache, tmp_path / "run", resume=True)

    assert caught.value.differences == (
        "batch_size: 4 here, 8 there",
        "network.reduction: 4 here, 2 there",
        "optimizer.weight_decay: 0.5 here, 0.01 there",
    )


def test_resume_with_another_cache_names_its_fingerprint(tmp_path):
    with pytest.raises(Killed):
        fit(
            settings(EVERY_5),
            label_cache(tmp_path / "cache"),
            tmp_path / "run",
            progress=killed_after(6 * 8),
        )

    with pytest.raises(CheckpointMismatchError, match=r"cache\.fingerprint: '\w{64}' here"):
        fit(settings(), label_cache(tmp_path / "other", seed=3), tmp_path / "run", resume=True)


def test_settings_that_do_not_change_the_weights_may_differ_on_resume(tmp_path):
    cache = label_cache(tmp_path / "cache")
    fit(settings(EVERY_5), cache, tmp_path / "whole")
    with pytest.raises(Killed):
        fit(settings(EVERY_5), cache, tmp_path / "run", progress=killed_after(6 * 8))

    fit(
        settings("checkpoint_every_steps=7", "eval_batch_size=5"),
        cache,
        tmp_path / "run",
        resume=True,
    )

    assert_same_weights(tmp_path / "whole", tmp_path / "run")


def test_resuming_a_finished_run_trains_nothing_and_reports_again(tmp_path):
    cache = label_cache(tmp_path / "cache")
    first = fit(settings(), cache, tmp_path / "run")
    written = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    progress = Recorder()

    again = fit(settings(), cache, tmp_path / "run", resume=True, progress=progress)

    assert again == first
    assert progress.lines == [f"{tmp_path / 'run'}: finished already"]
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == written


def test_resume_without_a_run_starts_one_and_says_so(tmp_path):
    """A job script with --resume must work for its first start too."""
    progress = Recorder()

    report = fit(
        settings("epochs=1"),
        label_cache(tmp_path / "cache"),
        tmp_path / "run",
        resume=True,
        progress=progress,
    )

    assert report.num_steps == 6
    assert "no run to resume yet" in progress.lines[0]


def test_a_run_folder_in_use_is_refused_unless_told_what_to_do(tmp_path):
    cache = label_cache(tmp_path / "cache")
    fit(settings("epochs=1"), cache, tmp_path / "run")
    before = weights_of(tmp_path / "run")

    with pytest.raises(RunFolderError, match=r"--resume.*--overwrite"):
        fit(settings("epochs=2"), cache, tmp_path / "run")

    assert weights_of(tmp_path / "run").keys() == before.keys()
    assert config_of(tmp_path / "run")["config"]["epochs"] == 1


def test_overwrite_leaves_nothing_of_the_old_run(tmp_path):
    cache = label_cache(tmp_path / "cache")
    fit(settings("epochs=3"), cache, tmp_path / "run")
    (tmp_path / "run" / "metrics-test.json").write_text("{}")
    (tmp_path / "run" / "notes.txt").write_text("mine")

    fit(settings("epochs=1"), cache, tmp_path / "run", overwrite=True)
    fit(settings("epochs=1"), cache, tmp_path / "fresh")

    assert_same_end(tmp_path / "run", tmp_path / "fresh")
    assert len(logged(tmp_path / "run", "validation")) == 1
    assert not (tmp_path / "run" / "metrics-test.json").exists()
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_overwrite_keeps_the_old_run_if_the_new_one_cannot_start(tmp_path):
    cache = label_cache(tmp_path / "cache")
    fit(settings("epochs=1"), cache, tmp_path / "run")

    with pytest.raises(ValueError, match="'images'"):
        fit(settings('network.streams=["images"]'), cache, tmp_path / "run", overwrite=True)

    assert (tmp_path / "run" / "model.safetensors").exists()


def test_overwrite_never_touches_a_folder_that_is_not_a_run(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")

    with pytest.raises(RunFolderError, match="not a run"):
        fit(settings(), label_cache(tmp_path / "cache"), tmp_path / "photos", overwrite=True)

    assert (tmp_path / "photos" / "cat.jpg").read_text() == "cat"
