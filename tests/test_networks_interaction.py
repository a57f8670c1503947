"""The interaction alone: hard scores, both forms of it, and its written-out gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cache_schema import RowLayout
from trainer.networks import UniPTConfig, interaction
from trainer.networks.interaction import Mixed, ParallelInteraction
from trainer.networks.places import Places
from trainer.networks.ragged import RaggedInteraction, Reading

LAYERS, REDUCED = 3, 6
FORMS = {"padded": 2**40, "sample by sample": 0}
RULES = {"add": 1e-8, "clamp": 1e-6}


def read(
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    config: UniPTConfig,
    query: Tensor,
    keys: Tensor,
    lengths: list[int],
) -> Mixed:
    """Run a freshly seeded interaction in one of its forms."""
    monkeypatch.setattr(interaction, "ALONE_FROM", FORMS[form])
    torch.manual_seed(0)
    module = ParallelInteraction(config, keys.shape[1], keys.shape[2]).to(keys.dtype)
    places = Places(RowLayout.from_lengths(lengths))
    return module(query, keys, places, places)


@pytest.mark.parametrize("form", FORMS)
def test_scores_that_are_all_negative_leave_each_token_its_own_row(
    monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """0 / eps must stay 0, and the gradient must not be NaN where nothing was read."""
    query = -torch.rand(7, REDUCED).requires_grad_()
    keys = torch.rand(7, LAYERS, REDUCED).requires_grad_()

    mixed = read(monkeypatch, form, UniPTConfig(), query, keys, [4, 1, 2])
    mixed.rows.sum().backward()

    assert mixed.weights.abs().max() == 0
    shares = mixed.confidence[Places(RowLayout.from_lengths([4, 1, 2])).layout.sample_of_row()]
    own = (shares[:, :, None] * keys).sum(1)
    torch.testing.assert_close(Places(RowLayout.from_lengths([4, 1, 2])).pack(mixed.rows), own)
    assert keys.grad is not None
    assert keys.grad.isfinite().all()


@pytest.mark.parametrize("exponent", range(-12, 1, 2))
@pytest.mark.parametrize("rule", RULES)
def test_both_forms_agree_where_scores_are_near_eps(
    monkeypatch: pytest.MonkeyPatch, rule: str, exponent: int
) -> None:
    """The divisor changes its meaning around eps, and gradients grow as its inverse."""
    config = UniPTConfig(eps_rule=rule, eps=RULES[rule])
    generator = torch.Generator().manual_seed(exponent + 100)
    query = torch.randn(9, REDUCED, generator=generator, dtype=torch.float64) * 10.0**exponent
    keys = torch.randn(9, LAYERS, REDUCED, generator=generator, dtype=torch.float64)
    cotangent = torch.randn(3, 4, REDUCED, generator=generator, dtype=torch.float64)
    results = []
    for form in FORMS:
        leaves = (query.clone().requires_grad_(), keys.clone().requires_grad_())
        rows = read(monkeypatch, form, config, *leaves, [4, 3, 2]).rows
        results.append((rows.detach(), *torch.autograd.grad(rows, leaves, cotangent)))

    for padded, ragged in zip(*results, strict=True):
        torch.testing.assert_close(
            ragged, padded, rtol=1e-9, atol=1e-12 * float(padded.abs().max())
        )


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=6, deadline=None)
@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_the_written_gradient_is_the_numerical_one(
    rule: str, dynamic: bool, lengths: list[int], seed: int
) -> None:
    """Every term of the backward, against finite differences in float64."""
    generator = torch.Generator().manual_seed(seed)
    num_samples, longest = len(lengths), max(lengths)
    readers = torch.randn(
        num_samples, longest + dynamic, REDUCED, generator=generator, dtype=torch.float64
    )
    keys = torch.randn(sum(lengths), LAYERS, REDUCED, generator=generator, dtype=torch.float64)
    logits = torch.randn(num_samples, LAYERS, generator=generator, dtype=torch.float64)
    shortcut = torch.eye(longest, dtype=torch.float64)[None, :, :, None]
    # An eps as large as the scores, so that both branches of the clamp are taken.
    reading = Reading(lengths, lengths, dynamic, eps=2.0, eps_rule=rule)

    def rows(readers: Tensor, keys: Tensor, logits: Tensor) -> Tensor:
        return RaggedInteraction.apply(readers, keys, logits, shortcut, reading)[0]

    leaves = [part.requires_grad_() for part in (readers, keys, logits)]
    torch.autograd.gradcheck(rows, leaves, eps=1e-7, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_confidence_follows_the_layer_that_agrees_with_the_anchor(
    monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Weights of a sample depend on that sample, sum to 1, and rise with the agreement."""
    query = torch.ones(4, REDUCED)
    keys = torch.stack([torch.zeros(4, REDUCED), torch.ones(4, REDUCED)], dim=1)
    monkeypatch.setattr(interaction, "ALONE_FROM", FORMS[form])
    module = ParallelInteraction(UniPTConfig(), 2, REDUCED)
    with torch.no_grad():
        module.gate.weight.fill_(1.0)
    places = Places(RowLayout.from_lengths([3, 1]))

    confidence = module(query, keys, places, places).confidence

    expected = torch.tensor([0.0, float(REDUCED)]).softmax(0).expand(2, 2)
    torch.testing.assert_close(confidence, expected)


@pytest.mark.parametrize(
    ("options", "varies"),
    [({}, True), ({"confidence": "static"}, False), ({"confidence": "mean"}, False)],
)
def test_only_dynamic_confidence_depends_on_the_sample(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, str], varies: bool
) -> None:
    """The ablation of Figure 5: what is learned per layer, per sample, or not at all."""
    torch.manual_seed(3)
    query, keys = torch.randn(5, REDUCED), torch.randn(5, LAYERS, REDUCED)

    mixed = read(monkeypatch, "padded", UniPTConfig(**options), query, keys, [3, 2])

    assert bool((mixed.confidence[0] != mixed.confidence[1]).any()) is varies


def test_the_bottleneck_reads_no_other_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ablation of Figure 4: a row is the mixture of its own token's layers and no more."""
    torch.manual_seed(3)
    query, keys = torch.randn(5, REDUCED), torch.randn(5, LAYERS, REDUCED)
    config = UniPTConfig(interaction="none", confidence="mean")

    rows = read(monkeypatch, "padded", config, query, keys, [5]).rows

    torch.testing.assert_close(rows[0], keys.mean(1))


def test_unguided_layers_read_themselves_without_the_anchor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The ablation of Figure 4: weights come from each layer alone."""
    torch.manual_seed(3)
    keys = torch.randn(5, LAYERS, REDUCED)
    config = UniPTConfig(interaction="self", confidence="mean")

    one, other = (
        read(monkeypatch, "padded", config, torch.randn(5, REDUCED), keys, [5]) for _ in range(2)
    )

    torch.testing.assert_close(one.rows, other.rows)
    layer = keys[:, 1]
    scores = (layer @ layer.T).relu()
    torch.testing.assert_close(one.weights[0, :, :, 1], scores / scores.sum(1, keepdim=True))


def test_multi_head_weights_sum_to_one_over_real_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Softmax attention must not spend weight on padding."""
    torch.manual_seed(3)
    query, keys = torch.randn(5, REDUCED), torch.randn(5, LAYERS, REDUCED)
    config = UniPTConfig(interaction="multi-head", heads=2)

    weights = read(monkeypatch, "padded", config, query, keys, [3, 2]).weights

    torch.testing.assert_close(weights.sum(2), torch.ones(2, 3, LAYERS))
    assert weights[1, :, 2:].abs().max() == 0
