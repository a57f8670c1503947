"""Training from a cache: what is learned, what is chosen, and what is refused."""

from __future__ import annotations

import math
import shutil
import threading
import warnings

import numpy as np
import pytest
import torch
from training_caches import (
    Recorder,
    assert_same_weights,
    config_of,
    label_cache,
    logged,
    number_cache,
    settings,
    tags_cache,
    target_cache,
)

from cache_schema import FeatureCache, Ragged, TargetSpec
from trainer import (
    RegressionConfig,
    evaluate,
    fit,
)
from trainer.data import open_data
from trainer.tasks import RegressionTask
from trainer.trial import is_better


@pytest.mark.parametrize("network", ["unipt", "probe", "mlp-probe", "weighted-sum"])
def test_every_network_learns_a_label_that_one_feature_gives_away(tmp_path, network):
    cache = label_cache(tmp_path / "cache")

    report = fit(settings(f"network.name={network}", "epochs=8"), cache, tmp_path / "run")

    assert report.metrics["accuracy"] >= 0.9
    assert evaluate(tmp_path / "run", cache, "test", device="cpu")["accuracy"] >= 0.8


def test_a_number_is_learned_in_its_own_unit(tmp_path):
    """Targets around 100 with a spread of 20: without standardising nothing is learned at all."""
    config = settings("epochs=20", "network.name=probe", target="score", task="regression")

    report = fit(config, number_cache(tmp_path / "cache"), tmp_path / "run")

    assert report.primary == "mse"
    assert report.metrics["r2"] > 0.5
    assert report.metrics["spearman"] > 0.7
    assert 0 < report.metrics["mae"] < 15


def test_a_number_far_from_zero_keeps_its_digits(tmp_path):
    """Seconds since 1970 in float32 are exact to 128 s only; the errors here are below 100 s."""
    values = 1_700_000_000 + np.random.default_rng(1).normal(0, 50, 80)
    spec = TargetSpec(name="score", kind="number")
    cache = target_cache(tmp_path / "cache", spec, values, signal=(values - 1.7e9) / 25)
    config = settings("epochs=20", "network.name=probe", target="score", task="regression")

    report = fit(config, cache, tmp_path / "run")

    assert report.metrics["r2"] > 0.5
    assert 1 < report.metrics["mae"] < 40


def test_several_labels_per_sample_are_learned_each_on_its_own(tmp_path):
    config = settings("task.best_by=macro_f1", "epochs=8", target="tags")

    report = fit(config, tags_cache(tmp_path / "cache"), tmp_path / "run")

    assert {"accuracy", "macro_f1", "micro_f1"} <= report.metrics.keys()
    assert report.metrics["macro_f1"] > 0.6


def test_integers_are_classes_named_by_their_digits(tmp_path):
    stars = np.arange(80) % 3 * 2 - 1  # -1, 1, 3: a -1 is a class here and not a missing label
    spec = TargetSpec(name="stars", kind="integer")
    cache = target_cache(tmp_path / "cache", spec, stars, signal=stars * 2.0)

    fit(settings(target="stars"), cache, tmp_path / "run")

    assert config_of(tmp_path / "run")["task"]["classes"] == ["-1", "1", "3"]


def test_learning_rates_side_by_side_train_as_each_would_alone(tmp_path):
    """One stream of batches must not couple them, not even through dropout."""
    cache = label_cache(tmp_path / "cache")
    both = settings("optimizer.learning_rates=[0.02,0.0001]", "dropout=0.3")

    report = fit(both, cache, tmp_path / "both")
    fit(settings("optimizer.learning_rates=[0.02]", "dropout=0.3"), cache, tmp_path / "alone")

    assert [trial.learning_rate for trial in report.trials] == [0.02, 0.0001]
    assert report.learning_rate == 0.02
    assert_same_weights(tmp_path / "both", tmp_path / "alone")


