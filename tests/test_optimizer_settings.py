"""The optimizer and schedule settings of the paper's recipes, in real runs."""

from __future__ import annotations

import pytest
import torch
from training_caches import (
    assert_same_weights,
    config_of,
    label_cache,
    logged,
    settings,
    weights_of,
)

from cache_schema import FeatureCache
from trainer import ConfigError, ScheduleConfig, fit
from trainer.schedule import rate_factor


def last_trial(run) -> dict:
    newest = max((run / "checkpoints").glob("step-*.pt"))
    return torch.load(newest, weights_only=True)["trials"][0]


def test_accumulated_batches_move_the_weights_as_one_large_batch(tmp_path) -> None:
    """48 samples in batches of 5 leave 3 for the last one, which must count as 3."""
    cache = label_cache(tmp_path / "cache")
    # A probe: UniPT's gate bias has no gradient but rounding errors, which Adam scales up.
    large = settings("network.name=probe", "batch_size=10", "epochs=2")
    small = settings("network.name=probe", "batch_size=5", "accumulate=2", "epochs=2")

    one = fit(large, cache, tmp_path / "large")
    two = fit(small, cache, tmp_path / "small")

    assert two.num_steps == one.num_steps == 10
    mine, theirs = weights_of(tmp_path / "small"), weights_of(tmp_path / "large")
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    losses = [
        [row["loss"] for row in logged(tmp_path / run, "train")] for run in ("large", "small")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_average_of_the_weights_is_what_is_validated_and_kept(tmp_path) -> None:
    """With one epoch, the kept weights are the average over its steps and not the last ones."""
    cache = label_cache(tmp_path / "cache")

    report = fit(settings("epochs=1", "optimizer.ema_decay=0.8"), cache, tmp_path / "run")

    state = last_trial(tmp_path / "run")
    kept = weights_of(tmp_path / "run")
    torch.testing.assert_close(kept, state["average"], rtol=0, atol=0)
    assert any(not torch.equal(kept[name], state["model"][name]) for name in kept)
    assert fit_again_metrics(tmp_path / "run", cache) == pytest.approx(report.metrics)


def fit_again_metrics(run, cache: FeatureCache) -> dict[str, float]:
    from trainer import evaluate

    return evaluate(run, cache, "validation", device="cpu", precision="float32")


def test_the_average_follows_its_decay(tmp_path) -> None:
    """After each of 6 steps: average <- 0.5 average + 0.5 weights; seen through two steps."""
    cache = label_cache(tmp_path / "cache", splits={"train": 16, "validation": 8})
    config = settings("epochs=1", "optimizer.ema_decay=0.5", "checkpoint_every_steps=1")
    fit(config, cache, tmp_path / "run")

    paths = sorted((tmp_path / "run" / "checkpoints").glob("step-*.pt"))
    first, second = (torch.load(path, weights_only=True)["trials"][0] for path in paths)

    for name, average in second["average"].items():
        expected = (first["average"][name] + second["model"][name]) / 2
        torch.testing.assert_close(average, expected)


def test_frozen_parameters_keep_their_start_and_have_no_state(tmp_path) -> None:
    cache = label_cache(tmp_path / "cache")
    fit(settings("epochs=1", "optimizer.learning_rates=[1e-12]"), cache, tmp_path / "start")
    report = fit(settings('optimizer.freeze=["head"]', "epochs=3"), cache, tmp_path / "run")

    mine, start = weights_of(tmp_path / "run"), weights_of(tmp_path / "start")

    assert report.num_parameters == sum(v.numel() for k, v in mine.items() if k[:4] != "head")
    moved = {name for name in mine if (mine[name] - start[name]).abs().max() > 1e-6}
    assert moved
    assert not any(name.startswith("head") for name in moved)


def test_a_part_with_a_tiny_rate_hardly_moves_where_the_rest_does(tmp_path) -> None:
    cache = label_cache(tmp_path / "cache")
    fit(settings("epochs=1", "optimizer.learning_rates=[1e-12]"), cache, tmp_path / "start")
    fit(settings('optimizer.lr_factors={"head": 1e-6}', "epochs=1"), cache, tmp_path / "run")

    mine, start = weights_of(tmp_path / "run"), weights_of(tmp_path / "start")

    furthest = {name: float((mine[name] - start[name]).abs().max()) for name in mine}
    assert 0 < furthest["head.weight"] < 1e-6
    assert max(furthest.values()) > 1e-2


def test_bertadam_is_the_optimizer_that_runs(tmp_path) -> None:
    """Its state has the moments of the released code, and its numbers are not AdamW's."""
    cache = label_cache(tmp_path / "cache")
    fit(settings("epochs=1"), cache, tmp_path / "adamw")
    fit(settings("epochs=1", "optimizer.algorithm=bertadam"), cache, tmp_path / "bert")

    optimizer = last_trial(tmp_path / "bert")["optimizer"]

    assert set(optimizer["state"][0]) == {"first", "second"}
    (group, *_) = optimizer["param_groups"]
    assert (tuple(group["betas"]), group["eps"], group["max_grad_norm"]) == ((0.9, 0.98), 1e-6, 1.0)
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "adamw", tmp_path / "bert")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (
            {"shape": "multi-step", "milestones": [1, 3], "warmup": 0},
            [1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01],
        ),
        (
            {"shape": "step", "every": 2, "gamma": 0.5, "warmup": 0},
            [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5],
        ),
        ({"shape": "constant", "warmup": 0.25}, [0, 0.5, 1, 1, 1, 1, 1, 1]),
        ({"shape": "linear", "warmup": 0}, [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        (
            {"shape": "bert-cosine", "warmup": 0.25},
            [0, 0.5, 0.8535534, 0.6913417, 0.5, 0.3086583, 0.1464466, 0.0380602],
        ),
    ],
    ids=lambda value: value["shape"] if isinstance(value, dict) else "",
)
def test_rates_fall_where_the_settings_say(schedule: dict, expected: list[float]) -> None:
    """Four epochs of two steps."""
    config = ScheduleConfig(**schedule)

    factors = [rate_factor(config, step, num_steps=8, epoch_steps=2) for step in range(8)]

    assert factors == pytest.approx(expected, abs=1e-7)


