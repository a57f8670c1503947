"""Retrieval from two caches: pairs, losses, ranks, and what a trained run finds."""

from __future__ import annotations

import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from paired_caches import (
    ITEMS,
    TEXTS_PER_ITEM,
    Pair,
    paired_caches,
    retrieval_settings,
    side_cache,
)
from training_caches import assert_same_weights, config_of, logged

import unipt
from cache_schema import CacheError, FeatureCache, FingerprintMismatchError, PairedCache
from trainer import (
    ConfigError,
    FitConfig,
    RunFolderError,
    TargetError,
    encode_split,
    evaluate,
    fit,
    load_run,
)
from trainer.data import open_data
from trainer.losses import triplet_loss
from trainer.tasks import SETTLED, Moment, RetrievalConfig, RetrievalTask
from trainer.tasks.two_sides import Embeddings
from unipt.choices import fit_config


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return paired_caches(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def trained(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run: Path = tmp_path_factory.mktemp("trained") / "run"
    fit(retrieval_settings("epochs=6"), pair.both, run)
    return run


def keys_of(cache: FeatureCache, samples: np.ndarray) -> list[str]:
    return cache.target("image_id").strings(samples)


def test_each_text_is_paired_with_the_item_of_its_key(pair: Pair) -> None:
    """The texts lie in another order than the items, and each split is joined on its own."""
    joined = PairedCache.join(*pair.both)

    for split, num_items in ITEMS.items():
        pairs = joined.split(split)
        assert sorted(pairs[:, 1]) == pair.texts.split(split).tolist()
        assert set(pairs[:, 0]) == set(pair.items.split(split).tolist())
        assert len(pairs) == num_items * TEXTS_PER_ITEM
        assert keys_of(pair.items, pairs[:, 0]) == keys_of(pair.texts, pairs[:, 1])
        # Texts of an item lie side by side, so an evaluation encodes it once.
        assert (np.diff(pairs[:, 0]) >= 0).all()


def test_an_item_of_several_texts_is_read_once(pair: Pair) -> None:
    """Five captions of an image must not cost five images."""
    joined = PairedCache.join(*pair.both)
    pairs = joined.split("train")[[5, 0, 4, 1, 40]]

    batch = joined.gather(pairs)

    assert batch.num_samples == 5
    assert batch.items.sample_ids.tolist() == sorted(set(pairs[:, 0].tolist()))
    assert batch.items.sample_ids[batch.item_of_text].tolist() == pairs[:, 0].tolist()
    assert batch.texts.sample_ids.tolist() == pairs[:, 1].tolist()
    alone = pair.items.gather(pairs[:1, 0]).streams["tokens"].values
    place = int(batch.item_of_text[0])
    rows = batch.items.streams["tokens"].layout.sample_of_row() == place
    assert torch.equal(batch.items.streams["tokens"].values[rows], alone)


def test_an_item_that_could_not_be_read_takes_only_its_texts_with_it(tmp_path: Path) -> None:
    """The others keep their own items; the run says how many texts it left out."""
    keys = {"train": ["a", "b", "c", "d"]}
    meaning = {"train": np.eye(4, 6)}
    items = side_cache(tmp_path / "items", keys, meaning, width=8, unreadable=(1,))
    texts = side_cache(
        tmp_path / "texts",
        {"train": ["d", "b", "a", "b", "c"]},
        {"train": np.eye(6)[[3, 1, 0, 1, 2]]},
        width=8,
    )

    joined = PairedCache.join(items, texts)

    assert joined.split("train").tolist() == [[0, 2], [2, 4], [3, 0]]
    assert joined.left_out == {"train": 2}


@pytest.mark.parametrize(
    ("item_keys", "text_keys", "words"),
    [
        (["a", "b", "c"], ["a", "x", "y"], r"2 of 3 texts .* image_id 'x', 'y'.*Extract these"),
        (["a", "b", "a"], ["a", "b", "b"], r"samples 0 and 2 .*'a'.* items first"),
    ],
)
def test_keys_that_do_not_join_are_named(
    tmp_path: Path, item_keys: list[str], text_keys: list[str], words: str
) -> None:
    """A join that drops what does not match would train on a part without a word."""
    items, texts = (
        side_cache(tmp_path / name, {"train": keys}, {"train": np.eye(3, 6)}, width=8)
        for name, keys in (("items", item_keys), ("texts", text_keys))
    )

    with pytest.raises(CacheError, match=words):
        PairedCache.join(items, texts)


def test_a_missing_key_and_a_wrong_number_of_caches_are_named(pair: Pair, tmp_path: Path) -> None:
    """Each message says what to do next."""
    with pytest.raises(CacheError, match=r"key column 'video_id'.*--key COLUMN.*task\.key"):
        PairedCache.join(*pair.both, "video_id")
    with pytest.raises(ConfigError, match="got 3 caches"):
        fit(retrieval_settings(), [*pair.both, pair.items], tmp_path / "run")
    one = FitConfig.model_validate({"task": {"name": "classification", "target": "image_id"}})
    with pytest.raises(ConfigError, match="got 2 caches, needed one"):
        fit(one, pair.both, tmp_path / "run")


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["task.loss=triplet"],
        ["pooling=gpo", "task.text_pooling=mean", "task.drop_rows=0.3", "task.learn_scale=false"],
        [
            "network.name=probe",
            'task.text_network={"name": "lst", "reduction": 3, "heads": 2}',
            "dropout=0.1",
        ],
        ["task.width=null", "network.width=16", "task.same_item=ignored"],
    ],
)
def test_every_variant_learns_to_find(pair: Pair, tmp_path: Path, changes: list[str]) -> None:
    """Recalls of 24 texts and 8 items far above chance, and finite losses that fall."""
    report = fit(retrieval_settings("epochs=8", *changes), pair.both, tmp_path / "run")

    # Expected by chance: 12.5 + 62.5 + 100 for texts; for items about 13 + 49 + 79.
    assert report.metrics["rsum"] > 370
    assert report.primary == "rsum"
    losses = [row["loss"] for row in logged(tmp_path / "run", "train")]
    assert all(map(math.isfinite, losses))
    if "task.loss=triplet" not in changes:
        assert np.mean(losses[-6:]) < np.mean(losses[:6])
    again = evaluate(tmp_path / "run", pair.both, "validation", device="cpu", precision="float32")
    assert again == report.metrics


