"""Training on augmented views: every epoch another one, evaluation always on rows as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from paired_caches import ITEMS, Pair, paired_caches, retrieval_settings
from small_caches import make_manifest, states_of, write_cache
from training_caches import Recorder, assert_same_end, settings

from cache_schema import FeatureCache, SplitSpec, TargetSpec
from trainer import FitConfig, evaluate, fit
from trainer.loader import BatchLoader

NUM_ROWS, VIEWS = 40, 3


def cache_with_views(path: Path, num_views: int = VIEWS, validation: int = 10) -> FeatureCache:
    """Two classes told apart by feature 0; the sign of feature 1 says whether it is a view."""
    counts = np.concatenate([np.full(NUM_ROWS, num_views), np.ones(validation, np.int64)])
    rows = np.repeat(np.arange(len(counts)), counts)
    view = np.concatenate([np.arange(count) for count in counts])
    lengths = np.full(len(rows), 2)
    stop = NUM_ROWS * num_views
    splits = [SplitSpec(name="train", start=0, stop=stop, views=num_views)]
    if validation:
        splits.append(SplitSpec(name="validation", start=stop, stop=len(rows)))
    spec = TargetSpec(name="label", kind="category", classes=("neg", "pos"))
    manifest = make_manifest(lengths, samples_per_shard=30, targets=(spec,), splits=tuple(splits))
    states = states_of(lengths, 3, 8)
    token_rows, token_views = np.repeat(rows, 2), np.repeat(view, 2)
    for token in range(len(states)):
        states[token, :, 0] += float(token_rows[token] % 2 * 4 - 2)
        states[token, :, 1] = float(token_views[token])
    write_cache(path, manifest, states, lengths, {"label": rows % 2})
    return FeatureCache.open(path)


class Reads:
    """Which samples the loader was asked for, one array per call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[np.ndarray] = []
        batches = BatchLoader.batches

        def watched(loader, samples, batch_size, **options):
            self.calls.append(samples)
            return batches(loader, samples, batch_size, **options)

        monkeypatch.setattr(BatchLoader, "batches", watched)


def test_each_epoch_reads_one_view_of_each_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And as many epochs as views read all; validation reads what is not augmented."""
    cache = cache_with_views(tmp_path / "cache")
    reads = Reads(monkeypatch)

    report = fit(settings(f"epochs={VIEWS}"), cache, tmp_path / "run")

    epochs, validations = reads.calls[::2], reads.calls[1::2]
    for samples in epochs:
        assert sorted(samples // VIEWS) == list(range(NUM_ROWS))
    assert sorted(np.concatenate(epochs)) == list(range(NUM_ROWS * VIEWS))
    for samples in validations:
        assert samples.tolist() == list(range(NUM_ROWS * VIEWS, NUM_ROWS * VIEWS + 10))
    assert report.views == (VIEWS,)
    assert report.num_train == NUM_ROWS
    assert "3 views of each training sample" in (tmp_path / "run" / "README.md").read_text()


def test_no_view_of_a_held_out_row_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crop of a validation image in training would make its score a memory test."""
    cache = cache_with_views(tmp_path / "cache", validation=0)
    reads = Reads(monkeypatch)

    fit(settings("epochs=6", "validation.fraction=0.2"), cache, tmp_path / "run")

    trained = set(np.concatenate(reads.calls[::2]) // VIEWS)
    held_out = reads.calls[1]
    assert (held_out % VIEWS == 0).all()
    assert len(held_out) == 8
    assert trained.isdisjoint(held_out // VIEWS)
    assert len(trained) == NUM_ROWS - 8


def test_training_on_views_resumes_where_it_was(tmp_path: Path) -> None:
    """The views after the stop are those of a run that was never stopped, bit for bit."""
    cache = cache_with_views(tmp_path / "cache")
    chosen = settings("epochs=4", "checkpoint_every_steps=2", "dropout=0.2")

    def stop() -> None:
        raise KeyboardInterrupt

    recorder = Recorder(after_samples=72, action=stop)
    with pytest.raises(KeyboardInterrupt):
        fit(chosen, cache, tmp_path / "stopped", progress=recorder)
    fit(chosen, cache, tmp_path / "stopped", resume=True)
    fit(chosen, cache, tmp_path / "whole")

    assert_same_end(tmp_path / "stopped", tmp_path / "whole")


def test_an_evaluation_of_the_training_split_reads_rows_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is evaluated is never augmented."""
    cache = cache_with_views(tmp_path / "cache")
    fit(settings("epochs=1"), cache, tmp_path / "run")
    reads = Reads(monkeypatch)

    evaluate(tmp_path / "run", cache, "train", device="cpu")

    assert reads.calls[0].tolist() == list(range(0, NUM_ROWS * VIEWS, VIEWS))


def test_both_sides_of_pairs_have_their_own_views(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every text of an item sees the same view of it, so it is still read once."""
    pair: Pair = paired_caches(tmp_path, views=2)
    reads = Reads(monkeypatch)
    config: FitConfig = retrieval_settings("epochs=2")

    report = fit(config, pair.both, tmp_path / "run")

    assert report.views == (2, 1)
    first, second = reads.calls[0], reads.calls[2]
    for samples in (first, second):
        views_of = {item // 2: set() for item in samples[:, 0]}
        for item in samples[:, 0]:
            views_of[item // 2].add(item % 2)
        assert len(views_of) == ITEMS["train"]
        assert {len(seen) for seen in views_of.values()} == {1}
    seen = [dict(zip(s[:, 1], s[:, 0] % 2, strict=True)) for s in (first, second)]
    assert all(seen[0][text] != seen[1][text] for text in seen[0])
