"""Settings of the networks, what they refuse, and what each structure reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from network_cases import (
    CASES,
    EMBEDDED,
    FRAME_TOKENS,
    MAPS,
    PAIR,
    TOKENS,
    WIDTH,
    Case,
    Rows,
    Sample,
    collate,
    stream,
)
from pydantic import TypeAdapter, ValidationError
from torch.nn import functional as F

from cache_schema import FeatureBatch, StreamSpec
from trainer.networks import (
    IncompatibleNetworkError,
    LadderConfig,
    MLPProbeConfig,
    NetworkConfig,
    ProbeConfig,
    UniPTConfig,
    WeightedSumConfig,
    build_network,
)
from trainer.networks.ladder import Ladder
from trainer.networks.options import PRESETS

CONFIGS: TypeAdapter[NetworkConfig] = TypeAdapter(NetworkConfig)


def without(samples: list[Sample], name: str, layer: int) -> FeatureBatch:
    """The batch with other numbers in one layer of one stream."""
    batch = collate(samples)
    values = batch.streams[name].values
    values[:, layer] = torch.randn(values.shape[0], values.shape[2])
    return batch


@pytest.mark.parametrize("name", ["unipt", "lst", "probe", "mlp-probe", "weighted-sum"])
def test_every_network_has_defaults_and_describes_its_settings(name: str) -> None:
    """`unipt fit` must run without a single network setting, and `--help` can explain them."""
    config = CONFIGS.validate_python({"name": name})

    assert all(field.description for field in type(config).model_fields.values())
    assert build_network(config, TOKENS).out_width == 16


@pytest.mark.parametrize("config", [UniPTConfig, LadderConfig])
def test_the_page_on_networks_names_every_option(config: type[UniPTConfig | LadderConfig]) -> None:
    """A researcher looks there for what differs between systems."""
    page = (Path(__file__).parents[1] / "docs" / "networks.md").read_text()

    missing = [
        name for name in config.model_fields if not re.search(rf"`(network\.)?{name}\b", page)
    ]

    assert missing == []


@pytest.mark.parametrize("preset", PRESETS)
def test_a_saved_config_is_whole_and_comes_back_the_same(preset: str) -> None:
    """The options of a run must not change when a preset does."""
    config = UniPTConfig(preset=preset)

    saved = config.model_dump(mode="json")

    assert saved.keys() == UniPTConfig.model_fields.keys()
    assert CONFIGS.validate_python(saved) == config
    assert {key: getattr(config, key) for key in PRESETS[preset]} == PRESETS[preset]


def test_an_option_given_beside_a_preset_wins() -> None:
    """Ablations are a released system with one thing changed."""
    config = UniPTConfig(preset="clip-vil", confidence="static", eps=1e-3)

    assert (config.confidence, config.eps, config.feed_forward) == ("static", 1e-3, "mlp")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 2}, "multi-head"),
        ({"regions": "mean"}, "structure: maps"),
        ({"preset": "clip4clip", "shortcut": "identity"}, "first .images., last .texts."),
        ({"preset": "clip4clip", "interaction": "self"}, "one query"),
        ({"interaction": "none", "shortcut": "none"}, "no layer is read"),
        ({"preset": "mdetr", "residual": "anchor"}, "encoder-decoder"),
        ({"preset": "vse-text", "reduction": 0}, "greater than 0"),
        ({"presett": "vse-text"}, "presett"),
        ({"preset": ["vse-text"]}, "preset"),
    ],
)
def test_options_that_cannot_take_effect_are_refused(
    options: dict[str, object], message: str
) -> None:
    """A setting that does nothing is a result somebody believes in."""
    with pytest.raises(ValidationError, match=message):
        UniPTConfig(**options)


@pytest.mark.parametrize(
    ("config", "streams", "message"),
    [
        (UniPTConfig(streams=("text",)), TOKENS, r"\['text'\].*\['tokens'\]"),
        (UniPTConfig(streams=("tokens", "tokens")), TOKENS, "different names"),
        (UniPTConfig(layers=(1, 7)), TOKENS, r"needed \[7\]"),
        (UniPTConfig(layers=(3,)), TOKENS, r"needed \[3\]"),
        (UniPTConfig(), [stream("tokens", 16, 1)], "at least one"),
        (UniPTConfig(reduction=32), TOKENS, "reduced width of 0"),
        (UniPTConfig(interaction="multi-head", heads=3), TOKENS, "multiple of the heads"),
        (UniPTConfig(preset="clip4clip", width=20), EMBEDDED, "width is 20.*12"),
        (UniPTConfig(preset="clip4clip"), MAPS[:1], "only the stream 'stage1'.*height x width"),
        (UniPTConfig(preset="vse-image"), TOKENS, "height, width"),
        (UniPTConfig(preset="mdetr", layers=()), TOKENS, "needed two"),
        (UniPTConfig(preset="mdetr"), PAIR, r"needed \[3, 5\]"),
        (LadderConfig(reduction=32), TOKENS, "side width of 0"),
        (LadderConfig(heads=3), TOKENS, "multiple of 3 heads"),
        (LadderConfig(layers=(0,)), TOKENS, r"needed \[0\]"),
        (LadderConfig(block="conv"), TOKENS, "height, width"),
        (ProbeConfig(layer=9), TOKENS, r"layer is 9.*\[0, 1, 2, 3\]"),
        (MLPProbeConfig(stream="text"), TOKENS, r"\['text'\]"),
        (WeightedSumConfig(stream="text"), TOKENS, r"\['text'\]"),
    ],
)
def test_streams_that_a_network_cannot_read_are_refused_by_name(
    config: NetworkConfig, streams: list[StreamSpec], message: str
) -> None:
    """The message names what is there and what to set, before a minute is spent on training."""
    with pytest.raises(IncompatibleNetworkError, match=message):
        build_network(config, streams)


@pytest.mark.parametrize("config", [UniPTConfig(), LadderConfig(heads=2)])
def test_streams_with_other_positions_are_refused(config: NetworkConfig) -> None:
    """Maps of two sizes read as if they shared tokens would run for some batch sizes."""
    network = build_network(config, PAIR)
    batch = collate(CASES["mdetr"].samples([4, 4]))

    with pytest.raises(IncompatibleNetworkError, match=r"\[8, 6\] rows"):
        network(batch)


def test_frames_of_a_video_are_read_like_images_of_their_own() -> None:
    """Twelve frames of CLIP4Clip: one embedding and the same number of tokens for each."""
    case = CASES["clip4clip frames"]
    video = case.samples([3])[0]
    images = [
        {
            "tokens": Rows(video["tokens"].values[5 * i : 5 * i + 5], (1, 5)),
            "embedding": Rows(video["embedding"].values[i : i + 1]),
        }
        for i in range(3)
    ]

    features = case.network()(collate([video]))

    assert features.layout.lengths.tolist() == [3]
    torch.testing.assert_close(features.rows, case.network()(collate(images)).rows)


def test_frames_that_do_not_share_the_tokens_evenly_are_refused() -> None:
    """Else every frame after the first would read the tokens of another."""
    case = CASES["clip4clip frames"]
    video = dict(case.samples([3])[0])
    video["tokens"] = Rows(video["tokens"].values[:-1])

    with pytest.raises(IncompatibleNetworkError, match="14 rows for 3 projected embeddings"):
        case.network()(collate([video]))


@pytest.mark.parametrize(("shortcut", "row"), [("first", 0), ("last", -1)])
def test_without_embeddings_one_token_of_the_last_layer_stands_for_the_sample(
    shortcut: str, row: int
) -> None:
    """A ViT or BERT alone is read as if that token had been stored as an embedding."""
    config = UniPTConfig(preset="clip4clip", shortcut=shortcut)
    samples = CASES["vse-text"].samples([4, 1, 3])
    stored = [
        {**sample, "embedding": Rows(sample["tokens"].values[[row], -1:])} for sample in samples
    ]

    torch.manual_seed(0)
    alone = build_network(config, TOKENS)
    torch.manual_seed(0)
    beside = build_network(config, (*TOKENS, stream("embedding", WIDTH, 1)))

    torch.testing.assert_close(alone(collate(samples)).rows, beside(collate(stored)).rows)


@pytest.mark.parametrize("shortcut", ["first", "last"])
def test_the_class_token_of_each_frame_reads_that_frame(shortcut: str) -> None:
    """Videos of three frames and of one give the rows of four images, grouped by video."""
    config = UniPTConfig(preset="clip4clip", shortcut=shortcut)
    videos = CASES["class tokens of frames"].samples([3, 1])
    images = [
        {"tokens": Rows(frame)} for video in videos for frame in video["tokens"].values.split(5)
    ]

    torch.manual_seed(0)
    of_videos = build_network(config, FRAME_TOKENS)(collate(videos))
    torch.manual_seed(0)
    of_images = build_network(config, TOKENS)(collate(images))

    assert of_videos.layout.lengths.tolist() == [3, 1]
    assert of_videos.layout.positions.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(of_videos.rows, of_images.rows)


def test_frames_of_different_sizes_are_refused_where_they_have_no_embeddings() -> None:
    """Else a frame would be read under the class token of another."""
    draw = CASES["class tokens of frames"].samples
    large, small = draw([2, 2])
    small["tokens"] = Rows(small["tokens"].values[:8], (2, 4))
    network = build_network(UniPTConfig(preset="clip4clip"), FRAME_TOKENS)

    with pytest.raises(IncompatibleNetworkError, match="4, 5 tokens"):
        network(collate([large, small]))


@pytest.mark.parametrize(("shortcut", "row"), [("first", 0), ("last", 3)])
def test_the_embedding_adds_the_token_it_was_projected_from(shortcut: str, row: int) -> None:
    """CLS for images, EOT (the last real token) for texts."""
    config = UniPTConfig(preset="clip4clip", shortcut=shortcut, interaction="none")
    case = Case(config, EMBEDDED, CASES["clip4clip text"].draw)
    samples = case.samples([4])
    changed = {**samples[0], "tokens": Rows(samples[0]["tokens"].values.clone())}
    # Only the pooled token is read, apart from the confidence, which is fixed by equal layers.
    changed["tokens"].values[row] += 1

    network = build_network(config.model_copy(update={"confidence": "mean"}), EMBEDDED)
    before, after = network(collate(samples)).rows, network(collate([changed])).rows
    changed["tokens"].values[3 - row] += 1
    again = network(collate([changed])).rows

    assert not torch.equal(before, after)
    torch.testing.assert_close(again, after)


def test_mean_regions_are_adaptive_average_pooling() -> None:
    """Maps of any sizes are cut as torch cuts them, also where they do not divide."""
    config = UniPTConfig(preset="vse-image", regions="mean")
    case = Case(config, MAPS, CASES["mean regions"].draw)
    samples = case.samples([3, 5])
    shrunk = []
    for sample in samples:
        height, width = sample["stage3"].grid or (0, 0)
        rows = dict(sample)
        for name in ("stage1", "stage2"):
            h, w = sample[name].grid or (0, 0)
            cells = sample[name].values[:, 0].T.reshape(1, -1, h, w)
            pooled = F.adaptive_avg_pool2d(cells, (height, width)).flatten(2)[0].T
            rows[name] = Rows(pooled[:, None].contiguous(), (height, width))
        shrunk.append(rows)

    torch.testing.assert_close(
        case.network()(collate(samples)).rows, case.network()(collate(shrunk)).rows
    )


def test_only_the_chosen_layers_are_read() -> None:
    """`layers` are backbone indices; the anchor is always the last layer."""
    config = UniPTConfig(layers=(0, 2))
    samples = CASES["vse-text"].samples([4, 2])
    network = build_network(config, TOKENS)
    rows = network(collate(samples)).rows

    read = [not torch.equal(network(without(samples, "tokens", i)).rows, rows) for i in range(4)]

    assert read == [True, False, True, True]


def test_a_ladder_skips_dropped_layers_and_obeys_its_gates() -> None:
    """A gate at 1 keeps the side state: then only the first layer is read."""
    network = build_network(LadderConfig(layers=(1, 3), heads=2), TOKENS).eval()
    assert isinstance(network, Ladder)
    samples = CASES["lst"].samples([4, 2])

    def read() -> list[bool]:
        rows = network(collate(samples)).rows
        return [
            not torch.equal(network(without(samples, "tokens", i)).rows, rows) for i in range(4)
        ]

    assert read() == [True, True, False, True]
    with torch.no_grad():
        network.gates.fill_(100.0)
    assert read() == [True, False, False, False]


def test_a_causal_ladder_reads_no_later_token() -> None:
    """Side layers of GPT-like and CLIP text backbones."""
    case = CASES["lst like ViT"]
    sample = case.samples([5])[0]
    longer = {"tokens": Rows(torch.cat([sample["tokens"].values, torch.randn(2, 4, 16)]))}

    rows = case.network()(collate([longer])).rows[:5]

    torch.testing.assert_close(rows, case.network()(collate([sample])).rows)


def test_the_levels_of_a_decoder_are_its_guided_layers() -> None:
    """MDETR's auxiliary losses read them, lowest layer first."""
    case = CASES["mdetr"]
    samples = case.samples([4, 2])
    features = case.network()(collate(samples))

    changed = case.network()(without(samples, "decoder", 1))

    same = [torch.equal(a, b) for a, b in zip(features.levels, changed.levels, strict=True)]
    assert same == [True, False, True]
    assert features.rows.shape == features.levels[0].shape


def test_probes_read_the_layer_they_name() -> None:
    """The linear probe gives hidden states unchanged; the sum starts as their mean."""
    samples = CASES["probe"].samples([4, 2])
    values = collate(samples).streams["tokens"].values
    batch = collate(samples)

    assert torch.equal(build_network(ProbeConfig(), TOKENS)(batch).rows, values[:, 3])
    assert torch.equal(build_network(ProbeConfig(layer=1), TOKENS)(batch).rows, values[:, 1])
    summed = build_network(WeightedSumConfig(), TOKENS)(batch).rows
    torch.testing.assert_close(summed, values.mean(1))
