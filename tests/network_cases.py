"""Small cases of every side network: settings, streams, and samples that batch in any way.

B samples, N packed rows, L layers, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cache_schema import FeatureBatch, LayerSpec, RowLayout, StreamBatch, StreamSpec
from trainer.networks import (
    LadderConfig,
    MLPProbeConfig,
    NetworkConfig,
    ProbeConfig,
    SideNetwork,
    UniPTConfig,
    WeightedSumConfig,
    build_network,
)

WIDTH, LAYERS, EMBEDDING = 16, 4, 12


@dataclass(frozen=True)
class Rows:
    """One sample's part of one stream: (n, L, D) values, and the shape of its positions."""

    values: Tensor
    grid: tuple[int, int] | None = None


Sample = Mapping[str, Rows]


@dataclass(frozen=True)
class Case:
    """A network and how to draw a sample of so many tokens for it."""

    config: NetworkConfig
    streams: tuple[StreamSpec, ...]
    draw: Callable[[int, torch.Generator], Sample]

    def network(self, dtype: torch.dtype = torch.float32) -> SideNetwork:
        """A network with the same weights every time, in eval mode."""
        torch.manual_seed(0)
        return build_network(self.config, self.streams).eval().to(dtype)

    def samples(self, lengths: Sequence[int], seed: int = 0) -> list[Sample]:
        """One sample for each length, the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        return [self.draw(length, generator) for length in lengths]


def stream(name: str, width: int, layers: int, axes: tuple[str, ...] = ()) -> StreamSpec:
    """A stream of layers 0, 1, ..."""
    specs = tuple(LayerSpec(index=i, module=f"{name}.{i}", final_norm=None) for i in range(layers))
    return StreamSpec(name=name, width=width, layers=specs, axes=axes)


def collate(samples: Sequence[Sample], dtype: torch.dtype = torch.float32) -> FeatureBatch:
    """A packed batch of these samples."""
    streams = {}
    for name in samples[0]:
        parts = [sample[name] for sample in samples]
        grids = [part.grid for part in parts if part.grid is not None]
        streams[name] = StreamBatch(
            torch.cat([part.values for part in parts]).to(dtype),
            RowLayout.from_lengths([len(part.values) for part in parts]),
            torch.tensor(grids) if grids else None,
        )
    return FeatureBatch(streams, torch.arange(len(samples)))


def pad(
    samples: Sequence[Sample], extra: int, dtype: torch.dtype
) -> tuple[FeatureBatch, dict[str, Tensor]]:
    """The same samples with noise appended up to the longest (and `extra` more), and masks."""
    generator = torch.Generator().manual_seed(99)
    padded: list[dict[str, Rows]] = [{} for _ in samples]
    masks = {}
    for name in samples[0]:
        lengths = [len(sample[name].values) for sample in samples]
        longest = max(lengths) + extra
        for sample, filled, length in zip(samples, padded, lengths, strict=True):
            values = sample[name].values
            noise = torch.randn(longest - length, *values.shape[1:], generator=generator)
            filled[name] = Rows(torch.cat([values, noise]))
        masks[name] = (torch.arange(longest) < torch.tensor(lengths)[:, None]).flatten()
    return collate(padded, dtype), masks


def _tokens(length: int, generator: torch.Generator) -> Sample:
    return {"tokens": Rows(torch.randn(length, LAYERS, WIDTH, generator=generator))}


def _embedded(length: int, generator: torch.Generator) -> Sample:
    return {
        **_tokens(length, generator),
        "embedding": Rows(torch.randn(1, 1, EMBEDDING, generator=generator)),
    }


def _frames(length: int, generator: torch.Generator) -> Sample:
    """A video of `length` frames with 5 tokens each."""
    values = torch.randn(length * 5, LAYERS, WIDTH, generator=generator)
    embeddings = torch.randn(length, 1, EMBEDDING, generator=generator)
    return {"tokens": Rows(values, (length, 5)), "embedding": Rows(embeddings)}


def _frame_tokens(length: int, generator: torch.Generator) -> Sample:
    """The same without embeddings."""
    return {"tokens": _frames(length, generator)["tokens"]}


def _maps(length: int, generator: torch.Generator) -> Sample:
    """Three maps; the last has `length` columns; regions overlap and are unequally large."""
    sizes = {"stage1": (7, 2 * length + 3), "stage2": (5, length + 1), "stage3": (2, length)}
    widths = {"stage1": 6, "stage2": 8, "stage3": WIDTH}
    return {
        name: Rows(torch.randn(h * w, 1, widths[name], generator=generator), (h, w))
        for name, (h, w) in sizes.items()
    }


def _encoder_decoder(length: int, generator: torch.Generator) -> Sample:
    return {
        "encoder": Rows(torch.randn(length, LAYERS, WIDTH, generator=generator)),
        "decoder": Rows(torch.randn(3, LAYERS, WIDTH, generator=generator)),
    }


TOKENS = (stream("tokens", WIDTH, LAYERS),)
EMBEDDED = (*TOKENS, stream("embedding", EMBEDDING, 1))
FRAME_TOKENS = (stream("tokens", WIDTH, LAYERS, ("frames", "tokens")),)
MAPS = tuple(
    stream(name, width, 1, ("height", "width"))
    for name, width in (("stage1", 6), ("stage2", 8), ("stage3", WIDTH))
)
PAIR = (stream("encoder", WIDTH, LAYERS), stream("decoder", WIDTH, LAYERS))

CASES: dict[str, Case] = {
    "paper": Case(UniPTConfig(preset="paper"), TOKENS, _tokens),
    "vse-text": Case(UniPTConfig(width=20), TOKENS, _tokens),
    "clip-vil": Case(UniPTConfig(preset="clip-vil"), TOKENS, _tokens),
    "vse-image": Case(UniPTConfig(preset="vse-image", width=20), MAPS, _maps),
    "mean regions": Case(UniPTConfig(preset="vse-image", regions="mean"), MAPS, _maps),
    "clip4clip text": Case(UniPTConfig(preset="clip4clip", shortcut="last"), EMBEDDED, _embedded),
    "clip4clip frames": Case(UniPTConfig(preset="clip4clip"), EMBEDDED, _frames),
    "class token": Case(UniPTConfig(preset="clip4clip"), TOKENS, _tokens),
    "last token": Case(UniPTConfig(preset="clip4clip", shortcut="last"), TOKENS, _tokens),
    "class tokens of frames": Case(UniPTConfig(preset="clip4clip"), FRAME_TOKENS, _frame_tokens),
    "mdetr": Case(UniPTConfig(preset="mdetr", layers=(0, 1, 2)), PAIR, _encoder_decoder),
    "bottleneck": Case(UniPTConfig(interaction="none"), TOKENS, _tokens),
    "unguided": Case(UniPTConfig(interaction="self"), TOKENS, _tokens),
    "multi-head": Case(UniPTConfig(interaction="multi-head", heads=4), TOKENS, _tokens),
    "static gates": Case(UniPTConfig(confidence="static"), TOKENS, _tokens),
    "equal gates": Case(UniPTConfig(confidence="mean"), TOKENS, _tokens),
    "lst": Case(LadderConfig(heads=2), TOKENS, _tokens),
    "lst like ViT": Case(LadderConfig(block="pre-norm", heads=2, causal=True), TOKENS, _tokens),
    "lst like a CNN": Case(LadderConfig(block="conv", reduction=2), MAPS, _maps),
    "probe": Case(ProbeConfig(), TOKENS, _tokens),
    "mlp-probe": Case(MLPProbeConfig(hidden=24), TOKENS, _tokens),
    "weighted-sum": Case(WeightedSumConfig(), TOKENS, _tokens),
}
