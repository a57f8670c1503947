"""Pooling before the last linear map: the same numbers, from fewer rows."""

from __future__ import annotations

import pytest
import torch
from network_cases import CASES, collate
from torch import Tensor, nn

from trainer.networks import SideNetwork, interaction
from trainer.pooling import Pooling, build_pooling

LENGTHS = [9, 14, 12, 7]
POOLINGS = ["mean", "first", "last", "gpo", "frames"]


def gradients_of(output: Tensor, network: SideNetwork) -> list[Tensor]:
    cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    trained = list(network.parameters())
    found = torch.autograd.grad((output * cotangent).sum(), trained, materialize_grads=True)
    return list(found)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", list(CASES))
def test_a_network_pools_to_what_its_pooled_rows_are(name: str, pooling: str) -> None:
    network, batch = CASES[name].network(), collate(CASES[name].samples(LENGTHS))
    torch.manual_seed(0)
    pool: Pooling = build_pooling(pooling)

    features = network(batch)
    expected = pool(features.rows, features.layout)
    pooled = network.pooled(batch, pool)

    torch.testing.assert_close(pooled, expected, atol=2e-5, rtol=1e-4)
    if not any(True for _ in network.parameters()):
        return
    for found, wanted in zip(
        gradients_of(pooled, network), gradients_of(expected, network), strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(("pooling", "num_mapped"), [("mean", 4), ("first", 4), ("gpo", 42)])
def test_the_last_map_of_unipt_sees_one_row_for_each_sample(pooling: str, num_mapped: int) -> None:
    network = CASES["vse-text"].network()
    batch = collate(CASES["vse-text"].samples(LENGTHS))
    seen: list[int] = []
    upsampled = network.get_submodule("path.upsample.linear")
    assert isinstance(upsampled, nn.Linear)
    upsampled.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))

    network.pooled(batch, build_pooling(pooling))

    assert seen == [num_mapped]


@pytest.mark.parametrize("alone_from", [0, 2**40], ids=["sample by sample", "padded"])
@pytest.mark.parametrize("pooling", ["first", "last"])
@pytest.mark.parametrize("name", ["paper", "clip-vil"])
def test_unipt_works_out_only_the_row_that_is_picked(
    name: str, pooling: str, alone_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interaction, "ALONE_FROM", alone_from)
    network, batch = CASES[name].network(), collate(CASES[name].samples(LENGTHS))
    pool = build_pooling(pooling)
    features = network(batch)
    expected = pool(features.rows, features.layout)
    seen: list[int] = []
    network.get_submodule("path.block.feed_forward").register_forward_hook(
        lambda _m, inputs, _o: seen.append(len(inputs[0]))
    )

    pooled = network.pooled(batch, pool)

    assert seen == [len(LENGTHS)]
    torch.testing.assert_close(pooled, expected, atol=2e-5, rtol=1e-4)
    for found, wanted in zip(
        gradients_of(pooled, network), gradients_of(expected, network), strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-3)
