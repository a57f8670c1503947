"""Training with the frozen layers' products in 8 bits, on a CPU."""

from __future__ import annotations

import pytest
import torch
from network_cases import CASES, collate
from torch import Tensor

from trainer.networks import PerLayerLinear
from trainer.networks.eight_bits import RoundedStates

# A row's largest state is about four times the usual one: rounding to 127 steps below it is wrong
# by 1 % of the usual state, and the rounded weights bring as much again.
RELATIVE_ERROR = 0.02


def states(num_rows: int = 300, width: int = 96) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_rows, width, generator=generator)


def relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def test_both_products_are_those_of_float32_up_to_the_rounding() -> None:
    states_ND, weight_RD, grad_NR = states(), states(40, 96), states(300, 40)

    rounded = RoundedStates.of(states_ND.clone())

    assert relative_error(rounded.times(weight_RD), states_ND @ weight_RD.T) < RELATIVE_ERROR
    gradient = rounded.weight_gradient(grad_NR)
    assert relative_error(gradient, grad_NR.T @ states_ND) < RELATIVE_ERROR


def test_a_place_that_is_always_large_does_not_drown_the_others() -> None:
    """GPT-2 and others have places a hundred times as large as the rest, in every token."""
    states_ND, weight_RD = states(), states(40, 96)
    states_ND[:, 7] *= 100
    weight_RD[:, 7] = 0

    product_NR = RoundedStates.of(states_ND.clone()).times(weight_RD)

    # With one scale for a whole row the other places keep only two or three steps: 0.2.
    assert relative_error(product_NR, states_ND @ weight_RD.T) < 0.06


def test_rows_and_places_of_zeros_stay_zero() -> None:
    states_ND = states()
    states_ND[3] = 0
    states_ND[:, 5] = 0

    product_NR = RoundedStates.of(states_ND.clone()).times(states(40, 96))

    assert product_NR.isfinite().all()
    assert product_NR[3].eq(0).all()


def test_sums_over_more_rows_than_32_bits_hold_do_not_wrap_around() -> None:
    num_rows = 2**18
    rounded = RoundedStates.of(torch.ones(num_rows, 8))

    gradient_RD = rounded.weight_gradient(torch.ones(num_rows, 8))

    torch.testing.assert_close(gradient_RD, torch.full((8, 8), float(num_rows)))


@pytest.mark.parametrize("name", ["vse-text", "clip4clip frames", "mdetr", "lst"])
def test_gradients_of_a_training_step_point_where_the_exact_ones_do(name: str) -> None:
    case = CASES[name]
    network, batch = case.network(), collate(case.samples([9, 14, 12, 7]))
    reductions = [m for m in network.modules() if isinstance(m, PerLayerLinear)]
    found = []
    for eight_bits in (False, True):
        for reduction in reductions:
            reduction.eight_bits = eight_bits
        rows = network.train()(batch).rows
        cotangent = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1))
        gradients = torch.autograd.grad((rows * cotangent).sum(), list(network.parameters()))
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))

    cosine = torch.cosine_similarity(*found, dim=0)
    assert not torch.equal(*found)
    assert cosine > 0.95


def test_evaluation_is_exact() -> None:
    case = CASES["vse-text"]
    network, batch = case.network().eval(), collate(case.samples([9, 14]))
    exact = network(batch).rows

    for module in network.modules():
        if isinstance(module, PerLayerLinear):
            module.eight_bits = True

    assert torch.equal(network(batch).rows, exact)
