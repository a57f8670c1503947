"""What cannot be trained is refused by name, and what goes wrong on the way is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_caches import (
    Recorder,
    assert_same_weights,
    label_cache,
    number_cache,
    settings,
    tags_cache,
    target_cache,
)

from cache_schema import CacheError, Ragged, TargetSpec
from trainer import (
    ConfigError,
    IncompatibleNetworkError,
    NonFiniteLossError,
    TargetError,
    evaluate,
    fit,
)
from trainer.run_folder import RunFolder


def with_label_only_in_test(tmp_path):
    labels = np.arange(80) % 2
    labels[64:67] = 2
    spec = TargetSpec(name="label", kind="category", classes=("neg", "pos", "odd"))
    return target_cache(tmp_path / "cache", spec, labels)


def with_missing_label(tmp_path):
    labels = np.arange(80) % 2
    labels[[3, 50]] = -1
    spec = TargetSpec(name="label", kind="category", classes=("neg", "pos"))
    return target_cache(tmp_path / "cache", spec, labels)


def without_any_label(tmp_path):
    spec = TargetSpec(name="label", kind="category", classes=("neg", "pos"))
    labels = np.where(np.arange(80) < 48, -1, np.arange(80) % 2)
    return target_cache(tmp_path / "cache", spec, labels)


def with_one_class(tmp_path):
    spec = TargetSpec(name="label", kind="category", classes=("neg", "pos"))
    return target_cache(tmp_path / "cache", spec, np.zeros(80, np.int64))


def with_numbers(tmp_path, value):
    cache = number_cache(tmp_path / "other")
    values = cache.target("score").values.copy()
    values[[7, 20]] = value
    return target_cache(tmp_path / "cache", TargetSpec(name="score", kind="number"), values)


def with_nan(tmp_path):
    return with_numbers(tmp_path, np.nan)


def with_infinity(tmp_path):
    return with_numbers(tmp_path, np.inf)


def with_equal_numbers(tmp_path):
    return target_cache(
        tmp_path / "cache", TargetSpec(name="score", kind="number"), np.full(80, 3.0)
    )


def with_tags(tmp_path):
    return tags_cache(tmp_path / "cache")


NO_VALIDATION = {"train": 40, "test": 40}


def with_unlike_labels(tmp_path):
    names = tuple(f"x{at}" for at in range(80))
    spec = TargetSpec(name="label", kind="category", classes=names)
    return target_cache(tmp_path / "cache", spec, np.arange(80), splits=NO_VALIDATION)


def with_ten_rows(tmp_path):
    return label_cache(tmp_path / "cache", splits={"train": 10, "test": 10})


def with_three_rows(tmp_path):
    return label_cache(tmp_path / "cache", splits={"train": 3, "test": 10})


def with_listed_numbers(tmp_path):
    spec = TargetSpec(name="tags", kind="numbers")
    rows = Ragged.from_rows([[0.5, 2.0]] * 80, np.float64)
    return target_cache(tmp_path / "cache", spec, rows)


REGRESSION = {"task": "regression", "target": "score"}


@pytest.mark.parametrize(
    ("make", "overrides", "task", "error", "words"),
    [
        (without_any_label, [], {}, TargetError, ["none of the 48 samples of split 'train' has"]),
        (with_one_class, [], {}, TargetError, ["found 1 class", "'neg'", "at least 2"]),
        (with_infinity, [], REGRESSION, TargetError, ["samples 7 and 20", "finite number"]),
        (with_equal_numbers, [], REGRESSION, TargetError, ["48 training samples hold 3"]),
        (with_nan, [], {"target": "score"}, TargetError, ["'number'", "--task regression"]),
        (with_one_class, [], {"target": "mood"}, CacheError, ["'mood'", "'label'"]),
        (with_one_class, ["train_split=dev"], {}, CacheError, ["'dev'", "'train'"]),
        (with_one_class, ["validation.split=train"], {}, ConfigError, ["validation.split"]),
        (with_one_class, ["precision=float16"], {}, ConfigError, ["float16 needs a GPU"]),
        (with_label_only_in_test, ["validation.split=test"], {}, TargetError, ["'odd'"]),
        (with_tags, ["task.label_smoothing=0.1"], {"target": "tags"}, TargetError,
         ["task.label_smoothing", "several labels"]),
        (with_unlike_labels, [], {}, ConfigError,
         ["'10% held out of train'", "Samples 1", "stayed in training", "no other has", "'x"]),
        (with_unlike_labels, [], {"task": "token-classification"}, TargetError, ["'category'"]),
        (with_ten_rows, [], {}, ConfigError, ["has 1 sample", "--set validation.fraction=0.2"]),
        (with_ten_rows, ["validation.fraction=0.001"], {}, ConfigError, ["'0.1% held out"]),
        (with_three_rows, [], {}, ConfigError, ["has 1 sample", "Extract more"]),
        (with_listed_numbers, [], {"target": "tags"}, TargetError,
         ["'numbers'", "whole numbers, or lists of them", "choose another"]),
        (with_listed_numbers, [], {"task": "regression", "target": "tags"}, TargetError,
         ["'numbers'", "one number for each sample"]),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_by_name(tmp_path, make, overrides, task, error, words):
    """Nothing is written: the folder is free for the next try."""
    cache = make(tmp_path)

    with pytest.raises(error) as caught:
        fit(settings(*overrides, **task), cache, tmp_path / "run")

    assert [word for word in words if word not in str(caught.value)] == []
    assert not (tmp_path / "run").exists()


def test_a_network_that_does_not_fit_the_streams_is_refused(tmp_path):
    cache = label_cache(tmp_path / "cache")

    with pytest.raises(IncompatibleNetworkError, match=r"'images'.*'tokens'"):
        fit(settings('network.streams=["images"]'), cache, tmp_path / "run")


def test_non_finite_hidden_states_are_named_by_step_layer_and_sample(tmp_path):
    def spoil(states):
        states[0, 1, 3] = torch.nan  # the first token of sample 0, layer 1

    cache = label_cache(tmp_path / "cache", change=spoil)

    with pytest.raises(NonFiniteLossError) as caught:
        fit(settings("checkpoint_every_steps=1"), cache, tmp_path / "run")

    message = str(caught.value)
    step = int(message.split()[1])
    assert f"step {step} of 24" in message
    assert "layer 1 (layer.1) in stream 'tokens'" in message
    assert "first in sample 0" in message
    saved = sorted((tmp_path / "run" / "checkpoints").glob("step-*.pt"))
    assert [path.name for path in saved[-1:]] == [f"step-{step - 1:09d}.pt"] * (step > 1)


def test_a_learning_rate_that_explodes_names_the_module(tmp_path):
    cache = label_cache(tmp_path / "cache")
    config = settings("optimizer.learning_rates=[1e30]", "schedule.warmup=0")

    with pytest.raises(NonFiniteLossError, match=r"step 2 of 24, .* 1e\+30.*output of 'n.*--lr"):
        fit(config, cache, tmp_path / "run")


def test_an_exploding_learning_rate_leaves_the_others_alone(tmp_path):
    cache = label_cache(tmp_path / "cache")
    both = settings("optimizer.learning_rates=[1e30,0.02]", "schedule.warmup=0")
    progress = Recorder()

    report = fit(both, cache, tmp_path / "both", progress=progress)
    fit(settings("schedule.warmup=0"), cache, tmp_path / "alone")

    assert report.trials[0].stopped == "loss not finite in step 2"
    assert any("The other learning rates go on." in line for line in progress.lines)
    assert_same_weights(tmp_path / "both", tmp_path / "alone")


@pytest.mark.parametrize(
    ("make", "task", "left"),
    [(with_missing_label, {}, (47, 15)), (with_nan, REGRESSION, (46, 16))],
)
def test_samples_without_a_target_are_left_out_and_counted(tmp_path, make, task, left):
    """They must not stop a run, hours after they were extracted, nor vanish without a word."""
    cache, progress = make(tmp_path), Recorder()

    report = fit(settings("epochs=1", **task), cache, tmp_path / "run", progress=progress)

    record = RunFolder(tmp_path / "run").read_record()
    assert (report.num_train, record.num_validation) == left
    assert any("of 48 samples left out, because they have no" in line for line in progress.lines)


def test_a_label_of_other_splits_is_said_and_stops_nothing(tmp_path):
    """Neither training nor the choice of an epoch reads it; `evaluate` refuses it."""
    cache, progress = with_label_only_in_test(tmp_path), Recorder()

    report = fit(settings("epochs=1"), cache, tmp_path / "run", progress=progress)

    assert report.num_train == 48
    assert any("'odd' (3 in 'test')" in line for line in progress.lines)
    with pytest.raises(TargetError, match="'odd' is not among the classes"):
        evaluate(tmp_path / "run", cache, "test", device="cpu")
