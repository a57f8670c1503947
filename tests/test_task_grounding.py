"""Visual grounding, trained on a small real cache of an encoder and a decoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from task_caches import COUNT, Contents, States, write
from training_caches import assert_same_end, settings, weights_of

from cache_schema import FeatureCache, Ragged, TargetSpec
from trainer import ConfigError, FitConfig, evaluate, fit, load_run
from trainer.boxes import generalized_iou, iou
from trainer.heads import GroundingOutput
from trainer.losses import (
    GroundingTargets,
    alignment_loss,
    grounding_losses,
    match,
    total_over_levels,
)
from trainer.networks import IncompatibleNetworkError
from trainer.tasks import TargetError

LAYERS, WIDTH, QUERIES = (1, 3, 5, 6), 16, 6
# Special tokens have no characters: <s> the left mug </s>, and <s> mug </s>.
SPANS = ([0, 0, 0, 3, 4, 8, 9, 12, 0, 0], [0, 0, 0, 3, 0, 0])
IS_RIGHT = np.arange(COUNT) % 2 == 1


def contents() -> Contents:
    """The box lies left in even samples and right in odd ones; the decoder's states tell."""
    rng = np.random.default_rng(3)
    grid = np.stack([rng.integers(1, 4, COUNT), rng.integers(1, 4, COUNT)], 1)
    texts = [SPANS[sample % 3 == 0] for sample in range(COUNT)]
    words = np.array([len(text) // 2 for text in texts])
    encoder = States.random(
        grid.prod(1) + words, LAYERS, WIDTH, seed=1, axes=("height", "width"), grid=grid
    )
    decoder = States.random(np.full(COUNT, QUERIES), LAYERS, WIDTH, seed=2)
    sign = torch.from_numpy(np.repeat(IS_RIGHT * 2.0 - 1, QUERIES)).float()
    decoder.values[:, :, 0] = 3 * sign[:, None]
    sizes = np.stack([100 + 10 * (np.arange(COUNT) % 3), np.full(COUNT, 200)], 1).astype(float)
    boxes = np.stack(
        [100.0 * IS_RIGHT + 10, np.full(COUNT, 20), np.full(COUNT, 80), 0.6 * sizes[:, 0]], 1
    )
    # "left mug" or "mug": characters of each phrase.
    phrases = [[4, 12] if len(text) > 6 else [0, 3] for text in texts]
    return Contents(
        streams={"encoder": encoder, "decoder": decoder},
        targets={
            "box": (TargetSpec(name="box", kind="numbers"), Ragged.from_rows(boxes, np.float64)),
            "size": (TargetSpec(name="size", kind="numbers"), Ragged.from_rows(sizes, np.float64)),
            "spans": (
                TargetSpec(name="spans", kind="numbers"),
                Ragged.from_rows(phrases, np.float64),
            ),
        },
        inputs={"token_spans": Ragged.from_rows(texts, np.int32)},
    )


def grounding(*overrides: str, network: tuple[str, ...] = ("network.preset=mdetr",)) -> FitConfig:
    return settings(
        *network,
        "task.contrastive_width=4",
        "task.num_positions=12",
        "schedule.warmup=0",
        "optimizer.learning_rates=[0.01]",
        *overrides,
        task="grounding",
        target="box",
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, FeatureCache]:
    folder = tmp_path_factory.mktemp("grounding")
    cache = write(folder / "cache", contents())
    fit(grounding("epochs=16"), cache, folder / "run")
    return folder / "run", cache


def predicted(run: Path, cache: FeatureCache, samples: np.ndarray) -> dict[str, list]:
    sizes = cache.target("size").values.reshape(-1, 2)[samples]
    loaded = load_run(run, "cpu", "float32")
    batch = replace(cache.gather(samples), targets=loaded.task.facts({"size": list(sizes)}))
    (part,) = loaded.predict([batch])
    return part.columns


@pytest.mark.parametrize(("overlap", "measure"), [("giou", generalized_iou), ("iou", iou)])
def test_precision_is_the_share_of_boxes_that_fit(tmp_path, trained, overlap, measure) -> None:
    """Recomputed from the predicted boxes in pixels, with the authors' overlap or plain IoU."""
    run, cache = trained
    if overlap == "iou":
        run = tmp_path / "run"
        fit(grounding("epochs=2", "task.overlap=iou"), cache, run)
    test = cache.split("test")

    metrics = evaluate(run, cache, "test", device="cpu", precision="float32")

    columns = predicted(run, cache, test)
    truth = torch.from_numpy(cache.target("box").values.reshape(-1, 4)[test]).float()
    truth = torch.cat([truth[:, :2], truth[:, :2] + truth[:, 2:]], 1)
    boxes = torch.tensor(columns["boxes"])
    fits = measure(boxes, truth[:, None]) >= 0.5
    assert metrics["precision_at_1"] == pytest.approx(fits[:, 0].float().mean().item())
    assert metrics["precision_at_5"] == pytest.approx(fits.any(1).float().mean().item())
    assert metrics["precision_at_10"] >= metrics["precision_at_5"]
    if overlap == "giou":
        assert metrics["precision_at_1"] > 0.8


def test_predictions_are_corners_in_pixels_best_first(trained) -> None:
    run, cache = trained

    columns = predicted(run, cache, np.array([64, 65]))

    left, right = columns["box"]
    assert left[0] < 60 < 120 < right[2] < 201
    assert columns["box"] == [row[0] for row in columns["boxes"]]
    assert [len(row) for row in columns["boxes"]] == [5, 5]
    assert all(row == sorted(row, reverse=True) for row in columns["scores"])
    assert columns["score"] == [row[0] for row in columns["scores"]]


def test_boxes_are_shares_of_the_image_where_its_size_is_unknown(trained) -> None:
    run, cache = trained

    (part,) = load_run(run, "cpu", "float32").predict([cache.gather([65])])

    in_pixels = predicted(run, cache, np.array([65]))["box"][0]
    height, width = cache.target("size").values.reshape(-1, 2)[65]
    shares = np.array(part.columns["box"][0])
    np.testing.assert_allclose(shares * [width, height, width, height], in_pixels, rtol=1e-4)


def test_the_words_are_the_frozen_encoders_last_states_after_the_grid(trained) -> None:
    """What the authors' contrastive projection reads: not the side network, not a map cell."""
    run, cache = trained
    loaded = load_run(run, "cpu", "float32")
    batch = cache.gather([3, 4])
    cells = cache.gather([3, 4]).streams["encoder"].grid.prod(1).tolist()

    output = loaded.forward(batch)

    stream = batch.streams["encoder"]
    for place, count in enumerate((3, 5)):
        start = int(stream.layout.first_rows()[place]) + cells[place]
        rows = stream.values[start : start + count, -1]
        expected = loaded.model.head.project_text(rows[None])[0].detach()
        torch.testing.assert_close(output.words[place, :count], expected)
    assert output.is_word.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert len(output.levels) == 4


def test_targets_are_boxes_in_shares_and_the_tokens_of_the_phrase(trained) -> None:
    _, cache = trained
    task = grounding().task.learn(cache, cache.split("train"), {})

    targets = task.reader(cache, np.array([3, 4]))(np.array([4, 3]))

    height = 110
    expected = [[50 / 200, (20 + 0.3 * height) / height, 80 / 200, 0.6]]
    torch.testing.assert_close(targets["box"][:1], torch.tensor(expected))
    assert targets["words"].tolist() == [
        [False, False, True, True, False],
        [False, True, False, False, False],
    ]
    assert targets["size"].tolist() == [[110, 200], [100, 200]]


def test_without_spans_the_whole_expression_names_the_box(tmp_path) -> None:
    """Every token that has characters; the special ones have none."""
    given = contents()
    del given.targets["spans"]
    cache = write(tmp_path / "cache", given)
    task = grounding().task.learn(cache, cache.split("train"), {})

    targets = task.reader(cache, np.array([4]))(np.array([4]))

    assert targets["words"].tolist() == [[False, True, True, True, False]]


def test_the_loss_is_the_checked_losses_of_every_level(trained) -> None:
    """Main and three auxiliary levels, each matched on its own; weights as released."""
    run, cache = trained
    loaded = load_run(run, "cpu", "float32")
    samples = np.array([3, 4, 5])
    batch = cache.gather(samples)
    targets = loaded.task.reader(cache, samples)(samples)
    output = loaded.forward(batch)

    loss = loaded.task.loss(output, targets, None)

    soft = torch.zeros(3, 13, dtype=torch.bool)
    soft[:, :5] = targets["words"]
    wanted = GroundingTargets(targets["box"], torch.arange(3), soft, targets["words"])
    levels = [
        grounding_losses(level, output.words, wanted, is_word_BT=output.is_word)
        for level in output.levels
    ]
    torch.testing.assert_close(loss, total_over_levels(levels))
    alone = levels[-1]
    parts = alone.soft_tokens + 5 * alone.l1 + 2 * alone.giou + alone.alignment
    torch.testing.assert_close(alone.total(), parts)


def test_padding_takes_no_part_in_the_alignment() -> None:
    """A text's alignment is the same alone and beside a longer one."""
    generator = torch.Generator().manual_seed(0)
    queries, words = torch.randn(2, 3, 4, generator=generator), torch.randn(2, 5, 4)
    output = GroundingOutput(
        torch.randn(2, 3, 7, generator=generator), torch.rand(2, 3, 4) * 0.3 + 0.2, queries
    )
    named = torch.tensor([[True, False, False, False, False]] * 2)
    soft = torch.nn.functional.pad(named, (0, 2))
    targets = GroundingTargets(torch.full((2, 4), 0.4), torch.arange(2), soft, named)
    is_word = torch.tensor([[True, True, False, False, False], [True] * 5])

    both = alignment_loss(queries, words, targets, match(output, targets), is_word)

    alone = 0.0
    for place, count in ((0, 2), (1, 5)):
        part = slice(place, place + 1)
        one = GroundingOutput(output.logits[part], output.boxes[part], queries[part])
        own = GroundingTargets(targets.boxes[part], torch.zeros(1, dtype=torch.int64),
                               soft[part], named[part, :count])  # fmt: skip
        alone += alignment_loss(queries[part], words[part, :count], own, match(one, own))
    torch.testing.assert_close(both, torch.as_tensor(alone))


def test_the_recipe_resumes_bit_identical(tmp_path, trained) -> None:
    """Head at a tenth of the rate, clipping at 0.1, falls by epoch, and averaged weights."""
    _, cache = trained
    recipe = grounding(
        "optimizer.clip_norm=0.1",
        "optimizer.ema_decay=0.99",
        'optimizer.lr_factors={"head": 0.1}',
        "optimizer.decay=all",
        "schedule.shape=step",
        "schedule.every=2",
        "epochs=3",
        "checkpoint_every_steps=5",
    )
    whole = fit(recipe, cache, tmp_path / "whole")

    from training_caches import Recorder

    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(recipe, cache, tmp_path / "killed", progress=Recorder(after_samples=72, action=die))
    resumed = fit(recipe, cache, tmp_path / "killed", resume=True)

    assert_same_end(tmp_path / "whole", tmp_path / "killed")
    assert resumed.metrics == whole.metrics


def test_released_heads_are_where_training_starts(tmp_path, trained) -> None:
    run, cache = trained
    head = {k.removeprefix("head."): v for k, v in weights_of(run).items() if k[:4] == "head"}
    save_file(head, tmp_path / "heads.safetensors")
    named = f"task.head_weights={tmp_path / 'heads.safetensors'}"

    fit(grounding(named, 'optimizer.freeze=["head"]', "epochs=1"), cache, tmp_path / "frozen")

    kept = weights_of(tmp_path / "frozen")
    assert all(torch.equal(kept[f"head.{name}"], value) for name, value in head.items())
    with pytest.raises(ConfigError, match=r"class_embed.weight is \[13, 16\], needed \[9, 16\]"):
        fit(grounding(named, "task.num_positions=8"), cache, tmp_path / "other")


def test_heads_alone_can_be_trained_on_the_frozen_decoder(tmp_path, trained) -> None:
    """A probe of the decoder's last layer: the baseline without a side network."""
    _, cache = trained

    report = fit(
        grounding("epochs=1", network=("network.name=probe", "network.stream=decoder")),
        cache,
        tmp_path / "run",
    )

    assert np.isfinite(report.metrics["loss"])
    names = weights_of(tmp_path / "run")
    assert {name.split(".")[0] for name in names} == {"head"}


def broken(change) -> Contents:
    given = contents()
    change(given)
    return given


def drop_spans(given: Contents) -> None:
    given.inputs = {}


def flat_box(given: Contents) -> None:
    given.targets["box"][1].values[4 * 7 + 2] = 0


def short_size(given: Contents) -> None:
    rows = [[100.0, 200.0]] * COUNT
    rows[9] = [100.0]
    spec, _ = given.targets["size"]
    given.targets["size"] = (spec, Ragged.from_rows(rows, np.float64))


def views(given: Contents) -> None:
    given.views = 2


def no_grid(given: Contents) -> None:
    given.streams["encoder"].axes, given.streams["encoder"].grid = (), None


def fewer_spans(given: Contents) -> None:
    given.inputs = {"token_spans": Ragged.from_rows([[0, 3]] * COUNT, np.int32)}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (drop_spans, TargetError, ["'token_spans'", "MDETR"]),
        (flat_box, TargetError, ["sample 7", "without area"]),
        (short_size, TargetError, ["sample 9", "needed 2"]),
        (views, TargetError, ["augmented views", "Extract without --views"]),
        (no_grid, IncompatibleNetworkError, ["'encoder'", "height and width"]),
        (fewer_spans, TargetError, ["token_spans", "rows after the image grid"]),
    ],
)
def test_caches_that_do_not_suit_are_refused(tmp_path, change, error, words) -> None:
    cache = write(tmp_path / "cache", broken(change))

    with pytest.raises(error) as caught:
        fit(grounding(), cache, tmp_path / "run")

    for word in words:
        assert word in str(caught.value)


def test_a_network_that_gives_the_encoders_rows_is_refused(tmp_path, trained) -> None:
    _, cache = trained
    config = grounding(network=("network.name=probe", "network.stream=encoder"))

    with pytest.raises(IncompatibleNetworkError, match="needed the same queries for all"):
        fit(config, cache, tmp_path / "run")


def test_pooling_is_refused_because_boxes_are_read_from_every_query() -> None:
    with pytest.raises(ConfigError, match="pooling has no effect with task 'grounding'"):
        grounding("pooling=mean")
