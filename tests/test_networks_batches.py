"""The same sample gives the same features in any batch, packed or padded.

Shapes, lengths and orders are drawn by hypothesis; weights and samples from fixed seeds.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_cases import CASES, Case, Sample, collate, pad
from torch import Tensor, nn

from trainer.networks import SideFeatures, interaction

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=5)
# Rounding only: in float64, since a row whose scores are nearly all negative is divided by their
# small sum, which takes four digits from the gradients of some drawn batches in any form.
CLOSE = {"rtol": 1e-8, "atol": 1e-9}
PADDABLE = [name for name, case in CASES.items() if not any(len(s.axes) == 2 for s in case.streams)]
PADDABLE.remove("clip4clip frames")


@pytest.fixture(params=["padded products", "sample by sample"], autouse=True)
def both_forms(request: pytest.FixtureRequest) -> Iterator[None]:
    """Small cases would all take the padded form; here both forms see all of them."""
    with pytest.MonkeyPatch.context() as patch:
        from_size = 0 if request.param == "sample by sample" else 2**40
        patch.setattr(interaction, "ALONE_FROM", from_size)
        yield


def split(features: SideFeatures) -> list[Tensor]:
    """Rows of each sample."""
    return list(features.rows.split(features.layout.lengths.tolist()))


def alone(case: Case, sample: Sample) -> Tensor:
    """Rows of a sample in a batch of its own."""
    return case.network(torch.float64)(collate([sample], torch.float64)).rows


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=8, deadline=None)
@given(lengths=LENGTHS, data=st.data())
def test_a_sample_gives_the_same_rows_in_any_batch_and_place(
    name: str, lengths: list[int], data: st.DataObject
) -> None:
    """Reordering, splitting, batch 1 and length 1: nothing may leak between samples."""
    case = CASES[name]
    samples = case.samples(lengths)
    order = data.draw(st.permutations(range(len(samples))))

    batch = collate([samples[i] for i in order], torch.float64)
    together = split(case.network(torch.float64)(batch))

    for place, i in enumerate(order):
        torch.testing.assert_close(together[place], alone(case, samples[i]), **CLOSE)


@pytest.mark.parametrize("name", PADDABLE)
@settings(max_examples=8, deadline=None)
@given(lengths=LENGTHS, extra=st.integers(0, 3))
def test_padded_tensors_give_the_rows_and_gradients_of_packed_ones(
    name: str, lengths: list[int], extra: int
) -> None:
    """Padding is noise here: whatever of it is read, pooled or normalised shows."""
    case = CASES[name]
    samples = case.samples(lengths)
    packed = collate(samples, torch.float64)
    padded, masks = pad(samples, extra, torch.float64)
    if name.startswith("clip4clip"):
        # The embedding is one row per sample, and not padded in the authors' batches either.
        padded.streams["embedding"] = packed.streams["embedding"]
    ours, theirs = case.network(torch.float64), case.network(torch.float64)

    rows = ours(packed).rows
    features = theirs(padded, masks)
    real = masks.get(_output_stream(case), torch.ones(0)).bool()
    padded_rows = features.rows[real] if len(real) == len(features.rows) else features.rows

    torch.testing.assert_close(padded_rows, rows, **CLOSE)
    cotangent = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1)).double()
    for mine, other in zip(
        gradients(ours, rows, cotangent), gradients(theirs, padded_rows, cotangent), strict=True
    ):
        torch.testing.assert_close(other, mine, **CLOSE)


def _output_stream(case: Case) -> str:
    return case.streams[-1].name


def gradients(network: nn.Module, rows: Tensor, cotangent: Tensor) -> list[Tensor]:
    """Of every parameter, zeros where none flows."""
    parameters = list(network.parameters())
    if not parameters:
        return []
    found = torch.autograd.grad(rows, parameters, cotangent, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
