"""A finished run on new samples: cached or online, with strict loading and named refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from training_caches import (
    label_cache,
    number_cache,
    settings,
    tags_cache,
    target_cache,
)

from cache_schema import (
    FeatureBatch,
    FeatureCache,
    FingerprintMismatchError,
    RowLayout,
    StreamBatch,
    TargetSpec,
)
from trainer import (
    RunFolderError,
    RunNotFoundError,
    TargetError,
    evaluate,
    fit,
    load_run,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A cache of labels and a run on it."""
    folder = tmp_path_factory.mktemp("trained")
    cache = label_cache(folder / "cache")
    fit(settings("epochs=6"), cache, folder / "run")
    return cache, folder / "run"


def predict_all(run, batches):
    """All columns of all batches."""
    columns: dict[str, list[object]] = {}
    for predictions in run.predict(batches):
        for name, values in predictions.columns.items():
            columns.setdefault(name, []).extend(values)
    return columns


def test_each_sample_gets_a_label_a_score_and_all_probabilities(trained):
    cache, run_dir = trained
    run = load_run(run_dir, device="cpu", precision="float32")

    columns = predict_all(run, [cache.gather(np.arange(64, 80))])

    assert run.task.classes == ("neg", "pos")
    right = [label == ("neg", "pos")[i % 2] for i, label in enumerate(columns["label"])]
    assert np.mean(right) == evaluate(run_dir, cache, "test", device="cpu")["accuracy"]
    for label, score, row in zip(*columns.values(), strict=True):
        assert sum(row) == pytest.approx(1)
        assert score == max(row) == row[run.task.classes.index(label)]


def test_a_batch_made_online_gives_what_the_cache_gives(trained):
    """Whatever made the batch, and whatever lies beside a sample in it, is of no account."""
    cache, run_dir = trained
    run = load_run(run_dir, device="cpu", precision="float32")
    samples = [70, 3, 41]
    stored = cache.gather(samples).streams["tokens"]
    rows = stored.layout.lengths.tolist()

    together = run.forward(cache.gather(samples))
    alone = [
        run.forward(
            FeatureBatch(
                {"tokens": StreamBatch(part, RowLayout.from_lengths([len(part)]))},
                torch.tensor([0]),
            )
        )
        for part in stored.values.split(rows)
    ]

    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-5, atol=1e-6)


def test_several_labels_above_one_half_are_listed_with_their_scores(tmp_path):
    cache = tags_cache(tmp_path / "cache")
    fit(settings("epochs=6", target="tags"), cache, tmp_path / "run")
    run = load_run(tmp_path / "run", device="cpu")

    columns = predict_all(run, [cache.gather(np.arange(20)), cache.gather([30, 31])])

    assert len(columns["label"]) == 22
    for labels, scores, row in zip(*columns.values(), strict=True):
        assert labels == [n for n, p in zip(run.task.classes, row, strict=True) if p > 0.5]
        assert scores == [p for p in row if p > 0.5]


def test_a_number_is_predicted_in_the_unit_of_the_target(tmp_path):
    cache = number_cache(tmp_path / "cache")
    config = settings("epochs=20", "network.name=probe", target="score", task="regression")
    fit(config, cache, tmp_path / "run")
    run = load_run(tmp_path / "run", device="cpu", precision="float32")

    values = predict_all(run, [cache.gather(cache.split("test"))])["value"]

    wanted = cache.target("score").values[64:]
    mse = float(np.mean((np.array(values) - wanted) ** 2))
    metrics = evaluate(tmp_path / "run", cache, "test", device="cpu", precision="float32")
    assert metrics["mse"] == pytest.approx(mse, rel=1e-4)
    assert mse < wanted.var()


def test_evaluate_writes_its_metrics_into_the_run_folder(trained):
    cache, run_dir = trained

    metrics = evaluate(run_dir, cache, "test", device="cpu")

    written = json.loads((run_dir / "metrics-test.json").read_text())
    assert written["metrics"] == metrics
    assert written["num_samples"] == 16
    assert written["fingerprint"] == cache.fingerprint


def test_evaluate_refuses_hidden_states_of_another_backbone_by_field(trained, tmp_path):
    run_dir = trained[1]
    label_cache(tmp_path / "cache")
    other = FeatureCache.open(tmp_path / "cache")
    features = other.manifest.identity.features | {"weights": "v", "max_length": 9}
    identity = other.manifest.identity.model_copy(update={"features": features})
    other.manifest = other.manifest.model_copy(update={"identity": identity})

    with pytest.raises(FingerprintMismatchError) as caught:
        evaluate(run_dir, other, "test", device="cpu")

    assert caught.value.differences == (
        "max_length: None in the run, 9 here",
        "weights: 'w' in the run, 'v' here",
    )
    assert f"Use what {run_dir} was trained with, or train again" in str(caught.value)


def test_other_data_of_the_same_backbone_is_evaluated_by_class_name(trained, tmp_path):
    """A new cache may number its labels otherwise; reading codes would swap all of them."""
    cache, run_dir = trained
    labels = np.arange(80) % 2
    spec = TargetSpec(name="label", kind="category", classes=("pos", "neg"))
    swapped = target_cache(tmp_path / "cache", spec, 1 - labels, signal=labels * 4.0 - 2)

    metrics = evaluate(run_dir, swapped, "test", device="cpu", precision="float32")

    assert metrics == evaluate(run_dir, cache, "test", device="cpu", precision="float32")


def test_evaluate_names_a_label_that_the_run_does_not_know(trained, tmp_path):
    spec = TargetSpec(name="label", kind="category", classes=("neg", "meh"))
    other = target_cache(tmp_path / "cache", spec, np.arange(80) % 2)

    with pytest.raises(TargetError, match=r"'meh' is not among the classes .*'pos'"):
        evaluate(trained[1], other, "test", device="cpu")


def test_loading_is_strict_about_every_weight(trained, tmp_path):
    """A weight that is silently left out would predict nonsense with confidence."""
    _, run_dir = trained
    weights = load_file(run_dir / "model.safetensors")
    cases = {
        "missing": {k: v for k, v in weights.items() if k != "head.bias"},
        "extra": weights | {"head.scale": torch.ones(1)},
        "shape": weights | {"head.bias": torch.ones(3)},
    }
    for name, changed in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_bytes((run_dir / "config.json").read_bytes())
        save_file(changed, folder / "model.safetensors")

        with pytest.raises(RunFolderError, match=r"does not fit.*head\.(bias|scale)"):
            load_run(folder, device="cpu")


def test_what_is_not_a_finished_run_is_named(trained, tmp_path):
    _, run_dir = trained
    with pytest.raises(RunNotFoundError, match="no run here"):
        load_run(tmp_path / "nothing", device="cpu")

    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_bytes((run_dir / "config.json").read_bytes())
    with pytest.raises(RunFolderError, match=r"training has not ended.*--resume"):
        load_run(tmp_path / "begun", device="cpu")

    (tmp_path / "begun" / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
    with pytest.raises(RunFolderError, match=r"model\.safetensors: damaged"):
        load_run(tmp_path / "begun", device="cpu")

    (tmp_path / "begun" / "config.json").write_text('{"format_version": 1}')
    with pytest.raises(RunFolderError, match=r"config\.json: \w+"):
        load_run(tmp_path / "begun", device="cpu")
