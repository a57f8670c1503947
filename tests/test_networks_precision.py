"""Half-precision inputs, bfloat16 autocast and torch.compile, on every network."""

from __future__ import annotations

import pytest
import torch
from network_cases import CASES, Rows, Sample, collate
from torch import Tensor
from torch.nn import functional as F

from trainer.networks import interaction

LENGTHS = [9, 14, 12, 7]
# bfloat16 keeps 8 bits, so one rounding is 0.4 %. Nine of ten rows stay within 2 % of a row's usual
# norm (at most 1.1 % measured). The others may do anything: where a query finds next to no positive
# score, a rounding decides whether it reads all keys or none. So gradients are held by direction.
ROW_BOUND, COSINE_BOUND = 0.02, 0.95
TRAINED = [name for name in CASES if name != "probe"]
# One of each kind of code: the other cases are options of these, and tracing takes seconds.
COMPILED = [
    "vse-text",
    "clip4clip frames",
    "vse-image",
    "mdetr",
    "multi-head",
    "lst",
    "lst like a CNN",
    "mlp-probe",
    "weighted-sum",
]


def alike(samples: list[Sample]) -> list[Sample]:
    """The same samples with a common part in all tokens, as a backbone's hidden states have.

    Without it a query may find next to no positive score, and dividing by their sum has no
    precision to lose.
    """
    changed = []
    for sample in samples:
        generator = torch.Generator().manual_seed(5)
        rows = {}
        for name, part in sample.items():
            common = 2 * torch.randn(part.values.shape[1:], generator=generator)
            rows[name] = Rows(part.values + common, part.grid)
        changed.append(rows)
    return changed


def outputs_and_gradients(name: str, *, bfloat16: bool) -> tuple[Tensor, Tensor]:
    """Rows, and all gradients of a fixed sum of them as one vector, both in float32."""
    case = CASES[name]
    network, batch = case.network(), collate(alike(case.samples(LENGTHS)))
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        rows = network(batch).rows
    cotangent = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((rows.float() * cotangent).sum(), list(network.parameters()))
    return rows.detach().float(), torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("alone_from", [0, 2**40], ids=["sample by sample", "padded"])
@pytest.mark.parametrize("name", TRAINED)
def test_bfloat16_stays_within_its_bound(
    name: str, alone_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autocast is how a CPU with bfloat16 trains; a sum in bfloat16 would show at once."""
    monkeypatch.setattr(interaction, "ALONE_FROM", alone_from)

    rows, gradients = outputs_and_gradients(name, bfloat16=True)

    expected_rows, expected_gradients = outputs_and_gradients(name, bfloat16=False)
    errors = (rows - expected_rows).norm(dim=1) / expected_rows.norm(dim=1).square().mean().sqrt()
    assert float(errors.quantile(0.9)) < ROW_BOUND
    assert float(F.cosine_similarity(gradients, expected_gradients, dim=0)) > COSINE_BOUND


@pytest.mark.parametrize("name", TRAINED)
def test_stored_float16_trains_under_bfloat16(name: str) -> None:
    """A CPU reads states as they are stored, and its autocast refuses to join float16."""
    case = CASES[name]
    network, samples = case.network(), alike(case.samples(LENGTHS))

    with torch.autocast("cpu", torch.bfloat16):
        rows = network(collate(samples, torch.float16)).rows.float()

    rows.sum().backward()
    expected = network(collate(samples)).rows.detach()
    errors = (rows.detach() - expected).norm(dim=1) / expected.norm(dim=1).square().mean().sqrt()
    assert float(errors.quantile(0.9)) < ROW_BOUND


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_half_precision_states_are_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    """A cache stores half precision; nothing may be lost beyond what storing lost."""
    case = CASES[name]
    samples = case.samples(LENGTHS)
    stored = collate(samples, dtype)
    widened = collate(samples, dtype)
    for stream_name, stream in widened.streams.items():
        widened.streams[stream_name] = type(stream)(
            stream.values.float(), stream.layout, stream.grid
        )

    rows = case.network()(stored).rows

    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, case.network()(widened).rows)


def compare_compiled(name: str, backend: str) -> None:
    """Rows and gradients of a case, compiled and not."""
    torch._dynamo.reset()
    case = CASES[name]
    network, batch = case.network(), collate(case.samples(LENGTHS))
    compiled = torch.compile(network, backend=backend)
    parameters = list(network.parameters())

    rows = compiled(batch).rows
    gradients = torch.autograd.grad(rows.square().sum(), parameters)

    expected = network(batch).rows
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-5)
    for found, wanted in zip(
        gradients, torch.autograd.grad(expected.square().sum(), parameters), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_network_gives_the_same_rows_and_gradients(name: str) -> None:
    """Dynamo takes the batched forms; aot_eager checks forward and backward graphs without C++."""
    compare_compiled(name, "aot_eager")


@pytest.mark.soak
def test_the_default_compiler_gives_the_same_rows_and_gradients() -> None:
    """Inductor writes and builds C++, which takes minutes; one network has all its products."""
    compare_compiled("vse-text", "inductor")


def test_samples_that_are_read_alone_are_read_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 a CPU compiles a kernel for every new pair of lengths, a millisecond each."""
    read: list[torch.dtype] = []
    apply = interaction.RaggedInteraction.apply

    def record(*arguments: object) -> object:
        read.extend(each.dtype for each in arguments if isinstance(each, Tensor))
        return apply(*arguments)

    monkeypatch.setattr(interaction, "ALONE_FROM", 0)
    monkeypatch.setattr(interaction.RaggedInteraction, "apply", record)

    outputs_and_gradients("vse-text", bfloat16=True)

    assert set(read) == {torch.float32}


def test_a_network_learns_under_bfloat16() -> None:
    """The whole of it: twenty steps reduce a loss on separable samples."""
    case = CASES["vse-text"]
    torch.manual_seed(0)
    network, head = case.network().train(), torch.nn.Linear(20, 2)
    batch, labels = collate(case.samples([3, 5, 4, 2] * 4)), torch.arange(16) % 2
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            features = network(batch)
            pooled = features.layout.pad(features.rows).sum(1)
            loss = F.cross_entropy(head(pooled).float(), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))

    assert losses[-1] < 0.2 * losses[0]