def test_the_run_keeps_the_epoch_with_the_best_validation_metric(tmp_path):
    cache = label_cache(tmp_path / "cache")

    report = fit(settings("epochs=6"), cache, tmp_path / "run")

    accuracies = [row["accuracy"] for row in logged(tmp_path / "run", "validation")]
    assert report.metrics["accuracy"] == max(accuracies)
    assert report.best_epoch == accuracies.index(max(accuracies)) + 1
    again = evaluate(tmp_path / "run", cache, "validation", device="cpu", precision="float32")
    assert again == report.metrics


def test_metrics_do_not_depend_on_how_many_samples_are_evaluated_at_once(tmp_path):
    """16 samples in batches of 5: the last one alone must not count as much as five."""
    cache = label_cache(tmp_path / "cache")

    reports = [
        fit(settings(f"eval_batch_size={size}", "epochs=1"), cache, tmp_path / f"run{size}")
        for size in (5, 16)
    ]

    assert reports[0].metrics == pytest.approx(reports[1].metrics, rel=1e-5)


def test_a_metric_that_is_not_a_number_is_never_the_best():
    """A model that predicts one value for all samples has no correlation."""
    task = RegressionTask(
        config=RegressionConfig(target="score", best_by="pearson"), mean=0.0, std=1.0
    )

    assert is_better(task, {"pearson": -0.9}, {"pearson": math.nan})
    assert not is_better(task, {"pearson": math.nan}, {"pearson": -0.9})
    assert not is_better(task, {"pearson": math.nan}, {"pearson": math.nan})


def test_early_stopping_ends_after_the_asked_epochs_without_a_gain(tmp_path):
    """A learning rate of almost 0 gets no better, so it stops after the first epoch plus two."""
    config = settings("optimizer.learning_rates=[1e-12]", "early_stopping=2", "epochs=9")

    report = fit(config, label_cache(tmp_path / "cache"), tmp_path / "run")

    assert report.num_steps == 3 * 6
    assert report.trials[0].stopped == "no better accuracy for 2 epoch(s)"


def test_the_learning_rate_warms_up_and_ends_at_zero(tmp_path):
    config = settings("schedule.shape=linear", "schedule.warmup=0.5")

    fit(config, label_cache(tmp_path / "cache"), tmp_path / "run")

    rates = [row["rate"] for row in logged(tmp_path / "run", "train")]
    assert rates[0] == 0
    assert max(rates) == rates[12] == 0.02
    assert rates[-1] == pytest.approx(0.02 / 12)


def test_without_a_validation_split_a_part_of_training_is_held_out_the_same_way(tmp_path):
    cache = label_cache(tmp_path / "cache", splits={"train": 60, "test": 20})

    reports = [
        fit(settings("validation.fraction=0.25", f"seed={seed}"), cache, tmp_path / f"run{seed}")
        for seed in (1, 2)
    ]

    assert {report.validation_name for report in reports} == {"25% held out of train"}
    assert {(report.num_train, report.num_validation) for report in reports} == {(45, 15)}
    origins = [config_of(tmp_path / f"run{seed}")["origin"] for seed in (1, 2)]
    assert origins[0]["cache.train_samples"] == origins[1]["cache.train_samples"]


def test_a_label_that_only_held_out_samples_have_stays_in_training(tmp_path):
    """With ten labels seen once or twice each, a random part would take away some of them."""
    labels = np.arange(20) % 10
    labels[10:] = np.arange(10) // 5
    spec = TargetSpec(name="label", kind="category", classes=tuple("abcdefghij"))
    cache = target_cache(tmp_path / "cache", spec, labels, splits={"train": 20})

    fit(settings("validation.fraction=0.5", "epochs=1"), cache, tmp_path / "run")

    assert config_of(tmp_path / "run")["task"]["classes"] == list("abcdefghij")


@pytest.mark.parametrize("encoding", ["float16", "bfloat16", "float32"])
def test_bfloat16_products_train_from_every_encoding(tmp_path, encoding):
    cache = label_cache(tmp_path / "cache", encoding=encoding)

    report = fit(settings("precision=bfloat16", "epochs=6"), cache, tmp_path / "run")

    assert report.metrics["accuracy"] >= 0.9