def test_recalls_are_those_of_all_texts_and_items_of_the_split(pair: Pair, trained: Path) -> None:
    """Counted once more from single samples, each encoded alone."""
    metrics = evaluate(trained, pair.both, "test", device="cpu", precision="float32")

    run = load_run(trained, device="cpu", precision="float32")
    items = encode_split(run, pair.items, "test", "items")
    texts = encode_split(run, pair.texts, "test", "texts")
    scores = texts.vectors @ items.vectors.T
    own = torch.tensor([items.names.index(name.rpartition("#")[0]) for name in texts.names])
    is_own = F.one_hot(own, len(items.names)).bool()
    ahead = (scores > scores[is_own][:, None]).sum(dim=1)
    for k in (1, 5, 10):
        assert metrics[f"text_to_item_r{k}"] == pytest.approx(
            100 * float((ahead < k).float().mean())
        )
    assert metrics["text_to_item_mean_rank"] == pytest.approx(float(ahead.float().mean()) + 1)
    best = scores.masked_fill(~is_own, -math.inf).amax(dim=0)
    before = (scores > best).sum(dim=0)
    assert metrics["item_to_text_r1"] == pytest.approx(100 * float((before < 1).float().mean()))


def test_batches_and_processes_do_not_change_the_recalls(pair: Pair, tmp_path: Path) -> None:
    """An item whose texts lie in several batches counts once."""
    runs = [
        fit(
            retrieval_settings("epochs=1", f"eval_batch_size={size}"),
            pair.both,
            tmp_path / str(size),
        )
        for size in (5, 64)
    ]

    recalls = [{k: v for k, v in run.metrics.items() if k != "loss"} for run in runs]
    assert recalls[0] == recalls[1]


def test_folds_are_evaluated_besides_all_items(pair: Pair, trained: Path, tmp_path: Path) -> None:
    """COCO reports 5K and five times 1K; 8 items divide into 2, not into 3."""
    fit(retrieval_settings("epochs=1", "task.folds=2"), pair.both, tmp_path / "two")
    fit(retrieval_settings("epochs=1", "task.folds=3"), pair.both, tmp_path / "three")

    two, three = (
        evaluate(tmp_path / name, pair.both, "test", device="cpu") for name in ("two", "three")
    )

    assert two["folds_rsum"] > two["rsum"]  # fewer candidates
    assert three == {k: v for k, v in two.items() if not k.startswith("folds_")}


