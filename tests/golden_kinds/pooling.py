"""Replays GPO."""

from __future__ import annotations

from cache_schema import RowLayout
from trainer.pooling import GeneralizedPooling, sinusoidal_table

from .base import GoldenFile, Kind, Replay


def replay_gpo(golden: GoldenFile) -> Replay:
    layout = RowLayout.from_lengths(golden.inputs["lengths"])
    features = golden.tensor("features")
    pooling = GeneralizedPooling(golden.meta["d_pe"], golden.meta["d_hidden"])
    pooling.load_state_dict(golden.parameters())
    return Replay(
        outputs={
            "pooled": pooling(layout.pack(features[:, : layout.max_length]), layout),
            "pool_weights": pooling.rank_weights(layout)[:, :, None],
            "positional_encoding": sinusoidal_table(layout.max_length, golden.meta["d_pe"]),
        },
        parameters=dict(pooling.named_parameters()),
        inputs={"features": features},
    )


KINDS: dict[str, Kind] = {"vse_gpo": replay_gpo}