def test_a_logged_rate_falls_at_its_epoch(tmp_path) -> None:
    """Epochs are told apart by optimizer steps, also where batches are accumulated."""
    config = settings(
        "schedule.shape=multi-step", "schedule.milestones=[2]", "schedule.warmup=0",
        "batch_size=4", "accumulate=2", "epochs=3",
    )  # fmt: skip
    fit(config, label_cache(tmp_path / "cache"), tmp_path / "run")

    rates = {row["step"]: row["rate"] for row in logged(tmp_path / "run", "train")}

    assert rates == {step: pytest.approx(0.02 if step <= 12 else 0.002) for step in range(1, 19)}
    assert config_of(tmp_path / "run")["config"]["accumulate"] == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["schedule.shape=step"], ["schedule", "without every"]),
        (
            ["schedule.milestones=[3]"],
            ["'cosine' with milestones", "needed milestones with 'multi"],
        ),
        (["schedule.shape=multi-step", "schedule.milestones=[3,2]"], ["ascending"]),
        (["schedule.gamma=0.5"], ["gamma has no effect"]),
        (["optimizer.clip_each_norm=1"], ["clip_each_norm has no effect", "bertadam"]),
        (['optimizer.lr_factors={"head": 0}'], ["lr_factors", "above 0", "freeze"]),
        (["optimizer.ema_decay=1"], ["ema_decay", "less than 1"]),
        (["accumulate=0"], ["accumulate"]),
    ],
    ids=lambda value: value[-1],
)
def test_settings_without_effect_are_refused(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(*overrides)

    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ('optimizer.lr_factors={"heda": 0.1}', ["optimizer.lr_factors", "'heda'", "head."]),
        ('optimizer.freeze=["pooler"]', ["optimizer.freeze", "'pooler'", "network."]),
        ('optimizer.freeze=["head", "network"]', ["optimizer.freeze", "nothing to train"]),
    ],
)
def test_names_that_fit_no_parameter_are_refused_before_the_run(tmp_path, override, words) -> None:
    cache = label_cache(tmp_path / "cache")

    with pytest.raises(ConfigError) as caught:
        fit(settings(override), cache, tmp_path / "run")

    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_batch_of_an_accumulated_step_that_is_not_finite_is_named(tmp_path) -> None:
    """The bad sample is in any of the step's batches, not only in the last one."""
    from trainer import NonFiniteLossError

    def break_one(states: torch.Tensor) -> None:
        states[3, 1, 2] = float("nan")

    cache = label_cache(tmp_path / "cache", change=break_one)

    with pytest.raises(NonFiniteLossError) as caught:
        fit(settings("batch_size=4", "accumulate=12"), cache, tmp_path / "run")

    assert "hidden states of layer" in str(caught.value)
    assert "step 1 of 4" in str(caught.value)