def test_the_held_out_part_is_of_whole_items(tmp_path: Path) -> None:
    """A held-out text of an image that was trained on would flatter every epoch."""
    pair = paired_caches(tmp_path, items={"train": 30})

    report = fit(
        retrieval_settings("epochs=1", "validation.fraction=0.2"), pair.both, tmp_path / "run"
    )

    assert report.num_validation == 6 * TEXTS_PER_ITEM
    assert report.num_train == 24 * TEXTS_PER_ITEM
    data = open_data(retrieval_settings("validation.fraction=0.2"), pair.both, 1)
    assert set(data.train[:, 0]).isdisjoint(data.validation[:, 0])


def embeddings(num_items: int, item_of_text: list[int], scale: float = 1.0) -> Embeddings:
    generator = torch.Generator().manual_seed(0)
    items, texts = (
        F.normalize(torch.randn(count, 6, generator=generator), dim=1).requires_grad_()
        for count in (num_items, len(item_of_text))
    )
    log_scale = torch.tensor(math.log(scale), requires_grad=True)
    return Embeddings(items, texts, torch.tensor(item_of_text), torch.arange(num_items), log_scale)


def task_of(**settings: object) -> RetrievalTask:
    return RetrievalTask(config=RetrievalConfig.model_validate(settings), key="image_id")


def test_the_triplet_loss_follows_the_released_schedule() -> None:
    """All negatives in the first epoch; then the hardest, growing from 0 over the second."""
    task, output = task_of(loss="triplet"), embeddings(4, [0, 1, 2, 3])
    scores = output.items @ output.texts.T
    everyone, hardest = triplet_loss(scores, hardest=False), triplet_loss(scores)

    losses = [task.loss(output, {}, Moment(epoch, 3, 12)) for epoch in (0, 1, 2)]

    torch.testing.assert_close(losses[0], everyone)
    torch.testing.assert_close(losses[1], hardest * 3 / 12)
    torch.testing.assert_close(losses[2], hardest)
    torch.testing.assert_close(task.loss(output, {}, SETTLED), hardest)


def test_another_text_of_the_same_item_is_a_negative_as_told() -> None:
    """In training as the authors do, or not at all; in an evaluation never."""
    output = embeddings(2, [0, 0, 1], scale=7.0)
    logits = 7.0 * output.items[[0, 0, 1]] @ output.texts.T
    is_other = torch.zeros(3, 3, dtype=torch.bool)
    is_other[0, 1] = is_other[1, 0] = True
    without = logits.masked_fill(is_other, -math.inf)
    target, moment = torch.arange(3), Moment(0, 0, 1)
    wanted = [
        (F.cross_entropy(m, target) + F.cross_entropy(m.T, target)) / 2 for m in (logits, without)
    ]

    found = [
        task_of(scale=7.0, same_item="negative").loss(output, {}, moment),
        task_of(scale=7.0, same_item="ignored").loss(output, {}, moment),
        task_of(scale=7.0, same_item="negative").loss(output, {}, SETTLED),
    ]

    torch.testing.assert_close(found, [*wanted, wanted[1]])
    found[1].backward()  # a masked score of minus infinity must not make the gradient NaN
    for leaf in (output.items, output.log_scale):
        assert leaf.grad is not None
        assert bool(leaf.grad.isfinite().all())


def test_a_setting_of_the_other_loss_is_refused() -> None:
    """It would have no effect, and nobody would notice."""
    for settings in (
        {"loss": "contrastive", "margin": 0.1},
        {"loss": "triplet", "scale": 100.0},
        {"loss": "triplet", "learn_scale": False},
    ):
        with pytest.raises(ValueError, match="no effect with loss"):
            task_of(**settings)


def test_texts_of_one_item_only_are_refused(tmp_path: Path) -> None:
    """There is nothing to tell apart."""
    keys = {"train": ["a"] * 4, "validation": ["b"] * 2}
    meaning = {"train": np.ones((4, 6)), "validation": np.ones((2, 6))}
    texts = side_cache(tmp_path / "texts", keys, meaning, width=8)
    items = side_cache(
        tmp_path / "items",
        {"train": ["a"], "validation": ["b"]},
        {"train": np.ones((1, 6)), "validation": np.ones((1, 6))},
        width=8,
    )

    with pytest.raises(TargetError, match="all 4 training texts belong to one item"):
        fit(retrieval_settings(), (items, texts), tmp_path / "run")


