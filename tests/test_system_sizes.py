"""Trained parameters of whole systems, as the paper's tables count them."""

from __future__ import annotations

import pytest
import torch
from network_cases import stream
from torch import nn

from cache_schema import StreamSpec
from trainer.heads import AnswerHead, GroundingHeads
from trainer.networks import LadderConfig, UniPTConfig, build_network
from trainer.pooling import GeneralizedPooling

JOINT = [stream("tokens", 768, 13)]


def retrieval() -> list[nn.Module]:
    stages = [
        stream(f"stage{i}", width, 1, ("height", "width"))
        for i, width in enumerate((256, 512, 1024, 2048), start=1)
    ]
    text = build_network(UniPTConfig(width=1024), JOINT)
    image = build_network(UniPTConfig(preset="vse-image", width=1024), stages)
    return [text, image, GeneralizedPooling(), GeneralizedPooling()]


def video_retrieval() -> list[nn.Module]:
    def tower(width: int, shortcut: str) -> nn.Module:
        streams: list[StreamSpec] = [stream("tokens", width, 13), stream("embedding", 512, 1)]
        config = UniPTConfig.model_validate({"preset": "clip4clip", "shortcut": shortcut})
        return build_network(config, streams)

    return [tower(512, "last"), tower(768, "first")]


def grounding() -> list[nn.Module]:
    streams = [stream("encoder", 256, 7), stream("decoder", 256, 7)]
    return [build_network(UniPTConfig(preset="mdetr"), streams), GroundingHeads(256)]


def ladder_answers() -> list[nn.Module]:
    # 3,129 answers of VQA v2; the pooler is pretrained and stays frozen.
    head = AnswerHead(768, 3129)
    head.pooler.requires_grad_(False)
    return [build_network(LadderConfig(), JOINT), head]


@pytest.mark.parametrize(
    ("million", "make"),
    [(12.4, retrieval), (9.6, video_retrieval), (0.7, grounding), (13.4, ladder_answers)],
    ids=["ITR", "VTR", "VG", "LST VQA"],
)
def test_a_whole_system_trains_as_many_parameters_as_the_paper_says(million, make) -> None:
    with torch.device("meta"):
        modules = make()

    count = sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)

    assert round(count / 1e6, 1) == million