def test_fit_leaves_the_callers_random_numbers_alone(tmp_path):
    cache = label_cache(tmp_path / "cache")
    torch.manual_seed(5)
    expected = torch.rand(3)

    torch.manual_seed(5)
    fit(settings("epochs=1", "dropout=0.5"), cache, tmp_path / "run")

    assert torch.equal(torch.rand(3), expected)


def test_fit_runs_in_a_thread_where_no_signal_handler_can_be_set(tmp_path):
    cache = label_cache(tmp_path / "cache")
    reports = []
    thread = threading.Thread(
        target=lambda: reports.append(fit(settings("epochs=1"), cache, tmp_path / "run"))
    )

    thread.start()
    thread.join()

    assert reports[0].num_steps == 6


def test_progress_counts_samples_and_shows_the_loss(tmp_path):
    progress = Recorder()

    fit(settings(), label_cache(tmp_path / "cache"), tmp_path / "run", progress=progress)

    assert progress.done == progress.total == 4 * 48
    assert progress.facts[-1]["loss"] < progress.facts[0]["loss"]
    assert "epoch 4/4: validation accuracy" in progress.lines[-1]


def test_samples_without_a_tag_are_allowed_where_there_may_be_several(tmp_path):
    rows = [[], [0], [1], [0, 1]] * 20
    spec = TargetSpec(name="tags", kind="categories", classes=("a", "b"))
    cache = target_cache(tmp_path / "cache", spec, Ragged.from_rows(rows, np.int64))

    assert fit(settings("epochs=1", target="tags"), cache, tmp_path / "run").num_steps == 6


def test_a_missing_list_of_tags_is_not_taken_for_an_empty_one(tmp_path):
    """Not labelled is not the same as without any label: it is left out."""
    rows = [[], [0], [1], [0, 1]] * 19 + [[0], [1], [0], [-1]]
    spec = TargetSpec(name="tags", kind="categories", classes=("a", "b"))
    cache = target_cache(tmp_path / "cache", spec, Ragged.from_rows(rows, np.int64))
    config = settings("epochs=1", "validation.split=test", target="tags")
    progress = Recorder()

    fit(config, cache, tmp_path / "run", progress=progress)
    evaluate(tmp_path / "run", cache, "test", device="cpu", progress=progress)

    said = "split 'test': 1 of 16 samples left out, because they have no 'tags'"
    assert sum(said in line for line in progress.lines) == 2


def test_a_cache_that_is_still_written_trains_on_what_is_there_when_told(tmp_path):
    cache = label_cache(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / "receipts" / "000001")
    cache = FeatureCache.open(tmp_path / "cache", allow_partial=True)

    report = fit(settings("epochs=1"), cache, tmp_path / "run")

    assert report.num_train == 28


def test_balanced_accuracy_counts_the_classes_that_samples_belong_to() -> None:
    """As scikit-learn does; one that is only predicted is no class of recall 0."""
    from sklearn.metrics import balanced_accuracy_score

    from trainer.metrics.running import BalancedAccuracy

    predicted, true = torch.tensor([0, 0, 2, 1, 1, 3, 0, 2]), torch.tensor([0, 0, 0, 1, 1, 1, 1, 0])
    metric = BalancedAccuracy(4)
    for part in (slice(0, 3), slice(3, 8)):
        metric.update(torch.nn.functional.one_hot(predicted[part], 4).float(), true[part])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of exactly these classes
        expected = balanced_accuracy_score(true, predicted)
    assert metric.compute().item() == pytest.approx(expected)


def test_metrics_of_several_labels_do_not_depend_on_the_batch(tmp_path) -> None:
    """Logits that all lie between 0 and 1 were taken for probabilities, one batch at a time."""
    cache = tags_cache(tmp_path / "cache")
    task = open_data(settings(target="tags"), cache, 1).task
    logits = torch.tensor([[0.3, 0.4], [0.6, -0.2], [-3.0, 4.0]])
    marks = (logits > 0).float()
    together, alone = task.metrics(), task.metrics()

    task.update_metrics(together, logits, {"tags": marks})
    for row in range(3):
        task.update_metrics(alone, logits[row : row + 1], {"tags": marks[row : row + 1]})

    assert together.compute() == alone.compute()
    assert together.compute()["accuracy"].item() == 1.0