def test_a_stopped_retrieval_run_ends_with_the_same_weights(pair: Pair, tmp_path: Path) -> None:
    """Order, dropped rows and dropout of the steps after the stop are drawn again alike."""
    from training_caches import Recorder

    settings = ("task.drop_rows=0.3", "dropout=0.2", "checkpoint_every_steps=2", "epochs=3")

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            retrieval_settings(*settings),
            pair.both,
            tmp_path / "stopped",
            progress=Recorder(after_samples=100, action=stop),
        )
    fit(retrieval_settings(*settings), pair.both, tmp_path / "stopped", resume=True)
    fit(retrieval_settings(*settings), pair.both, tmp_path / "whole")

    assert_same_weights(tmp_path / "stopped", tmp_path / "whole")


def test_the_run_remembers_both_caches_and_refuses_others(pair: Pair, trained: Path) -> None:
    """Swapped or foreign caches are named by what differs, before anything is computed."""
    record = config_of(trained)
    assert record["cache"]["streams"][0]["width"] == 8
    assert record["text_cache"]["streams"][0]["width"] == 12

    with pytest.raises(FingerprintMismatchError, match="width: 8 in the run, 12 here"):
        load_run(trained, device="cpu").open((pair.texts, pair.texts))


def test_ranks_of_a_split_go_both_ways(pair: Pair, trained: Path) -> None:
    """A row for each text and each item, best first, by names that a person can look up."""
    rows = list(unipt.predict_cached(trained, pair.both, "test", top=3, device="cpu"))

    metrics = evaluate(trained, pair.both, "test", device="cpu")
    asked = {
        way: [r for r in rows if r["direction"] == way] for way in ("text_to_item", "item_to_text")
    }
    assert [len(part) for part in asked.values()] == [24, 8]
    assert {row["split"] for row in rows} == {"test"}
    assert {row["query"] for row in asked["text_to_item"]} == {
        f"test-{item}.jpg#{number}" for item in range(8) for number in range(3)
    }
    hits = [row["found"][0] == row["query"].rpartition("#")[0] for row in asked["text_to_item"]]
    assert 100 * np.mean(hits) == pytest.approx(metrics["text_to_item_r1"])
    for row in rows:
        assert len(row["found"]) == len(row["scores"]) == 3
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert max(row["scores"]) <= 1.0001


def test_a_run_of_something_else_finds_nothing(pair: Pair, tmp_path: Path) -> None:
    """Asked by mistake, it says what it is."""
    from training_caches import label_cache, settings

    cache = label_cache(tmp_path / "cache")
    fit(settings("epochs=1"), cache, tmp_path / "run")

    with pytest.raises(RunFolderError, match="is a run of classification, needed one of retrieval"):
        encode_split(load_run(tmp_path / "run", device="cpu"), pair.items, "test", "items")


def test_one_cache_with_streams_of_both_sides_pairs_each_sample_with_itself(
    pair: Pair, tmp_path: Path
) -> None:
    """A dual encoder that read image and text of each row: the sides name their streams."""
    report = fit(retrieval_settings("epochs=2"), pair.items, tmp_path / "run")

    assert report.num_train == ITEMS["train"]
    assert report.metrics["rsum"] > 300


def test_scores_of_pairs_are_cosines(pair: Pair, trained: Path) -> None:
    """`score` of a pair is what the ranking is made of."""
    run = load_run(trained, device="cpu", precision="float32")
    joined = run.open(pair.both)
    samples = joined.split("test")[:6]

    (found,) = run.predict([joined.gather(samples)])

    items = encode_split(run, pair.items, "test", "items")
    texts = encode_split(run, pair.texts, "test", "texts")
    for (item, text), score in zip(samples.tolist(), found.columns["score"], strict=True):
        wanted = (
            items.vectors[items.samples.tolist().index(item)]
            @ texts.vectors[texts.samples.tolist().index(text)]
        )
        assert score == pytest.approx(float(wanted), abs=1e-5)


def test_the_cache_key_is_taken_from_the_settings_where_there_are_several() -> None:
    """`task.key` names it, and `fit` calls it the target."""
    config = fit_config([None, None], "video_id", None, "unipt", (), {})  # type: ignore[list-item]

    assert config.task == RetrievalConfig(key="video_id")


def test_all_orders_of_equal_items_give_the_same_embeddings(pair: Pair, trained: Path) -> None:
    """A sample's embedding does not depend on what lies beside it in the batch."""
    run = load_run(trained, device="cpu", precision="float32")
    joined = run.open(pair.both)
    samples = joined.split("test")[:3]

    outputs = [run.forward(joined.gather(samples[list(p)])) for p in permutations(range(3))]

    for order, output in zip(permutations(range(3)), outputs, strict=True):
        back = np.argsort(order)
        torch.testing.assert_close(output.texts[back], outputs[0].texts, rtol=1e-5, atol=1e-6)
